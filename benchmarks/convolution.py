"""The ways of computing a convolution on this machine, in milliseconds: what models/convolution.py chooses between.

    python benchmarks/convolution.py

Rows are layers of SD 1.5 at 256 x 256: 3x3 kernels as XLA's convolution, as a product of patches and as Winograd's
products; and the same of upsampled images, made as they are written and not made at all. ``--gradients`` takes
forward and backward pass together. The median of --repeats, the ways in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldis_jax.models import convolution, winograd

Layer = tuple[int, int, int, int]  # batch, size, channels in and out
_UNET: list[Layer] = [
    (1, 4, 1280, 1280),
    (3, 4, 1280, 1280),
    (1, 8, 1280, 1280),
    (3, 8, 1280, 1280),
    (1, 8, 2560, 1280),
    (1, 16, 640, 640),
    (3, 16, 640, 640),
    (1, 16, 1280, 640),
    (1, 32, 320, 320),
    (3, 32, 320, 320),
    (1, 32, 640, 320),
]
_AUTOENCODER: list[Layer] = [
    (1, 32, 512, 512),
    (1, 64, 512, 512),
    (1, 128, 512, 512),
    (1, 128, 256, 256),
    (1, 256, 256, 128),
    (1, 256, 128, 128),
]
_UPSAMPLED: list[Layer] = [
    (1, 8, 1280, 1280),
    (1, 16, 640, 640),
    (1, 32, 512, 512),
    (1, 64, 512, 512),
    (1, 128, 256, 256),
]

Function = Callable[[jax.Array, jax.Array], jax.Array]


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), convolution.PAD_BOTH, dimension_numbers=numbers)


PLAIN: dict[str, Function] = {
    "convolved": convolve,
    "patches": convolution.multiply_patches,
    "winograd": winograd.convolve,
}
UPSAMPLED: dict[str, Function] = {
    "upsampled": lambda x, kernel: convolve(convolution.upsample_nearest(x), kernel),
    "winograd": winograd.upsample_and_convolve,
}


def milliseconds(functions: dict[str, Function], x: jax.Array, kernel: jax.Array, repeats: int) -> dict[str, float]:
    """The median of each, compiled and warm, in turn."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(x, kernel))
            if i:
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in found.items()}


def with_gradients(function: Function) -> Function:
    """Its gradients, which need its result."""
    return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel))), (0, 1))  # type: ignore[return-value]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gradients", action="store_true")
    args = parser.parse_args()
    print("| of | image | channels out | way | ms |\n|---|---|---|---|---|")
    for title, layers, ways in (
        ("UNet", _UNET, PLAIN),
        ("autoencoder", _AUTOENCODER, PLAIN),
        ("upsampling", _UPSAMPLED, UPSAMPLED),
    ):
        for batch, size, channels, out in layers:
            rng = np.random.default_rng(0)
            x = jnp.asarray(rng.standard_normal((batch, size, size, channels), np.float32))
            kernel = jnp.asarray(rng.standard_normal((3, 3, channels, out), np.float32) / np.sqrt(9 * channels))
            measured = {name: jax.jit(with_gradients(way) if args.gradients else way) for name, way in ways.items()}
            for name, time_of in milliseconds(measured, x, kernel, args.repeats).items():
                shape = f"{batch} x {size} x {size} x {channels}"
                print(f"| {title} | {shape} | {out} | {name} | {time_of:.1f} |", flush=True)


if __name__ == "__main__":
    main()
