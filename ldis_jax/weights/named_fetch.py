"""Named models from their publishers: planned, fetched, looked at before gigabytes come, and converted once."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.runtime.home import has_home
from ldis_jax.support.files import writing
from ldis_jax.weights import named_models
from ldis_jax.weights.downloads import (
    HubAddress,
    RemoteFile,
    ask_hub,
    ask_server,
    check_space,
    fetch,
    parse_remote,
    parts_folder,
    refusal,
    sha256_of,
)
from ldis_jax.weights.named_models import Record, known, models_folder, ready_folder, say
from ldis_jax.weights.network_files import DIFFUSERS, find_weights

_PUBLISHED_NAME = "mp_rank_00_model_states.pt"  # DeepSpeed's
_CHECKPOINTS = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.safetensors")
# How a path tells of which task its checkpoint is.
_HINTS = {"ldis1": r"ldis[-_ ]?1|one[-_ ]?step|single", "ldisn": r"ldis[-_ ]?n|(many|multi)[-_ ]?step"}
_MOST_LOOKED_INTO = 16
_CONVERTED_BYTES = 5_300_000_000  # about as much has a model of Stable Diffusion's size in float32


def named_folder(name: str, ldis: str | None = None) -> Path:
    """The model folder of a name of the table, fetched and made on first use.

    Args:
        name: a key of :data:`~ldis_jax.weights.named_models.TABLE`.
        ldis: an address in place of the table's for the trained UNet.

    Raises:
        LDISError: no such name; a part is not what it should be; several files fit, of which one must be named.
        TryAgainError: a server is out of reach, or the disk is full.
    """
    row = known(name)
    return row.folder or (None if ldis else ready_folder(name)) or _make(name, ldis)


def _make(name: str, ldis: str | None) -> Path:
    from filelock import FileLock

    row, models = known(name), models_folder()
    if not has_home():
        raise LDISError(f"{name}: no home folder to keep it in; name a folder with LDIS_JAX_CACHE")
    if importlib.util.find_spec("torch") is None:
        raise LDISError(f"{name}: its parts are torch's files; pip install 'ldis_jax[torch]' to convert them once")
    with writing(models):
        models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{name}.lock"):
        if ldis is None and (folder := ready_folder(name)) is not None:  # another process made it meanwhile
            return folder
        files = {part: _files_of(part, entry.address, row.task) for part, entry in row.parts.items() if part != "ldis"}
        files["ldis"] = [find_ldis(ldis or row.parts["ldis"].address, row.task)]
        every = [file for part in files.values() for file in part]
        folder = models / f"{name}-{_digest(row.fingerprint, every)}"
        _announce(name, files, folder)
        check_space(every, _CONVERTED_BYTES, models)
        for file in every:
            fetch(file)
        return _convert(name, files, folder)


def _files_of(part: str, address: str, task: str) -> list[RemoteFile]:
    """What is to be fetched of a part."""
    parsed = parse_remote(address)
    if not isinstance(parsed, HubAddress):
        return [ask_server(parsed)]
    if part != "sd15":
        return ask_hub(parsed)
    files = {file.place.split("/", 3)[3]: file for file in ask_hub(parsed)}
    weights = find_weights({name.removeprefix("vae/") for name in files if name.startswith("vae/")}, DIFFUSERS)
    wanted = ["README.md", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", f"vae/{weights}"]
    if absent := [name for name in wanted[1:] if name not in files]:
        raise LDISError(f"{address}: the repository lacks {', '.join(absent)}; it has been arranged anew")
    return [files[name] for name in wanted if name in files]


def _digest(fingerprint: str, files: list[RemoteFile]) -> str:
    """12 hex digits of what a model is made of."""
    facts = sorted((file.url, file.size, file.sha256, file.place) for file in files)
    return hashlib.sha256(repr((fingerprint, facts)).encode()).hexdigest()[:12]


def _announce(name: str, files: dict[str, list[RemoteFile]], folder: Path) -> None:
    row = known(name)
    say(f"{name}: {row.about}. It is made once, of")
    for part, entry in row.parts.items():
        size = sum(file.size for file in files[part])
        where = files[part][0].name if len(files[part]) == 1 else entry.address
        say(f"  {entry.what}, {size / 1e9:.2f} GB\n    from {where}\n    licence: {entry.license}")
    missing = sum(file.missing for part in files.values() for file in part)
    say(f"To fetch: {missing / 1e9:.2f} GB; to write: about {_CONVERTED_BYTES / 1e9:.1f} GB, to {folder}")
    say(f"A first mask: {row.needs}")


def _convert(name: str, files: dict[str, list[RemoteFile]], folder: Path) -> Path:
    """The model folder of parts that are here."""
    from ldis_jax.weights.assembly import Sources, assemble
    from ldis_jax.weights.model_folder import model_hash

    row = known(name)
    sources = {part: _local(part, found) for part, found in files.items()}
    origins = [f"{entry.address}" for entry in row.parts.values()]
    say(f"{name}: converting")
    assemble(folder, row.task, Sources(**sources), origins, dtype=None)
    every = [file for part in files.values() for file in part]
    kept = {file.place: file.sha256 or sha256_of(file.path) for file in every if file.cached is None}
    record = Record(folder, row.fingerprint, model_hash(folder), kept, [file.name for file in every])
    named_models.write_record(record)
    say(f"{name}: ready, in {folder}; from now on it needs no network")
    return folder


def _local(part: str, files: list[RemoteFile]) -> Path:
    """The path that a part's reader takes."""
    if part != "sd15":
        return files[0].path
    for file in files:  # a folder of them all, whatever of them is in the hub's own cache
        place = parts_folder() / file.place
        if file.cached is not None and not place.exists():
            with writing(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                place.symlink_to(file.cached)
    repository, *_ = {parts_folder().joinpath(*Path(file.place).parts[:3]) for file in files}
    return repository


def verify(name: str) -> int:
    """Reads what is kept of a named model again, and counts its files.

    Raises:
        LDISError: nothing of it was fetched, or a file is no longer what it was.
    """
    from ldis_jax.weights.model_folder import model_hash

    made = named_models.fetched(name)
    wrong = [record.folder for record in made if model_hash(record.folder) != record.hash]
    kept = {parts_folder() / place: digest for record in made for place, digest in record.parts.items()}
    there = {path: digest for path, digest in kept.items() if path.is_file()}
    wrong += [path for path, digest in there.items() if sha256_of(path) != digest]
    if wrong:
        raise LDISError(
            f"{wrong[0]}: is not what was fetched; python -m ldis_jax.named_models remove {name}, then fetch it again"
        )
    return len(there) + sum(len([*record.folder.rglob("*.*")]) for record in made)


# --- The paper's checkpoint ---


def find_ldis(address: str, task: str | None) -> RemoteFile:
    """The one file behind an address that is a checkpoint of a task ("ldis1", "ldisn", or None for any).

    Raises:
        LDISError: none is, or several are, which are listed.
    """
    parsed = parse_remote(address)
    if not isinstance(parsed, HubAddress):
        return ask_server(parsed)
    files = ask_hub(parsed, _CHECKPOINTS)
    files = [file for file in files if file.name.endswith(_PUBLISHED_NAME)] or files
    if task is not None:
        files = [file for file in files if re.search(_HINTS[task], file.name, re.IGNORECASE)] or files
    inside = {file: _task_inside(file, parsed) for file in files[:_MOST_LOOKED_INTO]}
    fitting = [file for file in files if inside.get(file, task) in (task, "unknown") or task is None]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(f"--ldis={file.name} ({inside.get(file, 'not looked into')})" for file in fitting or files)
    if fitting:
        refused = LDISError(f"{address}: several checkpoints fit, name one: {listed}")
    else:
        refused = LDISError(f"{address}: holds no checkpoint of {task}, but {listed}")
    raise refused


def _task_inside(file: RemoteFile, address: HubAddress) -> str:
    """Which task's it is: "ldis1" or "ldisn" by the channels of ``conv_in``, or "unknown".

    Only the ends of the file are read, by range requests.
    """
    from huggingface_hub import HfFileSystem

    from ldis_jax.weights.ldis_checkpoint import TASKS
    from ldis_jax.weights.torch_files import shapes_inside

    if not file.name.endswith((".pt", ".pth", ".bin", ".ckpt")):
        return "unknown"
    repo, revision, _ = address
    path = f"{repo}@{revision}/{_inside(file)}" if revision else f"{repo}/{_inside(file)}"
    try:
        with HfFileSystem(skip_instance_cache=True).open(path, "rb", block_size=1 << 20) as stream:
            shapes = shapes_inside(stream, file.name)
    except LDISError:
        return "unknown"
    except Exception as error:
        refused = refusal(error, file.name, parts_folder())
    else:
        shape: tuple[int, ...] = shapes.get("conv_in.weight") or shapes.get("module.conv_in.weight") or ()
        return TASKS.get(shape[1], "unknown") if len(shape) == 4 else "no LDIS checkpoint"
    raise refused


def _inside(file: RemoteFile) -> str:
    """A file's path in its repository."""
    return file.name.partition(":")[2]
