"""From what was asked to a result: choose the precision, run, look twice, report, warn."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import inputs
from jaxgd.compile.build import Ask, prepare
from jaxgd.compile.cache import clock
from jaxgd.compile.executables import is_traced
from jaxgd.compile.frames import Frame, is_table
from jaxgd.compile.penalties import as_pair
from jaxgd.compile.program import Inputs, Program, Solution
from jaxgd.core.numerics import without_derivatives
from jaxgd.core.settings import own
from jaxgd.core.stop import DEFAULT, Counts, Status, Stop, succeeded
from jaxgd.history import Trace
from jaxgd.lanes import groups, many, multistart
from jaxgd.lanes.groups import Groups
from jaxgd.lanes.second_look import LEFT_FLAT, after, left_flat, looked_again_alone, needs_second_look
from jaxgd.losses import LABELS, LIKELIHOODS
from jaxgd.result import NotConvergedWarning, Result, Seconds
from jaxgd.rows import build, full_batch, minibatch
from jaxgd.rows.rows import Rows
from jaxgd.uncertainty.request import Many, One
from jaxgd.watch.bursts import in_loop
from jaxgd.watch.failures import explained
from jaxgd.watch.session import Watching
from jaxgd.watch.watchers import Callback

LED_NOWHERE = (Status.STUCK, Status.NO_INFLUENCE)


def solved(ask: Ask, watch: Watching, level: int = 5) -> Result:
    """Return the result of one problem; a warning names the caller `level` calls above what warns."""
    return _finished(_one, ask, watch, level)


def solved_many(ask: Ask, in_axes: Any, watch: Watching, level: int = 5) -> Result:
    """Return the result of many problems, lanes first."""
    _refuse_rows(ask, "`minimize_many`")
    by = tuple(ask.data.names) if isinstance(ask.data, Groups) else ()
    result = _finished(partial(_many, in_axes=in_axes), ask, watch, level, lanes=True)
    return dataclasses.replace(result, by=by) if by else result


def solved_from(ask: Ask, count: Any, watch: Watching, level: int = 5) -> Result:
    """Return the best of the results from several starts."""
    _refuse_rows(ask, f"`starts={count!r}`")
    return _finished(lambda ask, watch: multistart.solve_from_starts(ask, count, watch), ask, watch, level)


def _finished(
    drive: Callable[[Ask, Watching], Solution], ask: Ask, watch: Watching, level: int, *, lanes: bool = False
) -> Result:
    """Return what a driver has come to as a result: reported, timed, and warned of."""
    began, before, ask = time.perf_counter(), clock.spent, with_columns(ask, lanes=lanes)
    _check_labels(ask.loss, _in_memory(ask.data))
    ask = ask if ask.dtype is not None else ask._replace(dtype=_of_numpy(ask))
    ask = ask if ask.bounds is None else ask._replace(bounds=as_pair(ask.bounds, ask.init))
    with own(), _precision(ask.dtype), clock.announcing(watch.compiling):
        found = drive(ask, watch)
        if isinstance(found.answer.counts, Tracer):
            return _report(found, ask.stop)
        if ask.dtype is not None:
            found = found._replace(answer=jax.tree.map(_on_host, found.answer))
        found = found._replace(answer=found.answer._replace(counts=np.asarray(found.answer.counts)))
        found = found._replace(source=_for_later(found, ask, lanes=lanes))
    trace, compiled = map(float, clock.spent - before + found.compiling)
    seconds = Seconds(trace, compiled, max(time.perf_counter() - began - trace - compiled, 0.0))
    result = _report(found._replace(note=found.note + watch.note), ask.stop, seconds)
    if not np.all(result.converged) and not (np.ndim(result.counts) == 1 and result.status is Status.STOPPED):
        warnings.warn(_warning(result), NotConvergedWarning, stacklevel=level)
    return result


def _for_later(found: Solution, ask: Ask, *, lanes: bool) -> Many | One:
    """Return what answers questions about the result later."""
    data = ask.data
    known = any(ask.loss is loss for loss in LIKELIHOODS), _in_memory(data)
    if lanes:
        return Many(found.source, np.arange(len(found.answer.counts)), *known)
    in_passes = found.program.recipe.sampled or ask.batch_size is not None
    program, given = found.source
    return One(program, given, data if isinstance(data, Rows) and in_passes else None, ask.dtype, *known)


def _on_host(leaf: Any) -> Any:
    return leaf if isinstance(leaf, Tracer) else np.asarray(leaf)


def _one(ask: Ask, watch: Watching) -> Solution:
    """Solve one problem: with arrays, a mean over rows, or minibatches of these."""
    rows = ask.data
    if not isinstance(rows, Rows):
        if ask.batch_size is not None:
            msg = f"`batch_size={ask.batch_size!r}` is for a mean over rows: pass `jaxgd.Rows(data)`."
            raise ValueError(msg)
        found = _in_loop(ask.data, *prepare(ask), watch)
        return found if watch or ask.trace else _by_newton(ask, found, watch)
    if ask.batch_size is not None:
        return minibatch.solve_by_minibatches(ask, rows, watch)
    program, given, note = build.prepare_rows(ask, rows)
    if not program.recipe.sampled:
        return _in_loop(None, program, given, note, watch)
    found = full_batch.solve_by_passes(program, given, rows, ask.dtype, watch)
    return found._replace(note=note + found.note, source=(program, given))


def _by_newton(ask: Ask, found: Solution, watch: Watching) -> Solution:
    """Return what was found, or what Newton's method finds from the start, where J'J has led nowhere."""
    counts = Counts.of(found.answer.counts)
    if not found.program.sees_squares or isinstance(counts.status, Tracer) or counts.status not in LED_NOWHERE:
        return found
    program, given, note = prepare(ask._replace(method="newton"))
    numbers = list(given.numbers)
    if (left := after(int(numbers[program.limit]), int(counts.evals))) < 1:
        return found
    numbers[program.limit] = left
    other = _in_loop(ask.data, program, given._replace(numbers=numbers), note, watch)
    own = Counts.of(other.answer.counts)
    loss = np.asarray(found.answer.loss)
    drop = program.recipe.sign * (loss - np.asarray(other.answer.loss))
    # A success elsewhere is none where a lower loss was seen.
    level = drop >= -np.sqrt(np.finfo(loss.dtype).eps) * np.abs(loss)
    better = other if drop > 0 or (level and succeeded(own.status)) else found
    total = Counts.of(better.answer.counts)._replace(
        evals=counts.evals + own.evals, moves=counts.moves + own.moves, products=counts.products + own.products
    )
    return better._replace(answer=better.answer._replace(counts=total.pack()))


def _in_loop(data: Any, program: Program, given: Inputs, note: str, watch: Watching) -> Solution:
    found = in_loop(program, given, watch)._replace(note=note, source=(program, given))
    if isinstance(found.answer.counts, Tracer):
        return found
    # On the host at once: everything that follows asks for the status.
    answer = found.answer._replace(counts=np.asarray(found.answer.counts))
    if needs_second_look(program, answer):
        before, answer = answer.counts, looked_again_alone(program, given, answer)
        note += LEFT_FLAT if left_flat(before, answer.counts) else ""
    more = "" if succeeded(Counts.of(answer.counts).status) else explained(program, given, answer, data)
    return found._replace(answer=answer, note=note + more)


def _many(ask: Ask, watch: Watching, *, in_axes: Any) -> Solution:
    if isinstance(ask.data, Groups):
        return groups.solve_groups(ask, in_axes, watch)
    program, batch, note = many.read_lanes(ask, in_axes)
    return many.solve_lanes(program, batch, watch)._replace(note=note)


def with_columns(ask: Ask, *, lanes: bool = False) -> Ask:
    """Return what is asked, with a table's columns as the loss gets them; of a row of it at a time, with `lanes`."""
    with _precision(ask.dtype):
        if isinstance(ask.data, Rows | Groups):
            return ask._replace(data=ask.data.of(ask.loss, ask.init))
        return ask._replace(data=Frame(ask.data).arrays(ask.loss, ask.init, lanes=lanes)) if is_table(ask.data) else ask


def _of_numpy(ask: Ask) -> str | None:
    """Return "float64" where neither JAX nor a narrower array says what type to solve in; None where JAX does."""
    config: Any = jax.config
    data = ask.data.data if isinstance(ask.data, Rows | Groups) else ask.data
    read = isinstance(ask.data, Rows) and data is None
    return None if config.jax_enable_x64 or is_traced() or read or not inputs.wide(data, ask.init) else "float64"


def _in_memory(data: Any) -> Any:
    """Return the data as the user gave them; None where they are read from elsewhere."""
    if isinstance(data, Rows):
        return data.data if data.source is None else None
    return data.data if isinstance(data, Groups) else data


def _check_labels(loss: Any, data: Any) -> None:
    """Refuse labels that a ready-made loss takes for others, where their values are known on the host."""
    known = [each for each in LABELS if loss is each[0]]
    if not known or not isinstance(data, tuple | list) or len(data) != 2 or isinstance(data[1], jax.Array):  # noqa: PLR2004
        return
    (_, low, high, cure), y = known[0], np.asarray(data[1])
    if y.size and y.dtype.kind in "fiu" and not (y.min() >= low and y.max() <= high) and np.isfinite(y).all():
        msg = f"`data[1]` has values from {y.min():g} to {y.max():g}; `losses.{loss.__name__}` takes y of {cure}."
        raise ValueError(msg)


def _refuse_rows(ask: Ask, what: str) -> None:
    """Refuse a mean over rows where several problems share the machine."""
    if isinstance(ask.data, Rows):
        msg = f"{what} takes arrays, not `Rows`: each problem reads all data at once. Pass the arrays themselves."
        raise TypeError(msg)
    if ask.batch_size is not None:
        msg = f"{what} takes no `batch_size`; it is for `minimize(loss, jaxgd.Rows(data))`."
        raise ValueError(msg)


def _warning(result: Result) -> str:
    """Return what is warned of."""
    if np.ndim(result.counts) > 1:
        bad = int(np.sum(~np.asarray(result.converged)))
        return f"{bad} of {len(result)} problems did not converge: {result.message}. `print(result)` says why."
    bare = dataclasses.replace(result, tests=None)
    values = dataclasses.replace(without_derivatives(bare), tests=result.tests, note=result.note)
    return f"{result.status.name}: {values.message}"


def looking(watch: Any = None, resume: Any = None, callback: Any = None, *, progress: bool = False) -> Watching:
    """Return the watchers of a solve, and the run that it resumes."""
    if callback is not None:
        watch = [*(watch if isinstance(watch, list | tuple) else () if watch is None else (watch,)), Callback(callback)]
    if isinstance(resume, Result):
        if resume.run is None:
            msg = (
                f"`resume` is a result that holds no run to carry on ({resume.method}; {resume.message}). A run is kept"
                " where a watched solve ended early, with `watch=[]` at least; or begin at its params, by `init=`."
            )
            raise ValueError(msg)
        resume = resume.run
    return Watching(watch, resume, progress=progress)


def rule(tol: Any, max_evals: Any, stop: Stop | None) -> Stop:
    """Return the rule to stop by, from the arguments that may give it."""
    given = {name: value for name, value in (("tol", tol), ("max_evals", max_evals)) if value is not None}
    if stop is None:
        return Stop(**given) if given else DEFAULT
    if not isinstance(stop, Stop):
        msg = f"`stop` must be a `jaxgd.Stop`; got {stop!r}. Write `tol={stop!r}` or `stop=Stop(gtol=...)`."
        raise TypeError(msg)
    for name, value in given.items():
        msg = f"`{name}={value!r}` and `stop={stop!r}` are both given. Write `stop=Stop({name}=..., ...)`."
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


def _report(found: Solution, stop: Stop, seconds: Seconds | None = None) -> Result:
    answer, trace = found.answer, Trace(*found.trace) if found.trace else None
    return Result(
        params=answer.params,
        loss=answer.loss,
        grad=answer.grad,
        residual=answer.residual,
        aux=answer.aux,
        # Of several starts it is as long as the longest.
        trace=trace.trimmed() if trace is not None and found.optima is not None else trace,
        counts=answer.counts,
        evidence=answer.evidence,
        tests=stop,
        method=found.program.method,
        seconds=seconds,
        note=found.note,
        slots=found.slots,
        labels=found.labels,
        optima=found.optima,
        run=found.run,
        source=found.source if seconds else None,
    )
