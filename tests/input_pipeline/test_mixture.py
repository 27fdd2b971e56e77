import collections

import numpy as np
import pytest

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import Episode, TrainEpisodes, episode_rng
from ldis_jax.input_pipeline.sources import MixtureSource


class Flat:
    def __init__(self, name, num_images):
        self.name, self.num_images = name, num_images

    def draw(self, rng, num_shots):
        image, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
        return Episode(image, mask, (image,) * num_shots, (mask,) * num_shots, 1, "flat", self.name)


def test_mixture_source_weights_are_per_image():
    mixture = MixtureSource([Flat("small", 10), Flat("large", 90), Flat("never", 50)], [0.9, 0.1, 0.0])
    np.testing.assert_allclose(mixture.probabilities, [0.5, 0.5, 0.0])
    assert mixture.num_images == 150
    drawn = collections.Counter(mixture.draw(episode_rng(0, i), 1).name for i in range(1000))
    assert drawn.keys() == {"small", "large"} and 420 < drawn["small"] < 580


def test_mixture_source_can_be_a_source_of_another_mixture():
    inner = MixtureSource([Flat("a", 1)], [1.0])
    arrays = TrainEpisodes(MixtureSource([inner, Flat("b", 3)], [2, 1]), 2, 16, 0, 1)[0]
    assert arrays["prompt_masks"].shape == (2, 16, 16)


@pytest.mark.parametrize("weights", [[], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_mixture_source_rejects_bad_weights(weights):
    with pytest.raises(LDISError, match=r"config\.data\.sources: weights"):
        MixtureSource([Flat("a", 1), Flat("b", 1)][: len(weights)], weights)
