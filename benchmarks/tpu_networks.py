"""Predicted device time of each network on a TPU v5e chip beside the last Flax networks of diffusers, 0.35.2.

    python benchmarks/tpu_networks.py --json=docs/speed/tpu_networks.json

Both sides are bfloat16, batch 8, 256 x 256, compiled by the same TPU compiler (jax 0.10.2, libtpu 0.0.52) on a machine
without a TPU; a time is the sum of the compiler's own cycle estimates over the chip's clock. Nothing has run on a TPU.
The peer's figures were measured so once, with these versions; diffusers has dropped its Flax networks since.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ldis_jax.runtime.chips import get_chip, prepare_compile_only, slice_devices

TOPOLOGY, BATCH = "v5e:1x1", 8
# Predicted milliseconds of FlaxUNet2DConditionModel and FlaxAutoencoderKL, by their operations' estimates.
PEER_MS = {"UNet": 16.0, "VAE encoder": 13.8, "VAE decoder": 29.8}


def networks() -> dict[str, tuple[Any, Any, tuple[tuple[int, ...], ...]]]:
    """Name -> (module, function of it and arrays, shapes of the arrays)."""
    import jax.numpy as jnp

    from ldis_jax.models.ldis import LDISModel, ModelConfig

    sizes = ModelConfig()
    unet = dataclasses.replace(sizes.unet, encoder_hid_dim=sizes.prompt_encoder.width)
    model = LDISModel.abstract(dataclasses.replace(sizes, unet=unet), dtype=jnp.bfloat16)
    image, latents = (BATCH, 256, 256, 3), (BATCH, 32, 32, 4)
    tokens, mask = (BATCH, 256, sizes.prompt_encoder.width), (BATCH, 256)
    return {
        "UNet": (model.unet, lambda unet, *a: unet(*a), (latents, (BATCH,), tokens, mask)),
        "VAE encoder": (model.vae, lambda vae, x: vae.encode(x), (image,)),
        "VAE decoder": (model.vae, lambda vae, z: vae.decode(z), (latents,)),
        "prompt encoder": (
            model.prompt_encoder,
            lambda tower, *a: tower(*a),
            ((BATCH, 224, 224, 3), (BATCH, 224, 224)),
        ),
    }


def predict(module: Any, function: Any, shapes: tuple[tuple[int, ...], ...]) -> dict[str, float]:
    """Compiles one network for the chip."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from ldis_jax.costs.hlo import estimated_cycles
    from ldis_jax.costs.report import compile_with_text
    from ldis_jax.runtime.flops import count_flops

    where = jax.sharding.SingleDeviceSharding(slice_devices(TOPOLOGY)[0])

    def abstract(shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=where)

    graph, state = nnx.split(module)
    state = jax.tree.map(lambda x: abstract(x.shape), state)
    traced = jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays)).trace(
        state, *map(abstract, shapes)
    )
    compiled, text = compile_with_text(traced.lower())
    chip, flops = get_chip(TOPOLOGY), count_flops(traced.jaxpr)
    seconds = sum(estimated_cycles(text).values()) / chip.clock
    return {
        "ms": 1e3 * seconds,
        "tflop": flops / 1e12,
        "mfu": flops / chip.flops / seconds,
        "gigabytes_accessed": compiled.cost_analysis()["bytes accessed"] / 1e9,
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
    }


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    prepare_compile_only()
    rows = []
    print("| network | ours, ms | MFU | peer, ms | ratio |\n|---|---|---|---|---|")
    for name, arguments in networks().items():
        row = {"network": name, **predict(*arguments), "peer_ms": PEER_MS.get(name)}
        peer = f"{row['peer_ms']} | {row['ms'] / row['peer_ms']:.2f}" if row["peer_ms"] else " | "
        print(f"| {name} | {row['ms']:.1f} | {row['mfu']:.2f} | {peer} |", flush=True)
        rows.append(row)
    if args.json:
        from ldis_jax.support.files import write_json

        write_json(args.json, rows)


if __name__ == "__main__":
    main()
