"""The options of a step: what must not change the result does not, and the rest does what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ldis_jax import LDISError
from ldis_jax.models.ldis import LDISModel
from ldis_jax.models.params import flatten
from ldis_jax.runtime import sharding
from ldis_jax.training.optim import bfloat16_moments, round_stochastically
from ldis_jax.training.step import StepMetrics, StepOptions, init_state, make_train_step
from tests.helpers import MICRO, SIZE, micro_task

BATCH = 8


@pytest.fixture(scope="module", autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def batch(copies=1):
    rng = np.random.default_rng(0)
    n = BATCH // copies
    arrays = {
        "query_image": rng.uniform(-1, 1, (n, SIZE, SIZE, 3)).astype(np.float32),
        "query_mask": rng.integers(0, 2, (n, SIZE, SIZE)).astype(np.uint8),
        "prompt_images": rng.uniform(-1, 1, (n, 1, SIZE, SIZE, 3)).astype(np.float32),
        "prompt_masks": rng.integers(0, 2, (n, 1, SIZE, SIZE)).astype(np.uint8),
    }
    return {name: np.repeat(x, copies, axis=0) for name, x in arrays.items()}


def run(data=1, fsdp=1, slices=1, *, remat="none", tx=None, steps=2, arrays=None, **options):
    """(state, losses) after a few steps of a micro LDIS-1."""
    model = LDISModel(MICRO["ldis1"], jax.random.key(0))
    model.unet.remat = remat
    graphdef, params, frozen = flatten(model)
    mesh = sharding.make_mesh(data, fsdp, slices, devices=jax.devices()[: data * fsdp * slices])
    tx, options = tx or optax.sgd(0.1), StepOptions(**options)
    state, placed = init_state(params, tx, mesh, options)
    step = make_train_step(micro_task("ldis1"), graphdef, tx, 0, mesh, placed, options)
    empty = jax.device_put(StepMetrics.empty(), sharding.replicated(mesh))
    frozen = jax.device_put(frozen, sharding.replicated(mesh))
    arrays, losses = sharding.to_devices(batch() if arrays is None else arrays, mesh), []
    for _ in range(steps):
        state, metrics = step(state, empty, frozen, arrays)
        losses.append(float(metrics.compute()["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def plain():
    return run()


@pytest.fixture(scope="module")
def one_step():
    return run(steps=1)


def assert_close(a, b, atol):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("kind", ["dots", "blocks"])
def test_make_train_step_gives_the_same_numbers_with_remat(one_step, kind):
    # One step: how a second one's loss answers to the rounding of the first's gradients is up to the processor.
    state, losses = run(remat=kind, steps=1)
    np.testing.assert_allclose(losses, one_step[1], rtol=1e-6)
    assert_close(state.params, one_step[0].params, 1e-6)


def test_make_train_step_accumulates_the_mean_gradient_of_the_parts(monkeypatch):
    # The target is the only draw of LDIS-1; without it, parts and whole see the same.
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, *a: jnp.zeros(shape))
    sgd = optax.sgd(0.1)
    whole, losses = run(tx=sgd, steps=1)
    for parts, mesh in ((2, (1, 1)), (4, (1, 1)), (2, (2, 2))):
        state, found = run(*mesh, tx=sgd, steps=1, accumulate=parts)
        np.testing.assert_allclose(found, losses, rtol=2e-6)  # 512 numbers, added in another order
        assert_close(state.params, whole.params, 1e-6)


def test_make_train_step_draws_apart_for_the_parts_of_a_batch(one_step):
    assert run(steps=1, accumulate=4)[1] != one_step[1]


def test_make_train_step_with_bfloat16_gradients_keeps_float32_masters(plain):
    state, losses = run(grad_dtype="bfloat16")
    np.testing.assert_allclose(losses, plain[1], rtol=0.02)
    assert {x.dtype for x in jax.tree.leaves((state.params, state.opt_state))} <= {np.dtype("f4"), np.dtype("i4")}
    moved = sum(bool((state.params[n] != plain[0].params[n]).any()) for n in state.params)
    assert moved > len(state.params) / 2  # it is another computation


def test_make_train_step_keeps_the_average_of_parameters(plain, one_step):
    state, losses = run(ema_decay=0.5)
    assert losses == plain[1] and plain[0].ema is None and plain[0].best is plain[0].params
    start, first = run(steps=0)[0].params, one_step[0].params
    for name, value in state.best.items():
        expected = 0.5 * (0.5 * start[name] + 0.5 * first[name]) + 0.5 * state.params[name]
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)


def test_bfloat16_moments_follow_float32_ones():
    tx = optax.adam(1e-2, b2=0.999)
    params = {"w": jnp.zeros((64, 64))}
    rng = np.random.default_rng(0)
    exact, stored = tx.init(params), bfloat16_moments(tx).init(params)
    step, stored_step = jax.jit(tx.update), jax.jit(bfloat16_moments(tx).update)
    for _ in range(400):
        grads = {"w": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)}
        _, exact = step(grads, exact)
        _, stored = stored_step(grads, stored)
    nu, nu_stored = exact[0].nu["w"], stored.inner[0].nu["w"]
    assert nu_stored.dtype == jnp.bfloat16 and int(stored.step) == 400
    # Rounded to the nearest it would stand still far below; the mean over all entries is that of float32.
    assert abs(float(nu_stored.astype(jnp.float32).mean() / nu.mean()) - 1) < 0.005
    assert float(jnp.abs(nu_stored.astype(jnp.float32) / nu - 1).mean()) < 0.1


def test_round_stochastically_keeps_the_mean_and_follows_the_seed():
    x = jnp.full((1000, 100), 1 + 2**-10)  # an eighth of the way from 1 to the next bfloat16
    rounded = round_stochastically(x, jnp.int32(3)).astype(jnp.float32)
    assert set(np.unique(rounded)) == {1, 1 + 2**-7}
    assert abs(float((rounded > 1).mean()) - 0.125) < 0.005
    assert (round_stochastically(x, jnp.int32(3)) == round_stochastically(x, jnp.int32(3))).all()
    assert (round_stochastically(x, jnp.int32(3)) != round_stochastically(x, jnp.int32(4))).any()
    exact = jnp.array([0.0, -1.5, 3e38, jnp.inf, -jnp.inf], jnp.bfloat16)
    np.testing.assert_array_equal(round_stochastically(exact.astype(jnp.float32), jnp.int32(0)), exact)


def test_make_mesh_and_param_sharding_follow_the_rules():
    with pytest.raises(LDISError, match="slices=3 x data=2 x fsdp=1 does not make 8 devices"):
        sharding.make_mesh(2, 1, 3)
    with pytest.raises(LDISError, match=r"config\.mesh: slices=2 x data=4 x fsdp=1 does not make 8 devices: "):
        sharding.make_mesh(4, 1, 2)  # CPUs are no slices
    mesh = sharding.make_mesh(2, 4)
    spec = {shape: tuple(sharding.param_sharding("a/kernel", shape, mesh).spec) for shape in ((6, 8), (8, 6), (6, 6))}
    assert spec == {(6, 8): (None, "fsdp"), (8, 6): ("fsdp", None), (6, 6): ()}
    shapes = {
        "a/kernel": jax.ShapeDtypeStruct((1025, 1023), "f4"),
        "b/kernel": jax.ShapeDtypeStruct((1024, 1024), "f4"),
    }
    assert sharding.large_replicated(shapes, mesh) == []  # 1,048,575 elements are not large
    shapes["c/scale"] = jax.ShapeDtypeStruct((2**21,), "f4")
    assert sharding.large_replicated(shapes, mesh) == ["c/scale (2097152,)"]
    assert sharding.large_replicated(shapes, sharding.make_mesh()) == []


def test_to_devices_keeps_a_batch_in_its_order_whatever_the_meshs():
    devices = [jax.devices()[i] for i in (3, 0, 7, 1, 2, 6, 5, 4)]
    mesh = jax.sharding.Mesh(np.array(devices).reshape(1, 2, 4), (sharding.SLICE, sharding.DATA, sharding.FSDP))
    batch = {"x": np.arange(32).reshape(16, 2), "y": np.arange(16)}
    assert sharding.process_rows(mesh, 16, 0) == list(range(16)) and sharding.process_rows(mesh, 16, 1) == []
    placed = sharding.to_devices(batch, mesh)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.sharding.is_equivalent_to(sharding.batch_sharding(mesh), array.ndim)
    assert [int(shard.data[0]) for shard in sorted(placed["y"].addressable_shards, key=lambda s: s.device.id)] == [
        2 * devices.index(device) for device in jax.devices()
    ]


def test_put_places_what_every_process_has_alike(monkeypatch):
    mesh = sharding.make_mesh(2, 4)
    tree = {"a": np.arange(16, dtype=np.float32).reshape(2, 8), "b": jnp.ones((8, 3), jnp.bfloat16)}
    placed = {name: sharding.param_sharding("x/kernel", array.shape, mesh) for name, array in tree.items()}
    for count in (1, 2):  # the way of several processes serves one
        monkeypatch.setattr(jax, "process_count", lambda count=count: count)
        for where in (placed, sharding.replicated(mesh)):
            found = sharding.put(tree, where)
            for name, array in found.items():
                np.testing.assert_array_equal(array, tree[name])
                assert array.dtype == tree[name].dtype
                assert array.sharding == (where[name] if where is placed else where)


def test_mean_gradient_of_a_gathered_parameter_goes_back_to_where_it_lies():
    mesh = sharding.make_mesh(2, 4)
    rows, x, w = PartitionSpec(sharding.BATCH), np.arange(48.0).reshape(8, 6) / 48, np.arange(48.0).reshape(6, 8)
    for name in ("a/kernel", "a/bias"):  # the second stays whole on every device
        spec = sharding.param_sharding(name, w.shape, mesh).spec

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=(spec, rows), out_specs=spec, check_vma=False)
        def gradient(w, x, spec=spec):
            def loss(w):
                return jnp.mean((x @ sharding.gather(w, spec, "float32")) ** 2)

            return sharding.mean_gradient(jax.grad(loss)(w), spec, mesh)

        found = jax.jit(gradient)(jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32))
        assert found.sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), 2)
        np.testing.assert_allclose(found, 2 * x.T @ (x @ w) / 64, rtol=1e-5)


def test_draw_batch_draws_the_same_on_every_mesh():
    key = jax.random.key(3)
    whole = jax.random.normal(key, (16, 2))
    assert jnp.array_equal(sharding.draw_batch(jax.random.normal, key, (16, 2)), whole)
    for mesh in (sharding.make_mesh(2, 4), sharding.make_mesh(1, 2, devices=jax.devices()[:2])):

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=(), out_specs=PartitionSpec(sharding.BATCH))
        def draw(mesh=mesh):
            return sharding.draw_batch(jax.random.normal, key, (16 // mesh.size, 2))

        np.testing.assert_array_equal(jax.jit(draw)(), whole)
