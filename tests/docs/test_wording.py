"""CONTRIBUTING's words, in docstrings, messages and documents."""

import ast
import re

from tests.helpers import ROOT

CODE = sorted(path for path in (ROOT / "ldis_jax").rglob("*.py") if "assets" not in path.parts)
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").glob("*.py"), ROOT / "launch/README.md"]
OPENINGS = ("Of", "As", "What", "Whether")
WORDS = re.compile(
    r"\b(anew|towers?|main job|comes along|shipped|the house|learnt? to paint|stands? (in|on|under|beside|above))\b",
    re.IGNORECASE,
)


def test_wording_of_docstrings_begins_with_their_subject_or_verb():
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = [(path, node) for path in CODE for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    texts = [(path.name, text) for path, node in nodes if (text := ast.get_docstring(node))]
    assert len(texts) > 1000
    assert not [(name, text) for name, text in texts if text.split()[0] in OPENINGS]


def test_wording_avoids_the_words_of_the_list():
    lines = [(path.name, line) for path in [*CODE, *PAGES] for line in path.read_text().splitlines()]
    assert len(lines) > 10_000
    assert not [(name, line) for name, line in lines if WORDS.search(line) and "(not " not in line]
