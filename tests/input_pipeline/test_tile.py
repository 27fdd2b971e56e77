"""Tiles: what a network sees of prompts and of training images, where objects are small."""

import numpy as np
import pytest

from ldis_jax.input_pipeline import Episode, TrainEpisodes, network_arrays, prompt_arrays
from ldis_jax.input_pipeline.transforms import crop_prompt, random_tile, tile_side


def image_of(mask):
    """Rows and columns as colours, so that a crop says where it is from."""
    rows, columns = np.indices(mask.shape)
    return np.stack([rows, columns, mask], -1).astype(np.uint8)


def place_of(image):
    return int(image[0, 0, 0]), int(image[0, 0, 1])


def test_crop_prompt_of_the_whole_image_changes_nothing():
    mask = np.eye(9, dtype=np.uint8)
    image = image_of(mask)
    cropped, its = crop_prompt(image, mask, 1.0)
    assert cropped is image and its is mask


@pytest.mark.parametrize(("top", "left"), [(50, 90), (0, 0), (92, 192)])
def test_crop_prompt_has_a_small_object_in_its_middle(top, left):
    mask = np.zeros((100, 200), np.uint8)
    mask[top : top + 8, left : left + 8] = 1
    image, cropped = crop_prompt(image_of(mask), mask, 0.2)
    assert cropped.shape == (40, 40) and cropped.sum() == 64
    expected = np.clip([top + 4 - 20, left + 4 - 20], 0, [60, 160])
    assert np.abs(np.array(place_of(image)) - expected).max() <= 1


def test_crop_prompt_shows_the_densest_of_many_and_some_of_the_rest():
    mask = np.zeros((100, 200), np.uint8)
    mask[10:20, 10:20] = mask[70:80, 150:160] = mask[70:80, 170:180] = 1
    image, cropped = crop_prompt(image_of(mask), mask, 0.2)
    assert cropped.sum() == 200 and place_of(image)[0] >= 40
    mask[:] = 255
    mask[20:90, 20:180] = 1  # an object larger than the square
    _, cropped = crop_prompt(image_of(mask), mask, 0.2)
    assert (cropped == 1).mean() == pytest.approx(0.75, abs=0.01)


def test_tile_side_is_a_share_of_the_long_side():
    assert [tile_side(*size, 0.25) for size in ((100, 200), (4000, 3000), (20, 20))] == [50, 1000, 16]


def test_random_tile_holds_the_object_four_times_in_five():
    mask = np.zeros((60, 300), np.uint8)
    mask[5:8, 280:290] = 1
    image, held = image_of(mask), 0
    for i in range(300):
        rng = np.random.default_rng(i)
        tile, its = random_tile(image, mask, 32, rng, 0.3)
        assert tile.shape == (21, 32, 3) and its.shape == (21, 32)  # the image is lower than the square is wide
        held += (its == 1).any()
    assert 0.75 < held / 300 < 0.9
    first, again = (random_tile(image, mask, 32, np.random.default_rng(5), 0.3) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])


class One:
    num_images = 1

    def __init__(self, augment):
        mask = np.zeros((80, 120), np.uint8)
        mask[30:40, 90:100] = 1
        image = image_of(mask)
        self.episode = Episode(image, mask, (image,), (mask,), 1, "object", "name", augment=augment)

    def draw(self, rng, num_shots):
        return self.episode


@pytest.mark.parametrize("augment", [True, False])
def test_train_episodes_show_tiles_whose_prompts_hold_the_object(augment):
    episodes = TrainEpisodes(One(augment), 1, 32, seed=0, length=40, tile=0.25)
    drawn = [episodes[i] for i in range(40)]
    assert all((arrays["prompt_masks"] == 1).any() and arrays["query_image"].shape == (32, 32, 3) for arrays in drawn)
    shown = [(arrays["query_mask"] == 1).sum() for arrays in drawn]
    assert max(shown) > 80 and min(shown) == 0  # a tenth of the tile and more, and background alone
    if not augment:  # colours are those of the image
        values = np.round(127.5 * drawn[0]["query_image"][..., :2] + 127.5)
        assert values[..., 0].max() < 80 and values[..., 1].max() < 120


def test_prompt_arrays_are_cropped_and_the_query_is_not():
    episode = One(True).episode
    whole, tiled = network_arrays(episode, 32), network_arrays(episode, 32, 0.25)
    np.testing.assert_array_equal(whole["query_image"], tiled["query_image"])
    assert (tiled["prompt_masks"] == 1).sum() > 9 * (whole["prompt_masks"] == 1).sum()
    np.testing.assert_array_equal(prompt_arrays(episode, 32, 0.25)["prompt_images"], tiled["prompt_images"])
