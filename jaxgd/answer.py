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

from jaxgd import groups, many, minibatch, prepare_rows, starts, sweep
from jaxgd.cache import clock
from jaxgd.flat import known
from jaxgd.groups import Groups
from jaxgd.prepare import Ask, prepare
from jaxgd.program import Answer, Inputs, Program
from jaxgd.result import NotConvergedWarning, Result, Seconds
from jaxgd.rows import Rows
from jaxgd.solve import in_loop, second_look
from jaxgd.stop import DEFAULT, Status, Stop
from jaxgd.trace import Trace
from jaxgd.watch import LanesProgress


def solved(ask: Ask, *, progress: bool, level: int = 3) -> Result:
    """Return the result of one problem; a warning names the caller `level` calls up."""
    began, compiled = time.perf_counter(), clock.seconds
    with _precision(ask.dtype):
        program, answer, rows, note = _answered(ask, progress=progress)
        if isinstance(answer.counts, Tracer):
            return _report(program, answer, answer.counts, rows, ask.stop)
        if ask.dtype is not None:
            answer = jax.tree.map(lambda leaf: leaf if isinstance(leaf, Tracer) else np.asarray(leaf), answer)
    spent = clock.seconds - compiled
    seconds = Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    result = _report(program, answer, np.asarray(answer.counts), rows, ask.stop, seconds, note)
    if not result.converged:
        _warn(result, level + 1)
    return result


def _answered(ask: Ask, *, progress: bool) -> tuple[Program, Answer, Any, str]:
    """Return program, answer, trace and note: of arrays, of a mean over rows, or of minibatches of these."""
    rows = ask.data
    if not isinstance(rows, Rows):
        if ask.batch_size is not None:
            msg = f"`batch_size={ask.batch_size!r}` is for a mean over rows: pass `jaxgd.Rows(data)`."
            raise ValueError(msg)
        return _in_loop(*prepare(ask), progress=progress)
    if ask.batch_size is not None:
        program, answer, note = minibatch.solve(ask, rows, progress=progress)
        return program, answer, None, note
    program, given, note = prepare_rows.prepare(ask, rows)
    if not program.recipe.sampled:
        return _in_loop(program, given, note, progress=progress)
    answer, trace, more = sweep.solve(program, given, rows, ask.dtype, progress=progress)
    return program, answer, trace, note + more


def _in_loop(program: Program, given: Inputs, note: str, *, progress: bool) -> tuple[Program, Answer, Any, str]:
    answer, trace = in_loop(program, given, progress=progress)
    if isinstance(answer.counts, Tracer):
        return program, answer, trace, note
    # On the host at once: everything that follows asks for the status.
    counts = np.asarray(answer.counts)
    if not Status(counts[0]).converged:
        answer, counts, more = second_look(program, given, answer, counts)
        note += more
    return program, answer._replace(counts=counts), trace, note


def solved_many(ask: Ask, in_axes: Any, *, progress: bool, level: int = 3) -> Result:
    """Return the result of many problems, lanes first."""
    _refuse_rows(ask, "`minimize_many`")
    began, compiled = time.perf_counter(), clock.seconds
    watch, labels = LanesProgress() if progress else None, None
    with _precision(ask.dtype):
        if isinstance(ask.data, Groups):
            program, outcome, labels, note = groups.solve(ask, in_axes, watch)
        else:
            program, batch, note = many.read(ask, in_axes)
            outcome = many.solve(program, batch, watch)
    answer, spent = outcome.answer, clock.seconds - compiled + outcome.compiling
    seconds = None if outcome.slots is None else Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    result = _report(program, answer, answer.counts, outcome.rows, ask.stop, seconds, note)
    result = dataclasses.replace(result, slots=outcome.slots, labels=labels)
    if seconds and not np.all(result.converged):
        bad = int(np.sum(~np.asarray(result.converged)))
        msg = f"{bad} of {len(result)} problems did not converge: {result.message}. `print(result)` says why."
        warnings.warn(msg, NotConvergedWarning, stacklevel=level)
    return result


def solved_from(ask: Ask, count: Any, *, progress: bool, level: int = 3) -> Result:
    """Return the best of the results from several starts."""
    _refuse_rows(ask, f"`starts={count!r}`")
    began, compiled = time.perf_counter(), clock.seconds
    with _precision(ask.dtype):
        program, outcome, optima, note = starts.solve(ask, count, LanesProgress() if progress else None)
    spent = clock.seconds - compiled + outcome.compiling
    seconds = Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    result = _report(program, outcome.answer, outcome.answer.counts, outcome.rows, ask.stop, seconds, note)
    if result.trace is not None:
        result = dataclasses.replace(result, trace=result.trace.trimmed())
    if not result.converged:
        _warn(result, level + 1)
    return dataclasses.replace(result, optima=optima)


def _refuse_rows(ask: Ask, what: str) -> None:
    """Refuse a mean over rows where several problems share the machine."""
    if isinstance(ask.data, Rows):
        msg = f"{what} takes arrays, not `Rows`: each problem reads all data at once. Pass the arrays themselves."
        raise TypeError(msg)
    if ask.batch_size is not None:
        msg = f"{what} takes no `batch_size`; it is for `minimize(loss, jaxgd.Rows(data))`."
        raise ValueError(msg)


def _warn(result: Result, level: int) -> None:
    values = dataclasses.replace(known(dataclasses.replace(result, tests=None)), tests=result.tests, note=result.note)
    warnings.warn(f"{result.status.name}: {values.message}", NotConvergedWarning, stacklevel=level)


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
    rows: Any,
    stop: Stop,
    seconds: Seconds | None = None,
    note: str = "",
) -> Result:
    trace = Trace(*rows) if rows else None
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
    )
