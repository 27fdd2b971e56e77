"""Videos whose objects are told by their colour, so that a perfect prediction needs no network."""

import subprocess
import sys

import numpy as np
from PIL import Image

from tests.helpers import ROOT

COLOURS = {1: (200, 30, 30), 2: (30, 200, 30), 3: (30, 30, 200)}


class Painted:
    """Videos of one length whose objects move to the right; a bottom row of void.

    Which labels a video shows may differ: {"name": labels}, or the labels of the only video, "clip".
    """

    class_names = ("background", "red", "green", "blue")

    def __init__(self, labels, frames=12):
        rng = np.random.default_rng(0)
        self._truth = {}
        for video, shown in (labels if isinstance(labels, dict) else {"clip": labels}).items():
            truth = np.zeros((frames, 24, 32), np.uint8)
            for label in shown:
                top, left = rng.integers(0, 10, 2)
                for t in range(frames):
                    truth[t, top : top + 10, left + t // 2 : left + t // 2 + 12] = label
            truth[:, -1] = 255
            self._truth[video] = truth
        self.videos = dict.fromkeys(self._truth, frames)

    def frame(self, video, index):
        truth = self._truth[video][index]
        picture = np.full((*truth.shape, 3), 90, np.uint8)
        for label, colour in COLOURS.items():
            picture[truth == label] = colour
        return picture, truth

    def truth(self, video):
        return self._truth[video]


def by_colour(batch):
    """Paints where the query has the prompted object's mean colour."""
    painted = []
    for query, images, masks in zip(batch["query_image"], batch["prompt_images"], batch["prompt_masks"], strict=True):
        colour = images[0][masks[0] == 1].mean(0)
        near = np.abs(query - colour).max(-1) < 0.5
        painted.append(np.where(near[..., None], (-1.0, 1.0, 0.0), (1.0, -1.0, 0.0)))
    assert len(painted) == 5
    return np.array(painted, np.float32)


def write_vspw(source, root):
    """A source's videos in VSPW's layout."""
    return _write(source, root, "data/{}/origin", "data/{}/mask", "val.txt")


def write_davis(source, root, year):
    """The same in DAVIS's, listed as those of 2016 or 2017."""
    return _write(source, root, "JPEGImages/480p/{}", "Annotations/480p/{}", f"ImageSets/{year}/val.txt")


def _write(source, root, images, masks, listed):
    for video, frames in source.videos.items():
        for t in range(frames):
            for folder, suffix, array in zip((images, masks), ("jpg", "png"), source.frame(video, t), strict=True):
                path = root / folder.format(video) / f"{t:05}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    (root / listed).parent.mkdir(parents=True, exist_ok=True)
    (root / listed).write_text("\n".join(source.videos))
    return root


def build(name, source, out, split="val"):
    """``data/build.py NAME``; the folder that ``--data`` takes."""
    command = [sys.executable, str(ROOT / "data" / "build.py"), name, f"--source={source}", f"--out={out}"]
    subprocess.run([*command, "--num_workers=0", "--split", split], check=True, capture_output=True)
    return out / name
