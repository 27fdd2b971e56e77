import importlib
import sys

import pytest

from tests.data import trees
from tests.helpers import DATA, SHARED

sys.path.append(str(DATA))  # as `python data/build.py` has it; worker processes inherit it


@pytest.fixture
def tree(tmp_path):
    """tree("pascal") -> the folder of its fake."""

    def make(name):
        trees.ALL[name](root := tmp_path / "source" / name)
        return root

    return make


@pytest.fixture
def build(tmp_path):
    """build("pascal", source, "val") -> (folder, summary, builder) of one split."""

    def make(name, source, split, out="out", **options):
        if name == "coco20i":
            pytest.importorskip("pycocotools")
        builder = importlib.import_module(f"{name}.{name}_dataset_builder").Builder
        one = builder(source, split, tmp_path / out, **options)
        folder = one.build()
        return folder, one.summary(), one

    return make


@pytest.fixture
def shared():
    """shared("davis") -> the real small set."""

    def find(name):
        if not (SHARED / name).is_dir():
            pytest.skip("shared data are not here")
        return SHARED / name

    return find
