"""Legends: names beside their colours, on images of any size."""

import numpy as np
import pytest

from ldis_jax.media.legends import Legend
from ldis_jax.media.overlays import label_colour

NAMES = {1: "limb", 2: "trunk"}


def legend_of(names, labels, grey=100):
    """Where a legend lies (top, bottom, left, right), and its pixels."""
    picture = np.full((*labels.shape, 3), grey, np.uint8)
    drawn = Legend(names, labels).draw(picture)
    assert drawn.shape == picture.shape and (picture == grey).all(), "the image that is given stays as it is"
    rows, columns = np.nonzero((drawn != picture).any(-1))
    box = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1), box


def has_colour(box, label):
    return (box == label_colour(label)).all(-1).sum() > 20


@pytest.mark.parametrize("shape", [(128, 72), (128, 128), (480, 640), (2160, 3840), (64, 3000)])
def test_legend_is_of_a_size_to_be_read_and_leaves_most_of_the_image(shape):
    (top, bottom, left, right), box = legend_of(NAMES, np.zeros(shape, np.uint8))
    assert (top, left) == (0, 0)
    assert bottom - top >= 2 * 10 and bottom - top <= shape[0] / 2
    assert 30 <= right - left <= 0.9 * shape[1]
    assert (bottom - top) * (right - left) < 0.25 * np.prod(shape)
    assert has_colour(box, 1) and has_colour(box, 2)
    assert (box[:, 20:].min(-1) > 200).sum() > 50, "white letters"


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_legend_lies_where_nothing_is_labelled(corner):
    labels = np.full((200, 300), 2, np.uint8)
    rows, columns = ((slice(0, 60), slice(-60, None))[i] for i in corner)
    labels[rows, columns] = 255 if corner == (1, 1) else 0
    (top, bottom, left, right), _ = legend_of(NAMES, labels)
    assert (bottom == 200, right == 300) == tuple(map(bool, corner))
    assert bottom - top <= 60 and right - left <= 60


@pytest.mark.parametrize("names", [{}, NAMES])
def test_legend_leaves_the_image_as_it_is_without_names_or_room(names):
    for shape in [(63, 500), (20, 20), (1, 1)] if names else [(200, 200)]:
        picture = np.zeros((*shape, 3), np.uint8)
        np.testing.assert_array_equal(Legend(names, np.zeros(shape, np.uint8)).draw(picture), picture)


def test_legend_of_many_names_has_smaller_letters_columns_and_then_a_count():
    many = {i: f"class_{i:02}" for i in range(1, 19)}
    (_, bottom, _, right), box = legend_of(many, np.zeros((512, 512), np.uint8))
    assert bottom <= 256 and right < 461 and all(has_colour(box, i) for i in many)
    (_, bottom, _, _), box = legend_of(many, np.zeros((96, 96), np.uint8))
    assert bottom <= 48 and has_colour(box, 1) and not has_colour(box, 18)


def test_legend_shortens_long_names():
    (_, _, _, right), _ = legend_of({1: "x" * 5000, 2: "y"}, np.zeros((128, 128), np.uint8))
    assert 80 < right <= 0.9 * 128


def test_legend_draws_letters_of_other_alphabets():
    words = [
        legend_of({1: name}, np.zeros((100, 100), np.uint8))[1] for name in ("хвоя", "φύλλο", "tête", "\ufffe" * 4)
    ]
    assert len({word.tobytes() for word in words}) == 4


def test_legend_stays_in_its_place_on_every_image():
    labels = np.zeros((120, 160), np.uint8)
    labels[:60, :80] = 1
    legend = Legend(NAMES, labels)
    first, second = (legend.draw(np.full((120, 160, 3), grey, np.uint8)) for grey in (0, 200))
    assert (first[:60, :80] == 0).all() and (second[:60, :80] == 200).all()
    np.testing.assert_array_equal((first != 0).any(-1), (second != 200).any(-1))
