import pickle

import numpy as np
import pytest

from ldis_jax.datasets.folder_check import check_folder
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import FrozenEpisodes, ImageFolder, TrainEpisodes, episode_rng, make_source
from ldis_jax.recipes.data import folder_source
from tests.data import trees
from tests.data.test_folder_check import box, boxes, image_folder
from tests.helpers import classes_of


def records(source, n, num_shots=1):
    return [source.draw_record(episode_rng(0, i), num_shots) for i in range(n)]


@pytest.fixture
def root(tmp_path):
    """Three cats and four dogs in sub-folders; one of the seven is held out."""
    return image_folder(tmp_path, {f"{kind}/{i}": box(255) for kind, n in (("cat", 3), ("dog", 4)) for i in range(n)})


def test_image_folder_pairs_held_out_queries_with_training_prompts(root):
    checked = check_folder(root)
    held_out = {name.decode() for name in checked.index.names[checked.held_out]}
    drawn = records(ImageFolder(root, "train"), 300)
    assert not held_out & {name for r in drawn for name in (r.query, *r.prompts)}
    assert len({r.query for r in drawn}) == 7 - len(held_out)
    drawn = records(ImageFolder(root, "val"), 100, num_shots=2)
    assert {r.query for r in drawn} == held_out
    assert all(not held_out & set(r.prompts) and len(set(r.prompts)) == 2 for r in drawn)
    assert all({name.partition("/")[0] for name in (r.query, *r.prompts)} == {r.class_name} for r in drawn)
    with pytest.raises(LDISError, match=r"val: 4-shot episodes need 5 images of a class"):
        records(ImageFolder(root, "val"), 1, num_shots=4)


def test_frozen_episodes_need_one_held_out_image_and_never_repeat(tmp_path):
    source = ImageFolder(image_folder(tmp_path, boxes(1)), "val")
    episodes = FrozenEpisodes.of_draws(source, 100, 1)
    assert len(episodes) == 1
    several = FrozenEpisodes.of_draws(ImageFolder(tmp_path, "train"), 100, 1)
    assert len(several) == len({record.query for record in several.records}) == 4
    assert FrozenEpisodes.of_draws(ImageFolder(tmp_path, "train"), 2, 1).records == several.records[:2]


def test_image_folder_keeps_one_training_image_in_five_for_choosing(tmp_path):
    root = image_folder(tmp_path, boxes(1, 20))
    names = {split: {r.query for r in records(ImageFolder(root, split), 400)} for split in ("fit", "choose", "val")}
    assert [len(names[split]) for split in ("fit", "choose", "val")] == [13, 3, 4]
    assert len(set.union(*names.values())) == 20
    for r in records(ImageFolder(root, "choose"), 50):
        assert set(r.prompts) <= names["fit"]
    for r in records(ImageFolder(root, "val"), 50):
        assert not set(r.prompts) & names["val"]


def test_image_folder_of_few_images_chooses_by_those_it_trains_on(tmp_path):
    root = image_folder(tmp_path, boxes(1, 8))
    fit, choose = (ImageFolder(root, split) for split in ("fit", "choose"))
    assert fit.num_images == choose.num_images == 6


def test_image_folder_takes_classes_by_name_or_label_and_the_others(root):
    def drawn(**settings):
        return classes_of(ImageFolder(root, "train", **settings))

    assert drawn(classes="dog") == drawn(classes=" 2 ") == drawn(classes="cat", others=True)
    assert all(name.startswith("dog/") for name in drawn(classes="dog"))
    assert drawn() == drawn(classes="cat,dog")
    for settings, message in (({"classes": "cow"}, "no class 'cow'; choose of cat, dog"), ({"classes": "9"}, "'9'")):
        with pytest.raises(LDISError, match=message):
            drawn(**settings)
    with pytest.raises(LDISError, match="no other classes than cat,dog"):
        drawn(classes="cat,dog", others=True)
    with pytest.raises(LDISError, match="no other classes than those that are trained on"):
        drawn(others=True)


def test_image_folder_episodes_are_the_files_as_their_rule_reads_them(root):
    for split in ("train", "val"):
        source = pickle.loads(pickle.dumps(ImageFolder(root, split)))
        record = records(source, 1)[0]
        episode = source.episode(record)
        np.testing.assert_array_equal(episode.query_mask, box(1))
        assert (episode.class_id, episode.class_name) == {"cat": (1, "cat"), "dog": (2, "dog")}[record.class_name]
    arrays = TrainEpisodes(ImageFolder(root, "train"), 1, 16, seed=0, length=2)[1]
    assert arrays["prompt_images"].shape == (1, 16, 16, 3)


def test_image_folder_stops_at_bad_files_or_leaves_them_out(root):
    trees.save(root / "masks/dog/0.png", box(255, (9, 9)))
    with pytest.raises(LDISError, match=r"1 file cannot be used, such as .*dog/0\.png: mask is 9x9"):
        ImageFolder(root, "train")
    assert "dog/0" not in classes_of(ImageFolder(root, "train", skip_bad=True))
    trees.save(root / "masks/dog/0.png", box(255))  # a mended file is looked at again
    assert ImageFolder(root, "train").num_images == 6
    with pytest.raises(LDISError, match="kind='folder' of split 'test': must be"):
        make_source({"mine": folder_source(str(root), "test")}, 16)
