"""Many queries by the prompts of their classes: in batches of tiles and classes, back to canvases in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ldis_jax.inference.batches import predict_batches
from ldis_jax.inference.predictor import Predictor
from ldis_jax.inference.read_prompts import Classes, read_prompts
from ldis_jax.inference.tiles import Canvas, Tile
from ldis_jax.media.images import ImageSource, read_image
from ldis_jax.support.checks import MOST_ROWS, check_integer
from ldis_jax.tasks import Task

_ROWS = 8  # a device takes at once, of many
_Row = tuple[Canvas, Tile, int]  # and a class


class Settings(NamedTuple):
    """Arguments of :meth:`ldis_jax.LDISPipeline.segment_images`."""

    seed: int
    ignore_label: int | None
    tile_size: int | None
    batch_size: int | None
    min_score: float | None


def render_canvases(
    predictor: Predictor,
    queries: Iterable[ImageSource],
    classes: Classes,
    settings: Settings,
    options: dict[str, Any],
) -> Iterator[Canvas]:
    """Every query with the network's output for all classes, in order; the device has the next batch meanwhile.

    Raises:
        LDISError: as :meth:`ldis_jax.LDISPipeline.segment_images`.
    """
    seed, ignore_label, tile_size, batch_size, min_score = settings
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, maximum=MOST_ROWS)
    task = predictor.task
    task.confidence.threshold(min_score)
    read = predictor.read_prompts(*read_prompts(classes, task.image_size, ignore_label, task.tile))

    def load(query: ImageSource) -> Iterator[tuple[_Row, dict[str, np.ndarray]]]:
        canvas = Canvas(read_image(query), len(classes), task, tile_size)
        return (
            ((canvas, tile, c), {"query_image": canvas.square(tile), "class": np.array(c)})
            for tile in canvas.tiles
            for c in range(len(classes))
        )

    def predict(batch: dict[str, np.ndarray]) -> jax.Array:
        return predictor.predict_classes(batch["query_image"], batch["class"], read, seed, options)

    # On a CPU, what one image needs fits its caches, and what several need does not.
    size = batch_size or predictor.devices * (1 if jax.default_backend() == "cpu" else _ROWS)
    for (canvas, tile, c), rendered in predict_batches(predict, queries, load, size):
        canvas.add(tile, c, rendered)
        if not canvas.missing:
            yield canvas


def batch_of_one(num_classes: int, tile_size: int | None, task: Task) -> int | None:
    """The batch size for a single image; many tiles of one are many."""
    return None if tile_size is not None or task.tile < 1 or jax.default_backend() == "cpu" else max(num_classes, 1)
