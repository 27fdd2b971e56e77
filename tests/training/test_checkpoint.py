"""Checkpoints that are damaged, half written, of another model or number of devices; a disk that is full."""

import contextlib
import dataclasses
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.experimental import multihost_utils

from ldis_jax import LDISError
from ldis_jax.runtime import sharding
from ldis_jax.training.checkpoint import Checkpoints, read_params, saved_steps
from ldis_jax.training.optim import bfloat16_moments
from ldis_jax.training.step import StepOptions, TrainState, init_state

FINGERPRINT = {"task": "ldis1"}


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # as in test_train
        yield


def make_state(step=0, devices=8):
    """A state whose kernels are spread over all devices and whose values tell the step."""
    mesh = sharding.make_mesh(1, devices, devices=jax.devices()[:devices])
    rng = np.random.default_rng(step)
    params = {
        "unet/a/kernel": jnp.asarray(rng.standard_normal((64, 128), np.float32)),
        "unet/a/bias": jnp.asarray(rng.standard_normal(128, np.float32)),
    }
    state, placed = init_state(params, optax.adamw(1e-3), mesh)
    whole = jax.device_put(jnp.array(step, jnp.int32), placed.step)
    return TrainState(step=whole, params=state.params, opt_state=state.opt_state)


def open_folder(tmp_path, fingerprint=FINGERPRINT):
    return Checkpoints(tmp_path / "checkpoints", 3, fingerprint)


@pytest.fixture
def saved(tmp_path):
    """A work folder with checkpoints of steps 4 and 8."""
    with open_folder(tmp_path) as checkpoints:
        for step in (4, 8):
            checkpoints.save(make_state(step), {"step": step})
    return tmp_path


def files_of(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def rewrite(change):
    def damage(folder):
        for path in files_of(folder / "state"):
            path.write_bytes(change(path.read_bytes()))

    return damage


def array_files(folder):
    return [path for path in files_of(folder / "state") if path.parent.name == "d"]


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def flip_bits(folder):
    """In many places of the largest file: some of its bytes are never read, and which differs from save to save."""
    largest = max(array_files(folder), key=lambda path: path.stat().st_size)
    size = largest.stat().st_size
    for place in range(0, size, size // 16):
        flip_a_bit(largest, place)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    "truncated": rewrite(lambda content: content[: len(content) // 2]),
    "zeros": rewrite(lambda content: bytes(len(content))),
    "no bytes": rewrite(lambda content: b""),
    "bits flipped": flip_bits,
    "no _METADATA": lambda folder: (folder / "state" / "_METADATA").unlink(),
    "no manifest": lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "no data": lambda folder: shutil.rmtree(folder / "data"),
    "no fingerprint": lambda folder: shutil.rmtree(folder / "fingerprint"),
    "data of another step": lambda folder: (folder / "data" / "metadata").write_text('{"step": 2}'),
    "data that is a list": lambda folder: (folder / "data" / "metadata").write_text("[]"),
    "bad JSON": lambda folder: (folder / "data" / "metadata").write_text('{"step"'),
    "an empty folder": empty,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_checkpoints_restore_the_one_before_a_damaged_newest_one(saved, damage, caplog):
    damage(saved / "checkpoints" / "8")
    with open_folder(saved) as checkpoints:
        with caplog.at_level(logging.WARNING):
            state, data = checkpoints.restore(make_state())
        assert int(state.step) == 4 and data == {"step": 4}
        expected = make_state(4)
        for name, value in expected.params.items():
            np.testing.assert_array_equal(state.params[name], value)
        said = [record.getMessage() for record in caplog.records if record.name == "ldis_jax.training.checkpoint"]
        assert "checkpoints/8: damaged (" in said[0] and "moved to 8.damaged" in said[0]
        assert "goes on from step 4" in said[1]
        assert (saved / "checkpoints" / "8.damaged").is_dir() and saved_steps(saved / "checkpoints") == [4]
        checkpoints.save(make_state(8), {"step": 8})
    with open_folder(saved) as checkpoints:
        assert int(checkpoints.restore(make_state())[0].step) == 8


def test_checkpoints_notice_a_flipped_bit_or_take_no_harm(saved):
    newest, expected = saved / "checkpoints" / "8", make_state(8)
    places = [(path, place) for path in array_files(newest) for place in range(path.stat().st_size)]
    noticed = 0
    for index in np.random.default_rng(0).choice(len(places), 40, replace=False):
        flip_a_bit(*places[index])
        try:
            read = read_params(saved / "checkpoints", 8).params
        except LDISError as error:
            assert "8: unreadable checkpoint (" in str(error)
            read = None
        with open_folder(saved) as checkpoints:
            state, _ = checkpoints.restore(make_state())
        assert (int(state.step) == 4) == (read is None)  # an export sees what resuming sees
        if read is None:
            noticed += 1
            newest.with_name("8.damaged").rename(newest)
        else:  # of a byte that nothing reads
            jax.tree.map(np.testing.assert_array_equal, state, expected)
        flip_a_bit(*places[index])
    assert noticed > 20


@pytest.mark.parametrize("part", [1 << 29, 2000])
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_read_params_reads_what_was_saved_part_by_part(tmp_path, monkeypatch, part, moments):
    state = make_state(4)
    if moments == "bfloat16":
        mesh = sharding.make_mesh(1, 8)
        own = {name: jnp.array(np.asarray(value)) for name, value in state.params.items()}
        fresh, _ = init_state(own, bfloat16_moments(optax.adamw(1e-3)), mesh, StepOptions(ema_decay=0.5))
        state = dataclasses.replace(fresh, step=state.step)
        assert state.ema is not None
    with open_folder(tmp_path) as checkpoints:
        checkpoints.save(state, {"step": 4})
    monkeypatch.setattr("ldis_jax.training.checkpoint._PART_READ", part)
    saved = read_params(tmp_path / "checkpoints")
    assert saved.step == 4 and saved.fingerprint == FINGERPRINT and saved.params.keys() == state.params.keys()
    for name, value in state.best.items():
        np.testing.assert_array_equal(saved.params[name], value)


def test_checkpoints_fail_and_move_nothing_where_none_is_usable(saved):
    for step in (4, 8):
        DAMAGES["no bytes"](saved / "checkpoints" / str(step))
    for _ in range(2):
        with (
            open_folder(saved) as checkpoints,
            pytest.raises(LDISError, match=r"no usable checkpoint \(step 8: ") as found,
        ):
            checkpoints.restore(make_state())
        assert "step 4: " in str(found.value) and "\n" not in str(found.value)
        assert saved_steps(saved / "checkpoints") == [4, 8]
    for step in (4, 8):
        (saved / "checkpoints" / str(step)).rename(saved / "checkpoints" / f"{step}.damaged")
    with open_folder(saved) as checkpoints, pytest.raises(LDISError, match=r"all are named \.damaged"):
        checkpoints.restore(make_state())


def test_checkpoints_go_by_the_list_of_the_first_process(saved, monkeypatch):
    """A shared folder may look newer on another host."""
    said = iter([np.array(1), np.array([4])])
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda _: next(said))
    with open_folder(saved) as checkpoints:
        assert int(checkpoints.restore(make_state())[0].step) == 4


def test_checkpoints_are_not_moved_for_too_little_memory(saved, monkeypatch):
    def restore(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4 bytes.")

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", restore)
    with open_folder(saved) as checkpoints, pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        checkpoints.restore(make_state())
    assert saved_steps(saved / "checkpoints") == [4, 8]


def test_checkpoints_restore_without_a_state_to_begin_with(saved):
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state())
    with open_folder(saved) as checkpoints:
        state, _ = checkpoints.restore(shapes)
    jax.tree.map(np.testing.assert_array_equal, state, make_state(8))


def test_checkpoints_keep_both_copies_of_a_step_damaged_twice(saved):
    for _ in range(2):
        DAMAGES["zeros"](saved / "checkpoints" / "8")
        with open_folder(saved) as checkpoints:
            assert int(checkpoints.restore(make_state())[0].step) == 4
            checkpoints.save(make_state(8), {"step": 8})
    assert sorted(path.name for path in (saved / "checkpoints").iterdir() if path.is_dir()) == [
        *("4", "8", "8.damaged", "8.damaged.2")
    ]


def test_checkpoints_pass_over_and_remove_what_a_killed_save_leaves(saved):
    folder = saved / "checkpoints"
    left = folder / "12.orbax-checkpoint-tmp"
    shutil.copytree(folder / "8", left)
    shutil.rmtree(left / "data")
    with open_folder(saved) as checkpoints:
        assert int(checkpoints.restore(make_state())[0].step) == 8
        checkpoints.save(make_state(12), {"step": 12})
    assert not left.exists() and saved_steps(folder) == [4, 8, 12]


def test_checkpoints_have_not_started_before_the_first_save(tmp_path):
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    with open_folder(tmp_path) as checkpoints:
        assert not checkpoints.started()


def test_checkpoints_refuse_and_do_not_pass_over_another_models_newest_one(saved):
    with open_folder(saved, {"task": "ldisn"}) as checkpoints, pytest.raises(LDISError, match="of another model"):
        checkpoints.restore(make_state())
    assert saved_steps(saved / "checkpoints") == [4, 8]


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_checkpoints_of_eight_devices_are_restored_on_fewer(saved, devices):
    with open_folder(saved) as checkpoints:
        state, _ = checkpoints.restore(make_state(devices=devices))
    expected = make_state(8)
    for name, value in expected.params.items():
        assert len(state.params[name].sharding.device_set) == devices
        np.testing.assert_array_equal(state.params[name], value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_checkpoints_never_save_what_is_not_finite(saved, value):
    state = make_state(12)
    state.params["unet/a/bias"] = state.params["unet/a/bias"].at[5].set(value)
    with open_folder(saved) as checkpoints, pytest.raises(LDISError, match=r"step 12: .* not finite"):
        checkpoints.save(state, {"step": 12})
    assert saved_steps(saved / "checkpoints") == [4, 8]


@contextlib.contextmanager
def largest_file(size):
    """The kernel refuses to write more than ``size`` bytes to one file, as it refuses on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_checkpoints_on_a_full_disk_fail_in_one_line_and_keep_the_last(saved):
    message = r"could not be written \(File too large\); step 8 is the newest whole one"
    with pytest.raises(LDISError, match=message) as found, largest_file(4000), open_folder(saved) as checkpoints:
        checkpoints.save(make_state(12), {"step": 12})
        checkpoints.save(make_state(16), {"step": 16})  # meets the error of the one before, in the background
    assert "\n" not in str(found.value)
    assert saved_steps(saved / "checkpoints") == [4, 8]
    with open_folder(saved) as checkpoints:
        assert int(checkpoints.restore(make_state())[0].step) == 8


def test_checkpoints_notice_a_full_disk_at_the_last_save(saved):
    message = "could not be written"
    with pytest.raises(LDISError, match=message), largest_file(4000), open_folder(saved) as checkpoints:
        checkpoints.save(make_state(12), {"step": 12})
    assert saved_steps(saved / "checkpoints") == [4, 8]


def test_checkpoints_refuse_a_number_that_no_run_reaches(saved):
    (saved / "checkpoints" / "99999999999").mkdir()
    with open_folder(saved) as checkpoints, pytest.raises(LDISError, match="99999999999: no checkpoint of a run"):
        checkpoints.restore(make_state())


def test_checkpoints_refuse_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(LDISError, match=r"cannot be written \(File exists\)"):
        open_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(LDISError, match=r"cannot be written \(Not a directory\)"):
        open_folder(tmp_path / "file")
