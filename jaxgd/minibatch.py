"""Descent by minibatches over the same rows: shuffled anew each pass, stopped when noise is all that is left."""

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import evidence, prepare_rows, sweep
from jaxgd.blocks import Seen, ahead
from jaxgd.methods import named
from jaxgd.passes import filled, held, span_of
from jaxgd.prepare import Ask
from jaxgd.program import Answer, Inputs, Program
from jaxgd.rows import Rows
from jaxgd.run import Minibatches
from jaxgd.solve import blame
from jaxgd.solvers.optax import Optax
from jaxgd.solvers.proximal import GradientDescent
from jaxgd.stop import DEFAULT, Status
from jaxgd.stream import checked
from jaxgd.watch import show_pass

NOTHING = np.zeros(4, np.int32)  # counts, before anything is counted
MATTERS = 1e-4  # of the decrease made, what a pass must add to be more than noise
CHUNK = 64 << 20  # bytes of rows read from disk that are shuffled together
SURE = 3  # standard errors by which every pass is above the loss at the start, where the steps do harm


@dataclass(frozen=True, kw_only=True)
class Batches:
    """How to descend by minibatches; `batch_size=256` is short for `Batches(size=256)`.

    A pass takes every row once, in an order drawn anew from `seed`; rows that are read are shuffled within 64 MB. After
    each pass the loss averaged over its minibatches, or with `validation` the loss of a part of the rows held out, is
    compared with the lowest so far: `patience` passes in a row that do not lower it, by a ten-thousandth of the
    decrease made, end it, as do `passes` in all: where steps of one size bring no more, averages rise as often as they
    fall. With `polish`, the rest is done by method "auto" over all rows.
    """

    size: int
    seed: int = 0
    passes: int = 100
    patience: int = 5
    validation: float = 0.0
    polish: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no number of rows or passes."""
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


def solve(ask: Ask, rows: Rows, *, progress: bool) -> tuple[Program, Answer, str, tuple[Program, Inputs]]:
    """Return the program, the answer, what the user should know, and the program of all rows with its inputs."""
    batches = ask.batch_size if isinstance(ask.batch_size, Batches) else Batches(size=ask.batch_size)
    _refuse(ask)
    whole, given, note = prepare_rows.prepare(ask._replace(method="auto", stop=DEFAULT), rows, passes=True)
    program, own, _ = prepare_rows.prepare(ask, rows, tile=batches.size)
    own_pass = sweep.passes_over(whole, given, rows, ask.dtype, sweep.sample_size(whole, rows))
    start = np.asarray(whole.first(given._replace(data=None)))
    descent = _Descent((program, own), (whole, given), batches, rows, ask.dtype)

    def told(params: np.ndarray) -> Answer:
        """Return what all rows, and the penalties, say of the params."""
        return whole.told(given._replace(data=None), params, own_pass(params), NOTHING, evidence.begin(program.dtype))

    def height(answer: Answer) -> float:
        return program.recipe.sign * float(answer.loss)

    first = told(start)
    fine = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first.loss, first.grad)))
    status = descent.run(progress=progress) if fine else Status.BAD_START
    note += "" if fine else blame(given, own_pass.not_finite())
    better = [found for found in map(told, descent.candidates) if height(found) < height(first)]
    best = min(better, key=height, default=first)
    if status is Status.NOISE_FLOOR and not better and descent.least > height(first):
        status = Status.DIVERGED
    counts = np.array([status, descent.steps, descent.steps, 0], np.int32)
    if batches.polish and Status(status).converged:
        answer, _, more = sweep.solve(whole, given._replace(init=best.params), rows, ask.dtype, progress=progress)
        counts = np.asarray(answer.counts) + np.array([0, descent.steps, descent.steps, 0], np.int32)
        return (
            whole,
            answer._replace(counts=counts),
            note + more + " It ended with passes over all rows.",
            (whole, given),
        )
    return program, best._replace(counts=counts), note, (whole, given)


def _refuse(ask: Ask) -> None:
    """Refuse methods that noise leads astray."""
    method = named(ask.method)
    if not isinstance(method, Optax | GradientDescent) or (isinstance(method, Optax) and method.evaluates()):
        msg = (
            f"`batch_size={ask.batch_size!r}` is for optax transformations without a search, as optax.adam(1e-3),"
            f" and for `GradientDescent`; got method={ask.method!r}. Without `batch_size`, all rows are used."
        )
        raise ValueError(msg)
    if jax.process_count() > 1:
        msg = "`batch_size` is for one process: what several make of their minibatches would go apart."
        raise ValueError(msg)
    if ask.trace:
        msg = "`trace=True` cannot be had with `batch_size`: moves are too many. Use `progress=True`."
        raise ValueError(msg)


class _Descent:
    """Passes over minibatches, and the best that came of them."""

    def __init__(
        self, own: tuple[Program, Inputs], whole: tuple[Program, Inputs], batches: Batches, rows: Rows, dtype: Any
    ) -> None:
        (self._program, self._given), self._whole, self._batches = own, whole, batches
        self._rows, self._dtype, self._draw = rows, dtype, np.random.default_rng(batches.seed)
        self._seen, self._held_out = Seen(), None
        self.steps, self.candidates, self.least = 0, [], np.inf

    def run(self, *, progress: bool) -> Status:
        """Pass over the rows until there is nothing but noise."""
        program, batches = self._program, self._batches
        state = program.begin(self._given._replace(data=None)).state
        best, highest, waited = np.inf, -np.inf, 0
        for number in range(batches.passes):
            state, mean, noise, average = self._pass(state)
            self.least = min(self.least, mean - SURE * noise)
            measure = mean if not batches.validation else self._validated(state.trial)
            if progress:
                show_pass(number + 1, program.recipe.sign * mean, noise)
            if not np.isfinite([measure, noise]).all():
                return Status.DIVERGED
            highest = max(highest, measure)
            waited = 0 if number == 0 or measure < best - MATTERS * (highest - best) else waited + 1
            if measure < best:
                best, self.candidates = measure, [np.asarray(state.trial), average]
            if waited >= batches.patience:
                return Status.NOISE_FLOOR
        return Status.MAX_PASSES

    def _pass(self, state: Any) -> tuple[Any, float, float, np.ndarray]:
        """Take every row once; return the state, the loss averaged over the pass, its error, and the params' mean."""
        program, dtype = self._program, self._program.dtype
        sums = Minibatches(state, jnp.zeros(2, dtype), jnp.zeros(program.size, dtype))
        steps = 0
        with contextlib.closing(self._chunks()) as chunks:
            for chunk in chunks:
                span = span_of(chunk.data, dtype)
                span = span._replace(total=np.asarray(self._batches.size * span.total / span.stop, dtype))
                here = sums.state.trial.sharding
                near = getattr(jax.tree.leaves(chunk.data)[0], "sharding", here)
                if near.device_set != here.device_set:
                    sums = jax.device_put(sums, near)  # to the device that holds these rows
                sums = program.minibatches(self._given._replace(data=span), sums, chunk.order, np.int32(chunk.steps))
                steps += chunk.steps
        self.steps += steps
        total, square = np.asarray(sums.losses, np.float64)
        mean = total / steps
        error = math.sqrt(max(square / steps - mean**2, 0) / steps) if np.isfinite(square) else np.inf
        return sums.state, mean, error, np.asarray(sums.params) / steps

    def _chunks(self) -> Generator[Chunk]:
        """Yield the rows at hand, one part after the other, and an order in which to take them."""
        first = self._held_out is None
        out_of: list[Any] = []
        for number, (data, count, most) in enumerate(self._parts()):
            # Which rows are held out is drawn anew in each pass, and so is the same.
            out = np.random.default_rng((self._batches.seed, number)).random(count) < self._batches.validation
            if first and out.any():
                out_of.append(jax.tree.map(lambda leaf, out=out: leaf[np.flatnonzero(out)], data))
            if not out.all():
                yield self._shuffled(data, np.flatnonzero(~out), most)
        if first:
            self._held_out = jax.tree.map(lambda *leaves: np.concatenate(leaves), *out_of) if out_of else ()

    def _parts(self) -> Iterator[tuple[Any, int, int]]:
        """Yield rows and weights in parts of one shape, how many they are, and how many they are filled up to."""
        if self._rows.source is None:
            for data in held(self._given.data):
                count = len(jax.tree.leaves(data)[0])
                yield data, count, count
            return
        row = sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(self._given.data))
        size = self._batches.size * max(1, CHUNK // (self._batches.size * row))
        with contextlib.closing(ahead(self._rows.source.blocks(size, self._seen))) as found:
            for block in found:
                data = checked(block, self._dtype)
                count = len(jax.tree.leaves(data)[0])
                span = filled(span_of(data, self._program.dtype), size)
                yield (span.rows, span.weights), count, size

    def _shuffled(self, data: Any, rows: np.ndarray, most: int) -> Chunk:
        """Return a chunk in a new order; the last minibatch is filled up with the rows that came first."""
        size = self._batches.size
        order = np.resize(self._draw.permutation(rows), (-(-most // size), size)).astype(np.int32)
        return Chunk(data, order, -(-len(rows) // size))

    def _validated(self, params: jax.Array) -> float:
        """Return the loss of the rows held out."""
        data, (whole, given) = self._held_out, self._whole
        if not data:
            msg = f"`validation={self._batches.validation}` holds out no row of so few. Give a larger part, or 0."
            raise ValueError(msg)
        span = filled(span_of(data, self._program.dtype), whole.recipe.tile)
        return float(whole.slopes(given._replace(data=span), params)[-1])
