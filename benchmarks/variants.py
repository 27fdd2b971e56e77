"""What LoRA and the pixel-space loss cost in memory at Stable Diffusion 1.5's size: compiled for this machine, not run.

Gradients alone, without an optimizer. LoRA is compiled twice: as low-rank layers beside the frozen ones, which is what
``ldis_jax`` does, and with W + B A built inside the step. Command: ``python benchmarks/variants.py``
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ldis_jax.models import LDISModel, LoRA
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.models.params import Params, flatten, unflatten

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FAST = {"xla_backend_optimization_level": 0}  # of machine code, not of buffers


def report(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Compiles and prints a row of the table."""
    start = time.time()
    compiled = jax.jit(function).lower(*arguments).compile(compiler_options=FAST)
    facts = compiled.memory_analysis()
    sizes = (facts.temp_size_in_bytes / 2**30, facts.output_size_in_bytes / 2**30)
    print(f"| {name} | {sizes[0]:.2f} | {sizes[1]:.3f} | {time.time() - start:.0f} |", flush=True)


def unet_loss(graphdef: nnx.GraphDef[LDISModel], dtype: str) -> Callable[..., jax.Array]:
    """Mean square of what a UNet paints, as a function of (trained, frozen, latents, tokens)."""

    def loss(trained: Params, frozen: Params, latents: jax.Array, tokens: jax.Array) -> jax.Array:
        unet = unflatten(graphdef, trained, frozen).unet
        painted = unet(latents, jnp.zeros(latents.shape[0], int), tokens.astype(dtype), jnp.zeros(tokens.shape[:2]))
        return jnp.mean(jnp.square(painted))

    return loss


def merged_in_the_step(graphdef: nnx.GraphDef[LDISModel], dtype: str) -> Callable[..., jax.Array]:
    """As :func:`unet_loss` of a UNet without LoRA, whose kernels are W + A B of the pairs in ``trained``."""

    def loss(trained: Params, frozen: Params, *inputs: jax.Array) -> jax.Array:
        params = dict(frozen)
        for name in [name for name in trained if name.endswith("lora_A/kernel")]:
            layer = name.removesuffix("/lora_A/kernel")
            product = trained[name] @ trained[f"{layer}/lora_B/kernel"]
            params[f"{layer}/kernel"] = params[f"{layer}/kernel"] + product.astype(params[f"{layer}/kernel"].dtype)
        params |= {name: value for name, value in trained.items() if "lora" not in name}
        return unet_loss(graphdef, dtype)(params, {}, *inputs)

    return loss


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", choices=("lora", "pixel"))
    parser.add_argument("--micro", action="store_true", help="the tests' smallest networks, to try this script")
    args = parser.parse_args()
    dtype, config, size = args.dtype, ModelConfig(), 256
    if args.micro:
        from tests.helpers import MICRO, SIZE

        config, size = MICRO["ldis1"], SIZE
    width, side = config.prompt_encoder.width, size // config.vae.downscale
    latents = jax.ShapeDtypeStruct((args.batch, side, side, config.vae.latent_channels), jnp.float32)
    print(f"batch {args.batch}, {size} x {size}, {dtype}\n")
    print("| gradient of | temporaries, GiB | results, GiB | compiled in, s |\n|---|---|---|---|")

    def unet_parameters(lora: LoRA | None) -> tuple[nnx.GraphDef[LDISModel], Params, Params]:
        model = LDISModel.abstract(config, dtype=dtype, lora=lora)
        graphdef, trained, frozen = flatten(model)
        return graphdef, trained, {n: jax.ShapeDtypeStruct(x.shape, dtype) for n, x in frozen.items()}  # type: ignore

    if args.only != "pixel":
        tokens = jax.ShapeDtypeStruct((args.batch, 256, width), jnp.float32)
        whole, every, towers = unet_parameters(None)
        adapted, trained, frozen = unet_parameters(LoRA(args.rank))
        rows = {
            "the UNet": (unet_loss(whole, dtype), every, towers),
            f"LoRA {args.rank}, low-rank layers": (unet_loss(adapted, dtype), trained, frozen),
            f"LoRA {args.rank}, merged in the step": (merged_in_the_step(whole, dtype), trained, frozen),
        }
        for name, (loss, *params) in rows.items():
            report(name, jax.value_and_grad(loss), *params, latents, tokens)

    if args.only != "lora":
        vae, state = nnx.split(LDISModel.abstract(config, dtype=dtype).vae)
        image = jax.ShapeDtypeStruct((args.batch, size, size, 3), jnp.float32)
        for remat in ("none", "blocks"):

            def pixel(z: jax.Array, state: Any, target: jax.Array, remat: str = remat) -> jax.Array:
                painted = nnx.merge(vae, state).decode(z / 0.18215, remat)
                return jnp.mean(jnp.square(painted - target))

            report(f"the pixel-space loss, remat {remat!r}", jax.value_and_grad(pixel), latents, state, image)


if __name__ == "__main__":
    main()
