r"""Fine-tuning on one's own images, beside a plain U-Net that gets the same images and the same seconds.

    python benchmarks/own_data.py --data own_data/mushrooms own_data/pine_branches --out=runs/own_data

For each folder, ``configs/finetune.py:small`` runs from its start to its report. Then a U-Net (four levels, 32 to 256
channels, PyTorch) trains from scratch for as many seconds of CPU time on all images that are not held out. Both are
asked for every class of every held-out image. Where a folder has several classes, each is also left out of training and
then prompted once, which a U-Net cannot do. mIoU in percent; what ``--out`` has already is not made again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ldis_jax.datasets.folder_check import CheckedFolder, check_folder
from ldis_jax.datasets.pairs import read_pair
from ldis_jax.evaluators.mean_iou import MeanIoU
from ldis_jax.support import cli
from ldis_jax.support.files import write_json

_CROP, _BATCH, _LONG_SIDE = 256, 4, 512
_LEARNING_RATE = 1e-3


def fine_tune(data: Path, workdir: Path, classes: str = "") -> dict[str, Any]:
    """The report of a run, with the seconds of CPU time that all of it took."""
    before, seconds = _children_seconds(), workdir.with_suffix(".seconds")
    if not seconds.exists():
        command = [sys.executable, "-m", "ldis_jax.main", "--config=configs/finetune.py:small"]
        command += [f"--workdir={workdir}", f"--config.data.folder={data}", f"--config.data.classes={classes}"]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
        seconds.write_text(str(_children_seconds() - before))
    return json.loads((workdir / "report.json").read_text()) | {"seconds": float(seconds.read_text())}


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class UNet(nn.Module):
    """Encoder, decoder and skips; two convolutions with batch norm a level."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128, 256)):
        super().__init__()
        self.down = nn.ModuleList(_block(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W], sides multiples of 8 -> logits [B, classes, H, W]."""
        skips: list[torch.Tensor] = []
        for block in self.down:
            x = block(functional.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], dim=1))
        return self.head(x)


def _block(c_in: int, c_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first in (c_in, c_out):
        layers += [nn.Conv2d(first, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _images(checked: CheckedFolder, held_out: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, no side above 512 pixels."""
    found = []
    for name, out in zip(checked.index.names, checked.held_out, strict=True):
        if bool(out) == held_out:
            pair = checked.pairs[name.decode()]
            image, labels = read_pair(pair.image, pair.mask, checked.rule, checked.object_labels.get(name.decode(), 0))
            scale = min(1.0, _LONG_SIDE / max(labels.shape))
            size = tuple(max(round(n * scale), 1) for n in labels.shape[::-1])
            small = cv2.resize(labels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            found.append((cv2.resize(image, size, interpolation=cv2.INTER_AREA), small))
    return found


def _crop(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random square of the image at a random scale, flipped, with other colours."""
    scale = rng.uniform(0.7, 1.4) * max(1.0, _CROP / min(labels.shape) / 0.7)
    size = tuple(max(round(n * scale), _CROP) for n in labels.shape[::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    top, left = (rng.integers(n - _CROP + 1) for n in labels.shape)
    image, labels = (x[top : top + _CROP, left : left + _CROP] for x in (image, labels))
    if rng.integers(2):
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = (image - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.uniform(-0.15, 0.15, 3)
    return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(labels)


def train_unet(checked: CheckedFolder, seconds: float) -> tuple[UNet, int]:
    """A U-Net after so many seconds of CPU time, and its steps."""
    started = time.process_time()
    torch.manual_seed(0)
    rng, images = np.random.default_rng(0), _images(checked, held_out=False)
    net = UNet(max(c["label"] for c in checked.classes().values()) + 1)
    optimizer = torch.optim.AdamW(net.parameters(), _LEARNING_RATE)
    step = 0
    while (done := (time.process_time() - started) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = _LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * done))
        crops = [_crop(*images[rng.integers(len(images))], rng) for _ in range(_BATCH)]
        inputs = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2)
        truth = torch.from_numpy(np.stack([labels for _, labels in crops])).long()
        logits = net(inputs * 2 - 1)
        valid = truth != 255
        shares = logits.softmax(1) * valid[:, None]
        wanted = functional.one_hot(truth.masked_fill(~valid, 0), logits.shape[1]).permute(0, 3, 1, 2) * valid[:, None]
        overlap = (shares * wanted).sum((0, 2, 3))
        dice = (2 * overlap + 1) / (shares.sum((0, 2, 3)) + wanted.sum((0, 2, 3)) + 1)
        loss = functional.cross_entropy(logits, truth, ignore_index=255) + 1 - dice[1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    return net.eval(), step


@torch.no_grad()
def evaluate_unet(net: UNet, checked: CheckedFolder) -> float:
    """Mean IoU over every class of every held-out image, at 512 pixels at most."""
    metric = MeanIoU()
    for image, labels in _images(checked, held_out=True):
        height, width = labels.shape
        padding = ((0, -height % 8), (0, -width % 8), (0, 0))
        padded = np.pad(image, padding, mode="edge").astype(np.float32) / 127.5 - 1
        found = net(torch.from_numpy(padded).permute(2, 0, 1)[None])[0].argmax(0).numpy()[:height, :width]
        for label in np.unique(labels).tolist():
            if label not in (0, 255):
                metric.update(found == label, np.where(labels == 255, 255, labels == label).astype(np.uint8), label)
    return metric.result()["miou"]


def measure(data: Path, out: Path) -> dict[str, Any]:
    """All figures of one folder."""
    checked = check_folder(data)
    report = fine_tune(data, out / data.name)
    figures = {
        "images": len(checked.index),
        "CPU seconds": report["seconds"],
        "small, fine-tuned": report["miou"],
        "small": report["before"]["miou"],
        "copy the prompt": report["baselines"]["copy_prompt"]["miou"],
    }
    net, figures["U-Net steps"] = train_unet(checked, report["seconds"])
    figures["U-Net"] = evaluate_unet(net, checked)
    classes = checked.classes()
    for left_out in classes if len(classes) > 1 else ():
        kept = ",".join(name for name in classes if name != left_out)
        others = fine_tune(data, out / f"{data.name}-without-{left_out}", kept)["other_sets"]
        figures[f"{left_out}, left out and prompted"] = others.get("other_classes/miou")
    return figures


def main() -> None:
    """Prints a table a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of images and masks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of own_data.json")
    args = parser.parse_args()
    found = {data.name: measure(data, args.out) for data in args.data}
    for name, figures in found.items():
        print(name)
        for key, value in figures.items():
            print(f"    {key:40}{'-' if value is None else format(value, '10.1f')}")
    write_json(args.out / "own_data.json", found)


if __name__ == "__main__":
    cli.run(main)
