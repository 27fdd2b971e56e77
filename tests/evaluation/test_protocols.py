"""Every benchmark from its data to its page, on the small real sets where they are, else on painted ones."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from pathlib import Path

import pytest

import ldis_jax.inference.program
import ldis_jax.weights
from ldis_jax import evaluate
from ldis_jax.evaluation.protocols import PROTOCOLS
from tests.data import trees
from tests.evaluation.painted import ROOT, Painted, write_davis, write_vspw
from tests.helpers import call_command

SHARED = ROOT / "../shared/data"
REAL = SHARED.is_dir()
EPISODES, FRAMES = 3, 10


def stand_in(data: str, root: Path) -> Path:
    """What ``--data`` takes for a data set."""
    if data == "vspw":
        source = write_vspw(Painted({"a": (1, 3), "b": (2,)}, FRAMES), root / "source")
        if REAL:
            link_first_frames(
                SHARED / "camvid_vspw", source := root / "real", ("data/0006R0/origin", "data/0006R0/mask")
            )
            (source / "val.txt").write_text("0006R0\n")
        return built(data, source, root)
    if data == "davis16":
        source = write_davis(Painted({"a": (1, 3), "b": (2,)}, FRAMES), root / "source", 2017)
        (source / "ImageSets/2016").mkdir()
        (source / "ImageSets/2016/val.txt").write_text("a\nb\n")
        if REAL:
            for video in ("blackswan", "car-shadow"):
                folders = tuple(f"{kind}/480p/{video}" for kind in ("JPEGImages", "Annotations"))
                link_first_frames(SHARED / "davis", source := root / "real", folders)
            for year in (2016, 2017):
                (source / f"ImageSets/{year}").mkdir(parents=True)
                (source / f"ImageSets/{year}/val.txt").write_text("blackswan\ncar-shadow\n")
        return built(data, source, root, "val", "val2017")
    if not REAL:
        trees.folder(root)
        (root / "JPEGImages").symlink_to(root / "images")
        (root / "SegmentationClass").symlink_to(root / "masks")
    else:
        for name in ("JPEGImages", "SegmentationClass", "classes.json"):
            (root / name).symlink_to((SHARED / "coco_mini" / name).resolve())
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    names = (SHARED / "coco_mini/ImageSets/Segmentation/val.txt").read_text() if REAL else "a b\nc.d\ne\nf\n"
    for split in ("val", "test"):
        (lists / f"{split}.txt").write_text(names)
    return root


def link_first_frames(shared: Path, root: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for path in sorted((shared / folder).iterdir())[:FRAMES]:
            (root / folder / path.name).symlink_to(path.resolve())


def built(name: str, source: Path, out: Path, *splits: str) -> Path:
    builder = importlib.import_module(f"{name}.{name}_dataset_builder").Builder
    for build in builder.of_splits(source, out, splits):
        build.build()
    return out / name


@pytest.fixture(scope="module")
def data_of(tmp_path_factory):
    """data_of("vspw") -> its stand-in, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "data"))
        yield functools.cache(lambda name: stand_in(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """All protocols share one model and one predict function, so that it compiles once a shape."""
    real, made = ldis_jax.inference.program.make_predict, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ldis_jax.weights, "load_model", functools.cache(ldis_jax.weights.load_model))
        patch.setattr(
            ldis_jax.inference.program,
            "make_predict",
            lambda *a: made[0] if made else made.append(real(*a)) or made[0],
        )
        yield


# Of those of absent objects, one of each data set: they differ from the others by their episodes alone.
_ABSENT = ("ldis-pascal-absent", "coco20i-fold0-1shot-absent", "mini-coco-1shot-absent")


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if not name.endswith("-absent") or name in _ABSENT])
def test_evaluate_goes_from_data_to_page_for_every_protocol(name, data_of, micro_folder, tmp_path, monkeypatch, capsys):
    protocol = PROTOCOLS[name]
    data = data_of(protocol.data if protocol.kind != "images" else "pictures")
    if protocol.kind == "images":
        monkeypatch.setitem(PROTOCOLS, name, dataclasses.replace(protocol, name=f"{name} in brief", episodes=EPISODES))
    out = tmp_path / "r.json"
    arguments = {"model": micro_folder, "benchmark": name, "data": data, "out": out, "batch_size": 8}
    status, printed, errors = call_command(
        evaluate.main, monkeypatch, capsys, *(f"--{k}={v}" for k, v in arguments.items())
    )
    if status:
        assert status == 2 and errors.count("\n") == 1, errors
        assert "-shot episodes need" in errors or "masks shows a class of" in errors
        assert not REAL, errors
        assert not list(tmp_path.iterdir())
        return
    report = json.loads(out.read_text())
    figure = "j_and_f" if protocol.kind == "objects" else "miou"
    assert 0 <= report[figure] <= 100 and f"{figure} {report[figure]:.2f}" in printed
    assert report["episodes" if protocol.kind == "images" else "videos"] == (
        EPISODES * (1 + protocol.absent) if protocol.kind == "images" else 1 if REAL and protocol.data == "vspw" else 2
    )
    assert ("auroc" in report) == protocol.absent
    page = out.with_suffix(".md").read_text()
    assert "| this model | " in page and "](r/" in page
    if name == "ldis-davis17" and not REAL:
        assert list(report["per_object"]) == ["a_1", "a_3", "b_2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pascal5i-fold3-1shot", "none of its 10 masks shows a class of [16, 17, 18, 19, 20]; choose others"),
        ("pascal5i-fold0-5shot", "5-shot episodes need 6 images of a class, the most frequent (cat) has 5"),
    ],
)
def test_evaluate_rejects_a_fold_without_enough_images_in_one_line(
    name, message, voc, micro_folder, tmp_path, monkeypatch, capsys
):
    arguments = {"model": micro_folder, "benchmark": name, "data": voc, "out": tmp_path / "r.json"}
    status, _, errors = call_command(evaluate.main, monkeypatch, capsys, *(f"--{k}={v}" for k, v in arguments.items()))
    assert status == 2 and message in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())
