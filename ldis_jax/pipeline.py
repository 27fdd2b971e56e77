"""``LDISPipeline``: a model folder in, masks out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from ldis_jax import pseudo_mask
from ldis_jax.convert.folder import load_model, save_model
from ldis_jax.convert.hub import resolve
from ldis_jax.errors import LDISError
from ldis_jax.files import StrPath
from ldis_jax.image_io import ImageSource, read_image, read_mask
from ldis_jax.input_pipeline.transforms import eval_image, eval_mask, restore_size
from ldis_jax.models.ldis import LDISModel
from ldis_jax.results import ClassSegmentation, Segmentation, class_probabilities
from ldis_jax.tasks import LDISN, PromptInputs, Task
from ldis_jax.visualize import to_picture

Prompt = tuple[ImageSource, ImageSource]
_DTYPES = ("float32", "bfloat16")
# Of LDIS-n.
_STATIC_OPTIONS = ("num_steps", "sampler", "timestep_spacing", "guidance_start", "guidance_end")
_OPTIONS = (*_STATIC_OPTIONS, "image_guidance_scale", "prompt_guidance_scale")


class LDISPipeline:
    """In-context segmentation with one model.

    The number of prompts is padded to 1, 2, 4, 8, ... with tokens that nothing attends to, so that another K rarely
    compiles another program. Every call is a function of its arguments and ``seed`` alone.
    """

    def __init__(self, task: Task, model: LDISModel, card: str | None = None):
        """Wraps networks that are already in memory; see :meth:`from_pretrained` for folders."""
        self.task = task
        self._card = card
        self._graphdef, self._params = nnx.split(model)
        self._config = model.config
        # One program a (K, batch) and choice of these; guidance scales are arrays and compile nothing.
        self._predict = jax.jit(self._predict_fn, static_argnames=_STATIC_OPTIONS)
        self._tokens = jax.jit(self._tokens_fn)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: StrPath,
        dtype: str = "float32",
        revision: str | None = None,
        lora: StrPath | None = None,
    ) -> Self:
        """Reads a model folder, or downloads one from the Hugging Face hub.

        Args:
            folder_or_hub_id: a local folder, or "owner/name".
            dtype: "float32", or "bfloat16" for half the memory on TPU and GPU.
            revision: branch, tag or commit of a hub id.
            lora: low-rank pairs that a run left in its ``lora/``, to merge into the folder they were trained from.

        Raises:
            LDISError: no such folder or hub id, or files that do not make a model.
        """
        if dtype not in _DTYPES:
            raise LDISError(f"dtype={dtype!r}: must be one of {_DTYPES}")
        folder = resolve(os.fspath(folder_or_hub_id), revision)
        return cls(*load_model(folder, jnp.dtype(dtype), None if lora is None else os.fspath(lora)))

    def save_pretrained(self, folder: StrPath) -> None:
        """Writes a model folder, whole or not at all; its card is the one the model came with."""
        save_model(Path(folder), self.task, nnx.merge(self._graphdef, self._params), self._card)

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self._params)) / 1e6
        dtype = jax.tree.leaves(self._params)[0].dtype
        return f"LDISPipeline({self.task.name}, {self.task.image_size} px, {count:.1f} M parameters, {dtype})"

    def __call__(
        self,
        query: ImageSource,
        prompts: Sequence[Prompt],
        *,
        seed: int = 0,
        ignore_label: int | None = None,
        **options: Any,
    ) -> Segmentation:
        """Segments the prompted object in one picture.

        Args:
            query: path, PIL image or uint8 array of any size.
            prompts: (image, mask) pairs of one class; a mask pixel is object where it is non-zero.
            seed: of LDIS-n's noise.
            ignore_label: mask value that is neither object nor background.
            **options: of LDIS-n: ``num_steps``, ``sampler``, ``timestep_spacing``, ``image_guidance_scale``,
                ``prompt_guidance_scale``, ``guidance_start``, ``guidance_end``; see :class:`LDISN`.

        Raises:
            LDISError: an unreadable picture, a mask that does not fit its image or shows no object, a wrong option.
        """
        return self._segment(read_image(query), {"object": prompts}, seed, ignore_label, options)[1]

    def segment_classes(
        self,
        query: ImageSource,
        prompts: Mapping[str, Sequence[Prompt]],
        *,
        seed: int = 0,
        ignore_label: int | None = None,
        **options: Any,
    ) -> ClassSegmentation:
        """Segments several classes at once: {"cat": [(image, mask), ...], "dog": [...]}. Options as in a call."""
        logits, _ = self._segment(read_image(query), prompts, seed, ignore_label, options)
        probabilities = class_probabilities(logits)
        return ClassSegmentation(probabilities.argmax(0).astype(np.uint8), probabilities, tuple(prompts))

    def segment_video(
        self, frames: Iterable[ImageSource], first_frame_labels: np.ndarray, *, seed: int = 0, **options: Any
    ) -> Iterator[np.ndarray]:
        """Propagates the first frame's labels through a video (paper eq. 7).

        Args:
            frames: the pictures in order; only one is held at a time.
            first_frame_labels: uint8 [H, W] of the first frame; 0 is background, 255 ignored.
            seed: of LDIS-n's noise, the same for every frame.
            **options: as in a call.

        Yields:
            uint8 [H, W] label map of every frame; the first frame's is the one given.
        """
        frames = iter(frames)
        first = read_image(next(frames))
        labels = np.asarray(first_frame_labels)
        if labels.shape != first.shape[:2]:
            raise LDISError(f"first_frame_labels {labels.shape} differ in size from the first frame {first.shape[:2]}")
        values = [int(v) for v in np.unique(labels) if v not in (0, 255)]
        if not values:
            raise LDISError("first_frame_labels: no object; label its pixels with 1 to 254")
        ignore = labels == 255
        prompts = {}
        for value in values:
            mask = (labels == value).astype(np.uint8)
            mask[ignore] = 255
            prompts[str(value)] = [(first, mask)]
        lookup = np.array([0, *values], np.uint8)
        yield labels.astype(np.uint8)
        for frame in frames:
            yield lookup[self.segment_classes(frame, prompts, seed=seed, ignore_label=255, **options).label_map]

    def instruction_tokens(self, prompt_images: ArrayLike, prompt_masks: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """What the prompts tell the UNet.

        Args:
            prompt_images: [B, K, S, S, 3] in [-1, 1].
            prompt_masks: [B, K, S, S] in {0, 1, 255}.

        Returns:
            (tokens [B, K*L, D], float32 mask [B, K*L] in {0, 1}).
        """
        return self._tokens(self._params, *self._check_prompts(prompt_images, prompt_masks))

    def predict(
        self,
        query: ArrayLike,
        prompt_images: ArrayLike,
        prompt_masks: ArrayLike,
        noise: ArrayLike | None = None,
        step_noise: ArrayLike | None = None,
        *,
        num_prompts: ArrayLike | None = None,
        seed: int = 0,
        **options: Any,
    ) -> jax.Array:
        """The network's own output R = decoded - task.picture_share * query, float32 [B, S, S, 3].

        Args:
            query: [B, S, S, 3] in [-1, 1], S = ``task.image_size``.
            prompt_images: [B, K, S, S, 3] in [-1, 1].
            prompt_masks: [B, K, S, S] in {0, 1, 255}.
            noise: LDIS-n: [B, s, s, 4] in place of the initial draw.
            step_noise: LDIS-n: [num_steps, B, s, s, 4] in place of ddpm's draws.
            num_prompts: int [B], how many of the K prompts are real; None where all are.
            seed: sample i draws from (seed, i).
            **options: as in a call.

        Raises:
            LDISError: a wrong shape or option.
        """
        images, masks = self._check_prompts(prompt_images, prompt_masks)
        query = jnp.asarray(query, jnp.float32)
        size, (batch, count) = self.task.image_size, masks.shape[:2]
        if query.shape != (batch, size, size, 3):
            raise LDISError(f"query {query.shape}: expected {(batch, size, size, 3)}")
        real = jnp.full((batch,), count) if num_prompts is None else jnp.asarray(num_prompts)
        padding = ((0, 0), (0, _bucket(count) - count), (0, 0), (0, 0))
        prompts = PromptInputs(jnp.pad(images, (*padding, (0, 0))), jnp.pad(masks, padding), real.astype(jnp.int32))
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(batch))
        options = self._check_options({**options, "noise": noise, "step_noise": step_noise}, batch)
        if jax.default_backend() != "cpu" or batch == 1:
            return self._predict(self._params, query, prompts, keys, **options)
        # What one picture needs fits a CPU's caches, what four need does not: one at a time is about a tenth faster.
        results = []
        for i in range(batch):
            row = slice(i, i + 1)
            one = {name: x[row] for name, x in options.items() if name == "noise"}
            one |= {name: x[:, row] for name, x in options.items() if name == "step_noise"}
            inputs = jax.tree.map(lambda x, row=row: x[row], (query, prompts, keys))
            results.append(self._predict(self._params, *inputs, **options | one))
        return jnp.concatenate(results)

    def _predict_fn(
        self, params: Any, query: jax.Array, prompts: PromptInputs, keys: jax.Array, **options: Any
    ) -> jax.Array:
        return self.task.predict(nnx.merge(self._graphdef, params), query, prompts, keys, **options)

    def _tokens_fn(self, params: Any, images: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.task.instruction_tokens(nnx.merge(self._graphdef, params).prompt_encoder, images, masks)

    def _segment(
        self,
        query: np.ndarray,
        classes: Mapping[str, Sequence[Prompt]],
        seed: int,
        ignore_label: int | None,
        options: dict[str, Any],
    ) -> tuple[np.ndarray, Segmentation]:
        """Predicts every class in one batch: (logits [C, H, W], the first class as a result)."""
        if not classes or not all(classes.values()):
            raise LDISError("prompts: give at least one (image, mask) pair for every class")
        size = self.task.image_size
        most = _bucket(max(len(prompts) for prompts in classes.values()))
        images = np.zeros((len(classes), most, size, size, 3), np.float32)
        masks = np.zeros((len(classes), most, size, size), np.uint8)
        for c, (name, prompts) in enumerate(classes.items()):
            for k, prompt in enumerate(prompts):
                where = f"prompt {k + 1}" if len(classes) == 1 else f"prompt {k + 1} of {name!r}"
                images[c, k], masks[c, k] = self._read_prompt(prompt, where, ignore_label)
        count = np.array([len(prompts) for prompts in classes.values()], np.int32)
        fitted = np.repeat(eval_image(query, size)[None], len(classes), axis=0)
        r = np.asarray(self.predict(fitted, images, masks, num_prompts=count, seed=seed, **options))

        restored = [restore_size(x, *query.shape[:2]) for x in r]
        logits = np.stack([pseudo_mask.to_logit(x) for x in restored])
        first = Segmentation(
            mask=pseudo_mask.to_mask(restored[0]),
            probability=class_probabilities(logits[:1])[1],
            pseudo_mask=to_picture(r[0] + self.task.picture_share * fitted[0]),
        )
        return logits, first

    def _read_prompt(self, prompt: Prompt, where: str, ignore_label: int | None) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(prompt, (tuple, list)) or len(prompt) != 2:
            raise LDISError(f"{where}: must be an (image, mask) pair")
        image, mask = read_image(prompt[0]), read_mask(prompt[1], ignore_label)
        name = f" ({prompt[1]})" if isinstance(prompt[1], (str, Path)) else ""
        if image.shape[:2] != mask.shape:
            raise LDISError(
                f"{where}{name}: mask is {mask.shape[1]}x{mask.shape[0]}, its image is "
                f"{image.shape[1]}x{image.shape[0]}; make them agree"
            )
        if not (mask == 1).any():
            raise LDISError(f"{where}{name}: mask shows no object; its object pixels must be non-zero")
        size = self.task.image_size
        fitted = eval_mask(mask, size)
        if not (fitted == 1).any():
            raise LDISError(f"{where}{name}: object vanishes at {size} pixels; crop image and mask around it")
        return eval_image(image, size), fitted

    def _check_prompts(self, images: ArrayLike, masks: ArrayLike) -> tuple[jax.Array, jax.Array]:
        images, masks = jnp.asarray(images, jnp.float32), jnp.asarray(masks)
        size = self.task.image_size
        if masks.ndim != 4 or masks.shape[2:] != (size, size) or images.shape != (*masks.shape, 3) or not masks.size:
            raise LDISError(
                f"prompt_images {images.shape}, prompt_masks {masks.shape}: expected [B, K, {size}, {size}, 3] "
                f"and [B, K, {size}, {size}]"
            )
        return images, masks

    def _check_options(self, options: dict[str, Any], batch: int) -> dict[str, Any]:
        """Fills in LDIS-n's defaults and rejects what LDIS-1 would ignore."""
        options = {name: value for name, value in options.items() if value is not None}
        if not isinstance(self.task, LDISN):
            if options:
                raise LDISError(f"{', '.join(sorted(options))}: an option of LDIS-n, and this model is LDIS-1")
            return {}
        if unknown := options.keys() - set(_OPTIONS) - {"noise", "step_noise"}:
            raise LDISError(f"unknown option {', '.join(sorted(unknown))}; one of {', '.join(sorted(_OPTIONS))}")
        options = {name: getattr(self.task, name) for name in _OPTIONS} | options
        try:
            dataclasses.replace(self.task, **{name: options[name] for name in _STATIC_OPTIONS})
        except ValueError as error:
            raise LDISError(str(error)) from None
        for name in ("image_guidance_scale", "prompt_guidance_scale"):
            options[name] = jnp.float32(options[name])
        side = self.task.image_size // self._config.vae.downscale
        shape = (batch, side, side, self._config.vae.latent_channels)
        for name, expected in {"noise": shape, "step_noise": (options["num_steps"], *shape)}.items():
            if name in options:
                options[name] = jnp.asarray(options[name], jnp.float32)
                if options[name].shape != expected:
                    raise LDISError(f"{name} {options[name].shape}: expected {expected}")
        return options


def _bucket(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
