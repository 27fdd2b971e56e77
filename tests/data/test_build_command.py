"""The command: refusals in one line, bad files, and builds that were cut off."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldis_jax.datasets.index import ImageIndex
from ldis_jax.errors import LDISError
from ldis_jax.input_pipeline import RecordSource
from tests.data import trees
from tests.data.conftest import DATA


def command(*arguments):
    run = [sys.executable, str(DATA / "build.py"), *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)


def refused(result):
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_build_and_build_again(tree, tmp_path):
    root, out = tree("pascal"), tmp_path / "out"
    first = command("pascal", f"--source={root}", f"--out={out}", "--num_workers=2")
    assert first.returncode == 0 and "warning: pascal/train_aug: " in first.stderr
    folders = [out / "pascal" / split / "1.0.0" for split in ("train_aug", "val")]
    assert first.stdout.splitlines() == [
        f"{folder}: {n} images, hash {json.loads((folder / 'index.json').read_text())['hash']}"
        for folder, n in zip(folders, (4, 2), strict=True)
    ]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    assert command("pascal", f"--source={root}", f"--out={out}").stdout == first.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "1.0.0" not in [path.name for path in out.iterdir()] and not list(out.rglob("incomplete*"))

    os.utime(root / "JPEGImages/2007_000005.jpg", (0, 0))
    assert "was built from another source" in refused(
        command("pascal", f"--source={root}", f"--out={out}", "--split", "val")
    )


def test_build_shows_help():
    result = command("--help")
    assert result.returncode == 0 and "--skip_bad" in result.stdout and "python data/build.py pascal" in result.stdout


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--source=/nowhere", "--split", "val"), "/nowhere: no list of split 'val'"),
        (("--source=/nowhere",), "/nowhere: no list of split 'train_aug'"),
        (("--split", "test"), "no list of split 'test'; expected ImageSets/Segmentation/test.txt"),
        (("--split", "../val"), "letters, digits"),
        (("--split", "all"), "TFDS keeps 'all'"),
        (("--out=/proc/nowhere",), "/proc/nowhere"),
    ],
)
def test_build_refuses_bad_flags_in_one_line(tree, tmp_path, flags, match):
    assert match in refused(command("pascal", f"--source={tree('pascal')}", f"--out={tmp_path / 'out'}", *flags))


def test_build_refuses_a_source_of_another_kind(tree, tmp_path):
    error = refused(command("fss1000", f"--source={tree('coco20i')}", f"--out={tmp_path / 'out'}"))
    assert "no list of split 'train'; expected train.txt, see data/README.md" in error


def spoil(root):
    """Breaks 6 of 8 images of a folder set, each in another way; returns the reasons by stem."""
    names = [f"n{i}" for i in range(8)]
    for i, name in enumerate(names):
        image, mask = trees.paint(i, [1])
        trees.save(root / f"images/{name}.jpg", image)
        trees.save(root / f"masks/{name}.png", mask)
    (root / "images/n1.jpg").unlink()
    (root / "masks/n2.png").unlink()
    (root / "images/n3.jpg").write_bytes((root / "images/n3.jpg").read_bytes()[:-200])
    (root / "masks/n4.png").write_text("no image")
    Image.new("L", (5, 7)).save(root / "masks/n5.png")
    Image.new("RGB", Image.open(root / "images/n6.jpg").size).save(root / "masks/n6.png")
    trees.lines(root / "train.txt", *names, "n0")
    return {
        "images/n1.jpg": "No such file",
        "masks/n2.png": "No such file",
        "images/n3.jpg": "damaged",
        "masks/n4.png": "not an image",
        "masks/n5.png": "mask is 5x7",
        "masks/n6.png": "one 8-bit channel",
        "images/n0.jpg": "listed twice",
    }


def test_build_stops_at_bad_files_with_all_reasons(tmp_path):
    reasons = spoil(root := tmp_path / "source")
    error = refused(command("folder", f"--source={root}", f"--out={tmp_path / 'out'}", "--num_workers=1"))
    assert "7 of 9 images of folder/train are bad" in error and "--skip_bad" in error
    for path, reason in reasons.items():
        assert f"{root / path}: " in error and reason in error
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == [".lock"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_build_with_skip_bad_leaves_bad_files_out(tmp_path, build, num_workers):
    reasons = spoil(root := tmp_path / "source")
    folder, summary, builder = build("folder", root, "train", skip_bad=True, num_workers=num_workers)
    assert ImageIndex.load(folder / "index.npz").names.tolist() == [b"n0", b"n7"]
    assert len(summary["bad"]) == 7
    for path, reason in reasons.items():
        assert any(line.startswith(f"{root / path}: ") and reason in line for line in summary["bad"])
    assert any("left out 7 bad images" in warning for warning in builder.warnings)
    assert RecordSource(folder.parents[1], "train").draw(np.random.default_rng(0), 1).class_name == "class 1"
    with pytest.raises(LDISError, match="was built with --skip_bad and lacks 7 images"):
        build("folder", root, "train")


def test_build_shows_only_ten_reasons(tmp_path, build):
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    trees.lines(root / "train.txt", *(f"n{i}" for i in range(25)))
    for skip_bad in (False, True):
        with pytest.raises(LDISError, match=r"n9\.jpg: No such file or directory; and 15 more$"):
            build("folder", root, "train", skip_bad=skip_bad)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_build_that_is_killed_leaves_nothing_that_counts(tree, tmp_path, build):
    root, out = tree("fss1000"), tmp_path / "out"
    script = tmp_path / "slow.py"
    script.write_text(
        f"""
import sys, time
sys.path.insert(0, {str(DATA)!r})

if __name__ == "__main__":
    from fss1000.fss1000_dataset_builder import Builder

    class Slow(Builder):
        name = "fss1000"
        passes = 0

        def items(self):
            Slow.passes += 1
            for item in super().items():
                time.sleep(0.5 * (Slow.passes > 1))  # the first pass takes the fingerprint
                yield item

    Slow({str(root)!r}, "train", {str(out)!r}, num_workers=2).build()
"""
    )
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    folder = out / "fss1000/train/1.0.0"
    try:
        wait_for(lambda: list(folder.parent.glob("incomplete.*/*array_record*")))
        with pytest.raises(LDISError, match="another build is writing here"):
            build("fss1000", root, "train")
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) >= 2 and process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: not any(map(alive, workers)))
    assert not folder.exists() and list(folder.parent.glob("incomplete.*"))
    with pytest.raises(LDISError, match=r"\(build the records with data/build\.py\): cannot be read \(No such"):
        RecordSource(out / "fss1000", "train")

    again, summary, _ = build("fss1000", root, "train")
    assert again == folder and not list(out.rglob("incomplete.*"))
    assert summary == build("fss1000", root, "train", out="fresh")[1]


SPOILED_INDEXES = {
    "pickled index": lambda arrays: {"names": np.array([print], object)},
    "another dimension": lambda arrays: {"names": arrays["names"][:, None]},
    "another type": lambda arrays: {"labels": arrays["labels"].astype(float)},
    "another length": lambda arrays: {"heights": arrays["heights"][:-1]},
    "offsets that go back": lambda arrays: {"offsets": arrays["offsets"][::-1]},
    "no such video": lambda arrays: {"videos": arrays["videos"] + 9},
}
SPOILED_SUMMARIES = {
    "a summary that is a list": lambda text: "[]",
    "names that are numbers": lambda text: json.dumps(json.loads(text) | {"class_names": [1, 2]}),
    "a key twice": lambda text: text.replace("{", '{"images": 1,', 1),
    "another rule": lambda text: json.dumps(json.loads(text) | {"mask_rule": "any"}),
}


@pytest.mark.parametrize(
    "damage", ["no index", "no summary", "truncated index", "records gone", *SPOILED_INDEXES, *SPOILED_SUMMARIES]
)
def test_record_source_refuses_damaged_records_in_one_line(tree, build, damage):
    folder, _, _ = build("folder", tree("folder"), "full")
    index = folder / "index.npz"
    if damage == "no index":
        index.unlink()
    elif damage == "no summary":
        (folder / "index.json").unlink()
    elif damage == "truncated index":
        index.write_bytes(index.read_bytes()[:-300])
    elif damage == "records gone":
        next(folder.glob("*array_record*")).unlink()
    elif damage in SPOILED_INDEXES:
        arrays = dict(np.load(index))
        np.savez(index, **arrays | SPOILED_INDEXES[damage](arrays))
    else:
        path = folder / "index.json"
        path.write_text(SPOILED_SUMMARIES[damage](path.read_text()))
    with pytest.raises(LDISError, match=r"build (them|the records)") as info:
        RecordSource(folder.parents[1], "full").draw(np.random.default_rng(0), 1)
    assert "\n" not in str(info.value)


def test_record_source_reads_a_finished_set_that_was_moved(tree, build, tmp_path):
    folder, _, _ = build("vspw", tree("vspw"), "train")
    shutil.move(folder.parents[1], tmp_path / "moved")
    shutil.rmtree(tmp_path / "source")
    assert RecordSource(tmp_path / "moved", "train").draw(np.random.default_rng(0), 2).is_video
