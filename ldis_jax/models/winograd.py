"""3x3 convolutions of float32 images in fewer multiplications, exactly but for rounding, for CPUs.

Winograd's minimal filtering F(2x2, 3x3): a tile of 2x2 results takes 16 multiplications a channel, not 36 (Lavin and
Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308). Its sums are short, so it rounds less than
a sum of nine products does; larger tiles would round ten times worse. Of an image upsampled by repetition a tile has
nine distinct pixels, and takes nine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Terms = Callable[..., Sequence[jax.Array]]
Grid = Sequence[Sequence[jax.Array]]

# So many at once: what lies between the transforms, 16 times as many values a channel, stays in a CPU's cache.
_TILES = 1024


def known_size(batch: int) -> int:
    """The batch size if tracing knows it; 1 for an exported program, which serves any."""
    return batch if isinstance(batch, int) else 1


@dataclasses.dataclass(frozen=True)
class _Filtering:
    """Two neighbouring results along one axis, as products of sums.

    Attributes:
        step: from a tile to the next, in pixels of the input.
        taps: as many pixels of the input as a pair of results reaches.
        input: pixels -> factors.
        kernel: three weights -> the other factors.
        output: products -> two results.
    """

    step: int
    taps: int
    input: Terms
    kernel: Terms
    output: Terms

    def factors(self, kernel: jax.Array) -> Grid:
        """[3, 3, C, C'] -> arrays [C, C']."""
        return [self.kernel(*rows) for rows in self.kernel(*kernel)]

    def convolve(self, x: jax.Array, factors: Grid) -> jax.Array:
        """Along both axes; [B, H, W, C] -> [B, H', W', C']."""
        batch, height, width, _ = x.shape
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, in_row = height // self.step, known_size(batch) * (width // self.step)
        stripes = next(n for n in range(1, rows + 1) if rows % n == 0 and (rows // n * in_row <= _TILES or n == rows))
        if stripes == 1:
            return self._convolve(padded, factors)
        size = height // stripes

        def convolve(start: jax.Array) -> jax.Array:
            stripe = jax.lax.dynamic_slice_in_dim(padded, start, size + 2, axis=1)
            return self._convolve(stripe, factors)

        found = jax.lax.map(convolve, size * jnp.arange(stripes))
        return jnp.moveaxis(found, 0, 1).reshape(batch, 2 * rows, *found.shape[3:])

    def _convolve(self, padded: jax.Array, factors: Grid) -> jax.Array:
        inputs = [self.input(*self._reached(row, 2)) for row in self.input(*self._reached(padded, 1))]
        products = [[a @ b for a, b in zip(*pair, strict=True)] for pair in zip(inputs, factors, strict=True)]
        columns = zip(*(self.output(*row) for row in products), strict=True)
        by_column = [jnp.stack(self.output(*column), axis=2) for column in columns]
        tiles = jnp.stack(by_column, axis=4)  # [B, H' / 2, 2, W' / 2, 2, C']
        return tiles.reshape(padded.shape[0], 2 * tiles.shape[1], 2 * tiles.shape[3], -1)

    def _reached(self, padded: jax.Array, axis: int) -> list[jax.Array]:
        """The first pixel that each pair of results reaches along an axis, the second, and so on."""
        last = padded.shape[axis] - self.taps
        return [jax.lax.slice_in_dim(padded, i, i + last + 1, self.step, axis) for i in range(self.taps)]


_PLAIN = _Filtering(
    step=2,
    taps=4,
    input=lambda a, b, c, d: (a - c, b + c, c - b, b - d),
    kernel=lambda a, b, c: (a, (a + b + c) / 2, (a - b + c) / 2, c),
    output=lambda a, b, c, d: (a + b + c, b - c - d),
)
# The same with b = c, whose third product is 0.
_UPSAMPLED = _Filtering(
    step=1,
    taps=3,
    input=lambda a, b, c: (a - b, b, b - c),
    kernel=lambda a, b, c: (a, a + b + c, c),
    output=lambda a, b, c: (a + b, b - c),
)


@jax.jit  # traced once for all layers of one shape
def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3x3, one pixel of padding: [B, H, W, C] with even H and W, and [3, 3, C, C'] -> [B, H, W, C']."""
    return _convolve(x, kernel)


@jax.custom_vjp
def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _PLAIN.convolve(x, _PLAIN.factors(kernel))


def _gradients(kept: tuple[jax.Array, jax.Array], result: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The input's is a convolution by the kernel turned around: with the same factors in another order."""
    x, kernel = kept

    def turned(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, ...]:
        return d, b, c, a

    factors = [[factor.T for factor in turned(*row)] for row in turned(*_PLAIN.factors(kernel))]
    (of_kernel,) = jax.linear_transpose(lambda kernel: _PLAIN.convolve(x, _PLAIN.factors(kernel)), kernel)(result)
    return _PLAIN.convolve(result, factors), of_kernel


_convolve.defvjp(lambda x, kernel: (_convolve(x, kernel), (x, kernel)), _gradients)


@jax.jit
def upsample_and_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``convolve`` of ``x`` with every pixel repeated: [B, H, W, C] and [3, 3, C, C'] -> [B, 2H, 2W, C']."""
    return _UPSAMPLED.convolve(x, _UPSAMPLED.factors(kernel))
