"""The model and the images that come along give a mask at once, and a good one."""

import json

import numpy as np
import pytest

from ldis_jax import LDISPipeline, segment
from ldis_jax.input_pipeline import ProceduralScenes, episode_rng
from ldis_jax.media.images import read_image
from tests.helpers import ROOT, call_command

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def pipe():
    return LDISPipeline.from_pretrained("tiny")


def test_tiny_finds_unseen_classes(pipe):
    """The card's mIoU of 63.9 is of 256 episodes; these 16 are other ones."""
    assert "float32" in repr(pipe), "weights are stored in bfloat16, and computed with in float32"
    scenes, found = ProceduralScenes("unseen", 64), []
    for i in range(16):
        episode = scenes.draw(episode_rng(1, i), num_shots=1)
        mask = pipe(episode.query_image, [(episode.prompt_images[0], episode.prompt_masks[0])], ignore_label=255).mask
        truth = episode.query_mask == 1
        found.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(found) > 0.5


def test_segment_gives_the_readmes_first_mask(pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LDISPipeline, "from_pretrained", classmethod(lambda cls, name, **_: pipe))
    arguments = [
        f"--query={EXAMPLES / 'query.png'}",
        f"--prompt={EXAMPLES / 'prompt.png'}:{EXAMPLES / 'prompt_mask.png'}",
    ]
    status, out, err = call_command(segment.main, monkeypatch, capsys, "--model=tiny", *arguments,
                                    f"--out={tmp_path / 'mask.png'}", f"--json={tmp_path / 'found.json'}")  # fmt: skip
    assert status == 0 and "object covers 7." in out, err
    assert json.loads((tmp_path / "found.json").read_text())["knows"].startswith("painted scenes only")
    mask = read_image(tmp_path / "mask.png")[..., 0] > 0
    ring = read_image(EXAMPLES / "query.png")[mask].mean(axis=0)
    assert mask.shape == (128, 128) and ring.argmax() == 1, "the green ring is meant, as in the prompt"


def test_example_pictures_writes_the_images_of_the_examples(tmp_path, monkeypatch):
    from tools import example_pictures

    monkeypatch.setattr(example_pictures, "ROOT", tmp_path)
    example_pictures.main()
    for path in EXAMPLES.glob("*.png"):
        np.testing.assert_array_equal(read_image(tmp_path / "examples" / path.name), read_image(path))


@pytest.fixture(scope="module")
def textured():
    """A prompt and a query, each with a disc of stripes on noise, elsewhere: (image, mask) each."""
    rng = np.random.default_rng(0)
    found = []
    for centre, radius in (((60, 60), 34), ((70, 125), 40)):
        image = rng.integers(60, 140, (140, 190, 3), np.uint8)
        rows, columns = np.mgrid[:140, :190]
        mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        image[mask] = np.where((rows + columns) % 14 < 7, 230, 40)[mask][:, None] * np.array([1.0, 0.6, 0.2])
        found.append((image, mask))
    return found


def test_small_finds_what_looks_like_the_prompt(textured):
    pipe, (prompt, (query, truth)) = LDISPipeline.from_pretrained("small"), textured
    assert "photographs" in pipe.knows and pipe.task.name == "ldis1"
    mask = pipe(query, [prompt]).mask
    assert (mask & truth).sum() / (mask | truth).sum() > 0.5
    # The disc's surroundings, prompted in its place, are found in its place.
    other = pipe(query, [(prompt[0], ~prompt[1])]).mask
    assert (other & ~truth).sum() > (other & truth).sum()
