"""Passes over rows that are read as they are computed with."""

import contextlib
from typing import Any

import jax
import numpy as np

from jaxgd.compile import inputs
from jaxgd.compile.program import Inputs, Program
from jaxgd.data.blocks import Block, Expected, ahead
from jaxgd.rows.in_memory import Of, filled, span_of
from jaxgd.rows.rows import Paired, check_weights, draw_rows

BLOCK = 4 << 20  # bytes that are read and computed with at a time: a few of them fit the cache that cores share
WAITING = 2  # blocks read ahead


class Stream:
    """Passes over rows that are read, the next block while the last is computed with."""

    def __init__(self, program: Program, given: Inputs, source: Paired, dtype: Any, keep: int) -> None:
        """Read blocks of rows; the first pass keeps two samples of `keep` rows."""
        tile = program.recipe.tile
        row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(given.data))
        self._program, self._given, self._source, self._dtype = program, given, source, dtype
        self._size = tile * max(1, BLOCK // (tile * row))
        self._seen, self._keep, self._kept = Expected(), 2 * keep, None
        self.total = 0.0

    def __call__(self, params: np.ndarray, of: Of | None = None) -> np.ndarray:
        asked, sums, total = of or self._program.slopes, np.zeros(()), 0.0
        reservoir = _Reservoir(self._keep) if self._kept is None else None
        with contextlib.closing(ahead(self._source.blocks(self._size, self._seen), WAITING)) as found:
            for block in found:
                data = checked(block, self._dtype)
                if reservoir:
                    reservoir.add(data)
                span = span_of(data, np.float64)
                total += float(span.total)
                span = filled(span, self._size)._replace(total=np.ones((), self._program.dtype))
                sums = sums + np.asarray(asked(self._given._replace(data=span), params), np.float64)
        if not total:
            msg = f"weights of {self._source.name} are all 0, so there is nothing to take the mean of."
            raise ValueError(msg)
        self.total, self._kept = total, reservoir or self._kept
        return sums / total

    def samples(self, count: int) -> list[Any]:
        """Return two samples, or all rows, from what the first pass kept."""
        rows = self._kept.rows if self._kept else None
        return draw_rows(rows, count, len(jax.tree.leaves(rows)[0]))

    def not_finite(self) -> list[str]:
        """Return which row is not finite, from a pass of its own."""
        for block in self._source.blocks(self._size, self._seen):
            found = inputs.not_finite_rows(block.data[0], block.row)
            if found:
                return found
        return []


def checked(block: Block, dtype: Any) -> Any:
    """Return rows and weights of a block in the types computed with."""
    rows, weights = block.data
    if weights is not None:
        check_weights(weights, block.row)
    return inputs.in_type((rows, weights), dtype)


class _Reservoir:
    """A sample of what goes by: the rows that have drawn the lowest numbers."""

    def __init__(self, size: int) -> None:
        self._size, self._draw = size, np.random.default_rng(0)
        self._keys, self._parts, self._most = np.zeros(0), [], np.inf

    def add(self, data: Any) -> None:
        keys = self._draw.random(len(jax.tree.leaves(data)[0]))
        picked = np.flatnonzero(keys < self._most)
        if not len(picked):
            return
        self._keys = np.concatenate([self._keys, keys[picked]])
        self._parts.append(jax.tree.map(lambda leaf: leaf[picked], data))
        if len(self._keys) > 2 * self._size:
            best = np.sort(np.argpartition(self._keys, self._size)[: self._size])
            self._keys, self._parts = self._keys[best], [jax.tree.map(lambda leaf: leaf[best], self.rows)]
            self._most = self._keys.max()

    @property
    def rows(self) -> Any:
        """The rows kept; more than were asked for."""
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *self._parts)
