"""Data flows one way: who may import whom, as CONTRIBUTING.md says."""

import ast

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "ldis_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Folder or file -> what of ldis_jax it must not import, directly or in a function.
FORBIDDEN = {
    "models": ("tasks", "diffusion", "prompting", "pseudo_mask", "input_pipeline", "evaluators", "convert", "train"),
    "diffusion": ("models", "tasks", "prompting", "input_pipeline", "evaluators", "convert", "train"),
    "tasks": ("input_pipeline", "evaluators", "convert", "pipeline", "train", "checkpoint", "sharding"),
    "input_pipeline": ("models", "tasks", "diffusion", "evaluators", "convert", "pipeline", "train"),
    "datasets": ("models", "tasks", "diffusion", "input_pipeline", "evaluators", "convert", "pipeline", "train"),
    "evaluators": ("models", "tasks", "diffusion", "convert", "pipeline", "train"),
    "benchmark": ("models", "tasks", "diffusion", "convert", "pipeline", "train"),
    "convert": ("input_pipeline", "evaluators", "pipeline", "train"),
    "demo": ("models", "tasks", "diffusion", "convert", "evaluators", "train"),
    "export": ("input_pipeline", "evaluators", "train", "config"),
    "look_inside": ("train", "evaluators", "config", "evaluation"),
    "pipeline.py": ("train", "evaluators", "config", "evaluation", "look_inside"),
}

# The doors to torch, which is optional.
NEEDS_TORCH = {"convert/torch_files.py": {"torch"}, "convert/stable_diffusion.py": {"diffusers"}}
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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_points_back(path):
    room = path.relative_to(PACKAGE).parts[0]
    names = imported(path)
    for target in FORBIDDEN.get(room, ()):
        bad = {n for n in names if n == f"ldis_jax.{target}" or n.startswith(f"ldis_jax.{target}.")}
        assert not bad, f"{room} must not import {bad}"
    if room in ("input_pipeline", "datasets"):
        assert not {n for n in names if n.split(".")[0] in ("jax", "flax", "optax")}
    optional = {n.split(".")[0] for n in names} & {"torch", "diffusers", "transformers"}
    assert optional <= NEEDS_TORCH.get(str(path.relative_to(PACKAGE)), set()), "torch is the [torch] extra"
    if any(n.split(".")[0] == "gradio" for n in names):
        assert str(path.relative_to(PACKAGE)) in NEEDS_GRADIO, "gradio is the [demo] extra"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
