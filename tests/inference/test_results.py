"""What a prediction of several classes shows and keeps."""

import numpy as np
import pytest
from PIL import Image

from ldis_jax.inference.results import ClassSegmentation
from ldis_jax.media.legends import Legend
from ldis_jax.media.overlays import LABEL_COLOURS, overlay_labels

QUERY = np.full((90, 120, 3), 90, np.uint8)
LABELS = np.zeros((90, 120), np.uint8)
LABELS[40:60, 50:90], LABELS[70:85, 60:90] = 1, 3


def segmentation(*names):
    return ClassSegmentation(np.minimum(LABELS, len(names)), np.zeros((len(names) + 1, 90, 120), np.float32), names)


def test_of_several_classes_those_found_are_named():
    found = segmentation("cat", "dog", "cow").overlay(QUERY)
    expected = Legend({1: "cat", 3: "cow"}, LABELS).draw(overlay_labels(QUERY, LABELS))
    np.testing.assert_array_equal(found, expected)
    assert (found[:35] != QUERY[:35]).any(), "a legend above the objects"


def test_one_class_needs_no_name():
    np.testing.assert_array_equal(segmentation("cat").overlay(QUERY), overlay_labels(QUERY, LABELS > 0))


@pytest.mark.parametrize("names", [("cat", "dog", "cow"), ("cat",)])
def test_a_label_map_is_kept_in_the_colours_of_its_overlay(tmp_path, names):
    result = segmentation(*names)
    result.save(tmp_path / "labels.png")
    image = Image.open(tmp_path / "labels.png")
    np.testing.assert_array_equal(np.asarray(image), result.label_map)
    colours = np.concatenate([np.zeros((1, 3), np.uint8), LABEL_COLOURS])
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[result.label_map])
