"""The ways of computing a convolution on this machine, in milliseconds: what models/convolution.py chooses between.

    python benchmarks/convolution.py

Rows are layers of SD 1.5 at 256 x 256: 3x3 kernels on small pictures, forwards and with gradients, as XLA's convolution
and as a product of patches; and convolutions of upsampled pictures, made as they are written and in four ninths of the
work. The median of --repeats, the two ways in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldis_jax.models import convolution

_LAYERS = [(1, 4, 1280), (3, 4, 1280), (1, 8, 1280), (3, 8, 1280), (1, 16, 640), (3, 16, 640), (1, 32, 320)]
_UPSAMPLED = [(1, 8, 1280), (1, 16, 640), (1, 32, 512), (1, 64, 512), (1, 128, 256)]

Function = Callable[..., jax.Array]


def milliseconds(functions: dict[str, Any], arguments: tuple[Any, ...], repeats: int) -> dict[str, float]:
    """The median of each, compiled and warm, in turn."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if i:
                found[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in found.items()}


def ways(kind: str, channels: int) -> tuple[dict[str, Function], Any]:
    """(name -> function of (parameters, picture), parameters) of one layer."""
    layer = convolution.conv(channels, channels, dtype=jnp.float32, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)

    def bind(function: Callable[[Any, jax.Array], jax.Array]) -> Function:
        return lambda state, x: function(nnx.merge(graph, state), x)

    if kind == "patches":
        return {"convolved": bind(nnx.Conv.__call__), "patches": bind(convolution.Conv._multiply_patches)}, state
    return {
        "upsampled": bind(lambda layer, x: nnx.Conv.__call__(layer, convolution.upsample_nearest(x))),
        "four ninths": bind(convolution.upsample_and_convolve),
    }, state


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    print("| picture | way | ms | ms with gradients |\n|---|---|---|---|")
    for kind, layers in (("patches", _LAYERS), ("upsampled", _UPSAMPLED)):
        for batch, size, channels in layers:
            functions, state = ways(kind, channels)
            x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, size, size, channels), np.float32))
            forward = {name: jax.jit(function) for name, function in functions.items()}
            gradients = {
                name: jax.jit(jax.grad(lambda *a, function=function: jnp.sum(jnp.sin(function(*a))), (0, 1)))
                for name, function in functions.items()
            }
            times = [milliseconds(each, (state, x), args.repeats) for each in (forward, gradients)]
            for name in functions:
                shape = f"{batch} x {size} x {size} x {channels}"
                print(f"| {shape} | {name} | {times[0][name]:.1f} | {times[1][name]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
