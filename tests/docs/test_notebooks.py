"""Every notebook runs from top to bottom, as committed, on the smallest networks."""

import json
from unittest import mock

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

from tests.data import trees
from tests.helpers import ROOT

NOTEBOOKS = ROOT / "notebooks"
INSTALL = 'pip install -q -e . "{plugin}"'  # IPython puts the variable in


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
def test_notebooks_are_committed_without_results(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(nbformat.from_dict(notebook))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])


@pytest.fixture(params=sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def install(request, tmp_path, monkeypatch):
    """Runs a notebook's first cell in a folder, the package installed or not: what it asks of IPython."""
    cells = nbformat.read(request.param, as_version=4).cells
    source = next(cell.source for cell in cells if "install" in cell.metadata.get("tags", ()))

    def call(folder, *, installed=False, owner="OWNER"):
        shell = mock.Mock()
        monkeypatch.chdir(folder)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name if installed else None)
        code = TransformerManager().transform_cell(source.replace("/OWNER/", f"/{owner}/", 1))
        exec(code, {"get_ipython": lambda: shell})
        return [" ".join(call.args) for call in shell.method_calls]

    return call


def test_notebooks_ask_whose_repository_first(install, tmp_path):
    with pytest.raises(AssertionError, match="REPO: write whose repository it is in place of OWNER"):
        install(tmp_path)
    # Not by constraints.txt: jax and the plugin of a runtime's TPU or GPU are upgraded together.
    assert install(tmp_path, owner="someone") == ["git clone -q $REPO ldis-jax", "cd ldis-jax", INSTALL]


def test_notebooks_start_in_a_clone_as_it_is(install):
    assert install(NOTEBOOKS, installed=True) == ["cd .."]
    assert install(NOTEBOOKS) == ["cd ..", INSTALL]
    assert install(ROOT, installed=True) == [], "the cell is run again"


def test_segment(tmp_path, micro_folder, pictures):
    prompts = [(str(pictures["prompt"]), str(pictures["mask"]))]
    cells = run("segment", tmp_path, MODEL=str(micro_folder), QUERY=str(pictures["query"]), PROMPTS=prompts)
    with Image.open(tmp_path / "mask.png") as mask, Image.open(pictures["query"]) as query:
        assert mask.size == query.size and set(np.unique(mask)) <= {0, 255}
    assert len(outputs(cells, "image/png")) == 1


def test_segment_without_images(tmp_path, micro_folder):
    run("segment", tmp_path, MODEL=str(micro_folder))
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "L"


def test_finetune(tmp_path, micro_folder):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    names = [f"picture{i}" for i in range(8)]
    for i, name in enumerate(names):
        image, mask = trees.paint(i, [1, 2])
        trees.save(tmp_path / f"mine/JPEGImages/{name}.jpg", image)
        trees.save(tmp_path / f"mine/SegmentationClass/{name}.png", mask, palette=True)
    trees.lines(tmp_path / "mine/ImageSets/Segmentation/train.txt", *names[:4])
    trees.lines(tmp_path / "mine/ImageSets/Segmentation/val.txt", *names[4:])
    cells = run("finetune", tmp_path, DATA=str(tmp_path / "mine"), INIT=str(micro_folder), STEPS=4, BATCH_SIZE=2)
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
