"""Named models from their publishers: planned, fetched, looked at before gigabytes come, and converted once."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.runtime.home import has_home
from ldis_jax.support.files import writing
from ldis_jax.weights import named_models
from ldis_jax.weights.addresses import HubAddress, parse_remote
from ldis_jax.weights.downloads import (
    RemoteFile,
    ask_hub,
    ask_server,
    check_space,
    fetch,
    parts_folder,
    refusal,
    sha256_of,
)
from ldis_jax.weights.ldis_checkpoint import TASKS
from ldis_jax.weights.named_models import Record, known, models_folder, ready_folder, say
from ldis_jax.weights.network_files import DIFFUSERS, find_weights

_PUBLISHED_NAME = "mp_rank_00_model_states.pt"  # DeepSpeed's
_CHECKPOINTS = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.safetensors")
_MOST_LOOKED_INTO = 16
_NETWORK = ("httpx", "httpx2", "huggingface_hub", "requests")  # whose errors are those of a connection
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
        raise LDISError(f"{name}: its parts are torch's files; pip install -e '.[torch]' to convert them once")
    with writing(models):
        models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{name}.lock"):
        if ldis is None and (folder := ready_folder(name)) is not None:  # another process made it meanwhile
            return folder
        files = {part: _files_of(part, entry.address) for part, entry in row.parts.items() if part != "ldis"}
        again = f"python -m ldis_jax.named_models fetch {name} --ldis="
        files["ldis"] = [find_ldis(ldis or row.parts["ldis"].address, row.task, again)]
        every = [file for part in files.values() for file in part]
        folder = models / f"{name}-{_digest(row.fingerprint, every)}"
        if any(record.folder == folder and record.hash for record in named_models.records(name)) and folder.is_dir():
            return folder
        _announce(name, files, folder)
        check_space(every, _CONVERTED_BYTES, models)
        kept = {file.place: "" for file in every}
        named_models.write_record(Record(folder, row.fingerprint, "", kept, [file.name for file in every]))
        for file in every:
            fetch(file)
        return _convert(name, files, folder)


def _files_of(part: str, address: str) -> list[RemoteFile]:
    """The files of a part that are fetched."""
    parsed = parse_remote(address)
    if not isinstance(parsed, HubAddress):
        return [ask_server(parsed)]
    if part != "sd15":
        return ask_hub(parsed)
    files = {file.inside: file for file in ask_hub(parsed)}
    weights = find_weights({name.removeprefix("vae/") for name in files if name.startswith("vae/")}, DIFFUSERS)
    wanted = ["README.md", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", f"vae/{weights}"]
    if absent := [name for name in wanted[1:] if name not in files]:
        raise LDISError(f"{address}: the repository lacks {', '.join(absent)}; it has been rearranged")
    return [files[name] for name in wanted if name in files]


def _digest(fingerprint: str, files: list[RemoteFile]) -> str:
    """12 hex digits of what a model is made of."""
    facts = sorted((file.url, file.size, file.sha256, file.place) for file in files)
    return hashlib.sha256(repr((fingerprint, facts)).encode()).hexdigest()[:12]


def _announce(name: str, files: dict[str, list[RemoteFile]], folder: Path) -> None:
    row = known(name)
    say(f"{name}: {row.about}. It is built once, from")
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
    origins = [found[0].name if len(found) == 1 else row.parts[part].address for part, found in files.items()]
    say(f"{name}: converting")
    assemble(folder, row.task, Sources(**sources), origins, dtype=None)
    every = [file for part in files.values() for file in part]
    kept = {file.place: file.sha256 or sha256_of(file.path) for file in every}
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

    made = [record for record in named_models.fetched(name) if record.hash]  # others are still to be fetched
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


def find_ldis(address: str, task: str | None, again: str = "--ldis=") -> RemoteFile:
    """The one file behind an address that is a checkpoint of a task ("ldis1", "ldisn", or None for any).

    Args:
        address: of a file, or of a repository or folder of the hub.
        task: that the checkpoint must be of.
        again: what is typed before the address of one that is chosen.

    Raises:
        LDISError: none is, or several are, which are listed.
    """
    parsed = parse_remote(address)
    if not isinstance(parsed, HubAddress):
        return ask_server(parsed)
    files = ask_hub(parsed, _CHECKPOINTS)
    files = [file for file in files if file.name.endswith(_PUBLISHED_NAME)] or files
    inside = {file: _task_inside(file, parsed.repo) for file in files[:_MOST_LOOKED_INTO]}
    fitting = [file for file, found in inside.items() if found == task or (task is None and found in TASKS.values())]
    fitting = fitting or [file for file, found in inside.items() if found == "unknown" and len(files) == 1]
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(f"{again}{file.name} ({inside.get(file, 'not looked into')})" for file in fitting or files)
    if fitting:
        refused = LDISError(f"{address}: several checkpoints fit, choose one: {listed}")
    else:
        refused = LDISError(f"{address}: holds no checkpoint of {task or 'LDIS'}, but {listed}")
    raise refused


def _task_inside(file: RemoteFile, repo: str) -> str:
    """Which task's it is: "ldis1" or "ldisn" by the channels of ``conv_in``, or "unknown".

    Only the ends of the file are read, by range requests.
    """
    from huggingface_hub import HfFileSystem

    from ldis_jax.weights.torch_files import shapes_inside

    if not file.name.endswith((".pt", ".pth", ".bin", ".ckpt")):
        return "unknown"
    path = f"{repo}@{file.commit}/{file.inside}"
    try:
        with HfFileSystem(skip_instance_cache=True).open(path, "rb", block_size=1 << 20) as stream:
            shapes = shapes_inside(stream, file.name)
    except Exception as error:
        if (broken := _of_network(error)) is None:
            return "unknown"  # no file of torch's, or one that is not read so
        refused = refusal(broken, file.name, parts_folder())
    else:
        shape: tuple[int, ...] = shapes.get("conv_in.weight") or shapes.get("module.conv_in.weight") or ()
        return TASKS.get(shape[1], "unknown") if len(shape) == 4 else "no LDIS checkpoint"
    raise refused


def _of_network(error: BaseException | None) -> Exception | None:
    """The connection's error behind what a reader of the file raised; None where the file itself is at fault."""
    while error is not None:
        own = type(error).__module__.partition(".")[0] in _NETWORK
        if isinstance(error, Exception) and (own or isinstance(error, OSError)):
            return error
        error = error.__cause__ or error.__context__
    return None
