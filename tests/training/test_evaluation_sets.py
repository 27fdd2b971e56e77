"""What a run reports of its evaluation sets."""

import pytest

from ldis_jax.recipes.data import eval_set, procedural_source
from ldis_jax.recipes.small import scenes_config
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.training.run import run_task


def test_a_report_has_the_baselines_of_every_set(tmp_path):
    config = scenes_config("ldis1", episodes=3)
    config.eval.sets.seen = eval_set(procedural_source("train"), episodes=2)
    found = {f"{name}/{figure}": 50.0 for name in ("unseen", "seen") for figure in ("miou", "fb_iou")}
    report = Evaluation(config, run_task(config), tmp_path).report(found, {})
    alone = {}
    for name in ("unseen", "seen"):
        config.eval.main_set = name
        alone[name] = Evaluation(config, run_task(config), tmp_path).report(found, {})["baselines"]
    for baseline in ("copy_prompt", "all_foreground"):
        figures, seen = report["baselines"][baseline], alone["seen"][baseline]
        assert figures == alone["unseen"][baseline]
        assert figures["other_sets"] == {f"seen/{key}": pytest.approx(seen[key]) for key in ("miou", "fb_iou")}
        assert figures["miou"] != figures["other_sets"]["seen/miou"]
