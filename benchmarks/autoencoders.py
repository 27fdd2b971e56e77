"""What AutoencoderTiny costs and gains: masks that survive the way through an autoencoder, and its time beside SD's.

    python benchmarks/autoencoders.py --vae=taesd --data=coco_mini --json=docs/speed/autoencoders.json

``--vae`` is a diffusers folder (AutoencoderTiny or AutoencoderKL), ``--data`` a folder in VOC's layout. Each episode's
true mask is painted as the pseudo mask M_v, encoded, decoded and read again, at 256 pixels: the IoU with itself is the
best that any UNet can reach through that autoencoder. Times are of this machine, one image at a time, float32, the
median of ``--repeats``; SD 1.5's AutoencoderKL has random weights, which takes as long.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ldis_jax.evaluators import MeanIoU
from ldis_jax.input_pipeline import VOCFolder, episode_rng
from ldis_jax.input_pipeline.transforms import eval_transform
from ldis_jax.models import AutoencoderConfig, AutoencoderKL
from ldis_jax.models.layers import key_stream
from ldis_jax.models.ldis import VAE, make_vae
from ldis_jax.support import cli
from ldis_jax.support.files import write_json
from ldis_jax.tasks import pseudo_mask
from ldis_jax.weights.model_folder import open_weights, read_vae_config
from ldis_jax.weights.rules import fill

SIZE = 256


def load(folder: Path) -> VAE:
    """The autoencoder of a folder."""
    config = read_vae_config(folder)
    fresh = nnx.eval_shape(lambda: make_vae(config, dtype=jnp.float32, rngs=key_stream(jax.random.key(0))))
    return fill(fresh, open_weights(folder, "vae"))


def surviving(vae: VAE, data: Path, split: str, count: int) -> dict[str, float]:
    """Figures of masks after the way through an autoencoder, with their true ones."""
    source, metric = VOCFolder(data, split), MeanIoU("hsnet")
    graphdef, state = nnx.split(vae)

    @jax.jit
    def through(mask: jax.Array, image: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state)
        mean, _ = model.encode(pseudo_mask.encode(mask, image, 0.0))
        return model.decode(mean)

    for i in range(count):
        episode = source.draw(episode_rng(0, i), 0)
        image, mask = eval_transform(episode.query_image, episode.query_mask, SIZE)
        r = np.asarray(through(jnp.asarray(mask[None]), jnp.asarray(image[None])))[0]
        metric.update(pseudo_mask.to_mask(r), mask, episode.class_id)
    result = metric.result()
    return {"miou": result["miou"], "fb_iou": result["fb_iou"]}


def seconds(vae: VAE, repeats: int) -> dict[str, float]:
    """Of encoding an image and of decoding one."""
    graphdef, state = nnx.split(vae)
    image = jnp.zeros((1, SIZE, SIZE, 3))
    encode = jax.jit(lambda state, x: nnx.merge(graphdef, state).encode(x)[0])
    decode = jax.jit(lambda state, z: nnx.merge(graphdef, state).decode(z))
    latents, found = encode(state, image), {}
    for name, run, x in (("encode", encode, image), ("decode", decode, latents)):
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            jax.block_until_ready(run(state, x))
            times.append(time.perf_counter() - start)
        found[f"{name}_seconds"] = statistics.median(times[1:])
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, required=True, help="diffusers folder of an autoencoder")
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC's layout")
    parser.add_argument("--split", default="val")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    vae = load(args.vae)
    sd = AutoencoderKL(AutoencoderConfig(), rngs=key_stream(jax.random.key(0)))
    rows: list[dict[str, Any]] = [
        {"network": type(vae).__name__, **surviving(vae, args.data, args.split, args.episodes)}
        | seconds(vae, args.repeats),
        {"network": "SD 1.5's AutoencoderKL", "miou": None, "fb_iou": None} | seconds(sd, args.repeats),
    ]
    for row in rows:
        print(row)
    if args.json:
        write_json(args.json, {"episodes": args.episodes, "rows": rows})


if __name__ == "__main__":
    cli.run(main)
