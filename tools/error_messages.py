"""Compares docs/troubleshooting.md with the error messages in the code.

python tools/error_messages.py    lists messages that the page lacks, and entries of the page that no message has

A message is written as a template: what varies is …, and one of two fixed texts is [this / that]. The page's tables
hold templates in backticks in their first column; several messages may share a row.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"

_SHELL = re.compile(r'(?:\bfail "|"error: )((?:[^"\\]|\\.)*)')
_SHELL_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\}|\(.*)")


def messages_in_code() -> dict[str, str]:
    """Template -> path:line of every message that a user's mistake can lead to."""
    found: dict[str, str] = {}
    for folder in ("ldis_jax", "data"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, template in messages_of_python(path.read_text(encoding="utf-8")):
                found.setdefault(template, f"{path.relative_to(ROOT)}:{line}")
    for path in sorted((ROOT / "launch").iterdir()):
        if path.suffix in (".sh", ".sbatch"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                for text in _SHELL.findall(line):
                    found.setdefault(_tidy(_SHELL_VARIABLE.sub("…", text)), f"{path.relative_to(ROOT)}:{number}")
    # What only passes on another message has no words of its own.
    return {template: place for template, place in found.items() if re.search(r"\w{3}", template)}


def messages_on_page(text: str) -> list[str]:
    """The templates in the first column of the page's tables."""
    rows = [row for table in text.split("\n| message |")[1:] for row in table.split("\n\n")[0].splitlines()[2:]]
    return [template for row in rows for template in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def messages_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Arguments of ``LDISError(...)``, and of ``raise ValueError(...)``, which a caller turns into one."""
    raised = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised.add(node.exc)
        if isinstance(node, ast.Call) and node.args:
            of_two = isinstance(node.func, ast.IfExp)  # (A if late else B)("the message")
            name = getattr(node.func.body if of_two else node.func, "id", "")
            if name in ("LDISError", "TryAgainError", "BadFileError") or (name == "ValueError" and node in raised):
                yield node.lineno, _tidy(_template(node.args[0]))


def _template(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_template, parts))
        case ast.FormattedValue(value=ast.IfExp(body=ast.Constant(value=str(a)), orelse=ast.Constant(value=str(b)))):
            return f"[{a} / {b}]"
        case _:
            return "…"


def _tidy(template: str) -> str:
    return re.sub("…+", "…", " ".join(template.split()))


def main() -> int:
    """Returns 1 where page and code differ."""
    code, page = messages_in_code(), messages_on_page(PAGE.read_text(encoding="utf-8"))
    for template in code.keys() - set(page):
        print(f"missing, {code[template]}:\n| `{template}` | why | what to do |")
    for template in sorted(set(page) - code.keys()):
        print(f"no such message any more: {template}")
    return int(set(page) != code.keys())


if __name__ == "__main__":
    sys.exit(main())
