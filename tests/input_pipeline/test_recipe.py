"""The public recipe, written a second time from its description, against what the pipeline gives: whole outputs.

All comparisons are exact. Both sides resize and convert colours with OpenCV, whose results are the same for the same
image, and (x - 127.5) / 127.5 of a byte has one nearest float32. Here images are BGR, as they are in mmcv.
"""

import cv2
import numpy as np
import pytest

from ldis_jax.input_pipeline import Episode, TrainEpisodes, episode_rng, eval_transform
from ldis_jax.input_pipeline.transforms import train_transform

# (H, W): VOC's two shapes, square, smaller than any crop, very long, one pixel thin, tiny.
SHAPES = [(375, 500), (500, 333), (256, 256), (50, 41), (60, 900), (400, 37), (1, 200), (150, 1), (2, 3)]
SEEDS = range(4)


def picture(h, w, seed):
    """Blocks of strong colour under noise, and a mask with object, background and some 255."""
    rng = np.random.default_rng([seed, h, w])
    blocks = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
    image = np.clip(blocks + rng.integers(-20, 21, (h, w, 3)), 0, 255).astype(np.uint8)
    # Every third mask is mostly background: no crop of it is good.
    labels = rng.choice([0, 1, 255], (5, 7), p=[0.92, 0.06, 0.02] if seed % 3 == 0 else [0.45, 0.4, 0.15])
    mask = cv2.resize(labels.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
    mask[h // 2, w // 2] = 1
    return image, mask


class Recipe:
    """Section 9 of the method, for one image; ``wrong`` names a step to get wrong."""

    def __init__(self, size, flip=True, wrong=""):
        self.size, self.flip, self.wrong = size, flip, wrong

    def __call__(self, image, mask, rng):
        image, mask = self.resize(image[..., ::-1], mask, rng)
        image, mask = self.crop(image, mask, rng)
        if self.wrong == "distortion before flip":
            image = self.distort(image, rng)
        if (self.flip or self.wrong == "videos flipped") and rng.integers(2) == 1:
            image = cv2.flip(image, 1).reshape(image.shape)
            mask = mask if self.wrong == "mask not flipped" else cv2.flip(mask, 1).reshape(mask.shape)
        if self.wrong != "distortion before flip":
            image = self.distort(image, rng)
        return self.finish(image, mask)

    def resize(self, image, mask, rng):
        h, w = mask.shape
        r = rng.uniform(0.9, 1.1)
        box = 2 * self.size * r, self.size * r
        if self.wrong != "box not cut to whole pixels":
            box = int(box[0]), int(box[1])
        scale = box[1] / min(h, w)
        if self.wrong != "short side alone":
            scale = min(scale, box[0] / max(h, w))
        half = 0 if self.wrong == "sizes cut" else 0.5
        new = max(int(w * scale + half), 1), max(int(h * scale + half), 1)
        if self.wrong == "antialiased":
            image = cv2.resize(image, new, interpolation=cv2.INTER_AREA)
        else:
            image = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
        nearest = cv2.INTER_NEAREST_EXACT if self.wrong == "mask at pixel centres" else cv2.INTER_NEAREST
        return image, cv2.resize(mask, new, interpolation=nearest)

    def crop(self, image, mask, rng):
        h, w = mask.shape

        def place():
            y, x = rng.integers(0, max(h - self.size, 0) + 1), rng.integers(0, max(w - self.size, 0) + 1)
            return slice(y, y + self.size), slice(x, x + self.size)

        here = place()
        for _ in range(9 if self.wrong == "nine tries" else 10):
            labels, counts = np.unique(mask[here], return_counts=True)
            counts = counts if self.wrong == "255 is a class" else counts[labels != 255]
            enough = len(counts) > 1 or (self.wrong == "one class will do" and len(counts))
            if enough and counts.max() / counts.sum() < 0.75:
                break
            if enough and self.wrong == "one class will do":
                break
            here = place()
        return image[here], mask[here]

    def distort(self, image, rng):
        def change(x, alpha=1.0, beta=0.0):
            y = np.float32(alpha) * x.astype(np.float32) + np.float32(beta)
            y = y % 256 if self.wrong == "wrapped around" else np.clip(y, 0, 255)
            return (np.rint(y) if self.wrong == "rounded to nearest" else np.trunc(y)).astype(np.uint8)

        def contrast(x):
            return change(x, alpha=rng.uniform(0.5, 1.5)) if rng.integers(2) else x

        to, back = cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR
        if self.wrong == "channels swapped":
            to, back = cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB
        if rng.integers(2):
            image = change(image, beta=rng.uniform(-32, 32))
        first = bool(rng.integers(2)) != (self.wrong == "contrast in the other place")
        if first:
            image = contrast(image)
        if rng.integers(2):
            h, s, v = cv2.split(cv2.cvtColor(image, to))
            image = cv2.cvtColor(cv2.merge((h, change(s, alpha=rng.uniform(0.5, 1.5)).reshape(h.shape), v)), back)
        if rng.integers(2):
            h, s, v = cv2.split(cv2.cvtColor(image, to))
            turned = h.astype(int) + rng.integers(-18, 18 + (self.wrong == "hue to +18"))
            turned = np.clip(turned, 0, 179) if self.wrong == "hue clipped" else turned % 180
            image = cv2.cvtColor(cv2.merge((turned.astype(np.uint8), s, v)), back)
        return image if first else contrast(image)

    def finish(self, image, mask):
        (h, w), black = mask.shape, self.wrong == "padded before normalising"
        pixels = np.full((self.size, self.size, 3), 0 if black else 127.5)
        labels = np.full((self.size, self.size), 0 if self.wrong == "padding is background" else 255, np.uint8)
        if self.wrong == "padded around":
            top, left = (self.size - h) // 2, (self.size - w) // 2
        else:
            top, left = 0, 0
        pixels[top : top + h, left : left + w] = image if self.wrong == "left in BGR" else image[..., ::-1]
        labels[top : top + h, left : left + w] = mask
        if self.wrong == "to [0, 1]":
            return (pixels / 255).astype(np.float32), labels
        return ((pixels - 127.5) / 127.5).astype(np.float32), labels


def same(a, b):
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("flip", [True, False], ids=["picture", "video"])
@pytest.mark.parametrize("size", [256, 64])
@pytest.mark.parametrize(("h", "w"), SHAPES)
def test_train_transform_is_the_recipe(h, w, size, flip):
    recipe = Recipe(size, flip)
    for seed in SEEDS if size == 256 else range(12):
        image, mask = picture(h, w, seed)
        kept = image.copy(), mask.copy()
        rng, copy = episode_rng(seed, 5), episode_rng(seed, 5)
        out, expected = train_transform(image, mask, size, rng, flip=flip), recipe(*kept, copy)
        np.testing.assert_array_equal(out[0], expected[0], err_msg=f"seed {seed}")
        np.testing.assert_array_equal(out[1], expected[1], err_msg=f"seed {seed}")
        assert same(out, expected)  # types, too
        assert same((image, mask), kept)  # the arrays of an episode stay as they are
        assert rng.random() == copy.random()  # the next image starts where it should


@pytest.mark.parametrize("value", [0, 1, 255])
def test_train_transform_of_one_label_is_the_recipe(value):
    image, mask = picture(300, 400, 0)
    mask[:] = value
    out = train_transform(image, mask, 64, episode_rng(0, 0))
    assert same(out, Recipe(64)(image, mask, episode_rng(0, 0)))


def test_train_transform_and_eval_transform_take_views_as_arrays():
    image, mask = picture(200, 300, 1)
    views = image[::-1, ::2], mask[::-1, ::2]
    for transform in (lambda *a: train_transform(*a, 64, episode_rng(1, 5)), lambda *a: eval_transform(*a, 64)):
        assert same(transform(*views), transform(*map(np.ascontiguousarray, views)))


@pytest.mark.parametrize("is_video", [False, True])
def test_train_episodes_follow_the_recipe(is_video):
    """Query first, then prompts, each with its own draws; where a prompt shows no object all of it is drawn again."""
    draws = []

    class Source:
        num_images = 50

        def draw(self, rng, num_shots):
            pairs = [picture(*SHAPES[rng.integers(3)], int(rng.integers(60))) for _ in range(num_shots + 1)]
            for _, mask in pairs[1:]:
                if rng.integers(2):
                    mask[:] = 0
                    mask[:9, :9] = 1  # many crops miss it
            draws.append(pairs)
            return Episode(*pairs[0], *zip(*pairs[1:], strict=True), 3, "c", "q", is_video)

    recipe, episodes, redrawn = Recipe(64, flip=not is_video), TrainEpisodes(Source(), 2, 64, seed=9, length=12), 0
    for i in range(12):
        arrays, rng = episodes[i], episode_rng(9, i)
        while True:
            Source().draw(rng, 2)
            query, *prompts = (recipe(*pair, rng) for pair in draws[-1])
            if all((mask == 1).any() for _, mask in prompts):
                break
            redrawn += 1
        assert same((arrays["query_image"], arrays["query_mask"]), query)
        assert same((arrays["prompt_images"], arrays["prompt_masks"]), map(np.stack, zip(*prompts, strict=True)))
    assert redrawn > 3


WRONG = [
    "box not cut to whole pixels",
    "short side alone",
    "sizes cut",
    "antialiased",
    "mask at pixel centres",
    "nine tries",
    "255 is a class",
    "one class will do",
    "mask not flipped",
    "distortion before flip",
    "rounded to nearest",
    "wrapped around",
    "channels swapped",
    "contrast in the other place",
    "hue clipped",
    "hue to +18",
    "padded before normalising",
    "padding is background",
    "padded around",
    "left in BGR",
    "to [0, 1]",
]


@pytest.mark.parametrize("wrong", [*WRONG, "videos flipped"])
def test_recipe_with_a_wrong_step_differs_on_some_image(wrong):
    """Each way to get a step wrong shows in an image of :func:`test_train_transform_is_the_recipe` at least."""
    flip = wrong != "videos flipped"

    def differs(h, w, seed):
        pair = picture(h, w, seed)
        return not same(*(Recipe(64, flip, step)(*pair, episode_rng(seed, 5)) for step in ("", wrong)))

    assert any(differs(h, w, seed) for h, w in SHAPES for seed in range(12))


@pytest.mark.parametrize("size", [256, 64])
@pytest.mark.parametrize(("h", "w"), SHAPES)
def test_eval_transform_is_the_recipe(h, w, size):
    image, mask = picture(h, w, 1)
    new_w, new_h = (max(int(side * size / max(h, w) + 0.5), 1) for side in (w, h))
    small = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    labels = cv2.resize(mask, (new_w, new_h), interpolation=cv2.INTER_NEAREST)
    below, right = size - new_h, size - new_w
    expected = (
        cv2.copyMakeBorder((small - 127.5) / 127.5, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0)),
        cv2.copyMakeBorder(labels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=255),
    )
    assert max(new_h, new_w) == size and same(eval_transform(image, mask, size), expected)
