"""Orbax checkpoints: trainable state and the data iterator's state, never the frozen towers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from ldis_jax.errors import LDISError, list_names
from ldis_jax.train_state import TrainState


class Checkpoints:
    """The checkpoints of one work folder; close it, or use it in a ``with``."""

    def __init__(self, folder: Path, keep: int, fingerprint: dict[str, Any]):
        """Opens the folder.

        Args:
            folder: made if missing.
            keep: how many steps to keep.
            fingerprint: JSON-able; what must not change between the runs of one work folder.
        """
        self._folder, self._fingerprint = folder, json.loads(json.dumps(fingerprint))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._manager.close()

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Writes in the background; a checkpoint appears when it is whole. Does nothing for a step already saved."""
        step = int(state.step)
        if self._manager.latest_step() != step:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=ocp.args.JsonSave(data_state),
                    fingerprint=ocp.args.JsonSave(self._fingerprint),
                ),
            )

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint in the shapes, types and shardings of ``state``; None where there is none.

        Raises:
            LDISError: the checkpoint belongs to another model or task, or is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        where = self._folder / str(step)
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(fingerprint=ocp.args.JsonRestore()))
        except Exception as error:
            raise LDISError(f"{where}: unreadable checkpoint ({_line(error)}); remove it to resume earlier") from error
        if changes := _differences(found["fingerprint"], self._fingerprint):
            raise LDISError(f"{where}: checkpoint of another model ({changes}); choose another --workdir")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        try:
            restored = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
            )
        except Exception as error:
            raise LDISError(f"{where}: unreadable checkpoint ({_line(error)}); remove it to resume earlier") from error
        return restored["state"], restored["data"]


class SavedModel(NamedTuple):
    """The trained part of a checkpoint."""

    step: int
    fingerprint: dict[str, Any]
    params: dict[str, np.ndarray]


def read_params(folder: Path, step: int | None = None) -> SavedModel:
    """Trained parameters of one step as NumPy arrays, whatever devices wrote them; optimizer moments are not read.

    Args:
        folder: ``checkpoints/`` of a work folder.
        step: None is the newest.

    Raises:
        LDISError: no checkpoint, none of that step, or a damaged one.
    """
    found = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    steps = sorted(int(name) for name in found if re.fullmatch(r"0|[1-9]\d*", name, re.ASCII))
    if not steps:
        raise LDISError(f"{folder}: no checkpoints; expected the work folder of a training run")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise LDISError(f"{folder}: no checkpoint of step {step}; there are {list_names(map(str, steps))}")
    where = (folder / str(step)).absolute()
    try:
        fingerprint = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(where / "fingerprint")
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        saved = checkpointer.metadata(where / "state").item_metadata.tree["params"]
        item = {"params": {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in saved.items()}}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        arguments = ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True)
        return SavedModel(step, fingerprint, checkpointer.restore(where / "state", args=arguments)["params"])
    except Exception as error:  # Orbax raises whatever a damaged file leads it to
        raise LDISError(f"{folder / str(step)}: unreadable checkpoint ({_line(error)}); choose another step") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _differences(saved: Any, current: Any, path: str = "") -> str:
    """The first few keys in which two JSON values differ, as "a.b: 1 -> 2"."""
    if isinstance(saved, dict) and isinstance(current, dict):
        parts = [
            _differences(saved.get(key), current.get(key), f"{path}.{key}" if path else key)
            for key in sorted(saved.keys() | current.keys())
        ]
        return ", ".join([part for part in parts if part][:3])
    return "" if saved == current else f"{path}: {saved!r} -> {current!r}"
