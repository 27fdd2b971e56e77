"""Multiplications and additions of a traced program."""

from __future__ import annotations

import math
from typing import Any

from jax.extend import core


def count_flops(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> int:
    """Operations of all matrix products and convolutions, loops as often as they run, over all devices.

    It is what the mathematics needs, whatever a compiler pads or computes twice; other operations are left out.
    """
    total = 0
    eqn: Any  # its avals are typed without shapes
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "cond":
            branches, platforms = eqn.params["branches"], eqn.params.get("branches_platforms")
            if platforms:  # ways to one result; the plain one is for any platform
                branches = [branches[platforms.index(None)]]
            total += max(map(count_flops, branches))
        else:
            # A shard_map's inside is what one device does.
            times = eqn.params["length"] if name == "scan" else eqn.params["mesh"].size if name == "shard_map" else 1
            inner = [value for value in eqn.params.values() if isinstance(value, core.Jaxpr | core.ClosedJaxpr)]
            total += times * sum(map(count_flops, inner))
    return total


def _convolution(eqn: Any) -> int:
    """Taps that fall on padding or between the values of a dilated input are not work, and not counted.

    They would double the gradient of a strided convolution.
    """
    numbers = eqn.params["dimension_numbers"]
    image, kernel, out = (v.aval.shape for v in (*eqn.invars[:2], eqn.outvars[0]))
    total = 2 * out[numbers.out_spec[0]] * kernel[numbers.rhs_spec[0]] * kernel[numbers.rhs_spec[1]]
    for i, (low, _) in enumerate(eqn.params["padding"]):
        size, taps, results = (s[d[2 + i]] for s, d in zip((image, kernel, out), numbers, strict=True))
        stride, spread, gap = (eqn.params[k][i] for k in ("window_strides", "rhs_dilation", "lhs_dilation"))
        reached = 0
        for t in range(taps):
            first = t * spread - low  # where the first result's tap falls
            reached += sum(
                1 for r in range(results) if (p := first + r * stride) >= 0 and p % gap == 0 and p // gap < size
            )
        total *= reached
    return total // eqn.params["batch_group_count"]
