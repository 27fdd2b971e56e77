import json

import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.evaluators import VSPWMetrics, video_consistency
from ldis_jax.media.masks import read_label_map
from tests.helpers import SHARED

CAMVID = SHARED / "camvid_vspw"


def column(*labels):
    """A video of one pixel."""
    return np.array(labels, np.uint8)[:, None, None]


def videos(seed, num_frames=9, num_labels=3):
    """Labels that mostly stay, and 255; uint8 [T, 5, 6]."""
    rng = np.random.default_rng(seed)
    pair = []
    for values in (np.arange(num_labels), np.append(np.arange(num_labels), 255)):
        video = rng.choice(values, (num_frames, 5, 6)).astype(np.uint8)
        for t in range(1, num_frames):
            video[t] = np.where(rng.random(video[t].shape) < 0.8, video[t - 1], video[t])
        pair.append(video)
    return pair


def slow_shares(pred, truth, n, rules):
    """The share of each window by the words of the definition, pixel by pixel."""
    shares = []
    for start in range(len(truth) - n + (rules == "all_windows")):
        stable = kept = 0
        for y, x in np.ndindex(truth.shape[1:]):
            labels = set(truth[start : start + n, y, x].tolist())
            if len(labels) == 1 and not (rules == "all_windows" and labels == {255}):
                stable += 1
                kept += len(set(pred[start : start + n, y, x].tolist())) == 1
        if stable:
            shares.append(kept / stable)
    return shares


def test_video_consistency_by_hand():
    truth = np.concatenate([column(1, 1, 1, 2), column(3, 3, 3, 3)], axis=2)
    pred = np.concatenate([column(5, 5, 6, 6), column(0, 0, 0, 7)], axis=2)
    # Windows of 2: both stay, both stay; the left leaves; only the right is stable, and leaves.
    assert video_consistency(pred, truth, 2) == np.mean([1.0, 0.5, 0.0])
    assert video_consistency(pred, truth, 2, rules="vspw_code") == np.mean([1.0, 0.5])
    assert video_consistency(pred, truth, 3) == np.mean([0.5, 0.0])
    assert video_consistency(pred, truth, 4) == 0.0
    assert isinstance(video_consistency(pred, truth, 2), float)


def test_video_consistency_counts_void_only_in_the_public_code():
    truth = np.concatenate([column(255, 255, 255), column(1, 1, 1)], axis=2)
    pred = np.concatenate([column(1, 2, 3), column(1, 1, 1)], axis=2)
    assert video_consistency(pred, truth, 2) == 1.0
    assert video_consistency(pred, truth, 2, rules="vspw_code") == 0.5
    # A window is left out where void covers any of it, and counts again once it has passed.
    assert video_consistency(column(1, 2, 3, 4, 4), column(9, 9, 255, 9, 9), 2) == np.mean([0.0, 1.0])


@pytest.mark.parametrize("rules", ["all_windows", "vspw_code"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_video_consistency_is_the_definition_pixel_by_pixel(n, rules):
    for seed in range(3):
        pred, truth = videos(seed)
        expected = slow_shares(pred, truth, n, rules)
        assert video_consistency(pred, truth, n, rules=rules) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_video_consistency_is_one_on_the_truth_and_blind_to_label_values(dtype):
    pred, truth = (video.astype(dtype) for video in videos(3))
    for n in (1, 2, 4):
        assert 0 <= video_consistency(pred, truth, n) <= 1
        assert video_consistency(truth, truth, n) == 1.0
        assert video_consistency(np.full_like(truth, 7), truth, n) == 1.0
        assert video_consistency((pred + 1) % 3, truth, n) == video_consistency(pred, truth, n)
    flicker = np.broadcast_to(np.arange(len(truth), dtype=dtype)[:, None, None], truth.shape)
    assert video_consistency(flicker, truth, 2) == 0.0
    assert video_consistency(pred, truth, 1) == 1.0


def test_video_consistency_refuses_windows_that_do_not_exist():
    one = column(1)
    assert video_consistency(one, one, 1) == 1.0
    for pred, n, rules in ((one, 2, "all_windows"), (one, 1, "vspw_code"), (column(*[1] * 8), 8, "vspw_code")):
        with pytest.raises(LDISError, match=f"VC{n}: no window of {n} frames"):
            video_consistency(pred, pred, n, rules=rules)
    with pytest.raises(LDISError, match="VC2: no window"):
        video_consistency(column(1, 1), column(1, 2), 2)
    with pytest.raises(LDISError, match="VC2: no window"):
        video_consistency(column(1, 1), column(255, 255), 2)
    with pytest.raises(LDISError, match="VC1: no window"):
        video_consistency(column(1, 1), column(255, 255), 1)


@pytest.mark.parametrize("rules", ["all_windows", "vspw_code"])
def test_vspw_metrics_accumulate_windows_and_areas_over_videos(rules):
    metric = VSPWMetrics((2, 4), rules=rules)
    shares, inter, union, seen = {2: [], 4: []}, np.zeros(256), np.zeros(256), set()
    for seed, num_frames in ((0, 3), (1, 7), (2, 12)):
        pred, truth = videos(seed, num_frames)
        pred[pred == 2] = 255 if seed else 40  # labels that no truth has
        metric.update(f"video {seed}", pred, truth)
        for n in shares:
            shares[n] += slow_shares(pred, truth, n, rules)
        for p, t in zip(pred.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if t != 255:
                inter[t] += p == t
                union[t] += 1
                union[p] += p != t
                seen.add(t)
    result = metric.result()
    per_class = {label: 100 * inter[label] / union[label] for label in sorted(seen)}
    assert [*result] == ["miou", "vc2", "vc4", "iou_per_class"]
    assert result["iou_per_class"] == pytest.approx(per_class)
    assert result["miou"] == pytest.approx(np.mean([*per_class.values()]))
    for n, values in shares.items():
        assert result[f"vc{n}"] == pytest.approx(100 * np.mean(values))


def test_vspw_metrics_of_a_perfect_prediction_are_a_hundred():
    _, truth = videos(4, num_frames=17)
    metric = VSPWMetrics()
    metric.update("a", truth, truth)
    result = metric.result()
    assert (result["miou"], result["vc8"], result["vc16"]) == (100.0, 100.0, 100.0)


def test_vspw_metrics_add_state_is_update_in_any_order():
    whole, parts = VSPWMetrics((2, 3)), [VSPWMetrics((2, 3)) for _ in range(3)]
    for seed in range(30):
        whole.update(str(seed), *videos(seed))
    for seed in reversed(range(30)):
        parts[seed % 3].update(str(seed), *videos(seed))
    parts[2].add_state(json.loads(json.dumps(parts[0].state())))
    parts[2].add_state(parts[1].state())
    assert parts[2].result() == whole.result()
    with pytest.raises(LDISError, match="video '0': added twice"):
        parts[2].add_state(parts[0].state())
    assert parts[2].result() == whole.result()


def test_video_consistency_and_vspw_metrics_reject_bad_input_in_one_line():
    labels = np.ones((3, 4, 5), np.uint8)
    for pred, truth, match in (
        (labels[0], labels[0], r"pred is uint8 \(4, 5\)"),
        (labels, labels.astype(np.float32), "truth float32"),
        (labels[:0], labels[:0], "not empty"),
        (labels, labels[:2], "of one size"),
    ):
        with pytest.raises(LDISError, match=match) as error:
            video_consistency(pred, truth, 2)
        assert "\n" not in str(error.value)
    for n in (0, -1, 2.0):
        with pytest.raises(LDISError, match="n="):
            video_consistency(labels, labels, n)
    with pytest.raises(LDISError, match="rules='vspw'"):
        video_consistency(labels, labels, 2, rules="vspw")
    with pytest.raises(LDISError, match="rules='vspw'"):
        VSPWMetrics(rules="vspw")
    metric = VSPWMetrics()
    with pytest.raises(LDISError, match="no labelled pixels"):
        metric.result()
    with pytest.raises(LDISError, match=r"video 'a': pred .* of one size"):
        metric.update("a", labels, labels[1:])
    for label in (-1, 256):
        with pytest.raises(LDISError, match=f"video 'a': has labels {min(label, 1)}..{max(label, 1)}"):
            metric.update("a", np.full(labels.shape, label), labels)
    metric.update("a", labels, labels)
    with pytest.raises(LDISError, match="video 'a': added twice"):
        metric.update("a", labels, labels)
    with pytest.raises(LDISError, match="VC8: no window of 8 frames"):
        metric.result()
    assert metric.result(allow_missing=True) == {"miou": 100.0, "vc8": None, "vc16": None, "iou_per_class": {1: 100.0}}


@pytest.mark.skipif(not CAMVID.is_dir(), reason="shared data are not here")
def test_vspw_metrics_of_camvid_equal_the_figures_of_the_public_code():
    oracle = json.loads((CAMVID / "oracle_vc.json").read_text())
    folder = CAMVID / "data" / oracle["video"] / "mask"
    truth = np.stack([read_label_map(path) for path in sorted(folder.iterdir())])
    flipped, shifted = truth.copy(), truth.copy()
    flipped[1::2] = truth[1::2, :, ::-1]
    for i, frame in enumerate(truth):
        shifted[i] = np.roll(frame, 5 * i % 7, axis=1)
    predictions = {
        "gt": truth,
        "previous_frame_gt": truth[[0, *range(len(truth) - 1)]],
        "gt_flipped_lr_on_odd_frames": flipped,
        "gt_shifted_right_by_(5*i_mod_7)_pixels_np_roll": shifted,
    }
    assert predictions.keys() == oracle["predictions"].keys()
    for name, pred in predictions.items():
        metric = VSPWMetrics(rules="vspw_code")
        metric.update(oracle["video"], pred, truth)
        result = metric.result()
        for n in (8, 16):
            expected = oracle["predictions"][name][f"VC{n}"]["mean_nan_skipped"]
            assert result[f"vc{n}"] / 100 == pytest.approx(expected, abs=6e-7), (name, n)
