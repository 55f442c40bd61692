"""The front door: check, adapt, choose, run, report. Start reading here."""

import difflib
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.prepare import Ask, prepare
from jaxgd.program import Answer, Program, clock
from jaxgd.result import NotConvergedWarning, Result, Seconds, Trace
from jaxgd.solve import in_bursts, second_look
from jaxgd.stop import DEFAULT, Status, Stop


def minimize(
    loss: Callable[..., Any],
    data: Any = None,
    init: Any = None,
    *,
    method: Any = "auto",
    bounds: Any = None,
    l1: Any = None,
    l2: Any = None,
    term: Any = None,
    fixed: Any = None,
    tol: float | None = None,
    stop: Stop | None = None,
    dtype: Any = None,
    progress: bool = False,
    trace: bool = False,
    has_aux: bool = False,
) -> Result:
    """Find the parameters that make `loss(params, data)` smallest.

    >>> import jax.numpy as jnp, jaxgd
    >>> def mse(theta, y):
    ...     return jnp.mean((y - theta) ** 2)
    >>> result = jaxgd.minimize(mse, [12.1, 12.8, 14.9, 16.3, 17.2])
    >>> round(float(result.params), 3), result.converged
    (14.66, True)
    >>> float(jaxgd.minimize(mse, [12.1, 12.8, 14.9, 16.3, 17.2], bounds=(0, 14)).params)
    14.0

    Args:
        loss: function of `(params, data)`, or of `params` alone where there is no data, written in `jax.numpy`, that
            returns one real number; with `has_aux`, a pair of that number and any pytree of arrays.
        data: pytree of arrays or array-likes; a list of numbers is an array. What the loss gets.
        init: the start: pytree of float or complex arrays, integers are taken as floats. Absent: a scalar 0 if the
            loss takes one, else zeros of the one length among the data's trailing dimensions that it takes.
        method: "auto", another of the names in the README, or a method such as `GradientDescent(stepsize=0.2)`.
        bounds: pair `(lower, upper)`, each a number or a pytree in the shape of params, or of its upper levels; -inf
            and inf, or None, where there is no bound. The loss is never evaluated outside; a start outside is moved in.
        l1: weight of `sum(|params|)`, added to the loss: makes exact zeros.
        l2: half of it times `sum(params**2)` is added to the loss.
        term: a constraint on all params together, `Simplex()` or `Ball()`.
        fixed: true for parameters to hold as they are in `init`: a pytree in the shape of params or of its upper
            levels, of booleans or arrays of them; a dict may name only some.
        tol: decrease of the loss that may be left, relative to the decrease since the start: short for
            `Stop(tol=tol)`, which says the default.
        stop: other tests to stop by.
        dtype: "float64" or "float32": solve in that type, whatever the global setting of JAX; NumPy arrays come back.
            Absent: the types of `init` and `data` decide, as everywhere in JAX.
        progress: print as the solve goes.
        trace: keep loss, gradient norm, step size and params of every move in `result.trace`.
        has_aux: the loss returns a pair, see above.

    Returns:
        A `Result`. It warns once (`NotConvergedWarning`) where the solve did not converge; `result.check()` raises.

    Raises:
        TypeError, ValueError: for arguments that cannot be solved with, before anything is compiled.

    """
    stop = _rule(tol, stop)
    return _solve(
        Ask(loss, data, init, method, stop, dtype, trace, has_aux, bounds, l1, l2, term, fixed), progress=progress
    )


def maximize(loss: Callable[..., Any], data: Any = None, init: Any = None, **options: Any) -> Result:
    """Find the parameters that make `loss(params, data)` largest; the options are those of `minimize`.

    The loss and gradient reported are the function's own; penalties are subtracted.

    >>> import jaxgd
    >>> result = jaxgd.maximize(lambda x: 3 - (x - 2) ** 2)
    >>> round(float(result.params), 3), round(float(result.loss), 3)
    (2.0, 3.0)
    """
    return _with_options(maximize, Ask(loss, data, init, sign=-1), options)


def least_squares(residuals: Callable[..., Any], data: Any = None, init: Any = None, **options: Any) -> Result:
    """Find the parameters that make half the sum of squares of `residuals(params, data)` smallest.

    Levenberg and Marquardt's method, from the Jacobian that JAX derives; the options are those of `minimize`.
    `residuals` returns an array, or a pytree of arrays, of one number for each observation; they come back in
    `result.aux`, and `result.loss` is half the sum of their squares (with `has_aux`, the residual function returns a
    pair, and so is `result.aux`).

    >>> import jax.numpy as jnp, jaxgd
    >>> x = jnp.arange(6.0)
    >>> y = 2.5 * jnp.exp(-0.5 * x)
    >>> def residuals(params, data):
    ...     x, y = data
    ...     return y - params["height"] * jnp.exp(-params["rate"] * x)
    >>> fit = jaxgd.least_squares(residuals, (x, y), {"height": 1.0, "rate": 1.0})
    >>> round(float(fit.params["height"]), 3), round(float(fit.params["rate"]), 3)
    (2.5, 0.5)
    """
    return _with_options(least_squares, Ask(residuals, data, init, least_squares=True), options)


def _with_options(caller: Callable[..., Any], ask: Ask, options: dict[str, Any]) -> Result:
    known = {"progress", "tol", *Ask._fields} - _OWN
    for name in options:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            msg = f"{caller.__name__}() has no option `{name}`; the nearest is `{nearest}`. All: {sorted(known)}."
            raise TypeError(msg)
    progress = options.pop("progress", False)
    stop = _rule(options.pop("tol", None), options.pop("stop", None))
    return _solve(ask._replace(stop=stop, **options), progress=progress, level=4)


_OWN = {"loss", "data", "init", "sign", "least_squares"}


def _solve(ask: Ask, *, progress: bool, level: int = 3) -> Result:
    began, compiled = time.perf_counter(), clock.seconds
    with _precision(ask.dtype):
        program, given, note = prepare(ask)
        answer, rows = in_bursts(program, given, progress=progress) if progress or ask.trace else program.solve(given)
        if isinstance(answer.counts, Tracer):
            return _report(program, answer, answer.counts, rows, ask.stop)
        # On the host at once: everything that follows asks for the status.
        counts = np.asarray(answer.counts)
        failed = counts[0] > _LAST_SUCCESS
        if failed:
            answer, counts, more = second_look(program, given, answer, counts)
            note += more
        if ask.dtype is not None:
            answer = jax.tree.map(np.asarray, answer)
    spent = clock.seconds - compiled
    seconds = Seconds(spent, max(time.perf_counter() - began - spent, 0.0))
    result = _report(program, answer, counts, rows, ask.stop, seconds, note)
    if failed and not result.converged:
        warnings.warn(f"{result.status.name}: {result.message}", NotConvergedWarning, stacklevel=level)
    return result


def _rule(tol: Any, stop: Stop | None) -> Stop:
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
_LAST_SUCCESS = int(Status.PRECISION_FLOOR)


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
