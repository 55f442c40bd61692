"""From what was asked to a result: choose the precision, run, look twice, report, warn."""

import dataclasses
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile.build import Ask, prepare
from jaxgd.compile.cache import clock
from jaxgd.compile.frames import Frame, is_table
from jaxgd.compile.program import Answer, Inputs, Program
from jaxgd.core.flat import without_derivatives
from jaxgd.core.stop import DEFAULT, Counts, Status, Stop, succeeded
from jaxgd.history import Trace
from jaxgd.lanes import groups, many, multistart
from jaxgd.lanes.groups import Groups
from jaxgd.lanes.pool import Part
from jaxgd.result import NotConvergedWarning, Result, Seconds
from jaxgd.rows import build, full_batch, minibatch
from jaxgd.rows.rows import Rows
from jaxgd.uncertainty.request import Many, One
from jaxgd.watch.bursts import Solved, in_loop, second_look
from jaxgd.watch.session import Watching


def solved(ask: Ask, watch: Watching, level: int = 3) -> Result:
    """Return the result of one problem; a warning names the caller `level` calls up."""
    began, compiled, ask = time.perf_counter(), clock.seconds, with_columns(ask)
    with _precision(ask.dtype):
        program, (answer, trace, run, source), note = _answered(ask, watch)
        if isinstance(answer.counts, Tracer):
            return _report(program, answer, answer.counts, trace, ask.stop)
        if ask.dtype is not None:
            answer = jax.tree.map(lambda leaf: leaf if isinstance(leaf, Tracer) else np.asarray(leaf), answer)
    spent = clock.seconds - compiled
    seconds = Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    said = note + watch.note
    result = _report(program, answer, np.asarray(answer.counts), trace, ask.stop, seconds, said, source)
    result = dataclasses.replace(result, run=run)
    if not result.converged:
        _warn(result, level + 1)
    return result


def _answered(ask: Ask, watch: Watching) -> tuple[Program, Solved, str]:
    """Return program, what came of it, and note: of arrays, of a mean over rows, or of minibatches of these."""
    rows = ask.data
    if not isinstance(rows, Rows):
        if ask.batch_size is not None:
            msg = f"`batch_size={ask.batch_size!r}` is for a mean over rows: pass `jaxgd.Rows(data)`."
            raise ValueError(msg)
        return _in_loop(*prepare(ask), watch)
    if ask.batch_size is not None:
        program, solved, note, over_all = minibatch.solve(ask, rows, watch)
        return program, solved._replace(source=One(*over_all, rows, ask.dtype)), note
    program, given, note = build.prepare(ask, rows)
    if not program.recipe.sampled:
        return _in_loop(program, given, note, watch)
    solved, more = full_batch.solve(program, given, rows, ask.dtype, watch)
    return program, solved._replace(source=One(program, given, rows, ask.dtype)), note + more


def _in_loop(program: Program, given: Inputs, note: str, watch: Watching) -> tuple[Program, Solved, str]:
    solved = in_loop(program, given, watch)
    answer = solved.answer
    if isinstance(answer.counts, Tracer):
        return program, solved, note
    # On the host at once: everything that follows asks for the status.
    counts = np.asarray(answer.counts)
    if not succeeded(Counts.of(counts).status):
        answer, counts, more = second_look(program, given, answer, counts)
        note += more
    source = One(program, given)
    return program, solved._replace(answer=answer._replace(counts=counts), source=source), note


def solved_many(ask: Ask, in_axes: Any, watch: Watching, level: int = 3) -> Result:
    """Return the result of many problems, lanes first."""
    _refuse_rows(ask, "`minimize_many`")
    by = ask.data.names if isinstance(ask.data, Groups) else []
    began, compiled, ask = time.perf_counter(), clock.seconds, with_columns(ask, lanes=True)
    labels = None
    with _precision(ask.dtype):
        if isinstance(ask.data, Groups):
            program, outcome, labels, note, parts = groups.solve(ask, in_axes, watch)
        else:
            program, batch, note = many.read(ask, in_axes)
            outcome, parts = many.solve(program, batch, watch), [Part(np.arange(batch.size), program, batch)]
        source = None if outcome.slots is None else Many(parts, np.arange(len(outcome.answer.counts)))
    answer, spent = outcome.answer, clock.seconds - compiled + outcome.compiling
    seconds = None if outcome.slots is None else Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    said = note + watch.note
    result = _report(program, answer, answer.counts, outcome.trace, ask.stop, seconds, said, source)
    result = dataclasses.replace(result, slots=outcome.slots, labels=labels, by=tuple(by), run=outcome.run)
    if seconds and not np.all(result.converged):
        bad = int(np.sum(~np.asarray(result.converged)))
        msg = f"{bad} of {len(result)} problems did not converge: {result.message}. `print(result)` says why."
        warnings.warn(msg, NotConvergedWarning, stacklevel=level)
    return result


def solved_from(ask: Ask, count: Any, watch: Watching, level: int = 3) -> Result:
    """Return the best of the results from several starts."""
    _refuse_rows(ask, f"`starts={count!r}`")
    began, compiled, ask = time.perf_counter(), clock.seconds, with_columns(ask)
    with _precision(ask.dtype):
        program, outcome, optima, note = multistart.solve(ask, count, watch)
        source = One(*prepare(ask)[:2])
    spent, said = clock.seconds - compiled + outcome.compiling, note + watch.note
    seconds = Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    answer = outcome.answer
    result = _report(program, answer, answer.counts, outcome.trace, ask.stop, seconds, said, source)
    if result.trace is not None:
        result = dataclasses.replace(result, trace=result.trace.trimmed())
    if not result.converged:
        _warn(result, level + 1)
    return dataclasses.replace(result, optima=optima, run=outcome.run)


def with_columns(ask: Ask, *, lanes: bool = False) -> Ask:
    """Return what is asked, with a table's columns as the loss gets them; of a row of it at a time, with `lanes`."""
    with _precision(ask.dtype):
        if isinstance(ask.data, Rows | Groups):
            return ask._replace(data=ask.data.of(ask.loss, ask.init))
        return ask._replace(data=Frame(ask.data).arrays(ask.loss, ask.init, lanes=lanes)) if is_table(ask.data) else ask


def _refuse_rows(ask: Ask, what: str) -> None:
    """Refuse a mean over rows where several problems share the machine."""
    if isinstance(ask.data, Rows):
        msg = f"{what} takes arrays, not `Rows`: each problem reads all data at once. Pass the arrays themselves."
        raise TypeError(msg)
    if ask.batch_size is not None:
        msg = f"{what} takes no `batch_size`; it is for `minimize(loss, jaxgd.Rows(data))`."
        raise ValueError(msg)


def _warn(result: Result, level: int) -> None:
    """Warn once, unless the user's own callback stopped it."""
    if result.status is not Status.STOPPED:
        bare = dataclasses.replace(result, tests=None)
        values = dataclasses.replace(without_derivatives(bare), tests=result.tests, note=result.note)
        warnings.warn(f"{result.status.name}: {values.message}", NotConvergedWarning, stacklevel=level)


def looking(watch: Any = None, resume: Any = None, *, progress: bool = False) -> Watching:
    """Return the watchers of a solve, and the run that it resumes."""
    if isinstance(resume, Result):
        if resume.run is None:
            msg = (
                f"`resume` is a result that holds no run to carry on ({resume.method}; {resume.message}). A run is kept"
                " where a watched solve ended early, with `watch=[]` at least; or begin at its params, by `init=`."
            )
            raise ValueError(msg)
        resume = resume.run
    return Watching(watch, resume, progress=progress)


def rule(tol: Any, stop: Stop | None) -> Stop:
    """Return the rule to stop by, from the two arguments that may give it."""
    if stop is None:
        return DEFAULT if tol is None else Stop(tol=tol)
    if not isinstance(stop, Stop):
        msg = f"`stop` must be a `jaxgd.Stop`; got {stop!r}. Write `tol={stop!r}` or `stop=Stop(gtol=...)`."
        raise TypeError(msg)
    if tol is not None:
        msg = f"`tol={tol!r}` and `stop={stop!r}` are both given. Write `stop=Stop(tol=..., ...)`."
        raise ValueError(msg)
    return stop


_PRECISIONS = ("float32", "float64", np.float32, np.float64, jnp.float32, jnp.float64, np.dtype("f4"), np.dtype("f8"))
_AS_IT_IS = nullcontext()


def _precision(dtype: Any) -> AbstractContextManager[Any]:
    """Return the context in which arrays of type `dtype` exist."""
    if dtype is None:
        return _AS_IT_IS
    if dtype not in _PRECISIONS:
        msg = f"`dtype` must be 'float32' or 'float64'; got {dtype!r}."
        raise ValueError(msg)
    return jax.enable_x64(True) if np.dtype(dtype) == np.float64 else _AS_IT_IS


def _report(
    program: Program,
    answer: Answer,
    counts: Any,
    columns: Any,
    stop: Stop,
    seconds: Seconds | None = None,
    note: str = "",
    source: Any = None,
) -> Result:
    trace = Trace(*columns) if columns else None
    return Result(
        params=answer.params,
        loss=answer.loss,
        grad=answer.grad,
        residual=answer.residual,
        aux=answer.aux,
        trace=trace,
        counts=counts,
        evidence=answer.evidence,
        tests=stop,
        method=program.method,
        seconds=seconds,
        note=note,
        source=source,
    )
