"""Networks in memory and the programs compiled for them: arrays of the network's own size in, arrays out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike, DTypeLike

from ldis_jax.diffusion import StepState, step_table, take_step
from ldis_jax.errors import LDISError
from ldis_jax.inference.program import prediction
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import Params, flatten, unflatten
from ldis_jax.runtime import sharding
from ldis_jax.support.checks import check_number
from ldis_jax.support.prediction_options import OPTIONS, SCALES, STATIC
from ldis_jax.tasks import LDISN, PromptInputs, Prompts, PromptTokens, Task, query_keys
from ldis_jax.tasks.ldisn import Conditions
from ldis_jax.tasks.task import decode, draw_noise

_DTYPES = ("float32", "bfloat16")
# XLA's default on a CPU makes what it can as early as it can: a tenth more memory, and no faster.
_CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

Inputs = tuple[jax.Array, Prompts, jax.Array]  # queries [B, S, S, 3], their prompts, their keys [B]


class Predictor:
    """One model, and its programs, compiled when they are first needed.

    The number of prompts is padded to 1, 2, 3, 4, 6, 8, 12, ... with tokens that nothing attends to, so that another K
    rarely compiles another program. With several devices a batch is spread over them.
    """

    def __init__(self, task: Task, model: LDISModel, devices: int = 1):
        """Takes over the networks.

        Args:
            task: with the defaults of prediction.
            model: the networks; abstract ones, on one device, are enough to compile; :meth:`load` has to follow.
            devices: how many of this process's devices share a batch.

        Raises:
            LDISError: there are fewer devices.
        """
        local = jax.local_devices()
        if not 1 <= devices <= len(local):
            raise LDISError(f"devices={devices}: this process has {len(local)}; choose from 1 to {len(local)}")
        self.task, self.config, self.devices = task, model.config, devices
        self._graphdef = flatten(model)[0]
        self._mesh = sharding.make_mesh(devices=local[:devices]) if devices > 1 else None
        self.load(model)
        jit = functools.partial(jax.jit, compiler_options=_CPU_OPTIONS if jax.default_backend() == "cpu" else None)
        # One program a (K, batch) and choice of these; guidance scales are arrays and compile nothing.
        self._predict = jit(self._predict_fn, static_argnames=STATIC)
        self._read = jit(self._read_fn)
        self._tokens = jit(self._tokens_fn)
        self._begin = jit(self._begin_fn)
        self._step = jit(self._step_fn, static_argnames=("guided", "sampler"))

    @property
    def model(self) -> LDISModel:
        """The networks."""
        return unflatten(self._graphdef, self.params)

    @property
    def dtype(self) -> jnp.dtype:
        """In which the networks compute."""
        return jax.tree.leaves(self.params)[0].dtype

    def load(self, model: LDISModel) -> None:
        """Other parameters of the same networks; what is compiled stays."""
        _, trained, frozen = flatten(model)
        self.params = trained | frozen
        if self._mesh is not None:
            self.params = jax.device_put(self.params, sharding.replicated(self._mesh))

    def to(self, dtype: DTypeLike | None = None, devices: int | None = None) -> Predictor:
        """The same networks in another type, or on another number of devices."""
        cast = jax.tree.map(lambda x: x.astype(dtype), self.params) if dtype is not None else self.params
        one = jax.device_put(cast, jax.local_devices()[0]) if self._mesh else cast
        return Predictor(self.task, unflatten(self._graphdef, one), devices or self.devices)

    def instruction_tokens(self, images: ArrayLike, masks: ArrayLike) -> tuple[jax.Array, jax.Array]:
        """See :meth:`ldis_jax.LDISPipeline.instruction_tokens`."""
        return self._tokens(self.params, *self._check_prompts(images, masks))

    def inputs(
        self, query: ArrayLike, images: ArrayLike, masks: ArrayLike, num_prompts: ArrayLike | None, seed: int
    ) -> Inputs:
        """Checked, with K padded; shapes as for :meth:`ldis_jax.LDISPipeline.predict`."""
        images, masks = self._check_prompts(images, masks)
        size, (batch, count) = self.task.image_size, masks.shape[:2]
        query = _as_array("query", query, (batch, size, size, 3), jnp.float32)
        real = np.full(batch, count) if num_prompts is None else num_prompts
        return query, self._pad_prompts(images, masks, real), _keys(seed, np.arange(batch))

    def read_prompts(self, images: ArrayLike, masks: ArrayLike, num_prompts: ArrayLike) -> PromptTokens:
        """Prompts for :meth:`predict_classes`; [C, K, S, S, 3], [C, K, S, S] and int [C]."""
        return self._read(self.params, self._pad_prompts(*self._check_prompts(images, masks), num_prompts))

    def predict_classes(
        self, query: np.ndarray, classes: np.ndarray, prompts: PromptTokens, seed: int, options: dict[str, Any]
    ) -> jax.Array:
        """Rendered [B, S, S, 3] of queries [B, S, S, 3], each with the prompts of its class, int [B].

        A query's noise depends on its class alone, so that a result does not depend on what else is in the batch.
        """
        own = jax.tree.map(lambda x: x[classes], prompts)
        return self.predict((jnp.asarray(query), own, _keys(seed, classes)), options)

    def predict(self, inputs: Inputs, options: dict[str, Any]) -> jax.Array:
        """Returns what the decoder renders, float32 [B, S, S, 3]; the task's ``residual`` makes R of it."""
        found = [self._predict(self.params, *own, **chosen) for own, chosen in self._calls(inputs, options)]
        return found[0][: inputs[0].shape[0]] if len(found) == 1 else jnp.concatenate(found)

    def lower(
        self, num_prompts: int, num_classes: int, options: dict[str, Any]
    ) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
        """The programs of :meth:`read_prompts` and then :meth:`predict_classes` for one query.

        Those calls compile nothing more where these were compiled; parameters may be abstract.
        """
        size = self.task.image_size
        images = np.zeros((num_classes, num_prompts, size, size, 3), np.float32)
        masks = np.zeros(images.shape[:-1], np.uint8)
        prompts = self._pad_prompts(*self._check_prompts(images, masks), np.ones(num_classes))
        read = self._read.lower(self.params, prompts)
        tokens = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), read.out_info)
        inputs = (jnp.asarray(images[:, 0]), tokens, query_keys(0, np.arange(num_classes)))
        own, chosen = next(self._calls(inputs, options))
        return read, self._predict.lower(self.params, *own, **chosen)

    def _calls(self, inputs: Inputs, options: dict[str, Any]) -> Iterator[tuple[Inputs, dict[str, Any]]]:
        """The arguments of the calls that make up a prediction."""
        batch = inputs[0].shape[0]
        options = self.check_options(options, batch)
        if self._mesh is not None:
            yield self._spread(inputs, options, batch, self._mesh)
        elif jax.default_backend() == "cpu" and batch > 1:
            # What one image needs fits a CPU's caches, what four need does not: one at a time is a tenth faster.
            yield from ((_rows(inputs, [i]), _option_rows(options, [i])) for i in range(batch))
        else:
            yield inputs, options

    def steps(self, inputs: Inputs, options: dict[str, Any]) -> Iterator[jax.Array]:
        """Yields what every step of LDIS-n renders of its x_0; the last equals :meth:`predict`'s, to rounding."""
        options = self.check_options(options, inputs[0].shape[0])
        if not isinstance(self.task, LDISN):
            yield self._predict(self.params, *inputs)
            return
        task = dataclasses.replace(self.task, **{name: options[name] for name in STATIC})
        scales = {name: options[name] for name in SCALES}
        query, prompts, keys = inputs
        conditions, state = self._begin(self.params, query, prompts, keys, options.get("noise"))
        table = step_table(task.prediction_schedule, task.num_steps, task.sampler)
        for i in range(task.num_steps):
            row = {name: values[i] for name, values in table.items()}
            noise = options["step_noise"][i] if "step_noise" in options else None
            carried = (conditions, state, row, keys, noise, i + 1 == task.num_steps, scales)
            state, rendered = self._step(self.params, *carried, guided=task.is_guided(i), sampler=task.sampler)
            yield rendered

    def _pad_prompts(self, images: jax.Array, masks: jax.Array, num_prompts: ArrayLike) -> PromptInputs:
        padding = ((0, 0), (0, bucket(images.shape[1]) - images.shape[1]), (0, 0), (0, 0))
        images, masks = jnp.pad(images, (*padding, (0, 0))), jnp.pad(masks, padding)
        return PromptInputs(images, masks, _as_array("num_prompts", num_prompts, images.shape[:1], jnp.int32))

    def _spread(self, inputs: Inputs, options: dict[str, Any], batch: int, mesh: Mesh) -> tuple[Inputs, dict[str, Any]]:
        """Over all devices; a batch that they do not divide is filled up with its last image."""
        filled = np.minimum(np.arange(-(-batch // self.devices) * self.devices), batch - 1)
        inputs, options = _rows(inputs, filled), _option_rows(options, filled)
        inputs = jax.device_put(inputs, sharding.batch_sharding(mesh))
        for name, axis in _NOISE_AXES.items():
            if name in options:
                options[name] = jax.device_put(options[name], sharding.batch_sharding(mesh, axis))
        return inputs, options

    def _predict_fn(
        self, params: Params, query: jax.Array, prompts: Prompts, keys: jax.Array, **options: Any
    ) -> jax.Array:
        return prediction(self.task, self._graphdef)(params, query, prompts, keys, **options)

    def _tokens_fn(self, params: Params, images: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.task.instruction_tokens(unflatten(self._graphdef, params).prompt_encoder, images, masks)

    def _read_fn(self, params: Params, prompts: PromptInputs) -> PromptTokens:
        return self.task.read_prompts(unflatten(self._graphdef, params).prompt_encoder, prompts)

    def _begin_fn(
        self, params: Params, query: jax.Array, prompts: PromptInputs, keys: jax.Array, noise: jax.Array | None
    ) -> tuple[Conditions, StepState]:
        assert isinstance(self.task, LDISN)
        conditions = self.task.conditions(unflatten(self._graphdef, params), query, prompts)
        drawn = draw_noise(keys, conditions.query_latents.shape[1:], 0) if noise is None else noise
        return conditions, StepState.start(drawn)

    def _step_fn(
        self,
        params: Params,
        conditions: Conditions,
        state: StepState,
        row: dict[str, jax.Array],
        keys: jax.Array,
        step_noise: jax.Array | None,
        last: jax.Array,
        scales: dict[str, Any],
        *,
        guided: bool,
        sampler: str,
    ) -> tuple[StepState, jax.Array]:
        assert isinstance(self.task, LDISN)
        task, model = dataclasses.replace(self.task, **scales), unflatten(self._graphdef, params)
        shape = state.z.shape[1:]
        denoise = task.denoisers(model, conditions)[0 if guided else 1]
        state = take_step(
            denoise,
            lambda i: draw_noise(keys, shape, i + 1) if step_noise is None else step_noise,
            task.schedule.prediction_type,
            sampler,
            state,
            row,
        )
        latents = jnp.where(last, state.z, state.x_0)
        return state, decode(model.vae, latents)

    def _check_prompts(self, images: ArrayLike, masks: ArrayLike) -> tuple[jax.Array, jax.Array]:
        size = self.task.image_size
        masks = _as_array("prompt_masks", masks, ("B", "K", size, size))
        return _as_array("prompt_images", images, (*masks.shape, 3), jnp.float32), masks

    def check_options(self, options: dict[str, Any], batch: int = 1) -> dict[str, Any]:
        """Fills in LDIS-n's defaults and rejects what LDIS-1 would ignore."""
        options = {name: value for name, value in options.items() if value is not None}
        known = (*OPTIONS, *_NOISE_AXES) if isinstance(self.task, LDISN) else ()
        if unknown := options.keys() - set(known):
            raise LDISError(
                f"unknown option {', '.join(sorted(unknown))} of {self.task.name}; ldis1 takes none, ldisn "
                f"{', '.join(sorted(OPTIONS))}"
            )
        if not isinstance(self.task, LDISN):
            return {}
        options = {name: getattr(self.task, name) for name in OPTIONS} | options
        dataclasses.replace(self.task, **{name: options[name] for name in STATIC})  # it checks them
        for name in SCALES:
            options[name] = jnp.float32(check_number(name, options[name]))
        side = self.task.image_size // self.config.vae.downscale
        shape = (batch, side, side, self.config.vae.latent_channels)
        for name, expected in {"noise": shape, "step_noise": (options["num_steps"], *shape)}.items():
            if name in options:
                options[name] = _as_array(name, options[name], expected, jnp.float32)
        return options


_NOISE_AXES = {"noise": 0, "step_noise": 1}  # where the batch lies


def _rows(inputs: Any, rows: Any) -> Any:
    return jax.tree.map(lambda x: x[np.asarray(rows)], inputs)


def _option_rows(options: dict[str, Any], rows: Any) -> dict[str, Any]:
    return {
        name: jnp.take(x, np.asarray(rows), axis=_NOISE_AXES[name]) if name in _NOISE_AXES else x
        for name, x in options.items()
    }


def _as_array(name: str, value: ArrayLike, shape: Sequence[int | str], dtype: DTypeLike | None = None) -> jax.Array:
    """An array of a shape in which a word stands for any positive number."""
    found: Any = type(value).__name__
    with contextlib.suppress(TypeError, ValueError):
        array = jnp.asarray(value, dtype)
        found = array.shape
        wanted = zip(found, shape, strict=True)  # of another length, it raises
        if all(n >= 1 if isinstance(expected, str) else n == expected for n, expected in wanted):
            return array
    expected = ", ".join(map(str, shape))
    raise LDISError(f"{name} {found}: expected numbers [{expected}]; pipe(query, prompts) takes images")


def _keys(seed: int, indices: np.ndarray) -> jax.Array:
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 32:  # JAX drops the higher bits
        raise LDISError(f"seed={seed!r}: must be an integer from 0 to 2**32 - 1")
    return query_keys(int(seed), indices)


def check_dtype(dtype: str) -> None:
    """Raises :class:`LDISError` where it is none that predictions are made in."""
    if dtype not in _DTYPES:
        raise LDISError(f"dtype={dtype!r}: must be one of {_DTYPES}")


def bucket(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, ...: at most a third is padding."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if 4 * count <= 3 * power else power
