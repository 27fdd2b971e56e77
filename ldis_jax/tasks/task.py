"""What a task is: hyper-parameters of the method, a training loss, and a prediction.

A task is a frozen dataclass of Python numbers: hashable, hence a static argument of ``jit``, and written as
``ldis_config.json``. Its methods are pure functions of a model and arrays.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from ldis_jax import pseudo_mask
from ldis_jax.checks import check_fields
from ldis_jax.errors import LDISError, list_names
from ldis_jax.models.ldis import VAE, LDISModel

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


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Fields common to both architectures.

    Attributes:
        image_size: S, the side of the network's square input in pixels.
        mask_alpha: g of eq. 4; 0 is the vanilla pseudo mask.
    """

    name: ClassVar[str]
    unet_in_channels: ClassVar[int]

    image_size: int = 256
    mask_alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size < 1 or not 0 <= self.mask_alpha < 1:
            raise ValueError(f"image_size={self.image_size}, mask_alpha={self.mask_alpha}: need S >= 1, 0 <= g < 1")

    def __init_subclass__(cls) -> None:
        _TASKS[cls.name] = cls

    @abc.abstractmethod
    def loss(
        self, model: LDISModel, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Training loss of one batch.

        Args:
            model: the networks.
            batch: ``query_image`` [B, S, S, 3], ``query_mask`` [B, S, S], ``prompt_images`` [B, K, S, S, 3],
                ``prompt_masks`` [B, K, S, S].
            key: source of every random draw.

        Returns:
            (scalar loss, further scalars to log).
        """

    @abc.abstractmethod
    def predict(
        self, model: LDISModel, query_image: jax.Array, prompts: PromptInputs, keys: jax.Array, **options: Any
    ) -> jax.Array:
        """R = decoded - g I_q, float32 [B, S, S, 3], for queries [B, S, S, 3] in [-1, 1].

        ``keys`` [B] are one random key a query, so that a result does not depend on its neighbours in the batch.
        """

    def to_dict(self) -> dict[str, Any]:
        """The content of ``ldis_config.json``."""
        return {"task": self.name, **dataclasses.asdict(self)}


def task_from_dict(values: Mapping[str, Any], where: str = "ldis_config.json") -> Task:
    """The inverse of :meth:`Task.to_dict`; raises :class:`LDISError` on an unknown task, key or value."""
    values = dict(values)
    name = values.pop("task", None)
    if not isinstance(name, str) or name not in _TASKS:
        raise LDISError(f"{where}: task={name!r}; must be one of {sorted(_TASKS)}")
    cls = _TASKS[name]
    if unknown := set(values) - cls().to_dict().keys():
        raise LDISError(f"{where}: unknown key {list_names(unknown)} for task {name!r}")
    check_fields(cls, values, where)
    try:
        return cls(**values)
    except ValueError as error:
        raise LDISError(f"{where}: {error}") from None


def encode_query_and_target(
    vae: VAE, query_image: jax.Array, query_mask: jax.Array, mask_alpha: float, key: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Encodes the query and its pseudo mask in one batch, for the VAE costs more than the UNet at 256 pixels.

    Returns:
        ((mean, std) of the query's posterior, a sample of the pseudo mask's), all unscaled, [B, s, s, 4].
    """
    target = pseudo_mask.encode(query_mask, query_image, mask_alpha)
    mean, std = vae.encode(jnp.concatenate([query_image, target]))
    (query_mean, target_mean), (query_std, target_std) = jnp.split(mean, 2), jnp.split(std, 2)
    target_latents = target_mean + target_std * jax.random.normal(key, target_std.shape)
    return (query_mean, query_std), target_latents


def decode_residual(vae: VAE, latents: jax.Array, query_image: jax.Array, mask_alpha: float) -> jax.Array:
    """Scaled latents [B, s, s, 4] -> R float32 [B, S, S, 3]."""
    decoded = vae.decode(latents / vae.scaling_factor)
    return pseudo_mask.residual(decoded, query_image, mask_alpha)
