"""A program run on the host: in bursts where something must look in, and once more where it failed at the start."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd import inputs
from jaxgd.flat import known
from jaxgd.program import Answer, Inputs, Program, emptied
from jaxgd.run import Run
from jaxgd.stop import Status
from jaxgd.tiles import Span
from jaxgd.watch import Progress

LONGEST = 1 << 30  # evaluations in a burst that nothing asks to end


def in_bursts(
    program: Program, given: Inputs, run: Run, advance: Callable[[Run, int], Run], *, progress: bool
) -> tuple[Answer, Any]:
    """Solve, returning to the host between bursts to print and to fetch the trace.

    `advance` returns the run after so many evaluations at most.
    """
    watch = Progress(program.size, program.recipe.sign) if progress else None
    kept: list[Any] = []
    try:
        while not int(run.status):
            before, longest = run, program.recipe.trace or LONGEST
            run = advance(run, min(watch.ticks, longest) if watch else longest)
            if watch:
                watch(before, run)
            if run.rows is not None:
                kept.append(_filled(*program.rows(given, run.rows)))
                run = run._replace(rows=emptied(run.rows))
    except KeyboardInterrupt:
        run = run._replace(counts=run.counts.at[0].set(Status.INTERRUPTED))
    return program.answer(given, run), kept and (
        *jax.tree.map(lambda *bursts: np.concatenate(bursts), *kept),
        int(run.moves) + 1,
    )


def in_loop(program: Program, given: Inputs, *, progress: bool) -> tuple[Answer, Any]:
    """Solve by the compiled loop, in bursts where something must look in."""
    if not (progress or program.recipe.trace):
        return program.solve(given)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((given, jnp.zeros(())))):
        answer, rows = program.solve(given)
        return answer, rows and program.rows(given, rows)
    run = program.begin(given)
    return in_bursts(program, given, run, lambda run, ticks: program.advance(given, run, ticks), progress=progress)


def _filled(*rows: Any) -> tuple[Any, ...]:
    """Return a burst's trace on the host, trimmed to the rows it filled, the last argument."""
    *columns, count = rows
    return jax.tree.map(lambda column: np.asarray(column)[: int(count)], tuple(columns))


def second_look(program: Program, given: Inputs, answer: Answer, counts: np.ndarray) -> tuple[Answer, np.ndarray, str]:
    """Look into a failure at the start: return a better answer if there is one, and what else to say."""
    if counts[0] == Status.BAD_START:
        given = known(given)
        data = given.data
        found = inputs.not_finite_rows(data.rows) if isinstance(data, Span) else inputs.not_finite(data, "data")
        return answer, counts, blame(given, found)
    if counts[0] != Status.ZERO_GRADIENT:
        return answer, counts, ""
    status = Status.CONVERGED
    for side in (1, -1):
        again, _ = program.solve(given._replace(init=aside(program, given.init, side)))
        counts = np.asarray(again.counts) + np.array([0, counts[1], 0, counts[3]])
        if program.recipe.sign * (again.loss - answer.loss) < 0:
            note = " The gradient was exactly zero at the start, so it was left by a small step."
            return again, counts, note
        # Nothing lower beside it: the start is the minimum, unless a neighbour is flat as well.
        status = status if Status(counts[0]).converged else Status.ZERO_GRADIENT
    return answer, np.array([status, counts[1], 0, counts[3]]), ""


def aside(program: Program, init: Any, side: int) -> Any:
    """Return a start a small step beside `init`, on one side or the other (1, -1)."""
    layout = program.layout(init)
    start = layout.flatten(init)
    # Irrational steps, so that no symmetry of the loss keeps the neighbour flat.
    step = 0.01 * jnp.maximum(1, jnp.abs(start)) * jnp.cos(1 + jnp.arange(program.size, dtype=start.dtype))
    return layout.unflatten(start + side * step)


def blame(given: Inputs, data: list[str]) -> str:
    """Say which inputs are not finite, of the start and of what was found in the data."""
    found = inputs.not_finite(given.init, "init") + data
    return f" Not finite: {', '.join(found)}; drop or fill what is missing." if found else ""
