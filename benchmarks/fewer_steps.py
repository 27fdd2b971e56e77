"""What fewer steps, other samplers and less guidance do to LDIS-n's masks, on painted scenes of unseen classes.

    python -m ldis_jax.main --config=configs/tiny_ldisn.py
    python benchmarks/fewer_steps.py --model=runs/tiny_ldisn/model --json=fewer_steps.json

The first row is what the others are compared with, episode by episode from the same noise: the mean of |R - R'| over
all pixels and channels, and the mean IoU, in percent, of both masks with each other. Evaluations of the UNet, one
branch of an image each, stand for time.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ldis_jax.errors import LDISError
from ldis_jax.evaluators import MeanIoU
from ldis_jax.evaluators.episodes import predict_episodes
from ldis_jax.inference.program import make_predict
from ldis_jax.input_pipeline import FrozenEpisodes, ProceduralScenes
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import flatten
from ldis_jax.runtime import sharding
from ldis_jax.support import cli
from ldis_jax.tasks import LDISN, pseudo_mask
from ldis_jax.weights import load_model

REFERENCE: dict[str, Any] = {"sampler": "ddpm", "num_steps": 20}
_SHORT = {"sampler": "ddim", "num_steps": 10}


def variants() -> Iterator[dict[str, Any]]:
    """Options of prediction, beside the model's own; the reference first."""
    yield REFERENCE
    for steps in (20, 10, 5, 2):
        yield {"sampler": "ddim", "num_steps": steps}
    for steps in (10, 5, 2, 1):
        yield {"sampler": "ddim", "num_steps": steps, "timestep_spacing": "trailing"}
    for steps in (10, 5):
        yield {"sampler": "dpmpp_2m", "num_steps": steps, "timestep_spacing": "trailing"}
    for start, end in ((0.0, 0.5), (0.5, 1.0), (0.0, 0.0)):
        yield {**_SHORT, "guidance_start": start, "guidance_end": end}
    for scale in (1.0, 2.0, 5.0, 7.0):
        yield {**_SHORT, "prompt_guidance_scale": scale}


def evaluations(task: LDISN) -> int:
    """Of the UNet, for one image."""
    return sum(3 if task.is_guided(i) else 1 for i in range(task.num_steps))


def measure(
    outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray], episodes: FrozenEpisodes
) -> dict[str, float]:
    """Figures in percent, and how far the outputs R are from the reference's."""
    metric, same = MeanIoU(), []
    for i, (r, other) in enumerate(zip(outputs, reference, strict=True)):
        mask, expected = pseudo_mask.to_mask(r), pseudo_mask.to_mask(other)
        metric.update(mask, episodes[i].query_mask, episodes[i].class_id)
        either = (mask | expected).sum()
        same.append(100.0 * (mask & expected).sum() / either if either else 100.0)
    result = metric.result()
    difference = np.mean([np.abs(r - other).mean() for r, other in zip(outputs, reference, strict=True)])
    return {"miou": result["miou"], "fb_iou": result["fb_iou"], "r": float(difference), "masks": float(np.mean(same))}


def rows(task: LDISN, model: LDISModel, episodes: FrozenEpisodes, batch_size: int) -> Iterator[dict[str, Any]]:
    """Figures of each of :func:`variants`, one after the other."""
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    graphdef, trained, frozen = flatten(model)
    reference: list[np.ndarray] = []
    for options in variants():
        own = dataclasses.replace(task, **options)
        predict = functools.partial(make_predict(own, graphdef, frozen, mesh), trained)
        outputs = [r for _, r in predict_episodes(predict, episodes, task.image_size, batch_size)]
        reference = reference or outputs
        yield {"options": options, "evaluations": evaluations(own), **measure(outputs, reference, episodes)}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of an LDIS-n trained on painted scenes")
    parser.add_argument("--episodes", type=int, default=128, help="default 128, the first of the evaluation set")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    task, model, _ = load_model(args.model)
    if not isinstance(task, LDISN):
        raise LDISError(f"{args.model}: is an LDIS-1, which has one step")
    episodes = FrozenEpisodes.of_draws(ProceduralScenes("unseen", task.image_size), args.episodes, num_shots=1)
    found = []
    print("| options | evaluations | mIoU | FB-IoU | R | masks |\n|---|---|---|---|---|---|")
    for row in rows(task, model, episodes, args.batch_size):
        found.append(row)
        text = ", ".join(f"{key}={value}" for key, value in row["options"].items())
        figures = " | ".join(f"{row[key]:.2f}" for key in ("miou", "fb_iou", "r", "masks"))
        print(f"| {text} | {row['evaluations']} | {figures} |", flush=True)
    if args.json:
        from ldis_jax.support.files import write_json

        guidance = {key: getattr(task, key) for key in ("image_guidance_scale", "prompt_guidance_scale")}
        facts = {"episodes": len(episodes), "episodes_hash": episodes.hash, "model_defaults": guidance}
        write_json(args.json, {**facts, "rows": found})


if __name__ == "__main__":
    cli.run(main)
