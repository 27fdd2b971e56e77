"""The images of docs/how_ldis_works.md, of painted scenes and small trained models: LDIS-1's, and LDIS-n's steps.

python -m ldis_jax.main --config=configs/tiny.py
python -m ldis_jax.main --config=configs/tiny_ldisn.py
python tools/explain_pictures.py --model=runs/tiny/model --out=docs/pictures
python tools/explain_pictures.py --model=runs/tiny_ldisn/model --out=docs/pictures
python tools/explain_pictures.py --model=runs/evidence/ldis1_absent-1/model --out=docs/pictures --only=leaving
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.pictures import write_page_sheet
from ldis_jax import LDISPipeline
from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.input_pipeline import Episode, ProceduralScenes, episode_rng, eval_image
from ldis_jax.input_pipeline.procedural import split_classes
from ldis_jax.look_inside import LookInside, attended_sheet, steps_sheet, tokens_sheet
from ldis_jax.media.overlays import contact_sheet, magnify, spotlight, to_image
from ldis_jax.support import cli
from ldis_jax.tasks import pseudo_mask

_EPISODE = (1, 47)  # seed and number, chosen for a scene that is easily read
_LEAVING = (1, 3)
_TIMESTEPS = (0, 100, 250, 500, 750, 999)


def prediction(pipe: LDISPipeline, episode: Episode) -> np.ndarray:
    """Query, prompt, what is painted, and the mask that is read off it."""
    prompt, mask = episode.prompt_images[0], episode.prompt_masks[0]
    out = pipe(episode.query_image, [(prompt, mask)])
    query = magnify(episode.query_image)
    row = [
        spotlight(magnify(prompt), magnify(mask > 0)),
        query,
        out.pseudo_mask,
        spotlight(query, magnify(out.mask)),
        spotlight(query, magnify(episode.query_mask > 0)),
    ]
    return contact_sheet([row], ("prompt", "query", "painted pseudo mask", "mask", "true mask"), [""])


def pseudo_masks(pipe: LDISPipeline, episode: Episode, alpha: float = 0.4) -> np.ndarray:
    """Targets, and the latents of the augmented one under more and more noise, as the autoencoder decodes them."""
    image = jnp.asarray(eval_image(episode.query_image, pipe.task.image_size))[None]
    mask = jnp.asarray(episode.query_mask)[None]
    vanilla, augmented = (pseudo_mask.encode(mask, image, share) for share in (0.0, alpha))
    vae = pipe.model.vae
    latents = vae.encode(augmented)[0] * vae.scaling_factor
    noise = jax.random.normal(jax.random.key(0), latents.shape)
    noisy = [NoiseSchedule().add_noise(latents, noise, jnp.array([t])) for t in _TIMESTEPS]
    decoded = vae.decode(jnp.concatenate(noisy) / vae.scaling_factor)
    targets = [magnify(episode.query_image), to_image(np.asarray(vanilla[0])), to_image(np.asarray(augmented[0]))]
    blank = [np.full_like(targets[0], 255)] * (len(_TIMESTEPS) - len(targets))
    labels = [
        f"the query, its vanilla pseudo mask (eq. 2), its augmented one with g = {alpha} (eq. 4)",
        "what LDIS-n learns to denoise: its latent under the noise of timestep " + ", ".join(map(str, _TIMESTEPS)),
    ]
    rows = [targets + blank, [to_image(np.asarray(x)) for x in decoded]]
    return contact_sheet(rows, ("",) * len(_TIMESTEPS), labels)


def attention(look: LookInside, query: np.ndarray, prompts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """What the object and all else attend to."""
    *_, found = look.cross_attention(query, prompts)
    return attended_sheet(found, {"object": found.mask, "all else": ~found.mask})


def leaving(size: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """A video in which an object leaves and comes back, before others that stay.

    Returns:
        (frames, each uint8 [size, size, 3]; the first frame's mask, uint8 [size, size] in {0, 255}).
    """
    scenes = ProceduralScenes("unseen", size)
    moving, *others = rng.choice(split_classes("unseen"), 3, replace=False).tolist()
    behind, _ = scenes.scene(rng, others)
    stage, labels = scenes.scene(rng, [moving])
    rows, columns = np.nonzero(labels == moving)
    frames = []
    for share in (0.0, 0.4, 0.8, 1.2, 1.2, 0.8, 0.4, 0.0):  # of the way out
        x = columns + round(share * (size - columns.min()))
        seen = x < size
        frame = behind.copy()
        frame[rows[seen], x[seen]] = stage[rows[seen], columns[seen]]
        frames.append(frame)
    return frames, np.where(labels == moving, 255, 0).astype(np.uint8)


def leaving_sheet(pipe: LDISPipeline) -> np.ndarray:
    """The frames, what is found in them without a threshold, and what with the model's own."""
    frames, mask = leaving(pipe.task.image_size, episode_rng(*_LEAVING))
    every, kept = (list(pipe.segment_video(frames, mask, min_score=least)) for least in (0.0, None))
    large = [magnify(frame) for frame in frames]
    rows = [large] + [
        [spotlight(frame, magnify(found > 0)) for frame, found in zip(large, masks, strict=True)]
        for masks in (every, kept)
    ]
    labels = ["frames; the first one's mask is given", "every mask, min_score=0"]
    labels.append(f"masks whose score is below the model's min_score, {pipe.task.confidence.min_score:.2f}, are empty")
    return contact_sheet(rows, tuple(f"frame {i}" for i in range(len(frames))), labels)


def main() -> None:
    """Writes the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model trained on painted scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", help="write this image alone")
    args = parser.parse_args()
    pipe = LDISPipeline.from_pretrained(args.model)
    episode = ProceduralScenes("unseen", pipe.task.image_size).draw(episode_rng(*_EPISODE), num_shots=2)
    prompts = list(zip(episode.prompt_images, episode.prompt_masks, strict=True))
    sheets: dict[str, Callable[[], np.ndarray]]
    if pipe.task.name == "ldisn":
        sheets = {
            "steps": lambda: steps_sheet(episode.query_image, list(pipe.segment_steps(episode.query_image, prompts)))
        }
    else:
        look = LookInside(pipe)
        sheets = {
            "prediction": lambda: prediction(pipe, episode),
            "pseudo_masks": lambda: pseudo_masks(pipe, episode),
            "tokens": lambda: tokens_sheet(look.tokens(prompts)),
            "attention": lambda: attention(look, episode.query_image, prompts),
        }
        if pipe.task.confidence.min_score:
            sheets["leaving"] = lambda: leaving_sheet(pipe)
    for name in [args.only] if args.only else sheets:
        write_page_sheet(args.out / f"{name}.png", sheets[name]())


if __name__ == "__main__":
    cli.run(main)
