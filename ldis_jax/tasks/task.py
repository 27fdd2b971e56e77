"""Tasks: hyper-parameters of the method, a training loss, and a prediction.

A task is a frozen dataclass of Python numbers: hashable, hence a static argument of ``jit``, and written as
``ldis_config.json``. Its methods are pure functions of a model and arrays.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.models.ldis import VAE, LDISModel, PromptEncoder
from ldis_jax.runtime.sharding import draw_batch
from ldis_jax.support.checks import check_fields
from ldis_jax.tasks import instruction, pseudo_mask
from ldis_jax.tasks.confidence import NOT_CALIBRATED, Confidence

_TASKS: dict[str, type[Task]] = {}


class PromptInputs(NamedTuple):
    """K prompts of one class for each query, padded to a static K.

    Attributes:
        images: [B, K, S, S, 3] in [-1, 1].
        masks: [B, K, S, S] in {0, 1, 255}.
        num_prompts: int32 [B], how many of the K are real; None where all are.
    """

    images: jax.Array
    masks: jax.Array
    num_prompts: jax.Array | None = None


class PromptTokens(NamedTuple):
    """:class:`PromptInputs` encoded once, for several predictions.

    Attributes:
        tokens: [B, K*L, D].
        mask: float32 [B, K*L] in {0, 1}.
        num_prompts: int32 [B], how many of the K are real; None where all are.
    """

    tokens: jax.Array
    mask: jax.Array
    num_prompts: jax.Array | None = None


Prompts = PromptInputs | PromptTokens


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Fields common to both architectures; docs/variants.md has a table of them.

    Attributes:
        image_size: S, the side of the network's square input in pixels.
        target: what the network learns to render: "augmented" (eq. 4), "perturbed" (the vanilla pseudo mask and noise)
            or "added" (the paper's first version); see :func:`ldis_jax.tasks.pseudo_mask.encode`.
        mask_alpha: g of eq. 4, 0 for the vanilla pseudo mask; of "added" the divisor alpha, at least 1.
        mask_noise: standard deviation of the noise of "perturbed", 0 for the others.
        tile: side of the square that the network sees at a time, as a share of an image's long side. 1 is the whole
            image, as in the paper. Below 1, for small objects, queries are cut into tiles and prompts are cropped
            around the object.
        object_bias: what is added to R[1] - R[0], 0 in the paper. A network that is shy of small objects finds more of
            them by a positive one, which is to be chosen on classes that it was trained on.
        masking: stages of eq. 1 at work: "both", "pre", "post" or "none". Plain CLIP knows no pre-masking.
        schedule: the noise process, kept in ``scheduler/`` of a model folder.
        confidence: what makes a score of a mask, and calls an object absent; training fits it at its end.
    """

    name: ClassVar[str]
    unet_in_channels: ClassVar[int]
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "target": pseudo_mask.TARGETS,
        "masking": tuple(instruction.MASKING),
    }

    image_size: int = 256
    mask_alpha: float = 0.0
    target: str = "augmented"
    mask_noise: float = 0.0
    masking: str = "both"
    tile: float = 1.0
    object_bias: float = 0.0
    schedule: NoiseSchedule = NoiseSchedule()
    confidence: Confidence = NOT_CALIBRATED

    def __post_init__(self) -> None:
        if problem := next(self._problems(), None):
            raise LDISError(f"no {self.name} can have {problem}")

    def _problems(self) -> Iterator[str]:
        """Yields values that are out of range or do not fit together; later checks rely on earlier ones."""
        for name, choices in self.choices.items():
            if getattr(self, name) not in choices:
                yield f"{name}={getattr(self, name)!r}; must be one of {choices}"
        fits, need = {
            "augmented": (0 <= self.mask_alpha < 1, "from 0 on and below 1"),
            "perturbed": (self.mask_alpha == 0, "0, for no image is mixed in"),
            "added": (self.mask_alpha >= 1, "at least 1, for it divides the image"),
        }[self.target]
        if not 0.02 <= self.tile <= 1:
            yield f"tile={self.tile}: must be from 0.02 to 1, a share of the image's long side"
        noise = "positive" if self.target == "perturbed" else "0"
        fits &= self.mask_noise > 0 if self.target == "perturbed" else self.mask_noise == 0
        if not fits or self.image_size < 1:
            yield (
                f"image_size={self.image_size}, target={self.target!r}, mask_alpha={self.mask_alpha}, "
                f"mask_noise={self.mask_noise}: need image_size >= 1, mask_alpha {need}, mask_noise {noise}"
            )

    def __init_subclass__(cls) -> None:
        _TASKS[cls.name] = cls

    @abc.abstractmethod
    def loss(self, model: LDISModel, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """Training loss of one batch, a scalar.

        Args:
            model: the networks.
            batch: ``query_image`` [B, S, S, 3], ``query_mask`` [B, S, S], ``prompt_images`` [B, K, S, S, 3],
                ``prompt_masks`` [B, K, S, S].
            key: source of every random draw.
        """

    @abc.abstractmethod
    def render(
        self, model: LDISModel, query_image: jax.Array, prompts: Prompts, keys: jax.Array, **options: Any
    ) -> jax.Array:
        """Renders the pseudo mask, float32 [B, S, S, 3] about [-1, 1].

        Args:
            model: the networks.
            query_image: [B, S, S, 3] in [-1, 1].
            prompts: K prompts a query.
            keys: [B] random keys, one a query, so that a result does not depend on its neighbours in the batch.
            **options: of the task.
        """

    def residual(self, rendered: Any, query_image: Any) -> Any:
        """R = rendered - g I_q, what remains when the image is taken out, [..., 3], of NumPy or JAX.

        g is :attr:`image_share`. R is (1 - g) M_v where augmented, else M_v, whatever range ``rendered`` has; half of
        :attr:`object_bias` is added to its green and taken from its red.
        """
        r = rendered if self.image_share == 0 else rendered - self.image_share * query_image
        return r if self.object_bias == 0 else r + self._bias(r.ndim)

    def rendered(self, residual: Any, query_image: Any) -> Any:
        """The inverse of :meth:`residual`, as the decoder rendered it."""
        return residual + self.image_share * query_image - self._bias(residual.ndim)

    def _bias(self, rank: int) -> np.ndarray:
        return (np.array([-0.5, 0.5, 0.0], np.float32) * np.float32(self.object_bias)).reshape((1,) * (rank - 1) + (3,))

    def predict(
        self, model: LDISModel, query_image: jax.Array, prompts: Prompts, keys: jax.Array, **options: Any
    ) -> jax.Array:
        """R, float32 [B, S, S, 3], of what :meth:`render` gives."""
        return self.residual(self.render(model, query_image, prompts, keys, **options), query_image)

    @property
    def needs_schedule(self) -> bool:
        """True if anything that is computed depends on :attr:`schedule`."""
        return True

    @property
    def draws_noise(self) -> bool:
        """True if a prediction depends on its random keys."""
        return True

    @property
    def image_share(self) -> float:
        """g, how much of the query the target holds: decoded = R + g I_q."""
        return pseudo_mask.image_share(self.mask_alpha, self.target)

    def instruction_tokens(
        self, prompt_encoder: PromptEncoder, prompt_images: jax.Array, prompt_masks: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """:func:`ldis_jax.tasks.instruction.instruction_tokens` with this task's stages of masking."""
        return instruction.instruction_tokens(prompt_encoder, prompt_images, prompt_masks, self.masking)

    def read_prompts(self, prompt_encoder: PromptEncoder, prompts: Prompts) -> PromptTokens:
        """Prompts as tokens, if they are not yet."""
        if isinstance(prompts, PromptTokens):
            return prompts
        tokens, mask = self.instruction_tokens(prompt_encoder, prompts.images, prompts.masks)
        return PromptTokens(tokens, mask, prompts.num_prompts)

    def target_image(self, query_mask: jax.Array, query_image: jax.Array, key: jax.Array) -> jax.Array:
        """The pseudo mask to be rendered, [B, S, S, 3], of masks [B, S, S]; ``key`` draws the noise of "perturbed"."""
        noise: jax.Array | float = 0.0
        if self.target == "perturbed":
            noise = self.mask_noise * draw_batch(jax.random.normal, key, query_image.shape)
        return pseudo_mask.encode(query_mask, query_image, self.mask_alpha, self.target, noise)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``ldis_config.json``; confidence only where it is not the default."""
        values = {"task": self.name, **dataclasses.asdict(self)}
        del values["schedule"], values["confidence"]
        return values if self.confidence == NOT_CALIBRATED else {**values, "confidence": self.confidence.to_dict()}


def task_from_dict(values: Mapping[str, Any], where: str = "ldis_config.json") -> Task:
    """The inverse of :meth:`Task.to_dict`; raises :class:`LDISError` on an unknown task, key or value."""
    values = dict(values)
    name = values.pop("task", None)
    if not isinstance(name, str) or name not in _TASKS:
        raise LDISError(f"{where}: task={name!r}; must be one of {sorted(_TASKS)}")
    confidence = values.pop("confidence", {})
    check_fields(_TASKS[name], values, where)
    try:
        return _TASKS[name](**values, confidence=Confidence.from_dict(confidence))
    except LDISError as error:
        raise LDISError(f"{where}: {error}") from None


def query_keys(seed: jax.Array | int, indices: ArrayLike) -> jax.Array:
    """A random key for each index, int [B]: a function of (seed, index) alone."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(indices))


def draw_noise(keys: jax.Array, shape: tuple[int, ...], count: jax.Array | int) -> jax.Array:
    """Standard normal [B, *shape]: draw number ``count`` of each query's key, [B]."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, count), shape))(keys)


def interleave(*arrays: jax.Array) -> jax.Array:
    """N arrays [B, ...] as one batch [B * N, ...], a sample's N in a row.

    One after the other, they would have to travel where a batch is cut over devices.
    """
    return jnp.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])


def separate(x: jax.Array, count: int) -> list[jax.Array]:
    """The inverse of :func:`interleave`."""
    x = x.reshape(-1, count, *x.shape[1:])
    return [x[:, i] for i in range(count)]


def encode_query_and_target(
    vae: VAE, query_image: jax.Array, target: jax.Array, key: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Encodes the query and its pseudo mask in one batch, for the VAE costs more than the UNet at 256 pixels.

    Returns:
        ((mean, std) of the query's posterior, a sample of the pseudo mask's), all unscaled, [B, s, s, 4].
    """
    mean, std = vae.encode(interleave(query_image, target))
    (query_mean, target_mean), (query_std, target_std) = separate(mean, 2), separate(std, 2)
    target_latents = target_mean + target_std * draw_batch(jax.random.normal, key, target_std.shape)
    return (query_mean, query_std), target_latents


def decode(vae: VAE, latents: jax.Array) -> jax.Array:
    """Scaled latents [B, s, s, 4] -> what they show, float32 [B, S, S, 3]."""
    return vae.decode(latents / vae.scaling_factor)
