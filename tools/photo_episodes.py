"""Freezes the episodes on which the bundled model `small` is judged: classes of photographs that training hides.

    python tools/photo_episodes.py --photos photos --out docs/evidence/photos/episodes

`photos` holds folders in PASCAL VOC's layout, each with a `classes.json` that lists its `unseen_classes`. Every image
of `val` in which such a class covers at least 1 % of the pixels is a query, up to 60 a class; its prompt is another
one, of the same folder. The files hold names only, one file a folder.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np

from ldis_jax.datasets.lists import read_lines
from ldis_jax.input_pipeline.episodes import EpisodeRecord, episode_rng, episodes_hash
from ldis_jax.media.masks import read_label_map
from ldis_jax.support.files import write_json

LEAST_SHARE = 0.01  # of the pixels of an image
MOST_QUERIES = 60  # of a class


def freeze(folder: Path) -> list[EpisodeRecord]:
    """The episodes of one folder, class by class; each class draws from a generator of its own."""
    classes = json.loads((folder / "classes.json").read_text())
    names = read_lines(folder / "ImageSets" / "Segmentation" / "val.txt")
    shares = {}
    for name in names:
        labels = read_label_map(folder / "SegmentationClass" / f"{name}.png")
        shares[name] = np.bincount(labels.ravel(), minlength=256) / labels.size
    records = []
    for class_id in classes["unseen_classes"]:
        class_name = classes["names"][class_id]
        shown = [name for name in names if shares[name][class_id] >= LEAST_SHARE]
        if len(shown) < 2:
            print(f"{folder.name}: {class_name} has {len(shown)} images of that size: no episode")
            continue
        rng = episode_rng(0, zlib.crc32(f"{folder.name}/{class_name}".encode()))
        for query in sorted(rng.permutation(shown)[:MOST_QUERIES].tolist()):
            prompt = rng.choice([name for name in shown if name != query]).item()
            records.append(EpisodeRecord(class_id, class_name, query, (prompt,)))
    return records


def main() -> None:
    """Writes one manifest a folder that has unseen classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="the folder of folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in args.photos.glob("*/classes.json")):
        if records := freeze(folder):
            write_json(args.out / f"{folder.name}.json", [record.to_json() for record in records])
            print(f"{folder.name}: {len(records)} episodes, episodes_hash {episodes_hash(records)}")


if __name__ == "__main__":
    main()
