"""``LDISPipeline``: a model folder in, masks out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ldis_jax.errors import LDISError
from ldis_jax.inference.canvases import Settings, batch_of_one, render_canvases
from ldis_jax.inference.predictor import Predictor, check_dtype
from ldis_jax.inference.read_prompts import Classes, Label, Prompt, labelled, prompts_of_frame, read_prompts
from ldis_jax.inference.results import ClassSegmentation, Segmentation, class_probabilities
from ldis_jax.inference.stablehlo import write_stablehlo
from ldis_jax.inference.tiles import Canvas
from ldis_jax.media.images import ImageSource, read_image
from ldis_jax.media.masks import read_first_labels
from ldis_jax.media.videos import read_video
from ldis_jax.models.ldis import LDISModel
from ldis_jax.support.checks import Counts, check_counts
from ldis_jax.support.files import StrPath
from ldis_jax.tasks import Task
from ldis_jax.weights.card import read_provenance
from ldis_jax.weights.hub import push, resolve
from ldis_jax.weights.model_folder import fill_model, open_model, read_card, save_model

_LOGGER = logging.getLogger(__name__)


class LDISPipeline:
    """In-context segmentation with one model.

    The same arguments and ``seed`` give the same result, to the bit in every process and beside any others in a batch,
    to rounding on another number of cores or another device, which add up in another order. Another number of prompts
    rarely compiles anything: it is padded to 1, 2, 3, 4, 6, 8, 12, ... with tokens that nothing attends to.
    """

    def __init__(self, task: Task, model: LDISModel, card: str | None = None):
        """Wraps networks that are already in memory; see :meth:`from_pretrained` for folders."""
        self._card = card
        self._predictor = Predictor(task, model)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: StrPath,
        dtype: str = "float32",
        revision: str | None = None,
        lora: StrPath | None = None,
        *,
        compile_for: Mapping[str, Any] | None = None,
    ) -> Self:
        """Reads a model folder, or downloads one from the Hugging Face hub.

        A model that fails on photographs, because it knows painted scenes only or nothing yet, is logged as a warning.

        Args:
            folder_or_hub_id: a named model ("tiny", "ldis1", ...), a local folder, or "owner/name".
            dtype: "float32", or "bfloat16" for half the memory on TPU and GPU.
            revision: branch, tag or commit of a hub id.
            lora: low-rank pairs that a run left in its ``lora/``, to merge into the folder they were trained from.
            compile_for: arguments of :meth:`compile`, to be done while weights are read; {} for its defaults.

        Raises:
            LDISError: no such folder or hub id, files that do not make a model, or as :meth:`compile`.
        """
        check_dtype(dtype)
        folder = resolve(folder_or_hub_id, revision)
        task, config, weights = open_model(folder, lora=lora)
        model = LDISModel.abstract(config, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
        pipe = cls(task, model, read_card(folder, lora))
        if pipe.fails_on_photographs:
            _LOGGER.warning("%s: this model knows %s", folder_or_hub_id, pipe.knows)
        programs = [] if compile_for is None else pipe._lower(**compile_for)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            compiled = pool.map(lambda program: program.compile(), programs)  # leaves Python to the reading
            pipe._predictor.load(fill_model(model, weights, jnp.dtype(dtype)))
            list(compiled)  # raises what it raised
        return pipe

    def save_pretrained(self, folder: StrPath) -> None:
        """Writes a model folder, whole or not at all; its card is the one the model came with."""
        save_model(Path(folder), self.task, self.model, self._card)

    def push_to_hub(self, hub_id: str, *, private: bool = False) -> str:
        """Uploads the model folder to "owner/name" on the hub, which is made if need be, and returns its address.

        Raises:
            LDISError: nobody is logged in who may write there.
        """
        with tempfile.TemporaryDirectory(prefix="ldis_jax_") as folder:
            self.save_pretrained(Path(folder) / "model")
            return push(Path(folder) / "model", hub_id, private=private)

    def export(
        self,
        path: StrPath,
        *,
        num_prompts: int = 1,
        batch_size: int | None = None,
        platforms: Sequence[str] = ("cpu", "tpu", "cuda"),
        **options: Any,
    ) -> None:
        """Writes :meth:`predict` and the weights to a file that JAX runs without this package; see docs/export.md.

        Args:
            path: of the file, ``.safetensors``.
            num_prompts: the most prompts that a query may have.
            batch_size: of all calls; None leaves it open.
            platforms: of "cpu", "tpu", "cuda" and "rocm".
            **options: as in a call; the file holds them as constants.

        Raises:
            LDISError: a wrong argument or option, or a place that cannot be written.
        """
        self._predictor.check_options(options)
        task = dataclasses.replace(self.task, **options)
        write_stablehlo(path, task, self.model, num_prompts, batch_size, platforms)

    def to(self, dtype: str | None = None, *, devices: int | None = None) -> Self:
        """The model in another type, or on more devices, as a new pipeline.

        Args:
            dtype: "float32" or "bfloat16".
            devices: how many of this process's devices share the work on many images, classes or tiles, each with a
                copy of the networks.

        Raises:
            LDISError: another dtype, or more devices than there are.
        """
        if dtype is not None:
            check_dtype(dtype)
        other = type(self).__new__(type(self))
        other._card, other._predictor = self._card, self._predictor.to(dtype, devices)
        return other

    def compile(self, num_prompts: Counts = 1, num_classes: Counts = 1, **options: Any) -> Self:
        """Compiles now what calls with so many prompts and classes would compile when they come; returns itself.

        Args:
            num_prompts: of a class; one number or several.
            num_classes: of a call; 1 for ``pipe(...)``; one number or several.
            **options: as in a call, where they are not the model's defaults.

        Raises:
            LDISError: no number, one below 1 or no integer, or a wrong option.
        """
        for program in self._lower(num_prompts, num_classes, **options):
            program.compile()
        return self

    def _lower(self, num_prompts: Counts = 1, num_classes: Counts = 1, **options: Any) -> list[jax.stages.Lowered]:
        several = check_counts("num_prompts", num_prompts), check_counts("num_classes", num_classes)
        return [program for pair in itertools.product(*several) for program in self._predictor.lower(*pair, options)]

    @property
    def task(self) -> Task:
        """The method's hyper-parameters, and LDIS-n's defaults of prediction."""
        return self._predictor.task

    @property
    def knows(self) -> str:
        """The training data in words, by the model's card; empty where it does not tell."""
        return read_provenance(self._card).statement

    @property
    def fails_on_photographs(self) -> bool:
        """True if nobody trained it for segmentation, or on scenes that a computer drew only."""
        return read_provenance(self._card).fails_on_photographs

    @property
    def model(self) -> LDISModel:
        """The networks, as Flax NNX modules."""
        return self._predictor.model

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self._predictor.params)) / 1e6
        where = f", {self._predictor.devices} devices" if self._predictor.devices > 1 else ""
        name, size, dtype = self.task.name, self.task.image_size, self._predictor.dtype
        return f"LDISPipeline({name}, {size} px, {count:.1f} M parameters, {dtype}{where})"

    def __call__(
        self,
        query: ImageSource,
        prompts: Sequence[Prompt],
        *,
        label: Label | None = None,
        seed: int = 0,
        ignore_label: int | None = None,
        tile_size: int | None = None,
        min_score: float | None = None,
        **options: Any,
    ) -> Segmentation:
        """Segments the prompted object in one image.

        Args:
            query: path, PIL image or uint8 array of any size.
            prompts: (image, mask) pairs of one class; masks as of :func:`~ldis_jax.media.masks.read_mask`. A label map
                serves as (image, labels, label): its value, or its name in the ``classes.json`` beside the file.
            label: of those prompts that have none of their own.
            seed: of LDIS-n's noise.
            ignore_label: mask value that is neither object nor background.
            tile_size: the query is cut into overlapping squares of so many of its pixels, for small objects in large
                images. None leaves that to the task: most fit the whole query into the network's square.
            min_score: a mask of a lower score is empty, for its object is not there. None takes what the model's
                training found, 0 keeps every mask.
            **options: of LDIS-n; :data:`ldis_jax.support.prediction_options.OPTIONS` declares them.

        Raises:
            LDISError: an unreadable image, a mask that does not fit its image or shows no object, several labels and
                none chosen, a wrong option.
        """
        classes = {"object": labelled(prompts, label)}
        given = Settings(seed, ignore_label, tile_size, batch_of_one(1, tile_size, self.task), min_score)
        return self._result(next(render_canvases(self._predictor, [query], classes, given, options)), min_score)

    def segment_classes(
        self,
        query: ImageSource,
        prompts: Classes,
        *,
        seed: int = 0,
        ignore_label: int | None = None,
        tile_size: int | None = None,
        min_score: float | None = None,
        **options: Any,
    ) -> ClassSegmentation:
        """Segments several classes at once: {"cat": [(image, mask), ...], "dog": [(image, labels, 2), ...]}.

        Options as in a call.
        """
        batch_size = batch_of_one(len(prompts), tile_size, self.task)
        given = Settings(seed, ignore_label, tile_size, batch_size, min_score)
        canvas = next(render_canvases(self._predictor, [query], prompts, given, options))
        return self._class_result(canvas, prompts, min_score)

    def segment_images(
        self,
        queries: Iterable[ImageSource],
        prompts: Sequence[Prompt] | Classes,
        *,
        label: Label | None = None,
        seed: int = 0,
        ignore_label: int | None = None,
        tile_size: int | None = None,
        batch_size: int | None = None,
        min_score: float | None = None,
        **options: Any,
    ) -> Iterator[Segmentation | ClassSegmentation]:
        """Segments many images by the same prompts, which are read once; few images are held at a time.

        Args:
            queries: images of any sizes.
            prompts: (image, mask) pairs of one class, or several classes as for :meth:`segment_classes`.
            label: as in a call.
            seed: as in a call.
            ignore_label: as in a call.
            tile_size: as in a call.
            min_score: as in a call.
            batch_size: images (or tiles, or classes of one) that are computed together; on a CPU one, else 8 a
                device, unless given.
            **options: as in a call.

        Yields:
            what a call with each query alone would return, in their order.
        """
        several = isinstance(prompts, Mapping)
        classes: Classes = prompts if isinstance(prompts, Mapping) else {"object": prompts}
        classes = {name: labelled(of_one, label) for name, of_one in classes.items()}
        given = Settings(seed, ignore_label, tile_size, batch_size, min_score)
        for canvas in render_canvases(self._predictor, queries, classes, given, options):
            yield self._class_result(canvas, classes, min_score) if several else self._result(canvas, min_score)

    def segment_steps(
        self,
        query: ImageSource,
        prompts: Sequence[Prompt],
        *,
        label: Label | None = None,
        seed: int = 0,
        ignore_label: int | None = None,
        min_score: float | None = None,
        **options: Any,
    ) -> Iterator[Segmentation]:
        """LDIS-n a step at a time, to be watched: what each step takes the mask to be.

        Arguments are those of a call. The last is what a call returns, to rounding, unless the task has tiles: here the
        network sees the whole image. Of LDIS-1 that is the only one.
        """
        classes = {"object": labelled(prompts, label)}
        images, masks, count = read_prompts(classes, self.task.image_size, ignore_label)
        canvas = Canvas(read_image(query), 1, dataclasses.replace(self.task, tile=1.0))
        square = canvas.square(canvas.tiles[0])[None]
        inputs = self._predictor.inputs(square, images, masks, count, seed)
        steps = self._predictor.check_options(options).get("num_steps", 1)
        for step, rendered in enumerate(self._predictor.steps(inputs, options), 1):
            canvas.add(canvas.tiles[0], 0, np.asarray(rendered[0]))
            yield self._result(canvas, min_score if step == steps else 0.0)

    def segment_video(
        self,
        frames: StrPath | Iterable[ImageSource],
        first_frame_labels: ImageSource,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        min_score: float | None = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """Propagates the first frame's labels through a video (paper eq. 7).

        Args:
            frames: the images in order, or the path of a video or of a folder of frames; few are held at a time.
            first_frame_labels: of the first frame: path, PIL image or uint8 array [H, W]; 0 is background, 255 ignored.
                A mask of 0 and 255 counts as one object.
            seed: of LDIS-n's noise, the same for every frame.
            batch_size: as for :meth:`segment_images`.
            min_score: as in a call; an object that leaves is gone, and comes back.
            **options: as in a call.

        Yields:
            uint8 [H, W] label map of every frame; the first frame's is the one given.

        Raises:
            LDISError: no frame, labels that do not fit the first one or show no object, or as a call.
        """
        frames = iter(read_video(frames) if isinstance(frames, str | os.PathLike) else frames)
        if (start := next(frames, None)) is None:
            raise LDISError("frames: there are none; a video has at least one")
        labels = read_first_labels(first_frame_labels)
        prompts = prompts_of_frame(read_image(start), labels)
        lookup = np.array([0, *prompts], np.uint8)
        yield labels
        shared = {"seed": seed, "ignore_label": 255, "batch_size": batch_size, "min_score": min_score, **options}
        for result in self.segment_images(frames, {str(value): pairs for value, pairs in prompts.items()}, **shared):
            yield lookup[np.asarray(result)]

    def instruction_tokens(self, prompt_images: ArrayLike, prompt_masks: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """Computes the instruction tokens of prompts.

        Args:
            prompt_images: [B, K, S, S, 3] in [-1, 1].
            prompt_masks: [B, K, S, S] in {0, 1, 255}.

        Returns:
            (tokens [B, K*L, D], float32 mask [B, K*L] in {0, 1}).
        """
        return self._predictor.instruction_tokens(prompt_images, prompt_masks)

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
        """The network's own output R = decoded - task.image_share * query, float32 [B, S, S, 3].

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
        options |= {"noise": noise, "step_noise": step_noise}
        inputs = self._predictor.inputs(query, prompt_images, prompt_masks, num_prompts, seed)
        return self.task.residual(self._predictor.predict(inputs, options), inputs[0])

    def _class_result(self, canvas: Canvas, names: Iterable[str], min_score: float | None) -> ClassSegmentation:
        return ClassSegmentation.of_logits(canvas.logits, names, self.task.confidence, min_score)

    def _result(self, canvas: Canvas, min_score: float | None) -> Segmentation:
        confidence = self.task.confidence
        mask, score = confidence.decide(canvas.logits[0], min_score)
        probability = class_probabilities(canvas.logits)[1]
        return Segmentation(mask, probability, canvas.pseudo_mask, score, confidence.is_calibrated)
