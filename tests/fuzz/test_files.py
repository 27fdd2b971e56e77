"""Files of data sets, models and runs that are nearly right: a right result or one clear line."""

import json
import shutil
import sys

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from ldis_jax.commands.segment_outputs import Folders, Outputs
from ldis_jax.input_pipeline import RecordSource, VOCFolder, episode_rng
from ldis_jax.input_pipeline.episodes import read_manifest
from ldis_jax.training.metric_writer import read_metrics
from ldis_jax.weights import load_model
from ldis_jax.weights.card import read_provenance
from ldis_jax.weights.model_folder import open_model, read_card
from ldis_jax.weights.network_files import open_file, open_network
from tests.data import trees
from tests.fuzz.tally import altered, cases, mutated
from tests.helpers import DATA

sys.path.append(str(DATA))
MODEL_FILES = ("ldis_config.json", "unet/config.json", "vae/config.json", "prompt_encoder/config.json")
WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """``out/NAME`` of the records of a small tree."""
    from folder.folder_dataset_builder import Builder

    root = tmp_path_factory.mktemp("tree")
    trees.folder(root / "source")
    trees.lines(root / "source/ImageSets/Segmentation/train.txt", "a b", "c.d", "e", "f")
    return Builder(root / "source", "train", root / "out").build().parents[1]


def nearly(draw_from, path, data):
    """Writes a JSON document changed as one, or as bytes, in place of ``path``; ``draw_from`` is the good one."""
    good = draw_from.read_bytes()
    match data.draw(st.sampled_from(("values", "values", "bytes", "bytes", "good"))):
        case "values":
            text = json.dumps(data.draw(altered(json.loads(good))))  # NaN and Infinity among them
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
        case "bytes":
            path.write_bytes(data.draw(mutated([good])))
        case "good":
            path.write_bytes(good)


def copy_once(source, folder):
    """A copy for all cases of a test."""
    if not (folder / "copy").exists():
        shutil.copytree(source, folder / "copy")
    return folder / "copy"


@pytest.mark.parametrize("name", MODEL_FILES)
@given(data=st.data())
@cases(60)
def test_open_model_survives_nearly_right_configs(name, tally, data, micro_folder):
    copy = copy_once(micro_folder, tally.folder)
    nearly(micro_folder / name, copy / name, data)
    with tally.case():
        open_model(copy)


@given(data=st.data())
@cases(6)
def test_load_model_survives_nearly_right_configs(tally, data, micro_folder):
    copy = copy_once(micro_folder, tally.folder)
    nearly(micro_folder / "unet/config.json", copy / "unet/config.json", data)
    with tally.case():
        load_model(copy)


@given(data=st.data())
@cases(40)
def test_read_provenance_survives_nearly_right_cards(tally, data, micro_folder):
    copy = copy_once(micro_folder, tally.folder)
    (copy / "README.md").write_bytes(data.draw(mutated([(micro_folder / "README.md").read_bytes()])))
    with tally.case():
        read_provenance(read_card(copy))


@given(data=st.data())
@cases(80)
def test_open_network_survives_nearly_right_indices_of_shards(tally, data, micro_folder):
    unet = micro_folder / "unet"
    shard, index = f"{WEIGHTS}-00001-of-00001.safetensors", tally.folder / f"{WEIGHTS}.safetensors.index.json"
    good = tally.folder / "good"
    if not good.exists():
        shutil.copy(unet / f"{WEIGHTS}.safetensors", tally.folder / shard)
        names = open_file(tally.folder / shard).tensors
        good.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, shard)}))
    nearly(good, index, data)
    with tally.case():
        open_network(tally.folder, (WEIGHTS, WEIGHTS))


@given(data=st.data())
@cases(120)
def test_open_file_survives_nearly_right_safetensors(tally, data):
    """Bytes changed, and headers that lie about types, shapes and places."""
    path = tally.folder / "model.safetensors"
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    text = json.dumps(data.draw(st.one_of(st.just(header), altered(header)))).encode()
    length = data.draw(st.sampled_from((len(text), len(text), len(text), 0, len(text) + 1, 2**40, 2**63)))
    content = length.to_bytes(8, "little") + text + bytes(32)
    path.write_bytes(data.draw(st.one_of(st.just(content), mutated([content]))))
    with tally.case():
        for tensor in open_file(path).tensors.values():
            assert tensor.read().shape == tensor.shape


@given(data=st.data())
@cases(60)
def test_open_file_survives_nearly_right_torch_files(tally, data, torch_files):
    path = tally.folder / "weights.pt"
    path.write_bytes(data.draw(st.one_of(st.sampled_from(torch_files), mutated(torch_files))))
    with tally.case():
        for tensor in open_file(path).tensors.values():
            assert tensor.read().shape == tensor.shape


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory):
    """The bytes of a zip and of torch's older form."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("torch")
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}
    torch.save(tensors, folder / "new.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("name", ["index.json", "index.npz", "features.json", "dataset_info.json"])
@given(data=st.data())
@cases(50)
def test_record_source_survives_nearly_right_metadata(name, tally, data, built):
    copy = copy_once(built, tally.folder)
    good = next(built.rglob(name))
    path = copy / good.relative_to(built)
    if name == "index.npz":
        path.write_bytes(data.draw(mutated([good.read_bytes()])))
    else:
        nearly(good, path, data)
    with tally.case():
        RecordSource(copy, "train").draw(episode_rng(0, 0), 1)


@given(data=st.data())
@cases(60)
def test_record_source_survives_nearly_right_records(tally, data, built):
    copy = copy_once(built, tally.folder)
    good = next(path for path in built.rglob("*") if "array_record" in path.name)
    (copy / good.relative_to(built)).write_bytes(data.draw(mutated([good.read_bytes()])))
    source, index = RecordSource(copy, "train"), data.draw(st.integers(0, 9))
    with tally.case():
        source.draw(episode_rng(0, index), 1)


@given(data=st.data())
@cases(60)
def test_voc_folder_survives_nearly_right_lists(tally, data):
    root = tally.folder / "voc"
    if not root.exists():
        trees.pascal(root)
        shutil.move(root / "SegmentationClassAug", root / "more")
        for path in (root / "more").iterdir():
            shutil.move(path, root / "SegmentationClass" / path.name)
        (root / "good.json").write_text(json.dumps({"names": ["background", *map(str, range(1, 16))]}))
    names = "".join(f"{path.stem}\n" for path in sorted((root / "JPEGImages").iterdir())).encode()
    nearly(root / "good.json", root / "classes.json", data)
    (root / "ImageSets/Segmentation/x.txt").write_bytes(data.draw(st.one_of(st.just(names), mutated([names]))))
    with tally.case():
        VOCFolder(root, "x").draw(episode_rng(0, 0), 1)


@given(data=st.data())
@cases(150)
def test_read_manifest_survives_nearly_right_episodes(tally, data):
    good, path = tally.folder / "good.json", tally.folder / "episodes.json"
    episode = {"query": "a", "class_id": 3, "class_name": "cat", "prompts": ["b", "c"]}
    good.write_text(json.dumps([episode, episode]))
    nearly(good, path, data)
    with tally.case():
        read_manifest(path)


@given(data=st.data())
@cases(150)
def test_read_metrics_survives_nearly_right_lines(tally, data):
    path = tally.folder / "metrics.jsonl"
    lines = [{"step": 1, "train/loss": 0.5}, {"step": 2, "unseen/miou": 3.5}]
    text = "".join(json.dumps(data.draw(altered(line))) + "\n" for line in lines).encode()
    path.write_bytes(data.draw(st.one_of(st.just(text), mutated([text]))))
    with tally.case():
        assert all(isinstance(line["step"], int) for line in read_metrics(path))


@given(data=st.data())
@cases(100)
def test_folders_survives_nearly_right_settings_of_results(tally, data):
    good, path = tally.folder / "good.json", tally.folder / "segment.json"
    good.write_text(json.dumps({"model": "0", "seed": 0, "outputs": ["."], "queries": {"a.png": [1, 2]}}))
    nearly(good, path, data)
    folders = Folders(Outputs(tally.folder, None, None), {"model": "0", "seed": 0}, {good: tally.folder / "a.png"})
    with tally.case():
        folders.check({"out": []})
        folders.changed()
