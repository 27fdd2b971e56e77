import numpy as np
import pytest

from ldis_jax.evaluators import EpisodeEvaluator, PromptSwapEvaluator, SheetEvaluator
from ldis_jax.input_pipeline import (
    FrozenEpisodes,
    ProceduralScenes,
    VOCFolder,
    episode_rng,
    network_arrays,
    read_manifest,
)
from ldis_jax.media.images import read_image
from tests.helpers import SHARED

SIZE = 32
COCO_MINI = SHARED / "coco_mini"


def oracle(arrays):
    """Paints the truth: R[1] - R[0] = +-2."""
    inside = (arrays["query_mask"] == 1)[..., None]
    return np.where(inside, [-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]).astype(np.float32)


def inverse(arrays):
    return -oracle(arrays)


@pytest.fixture(scope="module")
def episodes():
    return FrozenEpisodes.of_draws(ProceduralScenes("unseen", SIZE), 7, 1)


def test_episode_evaluator_gives_the_oracle_100_and_its_inverse_0(episodes):
    evaluator = EpisodeEvaluator(episodes, SIZE, batch_size=3)  # 7 episodes: the last batch is filled up
    assert dict(evaluator.run(oracle)) == {"miou": 100.0, "fb_iou": 100.0}
    assert dict(evaluator.run(inverse)) == {"miou": 0.0, "fb_iou": 0.0}


def test_episode_evaluator_batches_have_one_shape_and_the_episodes_indices(episodes):
    seen = []

    def predict(arrays):
        assert arrays["query_image"].shape == (3, SIZE, SIZE, 3)
        assert arrays["prompt_masks"].shape == (3, 1, SIZE, SIZE)
        for i, index in enumerate(arrays["index"]):
            np.testing.assert_array_equal(
                arrays["query_image"][i], network_arrays(episodes[int(index)], SIZE)["query_image"]
            )
        seen.extend(arrays["index"].tolist())
        return oracle(arrays)

    dict(EpisodeEvaluator(episodes, SIZE, batch_size=3).run(predict))
    assert sorted(set(seen)) == list(range(7)) and len(seen) == 9


def test_episode_evaluator_asks_tiles_one_by_one_and_puts_them_together(episodes):
    seen = []

    def predict(arrays):
        seen.extend(arrays["index"].tolist())
        return oracle(arrays)

    evaluator = EpisodeEvaluator(episodes, SIZE, batch_size=4, tile=0.5)
    figures = dict(evaluator.run(predict))
    assert all(seen.count(index) >= 9 for index in range(7))  # squares of half a side that overlap
    assert figures["miou"] > 97 and dict(evaluator.run(inverse))["miou"] < 3  # edges are scaled to S and back


def test_prompt_swap_evaluator_counts_the_prompted_object():
    pairs = [ProceduralScenes("unseen", SIZE).draw_swap(episode_rng(0, i), 1) for i in range(3)]
    for first, second in pairs:
        np.testing.assert_array_equal(first.query_image, second.query_image)
        assert not np.any((first.query_mask == 1) & (second.query_mask == 1))
    evaluator = PromptSwapEvaluator(pairs, SIZE, 4)
    assert dict(evaluator.run(oracle)) == {"prompt_swap": 1.0}

    def first_object(arrays):
        """Ignores the prompt."""
        truth = [network_arrays(pairs[int(i) // 2][0], SIZE)["query_mask"] for i in arrays["index"]]
        return oracle({"query_mask": np.stack(truth)})

    assert dict(evaluator.run(first_object)) == {"prompt_swap": 0.5}


def test_sheet_evaluator_writes_a_sheet_of_its_episodes(episodes, tmp_path):
    path = tmp_path / "deep" / "sheet.png"
    assert dict(SheetEvaluator(episodes[:3], SIZE, 2, path).run(oracle)) == {"pictures": 3.0}
    assert read_image(path).shape[0] > 3 * 160


def test_frozen_episodes_hash_names_the_episodes(episodes):
    scenes = ProceduralScenes("unseen", SIZE)
    assert FrozenEpisodes.of_draws(scenes, 7, 1).hash == episodes.hash
    assert FrozenEpisodes.of_draws(scenes, 7, 1, seed=1).hash != episodes.hash


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="shared data are not here")
def test_episode_evaluator_copy_prompt_equals_the_figure_of_hsnets_own_code():
    folder = VOCFolder(COCO_MINI, "val")
    episodes = FrozenEpisodes.of_records(folder, read_manifest(COCO_MINI / "episodes/val_1shot.json"))
    baseline = EpisodeEvaluator(episodes, 64, 32, "hsnet").baselines()["copy_prompt"]
    assert baseline["miou"] == pytest.approx(6.1633, abs=1e-3)
    assert baseline["fb_iou"] == pytest.approx(43.9593, abs=1e-3)
