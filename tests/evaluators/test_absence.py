"""Objects that are not there: false alarms, and what a score tells."""

import numpy as np
import pytest

from ldis_jax.evaluators import EpisodeEvaluator, SheetEvaluator
from ldis_jax.evaluators.absence import absence_figures, auroc, calibration_error, reliability
from ldis_jax.input_pipeline import FrozenEpisodes, ProceduralScenes
from ldis_jax.tasks.confidence import Confidence

SIZE = 32


@pytest.mark.parametrize(
    ("present", "absent", "expected"),
    [([0.9, 0.8], [0.1, 0.2], 1.0), ([0.1], [0.9], 0.0), ([0.5, 0.5], [0.5], 0.5), ([0.9, 0.1], [0.5, 0.1], 0.625)],
)
def test_auroc_counts_pairs(present, absent, expected):
    assert auroc(np.array(present), np.array(absent)) == pytest.approx(expected)


def test_calibration_error_is_the_mean_distance_by_interval():
    score, iou = np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 0.1, 0.55, 0.6])
    assert reliability(score, iou) == [(0.05, 0.05, 2), (pytest.approx(0.975), pytest.approx(0.575), 2)]
    assert calibration_error(score, iou) == pytest.approx(0.2)


def test_absence_figures_of_absent_objects_alone():
    figures = absence_figures(np.zeros(3), np.zeros(3), np.array([0.0, 0.0005, 0.3]), np.ones(3, bool))
    assert figures == {"false_alarms": pytest.approx(100 / 3), "rendered_area": pytest.approx(10.0166667)}


@pytest.fixture(scope="module")
def episodes():
    return FrozenEpisodes.of_draws(ProceduralScenes("unseen", SIZE), 24, 1, seed=1, absent=0.5)


def truth(arrays):
    inside = (arrays["query_mask"] == 1)[..., None]
    return np.where(inside, [-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]).astype(np.float32)


def faint(arrays):
    """The truth and, where nothing is there, a faint square."""
    r = truth(arrays)
    for image, mask in zip(r, arrays["query_mask"], strict=True):
        if not mask.any():
            image[4:12, 4:12] = [-0.1, 0.1, 0.0]
    return r


def test_episode_evaluator_tells_present_from_absent(episodes):
    absent = sum(not (episode.query_mask == 1).any() for episode in episodes)
    assert 6 < absent < 18
    perfect = dict(EpisodeEvaluator(episodes, SIZE, 8).run(truth))
    assert perfect["miou"] == 100 and perfect["false_alarms"] == 0 and perfect["auroc"] == 1
    loud = dict(EpisodeEvaluator(episodes, SIZE, 8).run(faint))
    assert loud["miou"] == 100 and loud["false_alarms"] == 100 and loud["auroc"] == 1
    assert loud["rendered_area"] == pytest.approx(100 * 64 / SIZE**2)
    quiet = dict(EpisodeEvaluator(episodes, SIZE, 8).run(faint, Confidence(min_score=0.9)))
    assert quiet["miou"] == 100 and quiet["false_alarms"] == 0 and quiet["auroc"] == 1


def test_episode_evaluator_measures_what_fits_a_confidence(episodes):
    evaluator, measured = EpisodeEvaluator(episodes, SIZE, 8), []
    dict(evaluator.run(faint, measured=measured))
    confidence = Confidence.fit(measured)
    assert dict(evaluator.run(faint, confidence)).items() >= {"miou": 100.0, "false_alarms": 0.0}.items()


def test_episode_evaluator_baselines_are_of_present_objects(episodes):
    assert dict(EpisodeEvaluator(episodes, SIZE, 8).baselines()["all_foreground"]).keys() == {"miou", "fb_iou"}
    nothing = FrozenEpisodes.of_draws(ProceduralScenes("unseen", SIZE), 3, 1, absent=1.0)
    assert EpisodeEvaluator(nothing, SIZE, 3).baselines() == {"copy_prompt": {}, "all_foreground": {}}


def test_sheet_evaluator_shows_absent_objects(episodes, tmp_path):
    sheet = SheetEvaluator(episodes, SIZE, 4, tmp_path / "sheet.png", [0, 1, 2, 3])
    assert dict(sheet.run(faint)) == {"pictures": 4.0} and (tmp_path / "sheet.png").stat().st_size > 1000
