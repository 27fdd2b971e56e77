"""Every notebook runs from top to bottom, as committed, on the smallest networks."""

import json

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.data import trees
from tests.helpers import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

NOTEBOOKS = ROOT / "notebooks"


def run(name, folder, **parameters):
    """The executed cells; the cell that installs is left out, and parameters are set as a user would set them."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", ())}
    assert cells.keys() == {"install", "parameters"}
    cells["install"].source = ""
    known = {line.partition(" = ")[0] for line in cells["parameters"].source.splitlines()}
    assert parameters.keys() <= known
    cells["parameters"].source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    NotebookClient(notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook.cells


def outputs(cells, kind):
    return [out.data[kind] for cell in cells for out in cell.get("outputs", ()) if kind in out.get("data", {})]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_it_is_committed_without_results(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(nbformat.from_dict(notebook))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_it_asks_whose_repository_first(path):
    cells = nbformat.read(path, as_version=4).cells
    install = next(cell.source for cell in cells if "install" in cell.metadata.get("tags", ()))
    name_it = install.partition("!git clone")[0]
    with pytest.raises(AssertionError, match="REPO: write whose repository it is in place of OWNER"):
        exec(name_it, {})
    exec(name_it.replace("/OWNER/", "/someone/", 1), {})
    # Not by constraints.txt: a TPU runtime brings the jax that fits its libtpu along.
    assert "constraints.txt" not in install


def test_segment(tmp_path, micro_folder, pictures):
    prompts = [(str(pictures["prompt"]), str(pictures["mask"]))]
    cells = run("segment", tmp_path, MODEL=str(micro_folder), QUERY=str(pictures["query"]), PROMPTS=prompts)
    with Image.open(tmp_path / "mask.png") as mask, Image.open(pictures["query"]) as query:
        assert mask.size == query.size and set(np.unique(mask)) <= {0, 255}
    assert len(outputs(cells, "image/png")) == 1


def test_segment_without_pictures(tmp_path, micro_folder):
    run("segment", tmp_path, MODEL=str(micro_folder))
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "L"


def test_finetune(tmp_path):
    names = [f"picture{i}" for i in range(8)]
    for i, name in enumerate(names):
        image, mask = trees.paint(i, [1, 2])
        trees.save(tmp_path / f"mine/JPEGImages/{name}.jpg", image)
        trees.save(tmp_path / f"mine/SegmentationClass/{name}.png", mask, palette=True)
    trees.lines(tmp_path / "mine/ImageSets/Segmentation/train.txt", *names[:4])
    trees.lines(tmp_path / "mine/ImageSets/Segmentation/val.txt", *names[4:])
    cells = run("finetune", tmp_path, DATA=str(tmp_path / "mine"), METHOD="small", STEPS=4, BATCH_SIZE=2)
    assert len(outputs(cells, "image/png")) == 2
    assert (tmp_path / "runs" / "finetuned" / "model").is_dir() and (tmp_path / "mask.png").is_file()


def test_quick_start(tmp_path, micro_folder):
    cells = run("quick_start", tmp_path, MODEL=str(micro_folder))
    assert len(outputs(cells, "image/png")) == 4
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "L" and mask.size == (64, 64)


def test_look_inside(tmp_path, micro_folder_ldisn, pictures):
    prompts = [(str(pictures["prompt"]), str(pictures["mask"]))] * 2
    cells = run("look_inside", tmp_path, MODEL=str(micro_folder_ldisn), QUERY=str(pictures["query"]), PROMPTS=prompts)
    assert len(outputs(cells, "image/png")) == 5
