"""JSON from outside: what is read, and what is refused in one line before it means two things or ends a program."""

import json
import os
from typing import Any

import pytest

from ldis_jax.errors import LDISError
from ldis_jax.support.json_files import MOST_BYTES, parse_json, read_json


def test_read_json_gives_the_type_that_is_asked_for(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"ä": "\udce9"}, "n": -(2**63), "deep": [[[[[[1]]]]]]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value and parse_json(path.read_bytes()) == value
    assert parse_json("[1, 2]", list[int]) == [1, 2]
    assert type(parse_json('{"a": 1}', dict[str, int | float])["a"]) is int
    assert str(parse_json('{"a": NaN}', dict[str, int | float], nan=True)) == "{'a': nan}"


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("", Any, "Expecting value"),
        (b"\xff\xfe\x00", Any, "can't decode"),
        ("{}}", Any, "Extra data"),
        ("null", dict[str, Any], "valid dictionary"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 1}}', Any, "the key 'c' is given twice"),
        ('{"a": %s}' % (400 * "9"), Any, "9{20} is no number of JSON that all programs read"),
        (5000 * "9", Any, "9{20} is no number"),
        (str(2**63), Any, "is no number"),
        ("[1e400]", Any, "1e400 is no number"),
        ("[NaN]", Any, "NaN is no number"),
        ("-Infinity", Any, "-Infinity is no number"),
        (100_000 * "[", Any, "nested too deep"),
        (100_000 * '{"a":', Any, "nested too deep"),
        (100 * "[" + 100 * "]", Any, "nested too deep"),
        ('{"a": {"b": [1, "x"]}}', dict[str, dict[str, list[int]]], r"a\.b\.1: .*integer"),
        ('{"a": true}', dict[str, int], "a: .*integer"),
        ('{"a": 1.0}', dict[str, int], "a: .*integer"),
        ('{"a": "1"}', dict[str, float], "a: .*number"),
    ],
)
def test_parse_json_rejects_bad_json_in_one_line(tmp_path, text, kind, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text, kind)
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LDISError, match=rf"^{path}, a form: cannot be read \(.*{why}") as found:
        read_json(path, kind, form="a form")
    assert "\n" not in str(found.value)


def test_read_json_does_not_read_a_file_larger_than_any_of_its_kind(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        os.truncate(file.fileno(), MOST_BYTES + 1)
    with pytest.raises(LDISError, match="more than 16 MiB of JSON"):
        read_json(tmp_path / "x.json")
