"""What documents point at exists."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")] if not p.parts[-2].startswith("."))


def defined_in(path):
    """{"test_x", "TestY::test_z"} of a test file."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_tests_named_in_documents_exist(path):
    text = path.read_text(encoding="utf-8")
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text):
        assert name in defined_in(ROOT / file), f"{file}::{name}"
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


def test_every_row_of_the_weights_tables_names_its_test():
    rows = [line for line in (ROOT / "docs" / "weights.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "proved by" not in row and not set(row) <= set("|- ")]
    assert len(rows) > 20
    assert all("`tests/" in row for row in rows if len(row.split("|")) in (4, 5))


def test_tables_of_the_speed_page_are_those_of_the_figures():
    spec = importlib.util.spec_from_file_location("speed_tables", ROOT / "tools" / "speed_tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    figures = list((ROOT / "docs" / "speed").glob("*.json"))
    assert figures
    assert all(tables.TABLES[path.stem](json.loads(path.read_text())) in page for path in figures)
