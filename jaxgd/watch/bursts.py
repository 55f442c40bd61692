"""A program run on the host, in bursts where something must look in."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile.program import Inputs, Program, Solution, emptied
from jaxgd.core.loop import Run
from jaxgd.core.stop import DEFAULT, Status, with_status
from jaxgd.solvers.registry import OVERHEAD
from jaxgd.watch.checkpoint import Saved
from jaxgd.watch.resume import about, taken_apart, together
from jaxgd.watch.session import LONGEST, Stage, Watching, resumable
from jaxgd.watch.snapshot import ENDED_FROM_OUTSIDE, Seen
from jaxgd.watch.trend import Trend

LONG = 1 << 35  # operations that all evaluations of a solve may take before it is looked at unasked: half a minute
FIRST = 1 << 28  # operations of its first burst: less than a second


def in_bursts(
    program: Program,
    given: Inputs,
    begin: Callable[[], Run],
    advance: Callable[[Run, int], Run],
    watch: Watching,
    stage: Stage,
) -> Solution:
    """Solve, returning to the host between bursts to let the watchers look, and to fetch the trace.

    `begin` returns a run unless one is resumed, `advance` the run after so many evaluations at most.
    """
    watch.show(book=program.recipe.sign if program.size == 1 else 0)
    found = _resumed(program, given, stage)
    run, traces, losses = found or (begin(), [], ())
    trend = Trend(program.work + OVERHEAD, _unasked_limit(program, given), losses)
    longest = LONGEST if run.trace is None else run.trace.loss.size

    def save() -> Saved:
        trend.note(int(run.evals), float(run.best.loss))
        kept = taken_apart("run", run) | taken_apart("trend", trend.losses)
        return stage.saved(kept | (taken_apart("trace", _joined(traces)) if traces else {}))

    def seen() -> Seen:
        answer = partial(program.answer, given, run)
        return Seen(int(run.evals), int(run.moves), answer, save, Status(int(run.status)), run)

    try:
        while not int(run.status):
            run = advance(run, min(watch.ticks, longest, trend.ticks(int(run.evals))))
            if run.trace is not None:
                traces.append(_filled(*program.trace(given, run.trace)))
                run = run._replace(trace=emptied(run.trace))
            trend.note(int(run.evals), float(run.best.loss))
            if not int(run.status) and trend.ends(int(run.evals)):
                run = ended(run, Status.DIMINISHING_RETURNS)
            if not int(run.status) and (status := watch.look(seen())):
                run = ended(run, status)
    except KeyboardInterrupt:
        run = ended(run, watch.interrupted())
    watch.look(seen())
    trace = traces and (*_joined(traces), int(run.moves) + 1)
    status = Status(int(run.status))
    held = save() if (watch or status in ENDED_FROM_OUTSIDE) and resumable(status) else None
    return Solution(program, program.answer(given, run), trace, run=held)


def _unasked_limit(program: Program, given: Inputs) -> int:
    """Return how many evaluations a solve that may last is allowed, where nobody said when to stop; else 0."""
    _, stop = program.recipe.options.children()
    if not _may_last(program, given) or stop != jax.tree.structure(DEFAULT):
        return 0
    return DEFAULT.max_evals if given.numbers[-stop.num_leaves :] == jax.tree.leaves(DEFAULT) else 0


def _resumed(program: Program, given: Inputs, stage: Stage) -> tuple[Run, list[Any], np.ndarray] | None:
    """Return the run to carry on, its trace and its trend, or None; one that has come to its end is at its end."""
    found = stage.resumed(but=("stop",))
    if found is None:
        return None
    arrays, same = found
    shapes = jax.eval_shape(program.begin, given)
    run = together("run", arrays, shapes, exact=True)
    status = Status(int(run.status))
    if status in ENDED_FROM_OUTSIDE or not same:
        run = ended(run, Status.RUNNING)
    trace = (
        None if run.trace is None else together("trace", arrays, jax.eval_shape(program.trace, given, shapes.trace)[:4])
    )
    losses = together("trend", arrays, np.empty(int(run.evals).bit_length()), exact=True)
    return run, [] if trace is None else [trace], losses


def ended(run: Run, status: Status) -> Run:
    """Return the run with a status given from outside."""
    return run._replace(counts=with_status(np.asarray(run.counts), status))


def in_loop(program: Program, given: Inputs, watch: Watching) -> Solution:
    """Solve by the compiled loop, in bursts where something must look in, or where it may last.

    Between bursts Ctrl-C is heard.
    """
    unasked = not (watch or program.recipe.trace)
    if unasked and not _may_last(program, given):
        return Solution(program, program.solve(given)[0])
    if any(isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(given), jnp.zeros(()))):
        watch.refuse_inside()
        answer, trace = program.solve(given)
        return Solution(program, answer, trace and program.trace(given, trace))
    if unasked:
        watch.glance(max(1, FIRST // (program.work + OVERHEAD)))
    # Once, not for every burst.
    given = jax.tree.map(jnp.asarray, given)
    stage = watch.stage(partial(about, program, given))
    return in_bursts(program, given, partial(program.begin, given), partial(program.advance, given), watch, stage)


def _may_last(program: Program, given: Inputs) -> bool:
    """Whether a solve may take so long that somebody will want to know how it goes, or to end it."""
    limit = program.limit_of(given.numbers)
    alone = jax.process_count() == 1  # several go the same way, without a clock
    return alone and not isinstance(limit, Tracer) and int(limit) * (program.work + OVERHEAD) > LONG


def _joined(traces: list[Any]) -> Any:
    """Return the trace of several bursts as one."""
    return jax.tree.map(lambda *bursts: np.concatenate(bursts), *traces)


def _filled(*trace: Any) -> tuple[Any, ...]:
    """Return a burst's trace on the host, trimmed to the moves it filled, the last argument."""
    *columns, count = trace
    return jax.tree.map(lambda column: np.asarray(column)[: int(count)], tuple(columns))
