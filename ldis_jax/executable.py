"""The compiled training step in a file, so that a slice need not compile what was compiled before, or elsewhere."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldis_jax.config import to_json
from ldis_jax.errors import LDISError, list_names
from ldis_jax.files import atomic_write

# Keys that only the host reads: they may differ between the machine that compiles and the run. What "init.folder" and
# "data" decide about the program is in its networks and its batch size.
_OF_THE_HOST = (
    *("data", "eval", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "watchdog_minutes"),
    *("profile", "executable", "init", "dtype"),
)
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt", "numpy")


def program_facts(config: ConfigDict, networks: Mapping[str, Any], dtype: Any, mesh: Mesh) -> dict[str, str]:
    """All that a compiled step depends on, by name; equal facts mean the same program for the same devices.

    Args:
        config: of the run.
        networks: their sizes, JSON-able.
        dtype: of compute.
        mesh: of the run's devices, or of a topology's.
    """
    device = mesh.devices.flat[0]
    keys = {key: value for key, value in to_json(config).items() if key not in _OF_THE_HOST}
    facts = {
        "config": json.dumps(keys, sort_keys=True),
        "networks": json.dumps(networks, sort_keys=True),
        "dtype": str(dtype),
        "devices": f"{device.device_kind}: {[(d.id, d.process_index) for d in mesh.devices.flat]}",
        "mesh": str(dict(mesh.shape)),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "source code": _source_hash(),
    }
    for package in _PACKAGES:
        # A plugin for devices other than these does not matter, and is not everywhere.
        if package.startswith("jax-cuda") and device.platform == "tpu":
            continue
        if package == "libtpu" and device.platform != "tpu":
            continue
        facts[package] = _version(package)
    if device.platform == "cpu":
        facts["processor"] = _processor()
    return facts


def write_executable(path: Path, compiled: jax.stages.Compiled, facts: Mapping[str, str], flops: float) -> None:
    """Writes a compiled step; ``flops`` of it, a device's, come back with it.

    Raises:
        LDISError: the file cannot be written.
    """
    payload, _, _ = serialize_executable.serialize(compiled)
    header = {"facts": dict(facts), "flops": flops, "sha256": hashlib.sha256(payload).hexdigest()}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n" + payload)
    path.chmod(path.stat().st_mode & ~(stat.S_IWGRP | stat.S_IWOTH))


def read_executable(
    path: Path, facts: Mapping[str, str], arguments: Any, results: Any, mesh: Mesh
) -> tuple[jax.stages.Compiled, float]:
    """(the step of :func:`write_executable`, FLOPs of a device).

    Args:
        path: the file.
        facts: of this run's program.
        arguments: a tree of what the step takes, (positional, keyword).
        results: a tree of what it gives.
        mesh: of this run's devices.

    Raises:
        UnusableExecutableError: the file is damaged, or of another program; it says in what they differ.
        LDISError: others may write the file: it is machine code, and whoever changes it runs code here.
    """
    found = path.stat()
    if found.st_uid not in (0, os.getuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LDISError(
            f"config.executable={path}: is a program that others may change; make the file your own (chown, chmod go-w)"
        )
    head, _, payload = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(head)
        theirs, flops, digest = dict(header["facts"]), float(header["flops"]), str(header["sha256"])
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UnusableExecutableError("not a file of a compiled step") from error
    if differing := [name for name in facts.keys() | theirs.keys() if facts.get(name) != theirs.get(name)]:
        raise UnusableExecutableError(f"compiled for another {list_names(sorted(differing))}")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise UnusableExecutableError("damaged")
    trees = jax.tree.structure(arguments), jax.tree.structure(results)
    client, devices = mesh.devices.flat[0].client, list(mesh.devices.flat)
    try:
        return serialize_executable.deserialize_and_load(payload, *trees, client, devices), flops
    except Exception as error:  # whatever the runtime raises: the step can always be compiled
        raise UnusableExecutableError(" ".join(str(error).split())[:200]) from error


class UnusableExecutableError(Exception):
    """A file that holds no program for this run."""


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return hashlib.sha256("".join(sorted({x for x in lines if x.startswith(("model name", "flags"))})).encode()).hexdigest()
