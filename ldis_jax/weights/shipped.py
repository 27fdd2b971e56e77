"""The small model that comes with the package: its card is ``assets/tiny/README.md``."""

from __future__ import annotations

from pathlib import Path

_FOLDERS = {"tiny": Path(__file__).parents[1] / "assets" / "tiny"}


def shipped_folder(name: str) -> Path | None:
    """The model folder that a name stands for, "tiny"; None of any other."""
    return _FOLDERS.get(name)
