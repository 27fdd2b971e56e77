"""Trains the frozen towers that ``ldis_jax/assets/tiny`` ships: a small VAE and a small Alpha-CLIP.

They play the part of Stable Diffusion's VAE and of Alpha-CLIP for the procedural episodes, and see only the classes
of the ``train`` split. They took 21 and 15 minutes, each on one CPU core:

    python tools/tiny_towers.py --out ldis_jax/assets/tiny

The VAE learns to reproduce scenes, 1/f noise images and (augmented) pseudo masks. The prompt encoder learns, from
the tokens under the mask, to name the shape, colour and pattern of the object the alpha channel points at.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ldis_jax.input_pipeline import procedural
from ldis_jax.models import AlphaCLIP, AutoencoderConfig, AutoencoderKL, PromptEncoderConfig
from ldis_jax.models.layers import key_stream
from ldis_jax.tasks import instruction, pseudo_mask
from ldis_jax.weights import to_torch
from ldis_jax.weights.model_folder import write_network

IMAGE_SIZE = 64
VAE = AutoencoderConfig(
    block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=8, scaling_factor=1.0, sample_size=IMAGE_SIZE
)
PROMPT_ENCODER = PromptEncoderConfig(image_size=IMAGE_SIZE, patch_size=8, width=96, layers=4, heads=4)


def normalise(image: np.ndarray) -> np.ndarray:
    """uint8 to [-1, 1]."""
    return ((image - 127.5) / 127.5).astype(np.float32)


def pink_noise(rng: np.random.Generator) -> np.ndarray:
    """An image with the 1/f spectrum of photographs. [S, S, 3] in [-1, 1]."""
    f = np.hypot(np.fft.fftfreq(IMAGE_SIZE)[:, None], np.fft.fftfreq(IMAGE_SIZE)[None])
    spectrum = np.fft.fft2(rng.normal(size=(3, IMAGE_SIZE, IMAGE_SIZE))) / np.maximum(f, 1 / IMAGE_SIZE) ** rng.uniform(
        1, 1.6
    )
    image = np.fft.ifft2(spectrum).real.transpose(1, 2, 0)
    image = image / image.std() * rng.uniform(0.2, 0.7) + rng.uniform(-0.4, 0.4, 3)
    return np.clip(image, -1, 1).astype(np.float32)


def autoencoder_batches(seed: int, size: int) -> Iterator[np.ndarray]:
    """Half scenes, then pseudo masks, vanilla and augmented, and noise images. [B, S, S, 3]."""
    scenes = procedural.ProceduralScenes(image_size=IMAGE_SIZE)
    for step in range(1 << 30):
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        batch = []
        for i in range(size):
            episode = scenes.draw(rng, 0)
            image = normalise(episode.query_image)
            kind = i % 8
            if kind in (4, 5, 6):
                alpha = (0.0, 0.0, rng.uniform(0.1, 0.7))[kind - 4]
                image = np.asarray(pseudo_mask.encode(episode.query_mask[None], image[None], alpha)[0])
            elif kind == 7:
                image = pink_noise(rng)
            batch.append(image)
        yield np.stack(batch)


def autoencoder_loss(vae: AutoencoderKL, images: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Reconstruction from a posterior sample, and a light KL towards N(0, I)."""
    mean, std = vae.encode(images)
    decoded = vae.decode(mean + std * jax.random.normal(key, std.shape))
    mse, mae = jnp.mean(jnp.square(decoded - images)), jnp.mean(jnp.abs(decoded - images))
    kl = jnp.mean(0.5 * (jnp.square(mean) + jnp.square(std) - 1.0) - jnp.log(std))
    return mse + 0.1 * mae + 1e-3 * kl, {"mse": mse, "kl": kl}


class Namer(nnx.Module):
    """The prompt encoder under three linear classifiers, which are thrown away after training."""

    def __init__(self, key: jax.Array):
        rngs = key_stream(key)
        self.prompt_encoder = AlphaCLIP(PROMPT_ENCODER, rngs=rngs)
        sizes = (len(procedural.SHAPES), len(procedural.COLOURS), len(procedural.PATTERNS))
        self.norm = nnx.LayerNorm(PROMPT_ENCODER.width, rngs=rngs)
        self.heads = nnx.List(nnx.Linear(PROMPT_ENCODER.width, size, rngs=rngs) for size in sizes)


def namer_batches(seed: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Images, masks and attributes of the masked objects."""
    scenes = procedural.ProceduralScenes(image_size=IMAGE_SIZE)
    for step in range(1 << 30):
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        episodes = [scenes.draw(rng, 0) for _ in range(size)]
        yield {
            "images": np.stack([normalise(e.query_image) for e in episodes])[:, None],
            "masks": np.stack([e.query_mask for e in episodes])[:, None],
            "attributes": np.array([procedural.attributes(e.class_id) for e in episodes]),
        }


def namer_loss(model: Namer, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of shape, colour and pattern, read from the mean of the tokens under the mask."""
    del key
    tokens, mask = instruction.instruction_tokens(model.prompt_encoder, batch["images"], batch["masks"])
    pooled = jnp.einsum("btd,bt->bd", tokens, mask) / jnp.maximum(mask.sum(1), 1.0)[:, None]
    pooled = model.norm(pooled)
    loss, metrics = jnp.zeros(()), {}
    for i, (name, head) in enumerate(zip(("shape", "colour", "pattern"), model.heads, strict=True)):
        logits, truth = head(pooled), batch["attributes"][:, i]
        loss += jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, truth))
        metrics[name] = jnp.mean(logits.argmax(-1) == truth)
    return loss, metrics


def train(
    module: nnx.Module, loss_fn: Callable[..., Any], batches: Iterator[Any], steps: int, learning_rate: float
) -> nnx.Module:
    """Adam with a cosine schedule; prints a line every hundred steps."""
    graphdef, params = nnx.split(module)
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 10), steps, learning_rate / 100)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))

    @jax.jit
    def step_fn(params: Any, opt_state: Any, batch: Any, step: int) -> Any:
        key = jax.random.fold_in(jax.random.key(0), step)
        (loss, metrics), grads = jax.value_and_grad(
            lambda p: loss_fn(nnx.merge(graphdef, p), batch, key), has_aux=True
        )(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, {"loss": loss, **metrics}

    opt_state, start = tx.init(params), time.time()
    for step in range(steps):
        params, opt_state, metrics = step_fn(params, opt_state, next(batches), step)
        if step % 100 == 0 or step == steps - 1:
            line = "  ".join(f"{k} {float(v):.4f}" for k, v in metrics.items())
            print(f"step {step}  {line}  {time.time() - start:.0f} s", flush=True)
    return nnx.merge(graphdef, params)


def main() -> None:
    """Trains one tower or both and writes them into the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write vae/ and prompt_encoder/ into")
    parser.add_argument("--only", choices=("vae", "prompt_encoder"), help="train one of the two")
    parser.add_argument("--vae_steps", type=int, default=1000)
    parser.add_argument("--prompt_encoder_steps", type=int, default=2000)
    args = parser.parse_args()
    if args.only != "prompt_encoder":
        vae = AutoencoderKL(VAE, rngs=key_stream(jax.random.key(1)))
        vae = train(vae, autoencoder_loss, autoencoder_batches(1, 16), args.vae_steps, 2e-3)
        mean, _ = jax.jit(vae.encode)(next(autoencoder_batches(2, 128)))
        vae.config = dataclasses.replace(VAE, scaling_factor=round(float(1.0 / jnp.std(mean)), 5))
        write_network(args.out, "vae", vae.config, to_torch(vae))
    if args.only != "vae":
        namer = train(Namer(jax.random.key(2)), namer_loss, namer_batches(3, 32), args.prompt_encoder_steps, 1e-3)
        tower = namer.prompt_encoder
        write_network(args.out, "prompt_encoder", tower.config, to_torch(tower))


if __name__ == "__main__":
    main()
