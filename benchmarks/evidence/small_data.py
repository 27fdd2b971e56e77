"""The small real data of docs/evidence.md, made of three public sets.

    python benchmarks/evidence/small_data.py --source=FOLDER

``FOLDER`` holds ``coco_mini`` (VOC's layout), ``davis`` (DAVIS 2016's) and ``camvid_vspw`` (VSPW's, one video).
Images are shrunk to a long side of 288, for reading larger ones takes long and training sees 64 pixels. Of DAVIS two
sequences are held out; of the one CamVid video the end, with a gap of ten frames before it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from ldis_jax.errors import LDISError
from ldis_jax.support import cli

ROOT = Path(__file__).resolve().parents[2]
OUT = Path("runs/evidence")
LONG_SIDE = 288
HELD_OUT = ("dog", "drift-straight")
# Of the video's frames, in order.
SEMANTIC = {"train": slice(0, 60), "val": slice(70, None)}


def shrink(image: Path, mask: Path, image_out: Path, mask_out: Path) -> None:
    """Writes an image and its label map at :data:`LONG_SIDE`; the mask keeps its labels."""
    with Image.open(image) as opened, Image.open(mask) as labels:
        scale = min(1.0, LONG_SIDE / max(opened.size))
        size = (round(opened.width * scale), round(opened.height * scale))
        for path in (image_out, mask_out):
            path.parent.mkdir(parents=True, exist_ok=True)
        opened.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(image_out, quality=95)
        labels.resize(size, Image.Resampling.NEAREST).save(mask_out)


def coco_mini(source: Path, out: Path) -> None:
    """VOC's layout, read as it is."""
    for mask in sorted((source / "SegmentationClass").glob("*.png")):
        image = source / "JPEGImages" / f"{mask.stem}.jpg"
        shrink(image, mask, out / "JPEGImages" / image.name, out / "SegmentationClass" / mask.name)
    shutil.copytree(source / "ImageSets", out / "ImageSets", dirs_exist_ok=True)
    shutil.copy(source / "classes.json", out)


def davis(source: Path, out: Path) -> None:
    """DAVIS 2016's layout, with lists of sequences of our own."""
    sequences = sorted(folder.name for folder in (source / "JPEGImages" / "480p").iterdir())
    for sequence in sequences:
        for image in sorted((source / "JPEGImages" / "480p" / sequence).glob("*.jpg")):
            mask = Path("Annotations", "480p", sequence, f"{image.stem}.png")
            shrink(image, source / mask, out / "JPEGImages" / "480p" / sequence / image.name, out / mask)
    _write_lists(out / "ImageSets" / "2016", set(sequences) - set(HELD_OUT), HELD_OUT)


def camvid(source: Path, out: Path) -> None:
    """VSPW's layout; the parts of the one video become videos of their own."""
    (video,) = (source / "data").iterdir()
    frames = sorted((video / "origin").iterdir())
    for split, part in SEMANTIC.items():
        for image in frames[part]:
            folder = out / "data" / f"{video.name}_{split}"
            mask = f"{image.stem}.png"
            shrink(image, video / "mask" / mask, folder / "origin" / f"{image.stem}.jpg", folder / "mask" / mask)
    shutil.copy(source / "classes.json", out)
    _write_lists(out, *([f"{video.name}_{split}"] for split in SEMANTIC))


def _write_lists(folder: Path, train: Iterable[str], val: Iterable[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in (("train", train), ("val", val)):
        (folder / f"{split}.txt").write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")


def main() -> None:
    """Makes all of it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="holds coco_mini, davis and camvid_vspw")
    source = parser.parse_args().source
    for name in ("coco_mini", "davis", "camvid_vspw"):
        if not (source / name).is_dir():
            raise LDISError(f"--source={source}: has no folder {name}")
    shutil.rmtree(OUT / "data", ignore_errors=True)
    coco_mini(source / "coco_mini", OUT / "data" / "coco_mini")
    davis(source / "davis", OUT / "davis")
    camvid(source / "camvid_vspw", OUT / "camvid")
    for name, folder in (("davis16", "davis"), ("vspw", "camvid")):
        places = (f"--source={OUT / folder}", f"--out={OUT / 'data'}")
        subprocess.run([sys.executable, ROOT / "data" / "build.py", name, *places, "--num_workers=0"], check=True)
        shutil.rmtree(OUT / folder)


if __name__ == "__main__":
    cli.run(main)
