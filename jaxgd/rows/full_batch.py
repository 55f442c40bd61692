"""A solve over many rows: each evaluation is a pass over all of them, led from the host; curvature is from a sample."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.program import Inputs, Program, Solution
from jaxgd.core.convergence import Evidence
from jaxgd.core.loop import Run
from jaxgd.core.numerics import irregular
from jaxgd.core.protocol import Traits
from jaxgd.core.stop import Counts, Status, with_status
from jaxgd.core.tiles import Span
from jaxgd.rows.in_memory import Pass, RowsInMemory, Together, filled, on_devices, span_of
from jaxgd.rows.rows import Rows
from jaxgd.rows.streamed import Stream
from jaxgd.watch.bursts import ended, in_bursts
from jaxgd.watch.failures import where_not_finite
from jaxgd.watch.resume import about
from jaxgd.watch.session import Watching

LEAST = 10_000  # rows of a sample
PER_PARAM = 20  # likewise, for each param
PART = 8  # the part of the rows that a sample is at most, but for `LEAST`
CLOSE = 0.1  # `tol` on the sample: the sample itself is off by more
BRIEF = 40  # evaluations on the sample at most, 5 of all rows: it may have no minimum where all rows have one


class Samples(NamedTuple):
    """Rows drawn at random: some to descend on first, others to tell the curvature, as programs take them."""

    first: Inputs
    other: Inputs


def solve_by_passes(program: Program, given: Inputs, rows: Rows, dtype: Any, watch: Watching) -> Solution:
    """Descend on a sample first, then on all rows."""
    count = sample_size(program, rows)
    own, note = passes_over(program, given, rows, dtype, count), ""
    bare = given._replace(data=None)
    # Made of all rows, also where a run is resumed: it tells whether they are the same, and draws the samples.
    first = own(np.asarray(program.first(bare)))
    samples = _samples(program, given, own, count)

    def advance(run: Run, _: int) -> Run:
        nonlocal note
        try:
            return _learnt(program, samples.other, run, own(np.asarray(run.state.trial)))
        except OSError as error:
            note = f" Reading failed: {error}."
            return ended(run, Status.INTERRUPTED)

    watch.together = jax.process_count() > 1
    stage = watch.stage(lambda: about(program, bare, data=_told(own, first)))
    begin = partial(_begun, program, samples, first, advance)
    solved = in_bursts(program, bare, begin, advance, watch, stage)
    if Counts.of(solved.answer.counts).status == Status.BAD_START:
        note = where_not_finite(given, own.not_finite(), solved.answer)
    return solved._replace(note=note)


def _learnt(program: Program, sample: Inputs, run: Run, slopes: Any) -> Run:
    """Return the run told what all rows say; its counts are on the host, where they are looked at several times."""
    run = program.learn(sample, run, slopes)
    return run._replace(counts=np.asarray(run.counts))


def _told(own: Pass, first: np.ndarray) -> list[float]:
    """Return numbers that tell rows and losses apart: of the loss and gradient at the start, and the rows' number."""
    slopes = np.asarray(irregular(len(first) - 1, np.float32)) @ first[:-1]
    return [float(number) for number in (own.total, first[-1], slopes)]


def _begun(program: Program, samples: Samples, first: np.ndarray, advance: Callable[[Run, int], Run]) -> Run:
    """Return the run after its first evaluation, or gone on from where a sample has led."""
    run, ahead = program.begin(samples.other), None
    if program.recipe.method is None and samples.first is not samples.other and np.isfinite(first).all():
        ahead = _on_sample(program, samples)
        run = _carried(program, samples.other, run, ahead, far=False)
    run = _learnt(program, samples.other, run, first)
    if ahead is not None and not int(run.status):
        run = _from_sample(program, samples.other, run, ahead, advance)
    return run


def _from_sample(program: Program, other: Inputs, run: Run, ahead: Run, advance: Callable[[Run, int], Run]) -> Run:
    """Return the run gone on from where the sample has led, if that is lower over all rows."""
    aim = other._replace(init=program.layout(other.init).unflatten(ahead.best.params))
    state = _carried(program, aim, program.begin(aim), ahead, far=True).state
    there = advance(run._replace(state=state), 1)
    gained = float(run.best.loss) - float(there.state.point.loss)
    if not gained > 0:
        return run._replace(counts=with_status(there.counts, run.status))
    return there._replace(evidence=np.asarray(Evidence.unpack(there.evidence).lowered_by(gained).pack()))


def _carried(program: Program, given: Inputs, run: Run, other: Run, *, far: bool) -> Run:
    """Return a run that has evaluated nothing, with what another has learnt of the curvature, near or `far` from it."""
    return run._replace(state=Traits.of(program.bind(given)[1]).carried(run.state, other.state, far=far))


def _on_sample(program: Program, samples: Samples) -> Run:
    """Return a run that has descended on a sample, as close to its minimum as that is to the one of all rows."""
    numbers = list(samples.other.numbers)
    numbers[program.limit] = min(numbers[program.limit], BRIEF)
    if program.tol is not None:
        numbers[program.tol] = max(numbers[program.tol], CLOSE)
    other, run = samples.other._replace(numbers=numbers), program.begin(samples.other)
    # Its tests need be met once: all rows are looked at next.
    while not int(run.status) and not Evidence.unpack(run.evidence).consecutive_moves > 0:
        run = _learnt(program, other, run, program.slopes(samples.first, run.state.trial))
    return run


def descended(program: Program, given: Inputs, own: Pass, count: int, evals: int) -> Iterator[Run]:
    """Yield the run over all rows after each evaluation but the first, of so many, until it ends by itself."""
    sample = _samples(program, given, own, count).other
    run = program.begin(sample)
    while not int(run.status) and int(run.evals) < evals:
        run = _learnt(program, sample, run, own(np.asarray(run.state.trial)))
        if int(run.evals) > 1:
            yield run


def sample_size(program: Program, rows: Rows) -> int:
    """Return how many rows a sample has, whole tiles."""
    count = max(LEAST, PER_PARAM * program.size)
    if rows.source is None:
        count = min(count, max(LEAST, len(rows) // PART))
    return program.recipe.tile * -(-count // program.recipe.tile)


def passes_over(program: Program, given: Inputs, rows: Rows, dtype: Any, count: int) -> Pass:
    """Return what evaluates over all rows, wherever they are."""
    several = jax.process_count()
    if rows.source is not None:
        source = rows.source if several == 1 else rows.source.share(jax.process_index(), several)
        own: Pass = Stream(program, given, source, dtype, count)
    else:
        own = RowsInMemory(program, given, on_devices(given.data))
    return own if several == 1 else Together(own)


def _samples(program: Program, given: Inputs, own: Pass, count: int) -> Samples:
    """Return two samples of the rows, or all of them as both."""
    spans = [span_of(data, program.dtype) for data in own.samples(count)]
    inputs = [given._replace(data=_on_device(span, count)) for span in spans]
    return Samples(inputs[0], inputs[-1])


def _on_device(span: Span, count: int) -> Span:
    """Return a sample on the device, of one of few shapes, so that other numbers of rows compile nothing."""
    return jax.tree.map(jnp.asarray, filled(span, count * -(-int(span.stop) // count)))
