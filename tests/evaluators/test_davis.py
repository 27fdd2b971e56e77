import json

import numpy as np
import pytest

from ldis_jax import LDISError
from ldis_jax.evaluators import DavisMetrics, boundary_f, jaccard
from ldis_jax.evaluators.davis import mean_recall_decay
from ldis_jax.media.masks import read_label_map
from tests.helpers import SHARED

DAVIS = SHARED / "davis"


def blobs(seed, num_frames=6, height=17, width=23):
    """Rectangles with ragged edges, bool [T, H, W]; some touch the frame's border."""
    rng = np.random.default_rng(seed)
    videos = []
    for _ in range(2):
        video = np.zeros((num_frames, height, width), bool)
        for frame in video:
            y, x = rng.integers(-3, height - 5), rng.integers(-3, width - 5)
            frame[max(y, 0) : y + rng.integers(4, 12), max(x, 0) : x + rng.integers(4, 16)] = True
        videos.append(video ^ (rng.random(video.shape) < 0.02))
    return videos


def slow_f(pred, truth, radius):
    """F of one frame by the words of the definition, pixel by pixel."""

    def boundary(mask):
        height, width = mask.shape
        points = []
        for y in range(height):
            for x in range(width):
                around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                if any(mask[v, u] != mask[y, x] for v, u in around if v < height and u < width):
                    points.append((y, x))
        return points

    def share_near(points, others):
        return np.mean([any((y - v) ** 2 + (x - u) ** 2 <= radius**2 for v, u in others) for y, x in points])

    pred, truth = boundary(pred), boundary(truth)
    if not pred or not truth:
        return float(not pred and not truth)
    precision, recall = share_near(pred, truth), share_near(truth, pred)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def rectangle(top, left, bottom, right):
    mask = np.zeros((1, 20, 30), bool)
    mask[0, top:bottom, left:right] = True
    return mask


def test_jaccard_by_hand():
    truth = np.stack([rectangle(5, 5, 10, 15)[0], rectangle(0, 0, 0, 0)[0], rectangle(0, 0, 20, 30)[0]])
    pred = np.stack([rectangle(5, 10, 10, 20)[0], rectangle(0, 0, 0, 0)[0], rectangle(0, 0, 20, 15)[0]])
    values = jaccard(pred, truth)
    assert values.dtype == np.float64
    assert values.tolist() == [25 / 75, 1.0, 0.5]


def test_boundary_f_by_hand():
    truth = rectangle(5, 5, 10, 15)
    far = rectangle(5, 20, 10, 25)
    # A boundary pixel is one left of or above an edge: rows 4..9 and columns 4..14 but for 4 x 9 inside, 30 pixels.
    # Two columns wider, there are 34. The new right side, 6 pixels, is 2 from any true one; of the true right side
    # only the two in the middle are more than 1 from the predicted top and bottom.
    wider = rectangle(5, 5, 10, 17)
    precision, recall = 28 / 34, 28 / 30
    expected = 2 * precision * recall / (precision + recall)
    assert boundary_f(truth, truth).dtype == np.float64
    assert boundary_f(truth, truth).tolist() == [1.0]
    assert boundary_f(far, truth).tolist() == [0.0]
    assert boundary_f(wider, truth) == pytest.approx([expected])  # r = ceil(0.008 * 36.06) = 1
    assert boundary_f(wider, truth, tolerance=2).tolist() == [1.0]


@pytest.mark.parametrize("tolerance, radius", [(0.008, 1), (0.06, 2), (0, 0), (1, 1), (3, 3), (2.5, 3)])
def test_boundary_f_is_the_definition_pixel_by_pixel(tolerance, radius):
    pred, truth = blobs(seed=1)
    assert boundary_f(pred, truth, tolerance) == pytest.approx(
        [slow_f(p, t, radius) for p, t in zip(pred, truth, strict=True)], abs=1e-12
    )


def test_jaccard_and_boundary_f_of_masks_without_a_boundary():
    empty, full, some = np.zeros((1, 9, 9), bool), np.ones((1, 9, 9), bool), rectangle(3, 3, 6, 6)[:, :9, :9]
    for pred, truth, j, f in (
        (empty, empty, 1, 1),
        (full, full, 1, 1),
        (empty, full, 0, 1),  # the toolkits' F does not tell the two apart; J does
        (empty, some, 0, 0),
        (some, empty, 0, 0),
        (full, some, 9 / 81, 0),
    ):
        assert jaccard(pred, truth).tolist() == [j]
        assert boundary_f(pred, truth).tolist() == [f]


def test_jaccard_and_boundary_f_are_symmetric_and_one_on_the_truth():
    pred, truth = blobs(seed=2)
    for metric in (jaccard, boundary_f):
        values = metric(pred, truth)
        assert np.all((values >= 0) & (values <= 1))
        np.testing.assert_allclose(values, metric(truth, pred), rtol=0, atol=1e-15)
        assert metric(truth, truth).tolist() == [1.0] * len(truth)


def test_jaccard_and_boundary_f_do_not_depend_on_memory_layout():
    pred, truth = blobs(seed=3)
    scattered = np.asfortranarray(pred)[:, ::-1][:, ::-1]
    assert boundary_f(scattered, truth).tolist() == boundary_f(pred, truth).tolist()
    assert jaccard(scattered, truth).tolist() == jaccard(pred, truth).tolist()


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.4], (0.4, 0.0, 0.0)),
        ([1.0, 0.5], (0.75, 0.5, 0.5)),
        # Seven frames: the quarters end at frames 1, 2.5 -> 3, 4, 5.5 -> 6, 7, halves up.
        ([0.9, 0.6, 0.3, 0.5, 0.5, 0.2, 0.4], (3.4 / 7, 2 / 7, 0.6 - 0.3)),
        ([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], (3 / 9, 3 / 9, 1.0)),
    ],
)
def test_mean_recall_decay_by_hand(values, expected):
    assert mean_recall_decay(np.array(values)) == pytest.approx(expected)


def test_davis_metrics_are_means_over_sequences_in_percent():
    metric, expected = DavisMetrics(), []
    for seed, num_frames in ((4, 3), (5, 9), (6, 12)):
        pred, truth = blobs(seed, num_frames)
        metric.update(f"sequence {seed}", pred, truth)
        j = mean_recall_decay(jaccard(pred, truth)[1:-1])
        f = mean_recall_decay(boundary_f(pred, truth)[1:-1])
        expected.append([100 * x for x in (*j, *f, (j[0] + f[0]) / 2)])
    result = metric.result()
    names = ["j_mean", "j_recall", "j_decay", "f_mean", "f_recall", "f_decay", "j_and_f"]
    assert [*result] == [*names, "per_sequence"]
    assert [result[name] for name in names] == pytest.approx(np.mean(expected, axis=0).tolist())
    assert [[*figures.values()] for figures in result["per_sequence"].values()] == [
        pytest.approx(row) for row in expected
    ]
    assert [*result["per_sequence"]["sequence 4"]] == names


def test_davis_metrics_count_ends_only_where_asked():
    truth = np.stack([rectangle(5, 5, 10, 15)[0]] * 4)
    pred = truth.copy()
    pred[[0, -1]] = False
    for leave_out_ends, expected in ((True, 100.0), (False, 50.0)):
        metric = DavisMetrics(leave_out_ends=leave_out_ends)
        metric.update("a", pred, truth)
        assert metric.result()["j_and_f"] == expected
    metric.update("one frame", truth[:1], truth[:1])
    assert metric.result()["per_sequence"]["one frame"]["j_and_f"] == 100.0


def test_davis_metrics_do_not_depend_on_the_order_of_updates():
    one, other = DavisMetrics(), DavisMetrics()
    for seed in (9, 7, 8):
        one.update(str(seed), *blobs(seed))
    for seed in (7, 8, 9):
        other.update(str(seed), *blobs(seed))
    assert one.result() == other.result()


def test_davis_metrics_jaccard_and_boundary_f_reject_bad_input_in_one_line():
    mask = np.ones((3, 4, 5), bool)
    for metric in (jaccard, boundary_f):
        for pred, truth, match in (
            (mask[0], mask[0], r"pred is bool \(4, 5\)"),
            (mask, mask.astype(np.uint8), r"truth uint8 .*pass bool"),
            (mask[:, :0], mask[:, :0], "not empty"),
            (mask, mask[:2], r"pred is bool \(3, 4, 5\) and truth bool \(2, 4, 5\); .* of one size"),
            (mask[:, :, :4], mask, "of one size"),
        ):
            with pytest.raises(LDISError, match=match) as error:
                metric(pred, truth)
            assert "\n" not in str(error.value)
    scores = DavisMetrics()
    with pytest.raises(LDISError, match="no sequences"):
        scores.result()
    with pytest.raises(LDISError, match=r"pred .* of one size"):
        scores.update("dog", mask, mask[1:])
    with pytest.raises(LDISError, match=r"pred is bool \(0, 4, 5\) .* not empty"):
        scores.update("dog", mask[1:], mask[1:])
    scores.update("dog", mask, mask)
    with pytest.raises(LDISError, match="sequence 'dog': added twice"):
        scores.update("dog", mask, mask)


@pytest.mark.skipif(not DAVIS.is_dir(), reason="shared data are not here")
@pytest.mark.parametrize("sequence", ["car-shadow", "blackswan", "dog", "drift-straight"])
def test_davis_metrics_jaccard_and_boundary_f_of_osvos_equal_the_toolkits(sequence):
    # The toolkit's figures are written with six decimals.
    oracle = json.loads((DAVIS / "oracle_jf.json").read_text())["sequences"][sequence]
    pred, truth = (
        np.stack([read_label_map(path) == 1 for path in sorted((DAVIS / folder / "480p" / sequence).iterdir())])
        for folder in ("predictions_osvos", "Annotations")
    )
    np.testing.assert_allclose(jaccard(pred, truth), oracle["J_per_frame"], rtol=0, atol=6e-7)
    np.testing.assert_allclose(boundary_f(pred, truth), oracle["F_per_frame"], rtol=0, atol=6e-7)
    metric = DavisMetrics()
    metric.update(sequence, pred, truth)
    figures = np.array([*metric.result()["per_sequence"][sequence].values()]) / 100
    expected = [*oracle["J_mean_recall_decay"], *oracle["F_mean_recall_decay"], oracle["JF_mean"]]
    np.testing.assert_allclose(figures, expected, rtol=0, atol=6e-7)
