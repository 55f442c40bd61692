"""The front door: check, adapt, choose, run, report. Start reading here."""

import difflib
from collections.abc import Callable
from typing import Any

from jaxgd.compile.build import Ask
from jaxgd.core.stop import Stop
from jaxgd.dispatch import looking, rule, solved, solved_from, solved_many
from jaxgd.result import Result
from jaxgd.rows.shuffle import Batches


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
    starts: int | None = None,
    batch_size: int | Batches | None = None,
    watch: Any = None,
    resume: Any = None,
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
        data: pytree of arrays or array-likes; a list of numbers is an array. What the loss gets. `Rows(data)` says that
            the loss is a mean over the leading axis. Of a table (pandas, polars, Arrow) the loss gets a dict of the
            columns that it asks for by name; if it does not, one array of all.
        init: the start: pytree of float or complex arrays, integers are taken as floats. Absent: a scalar 0 if the
            loss takes one, else zeros of the one length among the data's trailing dimensions that it takes; where 0
            is not strictly inside the bounds, their middle, or 1 beyond a single one.
        method: "auto", another of the names in the README, or a method such as `GradientDescent(stepsize=0.2)`.
        bounds: pair `(lower, upper)`, each a number or by leaf, see below; -inf and inf, or None, where there is no
            bound. The loss is never evaluated outside; an `init` outside is moved to the nearest point inside.
        l1: `sum(l1 * |params|)` is added to the loss: makes exact zeros. A number, or by leaf.
        l2: half of `sum(l2 * params**2)` is added to the loss. A number, or by leaf.
        term: a constraint on all params together, `Simplex()` or `Ball()`, or a pytree of your own with `value`,
            `prox` and `project` of the flat params, as `jaxgd.core.terms.Term` has them.
        fixed: true for parameters to hold as they are in `init`, by leaf.
        tol: decrease of the loss that may be left, relative to the decrease since the start: short for
            `Stop(tol=tol)`, which says the default.
        stop: other tests to stop by.
        dtype: "float64" or "float32": solve in that type, whatever the global setting of JAX; NumPy arrays come back.
            Absent: the types of `init` and `data` decide, as everywhere in JAX.
        progress: show how the solve goes: short for `watch=jaxgd.watch.Progress()`, or for the textbook's lines where
            there is one parameter.
        trace: keep loss, gradient norm, step size and params of every move in `result.trace`.
        has_aux: the loss returns a pair, see above.
        starts: solve from so many starts, spread over the bounds or around `init`, which is the first of them; starts
            that cannot reach the lowest loss are given up. The result is that of the best, `result.optima` lists the
            different minima found and how many starts reached each.
        batch_size: with `Rows` and an optax transformation or `GradientDescent`: descend by so many rows at a time;
            `Batches(size=...)` says more.
        watch: what looks in between evaluations, one or a list: `jaxgd.watch.Checkpoint`, `TimeLimit`, `Callback`,
            `Progress`. A watched solve ends on Ctrl-C as well, and keeps the best point.
        resume: path of a checkpoint, or the result of a watched solve that ended early, to carry on bit for bit: with
            the same loss, data and options; `stop` may be another one.

    By leaf is what has the shape of params or of its upper levels, with numbers, or arrays in the shape of a parameter,
    below. A dict may name only some; the rest has no bound, weight 0, and is not fixed. Its keys are names of that
    level, or paths below it such as "layers.0.w", with dots between names, fields and places in lists: the same for any
    pytree, `jax.tree_util.keystr(path, simple=True, separator=".")`. Of a key that is both, the name counts.

    >>> def squares(params, data):
    ...     X, y = data
    ...     return jnp.mean((y - params["b"] - X @ params["w"]) ** 2) / 2
    >>> data = (jnp.array([[-1.0], [1.0]]), jnp.array([4.0, 8.0]))
    >>> fit = jaxgd.minimize(squares, data, {"w": jnp.zeros(1), "b": 0.0}, l2={"w": 1.0})
    >>> fit.params["w"].round(3).tolist(), round(float(fit.params["b"]), 3)
    ([1.0], 6.0)

    Returns:
        A `Result`. It warns once (`NotConvergedWarning`) where the solve did not converge; `result.check()` raises. JAX
        differentiates it, by data, penalties, bounds and what is held still, as the minimum it is; the derivatives are
        NaN where it is none.

    Raises:
        TypeError, ValueError: for arguments that cannot be solved with, before anything is compiled.

    """
    ask = Ask(loss, data, init, method, rule(tol, stop), dtype, trace, has_aux, bounds, l1, l2, term, fixed, batch_size)
    looks = looking(watch, resume, progress=progress)
    return solved(ask, looks) if starts is None else solved_from(ask, starts, looks)


def minimize_many(
    loss: Callable[..., Any],
    data: Any = None,
    init: Any = None,
    *,
    in_axes: Any = None,
    kind: str = "minimize",
    progress: bool = False,
    watch: Any = None,
    resume: Any = None,
    tol: Any = None,
    stop: Stop | None = None,
    **options: Any,
) -> Result:
    """Solve many problems of one shape at once: one for each entry of the leading axis of `data`.

    >>> import numpy as np, jax.numpy as jnp, jaxgd
    >>> def mse(theta, y):
    ...     return jnp.mean((y - theta) ** 2)
    >>> stores = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 9.0]])
    >>> result = jaxgd.minimize_many(mse, stores)
    >>> result.params.round(3).tolist(), len(result), result[1].converged
    ([2.0, 5.0], 2, True)

    Lanes share nothing but the machine: each stops by itself, one that fails changes no other, and its place is taken
    by a problem that waits. A loss is written for one problem; do not sum losses of many, which would share one step.
    All cores and all devices of this process work, or one within `with jax.default_device(device):`.

    Args:
        loss: as for `minimize`, of one problem.
        data: pytree of arrays, problems first; kept where it is, and taken in by blocks. Or `Groups(data, by=labels)`.
        init: one start for all problems, or one for each, problems first.
        in_axes: pair of the axes of `init` and `data` along which the problems lie, as in `jax.vmap`: whole numbers, or
            None for what all problems have in common, or pytrees of these. Absent: 0 for `data`, and 0 for `init` if it
            has one start for each problem.
        kind: "minimize", "maximize" or "least_squares".
        progress: show how many problems are done as the solve goes.
        watch: as for `minimize`.
        resume: likewise; `stop` must be the same.
        tol: as for `minimize`; may differ by problem, as may the numbers of `stop`, step sizes, `bounds`, `l1` and
            `l2`: an array of one number for each. By leaf, they have the problems first, before the shape of the
            parameter. A row of weights as long as there are problems is always one for each of these.
        stop: likewise.
        **options: those of `minimize`.

    Returns:
        A `Result` of NumPy arrays, problems first; `result[i]` is that of one, `result.table()` a pandas table.
        Printed, it says how many converged, why others did not, and what it cost. Ctrl-C returns what is done; the rest
        is `INTERRUPTED`. It warns once where some did not converge; `result.check()` raises.

    Raises:
        TypeError, ValueError: for arguments that cannot be solved with, before anything is compiled.
        MemoryError: where not even one problem fits the device.

    """
    asks: dict[str, dict[str, Any]] = {
        "minimize": {},
        "maximize": {"sign": -1},
        "least_squares": {"least_squares": True},
    }
    if kind not in asks:
        msg = f"`kind` must be one of {', '.join(map(repr, asks))}; got {kind!r}."
        raise ValueError(msg)
    if "starts" in options:
        msg = (
            f"`starts={options['starts']!r}` is for one problem; `minimize_many` begins each of many from one start."
            f" Write `minimize(loss, data, starts={options['starts']!r})` for each."
        )
        raise TypeError(msg)
    ask = Ask(loss, data, init, stop=rule(tol, stop), **asks[kind])
    ask = _with(minimize_many, ask, options)
    return solved_many(ask, in_axes, looking(watch, resume, progress=progress))


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
    `residuals` returns an array, or a pytree of arrays, of one number for each observation, or a number; they come back
    in `result.aux`, and `result.loss` is half the sum of their squares (with `has_aux`, the residual function returns a
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
    starts = options.pop("starts", None)
    looks = {name: options.pop(name) for name in ("progress", "watch", "resume") if name in options}
    ask = _with(caller, ask._replace(stop=rule(options.pop("tol", None), options.pop("stop", None))), options)
    watch = looking(**looks)
    return solved(ask, watch, level=4) if starts is None else solved_from(ask, starts, watch, level=4)


def _with(caller: Callable[..., Any], ask: Ask, options: dict[str, Any]) -> Ask:
    """Return what is asked for with the options; one that is not there is an error that names the nearest."""
    known = {"progress", "watch", "resume", "starts", "tol", *Ask._fields}
    known -= {"loss", "data", "init", "sign", "least_squares"}
    for name in options:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            msg = f"{caller.__name__}() has no option `{name}`; the nearest is `{nearest}`. All: {sorted(known)}."
            raise TypeError(msg)
    return ask._replace(**options)
