"""Passes over all rows of a mean that are in memory: by all cores, devices and processes."""

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import devices
from jaxgd.compile.inputs import not_finite_rows
from jaxgd.compile.program import Inputs, Program
from jaxgd.core.settings import of_thread
from jaxgd.core.tiles import Span
from jaxgd.rows.rows import draw_rows

Of = Callable[[Inputs, Any], Any]  # of rows, as a program takes them, and the params


class Pass(Protocol):
    """What evaluates the mean over all rows at hand."""

    total: float  # the sum of their weights

    def __call__(self, params: np.ndarray, of: Of | None = None) -> np.ndarray:
        """Return gradient and loss at the params, before anything is added, in one vector.

        Or the mean over all rows of what `of` says: an array that is a sum over the rows at hand, as loss and gradient.
        """
        ...

    def samples(self, count: int) -> list[Any]:
        """Return pairs of rows and weights: two drawn at random, or all rows where there are no more than that."""
        ...

    def not_finite(self) -> list[str]:
        """Return which row is not finite, in words; nothing where all are."""
        ...


def span_of(data: Any, dtype: Any) -> Span:
    """Return rows and weights as programs take them."""
    rows, weights = data
    count = len(jax.tree.leaves(rows)[0])
    total = count if weights is None else np.sum(np.asarray(weights), dtype=np.float64)
    return Span(rows, weights, np.int32(0), np.int32(count), np.asarray(total, dtype))


def filled(span: Span, size: int) -> Span:
    """Return rows and weights filled up to so many, by the first row; those added are not taken."""

    def longer(leaf: Any) -> Any:
        return np.concatenate([leaf, np.broadcast_to(leaf[:1], (size - len(leaf), *leaf.shape[1:]))])

    if len(jax.tree.leaves(span.rows)[0]) >= size:
        return span
    return span._replace(rows=jax.tree.map(longer, span.rows), weights=jax.tree.map(longer, span.weights))


class RowsInMemory:
    """Passes over rows in memory; each core or device takes its part."""

    def __init__(self, program: Program, given: Inputs, held: list[tuple[Any, Any]]) -> None:
        """Cut what is held, pairs of rows and weights that lie together, into parts."""
        self._program, self._settings, self._held = program, of_thread(), held
        alone = devices.may_block(program.recipe.traced.jaxpr)
        spans = [span_of(data, np.float64) for data in held]
        self.total = float(sum(span.total for span in spans))
        each = max(1, len(devices.places(alone=alone)) // len(held))
        self._parts = [
            given._replace(data=part._replace(total=np.asarray(self.total, program.dtype)))
            for span in spans
            for part in _parts(span, program.recipe.tile, each)
        ]
        self._pool = ThreadPoolExecutor(len(self._parts))

    def __call__(self, params: np.ndarray, of: Of | None = None) -> np.ndarray:
        asked = of or self._program.slopes

        def slopes_of(part: Inputs) -> np.ndarray:
            with ExitStack() as stack:
                for setting in self._settings:
                    stack.enter_context(setting())
                return np.asarray(asked(part, params), np.float64)

        return sum(self._pool.map(slopes_of, self._parts))  # type: ignore[return-value]

    def samples(self, count: int) -> list[Any]:
        lengths = [len(jax.tree.leaves(rows)[0]) for rows, _ in self._held]
        shares = [math.ceil(count * length / sum(lengths)) for length in lengths]
        picked = [
            draw_rows(data, share, length) for data, share, length in zip(self._held, shares, lengths, strict=True)
        ]
        return _joined(picked, count)

    def not_finite(self) -> list[str]:
        first = 0
        for rows, _ in self._held:
            found = not_finite_rows(rows, first)
            if found:
                return found
            first += len(jax.tree.leaves(rows)[0])
        return []


def on_devices(data: Any) -> list[Any]:
    """Return the rows that lie in one place each, as pairs of rows and weights, of this process."""
    leaves = jax.tree.leaves(data)
    if is_apart(data):
        shards = [_shards(leaf) for leaf in leaves]
        if any([at for at, _ in each] != [at for at, _ in shards[0]] for each in shards):
            msg = "`data` has arrays that are spread over devices in different ways. Spread the rows of all alike."
            raise ValueError(msg)
        structure = jax.tree.structure(data)
        return [structure.unflatten([part for _, part in each]) for each in zip(*shards, strict=True)]
    count, several, own = len(leaves[0]), jax.process_count(), jax.process_index()
    if several > 1:
        # All were given the same rows: each takes its part of them.
        low, high = count * own // several, count * (own + 1) // several
        data = jax.tree.map(lambda leaf: leaf[low:high], data)
    return [jax.tree.map(jnp.asarray, data)]


def is_apart(data: Any) -> bool:
    """Whether arrays lie in parts on several devices."""
    return any(isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(data))


def _shards(leaf: Any) -> list[tuple[Any, Any]]:
    """Return which rows lie on the devices of this process, and those rows; what is kept twice counts once."""
    if not isinstance(leaf, jax.Array):
        return [(0, leaf)]
    found = {}
    for shard in leaf.addressable_shards:
        if any(part != slice(None) for part in shard.index[1:]):
            msg = f"`data` has an array of shape {leaf.shape} that is cut along another axis than its rows. Cut rows."
            raise ValueError(msg)
        if shard.replica_id == 0:
            found[shard.index[0].start or 0] = shard.data
    return sorted(found.items(), key=lambda item: item[0])


def _parts(span: Span, tile: int, count: int) -> list[Span]:
    """Return so many parts of a span, of whole tiles."""
    rows = int(span.stop)
    tiles = -(-rows // tile)
    ends = [min(rows, tile * (tiles * i // count)) for i in range(count + 1)]
    return [span._replace(start=np.int32(a), stop=np.int32(b)) for a, b in itertools.pairwise(ends) if a < b]


def _joined(picked: list[list[Any]], count: int) -> list[Any]:
    """Return the samples of several places as one, of `count` rows where two were drawn."""
    if len(picked) == 1:
        return picked[0]
    several = min(map(len, picked))
    parts = [[each[at] for each in picked] for at in range(several)]
    joined = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *part) for part in parts]
    return joined if several == 1 else jax.tree.map(lambda leaf: leaf[:count], joined)


class Together:
    """Passes over rows of which each process has a share."""

    def __init__(self, own: Pass) -> None:
        """Join this process's share with those of the others."""
        self._own, self.total = own, 0.0

    def __call__(self, params: np.ndarray, of: Of | None = None) -> np.ndarray:
        """Return gradient and loss at the params, or what `of` says, the same in each process."""
        mean = self._own(params, of)
        # As bytes, which JAX makes no smaller.
        every = devices.of_all_processes(np.append(self._own.total * mean, self._own.total).view(np.uint32)).view(
            np.float64
        )
        sums = every.sum(axis=0)
        self.total = float(sums[-1])
        return (sums[:-1] / sums[-1]).reshape(mean.shape)

    def samples(self, count: int) -> list[Any]:
        """Return two samples to which each process gives as many rows."""
        share = -(-count // jax.process_count())
        own = self._own.samples(share)
        own = [jax.tree.map(lambda leaf: np.resize(np.asarray(leaf), (share, *leaf.shape[1:])), each) for each in own]
        every = [devices.of_all_processes(each) for each in (own * 2)[:2]]
        return [jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], each) for each in every]

    def not_finite(self) -> list[str]:
        return self._own.not_finite()
