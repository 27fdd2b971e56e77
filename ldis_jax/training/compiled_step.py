"""The compiled training step in a file, so that a slice need not compile what was compiled before, or elsewhere."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import stat
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh
from typing_extensions import TypedDict  # pydantic's, before Python 3.12

from ldis_jax.config import to_json
from ldis_jax.errors import LDISError, list_names
from ldis_jax.runtime.chips import compiler_options
from ldis_jax.runtime.compilation_cache import no_compilation_cache, processor
from ldis_jax.support.files import atomic_write, check_writable
from ldis_jax.support.json_files import parse_json
from ldis_jax.training.programs import Program, mathematical_flops, train_program
from ldis_jax.training.run import Run

_LOGGER = logging.getLogger(__name__)

# Keys that only the host reads: they may differ between the machine that compiles and the run. What "init.folder" and
# "data" decide about the program is in its networks and its batch size.
_OF_THE_HOST = (
    *("data", "eval", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "watchdog_minutes"),
    *("profile", "executable", "init", "dtype"),
)
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PACKAGES = ("jax", "jaxlib", "flax", "optax")
_COMPILERS = {"tpu": ("libtpu",), "gpu": ("jax-cuda12-pjrt", "jax-cuda13-pjrt")}  # packages that bring them


def program_facts(run: Run) -> dict[str, str]:
    """All that a compiled step depends on, by name; equal facts mean the same program for the same devices."""
    mesh, task = run.mesh, run.task
    device = mesh.devices.flat[0]
    keys = {key: value for key, value in to_json(run.config).items() if key not in _OF_THE_HOST}
    facts = {
        "config": json.dumps(keys, sort_keys=True),
        "task": json.dumps(task.to_dict(), sort_keys=True),
        "noise schedule": json.dumps(task.schedule.to_dict() if task.needs_schedule else None, sort_keys=True),
        "networks": json.dumps(run.networks.to_dict(), sort_keys=True),
        "dtype": run.dtype,
        "devices": f"{device.device_kind}: {[(d.id, d.process_index) for d in mesh.devices.flat]}",
        "mesh": str(dict(mesh.shape)),
        "compiler's flags": " ".join(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")),
        "compiler's options": json.dumps(compiler_options(device.device_kind)),
    }
    facts |= source_facts(device.platform)
    if device.platform == "cpu":
        facts["processor"] = processor()
    return facts


def source_facts(platform: str) -> dict[str, str]:
    """The facts that are the same for every config: this package's source, and the versions that compile it."""
    packages = (*_PACKAGES, *_COMPILERS.get(platform, ()))
    return {"source code": _source_hash()} | {package: _version(package) for package in packages}


class _Header(TypedDict):
    facts: dict[str, str]
    flops: float
    sha256: str


class ReadyStep(NamedTuple):
    """A compiled training step."""

    run: jax.stages.Compiled
    flops: float  # of a device; 0 where nobody asked


def ready_step(run: Run, with_flops: bool = False) -> ReadyStep:
    """The training step of a run: of the file ``config.executable`` if it holds it, else compiled, and written there.

    Args:
        run: on real devices.
        with_flops: also count them, for which the step is traced once more; a file knows them.

    Raises:
        LDISError: the config does not fit together; the file cannot be written, or others can write it.
    """
    started, config = time.monotonic(), run.config
    path = Path(config.executable) if config.executable else None
    if path is not None:
        check_writable(path)
    program, facts = train_program(run, config.batch_size), program_facts(run)
    if path is not None and path.is_file():
        found = read_executable(path, facts, program, run.mesh)
        if isinstance(found, ReadyStep):
            _LOGGER.info("training step loaded from %s in %.1f s", path, time.monotonic() - started)
            return found
        _LOGGER.warning("config.executable=%s: %s; compiling again", path, found)
    _LOGGER.info("compiling the training step, which takes minutes at full size")
    with nullcontext() if path is None else no_compilation_cache():
        compiled: jax.stages.Compiled = program.trace().lower().compile()
    _LOGGER.info("training step compiled in %.1f s", time.monotonic() - started)
    counted = path is not None or with_flops
    step = ReadyStep(compiled, mathematical_flops(run, "train", config.batch_size) if counted else 0.0)
    if path is not None and jax.process_index() == 0:
        write_executable(path, step, facts)
    return step


def write_executable(path: Path, step: ReadyStep, facts: Mapping[str, str]) -> None:
    """Writes a compiled step with what it depends on; raises :class:`LDISError` where the file cannot be written."""
    payload, _, _ = serialize_executable.serialize(step.run)
    header = {"facts": dict(facts), "flops": step.flops, "sha256": hashlib.sha256(payload).hexdigest()}
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            file.write(json.dumps(header).encode() + b"\n" + payload)
        temporary.chmod(temporary.stat().st_mode & ~_OTHERS_MAY_WRITE)


def read_executable(path: Path, facts: Mapping[str, str], program: Program, mesh: Mesh) -> ReadyStep | str:
    """The step of :func:`write_executable`, or why the file holds none for this run.

    Args:
        path: the file.
        facts: of this run's program.
        program: this run's, for the structure of what the step takes and gives.
        mesh: of this run's devices.

    Raises:
        LDISError: others may write the file: it is machine code, and whoever changes it runs code here. Or it is a
            file of something else, which must not be overwritten.
    """
    with path.open("rb") as file:  # once: what is looked at is what is read
        found, content = os.fstat(file.fileno()), file.read()
    if found.st_uid not in (0, os.getuid()) or found.st_mode & _OTHERS_MAY_WRITE:
        raise LDISError(
            f"config.executable={path}: is a program that others may change; make the file your own (chown, chmod go-w)"
        )
    head, _, payload = content.partition(b"\n")
    try:
        header = parse_json(head, _Header)
    except ValueError:
        raise LDISError(f"config.executable={path}: exists but is not a compiled step; choose another file") from None
    if differing := sorted(
        name for name in facts.keys() | header["facts"].keys() if facts.get(name) != header["facts"].get(name)
    ):
        return f"compiled for another {list_names(differing)}"
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        return "damaged"
    inputs, outputs = jax.tree.structure((program.arguments, {})), jax.tree.structure(program.arguments[:2])
    devices = list(mesh.devices.flat)
    try:
        load = serialize_executable.deserialize_and_load
        return ReadyStep(load(payload, inputs, outputs, devices[0].client, devices), header["flops"])
    except Exception as error:  # whatever the runtime raises: the step can always be compiled
        return " ".join(str(error).split())[:200]


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
