import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.input_pipeline import ProceduralScenes, episode_rng, make_source
from ldis_jax.input_pipeline.procedural import (
    COLOURS,
    NUM_CLASSES,
    PATTERNS,
    SHAPES,
    attributes,
    class_name,
    split_classes,
)
from ldis_jax.recipes.data import procedural_source


def test_split_classes_are_disjoint_and_every_attribute_is_in_both():
    train, unseen = set(split_classes("train")), set(split_classes("unseen"))
    assert not train & unseen and train | unseen == set(range(1, NUM_CLASSES + 1))
    assert len(unseen) == NUM_CLASSES // 5
    for split in (train, unseen):
        for axis, values in enumerate((SHAPES, COLOURS, PATTERNS)):
            assert {attributes(c)[axis] for c in split} == set(range(len(values)))
    assert len({class_name(c) for c in train | unseen}) == NUM_CLASSES


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_procedural_scenes_show_their_class_and_only_classes_of_the_split(split):
    scenes = ProceduralScenes(split, 48)
    allowed = set(split_classes(split))
    for i in range(20):
        episode = scenes.draw(episode_rng(0, i), 3)
        assert episode.class_id in allowed and len(episode.prompt_masks) == 3
        assert all((mask == 1).any() for mask in (episode.query_mask, *episode.prompt_masks))
        _, labels = scenes.scene(episode_rng(1, i), scenes._with_distractors(episode_rng(2, i), episode.class_id))
        found = set(np.unique(labels).tolist()) - {0}
        assert episode.class_id in found and found <= allowed and 2 <= len(found) <= 4


def test_procedural_scenes_give_the_same_episode_for_the_same_index():
    scenes = ProceduralScenes("train", 48)
    one, again, other = (scenes.draw(episode_rng(7, i), 1) for i in (5, 5, 6))
    np.testing.assert_array_equal(one.query_image, again.query_image)
    np.testing.assert_array_equal(one.prompt_masks[0], again.prompt_masks[0])
    assert not np.array_equal(one.query_image, other.query_image)


def test_procedural_scenes_reject_bad_input():
    with pytest.raises(LDISError, match="scenes: kind='procedural' of split 'val': must be"):
        make_source({"scenes": procedural_source("val")}, 32)
    with pytest.raises(LDISError, match="do not fit"):
        ProceduralScenes("train", 32, num_objects=(60, 60)).draw(episode_rng(0, 0), 1)
