"""Every error message of ours belongs to one cause in docs/troubleshooting.md, and no cause there is without one."""

import re
from collections import Counter

import pytest

from tests.helpers import ROOT, load_script

tool = load_script(ROOT / "tools" / "error_messages.py")
PAGE = tool.PAGE.read_text(encoding="utf-8")


def test_error_messages_have_one_cause_each_and_every_cause_has_messages():
    code = tool.messages_in_code()
    assert len(code) > 150
    homeless, unused = tool.differences(code, tool.causes_on_page(PAGE))
    assert not homeless and not unused, "python tools/error_messages.py says which"


def test_troubleshooting_page_words_say_something_and_stand_once():
    words = [words for words_of_one in tool.causes_on_page(PAGE).values() for words in words_of_one]
    assert [w for w, n in Counter(words).items() if n > 1] == []
    assert [w for w in words if len(re.findall(r"\w", w)) < 6] == []
    code = tool.messages_in_code()
    most = max(sum(tool.pattern(w).search(message) is not None for message in code) for w in words)
    assert most < len(code) / 10, "words that fit nearly everything"


def test_troubleshooting_page_has_advice_for_every_cause():
    sections = [section.split("\n\n") for section in re.split(r"^#+ ", PAGE, flags=re.M)]
    causes = [parts for parts in sections if len(parts) > 1 and parts[1].startswith("> ")]
    assert len(causes) == len(tool.causes_on_page(PAGE)) > 30
    assert all(len(parts) > 2 and len(parts[2].split()) > 5 for parts in causes)


def test_messages_of_python_gives_templates():
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


def test_causes_on_page_takes_words_from_quoted_lines_only():
    text = "# Page\n\n`a`\n\n## One\n\n> `b`, `c …`,\n> `d`\n\nAdvice with `e`.\n\n### Two\n\n> `f`\n"
    assert tool.causes_on_page(text) == {"One": ["b", "c …", "d"], "Two": ["f"]}


@pytest.mark.parametrize(
    ("causes", "homeless", "unused"),
    [
        ({"gone": ["no such file"], "odd": ["must be … numbers"]}, {}, []),
        ({"gone": ["no such"], "odd": ["Must Be"]}, {}, []),
        ({"gone": ["no such file"]}, {"n=…: must be of … numbers": []}, []),
        ({"gone": ["no such file"], "odd": ["must be", "full disk"]}, {}, ["full disk"]),
        # The longest words decide, and those that never do are not needed.
        ({"gone": ["no such file"], "odd": ["must be"], "numbers": ["must be of"]}, {}, ["must be"]),
        (
            {"gone": ["no such"], "odd": ["must be"], "of": ["numbers"]},
            {"n=…: must be of … numbers": ["odd", "of"]},
            [],
        ),
    ],
)
def test_differences(causes, homeless, unused):
    assert tool.differences(["…: no such file", "n=…: must be of … numbers"], causes) == (homeless, unused)
