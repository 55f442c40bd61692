"""Rows in minibatches: how to take them, shuffled anew for each pass."""

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.program import Inputs, Program
from jaxgd.core.loop import Minibatches
from jaxgd.data.blocks import Expected, ahead
from jaxgd.rows.in_memory import filled, on_devices, span_of
from jaxgd.rows.rows import Rows
from jaxgd.rows.streamed import checked

CHUNK = 64 << 20  # bytes of rows read from disk that are shuffled together


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How to descend by minibatches; `batch_size=256` is short for `Batches(size=256)`.

    A pass takes every row once, in an order drawn anew from `seed`; rows that are read are shuffled within 64 MB. After
    each pass the loss averaged over its minibatches, or with `validation` the loss of a part of the rows held out, is
    compared with the lowest so far. After `patience` passes in a row that do not lower it, by a ten-thousandth of the
    decrease made, or by `tol` of it, some evaluations over all rows are made: where they gain no more than the noise of
    the average, that is the end; else it goes on, up to `passes` in all. With `polish`, the rest is done by method
    "auto" over all rows, whatever ended the passes but a watcher, Ctrl-C and `max_evals`. That counts minibatches, and
    its default is no limit to them; `gtol` and `tol` are tested over all rows, between passes.
    """

    size: int
    seed: int = 0
    passes: int = 100
    patience: int = 5
    validation: float = 0.0
    polish: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "passes", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                where = "batch_size" if name == "size" else name
                msg = f"`{where}` must be a positive integer; got {value!r}."
                raise ValueError(msg)
        if not isinstance(self.seed, int | np.integer) or self.seed < 0:
            msg = f"`seed` must be an integer, 0 or more; got {self.seed!r}."
            raise ValueError(msg)
        if not isinstance(self.validation, int | float | np.number) or not 0 <= self.validation < 1:
            msg = f"`validation` must be a part of the rows, from 0 up to but not 1; got {self.validation!r}."
            raise ValueError(msg)


class Chunk(NamedTuple):
    """Rows at hand, and the order in which to take them."""

    data: Any  # rows and weights
    order: np.ndarray  # shape (k, size): numbers of the rows of each minibatch
    steps: int  # how many minibatches to take


class Shuffled:
    """The rows of a mean in minibatches, a new order each pass."""

    def __init__(self, given: Inputs, rows: Rows, batches: Batches, dtype: Any) -> None:
        """Take the rows of `given`, or read them."""
        self._given, self._rows, self._batches, self._dtype = given, rows, batches, dtype
        self._seen = Expected()
        self.held_out: Any = None  # rows and weights for validation, once a pass is over

    def chunks(self, number: int) -> Generator[Chunk]:
        """Yield the rows for a pass, one part after the other, and an order in which to take them."""
        # Made of the pass's number, so that a pass is the same wherever it is begun.
        first, draw = self.held_out is None, np.random.default_rng((self._batches.seed, 1, number))
        out_of: list[Any] = []
        for at, (data, count, most) in enumerate(self._parts()):
            # Which rows are held out is drawn anew in each pass, and so is the same.
            out = np.random.default_rng((self._batches.seed, 0, at)).random(count) < self._batches.validation
            if first and out.any():
                out_of.append(jax.tree.map(lambda leaf, out=out: leaf[np.flatnonzero(out)], data))
            if not out.all():
                yield self._shuffled(draw.permutation(np.flatnonzero(~out)), data, most)
        if first:
            self.held_out = jax.tree.map(lambda *leaves: np.concatenate(leaves), *out_of) if out_of else ()

    def _parts(self) -> Iterator[tuple[Any, int, int]]:
        """Yield rows and weights in parts of one shape, how many they are, and how many they are filled up to."""
        if self._rows.source is None:
            for data in on_devices(self._given.data):
                count = len(jax.tree.leaves(data)[0])
                yield data, count, count
            return
        row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(self._given.data))
        size = self._batches.size * max(1, CHUNK // (self._batches.size * row))
        with contextlib.closing(ahead(self._rows.source.blocks(size, self._seen))) as found:
            for block in found:
                data = checked(block, self._dtype)
                count = len(jax.tree.leaves(data)[0])
                span = filled(span_of(data, np.float64), size)
                yield (span.rows, span.weights), count, size

    def _shuffled(self, rows: np.ndarray, data: Any, most: int) -> Chunk:
        """Return a chunk in this order; the last minibatch is filled up with the rows that came first."""
        size = self._batches.size
        order = np.resize(rows, (-(-most // size), size)).astype(np.int32)
        return Chunk(data, order, -(-len(rows) // size))


class Sums(NamedTuple):
    """What one pass comes to."""

    state: Any
    steps: int
    mean: float  # loss averaged
    error: float  # of that
    ends: np.ndarray  # shape (2, p): the params at its end, and their mean
    cut: bool  # not all rows were taken


def passed_over(program: Program, given: Inputs, rows: Shuffled, state: Any, number: int, most: float) -> Sums:
    """Take every row once, in so many minibatches at `most`."""
    # A copy: what sums are made of is given away, and a pass that is cut is made anew where it is resumed.
    state = jax.tree.map(jnp.array, state)
    sums = Minibatches(state, jnp.zeros(2, program.dtype), jnp.zeros(program.size, program.dtype))
    steps, cut = 0, False
    with contextlib.closing(rows.chunks(number)) as chunks:
        for chunk in chunks:
            span = span_of(chunk.data, program.dtype)
            size = chunk.order.shape[1]
            span = span._replace(total=np.asarray(size * span.total / span.stop, program.dtype))
            here = getattr(sums.state.trial, "sharding", sums.params.sharding)
            near = getattr(jax.tree.leaves(chunk.data)[0], "sharding", here)
            if near.device_set != here.device_set:
                sums = jax.device_put(sums, near)  # to the device that holds these rows
            take = int(min(chunk.steps, most - steps))
            sums = program.minibatches(given._replace(data=span), sums, chunk.order, np.int32(take))
            steps, cut = steps + take, take < chunk.steps
            if cut:
                break
    total, square = np.asarray(sums.losses, np.float64)
    mean = total / steps
    error = math.sqrt(max(square / steps - mean**2, 0) / steps) if np.isfinite(square) else np.inf
    ends = np.stack([np.asarray(sums.state.trial), np.asarray(sums.params) / steps])
    return Sums(sums.state, steps, mean, error, ends, cut)
