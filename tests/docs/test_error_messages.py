"""docs/troubleshooting.md has every error message of ours, and none that is gone."""

from collections import Counter

from tests.helpers import ROOT, load_script

tool = load_script(ROOT / "tools" / "error_messages.py")
PAGE = tool.PAGE.read_text(encoding="utf-8")


def test_page_and_code_have_the_same_messages():
    code, page = tool.messages_in_code(), set(tool.messages_on_page(PAGE))
    assert len(code) > 250
    missing, gone = code.keys() - page, page - code.keys()
    assert not missing and not gone, "python tools/error_messages.py says what to write where"


def test_every_message_stands_once_and_has_advice():
    assert [message for message, n in Counter(tool.messages_on_page(PAGE)).items() if n > 1] == []
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(len(row) == 3 and all(cell.strip(" |") for cell in row) for row in rows)


def test_templates_of_python():
    source = """
def f(path, n, why):
    if n:
        raise LDISError(f"{path}: {'a folder' if n else 'a file'} of {n:.1f}{why!r}; " "give another")
    error = LDISError(str(why))
    try:
        raise ValueError(f"n={n}: {{must}} be positive")
    except ValueError as error:
        raise TypeError("of the program, not of its user") from error
"""
    found = [template for _, template in tool.messages_of_python(source)]
    assert sorted(found) == ["n=…: {must} be positive", "…", "…: [a folder / a file] of …; give another"]


def test_tables_of_other_kinds_are_no_messages():
    text = (
        "\n| what you see | why |\n|---|---|\n| `a` | b |\n\n| message | why |\n|---|---|\n| `c`<br>`d` | `e` |\n\n`f`"
    )
    assert tool.messages_on_page(text) == ["c", "d"]
