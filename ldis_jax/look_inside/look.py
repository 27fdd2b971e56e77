"""``LookInside``: a pipeline in, what its networks see out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ldis_jax.inference.predictor import Predictor
from ldis_jax.inference.read_prompts import Prompt, read_prompts
from ldis_jax.input_pipeline.transforms import eval_image
from ldis_jax.look_inside.cross_attention import CrossAttention
from ldis_jax.look_inside.token_grid import TokenGrid
from ldis_jax.media.images import ImageSource, read_image
from ldis_jax.media.overlays import to_image
from ldis_jax.models.attention_maps import record_cross_attention
from ldis_jax.models.ldis import LDISModel
from ldis_jax.pipeline import LDISPipeline
from ldis_jax.tasks import Task, pseudo_mask


class LookInside:
    """Looks into the networks of a pipeline, which stays as it is.

    Example::

        look = LookInside(pipe)
        Image.fromarray(tokens_sheet(look.tokens(prompts)))
        *_, last = look.cross_attention(query, prompts)
        Image.fromarray(attended_sheet(last, {"the object": last.mask}))
    """

    def __init__(self, pipe: LDISPipeline):
        self.pipe = pipe
        self._predictor = _RecordingPredictor(pipe.task, pipe.model)

    def tokens(self, prompts: Sequence[Prompt], *, ignore_label: int | None = None) -> TokenGrid:
        """The instruction tokens of one class's prompts; arguments and errors as of a call of the pipeline."""
        images, masks, _ = read_prompts({"object": prompts}, self.pipe.task.image_size, ignore_label)
        return self._token_grid(images, masks)

    def cross_attention(
        self,
        query: ImageSource,
        prompts: Sequence[Prompt],
        *,
        seed: int = 0,
        ignore_label: int | None = None,
        **options: Any,
    ) -> Iterator[CrossAttention]:
        """The UNet's cross-attention over the prompts while it segments; arguments and errors as of a call.

        Yields:
            one a denoising step of LDIS-n, of its prompted branch; of LDIS-1 one.
        """
        size = self.pipe.task.image_size
        images, masks, count = read_prompts({"object": prompts}, size, ignore_label)
        grid = self._token_grid(images, masks)
        square = eval_image(read_image(query), size)
        inputs = self._predictor.inputs(square[None], images, masks, count, seed)
        for rendered, recorded in self._predictor.steps(inputs, options):
            weights = {name: _by_place(np.asarray(x[0]), grid) for name, x in recorded.items()}
            mask = pseudo_mask.to_mask(self.pipe.task.residual(np.asarray(rendered[0]), square))
            yield CrossAttention(to_image(square), mask, grid, weights)

    def _token_grid(self, images: np.ndarray, masks: np.ndarray) -> TokenGrid:
        tokens, kept = self.pipe.instruction_tokens(images, masks)
        count = images.shape[1]
        side = math.isqrt(tokens.shape[1] // count)
        grid = (count, side, side)
        on_object = np.asarray(kept).reshape(grid) > 0
        return TokenGrid(to_image(images[0]), np.asarray(tokens, np.float32).reshape(*grid, -1), on_object)


class _RecordingPredictor(Predictor):
    """A predictor whose programs also give the weights of cross-attention: layer -> float32 [B, s*s, K*L]."""

    def __init__(self, task: Task, model: LDISModel):
        self._recorded: dict[str, jax.Array] = {}  # while a program is traced
        record_cross_attention(model.unet, self._record)
        super().__init__(task, model)

    def _record(self, layer: str, weights: jax.Array) -> None:
        self._recorded[layer] = weights

    def _predict_fn(self, *arguments: Any, **options: Any) -> Any:
        return super()._predict_fn(*arguments, **options), self._taken()

    def _step_fn(self, *arguments: Any, **options: Any) -> Any:
        state, rendered = super()._step_fn(*arguments, **options)
        return state, (rendered, self._taken())

    def _taken(self) -> Mapping[str, jax.Array]:
        recorded, self._recorded = self._recorded, {}
        return recorded


def _by_place(weights: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """[s*s, K'*G*G] -> [s, s, K, G, G]; the prompts that only pad K are left out."""
    count, side = grid.on_object.shape[:2]
    places = math.isqrt(len(weights))
    return weights.reshape(places, places, -1, side, side)[:, :, :count]
