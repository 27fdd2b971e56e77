"""The package's order of floors: a room imports from floors below it only."""

import ast
import re

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "ldis_jax"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "assets" not in path.parts)  # those are a model's

# From the top. A room is a folder, or a module in the package's root.
FLOORS = (
    ("main", "segment", "evaluate", "compile", "convert", "export", "check_data", "named_models", "demo"),
    ("commands", "costs"),
    ("training", "evaluation"),
    ("__init__", "look_inside"),
    ("pipeline", "evaluators", "recipes"),
    ("config", "inference"),
    ("input_pipeline", "weights"),
    ("datasets", "tasks"),
    ("diffusion", "media", "models"),
    ("support",),
    ("runtime",),
    ("errors",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MOST_ROOT_MODULES = 12

# The doors to torch, which is optional.
NEEDS_TORCH = {
    "weights/torch_files.py": {"torch"},
    "weights/stable_diffusion.py": {"diffusers"},
    "weights/diffusers_files/pipeline.py": {"torch", "diffusers"},  # torch's users run them, this package does not
    "weights/diffusers_files/alpha_clip.py": {"torch"},
    "weights/diffusers_files/efficientnet.py": {"torch"},
}
# What lays out the web page knows Gradio, which is optional too; what does its work does not.
NEEDS_GRADIO = {f"demo/{name}.py" for name in ("page", "image_tab", "video_tab", "widgets")}


def imported(path):
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room_of(module):
    """The room of "ldis_jax.x.y"; names that ``ldis_jax`` itself exports are of its ``__init__``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


def test_layout_gives_every_room_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms == set(FLOOR)


def test_layout_in_contributing_names_every_folder():
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    named = {folder for line in re.findall(r"^  (\w+/(?: \w+/)*) ", tree, re.M) for folder in re.findall(r"\w+", line)}
    assert named == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_layout_keeps_the_root_small():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_ROOT_MODULES


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layout_lets_imports_run_downward_only(path):
    room, names = path.relative_to(PACKAGE).parts[0].removesuffix(".py"), imported(path)
    rooms = {room_of(name) for name in names if name.startswith("ldis_jax.")} - {room}
    assert not {other for other in rooms if FLOOR[other] <= FLOOR[room]}
    if room in ("input_pipeline", "datasets"):
        assert not {n for n in names if n.split(".")[0] in ("jax", "flax", "optax")}
    optional = {n.split(".")[0] for n in names} & {"torch", "diffusers", "transformers"}
    assert optional <= NEEDS_TORCH.get(str(path.relative_to(PACKAGE)), set()), "torch is the [torch] extra"
    if any(n.split(".")[0] == "gradio" for n in names):
        assert str(path.relative_to(PACKAGE)) in NEEDS_GRADIO, "gradio is the [demo] extra"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layout_keeps_files_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
