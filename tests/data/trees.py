"""Tiny trees in the layout of each data set, painted from a seed."""

import json

import numpy as np
from PIL import Image

SIZES = ((24, 40), (30, 20), (16, 16), (40, 33))


def paint(i, labels):
    """Image i, uint8 [H, W, 3], and its mask with a band of each label, uint8 [H, W]."""
    h, w = SIZES[i % len(SIZES)]
    image = np.random.default_rng(i).integers(0, 256, (h, w, 3), np.uint8)
    mask = np.zeros((h, w), np.uint8)
    for j, label in enumerate(labels):
        mask[2 + 4 * j : 6 + 4 * j, : w - i % 5] = label
    return image, mask


def save(path, array, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tolist())
    image.save(path)


def lines(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def pascal(root):
    """Six images: palette masks, one only in SegmentationClass, one PNG image."""
    for i in range(6):
        image, mask = paint(i, [1 + i % 3, 15, 255][: 1 + i % 3])
        save(root / f"JPEGImages/2007_{i:06}.{'png' if i == 4 else 'jpg'}", image)
        folder = "SegmentationClass" if i == 2 else "SegmentationClassAug"
        save(root / folder / f"2007_{i:06}.png", mask, palette=True)
    names = [f"2007_{i:06}" for i in range(6)]
    pairs = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in names[:4]]
    lines(root / "ImageSets/Segmentation/train_aug.txt", *pairs)
    lines(root / "ImageSets/Segmentation/val.txt", *names[4:])


def folder(root):
    """Folders images and masks with the same stems, which have spaces and dots; no lists."""
    for i, name in enumerate(("a b", "c.d", "e", "f")):
        image, mask = paint(i, [1, 2][: 1 + i % 2])
        save(root / f"images/{name}.jpg", image)
        save(root / f"masks/{name}.png", mask)
    (root / "classes.json").write_text(json.dumps({"names": ["background", "cat", "dog"]}))


def davis16(root):
    """Two sequences; masks of 255, one of them in colour, one empty."""
    frames = []
    for s, sequence in enumerate(("bear", "dog-agility")):
        for i in range(3):
            image, mask = paint(3 * s + i, [] if (s, i) == (1, 2) else [255])
            mask = np.stack([mask] * 3, -1) if (s, i) == (0, 1) else mask
            save(root / f"JPEGImages/480p/{sequence}/{i:05}.jpg", image)
            save(root / f"Annotations/480p/{sequence}/{i:05}.png", mask)
            frames.append(f"/JPEGImages/480p/{sequence}/{i:05}.jpg /Annotations/480p/{sequence}/{i:05}.png")
    lines(root / "ImageSets/480p/train.txt", *frames)
    lines(root / "ImageSets/2016/val.txt", "dog-agility")


def vspw(root):
    """Three videos of four frames; class 124 in one video only."""
    for v in range(3):
        for i in range(4):
            image, mask = paint(4 * v + i, [1, 7, 124][: 1 + (i + v) % 2 + (v == 2)])
            save(root / f"data/{v}_clip/origin/{8 * i:08}.jpg", image)
            save(root / f"data/{v}_clip/mask/{8 * i:08}.png", mask)
    lines(root / "train.txt", "2_clip", "0_clip")
    lines(root / "val.txt", "1_clip")
    (root / "label_num_dic_final.json").write_text(json.dumps({"others": 0, "wall": 1, "door": 7, "toilet": 124}))


def fss1000(root):
    """Three classes of ten; colour masks whose borders are smooth."""
    for c, name in enumerate(("abacus", "ab_wheel", "zucchini")):
        for i in range(1, 11):
            image, mask = paint(10 * c + i, [255])
            mask[0, :4] = 100  # below half: background
            mask[1, :4] = 130
            save(root / name / f"{i}.jpg", image)
            save(root / name / f"{i}.png", np.stack([mask] * 3, -1))
    lines(root / "train.txt", "zucchini", "ab_wheel")
    lines(root / "test.txt", "abacus")


def box(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def coco20i(root):
    """Two splits of three images: overlaps, a crowd, two polygons, run lengths, one image without annotations."""
    categories = [{"id": i, "name": f"thing {i}"} for i in (90, 1, 13)]  # in the order of ids: 1, 13, 90
    for s, split in enumerate(("train", "val")):
        images, annotations = [], []
        for i in range(4):
            name = f"COCO_{split}2014_{i + 10 * s:012}.jpg"
            image, _ = paint(i + 10 * s, [])
            save(root / f"{split}2014" / name, image)
            images.append({"id": i, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        crowd = np.zeros(SIZES[(1 + 10 * s) % 4], np.uint8)
        crowd[5:9] = 1
        runs = [int(n) for n in np.diff(np.flatnonzero(np.diff(crowd.T.ravel(), prepend=2, append=2)))]
        for image_id, category, segmentation, area, iscrowd in (
            (0, 90, box(4, 4, 4, 4), 16, 0),  # small, on top
            (0, 1, box(2, 2, 10, 10), 100, 0),
            (1, 13, box(0, 0, 6, 7), 42, 0),
            (1, 1, {"counts": runs, "size": list(crowd.shape)}, 500, 1),
            (3, 13, box(1, 1, 4, 4) + box(8, 8, 5, 5), 41, 0),
        ):
            annotation = {"image_id": image_id, "category_id": category, "segmentation": segmentation}
            annotations.append(annotation | {"area": area, "iscrowd": iscrowd, "id": len(annotations)})
        (root / "annotations").mkdir(exist_ok=True)
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (root / f"annotations/instances_{split}2014.json").write_text(text)


ALL = {f.__name__: f for f in (pascal, folder, davis16, vspw, fss1000, coco20i)}
