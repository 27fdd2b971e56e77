import colorsys

import numpy as np
import pytest

from ldis_jax.input_pipeline import transforms as T


def rng(seed=0):
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def bilinear(image, h, w):
    """Half-pixel centres, no antialiasing, edges repeated."""

    def taps(n, size):
        at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, n - 1), at - low

    x = image.astype(np.float64)
    low, high, f = taps(x.shape[0], h)
    x = x[low] * (1 - f)[:, None, None] + x[high] * f[:, None, None]
    low, high, f = taps(x.shape[1], w)
    return x[:, low] * (1 - f)[None, :, None] + x[:, high] * f[None, :, None]


def nearest(mask, h, w):
    rows, columns = (np.arange(new) * old // new for new, old in ((h, mask.shape[0]), (w, mask.shape[1])))
    return mask[rows][:, columns]


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (480, 640, 256, (192, 256)),
        (640, 427, 256, (256, 171)),  # 170.8
        (333, 500, 256, (170, 256)),  # 170.496
        (256, 256, 256, (256, 256)),
        (10, 20, 256, (128, 256)),
        (1, 1000, 256, (1, 256)),  # 0.256 would round to nothing
        (5, 2, 64, (64, 26)),  # 25.6
    ],
)
def test_fitted_size(height, width, size, expected):
    assert T.fitted_size(height, width, size) == expected


@pytest.mark.parametrize(("h", "w"), [(48, 64), (97, 61), (10, 20), (1, 30), (30, 1), (32, 32), (1, 1)])
def test_eval_transform(h, w):
    size = 32
    image, mask = picture(h, w), picture(h, w, 1)[..., 0] % 2
    new_h, new_w = T.fitted_size(h, w, size)
    out, out_mask = T.eval_transform(image, mask, size)
    assert out.shape == (size, size, 3) and out.dtype == np.float32
    assert out_mask.shape == (size, size) and out_mask.dtype == np.uint8

    expected = (bilinear(image, new_h, new_w) - 127.5) / 127.5
    np.testing.assert_allclose(out[:new_h, :new_w], expected, atol=1.01 / 127.5)  # cv2 rounds to uint8
    np.testing.assert_array_equal(out_mask[:new_h, :new_w], nearest(mask, new_h, new_w))
    padding = np.ones((size, size), bool)
    padding[:new_h, :new_w] = False
    assert (out[padding] == 0).all() and (out_mask[padding] == 255).all()


def test_eval_image_normalises_to_minus_one_to_one():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    np.testing.assert_array_equal(T.eval_image(image, 4)[0, :, 0], [-1, -1, 1, 1])


@pytest.mark.parametrize(("h", "w"), [(375, 500), (500, 375), (64, 64), (40, 400), (1, 50)])
def test_random_rescale_fits_the_box(h, w):
    size, sizes = 64, set()
    for seed in range(40):
        r = rng(seed).uniform(0.9, 1.1)
        image, mask = T.random_rescale(picture(h, w), np.zeros((h, w), np.uint8), size, rng(seed))
        assert image.shape[:2] == mask.shape
        long, short = max(h, w), min(h, w)
        scale = min(int(2 * size * r) / long, int(size * r) / short)
        assert max(mask.shape) == int(long * scale + 0.5) <= int(2.2 * size)
        assert min(mask.shape) == max(int(short * scale + 0.5), 1) <= int(1.1 * size)
        assert np.argmax(mask.shape) == np.argmax((h, w))
        sizes.add(mask.shape)
    assert len(sizes) > 5


def test_random_crop_keeps_image_and_mask_together():
    mask = np.random.default_rng(0).integers(0, 2, (50, 70), np.uint8)
    image = np.stack([*np.indices(mask.shape), mask], -1).astype(np.uint8)
    corners = set()
    for seed in range(60):
        out, out_mask = T.random_crop(image, mask, 32, rng(seed))
        top, left = out[0, 0, :2]
        np.testing.assert_array_equal(out, image[top : top + 32, left : left + 32])
        np.testing.assert_array_equal(out_mask, out[..., 2])
        corners.add((int(top), int(left)))
    assert len(corners) > 40
    assert min(top for top, _ in corners) <= 1 and max(top for top, _ in corners) >= 17  # of 0..18
    assert min(left for _, left in corners) <= 2 and max(left for _, left in corners) >= 36  # of 0..38


def test_random_crop_of_a_smaller_image_is_the_image():
    image, mask = picture(10, 50), np.zeros((10, 50), np.uint8)
    out, out_mask = T.random_crop(image, mask, 32, rng())
    assert out.shape == (10, 32, 3) and out_mask.shape == (10, 32)
    out, _ = T.random_crop(image[:, :8], mask[:, :8], 32, rng())
    np.testing.assert_array_equal(out, image[:, :8])


def test_random_crop_avoids_a_dominant_class():
    mask = np.zeros((32, 128), np.uint8)
    mask[:, 64:] = 1
    mask[:8] = 255  # must not count
    shares = []
    for seed in range(100):
        _, crop = T.random_crop(picture(32, 128), mask, 32, rng(seed))
        shares.append((crop == 1).sum() / (crop != 255).sum())
    good = [0.25 < s < 0.75 for s in shares]  # a random place is good with p = 15 / 97: eleven tries give 0.84
    assert 70 <= sum(good) < 100


@pytest.mark.parametrize("value", [0, 1, 255])
def test_random_crop_of_one_label_ends(value):
    mask = np.full((40, 40), value, np.uint8)
    _, crop = T.random_crop(picture(40, 40), mask, 32, rng())
    assert crop.shape == (32, 32) and (crop == value).all()


class Script:
    """Plays back prepared draws."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def integers(self, low, high=None):
        value = self.draws.pop(0)
        assert (0, low)[high is not None] <= value < (high if high is not None else low)
        return value

    def uniform(self, low, high):
        value = self.draws.pop(0)
        assert low <= value <= high
        return value


def distort(image, *draws):
    script = Script(*draws)
    out = T.photometric_distortion(image, script)
    assert not script.draws and out.dtype == np.uint8 and out.shape == image.shape
    return out


COLOURS = picture(16, 16)
NOTHING = (0, 0, 0, 0, 0)


def test_photometric_distortion_may_change_nothing():
    np.testing.assert_array_equal(distort(COLOURS, *NOTHING), COLOURS)


@pytest.mark.parametrize("beta", [-32.0, -0.5, 20.7, 32.0])
def test_photometric_distortion_shifts_brightness(beta):
    expected = np.floor(np.clip(COLOURS + np.float32(beta), 0, 255))
    np.testing.assert_array_equal(distort(COLOURS, 1, beta, 0, 0, 0, 0), expected)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.37])
def test_photometric_distortion_scales_contrast_first_or_last(alpha):
    expected = np.floor(np.clip(COLOURS * np.float32(alpha), 0, 255))
    np.testing.assert_array_equal(distort(COLOURS, 0, 1, 1, alpha, 0, 0), expected)
    np.testing.assert_array_equal(distort(COLOURS, 0, 0, 0, 0, 1, alpha), expected)


def test_photometric_distortion_applies_contrast_in_its_place():
    def contrast(image):
        return distort(image, 0, 1, 1, 1.5, 0, 0)

    def saturation(image):
        return distort(image, 0, 0, 1, 0.5, 0, 0)

    first, last = distort(COLOURS, 0, 1, 1, 1.5, 1, 0.5, 0), distort(COLOURS, 0, 0, 1, 0.5, 0, 1, 1.5)
    np.testing.assert_array_equal(first, saturation(contrast(COLOURS)))
    np.testing.assert_array_equal(last, contrast(saturation(COLOURS)))
    assert (first != last).any()


def test_photometric_distortion_changes_saturation_and_hue_as_colorsys_does():
    def each(change):
        pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in COLOURS.reshape(-1, 3) / 255]
        return 255 * np.reshape(pixels, COLOURS.shape)

    # Eight bits of H (in steps of 2 degrees), S and V cost a few grey levels.
    expected = each(lambda h, s, v: (h, min(1.4 * s, 1), v))
    np.testing.assert_allclose(distort(COLOURS, 0, 0, 1, 1.4, 0, 0), expected, atol=7)
    for delta in (-18, 17):
        expected = each(lambda h, s, v, d=delta: ((h + d / 180) % 1, s, v))
        np.testing.assert_allclose(distort(COLOURS, 0, 0, 0, 1, delta, 0), expected, atol=7)


def test_photometric_distortion_gives_each_step_an_even_chance():
    flat = np.full((2, 2, 3), (200, 120, 60), np.uint8)
    same = [np.array_equal(T.photometric_distortion(flat, rng(seed)), flat) for seed in range(800)]
    assert 0.03 < np.mean(same) < 0.11  # 1/16, and a little from changes too small to see


def test_train_transform_flips_images_and_never_videos():
    ramp = np.repeat(np.arange(0, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, -1)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :20] = 1

    def flipped(flip, seed):
        image, out_mask = T.train_transform(ramp, mask, 48, rng(seed), flip=flip)
        assert image.dtype == np.float32 and np.abs(image).max() <= 1
        assert image.shape == (48, 48, 3) and out_mask.shape == (48, 48)
        seen = out_mask[0] != 255
        left, right = (out_mask[0, seen][i] for i in (0, -1))
        if left != right:  # image and mask turn together
            assert (image[0, seen][0].sum() > image[0, seen][-1].sum()) == (left == 0)
        return left < right

    assert not any(flipped(False, seed) for seed in range(50))
    assert 0.25 < np.mean([flipped(True, seed) for seed in range(100)]) < 0.75


def test_train_transform_is_a_function_of_its_generator():
    image, mask = picture(60, 90), picture(60, 90, 1)[..., 0] % 2
    first, again, other = (T.train_transform(image, mask, 32, rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("h", "w"), [(1, 200), (200, 1), (3, 3)])
def test_train_transform_of_odd_shapes(h, w):
    image, mask = T.train_transform(picture(h, w), np.ones((h, w), np.uint8), 32, rng())
    assert image.shape == (32, 32, 3) and set(np.unique(mask)) <= {1, 255} and (mask == 1).any()
