"""What a prediction of several classes shows and keeps."""

import numpy as np
import pytest
from PIL import Image

from ldis_jax.inference.results import ClassSegmentation, read_scores
from ldis_jax.media.legends import Legend
from ldis_jax.media.overlays import LABEL_COLOURS, overlay_labels
from ldis_jax.tasks.confidence import Confidence

QUERY = np.full((90, 120, 3), 90, np.uint8)
LABELS = np.zeros((90, 120), np.uint8)
LABELS[40:60, 50:90], LABELS[70:85, 60:90] = 1, 3


def segmentation(*names):
    probabilities = np.zeros((len(names) + 1, 90, 120), np.float32)
    return ClassSegmentation(np.minimum(LABELS, len(names)), probabilities, names, (0.5,) * len(names), False)


def test_class_segmentation_overlay_names_those_of_several_classes_found():
    found = segmentation("cat", "dog", "cow").overlay(QUERY)
    expected = Legend({1: "cat", 3: "cow"}, LABELS).draw(overlay_labels(QUERY, LABELS))
    np.testing.assert_array_equal(found, expected)
    assert (found[:35] != QUERY[:35]).any(), "a legend above the objects"


def test_class_segmentation_overlay_of_one_class_needs_no_name():
    np.testing.assert_array_equal(segmentation("cat").overlay(QUERY), overlay_labels(QUERY, LABELS > 0))


@pytest.mark.parametrize("names", [("cat", "dog", "cow"), ("cat",)])
def test_class_segmentation_save_keeps_the_colours_of_its_overlay(tmp_path, names):
    result = segmentation(*names)
    result.save(tmp_path / "labels.png")
    image = Image.open(tmp_path / "labels.png")
    np.testing.assert_array_equal(np.asarray(image), result.label_map)
    colours = np.concatenate([np.zeros((1, 3), np.uint8), LABEL_COLOURS])
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[result.label_map])


def test_class_segmentation_gives_no_pixel_to_a_class_that_is_not_there(tmp_path):
    logits = np.full((2, 90, 120), -2.0, np.float32)
    logits[0, 40:60, 50:90] = 2.0
    logits[1, 30:50, 50:90] = 0.3  # where the first is too, it is weaker
    found = ClassSegmentation.of_logits(logits, ("cat", "dog"), Confidence())
    sure, unsure = found.scores
    assert sure > 0.9 and unsure < 0.7 and set(np.unique(found.label_map)) == {0, 1, 2}
    without = ClassSegmentation.of_logits(logits, ("cat", "dog"), Confidence(), min_score=0.8)
    np.testing.assert_array_equal(without.label_map, logits[0] > 0)
    np.testing.assert_array_equal(without.probabilities, found.probabilities)
    assert without.scores == found.scores
    without.save(tmp_path / "labels.png")
    assert read_scores(tmp_path / "labels.png") == pytest.approx(found.scores, abs=1e-4)


def test_read_scores_gives_none_for_a_file_without_scores(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "foreign.png")
    (tmp_path / "broken.png").write_bytes(b"no png")
    for name in ("foreign.png", "broken.png", "missing.png"):
        assert read_scores(tmp_path / name) is None
