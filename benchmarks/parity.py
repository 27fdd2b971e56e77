"""Full-size parity with torch: SD 1.5 and ViT-L/14 sizes, random weights, float32, 256 pixels.

    python benchmarks/parity.py --json=parity.json
    python benchmarks/parity.py --parts tokens unet vae ldis1 ldisn/ddim/1 ldisn/ddpm/3/4

A part "ldisn/SAMPLER/K" takes --num_steps steps, "ldisn/SAMPLER/K/STEPS" its own. One framework's networks are in
memory at a time (about 9 GB at most); the weights pass through a model folder of 5 GB in --work. Exits with 1 if a part
fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from tqdm import tqdm

from ldis_jax.models import LDISModel, UNetConfig
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.support.files import write_json
from ldis_jax.tasks import LDIS1, LDISN, Task, instruction
from ldis_jax.weights import save_model
from tests.reference import cases
from tests.reference.weights import random_model

SIZE, LATENT = 256, 32
TASKS: dict[str, Task] = {"ldis1": LDIS1(mask_alpha=0.2), "ldisn": LDISN()}
PARTS = ("tokens", "unet", "vae", "ldis1", "ldisn/ddim/1", "ldisn/ddpm/1", "ldisn/ddim/3", "ldisn/ddpm/3")
GUIDANCE = {"image_guidance_scale": 1.5, "prompt_guidance_scale": 7.0}
# Largest error: absolute in R, elsewhere as a share of the output's largest magnitude.
R_TOLERANCE, NETWORK_TOLERANCE = 1e-3, 1e-4

Outputs = Iterator[tuple[str, np.ndarray]]


def prompts(num_prompts: int, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A query's prompts; with more than one row, or more than one prompt, the first mask of the last row is empty."""
    images, masks = cases.prompts(num_prompts, batch=max(batch, 2), size=SIZE)
    rows = slice(None) if batch > 1 else slice(-1, None) if num_prompts > 1 else slice(1)
    return images[rows], masks[rows]


def query() -> np.ndarray:
    """[1, S, S, 3]."""
    return cases.random_images("query", 1, size=SIZE)


def unet_inputs(in_channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two rows, the second with all tokens masked."""
    token_mask = np.stack([cases.normal("token_mask", 256) > 0.5, np.zeros(256)]).astype(np.float32)
    latents = cases.normal("latents", 2, LATENT, LATENT, in_channels)
    return latents, np.array([500, 1]), cases.normal("tokens", 2, 256, 1024), token_mask


def sampler_options(part: str, num_steps: int) -> tuple[dict[str, Any], int]:
    """Arguments of a prediction by LDIS-n, and K."""
    _, sampler, num_prompts, *steps = part.split("/")
    num_steps = int(*steps) if steps else num_steps
    shape = (1, LATENT, LATENT, 4)
    noise = {"noise": cases.normal("noise", *shape), "step_noise": cases.normal("step_noise", num_steps, *shape)}
    return {"num_steps": num_steps, "sampler": sampler, **GUIDANCE, **noise}, int(num_prompts)


def jax_outputs(model: LDISModel, task: Task, part: str, num_steps: int) -> Outputs:
    """Our results of one part."""

    def run(function: Any, module: Any, *args: Any, **options: Any) -> Any:
        return cases.run(function, module, *args, fast_compile=False, **options)

    keys = jax.random.split(jax.random.key(0), 1)
    match part.split("/"):
        case ["tokens"]:
            yield "tokens", run(instruction.instruction_tokens, model.prompt_encoder, *prompts(2, batch=2))[0]
            yield "tokens/null", run(instruction.null_instruction_tokens, model.prompt_encoder, num_prompts=1)
        case ["unet"]:
            latents, timesteps, tokens, token_mask = unet_inputs(model.unet.config.in_channels)
            painted = run(
                lambda unet, mask: unet(latents, timesteps, tokens, instruction.attention_bias(mask)),
                model.unet,
                token_mask,
            )
            yield f"unet/{task.name}/masked", painted[:1]
            yield f"unet/{task.name}/empty", painted[1:]
        case ["vae"]:
            mean, std = run(lambda vae, image: vae.encode(image), model.vae, query())
            yield "vae/mean", mean
            yield "vae/std", std
            latents = cases.normal("vae", 1, LATENT, LATENT, 4)
            yield "vae/decode", run(lambda vae, z: vae.decode(z), model.vae, latents)
        case ["ldis1"]:
            inputs = cases.prompt_inputs(*prompts(1))
            yield "R/ldis1", run(task.predict, model, query(), inputs, keys)
        case ["ldisn", *_]:
            options, num_prompts = sampler_options(part, num_steps)
            inputs = cases.prompt_inputs(*prompts(num_prompts))
            name = f"R/ldisn/{options['sampler']}/{num_prompts}/{options['num_steps']}"
            yield name, run(task.predict, model, query(), inputs, keys, **options)


def torch_outputs(model: Any, part: str, num_steps: int) -> Outputs:
    """Torch's results of one part, in the same order; the names are ours."""
    import torch

    from tests.reference.torch_ldis import nchw, nhwc

    with torch.inference_mode():
        match part.split("/"):
            case ["tokens"]:
                yield "", model.instruction_tokens(*prompts(2, batch=2))[0].numpy()
                yield "", model.null_tokens(1, 1).numpy()
            case ["unet"]:
                latents, timesteps, tokens, mask = unet_inputs(model.unet.config.in_channels)
                arguments = (nchw(latents), *map(torch.from_numpy, (timesteps, tokens, mask)))
                painted = nhwc(model.denoise(*arguments))
                yield "", painted[:1]
                yield "", painted[1:]
            case ["vae"]:
                posterior = model.vae.encode(nchw(query())).latent_dist
                yield "", nhwc(posterior.mean)
                yield "", nhwc(posterior.std)
                yield "", nhwc(model.vae.decode(nchw(cases.normal("vae", 1, LATENT, LATENT, 4))).sample)
            case ["ldis1"]:
                yield "", model.predict_ldis1(query(), *prompts(1))
            case ["ldisn", *_]:
                options, num_prompts = sampler_options(part, num_steps)
                yield "", model.predict_ldisn(query(), *prompts(num_prompts), **options)


def timed(outputs: Outputs) -> Iterator[tuple[str, np.ndarray, float]]:
    """(name, output, seconds), compilation included."""
    start = time.perf_counter()
    for name, output in outputs:
        yield name, output, time.perf_counter() - start
        start = time.perf_counter()


def compare(task_name: str, parts: Sequence[str], num_steps: int, work: str | None) -> Iterator[dict[str, Any]]:
    """Runs one task's parts in JAX, frees the networks, runs them in torch, and yields one row an output."""
    task = TASKS[task_name]
    if work:
        Path(work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        model = random_model(ModelConfig(unet=UNetConfig(in_channels=task.unet_in_channels)))
        save_model(Path(folder) / "model", task, model)
        ours = {}
        for part in tqdm(parts, desc=f"{task_name} in jax"):
            ours[part] = list(timed(jax_outputs(model, task, part, num_steps)))
            jax.clear_caches()
        del model
        from tests.reference.torch_ldis import TorchLDIS

        theirs = TorchLDIS(Path(folder) / "model")
        for part in tqdm(parts, desc=f"{task_name} in torch"):
            pairs = zip(ours[part], timed(torch_outputs(theirs, part, num_steps)), strict=True)
            for (name, output, jax_seconds), (_, truth, torch_seconds) in pairs:
                error, largest = float(np.abs(output - truth).max()), float(np.abs(truth).max())
                absolute = name.startswith("R/")
                tolerance = R_TOLERANCE if absolute else NETWORK_TOLERANCE * largest
                yield {
                    "output": name,
                    "shape": list(truth.shape),
                    "max_abs_error": error,
                    "max_abs_output": largest,
                    "relative_error": error / largest,
                    "tolerance": tolerance,
                    "passed": bool(np.isfinite(output).all() and error <= tolerance),
                    "jax_seconds": round(jax_seconds, 1),
                    "torch_seconds": round(torch_seconds, 1),
                }


def main() -> int:
    """Prints a table; 0 if everything passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--num_steps", type=int, default=20, help="of LDIS-n (default 20)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument(
        "--work", help="where the 5 GB of weights go for a while (default: the system's temporary folder)"
    )
    args = parser.parse_args()
    for part in args.parts:
        if part not in PARTS and "/".join(part.split("/")[:3]) not in PARTS:
            parser.error(f"no part {part!r}; choose from {', '.join(PARTS)}")

    by_task = {
        "ldis1": [part for part in args.parts if not part.startswith("ldisn")],
        "ldisn": [part for part in args.parts if part.startswith("ldisn")],
    }
    if by_task["ldisn"] and "unet" in args.parts:
        by_task["ldisn"].insert(0, "unet")  # with its eight input channels
    rows = []
    for name, parts in by_task.items():
        for row in compare(name, parts, args.num_steps, args.work) if parts else ():
            rows.append(row)
            if args.json:  # after every row, for the whole takes long
                write_json(
                    args.json,
                    {"backend": jax.default_backend(), "passed": all(r["passed"] for r in rows), "rows": rows},
                )
    print(
        f"\n{'output':24} {'max |error|':>12} {'max |output|':>13} {'relative':>10} {'tolerance':>10}  jax s  torch s"
    )
    for row in rows:
        print(
            f"{row['output']:24} {row['max_abs_error']:12.2e} {row['max_abs_output']:13.3f}"
            f" {row['relative_error']:10.1e} {row['tolerance']:10.1e}"
            f" {row['jax_seconds']:6.1f} {row['torch_seconds']:8.1f}  {'pass' if row['passed'] else 'FAIL'}"
        )
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
