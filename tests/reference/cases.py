"""What is compared: small models, their inputs, and our side of every comparison. Needs no torch.

A case is a name such as "R/ldisn/ddim/3" (R of LDIS-n, DDIM, three prompts). ``jax_output`` computes it with
``ldis_jax``; ``torch_cases.torch_output`` with torch; ``tests/parity/golden/tiny.npz`` holds torch's figures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldis_jax.models.config import AutoencoderConfig, PromptEncoderConfig, UNetConfig
from ldis_jax.models.ldis import TRAINABLE, LDISModel, ModelConfig
from ldis_jax.tasks import LDIS1, LDISN, PromptInputs, instruction
from ldis_jax.weights import rules
from tests.reference.weights import generator, random_model

SIZE = 64
# SD 1.5's shape in small: every level of its own width, so that a mixed-up level cannot fit by accident.
_UNET = UNetConfig(
    block_out_channels=(16, 32, 48),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=4,
    cross_attention_dim=24,
    encoder_hid_dim=48,
    norm_num_groups=8,
)
_VAE = AutoencoderConfig(block_out_channels=(8, 16, 16, 32), norm_num_groups=4)
_TOWER = PromptEncoderConfig(image_size=56, patch_size=14, width=48, layers=2, heads=4)

CONFIGS = {
    "ldis1": ModelConfig(_UNET, _VAE, _TOWER),
    "ldisn": ModelConfig(UNetConfig(**{**vars(_UNET), "in_channels": 8}), _VAE, _TOWER),
    # Everything else that a config can say: plain CLIP, no adapter, heads a level, one layer a block, a /4 VAE.
    "plain": ModelConfig(
        UNetConfig(
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=(2, 8),
            cross_attention_dim=40,
            encoder_hid_dim=None,
            norm_num_groups=4,
            norm_eps=1e-4,
        ),
        AutoencoderConfig(block_out_channels=(8, 16, 24), layers_per_block=1, norm_num_groups=4, scaling_factor=0.3),
        PromptEncoderConfig(image_size=32, patch_size=8, width=40, layers=1, heads=5, alpha=False),
    ),
}
TASKS: dict[str, Any] = {
    "ldis1": LDIS1(image_size=SIZE, mask_alpha=0.2),
    "ldisn": LDISN(image_size=SIZE, conditioning_dropout=0.25),  # so that a batch of 4 meets every branch
    "plain": LDIS1(image_size=SIZE, timestep=7, masking="post"),
}
# One variant of the paper each, see docs/variants.md, on the smallest networks.
VARIANTS: dict[str, Any] = {
    "pixel": LDIS1(image_size=SIZE, mask_alpha=0.2, loss_space="pixel"),
    "perturbed": LDIS1(image_size=SIZE, target="perturbed", mask_noise=0.3, query_latents="sample"),
    "added": LDIS1(image_size=SIZE, target="added", mask_alpha=1.5),
    "noised": LDIS1(image_size=SIZE, noised=True, timestep=300),
    "pre": LDIS1(image_size=SIZE, masking="pre"),
    "post": LDIS1(image_size=SIZE, masking="post"),
    "none": LDIS1(image_size=SIZE, masking="none"),
    "ldisn_perturbed": LDISN(
        image_size=SIZE, target="perturbed", mask_alpha=0.0, mask_noise=0.3, masking="pre", conditioning_dropout=0.25
    ),
}
TASKS |= VARIANTS
_SMALL = ModelConfig(
    dataclasses.replace(CONFIGS["plain"].unet, encoder_hid_dim=40),
    CONFIGS["plain"].vae,
    dataclasses.replace(CONFIGS["plain"].prompt_encoder, alpha=True),
)
_SMALL_N = dataclasses.replace(_SMALL, unet=dataclasses.replace(_SMALL.unet, in_channels=8))
CONFIGS |= {name: _SMALL if task.name == "ldis1" else _SMALL_N for name, task in VARIANTS.items()}

LDISN_OPTIONS: dict[str, Any] = {"num_steps": 20, "image_guidance_scale": 1.5, "prompt_guidance_scale": 7.0}
CASES = (
    *(f"tokens/{name}" for name in ("ldis1", "plain", "null")),
    *(f"unet/{name}/{mask}" for name in ("ldis1", "ldisn", "plain") for mask in ("masked", "empty")),
    "unet/plain/unmasked",
    *(f"vae/{name}/{part}" for name in ("ldis1", "plain") for part in ("mean", "std", "decode")),
    *(f"R/{name}" for name in ("ldis1/1", "ldis1/3", "plain/3")),
    *(f"R/{name}/2" for name in ("added", "noised", "pre", "post", "none")),
    *(f"R/ldisn/{sampler}/{k}" for sampler in ("ddim", "ddpm") for k in (1, 3)),
    *(f"{part}/{name}" for part in ("loss", "gradient") for name in ("plain", "ldisn", "pixel")),
    *(f"loss/{name}" for name in ("perturbed", "added", "noised", "ldisn_perturbed")),
)


def error(case: str, ours: np.ndarray, truth: np.ndarray) -> float:
    """Largest error: absolute for R, relative for the norms of gradients, else as a share of the largest magnitude."""
    difference = np.abs(ours - truth)
    match case.split("/", maxsplit=1)[0]:
        case "R":
            return float(difference.max())
        case "gradient":
            return float((difference / np.maximum(truth, 0.01 * truth[0])).max())  # 1 % of the whole at least
    return float(difference.max() / np.abs(truth).max())


def tolerance(case: str) -> float:
    """What :func:`error` may reach; the demands are 1e-3 for R, 1e-4 for networks and 1e-5 for losses.

    A row whose tokens are all masked has logits of about -10000, where float32 is 0.001 apart: a logit that differs in
    its last bit can round to another multiple of that. Torch's own attention kernels differ by as much.
    """
    match case.split("/"):
        case "R", *_:
            return 1e-4
        case ("gradient", _) | ("unet", _, "empty"):
            return 5e-5
    return 1e-5


def normal(name: str, *shape: int) -> np.ndarray:
    """Standard normal float32 draws that belong to a name."""
    return generator(name).standard_normal(shape, np.float32)


def random_images(name: str, *shape: int, size: int = SIZE) -> np.ndarray:
    """float32 [*shape, S, S, 3] in [-1, 1]."""
    return generator(name).uniform(-1, 1, (*shape, size, size, 3)).astype(np.float32)


def random_masks(name: str, count: int, size: int = SIZE) -> np.ndarray:
    """int32 [count, S, S]: a box of 1 and, over it, a smaller one of 255 on 0, anywhere."""
    masks, draw = np.zeros((count, size, size), np.int32), generator(name)
    for mask in masks:
        for label, smallest, largest in ((1, size // 2, 7 * size // 8), (255, size // 8, size // 3)):
            height, width = draw.integers(smallest, largest, 2)
            top, left = draw.integers(0, size - height), draw.integers(0, size - width)
            mask[top : top + height, left : left + width] = label
    return masks


def prompts(num_prompts: int, batch: int = 2, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Images [B, K, S, S, 3] and masks [B, K, S, S]; the last row's first mask is all zero."""
    images = random_images(f"prompt_images{num_prompts}", batch, num_prompts, size=size)
    masks = random_masks(f"prompt_masks{num_prompts}", batch * num_prompts, size)
    masks = masks.reshape(batch, num_prompts, size, size)
    masks[-1, 0] = 0
    return images, masks


def prompt_inputs(*arrays: np.ndarray) -> PromptInputs:
    """NumPy prompts as what tasks take."""
    return PromptInputs(*map(jnp.asarray, arrays))


def query_image() -> np.ndarray:
    """[2, S, S, 3]."""
    return random_images("query_image", 2)


def unet_inputs(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Latents [6, 8, 8, C], timesteps [6], tokens [6, 32, D] and their 0/1 mask [6, 32], empty in rows 3 to 5."""
    config = CONFIGS[name].unet
    latents = normal(f"latents/{name}", 6, 8, 8, config.in_channels)
    tokens = normal(f"tokens/{name}", 6, 32, config.encoder_hid_dim or config.cross_attention_dim) / 2
    token_mask = (normal("token_mask", 6, 32) > 0.5).astype(np.float32)
    token_mask[3:] = 0
    return latents, np.array([0, 500, 999] * 2), tokens, token_mask


UNET_ROWS = {"masked": slice(0, 3), "empty": slice(3, 6), "unmasked": slice(0, 6)}


def sampling_noise(num_steps: int = 20) -> dict[str, np.ndarray]:
    """What replaces LDIS-n's draws."""
    return {"noise": normal("noise", 2, 8, 8, 4), "step_noise": normal("step_noise", num_steps, 2, 8, 8, 4)}


def training_batch() -> dict[str, np.ndarray]:
    """Four episodes of two prompts."""
    images, masks = prompts(2, batch=4)
    return {
        "query_image": random_images("train_query", 4),
        "query_mask": random_masks("train_query_mask", 4),
        "prompt_images": images,
        "prompt_masks": masks,
    }


def training_key() -> jax.Array:
    """The key of the pinned training step; its dropout draws meet all four branches (asserted by a test)."""
    return jax.random.key(0)


def training_draws(name: str) -> dict[str, np.ndarray]:
    """The draws that ``Task.loss`` makes from ``training_key``, in the order of its source."""
    task, shape = TASKS[name], (4, *latent_shape(name))
    if task.name == "ldis1":
        target_key, query_key, noise_key, perturb_key = jax.random.split(training_key(), 4)
        draws = {"target_noise": jax.random.normal(target_key, shape)}
        if task.query_latents == "sample":
            draws["query_noise"] = jax.random.normal(query_key, shape)
        if task.noised:
            draws["noise"] = jax.random.normal(noise_key, shape)
    else:
        target_key, time_key, noise_key, dropout_key, perturb_key = jax.random.split(training_key(), 5)
        draws = {
            "target_noise": jax.random.normal(target_key, shape),
            "timesteps": jax.random.randint(time_key, (4,), 0, 1000),
            "noise": jax.random.normal(noise_key, shape),
            "u": jax.random.uniform(dropout_key, (4,)),
        }
    if task.target == "perturbed":
        draws["perturbation"] = jax.random.normal(perturb_key, (4, SIZE, SIZE, 3))
    return {key: np.asarray(value) for key, value in draws.items()}


def latent_shape(name: str) -> tuple[int, int, int]:
    """[s, s, 4] of one of :data:`CONFIGS`."""
    side = SIZE // CONFIGS[name].vae.downscale
    return side, side, 4


def prediction_noise(name: str) -> np.ndarray:
    """What a noised LDIS-1 draws from the keys of :func:`predict`, a query at a time; [2, s, s, 4]."""
    keys = jax.random.split(jax.random.key(0), 2)
    return np.stack([jax.random.normal(jax.random.fold_in(key, 1), latent_shape(name)) for key in keys])


@functools.cache
def model(name: str) -> LDISModel:
    """One of :data:`CONFIGS` with random weights."""
    return random_model(CONFIGS[name])


def run(
    function: Callable[..., Any], module: nnx.Module, *args: Any, compiler_options: Any = None, **options: Any
) -> Any:
    """``function(module, *args, **options)`` under jit at full float32 precision, as NumPy arrays."""
    graphdef, state = nnx.split(module)
    arrays = {key: value for key, value in options.items() if isinstance(value, np.ndarray)}
    static = {key: value for key, value in options.items() if key not in arrays}

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def compiled(state: Any, args: Any, arrays: Any) -> Any:
        return function(nnx.merge(graphdef, state), *args, **arrays, **static)

    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, compiled(state, jax.tree.map(jnp.asarray, args), arrays))


def predict(name: str, query: np.ndarray, inputs: PromptInputs, **options: Any) -> np.ndarray:
    """R of one of :data:`TASKS`."""
    keys = jax.random.split(jax.random.key(0), query.shape[0])
    return run(TASKS[name].predict, model(name), query, inputs, keys, **options)


@functools.cache
def unet(name: str, masked: bool) -> np.ndarray:
    """The UNet on all six rows of :func:`unet_inputs`, with or without the token mask."""
    latents, timesteps, tokens, token_mask = unet_inputs(name)

    def forward(module: Any, mask: Any) -> jax.Array:
        return module(latents, timesteps, tokens, instruction.attention_bias(mask) if masked else None)

    return run(forward, model(name).unet, token_mask)


@functools.cache
def posterior(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The VAE's mean and standard deviation for the query images."""
    return run(lambda vae, image: vae.encode(image), model(name).vae, query_image())


@functools.cache
def training_step(name: str, with_gradient: bool) -> tuple[jax.Array, Any]:
    """One training step's loss and, if asked for, its gradient as a state of the UNet; half of the compilation."""
    graphdef, trainable, *frozen = nnx.split(model(name), TRAINABLE, ...)

    @jax.jit
    def step(trainable: Any, frozen: Any, batch: Any) -> Any:
        def loss(trainable: Any) -> jax.Array:
            return TASKS[name].loss(nnx.merge(graphdef, trainable, *frozen), batch, training_key())

        return jax.value_and_grad(loss)(trainable) if with_gradient else (loss(trainable), None)

    with jax.default_matmul_precision("highest"):
        return step(trainable, frozen, jax.tree.map(jnp.asarray, training_batch()))


def gradient_norms(name: str) -> np.ndarray:
    """Of the gradient, then of each tensor of the UNet in the order of torch's names."""
    flat = dict(nnx.to_flat_state(training_step(name, True)[1]))
    names = rules.table(model(name).unet)
    norms = np.array(
        [np.linalg.norm(np.asarray(flat[("unet", *names[key].path)].get_value())) for key in sorted(names)]
    )
    return np.array([np.linalg.norm(norms), *norms])


@functools.cache
def jax_output(case: str) -> np.ndarray:
    """Our result of a case; that of "gradient" is its norm, then each tensor's."""
    match case.split("/"):
        case "tokens", "null":
            return run(instruction.null_instruction_tokens, model("ldis1").prompt_encoder, num_prompts=2)
        case "tokens", name:
            return run(instruction.instruction_tokens, model(name).prompt_encoder, *prompts(3))[0]
        case "unet", name, mask:
            return unet(name, mask != "unmasked")[UNET_ROWS[mask]]
        case "vae", name, "decode":
            return run(lambda vae, z: vae.decode(z), model(name).vae, normal("vae", 2, 8, 8, 4))
        case "vae", name, part:
            return posterior(name)[("mean", "std").index(part)]
        case "R", "ldisn", sampler, k:
            options = LDISN_OPTIONS | sampling_noise() | {"sampler": sampler}
            return predict("ldisn", query_image(), prompt_inputs(*prompts(int(k))), **options)
        case "R", name, k:
            return predict(name, query_image(), prompt_inputs(*prompts(int(k))))
        case "loss", name:
            return np.asarray(training_step(name, f"gradient/{name}" in CASES)[0])
        case "gradient", name:
            return gradient_norms(name)
    raise KeyError(case)
