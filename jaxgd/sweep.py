"""A solve over many rows: each evaluation is a sweep over all of them, led from the host; curvature is from a sample."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import places
from jaxgd.evidence import Evidence
from jaxgd.program import Answer, Inputs, Program
from jaxgd.rows import some
from jaxgd.run import Run
from jaxgd.solve import in_bursts
from jaxgd.solvers.sampled import ANEW, Learnt
from jaxgd.tiles import Span

LEAST = 10_000  # rows of a sample
PER_PARAM = 20  # likewise, for each param
MOST_FIRST = 60  # evaluations on the sample
CLOSE = 1e-2  # of the decrease made on the sample, what may be left there: the sample itself is off by more

Evaluate = Callable[[jax.Array], np.ndarray]  # of the params: gradient and loss, before anything is added, in one vector


class Samples(NamedTuple):
    """Rows drawn at random: some to descend on first, others to tell the curvature, as programs take them."""

    first: Inputs
    other: Inputs


def in_memory(program: Program, given: Inputs) -> tuple[Evaluate, Samples]:
    """Return how to evaluate over rows that are in memory, by all cores, and samples of them."""
    span = given.data
    alone = places.may_block(program.recipe.traced.jaxpr)
    workers = len(places.places(alone=alone))
    tile, rows = program.recipe.tile, int(span.stop)
    span = jax.tree.map(jnp.asarray, span)
    tiles = -(-rows // tile)
    ends = [min(rows, tile * (tiles * i // workers)) for i in range(1, workers)] + [rows]
    parts = [
        given._replace(data=span._replace(start=np.int32(start), stop=np.int32(stop)))
        for start, stop in zip([0, *ends], ends, strict=False)
        if start < stop
    ]
    pool, settings = ThreadPoolExecutor(len(parts)), places.settings()

    def part_of(part: Inputs, params: np.ndarray) -> np.ndarray:
        with ExitStack() as stack:
            for setting in settings:
                stack.enter_context(setting())
            return np.asarray(program.slopes(part, params), np.float64)

    def evaluate(params: jax.Array) -> np.ndarray:
        at = np.asarray(params)
        return sum(pool.map(lambda part: part_of(part, at), parts))  # type: ignore[return-value]

    return evaluate, sample(program, given, rows)


def sample(program: Program, given: Inputs, rows: int) -> Samples:
    """Return samples of the rows."""
    tile = program.recipe.tile
    count = min(rows, tile * -(-max(LEAST, PER_PARAM * program.size) // tile))
    span = given.data

    def taken(data: Any) -> Inputs:
        own, weights = data
        total = count if weights is None else jnp.sum(weights)
        return given._replace(data=Span(own, weights, np.int32(0), np.int32(count), jnp.asarray(total, program.dtype)))

    return Samples(*map(taken, some((span.rows, span.weights), count)))


def solve(program: Program, given: Inputs, *, progress: bool) -> tuple[Answer, Any]:
    """Return the answer, and the trace: descend on a sample first, then on all rows."""
    evaluate, samples = in_memory(program, given)
    run, ahead = program.begin(samples.other), None
    if samples.first is not samples.other and isinstance(getattr(run.state, "memory", None), Learnt):
        ahead = _on_sample(program, samples, run)
        run = run._replace(state=run.state._replace(memory=ahead.state.memory))

    def advance(run: Run, _: int) -> Run:
        nonlocal ahead
        run = program.learn(samples.other, run, evaluate(run.state.trial))
        if ahead is not None:
            run, ahead = _led_to(run, ahead), None
        return run

    return in_bursts(program, given, run, advance, progress=progress)


def _on_sample(program: Program, samples: Samples, run: Run) -> Run:
    """Return the run after it has descended on the first sample, as far as that is worth while."""
    close = False
    while not close and not int(run.status) and int(run.evals) < MOST_FIRST:
        run = program.learn(samples.other, run, program.slopes(samples.first, run.state.trial))
        seen = Evidence.unpack(np.asarray(run.evidence))
        close = seen.left <= CLOSE * seen.made
    return run


def _led_to(run: Run, ahead: Run) -> Run:
    """Return the run asking for where the run on the sample has come to, promised as much as it gained."""
    promised = Evidence.unpack(ahead.evidence).first - ahead.best.loss
    if int(run.status) or not 0 < float(promised) < np.inf:
        return run
    memory = run.state.memory._replace(moves=jnp.full((), ANEW, jnp.int32))
    return run._replace(state=run.state._replace(trial=ahead.best.params, promised=promised, memory=memory))
