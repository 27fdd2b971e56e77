"""Pages of Markdown with tables of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldis_jax.support.files import atomic_write


def with_interval(values: Mapping[str, Any], name: str) -> str:
    """A figure and its interval as text, such as "12.34 (10.00 to 14.00)"; "none" where it has no value."""
    if values[name] is None:
        return "none"
    bounds = values.get(f"{name}_interval")
    return f"{values[name]:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "")


def everyone(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The model's figures and the baselines', by name."""
    before = [("before training", report["before"])] if "before" in report else []
    return [("this model", report), *before, *((name.replace("_", " "), v) for name, v in report["baselines"].items())]


def figures_table(report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The table of everyone's figures; ``names`` are figures and their headings."""
    rows = [("", *names.values()), ("---",) * (len(names) + 1)]
    rows += [(who, *(with_interval(values, name) for name in names)) for who, values in everyone(report)]
    return table(rows)


def bullet_list(facts: Mapping[str, str]) -> str:
    """A list, one line a fact."""
    return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Writes a page whose parts follow ``title`` one after the other."""
    text = "\n\n".join([f"# {title}", *parts]) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names that are no UTF-8


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of cells; the second row is the line under the headings."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
