import hashlib
import json

import numpy as np
import pytest

from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import (
    Episode,
    EpisodeRecord,
    ProceduralScenes,
    TrainEpisodes,
    episodes_hash,
    eval_transform,
    network_arrays,
    read_manifest,
)


class Noise:
    """Random images; a prompt's object is a single pixel with probability ``p_tiny``."""

    num_images = 10

    def __init__(self, p_tiny=0.0, is_video=False):
        self.p_tiny, self.is_video, self.draws = p_tiny, is_video, 0

    def draw(self, rng, num_shots):
        self.draws += 1

        def pair(tiny):
            h, w = rng.integers(50, 100, 2)
            mask = np.zeros((h, w), np.uint8)
            if tiny:
                mask[1, 1] = 1
                mask[-9:] = 255  # must not count as object
            else:
                mask[:, : w // 2] = 1
            return rng.integers(0, 256, (h, w, 3), np.uint8), mask

        query = pair(False)
        prompts = [pair(rng.random() < self.p_tiny) for _ in range(num_shots)]
        images, masks = zip(*prompts, strict=True)
        return Episode(*query, images, masks, 7, "noise", "q", self.is_video)


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_train_episodes_respect_an_episode_that_refuses_augmentation():
    scenes = ProceduralScenes("train", 32)
    changed, kept = (TrainEpisodes(scenes, 2, 32, seed=0, length=4, augment=augment)[3] for augment in (True, False))
    assert equal(changed, kept)
    changed, kept = (TrainEpisodes(Noise(), 2, 32, seed=0, length=4, augment=augment)[3] for augment in (True, False))
    assert not equal(changed, kept)


@pytest.mark.parametrize("augment", [True, False])
def test_train_episodes_give_arrays_of_fixed_shapes_and_types(augment):
    arrays = TrainEpisodes(Noise(), 3, 32, seed=0, length=5, augment=augment)[4]
    assert {k: (v.shape, v.dtype) for k, v in arrays.items()} == {
        "query_image": ((32, 32, 3), np.float32),
        "query_mask": ((32, 32), np.uint8),
        "prompt_images": ((3, 32, 32, 3), np.float32),
        "prompt_masks": ((3, 32, 32), np.uint8),
        "bad_files": ((), np.int32),
    }
    assert np.abs(arrays["query_image"]).max() <= 1 and set(np.unique(arrays["prompt_masks"])) <= {0, 1, 255}


def test_network_arrays_are_the_evaluation_transform():
    episode = Noise().draw(np.random.default_rng(0), 2)
    arrays = network_arrays(episode, 32)
    image, mask = eval_transform(episode.query_image, episode.query_mask, 32)
    np.testing.assert_array_equal(arrays["query_image"], image)
    np.testing.assert_array_equal(arrays["query_mask"], mask)
    for k in range(2):
        image, mask = eval_transform(episode.prompt_images[k], episode.prompt_masks[k], 32)
        np.testing.assert_array_equal(arrays["prompt_images"][k], image)
        np.testing.assert_array_equal(arrays["prompt_masks"][k], mask)


def test_train_episodes_depend_on_seed_and_index_only():
    forward, backward, other = (TrainEpisodes(Noise(), 1, 32, seed, 4) for seed in (1, 1, 2))
    ahead = [forward[i] for i in range(4)]
    behind = [backward[i] for i in (3, 2, 1, 0)][::-1]
    assert all(map(equal, ahead, behind)) and equal(ahead[2], forward[2])
    assert not any(equal(ahead[i], other[i]) for i in range(4))
    assert not equal(ahead[0], ahead[1])


def test_train_episodes_augment_each_image_by_its_own_draw():
    class Copies(Noise):
        def draw(self, rng, num_shots):
            e = super().draw(np.random.default_rng(0), num_shots)
            return Episode(e.query_image, e.query_mask, (e.query_image,) * 2, (e.query_mask,) * 2, 1, "c", "q")

    arrays = TrainEpisodes(Copies(), 2, 32, 0, 1)[0]
    assert not np.array_equal(arrays["query_image"], arrays["prompt_images"][0])
    assert not np.array_equal(arrays["prompt_images"][0], arrays["prompt_images"][1])


@pytest.mark.parametrize("augment", [True, False])
def test_train_episodes_draw_empty_prompts_again(augment):
    source = Noise(p_tiny=0.5)
    episodes = TrainEpisodes(source, 2, 16, 0, 20, augment)
    arrays = [episodes[i] for i in range(20)]
    assert all((a["prompt_masks"] == 1).any(axis=(1, 2)).all() for a in arrays)
    assert source.draws > 30
    assert equal(arrays[5], episodes[5])


def test_train_episodes_give_up_on_a_hopeless_source():
    source = Noise(p_tiny=1.0)
    with pytest.raises(LDISError, match=r"episode 3: 100 draws .* class noise, query q"):
        TrainEpisodes(source, 1, 8, 0, 5, augment=False)[3]
    assert source.draws == 100


def test_train_episodes_do_not_flip_videos():
    class Side(Noise):
        def draw(self, rng, num_shots):
            e = super().draw(rng, num_shots)
            mask = np.zeros((40, 40), np.uint8)
            mask[:, :15] = 1
            image = np.zeros((40, 40, 3), np.uint8)
            return Episode(image, mask, (image,), (mask,), 1, "c", "q", e.is_video)

    def right_side(is_video):
        source = TrainEpisodes(Side(is_video=is_video), 1, 32, 0, 40)
        return [bool((a["query_mask"][0, :28] == 1).argmax()) for a in map(source.__getitem__, range(40))]

    assert not any(right_side(True)) and 8 < sum(right_side(False)) < 32


def test_train_episodes_end_at_their_length():
    episodes = TrainEpisodes(Noise(), 1, 32, 0, 2)
    assert len(episodes) == 2 and len(list(episodes)) == 2
    with pytest.raises(IndexError):
        episodes[2]


ENTRY = {"class_id": 3, "class_name": "bird", "query": "a", "prompts": ["b", "c"]}


def test_read_manifest_gives_episode_records(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([ENTRY]))
    assert read_manifest(path) == [EpisodeRecord(3, "bird", "a", ("b", "c"))]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "cannot be read"),
        ("[]", "an episode manifest, a list of .*at least 1 item"),
        ('{"a": 1}', "an episode manifest, a list of .*a valid list"),
        ("[1]", "0: Input should be"),
        (json.dumps([ENTRY, {"query": "a"}]), r"1\.class_id: Field required"),
        (json.dumps([ENTRY | {"class_id": "3"}]), r"0\.class_id: .*integer"),
        (json.dumps([ENTRY | {"class_id": True}]), r"0\.class_id: .*integer"),
        (json.dumps([ENTRY | {"class_id": 0}]), r"0\.class_id: .*greater than 0"),
        (json.dumps([ENTRY | {"class_id": 255}]), "0: .*class 255 is none"),
        (json.dumps([ENTRY | {"query": 5}]), r"0\.query: .*string"),
        (json.dumps([ENTRY | {"prompts": [["b"]]}]), r"0\.prompts\.0: .*string"),
        (json.dumps([ENTRY | {"prompts": []}]), r"0\.prompts: .*at least 1 item"),
        (json.dumps([ENTRY | {"prompts": "bc"}]), r"0\.prompts: .*list"),
        (json.dumps([ENTRY | {"prompts": ["b", "a"]}]), "no query is a prompt of its own"),
    ],
)
def test_read_manifest_rejects_bad_manifests(tmp_path, text, match):
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(LDISError, match=rf"m\.json, .*{match}"):
        read_manifest(path)


def test_read_manifest_reports_a_missing_file(tmp_path):
    with pytest.raises(LDISError, match=r"none\.json, an episode manifest, .*: cannot be read \(No such file"):
        read_manifest(tmp_path / "none.json")


def test_episodes_hash():
    a, b = EpisodeRecord(3, "bird", "a", ("b", "c")), EpisodeRecord(3, "bird", "b", ("a",))
    text = '[{"class_id":3,"class_name":"bird","prompts":["b","c"],"query":"a"}]'
    assert episodes_hash([a]) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert len({episodes_hash(r) for r in ([a], [b], [a, b], [b, a])}) == 4
