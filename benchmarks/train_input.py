"""Training input: episodes a second beside the public code's way of making them, on the same images.

    python benchmarks/train_input.py davis16 --source=DAVIS --split=val --json=train_input.json

The peer is a torch DataLoader over the image files that does, in the public configuration's order, what mmcv's and
mmseg's transforms do (OpenCV for images, PIL for label maps), and stacks a batch; it stays uint8, for the public code
normalises on the accelerator. Ours reads the records that ``data/build.py`` makes of the same files and gives float32
in [-1, 1]. Both make 1-shot episodes of 256 x 256. Each measurement is a process of its own, the two in turn; one
row without workers, where CPU time an episode is the time of one core, and one with two.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data")]

_SIZE, _BATCH = 256, 16
_RNG = np.random.default_rng()


class PublicEpisodes:
    """The public code's data set of pairs, by its steps; files are read from the unpacked data set."""

    def __init__(self, items: list[tuple[str, str, str, int]], files: dict[str, list[int]], rule: str):
        """Binds (image, mask, video, object label) of every image, and the images of every class."""
        self._items, self._files, self._rule = items, files, rule
        self.shown = sorted({row for rows in files.values() for row in rows})  # images with a class

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        while True:
            query = self._transformed(index, None)
            others = self._files[query[2]]
            if len(others) > 1:
                prompt = index
                while prompt == index:
                    prompt = others[random.randint(1, len(others)) - 1]
                found = self._transformed(prompt, query[2])
                if found[1].sum() > 0:
                    return (*query[:2], *found[:2])
            index = random.choice(self.shown)

    def _transformed(self, index: int, chosen: str | None) -> tuple[np.ndarray, np.ndarray, str]:
        from PIL import Image

        path, mask_path, video, object_label = self._items[index]
        with open(path, "rb") as file:
            image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
        with Image.open(mask_path) as file:
            label = np.array(file).astype(np.uint8)
        if self._rule != "labels":
            label = (label != 0).astype(np.uint8) * object_label
        if chosen is None:
            classes = [c for c in np.unique(label).tolist() if c not in (0, 255)]
            chosen = f"{video}:{classes[random.randint(1, len(classes)) - 1]}"
        target, ignored = np.where(label == int(chosen.split(":")[1])), np.where(label == 255)
        label[:, :] = 0
        label[target[0], target[1]] = 1
        label[ignored[0], ignored[1]] = 255
        return *_public_transforms(image, label, flip=not video), chosen


def _public_transforms(image: np.ndarray, label: np.ndarray, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """RandomResize, RandomCrop, RandomFlip, PhotoMetricDistortion, PackSegInputs; padded, so that a batch stacks."""
    ratio = _RNG.uniform(0.9, 1.1)
    long, short = int(2 * _SIZE * ratio), int(_SIZE * ratio)
    height, width = label.shape
    scale = min(long / max(height, width), short / min(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    for _ in range(11):
        top = _RNG.integers(0, max(label.shape[0] - _SIZE, 0) + 1)
        left = _RNG.integers(0, max(label.shape[1] - _SIZE, 0) + 1)
        place = np.s_[top : top + _SIZE, left : left + _SIZE]
        labels, counts = np.unique(label[place], return_counts=True)
        counts = counts[labels != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
            break
    image, label = image[place], label[place]
    if flip and _RNG.integers(2):
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)

    def convert(x: np.ndarray, alpha: float = 1, beta: float = 0) -> np.ndarray:
        return np.clip(x.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    if _RNG.integers(2):
        image = convert(image, beta=_RNG.uniform(-32, 32))
    mode = _RNG.integers(2)
    if mode == 1 and _RNG.integers(2):
        image = convert(image, alpha=_RNG.uniform(0.5, 1.5))
    if _RNG.integers(2):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        image[:, :, 1] = convert(image[:, :, 1], alpha=_RNG.uniform(0.5, 1.5))
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if _RNG.integers(2):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        image[:, :, 0] = (image[:, :, 0].astype(int) + _RNG.integers(-18, 18)) % 180
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
    if mode == 0 and _RNG.integers(2):
        image = convert(image, alpha=_RNG.uniform(0.5, 1.5))
    padded = np.zeros((3, _SIZE, _SIZE), np.uint8)
    padded[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    padded_label = np.full((_SIZE, _SIZE), 255, np.uint8)
    padded_label[: label.shape[0], : label.shape[1]] = label
    return padded, padded_label


def _public_batches(builder: Any, workers: int) -> Iterator[Any]:
    import torch.utils.data

    cv2.setNumThreads(0)
    items = [(i.image, i.mask, i.video, i.object_label) for i in builder.items()]
    index = _records(builder).index
    files: dict[str, list[int]] = {}
    for row, label in zip(index.rows().tolist(), index.labels.tolist(), strict=True):
        if label not in (0, 255):
            files.setdefault(f"{items[row][2]}:{label}", []).append(row)
    data = PublicEpisodes(items, files, builder.MASK_RULE)
    sampler = torch.utils.data.SubsetRandomSampler(data.shown * (10**6 // len(data.shown)))
    return iter(torch.utils.data.DataLoader(data, _BATCH, sampler=sampler, num_workers=workers))


def _our_batches(builder: Any, workers: int) -> Iterator[Any]:
    from ldis_jax.input_pipeline import TrainEpisodes, TrainLoader

    return TrainLoader(TrainEpisodes(_records(builder), 1, _SIZE, 0, 10**6), _BATCH, num_workers=workers)


def _records(builder: Any) -> Any:
    from ldis_jax.input_pipeline import RecordSource

    return RecordSource(builder.data_dir_root / builder.name, builder.split)


_KINDS: dict[str, Callable[[Any, int], Iterator[Any]]] = {"peer": _public_batches, "ours": _our_batches}


def _measure(builder: Any, kind: str, workers: int, batches: int) -> dict[str, float]:
    """Seconds of wall clock and, without workers, of CPU, an episode; the first batches are not counted."""
    iterator = _KINDS[kind](builder, workers)
    for _ in range(2 + workers):
        next(iterator)
    start, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(batches):
        next(iterator)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    episodes = batches * _BATCH
    used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    return {"wall": wall / episodes, "cpu": used / episodes}


def main() -> None:
    """Prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a data set of data/build.py whose masks are files")
    parser.add_argument("--source", required=True, help="the unpacked data set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batches", type=int, default=40, help="of 16 episodes, in each measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "WORKERS", "RECORDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # TFDS's remarks
    make = importlib.import_module(f"{args.name}.{args.name}_dataset_builder").Builder
    if args.measure:
        kind, workers, records = args.measure
        print(json.dumps(_measure(make(args.source, args.split, records), kind, int(workers), args.batches)))
        os._exit(0)  # without waiting for workers
    rows = []
    with tempfile.TemporaryDirectory() as records:
        make(args.source, args.split, records, num_workers=0).build()
        for workers in (0, 2):
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
            for _ in range(args.repeats):
                for kind in _KINDS:
                    command = [sys.executable, *sys.argv, "--measure", kind, str(workers), records]
                    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                    found[kind].append(json.loads(output))
            measure = "wall" if workers else "cpu"
            pairs = zip(found["peer"], found["ours"], strict=True)
            ratios = sorted(peer[measure] / ours[measure] for peer, ours in pairs)
            medians = {kind: statistics.median(run[measure] for run in found[kind]) for kind in _KINDS}
            rows.append({"workers": workers, "measure": measure, **medians, "ratios": ratios})
            print(
                f"{args.name}, {workers} workers, {measure}: ours {1 / medians['ours']:.0f} episodes/s, peer "
                f"{1 / medians['peer']:.0f}; ours / peer {statistics.median(ratios):.2f} ({ratios[0]:.2f} to "
                f"{ratios[-1]:.2f})"
            )
    if args.json:
        from ldis_jax.support.files import write_json

        write_json(args.json, {"data_set": args.name, "image_size": _SIZE, "batch_size": _BATCH, "rows": rows})


if __name__ == "__main__":
    main()
