r"""The bundled model `small` on unseen classes of photographs, beside methods that learn nothing.

    python benchmarks/photographs.py --model=small --photos=photos --json=photographs.json --images=looked_at

Episodes are those of docs/evidence/photos/episodes, names only: prompt and query of one folder, classes that training
hides, at least 1 % of the pixels. Every method sees the same prompt and query at their own sizes. In percent, with
95 % intervals of the mean over classes. Of a model also the quality of its scores, beside as many episodes whose query
does not show what is prompted.

    copy       the prompt's mask, at the query's size
    all        everything is object
    histogram  OpenCV: how often a colour (Lab) with a texture (gradient) lies in the prompt's object and how often
               beside it; the ratio, smoothed, decides
    grabcut    OpenCV's GrabCut, started from that ratio
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from ldis_jax import LDISPipeline
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.evaluation.intervals import image_figures, score_figures
from ldis_jax.evaluators.absence import Scored
from ldis_jax.evaluators.mean_iou import episode_areas
from ldis_jax.input_pipeline import read_manifest
from ldis_jax.media.overlays import overlay
from ldis_jax.support import cli
from ldis_jax.support.files import write_json
from ldis_jax.tasks.confidence import iou_of

PRESENT, ABSENT = (Path(__file__).parents[1] / "docs/evidence/photos" / kind for kind in ("episodes", "absent"))
_BINS, _GRADIENT_BINS = 12, 4
_SHOWN = 10  # best and worst episodes that --images writes


class Episode(NamedTuple):
    """Images uint8 [H, W, 3] and masks uint8 [H, W] in {0, 1, 255}."""

    folder: str
    class_name: str
    name: str
    query: np.ndarray
    truth: np.ndarray
    prompt: np.ndarray
    prompt_mask: np.ndarray


Method = Callable[[Episode], np.ndarray]


def episodes(photos: Path, manifests: Path) -> Iterator[Episode]:
    """All frozen episodes of a folder of manifests, :data:`PRESENT` or :data:`ABSENT`."""
    for manifest in sorted(manifests.glob("*.json")):
        folder = photos / manifest.stem

        def read(name: str, class_id: int, folder: Path = folder) -> tuple[np.ndarray, np.ndarray]:
            image, labels = read_pair(
                folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png"
            )
            return image, np.where(labels == 255, 255, labels == class_id).astype(np.uint8)

        for record in read_manifest(manifest):
            query, prompt = read(record.query, record.class_id), read(record.prompts[0], record.class_id)
            yield Episode(folder.name, record.class_name, record.query, *query, *prompt)


# --- Methods that learn nothing: bool [H, W] of the query ---


def copy(episode: Episode) -> np.ndarray:
    """The prompt's mask, stretched."""
    size = episode.truth.shape[::-1]
    return cv2.resize((episode.prompt_mask == 1).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def everything(episode: Episode) -> np.ndarray:
    """All foreground."""
    return np.ones(episode.truth.shape, bool)


def _features(image: np.ndarray) -> list[np.ndarray]:
    """Lab, and the gradient's size, each uint8 [H, W]."""
    lab = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return [*lab, np.clip(cv2.GaussianBlur(gradient, (0, 0), 2.0) * 2, 0, 255).astype(np.uint8)]


def _log_ratio(episode: Episode) -> np.ndarray:
    """Smoothed log of object over rest, float32 [H, W]."""
    given, seen = (np.dstack(_features(image)) for image in (episode.prompt, episode.query))
    bins, ranges = [_BINS] * 3 + [_GRADIENT_BINS], [0, 256] * 4
    likelihoods = []
    for side in (episode.prompt_mask == 1, episode.prompt_mask == 0):
        histogram = cv2.calcHist([given], [0, 1, 2, 3], side.astype(np.uint8), bins, ranges)
        histogram /= max(histogram.sum(), 1.0)
        cells = tuple((seen[..., i].astype(int) * n) // 256 for i, n in enumerate(bins))
        likelihoods.append(histogram[cells].astype(np.float32) + 1e-4)
    return cv2.GaussianBlur(np.log(likelihoods[0] / likelihoods[1]), (0, 0), 3.0)


def histogram(episode: Episode) -> np.ndarray:
    """Where the ratio favours the object."""
    return _log_ratio(episode) > 0


def grabcut(episode: Episode) -> np.ndarray:
    """GrabCut of the query, started from the ratio; the surest tenth on either side is fixed."""
    ratio = _log_ratio(episode)
    state = np.where(ratio > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    state[(ratio >= np.percentile(ratio, 90)) & (ratio > 0)] = cv2.GC_FGD
    state[(ratio <= np.percentile(ratio, 10)) & (ratio < 0)] = cv2.GC_BGD
    if len(np.unique(np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)))) < 2:
        return ratio > 0  # OpenCV needs both
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(episode.query[..., ::-1].copy(), state, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # a side with fewer colours than it has Gaussians
        return ratio > 0
    return np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))


METHODS: dict[str, Method] = {"copy": copy, "all": everything, "histogram": histogram, "grabcut": grabcut}


class Model:
    """A model's masks, as a user gets them, and what its scores are worth."""

    def __init__(self, name: str):
        """Loads a model folder or a named model."""
        self.pipe = LDISPipeline.from_pretrained(name)
        self.scored: list[Scored] = []

    def __call__(self, episode: Episode) -> np.ndarray:
        """The mask, bool [H, W]."""
        prompt = (episode.prompt, (episode.prompt_mask == 1).astype(np.uint8) * 255)
        found = self.pipe(episode.query, prompts=[prompt])
        iou = iou_of(found.probability > 0.5, episode.truth)
        self.scored.append(Scored(found.score, iou, float(found.mask.mean()), not (episode.truth == 1).any()))
        return found.mask

    def scores(self) -> dict[str, Any]:
        """Figures of all episodes so far."""
        return score_figures([scored._asdict() for scored in self.scored])


def figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over (folder, class) with its interval, and each."""
    names = sorted({(r["folder"], r["class"]) for r in records})
    numbered = [{"class_id": names.index((r["folder"], r["class"])), "areas": r["areas"]} for r in records]
    found = image_figures(numbered, "ldis")
    per_class = {"/".join(names[i]): value for i, value in found["iou_per_class"].items()}
    return {"miou": found["miou"], "interval": found["miou_interval"], "classes": per_class}


def _iou(areas: list[list[int]]) -> float:
    return areas[1][0] / max(areas[1][1], 1)


def _write_images(folder: Path, shown: list[tuple[float, Episode, np.ndarray]]) -> None:
    """The best and the worst: prompt, prediction and truth side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    ranked = sorted(shown, key=lambda item: -item[0])
    for kind, items in (("good", ranked[:: max(len(ranked) // 200, 1)][:_SHOWN]), ("bad", ranked[-_SHOWN:])):
        for i, (iou, episode, mask) in enumerate(items):
            sides = [
                (episode.prompt, episode.prompt_mask == 1),
                (episode.query, mask),
                (episode.query, episode.truth == 1),
            ]
            tiles = [cv2.resize(np.asarray(overlay(image, side)), (256, 256)) for image, side in sides]
            Image.fromarray(np.hstack(tiles)).save(folder / f"{kind}{i}_{episode.class_name}_{100 * iou:.0f}.png")


def main() -> None:
    """Prints a table, and writes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], help="model folders or names; may be repeated")
    parser.add_argument("--photos", type=Path, required=True, help="the folder of folders")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--images", type=Path, help="folder for the last model's best and worst episodes")
    args = parser.parse_args()
    models = {name: Model(name) for name in args.model}
    methods: dict[str, Method] = METHODS | models
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    shown = []
    for episode in tqdm(list(episodes(args.photos, PRESENT)), "episodes"):
        for name, method in methods.items():
            mask = method(episode)
            areas = episode_areas(mask, episode.truth).tolist()
            records[name].append({"folder": episode.folder, "class": episode.class_name, "areas": areas})
        if args.images:
            shown.append((_iou(areas), episode, mask))
    found = {name: figures(of_method) for name, of_method in records.items()}
    print(f"{'':36}" + "".join(f"{name[-12:]:>14}" for name in found))
    for key in next(iter(found.values()))["classes"]:
        print(f"{key:36}" + "".join(f"{of_method['classes'].get(key, 0.0):14.1f}" for of_method in found.values()))
    print(f"{'mean over classes':36}" + "".join(f"{of_method['miou']:14.1f}" for of_method in found.values()))
    ranges = ("{:.1f} to {:.1f}".format(*of_method["interval"]) for of_method in found.values())
    print(f"{'95 % interval':36}" + "".join(f"{text:>14}" for text in ranges))
    for episode in tqdm(list(episodes(args.photos, ABSENT)) if models else [], "absent objects"):
        for model in models.values():
            model(episode)
    scores = {name: model.scores() for name, model in models.items()}
    for name, of_model in scores.items():
        parts = (
            f"{key} {of_model[key]:.3g} ({low:.3g} to {high:.3g})"
            for key in of_model
            if key != "reliability" and not key.endswith("_interval")
            for low, high in [of_model[f"{key}_interval"]]
        )
        print(f"{name}, scores: {', '.join(parts)}")
    if args.json:
        write_json(args.json, {name: of_method | {"scores": scores.get(name)} for name, of_method in found.items()})
    if args.images:
        _write_images(args.images, shown)


if __name__ == "__main__":
    cli.run(main)
