"""Counted operations against sums by hand."""

import jax
import jax.numpy as jnp
import pytest

from ldis_jax.runtime.flops import count_flops


def flops(fn, *shapes):
    return count_flops(jax.jit(fn).trace(*[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]).jaxpr)


def conv(x, w, stride=1, padding="SAME", dilation=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, lhs_dilation=(dilation, dilation), dimension_numbers=numbers
    )


def test_count_flops_of_products():
    assert flops(lambda a, b: a @ b, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    assert flops(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (2, 3, 4), (2, 5, 4)) == 2 * 2 * 3 * 4 * 5


def test_count_flops_of_loops_branches_and_rematerialisation():
    def loop(a):
        return jax.lax.scan(lambda x, _: (x @ x, None), a, None, length=7)[0]

    assert flops(loop, (4, 4)) == 7 * 2 * 64
    branch = lambda a: jax.lax.cond(a[0, 0] > 0, lambda x: x @ x, lambda x: x, a)  # noqa: E731
    assert flops(branch, (4, 4)) == 2 * 64

    def loss(a):
        return jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ x))(a))

    assert flops(loss, (4, 4)) == 2 * 64
    assert flops(jax.grad(loss), (4, 4)) == 4 * 2 * 64  # forward, forward again, and two of the backward pass


@pytest.mark.parametrize(
    ("stride", "padding", "taps"),
    [(1, "VALID", 6 * 3), (1, "SAME", 8 * 3 - 2), (2, ((0, 1), (0, 1)), 4 * 3 - 1)],
)
def test_count_flops_of_convolutions_leaves_out_padding(stride, padding, taps):
    found = flops(lambda x, w: conv(x, w, stride, padding), (2, 8, 8, 3), (3, 3, 3, 5))
    assert found == 2 * 2 * 3 * 5 * taps**2


def test_count_flops_of_a_strided_convolutions_gradient_is_twice_the_forward():
    def loss(x, w):
        return jnp.sum(conv(x, w, 2, ((1, 1), (1, 1))) ** 2)

    forward = flops(loss, (2, 8, 8, 3), (3, 3, 3, 5))
    both = flops(jax.grad(loss, (0, 1)), (2, 8, 8, 3), (3, 3, 3, 5))
    assert both == 3 * forward


@pytest.mark.parametrize("products", [1, 3])
def test_count_flops_of_two_ways_is_of_the_one_for_any_platform(products):
    def either(x):
        return jax.lax.platform_dependent(
            x, cpu=lambda x: jnp.linalg.matrix_power(x, products + 1), default=lambda x: x @ x @ x
        )

    assert flops(either, (4, 4)) == 4 * 64
    assert flops(jax.grad(lambda x: jnp.sum(either(x))), (4, 4)) > 4 * 64


def test_count_flops_counts_what_devices_do_side_by_side_on_each():
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("rows")
    product = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(rows, jax.sharding.PartitionSpec()), out_specs=rows
    )
    assert flops(product, (8, 3), (3, 5)) == 2 * 8 * 3 * 5
