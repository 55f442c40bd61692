"""Passes over all rows of a mean: in memory by all cores and devices, or read as they are computed with."""

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import inputs, places
from jaxgd.blocks import Block, Seen, Source, ahead, blocks
from jaxgd.program import Inputs, Program
from jaxgd.rows import check_weights, drawn
from jaxgd.tiles import Span

BLOCK = 4 << 20  # bytes that are read and computed with at a time: a few of them fit the cache that cores share
WAITING = 2  # blocks read ahead


class Pass(Protocol):
    """What evaluates the mean over all rows at hand."""

    total: float  # the sum of their weights

    def __call__(self, params: np.ndarray) -> np.ndarray:
        """Return gradient and loss at the params, before anything is added, in one vector."""
        ...

    def samples(self, count: int) -> list[Any]:
        """Return pairs of rows and weights: two drawn at random, or all rows where there are no more than that."""
        ...

    def not_finite(self) -> str:
        """Return which row is not finite, in words; nothing where all are."""
        ...


def span_of(data: Any, dtype: Any, total: Any = None, stop: int | None = None) -> Span:
    """Return rows and weights as programs take them."""
    rows, weights = data
    count = len(jax.tree.leaves(rows)[0]) if stop is None else stop
    if total is None:
        total = count if weights is None else np.sum(weights, dtype=np.float64)
    return Span(rows, weights, np.int32(0), np.int32(count), np.asarray(total, dtype))


class Memory:
    """Passes over rows in memory; each core or device takes its part."""

    def __init__(self, program: Program, given: Inputs, held: list[tuple[Any, Any]]) -> None:
        """Cut what is held, pairs of rows and weights that lie together, into parts."""
        self._program, self._settings, self._held = program, places.settings(), held
        alone = places.may_block(program.recipe.traced.jaxpr)
        spans = [span_of(data, np.float64) for data in held]
        self.total = float(sum(span.total for span in spans))
        each = max(1, len(places.places(alone=alone)) // len(held))
        self._parts = [
            given._replace(data=part._replace(total=np.asarray(self.total, program.dtype)))
            for span in spans
            for part in _parts(span, program.recipe.tile, each)
        ]
        self._pool = ThreadPoolExecutor(len(self._parts))

    def __call__(self, params: np.ndarray) -> np.ndarray:
        """Return gradient and loss at the params, in one vector."""

        def of(part: Inputs) -> np.ndarray:
            with ExitStack() as stack:
                for setting in self._settings:
                    stack.enter_context(setting())
                return np.asarray(self._program.slopes(part, params), np.float64)

        return sum(self._pool.map(of, self._parts))  # type: ignore[return-value]

    def samples(self, count: int) -> list[Any]:
        """Return two samples, or all rows."""
        lengths = [len(jax.tree.leaves(rows)[0]) for rows, _ in self._held]
        shares = [math.ceil(count * length / sum(lengths)) for length in lengths]
        picked = [drawn(data, share, length) for data, share, length in zip(self._held, shares, lengths, strict=True)]
        return _joined(picked, count)

    def not_finite(self) -> str:
        """Return which row is not finite."""
        first = 0
        for rows, _ in self._held:
            found = _not_finite(rows, first)
            if found:
                return found
            first += len(jax.tree.leaves(rows)[0])
        return ""


def _parts(span: Span, tile: int, count: int) -> list[Span]:
    """Return so many parts of a span, of whole tiles."""
    rows = int(span.stop)
    tiles = -(-rows // tile)
    ends = [min(rows, tile * (tiles * i // count)) for i in range(count + 1)]
    return [span._replace(start=np.int32(a), stop=np.int32(b)) for a, b in zip(ends, ends[1:], strict=False) if a < b]


def _joined(picked: list[list[Any]], count: int) -> list[Any]:
    """Return the samples of several places as one, of `count` rows where two were drawn."""
    several = min(map(len, picked))
    joined = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *(each[i] for each in picked)) for i in range(several)]
    return joined if several == 1 else jax.tree.map(lambda leaf: leaf[:count], joined)


class Stream:
    """Passes over rows that are read, the next block while the last is computed with."""

    def __init__(self, program: Program, given: Inputs, source: Source, dtype: Any, keep: int) -> None:
        """Read blocks of rows; the first pass keeps two samples of `keep` rows."""
        tile = program.recipe.tile
        row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(given.data))
        self._program, self._given, self._source, self._dtype = program, given, source, dtype
        self._size = tile * max(1, BLOCK // (tile * row))
        self._seen, self._keep, self._kept = Seen(), 2 * keep, None
        self.total = 0.0

    def __call__(self, params: np.ndarray) -> np.ndarray:
        """Return gradient and loss at the params, in one vector."""
        sums, total, kept = np.zeros(len(params) + 1), 0.0, _Reservoir(self._keep) if self._kept is None else None
        for block in ahead(blocks(self._source, self._size, self._seen), WAITING):
            data = self._checked(block)
            if kept:
                kept.add(data)
            span = span_of(data, self._program.dtype)
            weight, stop = float(span.total), int(span.stop)
            total += weight
            span = jax.tree.map(lambda leaf: _filled(leaf, self._size), span)
            span = span._replace(stop=np.int32(stop), total=np.ones((), self._program.dtype))
            sums += np.asarray(self._program.slopes(self._given._replace(data=span), params), np.float64)
        if not total:
            msg = f"weights of {self._source.name} are all 0, so there is nothing to take the mean of."
            raise ValueError(msg)
        self.total, self._kept = total, kept or self._kept
        return sums / total

    def _checked(self, block: Block) -> Any:
        """Return rows and weights of a block in the types computed with."""
        rows, weights = block.data
        if weights is not None:
            check_weights(weights, block.row)
        return inputs.as_jax_has_them(inputs.cast((rows, weights), self._dtype) if self._dtype else (rows, weights))

    def samples(self, count: int) -> list[Any]:
        """Return two samples, or all rows, from what the first pass kept."""
        rows = self._kept.rows if self._kept else None
        return drawn(rows, count, len(jax.tree.leaves(rows)[0]))

    def not_finite(self) -> str:
        """Return which row is not finite, from a pass of its own."""
        for block in blocks(self._source, self._size, self._seen):
            found = _not_finite(block.data[0], block.row)
            if found:
                return found
        return ""


class _Reservoir:
    """A sample of what goes by: the rows that have drawn the lowest numbers."""

    def __init__(self, size: int) -> None:
        self._size, self._draw = size, np.random.default_rng(0)
        self._keys, self._parts, self._most = np.zeros(0), [], np.inf

    def add(self, data: Any) -> None:
        """Look at some rows."""
        keys = self._draw.random(len(jax.tree.leaves(data)[0]))
        taken = np.flatnonzero(keys < self._most)
        if not len(taken):
            return
        self._keys = np.concatenate([self._keys, keys[taken]])
        self._parts.append(jax.tree.map(lambda leaf: leaf[taken], data))
        if len(self._keys) > 2 * self._size:
            best = np.sort(np.argpartition(self._keys, self._size)[: self._size])
            self._keys, self._parts = self._keys[best], [jax.tree.map(lambda leaf: leaf[best], self.rows)]
            self._most = self._keys.max()

    @property
    def rows(self) -> Any:
        """The rows kept; more than were asked for."""
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *self._parts)


def _filled(leaf: Any, size: int) -> Any:
    """Return an array filled up to so many rows by its first; scalars as they are."""
    if not np.ndim(leaf) or len(leaf) == size:
        return leaf
    return np.concatenate([leaf, np.broadcast_to(leaf[:1], (size - len(leaf), *leaf.shape[1:]))])


def _not_finite(rows: Any, first: int) -> str:
    """Return which of the rows is the first that is not finite, `first` being the number of the first there is."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        array = np.asarray(leaf)
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            where = f"row {first + int(np.argmax(bad))} of `data{jax.tree_util.keystr(path)}`"
            return f" Not finite: {where}, the first of {int(bad.sum())} in view; drop or fill what is missing."
    return ""


class Together:
    """Passes over rows of which each process has a share."""

    def __init__(self, own: Pass) -> None:
        """Join this process's share with those of the others."""
        self._own, self.total = own, 0.0

    def __call__(self, params: np.ndarray) -> np.ndarray:
        """Return gradient and loss at the params, the same in each process."""
        mean = self._own(params)
        # As bytes, which JAX makes no smaller.
        every = _gathered(np.append(self._own.total * mean, self._own.total).view(np.uint32)).view(np.float64)
        sums = every.sum(axis=0)
        self.total = float(sums[-1])
        return sums[:-1] / sums[-1]

    def samples(self, count: int) -> list[Any]:
        """Return two samples to which each process gives as many rows."""
        share = -(-count // jax.process_count())
        own = self._own.samples(share)
        own = [jax.tree.map(lambda leaf: np.resize(np.asarray(leaf), (share, *leaf.shape[1:])), each) for each in own]
        every = [_gathered(each) for each in (own * 2)[:2]]
        return [jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], each) for each in every]

    def not_finite(self) -> str:
        """Return which row of this process is not finite."""
        return self._own.not_finite()


def _gathered(tree: Any) -> Any:
    from jax.experimental import multihost_utils  # noqa: PLC0415 - for several processes alone

    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree))
