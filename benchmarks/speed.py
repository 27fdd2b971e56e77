"""Speed and memory beside torch: LDIS at the size of SD 1.5 and ViT-L/14, 256 pixels, the same weights and inputs.

    python benchmarks/speed.py --parts ldis1/1 ldis1/4 ldisn/1 ldisn/5 train/1 --json=speed.json

"ldis1/B" is a prediction of B queries, "ldisn/K" of one query with K prompts and "ldisn/K/B" of B, with ``--num_steps``
steps and guidance, "train/B" a training step of LDIS-1 with AdamW. Ours is what a user calls: ``LDISPipeline.predict``,
the step of ``ldis_jax.main``. The peer is the same algorithm in PyTorch over diffusers' networks, channels_last: eager
on a CPU, on a GPU compiled. Every measurement is a process of its own, the two sides in turn: one warm-up, then the
median of ``--repeats``. Memory is the process's largest while it is at work, weights included, or the GPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIDES = ("jax", "torch")
Run = Callable[[], Any]


def task_name(part: str) -> str:
    """The architecture that a part needs."""
    return "ldisn" if part.startswith("ldisn") else "ldis1"


def rows_of(part: str) -> tuple[int, int]:
    """(queries, prompts of each)."""
    kind, count, *more = part.split("/")
    return (int(more[0]) if more else 1, int(count)) if kind == "ldisn" else (int(count), 1)


def make_folder(folder: Path, name: str, micro: bool = False) -> None:
    """A model folder of random weights; made once."""
    from ldis_jax.models import UNetConfig
    from ldis_jax.models.ldis import ModelConfig
    from ldis_jax.tasks import LDIS1, LDISN
    from ldis_jax.weights import save_model
    from tests.helpers import MICRO, SIZE
    from tests.reference.weights import random_model

    side = {"image_size": SIZE} if micro else {}
    task = {"ldis1": LDIS1(mask_alpha=0.2, **side), "ldisn": LDISN(**side)}[name]
    networks = MICRO[name] if micro else ModelConfig(unet=UNetConfig(in_channels=task.unet_in_channels))
    save_model(folder, task, random_model(networks))


def inputs(folder: Path, batch: int, num_prompts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(queries, prompt images, prompt masks) of a folder's size; a fifth of each mask is object."""
    size = json.loads((folder / "ldis_config.json").read_text())["image_size"]
    rng = np.random.default_rng(0)
    query = rng.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    images = rng.uniform(-1, 1, (batch, num_prompts, size, size, 3)).astype(np.float32)
    masks = np.zeros((batch, num_prompts, size, size), np.uint8)
    masks[:, :, size // 4 : size * 7 // 10, size // 4 : size * 7 // 10] = 1
    return query, images, masks


def episodes(folder: Path, batch: int) -> dict[str, np.ndarray]:
    """A training batch."""
    query, images, masks = inputs(folder, batch, 1)
    return {"query_image": query, "query_mask": masks[:, 0], "prompt_images": images, "prompt_masks": masks}


# --- Ours ---


def jax_run(folder: Path, part: str, args: argparse.Namespace) -> Run:
    """The measured function; its result is on the host, or the device has finished."""
    kind = part.partition("/")[0]
    if kind == "train":
        return _jax_train(folder, rows_of(part)[0], args)
    from ldis_jax import LDISPipeline

    pipe = LDISPipeline.from_pretrained(folder, dtype=args.dtype)
    batch, num_prompts = rows_of(part)
    options = {} if kind == "ldis1" else {"num_steps": args.num_steps}
    arrays = inputs(folder, batch, num_prompts)
    return lambda: np.asarray(pipe.predict(*arrays, **options))


def _jax_train(folder: Path, batch: int, args: argparse.Namespace) -> Run:
    import jax

    from ldis_jax.config import base_config
    from ldis_jax.runtime import sharding
    from ldis_jax.runtime.memory import release_free_memory
    from ldis_jax.training.compiled_step import ready_step
    from ldis_jax.training.run import Run as TrainingRun
    from ldis_jax.training.step import StepMetrics, init_state

    config = base_config("ldis1")
    config.init.folder, config.batch_size, config.dtype = str(folder), batch, args.dtype
    config.task = {}  # the folder's
    mesh = sharding.make_mesh(**config.mesh)
    training = TrainingRun.from_config(config, mesh, jax.default_backend())
    _, params, frozen, _ = training.start()
    state, _ = init_state(params, training.optimizer, mesh, training.options)
    del params
    metrics = jax.device_put(StepMetrics.empty(), sharding.replicated(mesh))
    frozen = jax.device_put(frozen, sharding.replicated(mesh))
    step = ready_step(training).run
    release_free_memory()
    arrays = episodes(folder, batch)
    holder = [state]
    del state

    def run() -> None:  # the old state's memory becomes the new one's
        state, _ = step(holder.pop(), metrics, frozen, jax.device_put(arrays, sharding.batch_sharding(mesh)))
        holder.append(jax.block_until_ready(state))

    return run


def jax_memory() -> int | None:
    """Largest bytes of the accelerator; None on a CPU."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


# --- The peer ---


def torch_run(folder: Path, part: str, args: argparse.Namespace) -> Run:
    """As :func:`jax_run`."""
    import torch
    import torch.nn.functional as F

    from tests.reference.torch_ldis import TorchLDIS, encode_mask, nchw

    kind = part.partition("/")[0]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TorchLDIS(folder)
    dtype = getattr(torch, args.dtype)
    networks = (model.unet, model.vae, model.prompt_encoder)
    for network in networks:
        network.requires_grad_(network is model.unet and kind == "train")
        if not (network is model.unet and kind == "train"):
            network.to(device, dtype)
        network.to(device, memory_format=torch.channels_last)
    compiled = torch.compile if device == "cuda" else lambda function, **_: function
    batch, num_prompts = rows_of(part)
    query, images, masks = inputs(folder, batch, num_prompts)
    queries = nchw(query).to(device)
    prompts = nchw(images).to(device)
    masks_on_device = torch.from_numpy(masks).to(device)
    scale = model.scale

    def tokens() -> tuple[Any, Any]:
        tower = model.prompt_encoder
        flat = masks_on_device.flatten(0, 1)[:, None].float()
        resized = F.interpolate(prompts.flatten(0, 1), tower.image_size, mode="bilinear", align_corners=False)
        alpha = (F.interpolate(flat, tower.image_size, mode="nearest") - 0.5) / 0.26
        found = tower(resized.to(dtype), alpha.to(dtype))
        mask = F.interpolate(flat, tower.grid, mode="nearest").flatten(1)
        return found.reshape(batch, -1, found.shape[-1]), mask.reshape(batch, -1)

    def decode(latents: Any) -> Any:
        return model.vae.decode((latents / scale).to(dtype)).sample - model.task["mask_alpha"] * queries

    def predict_ldis1() -> Any:
        latents = model.vae.encode(queries.to(dtype)).latent_dist.mode() * scale
        found, mask = tokens()
        return decode(model.unet(latents, 0, found, encoder_attention_mask=mask).sample)

    def predict_ldisn() -> Any:
        latents = model.vae.encode(queries.to(dtype)).latent_dist.mode()
        found, mask = tokens()
        square = (model.prompt_encoder.image_size,) * 2
        null = model.prompt_encoder(
            torch.zeros(1, 3, *square, dtype=dtype, device=device),
            torch.full((1, 1, *square), 0.5 / 0.26, dtype=dtype, device=device),
        ).repeat(batch, num_prompts, 1)
        scheduler = model.schedulers["ddpm"]
        scheduler.set_timesteps(args.num_steps)
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(latents.shape, generator=generator).to(device, dtype)
        conditions = torch.cat([latents, latents, torch.zeros_like(latents)])
        contexts, context_mask = torch.cat([found, null, null]), torch.cat([mask, mask, mask])
        for t in scheduler.timesteps:
            sample = torch.cat([torch.cat([z, z, z]), conditions], dim=1)
            branches = model.unet(sample, t, contexts, encoder_attention_mask=context_mask).sample
            full, query_only, neither = branches.chunk(3)
            guided = neither + 1.5 * (query_only - neither) + 7.0 * (full - query_only)
            z = scheduler.step(guided, t, z).prev_sample
        return decode(z)

    if kind == "train":
        goal_mask = masks[:, 0]
        optimizer = torch.optim.AdamW(model.unet.parameters(), lr=1e-5)
        unet = compiled(model.unet)

        def train() -> None:
            with torch.no_grad():
                goal = encode_mask(goal_mask, queries.cpu(), model.task).to(device, dtype)
                posterior = model.vae.encode(torch.cat([queries.to(dtype), goal])).latent_dist
                latents = posterior.mean[:batch] * scale
                target = (posterior.mean + posterior.std * torch.randn_like(posterior.mean))[batch:] * scale
                found, mask = tokens()
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                painted = unet(latents, 0, found, encoder_attention_mask=mask).sample
            F.mse_loss(painted.float(), target.float()).backward()
            torch.nn.utils.clip_grad_norm_(model.unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device == "cuda":
                torch.cuda.synchronize()

        return train
    predict = compiled(predict_ldis1 if kind == "ldis1" else predict_ldisn)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return predict().float().cpu().numpy()

    return run


def torch_memory() -> int | None:
    """As :func:`jax_memory`."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


# --- Measuring ---


def worker(side: str, folder: Path, part: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times one side of one part in this process."""
    run = {"jax": jax_run, "torch": torch_run}[side](folder, part, args)
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    if args.wait:  # until whoever started both sides lets this one run alone
        print("ready", flush=True)
        input()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    peak = {"jax": jax_memory, "torch": torch_memory}[side]()
    if peak is None:
        status = Path("/proc/self/status").read_text()
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return {"first": first, "seconds": seconds, "peak_bytes": peak}


def measure(part: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one part, in turn."""
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    passed = [f"--dtype={args.dtype}", f"--num_steps={args.num_steps}", f"--repeats={args.repeats}"]
    for _ in range(args.rounds):
        for side in SIDES:
            command = [sys.executable, __file__, "--worker", side, str(folder), part, *passed]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
            found[side].append(json.loads(out.splitlines()[-1]))
    pairs = list(zip(*(found[side] for side in SIDES), strict=True))
    ratios = [statistics.median(ours["seconds"]) / statistics.median(peer["seconds"]) for ours, peer in pairs]
    row: dict[str, Any] = {"part": part, "dtype": args.dtype, "num_steps": args.num_steps}
    for side in SIDES:
        row[side] = {
            "seconds": statistics.median(s for one in found[side] for s in one["seconds"]),
            "first": min(one["first"] for one in found[side]),
            "peak_bytes": max(one["peak_bytes"] for one in found[side]),
        }
    row["time_ratio"], row["time_ratios"] = statistics.median(ratios), ratios
    row["memory_ratio"] = row["jax"]["peak_bytes"] / row["torch"]["peak_bytes"]
    return row


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["ldis1/1", "ldis1/4", "ldisn/1", "ldisn/5", "train/1"])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--num_steps", type=int, default=20, help="of LDIS-n (default 20)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs a process (default 3)")
    parser.add_argument("--rounds", type=int, default=2, help="processes a side (default 2)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--work", help="keep the 5 GB of weights of an architecture here")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        side, folder, part = args.worker
        print(json.dumps(worker(side, Path(folder), part, args)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        print("| part | ours, s | torch, s | ratio | first, s | memory, GB | torch's | ratio |\n" + "|---" * 8 + "|")
        for part in args.parts:
            folder = Path(args.work or temporary) / task_name(part)
            if not folder.exists():
                make_folder(folder, task_name(part))
            row = measure(part, folder, args)
            ours, peer = row["jax"], row["torch"]
            gb = [side["peak_bytes"] / 1e9 for side in (ours, peer)]
            cells = (f"{ours['seconds']:.2f}", f"{peer['seconds']:.2f}", f"{row['time_ratio']:.2f}")
            cells += (f"{ours['first']:.1f}", f"{gb[0]:.2f}", f"{gb[1]:.2f}", f"{row['memory_ratio']:.2f}")
            print("| " + " | ".join((part, *cells)) + " |", flush=True)
            rows.append(row)
    if args.json:
        from ldis_jax.support.files import write_json

        write_json(args.json, rows)


if __name__ == "__main__":
    main()
