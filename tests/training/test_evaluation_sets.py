"""What a run reports of its evaluation sets."""

import functools
import re

import pytest

from ldis_jax.config import check_config
from ldis_jax.errors import LDISError
from ldis_jax.evaluators import EpisodeEvaluator
from ldis_jax.input_pipeline import ImageFolder, ProceduralScenes, RecordSource
from ldis_jax.recipes.data import eval_set, procedural_source
from ldis_jax.recipes.small import scenes_config
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.training.run import run_task
from tests.helpers import micro_config


def test_evaluation_report_has_the_baselines_of_every_set(tmp_path):
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


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("eval.sets.unseen.protocol", None, "config.eval.sets.unseen.protocol=None: must be given"),
        ("eval.sets.unseen.episodes", -1, "config.eval.sets.unseen: episodes=-1 is not a usable int"),
        ("data.sources.scenes.split", 1.5, "config.data.sources.scenes: split=1.5 is not a usable str"),
        ("data.augment", None, "config.data.augment=None: must be given"),
        ("seed", None, "config.seed=None: must be given"),
        ("eval.sets", None, "config.eval.sets=None: must be given"),
    ],
)
def test_check_config_refuses_values_that_a_run_would_meet_late(micro_folder, key, value, words):
    config = micro_config(micro_folder)
    *sections, name = key.split(".")
    section = functools.reduce(getattr, sections, config)
    with section.unlocked(), section.ignore_type():
        section[name] = value
    with pytest.raises(LDISError, match=re.escape(words)):
        check_config(config)


def test_episode_evaluator_and_sources_refuse_unknown_words():
    for call in (
        lambda: EpisodeEvaluator([], 16, 1, None),
        lambda: ProceduralScenes(1.5),
        lambda: ImageFolder("nowhere", 1.5),
        lambda: RecordSource("nowhere", 1.5),
    ):
        with pytest.raises(LDISError, match=r"(protocol=None|split=1\.5): must be one of|nowhere/1\.5"):
            call()
