r"""Fits the scores of a model folder on the sets of `config.eval.calibrate_by`, as the end of a training does.

    python tools/calibrate.py --config=configs/small.py:photos --model=runs/small/model

Only the folder's ldis_config.json changes.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import tempfile
from pathlib import Path

import jax
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldis_jax.errors import LDISError
from ldis_jax.inference.program import make_predict
from ldis_jax.models.params import flatten
from ldis_jax.runtime import sharding
from ldis_jax.support import cli
from ldis_jax.support.config_flag import read_config
from ldis_jax.support.files import write_json
from ldis_jax.tasks.confidence import NOT_CALIBRATED
from ldis_jax.training.evaluation_sets import Evaluation
from ldis_jax.weights import load_model
from ldis_jax.weights.model_folder import TASK_FILE

_MODEL = flags.DEFINE_string("model", None, "the model folder")


def main() -> None:
    """Entry point."""
    config = read_config(__doc__, (_MODEL,))
    if not (config.eval.calibrate_by and _MODEL.value):
        raise LDISError("give --model and a config whose eval.calibrate_by names sets")
    folder = Path(_MODEL.value)
    task, model, _ = load_model(folder)
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    graphdef, trained, frozen = flatten(model)
    uncalibrated = dataclasses.replace(task, confidence=NOT_CALIBRATED)
    predict = functools.partial(make_predict(uncalibrated, graphdef, frozen, mesh), trained)
    with tempfile.TemporaryDirectory() as workdir:
        confidence = Evaluation(config, uncalibrated, Path(workdir), sheets=False).calibrate(predict, 0)
    write_json(folder / TASK_FILE, dataclasses.replace(task, confidence=confidence).to_dict())
    print(f"{folder}: {confidence.episodes} episodes, masks below {confidence.min_score:.3f} are empty")


if __name__ == "__main__":
    cli.run(main)
