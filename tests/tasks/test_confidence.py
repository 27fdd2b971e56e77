"""Scores of masks: the expected IoU in closed form, its calibration, and what a model folder keeps of it."""

import json

import numpy as np
import pytest

from ldis_jax.errors import LDISError
from ldis_jax.tasks import LDIS1, task_from_dict
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence, iou_of, measure


def blob(value, size=(64, 80), background=-2.0):
    """Logits of one rectangle."""
    logits = np.full(size, background, np.float32)
    logits[20:40, 10:50] = value
    return logits


def test_score_is_the_mean_iou_over_independent_pixels():
    rng = np.random.default_rng(0)
    logits = rng.normal(0.3, 1.0, (40, 50)).astype(np.float32)
    mask, probability = logits > 0, 1 / (1 + np.exp(-2 * logits))
    truths = (rng.random((2000, 40, 50)) < probability).astype(np.uint8)
    assert Confidence(sharpness=2.0).score(logits) == pytest.approx(
        np.mean([iou_of(mask, t) for t in truths]), abs=2e-3
    )


def test_score_is_greater_where_the_network_is_surer_and_0_of_an_empty_mask():
    scores = [NOT_CALIBRATED.score(blob(value)) for value in (-0.1, 0.1, 0.5, 1.0, 2.0)]
    assert scores[0] == 0.0 and all(np.diff(scores) > 0) and 0.9 < scores[-1] < 1


def test_score_of_a_large_image_is_that_of_a_small_one():
    small = blob(1.0)
    large = np.repeat(np.repeat(small, 24, axis=0), 24, axis=1)
    assert NOT_CALIBRATED.score(large) == pytest.approx(NOT_CALIBRATED.score(small), rel=0.02)


def test_score_sees_objects_between_the_rows_that_count():
    logits = np.full((2000, 2000), -2.0, np.float32)
    logits[1001, 1001] = 2.0
    assert NOT_CALIBRATED.score(logits) > 0


def test_decide_empties_masks_below_the_score():
    logits = blob(0.2)
    confidence = Confidence(min_score=0.9)
    mask, score = confidence.decide(logits)
    assert not mask.any() and 0 < score < 0.9
    np.testing.assert_array_equal(confidence.decide(logits, 0)[0], logits > 0)
    np.testing.assert_array_equal(confidence.decide(blob(2.0))[0], blob(2.0) > 0)


@pytest.mark.parametrize("min_score", [-0.1, 1.1, float("nan"), "much", None])
def test_threshold_takes_a_min_score_from_0_to_1(min_score):
    if min_score is None:
        assert Confidence(min_score=0.4).threshold(None) == 0.4
    else:
        with pytest.raises(LDISError, match="min_score"):
            NOT_CALIBRATED.threshold(min_score)


def held_out(count, rng, *, absent=0.5):
    """Episodes whose network says more than it knows: the true IoU is half of what it expects, of absent objects 0."""
    episodes = []
    for _ in range(count):
        there = rng.random() >= absent
        logits = blob(rng.uniform(0.6, 2.0) if there else rng.uniform(0.05, 0.5))
        truth = np.zeros(logits.shape, np.uint8)
        if there:
            truth[20:40, 30:70] = 1  # shifted by half its width
        episodes.append((logits, truth))
    return episodes


def test_fit_makes_the_score_the_iou_that_was_measured():
    rng = np.random.default_rng(0)
    confidence = Confidence.fit([measure(*episode) for episode in held_out(200, rng)])
    others = held_out(200, rng)
    scores = np.array([confidence.score(logits) for logits, _ in others])
    ious = np.array([iou_of(logits > 0, truth) for logits, truth in others])
    assert confidence.is_calibrated and confidence.episodes == 200
    assert abs(scores[ious > 0].mean() - 1 / 3) < 0.05 and scores[ious == 0].mean() < 0.05
    kept = np.array([confidence.decide(logits)[0].any() for logits, _ in others])
    assert kept[ious > 0].mean() > 0.95 and kept[ious == 0].mean() < 0.05


def test_fit_without_absent_objects_keeps_every_mask():
    confidence = Confidence.fit([measure(*episode) for episode in held_out(50, np.random.default_rng(1), absent=0.0)])
    assert confidence.is_calibrated and confidence.min_score == 0


def test_fit_to_few_episodes_trusts_them_little():
    confidence = Confidence.fit([measure(blob(2.0), (blob(2.0) > 0).astype(np.uint8))])
    assert confidence.score(blob(2.0)) > 0.8 and 0.2 < confidence.score(blob(0.05)) < 0.7


@pytest.mark.parametrize("seed", range(20))
def test_fit_of_whatever_was_measured_is_one(seed):
    rng = np.random.default_rng(seed)
    episodes = [
        (
            rng.normal(0, 1, (8, 8)).astype(np.float32),
            rng.integers(0, 2, (8, 8)).astype(np.uint8) * (rng.random() < 0.5),
        )
        for _ in range(rng.integers(1, 40))
    ]
    confidence = Confidence.fit([measure(logits, np.uint8(truth)) for logits, truth in episodes])
    assert 0 <= confidence.score(episodes[0][0]) <= 1 and 0 <= confidence.min_score < 1


def test_confidence_survives_its_file_and_is_left_out_where_it_is_the_default():
    confidence = Confidence(2.0, (0.0, 0.5, 1.0), (0.1, 0.2, 0.9), 0.3, 64)
    task = LDIS1(confidence=confidence)
    assert task_from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert "confidence" not in LDIS1().to_dict() and hash(task) != hash(LDIS1())


@pytest.mark.parametrize(
    "values",
    [
        {"expected": [0.0, 1.0]},
        {"expected": [0.0, 1.0], "iou": [1.0, 0.0]},
        {"expected": [0.5], "iou": [0.5]},
        {"expected": [0.0, 2.0], "iou": [0.0, 1.0]},
        {"min_score": 2.0},
        {"sharpness": 0.0},
        {"sharpness": "much"},
        {"threshold": 0.5},
        [],
    ],
)
def test_task_from_dict_rejects_a_bad_confidence(values):
    with pytest.raises(LDISError, match=r"FILE.*confidence"):
        task_from_dict(LDIS1().to_dict() | {"confidence": values}, "FILE")
