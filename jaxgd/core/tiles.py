"""A loss that is a mean over rows, as a sum over tiles of them: what is read of the data stays in the cache."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SMALL = 1 << 22  # bytes of data up to which nothing is to be gained
CACHE = 3 << 18  # bytes of a tile on CPU: what one core keeps near
LONGEST = 2048  # rows of a tile on CPU: of longer ones XLA gives each core a part, and they wait for each other
BUFFER = 1 << 30  # likewise on other devices, where what is computed on the way has to fit the memory


class Span(NamedTuple):
    """Rows of data, as programs take them."""

    rows: Any  # pytree of arrays, each of shape (n, ...)
    weights: Any  # shape (n,), or None: all are alike
    start: Any  # the first row to take, an int32
    stop: Any  # and the one after the last
    total: Any  # the sum of the weights of all rows there are, also of those elsewhere


@dataclass(frozen=True)
class Tiles:
    """The tiles of a span of rows; the loss of one is its part of the mean."""

    bind: Callable[[Any], Any]  # from a tile, a pair of rows and weights, to its `BoundLoss`
    size: int  # rows of a tile
    span: Span
    sign: int = 1  # of each tile's loss
    reversible: bool = False  # JAX can differentiate the sum in reverse mode: as many tiles as the arrays have

    def total(self, of: Callable[[Any], Any]) -> Any:
        """Return the sum of what `of` returns of each tile's loss."""
        span = self.span

        def one(at: jax.Array) -> Any:
            return of(self.bind(self._tile(at)))

        def add(at: jax.Array, sums: Any) -> Any:
            return jax.tree.map(jnp.add, sums, one(at))

        shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        if self.reversible:
            there = jnp.arange(-(-len(jax.tree.leaves(span.rows)[0]) // self.size), dtype=jnp.int32)
            return jax.lax.scan(lambda sums, at: (add(at, sums), None), zeros, there)[0]
        count = -(-(span.stop - span.start) // self.size)
        return jax.lax.fori_loop(0, count, add, zeros)

    def _tile(self, at: jax.Array) -> tuple[Any, jax.Array]:
        """Return the rows of a tile, and their weights: 0 for those that belong to another."""
        rows, weights, start, stop, total = self.span
        there = len(jax.tree.leaves(rows)[0])
        # The last tile begins early enough to be full.
        first = start + at * self.size
        begin = jnp.minimum(first, there - self.size)
        index = begin + jnp.arange(self.size)
        own = (index >= first) & (index < stop)
        weight = 1 if weights is None else jax.lax.dynamic_slice_in_dim(weights, begin, self.size)
        tile = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, self.size), rows)
        return tile, jnp.where(own, weight, 0).astype(jnp.result_type(total)) / total


def rows_of_tile(row: int, there: int) -> int:
    """Return how many rows of so many bytes make a tile, a power of two, where so many rows are there."""
    near = jax.default_backend() == "cpu"
    rows = 1 << max(7, round(math.log2((CACHE if near else BUFFER) / max(row, 1))))
    return min(there, rows, LONGEST if near else rows)
