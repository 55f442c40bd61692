"""A solve over many rows: each evaluation is a pass over all of them, led from the host; curvature is from a sample."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.evidence import Evidence
from jaxgd.passes import Memory, Pass, Together, held, span_of
from jaxgd.program import Answer, Inputs, Program
from jaxgd.rows import Rows
from jaxgd.run import Run
from jaxgd.solve import blame, in_bursts
from jaxgd.solvers.sampled import ANEW, Learnt
from jaxgd.stop import Status
from jaxgd.stream import Stream, at_least

LEAST = 10_000  # rows of a sample
PER_PARAM = 20  # likewise, for each param
MOST_FIRST = 60  # evaluations on the sample
CLOSE = 1e-2  # of the decrease made on the sample, what may be left there: the sample itself is off by more


class Samples(NamedTuple):
    """Rows drawn at random: some to descend on first, others to tell the curvature, as programs take them."""

    first: Inputs
    other: Inputs


def solve(program: Program, given: Inputs, rows: Rows, dtype: Any, *, progress: bool) -> tuple[Answer, Any, str]:
    """Return the answer, the trace, and what the user should know: descend on a sample first, then on all rows."""
    count = sample_size(program)
    own = passes_over(program, given, rows, dtype, count)
    start = program.first(given._replace(data=None))
    found: Any = own(np.asarray(start))
    samples = _samples(program, given, own, count)
    run, ahead, note = program.begin(samples.other), None, ""
    if samples.first is not samples.other and isinstance(getattr(run.state, "memory", None), Learnt):
        ahead = _on_sample(program, samples, run)
        run = run._replace(state=run.state._replace(memory=ahead.state.memory))

    def advance(run: Run, _: int) -> Run:
        nonlocal ahead, found, note
        try:
            found = own(np.asarray(run.state.trial)) if found is None else found
        except OSError as error:
            note = f" Reading failed: {error}."
            return run._replace(counts=run.counts.at[0].set(Status.INTERRUPTED))
        run, found = program.learn(samples.other, run, found), None
        if ahead is not None:
            run, ahead = _led_to(run, ahead), None
        return run

    answer, log = in_bursts(program, given._replace(data=None), run, advance, progress=progress)
    if int(answer.counts[0]) == Status.BAD_START:
        note = blame(given, own.not_finite())
    return answer, log, note


def sample_size(program: Program) -> int:
    """Return how many rows a sample has, whole tiles."""
    return program.recipe.tile * -(-max(LEAST, PER_PARAM * program.size) // program.recipe.tile)


def passes_over(program: Program, given: Inputs, rows: Rows, dtype: Any, count: int) -> Pass:
    """Return what evaluates over all rows, wherever they are."""
    several = jax.process_count()
    if rows.source is not None:
        source = rows.source if several == 1 else rows.source.share(jax.process_index(), several)
        own: Pass = Stream(program, given, source, dtype, count)
    else:
        own = Memory(program, given, held(given.data))
    return own if several == 1 else Together(own)


def _samples(program: Program, given: Inputs, own: Pass, count: int) -> Samples:
    """Return two samples of the rows, or all of them as both."""
    spans = [at_least(span_of(data, program.dtype), program.recipe.tile) for data in own.samples(count)]
    inputs = [given._replace(data=span) for span in spans]
    return Samples(inputs[0], inputs[-1])


def _on_sample(program: Program, samples: Samples, run: Run) -> Run:
    """Return the run after it has descended on the first sample, as far as that is worth while."""
    close = False
    while not close and not int(run.status) and int(run.evals) < MOST_FIRST:
        run = program.learn(samples.other, run, program.slopes(samples.first, run.state.trial))
        seen = Evidence.unpack(run.evidence)
        close = seen.left <= CLOSE * seen.made
    return run


def _led_to(run: Run, ahead: Run) -> Run:
    """Return the run asking for where the run on the sample has come to, promised as much as it gained."""
    promised = Evidence.unpack(ahead.evidence).first - ahead.best.loss
    if int(run.status) or not 0 < float(promised) < np.inf:
        return run
    memory = run.state.memory._replace(moves=jnp.full((), ANEW, jnp.int32))
    return run._replace(state=run.state._replace(trial=ahead.best.params, promised=promised, memory=memory))
