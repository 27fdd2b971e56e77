"""Freezes the episodes on which the bundled model `small` is judged: classes of photographs that training hides.

    python tools/photo_episodes.py --photos photos --out docs/evidence/photos/episodes

`photos` holds folders in PASCAL VOC's layout, each with a `classes.json` that lists its `unseen_classes`. Every image
of `val` in which such a class covers at least 1 % of the pixels is a query, up to 60 a class; its prompt is another
one, of the same folder. The files hold names only, one file a folder. Beside `--out`, `absent` gets as many episodes
whose query does not show what is prompted, of the folders whose masks can tell.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np

from ldis_jax.datasets.lists import read_lines
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline.episodes import EpisodeRecord, episode_rng, episodes_hash
from ldis_jax.input_pipeline.voc_folder import VOCFolder
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


def freeze_absent(folder: Path, like: list[EpisodeRecord]) -> list[EpisodeRecord]:
    """As many episodes of the same classes, each asked of an image that does not show it; none where masks cannot tell.

    A prompt's object covers at least 1 % of the pixels here, too: prompts are those of ``like``.
    """
    if not like:
        return []
    classes = tuple(sorted({record.class_id for record in like}))
    source = VOCFolder(folder, "val", classes)
    try:
        source.check_absent(1)
    except LDISError as error:
        print(f"no absent objects: {error}")
        return []
    prompts = {class_id: [r.prompts for r in like if r.class_id == class_id] for class_id in classes}
    records = []
    for i in range(len(like)):
        rng = episode_rng(1, i)
        record = source.draw_absent_record(rng, 1)
        of_class = prompts[record.class_id]
        records.append(dataclasses.replace(record, prompts=of_class[rng.integers(len(of_class))]))
    return records


def main() -> None:
    """Writes one or two manifests a folder that has unseen classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="the folder of folders")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    args = parser.parse_args()
    for folder in sorted(path.parent for path in args.photos.glob("*/classes.json")):
        present = freeze(folder)
        for out, records in ((args.out, present), (args.out.parent / "absent", freeze_absent(folder, present))):
            if records:
                out.mkdir(parents=True, exist_ok=True)
                write_json(out / f"{folder.name}.json", [record.to_json() for record in records])
                print(f"{out.name}/{folder.name}: {len(records)} episodes, episodes_hash {episodes_hash(records)}")


if __name__ == "__main__":
    main()
