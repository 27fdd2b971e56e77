import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.evaluators import MeanIoU


def episodes():
    rng = np.random.default_rng(0)
    for i in range(12):
        truth = rng.integers(0, 2, (7, 9)).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.1] = 255
        yield rng.random(truth.shape) < 0.5, truth, 1 + i % 3


def test_mean_iou_equals_sums_written_out():
    metric = MeanIoU("hsnet")
    inter, union = np.zeros((4, 2)), np.zeros((4, 2))
    for prediction, truth, class_id in episodes():
        metric.update(prediction, truth, class_id)
        for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
            for kind in (0, 1):
                if t != 255:
                    inter[class_id, kind] += p == t == kind
                    union[class_id, kind] += kind in (p, t)
    result = metric.result()
    per_class = 100 * inter[1:, 1] / union[1:, 1]
    assert result["miou"] == pytest.approx(per_class.mean())
    assert result["fb_iou"] == pytest.approx(100 * (inter.sum(0) / union.sum(0)).mean())
    assert result["iou_per_class"] == pytest.approx({c: per_class[c - 1] for c in (1, 2, 3)})


def test_mean_iou_merge_is_update_in_any_order():
    whole, parts = MeanIoU(), [MeanIoU(), MeanIoU()]
    for i, episode in enumerate(episodes()):
        whole.update(*episode)
        parts[i % 2].update(*episode)
    parts[1].merge(parts[0])
    assert parts[1].result() == whole.result()


def test_mean_iou_protocols_differ_in_a_class_nobody_shows():
    for protocol, expected in (("ldis", 100.0), ("hsnet", 50.0)):
        metric = MeanIoU(protocol)
        metric.update(np.ones((2, 2), bool), np.ones((2, 2), np.uint8), 1)
        metric.update(np.zeros((2, 2), bool), np.zeros((2, 2), np.uint8), 2)
        assert metric.result()["miou"] == expected


def test_mean_iou_rejects_bad_input():
    with pytest.raises(LDISError, match="no episodes"):
        MeanIoU().result()
    with pytest.raises(LDISError, match="protocol"):
        MeanIoU("coco")
    with pytest.raises(LDISError, match="differ in size"):
        MeanIoU().update(np.ones((2, 2), bool), np.ones((3, 2), np.uint8), 1)
