"""Conversion and loading at full size: SD 1.5 + ViT-L/14, random weights, seconds and memory, beside torch.

    python benchmarks/convert.py --json=convert.json

Writes a diffusers folder, Alpha-CLIP's .pth and OpenAI's TorchScript archive of random weights (5.7 GB) into --work,
runs ``python -m ldis_jax.convert`` on them, loads the result, and loads the same networks in torch through diffusers
and transformers. Each measurement is a process of its own, from its start to its end, its imports and mapped files
counted in its memory. Needs 20 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_LOAD = """
import gc, time
{setup}
start = time.perf_counter()
{load}
seconds = time.perf_counter() - start
gc.collect()
with open("/proc/self/status") as file:
    resident = next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
print(seconds, resident)
"""
_JAX = {
    "setup": "from ldis_jax import LDISPipeline\nimport jax; jax.devices()",
    "load": "pipe = LDISPipeline.from_pretrained({folder!r}, dtype={dtype!r})",
}
_TORCH = {
    "setup": "import torch, diffusers, transformers",
    "load": """
dtype = torch.{dtype}
unet = diffusers.UNet2DConditionModel.from_pretrained({folder!r}, subfolder="unet", torch_dtype=dtype)
vae = diffusers.AutoencoderKL.from_pretrained({folder!r}, subfolder="vae", torch_dtype=dtype)
tower = transformers.CLIPVisionModel.from_pretrained({clip!r}, dtype=dtype)
""",
}


def write_sources(work: Path, micro: bool) -> dict[str, Path]:
    """The files a user owns, at full size; ``micro``: of the tests' smallest networks."""
    import torch
    import transformers

    from ldis_jax.models.ldis import LDISModel, ModelConfig
    from ldis_jax.weights.model_folder import write_network
    from tests.helpers import CLIP_TOWER, MICRO
    from tests.reference import foreign
    from tests.reference.weights import module_weights

    sizes = dataclasses.replace(MICRO["ldis1"], prompt_encoder=CLIP_TOWER) if micro else ModelConfig()
    model = LDISModel.abstract(dataclasses.replace(sizes, unet=dataclasses.replace(sizes.unet, encoder_hid_dim=None)))
    for name in ("unet", "vae"):
        module = getattr(model, name)
        write_network(work / "sd15", name, module.config, module_weights(name, module).tensors)
    tower = {n: t.read() for n, t in module_weights("prompt_encoder", model.prompt_encoder).tensors.items()}
    torch.save(foreign.tensors(tower), work / "alpha_clip.pth")
    foreign.write_torchscript(work / "ViT-L-14.pt", foreign.openai_names(tower))
    size = sizes.prompt_encoder
    config = transformers.CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.image_size,
        patch_size=size.patch_size,
    )
    transformers.CLIPVisionModel(config).save_pretrained(work / "clip")
    return {name: work / name for name in ("sd15", "alpha_clip.pth", "ViT-L-14.pt", "clip")}


def measure(command: list[str]) -> dict[str, Any]:
    """Seconds, peak memory in bytes, and what the process printed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command}: {errors}")
    return {"seconds": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * 1024, "output": output}


def measure_load(template: dict[str, str], **values: str) -> dict[str, Any]:
    """A load in a fresh process: its seconds without imports, its peak, and what stays resident."""
    code = _LOAD.format(setup=template["setup"], load=template["load"].format(**values))
    result = measure([sys.executable, "-c", code])
    seconds, resident = result.pop("output").split()
    return {**result, "process_seconds": result["seconds"], "seconds": float(seconds), "resident_bytes": int(resident)}


def size_of(*paths: Path) -> int:
    """Bytes of files, folders included."""
    return sum(f.stat().st_size for path in paths for f in ([path] if path.is_file() else path.rglob("*")))


def main() -> None:
    """Prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--work", help="where the weights go for a while (default: the system's temporary folder)")
    parser.add_argument("--micro", action="store_true", help="the tests' smallest networks, to try this script")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        work = Path(temporary)
        sources = write_sources(work, args.micro)
        checkpoint = size_of(*(sources[name] for name in ("sd15", "alpha_clip.pth")))
        for task in ("ldis1", "ldisn"):
            command = ["--task", task, "--sd15", str(sources["sd15"]), "--out", str(work / task)]
            command += ["--alpha_clip", str(sources["alpha_clip.pth"]), "--clip", str(sources["ViT-L-14.pt"])]
            rows[f"convert {task}"] = measure([sys.executable, "-m", "ldis_jax.convert", *command])
        paper = ["--model", str(work / "ldis1"), "--to", "ldis_pt", "--out", str(work / "paper.pt")]
        rows["convert to ldis_pt"] = measure([sys.executable, "-m", "ldis_jax.convert", *paper])
        folder, clip = str(work / "ldisn"), str(sources["clip"])
        for dtype in ("float32", "bfloat16"):
            rows[f"ours {dtype}"] = measure_load(_JAX, folder=folder, dtype=dtype)
            rows[f"torch {dtype}"] = measure_load(_TORCH, folder=folder, clip=clip, dtype=dtype)

    print(f"checkpoint: {checkpoint / 1e9:.2f} GB\n")
    print(f"{'':24}{'seconds':>9}{'peak GB':>9}{'of bytes':>10}{'resident GB':>13}")
    for name, row in rows.items():
        resident = f"{row['resident_bytes'] / 1e9:13.2f}" if "resident_bytes" in row else ""
        peak = row["peak_bytes"]
        print(f"{name:24}{row['seconds']:9.1f}{peak / 1e9:9.2f}{peak / checkpoint:9.2f}x{resident}")
    ratios = {f"load seconds, ours / torch, {d}": rows[f"ours {d}"]["seconds"] / rows[f"torch {d}"]["seconds"]
              for d in ("float32", "bfloat16")}  # fmt: skip
    ratios["resident, bfloat16 / float32"] = (
        rows["ours bfloat16"]["resident_bytes"] / rows["ours float32"]["resident_bytes"]
    )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    if args.json:
        from ldis_jax.support.files import write_json

        for row in rows.values():
            row.pop("output", None)
        write_json(args.json, {"checkpoint_bytes": checkpoint, "rows": rows, "ratios": ratios})


if __name__ == "__main__":
    main()
