"""Orbax checkpoints: trainable state and the data iterator's state, never the frozen networks."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.tree_util import SequenceKey
from jax.typing import ArrayLike

from ldis_jax.errors import LDISError, TryAgainError, list_names
from ldis_jax.runtime.memory import out_of_memory
from ldis_jax.support.files import writing
from ldis_jax.training.optim import Bfloat16Moments
from ldis_jax.training.step import TrainState

T = TypeVar("T")
# The order of our classes' fields, where it is not that of their names.
_FIELDS = {
    name: place
    for fields in (tuple(f.name for f in dataclasses.fields(TrainState)), Bfloat16Moments._fields)
    for place, name in enumerate(fields)
}

_LOGGER = logging.getLogger(__name__)
_CHECKSUM = "checksum"  # of the state, in the JSON beside it
# Devices that hold the same array each write a part of it, but none below this size: every part is a program that
# slices, compiled at the first save, and a model has hundreds of small arrays.
_MIN_PART = 1 << 20  # bytes
_PART_READ = 1 << 29  # bytes that are read at a time, where most are only looked at
_ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_PART))
)


class Checkpoints:
    """The checkpoints of one work folder; close it, or use it in a ``with``."""

    def __init__(self, folder: Path, keep: int, fingerprint: dict[str, Any]):
        """Opens the folder, made if missing, which keeps the last ``keep`` steps.

        ``fingerprint``, JSON-able, must not change between the runs of one work folder.
        """
        self._folder, self._fingerprint = folder, json.loads(json.dumps(fingerprint))
        # What a save that was killed has left is removed.
        self._kept = _Kept(keep)
        options = ocp.CheckpointManagerOptions(preservation_policy=self._kept, cleanup_tmp_directories=True)
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(type_handler_registry=_ARRAYS),
            **{name: ocp.JsonCheckpointHandler() for name in ("data", "fingerprint")},
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handlers)
        self._quiet = _Quiet()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        # After another error, that one is to be shown.
        first = contextlib.nullcontext() if kind is None else contextlib.suppress(TryAgainError)
        try:
            with first, self._writing():
                self._manager.close()
        finally:
            self._quiet.end()

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Writes in the background; a checkpoint appears when it is whole. Does nothing for a step already saved.

        Raises:
            LDISError: the state is not finite.
            TryAgainError: this save, or the one before it in the background, could not be written.
        """
        step = int(state.step)
        if self._manager.latest_step() == step:
            return
        checksum, finite = _summary(jax.tree.leaves(state))
        if not finite:
            raise LDISError(
                f"step {step}: the parameters it made are not finite; they are not saved, and the checkpoints in "
                f"{self._folder} are kept. Lower config.optim.learning_rate"
            )
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            data=ocp.args.JsonSave(data_state | {_CHECKSUM: checksum}),
            fingerprint=ocp.args.JsonSave(self._fingerprint),
        )
        with self._writing():
            self._manager.save(step, args=arguments)

    def keep(self, step: int | None) -> None:
        """Keeps a step however many come after it, and no longer the one before."""
        self._kept.step = step

    def wait(self) -> None:
        """Until the save in the background is done; raises :class:`TryAgainError` if it fails."""
        with self._writing():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises :class:`TryAgainError` if a save in the background has failed; does not wait for one."""
        with self._writing():
            self._manager.check_for_errors()

    def started(self) -> bool:
        """True if a run has saved here, as process 0 sees it."""
        return bool(multihost_utils.broadcast_one_to_all(np.array(has_saved(self._folder))))

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest usable checkpoint in the shapes, types and shardings of ``state``.

        A newer one that is damaged is named in the log and moved to ``<step>.damaged``. All processes take the same.

        Args:
            state: arrays, or ``jax.ShapeDtypeStruct`` with a sharding, which hold no memory beside what is restored.

        Raises:
            LDISError: the newest readable checkpoint belongs to another model or task, or none is usable; nothing is
                moved then, for the fault may be elsewhere.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._steps(), reverse=True):
            try:
                restored = self._read(step, state)
                break
            except _UnusableError as error:
                damaged[step] = str(error)
        else:
            causes = "; ".join(f"step {step}: {cause}" for step, cause in damaged.items())
            raise LDISError(
                f"{self._folder}: no usable checkpoint ({causes or 'all are named .damaged'}); mend one, or choose "
                f"another --workdir to start from scratch"
            )
        for newer, cause in damaged.items():
            place = self._folder / str(newer)
            moved = _free_name(place.with_name(f"{newer}.damaged"))
            _LOGGER.warning("%s: damaged (%s); moved to %s", place, cause, moved.name)
            if jax.process_index() == 0:
                place.rename(moved)
        if damaged:
            _LOGGER.warning("%s: the run goes on from step %s", self._folder, step)
            multihost_utils.sync_global_devices("damaged checkpoints are moved")
            self._manager.reload()
        return restored

    def restore_step(self, step: int, state: TrainState) -> TrainState:
        """One checkpoint that was saved by this run; raises :class:`LDISError` where it cannot be read."""
        self.wait()
        try:
            return self._read(step, state)[0]
        except _UnusableError as error:
            raise LDISError(f"{self._folder / str(step)}: the best step's checkpoint is unusable ({error})") from None

    def _steps(self) -> list[int]:
        """The steps that process 0 sees in the folder: others may see an older state of one that they share."""
        own = self._manager.all_steps()
        if own and max(own) > np.iinfo(np.int32).max:
            raise LDISError(f"{self._folder / str(max(own))}: no checkpoint of a run; move it away")
        count = int(multihost_utils.broadcast_one_to_all(np.array(len(own))))
        steps = np.zeros(count, np.int32)
        steps[: len(own)] = own[:count]  # another's may be more or fewer
        return [int(step) for step in multihost_utils.broadcast_one_to_all(steps)]

    def _read(self, step: int, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """One checkpoint; raises _UnusableError on all processes if any cannot read its part."""
        # By handlers: a CheckpointManager meets the other processes while it restores, and they would wait there for
        # one that has failed.
        folder = (self._folder / str(step)).absolute()
        json_handler, state_handler = ocp.JsonCheckpointHandler(), ocp.StandardCheckpointHandler()
        fingerprint = _on_all(lambda: json_handler.restore(folder / "fingerprint"))
        if changes := _differences(fingerprint, self._fingerprint):
            where = self._folder / str(step)
            raise LDISError(f"{where}: checkpoint of another model ({changes}); choose another --workdir")
        data = _on_all(lambda: json_handler.restore(folder / "data"))
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        arguments = ocp.args.StandardRestore(abstract)
        restored = _on_all(lambda: state_handler.restore(folder / "state", args=arguments))
        _verify(data, jax.tree.leaves(restored))
        return restored, {key: value for key, value in data.items() if key != _CHECKSUM}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise whatever the file system leads them to
            steps = saved_steps(self._folder)
            last = f"step {steps[-1]} is the newest whole one" if steps else "there is none yet"
            raise TryAgainError(
                f"{self._folder}: a checkpoint could not be written ({_line(error)}); {last}. Mend the disk and run "
                f"the same command again"
            ) from error


class _Kept:
    """Orbax's ``PreservationPolicy``: the last ``count`` checkpoints and one ``step``."""

    def __init__(self, count: int):
        self._count = count
        self.step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [step == self.step or step in steps[-self._count :] for step in steps]


class _Quiet:
    """Keeps apart what Orbax and TensorStore print in threads when a save fails, a hundred tracebacks on a full disk.

    The error itself comes back at the next call.
    """

    def __init__(self) -> None:
        self._logger, self._hook = logging.getLogger("absl"), sys.unraisablehook
        self._logger.addFilter(self._keep)
        sys.unraisablehook = self._raised

    def end(self) -> None:
        self._logger.removeFilter(self._keep)
        sys.unraisablehook = self._hook

    @staticmethod
    def _keep(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)

    def _raised(self, found: Any) -> None:
        if str(found.exc_value) != "Event loop is closed":
            self._hook(found)


class _UnusableError(Exception):
    """A checkpoint that cannot be read, or whose content is not what was saved."""


def _on_all(read: Callable[[], T]) -> T:
    """The result of ``read``; if it fails on any process, every one raises _UnusableError."""
    error = None
    try:
        result = read()
    except Exception as caught:  # Orbax raises whatever a damaged file leads it to
        if out_of_memory(caught):
            raise  # no fault of the checkpoint
        error = caught
    if not np.all(multihost_utils.process_allgather(np.array(error is None))):
        raise _UnusableError(_line(error) if error else "another process cannot read its part") from error
    return result


def _verify(data: Any, leaves: Iterable[Any]) -> None:
    """Raises _UnusableError where a state's arrays, in its order, are not those that ``data`` was saved with.

    Compression does not notice every flipped bit. Runs of older versions have no checksum.
    """
    arrays = iter(leaves)
    step = next(arrays)
    checksum, _ = _summary(itertools.chain([step], arrays))
    of_step = isinstance(data, dict) and data.get("step") == np.asarray(step).item()
    if not of_step or data.get(_CHECKSUM) not in (None, checksum):
        raise _UnusableError("its data or its arrays are not those that were saved")


def _summary(leaves: Iterable[ArrayLike]) -> tuple[int, bool]:
    """(CRC-32 over one sum an array, of its bits: the same however arrays are sharded; whether all is finite)."""
    found = np.array(jax.device_get([_summary_of_array(leaf) for leaf in leaves]), "<u4")
    return zlib.crc32(found[:, 0].tobytes()), not found[:, 1].any()


@jax.jit  # an array at a time: XLA takes minutes to compile one program that sums thousands
def _summary_of_array(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    # One sum of both: devices may meet in two independent ones in different orders, and wait for ever.
    both = jnp.stack([bits.astype(jnp.uint32), (~jnp.isfinite(x)).astype(jnp.uint32)])
    return jnp.sum(both.reshape(2, -1), axis=1, dtype=jnp.uint32)


def _free_name(path: Path) -> Path:
    """The path, or with a number behind it the first that is not there."""
    names = itertools.chain([path], (path.with_name(f"{path.name}.{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in ``checkpoints/`` of a work folder, ascending; damaged ones too."""
    found = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in found if re.fullmatch(r"0|[1-9]\d*", name, re.ASCII))


def has_saved(folder: Path) -> bool:
    """True if a run has saved in such a folder, be it usable or not, or set aside."""
    return bool(saved_steps(folder)) or any(folder.glob("*.damaged*"))


class SavedModel(NamedTuple):
    """The trained part of a checkpoint."""

    step: int
    fingerprint: dict[str, Any]
    params: dict[str, np.ndarray]


def read_params(folder: Path, step: int | None = None) -> SavedModel:
    """Trained parameters of one step as NumPy arrays, whatever devices wrote them.

    All of the state is read, for its checksum is of all; optimizer moments are not kept.

    Where the run keeps an average of them, that: what it evaluates and exports.

    Args:
        folder: ``checkpoints/`` of a work folder.
        step: None is the newest.

    Raises:
        LDISError: no checkpoint, none of that step, or a damaged one.
    """
    steps = saved_steps(folder)
    step = max(steps, default=0) if step is None else step
    if step not in steps:
        there = f"there are {list_names(map(str, steps))}" if steps else "expected the work folder of a training run"
        raise LDISError(f"{folder}: no checkpoint of step {step}; {there}")
    where, read_json = (folder / str(step)).absolute(), ocp.JsonCheckpointHandler().restore
    params: dict[str, dict[str, np.ndarray]] = {"params": {}, "ema": {}}

    def arrays() -> Iterator[np.ndarray]:
        for path, array in _saved_arrays(where / "state"):
            if path[0] in params:
                params[path[0]][path[1]] = array
            yield array

    try:
        _verify(read_json(where / "data"), arrays())
        return SavedModel(step, read_json(where / "fingerprint"), params["ema"] or params["params"])
    except Exception as error:  # Orbax raises whatever a damaged file leads it to
        raise LDISError(f"{folder / str(step)}: unreadable checkpoint ({_line(error)}); choose another step") from None


def _saved_arrays(folder: Path) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """(path, array) of all of a state, in its own order; a part at a time, for moments are twice the parameters."""
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    found, structure = jax.tree.flatten_with_path(checkpointer.metadata(folder).item_metadata.tree)
    paths = [tuple(key.idx if isinstance(key, SequenceKey) else key.key for key in path) for path, _ in found]
    leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for _, leaf in found]
    # Orbax makes dictionaries of our classes, whose keys jax sorts.
    order = sorted(range(len(paths)), key=lambda i: [(_FIELDS.get(key, 0), key) for key in paths[i]])
    parts = np.cumsum([leaves[i].size * leaves[i].dtype.itemsize for i in order]) // _PART_READ
    arguments = jax.tree.unflatten(structure, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
    for part in np.unique(parts):
        wanted = [i for i, own in zip(order, parts, strict=True) if own == part]
        item = jax.tree.unflatten(
            structure, [leaf if i in wanted else ocp.PLACEHOLDER for i, leaf in enumerate(leaves)]
        )
        arrays = jax.tree.leaves(
            checkpointer.restore(folder, args=ocp.args.PyTreeRestore(item=item, restore_args=arguments))
        )
        yield from ((paths[i], arrays[i]) for i in wanted)


def _line(error: Exception) -> str:
    """One line; of what TensorStore wraps in paths and places of its source, the operating system's part."""
    text = " ".join(str(error).split())
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else text[:200]


def _differences(saved: Any, current: Any, path: str = "") -> str:
    """The first few keys in which two JSON values differ, as "a.b: 1 -> 2"."""
    if isinstance(saved, dict) and isinstance(current, dict):
        parts = [
            _differences(saved.get(key), current.get(key), f"{path}.{key}" if path else key)
            for key in sorted(saved.keys() | current.keys())
        ]
        return ", ".join([part for part in parts if part][:3])
    return "" if saved == current else f"{path}: {saved!r} -> {current!r}"
