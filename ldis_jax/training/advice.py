"""Advice for a model that was trained on a folder of one's own images, by what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.datasets.object_size import object_widths
from ldis_jax.input_pipeline.image_folder import chosen_labels
from ldis_jax.training.run import Run

_NARROW = 12  # pixels of the network's square below which objects are hard to make out
_GAP = 12.0  # points of mIoU between images that were trained on and others that more masks could close
_LOW = 70.0  # mIoU of the images that were trained on below which a model has not learned them


def advice(run: Run, results: Mapping[str, float], figures: Mapping[int, float], best: int) -> list[str]:
    """Sentences for the end of the report, the most useful first; none where the run is not of such a folder.

    Args:
        run: that was trained.
        results: of its evaluation at the end, with the sets of :func:`ldis_jax.recipes.data.folder_data`.
        figures: step -> mIoU of the set that chose.
        best: the step that was kept.
    """
    data, task = run.config.data, run.task
    sets = ("trained_on", run.config.eval.main_set)
    if not data.get("folder") or any(f"{name}/miou" not in results for name in sets):
        return []
    fitted, held_out = (results[f"{name}/miou"] for name in sets)
    checked = check_folder(data.folder)
    labels = chosen_labels(checked, data.classes)
    widths = [width for label, width in object_widths(checked).items() if not labels or label in labels]
    pixels = float(np.median(widths)) * task.image_size / task.tile
    found = []
    if best == max(figures) and len(figures) > 1:
        found.append(
            f"Train longer: the last evaluation was the best ({figures[best]:.1f}); "
            f"--config.train_steps={2 * run.config.train_steps}, with another --workdir."
        )
    if fitted - held_out > _GAP:
        found.append(
            f"More masks: images that were trained on reach {fitted:.1f}, others {held_out:.1f}, so that what is "
            f"learned does not carry over yet."
        )
    if pixels < _NARROW:
        found.append(
            f"Closer images, or crops around the objects: they are about {pixels:.0f} pixels wide for the network, "
            f"which needs some {_NARROW} or more. --config.data.tile={task.tile / 2:.2g} shows less at a time, if the "
            f"images are sharp enough."
        )
    if fitted < _LOW and not found:
        found.append(
            f"A stronger start: even images that were trained on reach only {fitted:.1f}. Start from a full-size model "
            f"(docs/weights.md) where there is a GPU or TPU."
        )
    return found or [f"Nothing that was measured stands out; images that were trained on reach {fitted:.1f}."]
