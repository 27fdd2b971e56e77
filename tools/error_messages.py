"""Compares docs/troubleshooting.md with the error messages in the code.

python tools/error_messages.py    lists messages that belong to no cause on the page, and words that no message has

The page has a section for each cause, and under its heading, after >, words of its messages in backticks. A message
belongs to the cause with the longest words found in it; upper and lower case are alike, and … stands for what varies.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"

_ERRORS = ("LDISError", "TryAgainError", "BadFileError", "_fail")
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


def messages_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Arguments of ``LDISError(...)``, and of ``raise ValueError(...)``, which a caller turns into one."""
    raised = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised.add(node.exc)
        if isinstance(node, ast.Call) and node.args:
            of_two = isinstance(node.func, ast.IfExp)  # (A if late else B)("the message")
            name = getattr(node.func.body if of_two else node.func, "id", "")
            if name in _ERRORS or (name == "ValueError" and node in raised):
                yield node.lineno, _tidy(_template(node.args[0]))


def causes_on_page(text: str) -> dict[str, list[str]]:
    """Heading -> words of its messages, for every section that has a line of them."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith(">"):
            found.setdefault(heading, []).extend(re.findall(r"`([^`]+)`", line))
    return found


def differences(messages: Iterable[str], causes: Mapping[str, list[str]]) -> tuple[dict[str, list[str]], list[str]]:
    """What the page lacks, and what it has too much.

    Args:
        messages: templates.
        causes: heading -> words.

    Returns:
        Messages that belong to no cause, or to several by words of one length, each with these causes; and the words
        to which no message belongs.
    """
    patterns = {words: pattern(words) for of_one in causes.values() for words in of_one}
    homeless, used = {}, set()
    for message in messages:
        found = {words for words, compiled in patterns.items() if compiled.search(message)}
        longest = {words for words in found if len(words) == max(map(len, found))}
        homes = [heading for heading, words in causes.items() if longest & set(words)]
        used |= longest
        if len(homes) != 1:
            homeless[message] = homes
    return homeless, [words for words in patterns if words not in used]


def pattern(words: str) -> re.Pattern[str]:
    """Finds ``words`` of the page in a template."""
    return re.compile(re.escape(words).replace("…", ".*"), re.IGNORECASE)


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
    code, causes = messages_in_code(), causes_on_page(PAGE.read_text(encoding="utf-8"))
    homeless, unused = differences(code, causes)
    for message, homes in homeless.items():
        print(f"{code[message]}: {message}\n    belongs to {' and to '.join(homes) or 'no cause'}")
    for words in unused:
        print(f"no message has the words: {words}")
    return int(bool(homeless or unused))


if __name__ == "__main__":
    sys.exit(main())
