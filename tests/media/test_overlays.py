"""Contact sheets and the colours of labels."""

import itertools

import cv2
import numpy as np

from ldis_jax.media.overlays import contact_sheet, label_colour, overlay_labels

RED = (255, 0, 0)


def bands(sheet):
    """(kind, first row, last row) of the sheet's rows of pixels from top to bottom: tiles are red, text is black."""
    kinds = np.where((sheet == RED).all(-1).any(1), "tile", np.where((sheet.max(-1) < 128).any(1), "text", ""))
    edges = [0, *np.flatnonzero(kinds[1:] != kinds[:-1]) + 1, len(kinds)]
    return [(str(kinds[a]), a, b - 1) for a, b in itertools.pairwise(edges) if kinds[a]]


def test_contact_sheet_puts_a_label_above_its_row_and_nearest_to_it():
    tile = np.full((40, 40, 3), RED, np.uint8)
    found = bands(contact_sheet([[tile, tile], [tile, tile]], ["HH", "HH"], ["HHH", "HHH"]))
    assert [kind for kind, *_ in found] == ["text", "text", "tile", "text", "tile"]
    first, label, second = found[2:]
    assert label[1] - first[2] > 2 * (second[1] - label[2])


def test_contact_sheet_gives_an_empty_label_no_line():
    tile = np.full((40, 40, 3), RED, np.uint8)
    with_label, without = (contact_sheet([[tile]], ["HH"], [label]) for label in ("HHH", ""))
    assert without.shape[0] < with_label.shape[0]


def test_label_colour_has_21_colours_that_differ():
    colours = np.array([label_colour(label) for label in range(1, 22)], np.float32)
    lab = cv2.cvtColor(colours[None] / 255, cv2.COLOR_RGB2Lab)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[~np.eye(21, dtype=bool)]
    assert distances.min() > 25 and label_colour(22) == label_colour(1)


def test_overlay_labels_outline_of_a_thin_thing_shows_which_it_is():
    labels = np.zeros((100, 100), np.uint8)
    labels[20, 10:90], labels[60, 10:90] = 1, 9
    image = overlay_labels(np.full((100, 100, 3), 128, np.uint8), labels)
    for row, label in ((20, 1), (60, 9)):
        assert tuple(image[row, 50]) == label_colour(label)
