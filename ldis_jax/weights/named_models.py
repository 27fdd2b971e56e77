"""Models that have a name: where their parts are published, and which of them are on this machine.

Nothing here imports jax; :mod:`.named_fetch` makes a model folder of the parts.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.errors import LDISError
from ldis_jax.runtime.home import cache_folder
from ldis_jax.support.files import write_json, writing
from ldis_jax.support.json_files import read_json
from ldis_jax.weights.downloads import parts_folder


class Part(NamedTuple):
    """Files that a model is made of.

    Attributes:
        what: in words.
        address: as of :func:`~ldis_jax.weights.addresses.parse_address`; pinned where that says so.
        gigabytes: about as much is fetched.
        license: its terms, as its publishers name them.
    """

    what: str
    address: str
    gigabytes: float
    license: str


@dataclasses.dataclass(frozen=True)
class NamedModel:
    """A row of the table.

    Attributes:
        about: in words.
        license: of the whole.
        folder: of a bundled model.
        task: "ldis1" or "ldisn", of one that is fetched.
        parts: fields of :class:`~ldis_jax.weights.assembly.Sources` -> where they come from.
        needs: memory and time of a first mask, in words.
    """

    about: str
    license: str
    folder: Path | None = None
    task: str = ""
    parts: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    needs: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with the addresses that the row has."""
        return hashlib.sha256(repr((self.task, sorted(self.parts.items()))).encode()).hexdigest()[:12]


_SD15 = Part(
    "autoencoder and noise schedule of Stable Diffusion 1.5",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    0.34,
    "CreativeML Open RAIL-M",
)
_ALPHA_CLIP = Part(
    "Alpha-CLIP's image encoder",
    "https://download.openxlab.org.cn/models/SunzeY/AlphaCLIP/weight/clip_l14_grit20m_fultune_2xe.pth",
    1.2,
    "Apache-2.0 (its README)",
)
_LDIS = Part("the paper's trained UNet", "chaoyangw/ldis:weights", 3.5, "none stated by its publishers")


# Measured at full size on two CPU cores, with random weights: docs/speed.md.
_NEEDS = {
    "ldis1": "41 s on 2 CPU cores (23 s once it is compiled), and 7.1 GB of memory",
    "ldisn": "about 2 minutes on 2 CPU cores, and 7.5 GB of memory",
}


def _published(task: str, about: str) -> NamedModel:
    parts = {"ldis": _LDIS, "sd15": _SD15, "alpha_clip": _ALPHA_CLIP}
    return NamedModel(about, "CreativeML Open RAIL-M, and its parts' own", None, task, parts, _NEEDS[task])


_BUNDLED = Path(__file__).parents[1] / "assets"

TABLE: dict[str, NamedModel] = {
    "small": NamedModel(
        "a small LDIS-1 for photographs, trained on a laptop's CPU", "research use, see its card", _BUNDLED / "small"
    ),
    "tiny": NamedModel("a small LDIS-1 that knows painted scenes only", "Apache-2.0", _BUNDLED / "tiny"),
    "ldis1": _published("ldis1", "the paper's LDIS-1: one step, for photographs"),
    "ldisn": _published("ldisn", "the paper's LDIS-n: many steps, for photographs"),
}


# --- On this machine ---


class Record(NamedTuple):
    """A record of how a model folder was made, kept beside it.

    Attributes:
        folder: the model folder.
        fingerprint: the row's, at that time.
        hash: :func:`~ldis_jax.weights.model_folder.model_hash` of the folder; empty until it is whole.
        parts: place below :func:`~ldis_jax.weights.downloads.parts_folder` -> SHA-256, empty until it is known.
        origins: the addresses, with what they led to.
    """

    folder: Path
    fingerprint: str
    hash: str
    parts: dict[str, str]
    origins: list[str]


class _Content(TypedDict):
    """The content of a record's file."""

    fingerprint: str
    hash: str
    parts: dict[str, str]
    origins: list[str]


def models_folder() -> Path:
    """Where named models are kept, ready for use."""
    return cache_folder() / "models"


def write_record(record: Record) -> None:
    """Writes a record."""
    content = record._asdict()
    del content["folder"]
    write_json(record.folder.with_suffix(".json"), content)


def records(name: str) -> list[Record]:
    """The records of every folder that was made for a name, the newest last."""
    found = []
    for path in sorted(models_folder().glob(f"{name}-*.json"), key=lambda path: path.stat().st_mtime):
        held = read_json(path, _Content)
        parts = {place: digest for place, digest in held["parts"].items() if _is_place(place)}
        found.append(Record(path.with_suffix(""), held["fingerprint"], held["hash"], parts, held["origins"]))
    return found


def _is_place(place: str) -> bool:
    """True if a place lies where parts do: what is written in a record is removed one day."""
    first, *rest = PurePosixPath(place).parts or ("",)
    return first in ("hub", "web") and len(rest) > 1 and ".." not in rest


def fetched(name: str) -> list[Record]:
    """Like :func:`records`; raises :class:`LDISError` where there are none, or no such model."""
    known(name)
    found = records(name)
    if not found:
        raise LDISError(f"{name}: nothing of it was fetched; python -m ldis_jax.named_models shows what is there")
    return found


def ready_folder(name: str) -> Path | None:
    """The model folder of a name that is on this machine."""
    row = TABLE[name]
    if row.folder is not None:
        return row.folder
    made = [record for record in records(name) if record.fingerprint == row.fingerprint and record.hash]
    return next((record.folder for record in reversed(made) if record.folder.is_dir()), None)


def remove(name: str) -> list[Path]:
    """Removes the model folders of a name, and the parts that no other model was made of; returns what went.

    Raises:
        LDISError: nothing of it was fetched.
    """
    from filelock import FileLock

    own = fetched(name)
    with FileLock(models_folder() / f".{name}.lock"):  # nobody reads the parts
        others = {place for other in TABLE if other != name for record in records(other) for place in record.parts}
        places = sorted({place for record in own for place in record.parts} - others)
        gone = [record.folder for record in own if record.folder.is_dir()]
        for record in own:
            with writing(record.folder):
                shutil.rmtree(record.folder, ignore_errors=True)
                record.folder.with_suffix(".json").unlink(missing_ok=True)
        for path in (parts_folder() / place for place in places):
            with writing(path):
                for begun in path.parent.glob(f".{glob.escape(path.name)}.*"):  # its beginning, and the lock of that
                    begun.unlink()
                if path.is_file() or path.is_symlink():
                    path.unlink()
                    gone.append(path)
    return gone


def say(line: str) -> None:
    """Prints to standard error, where progress bars are."""
    print(line, file=sys.stderr, flush=True)


def known(name: str) -> NamedModel:
    """The row of a name; raises :class:`LDISError` where there is none."""
    if name not in TABLE:
        raise LDISError(f"{name!r}: no named model; there are {', '.join(TABLE)}")
    return TABLE[name]


def as_json(name: str) -> dict[str, Any]:
    """A row, for programs."""
    row, folder = TABLE[name], ready_folder(name)
    parts = {field: part._asdict() for field, part in row.parts.items()}
    return {"about": row.about, "license": row.license, "folder": folder and str(folder), "parts": parts}
