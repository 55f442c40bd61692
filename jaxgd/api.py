"""The front door: check, adapt, choose, run, report. Start reading here."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, TypeVar, Unpack, cast

from jaxgd.compile import devices
from jaxgd.compile.build import Ask
from jaxgd.core.stop import Stop
from jaxgd.dispatch import looking, rule, solved, solved_from, solved_many
from jaxgd.result import Result
from jaxgd.rows.shuffle import Batches

F = TypeVar("F", bound=Callable[..., Any])

_DERIVED = "JAX derives it; leave it out"
_TESTS = "it is one of the tests of `stop=jaxgd.Stop(gtol=..., xtol=..., ftol=...)`; none need be given"
_STEPS = "no step size need be given; or `method=jaxgd.GradientDescent(0.1)`, `method=optax.adam(0.1)`"
_PENALTY = "penalties are `l1=` and `l2=`, weights of the sums of absolute values and of half the squares"
ELSEWHERE = {  # options of other libraries
    "x0": "the start is `init`",
    "p0": "the start is `init`",
    "y0": "the start is `init`",
    "init_params": "the start is `init`",
    "fun": "the function is the first argument, `loss`",
    "fn": "the function is the first argument, `loss`",
    "func": "the function is the first argument, `loss`",
    "args": "what the loss gets beside the params is `data`, a tuple of several",
    "kwargs": "what the loss gets beside the params is `data`, a dict for one",
    **dict.fromkeys(("jac", "grad", "gradient", "hess", "hessp", "value_and_grad"), _DERIVED),
    **dict.fromkeys(
        ("maxiter", "max_iter", "max_steps", "maxfun", "maxfev", "max_nfev", "n_iter", "num_steps", "steps"),
        "the limit is `max_evals`, of evaluations",
    ),
    "options": "each is an option of its own: `max_evals=`, `stop=jaxgd.Stop(...)`",
    "constraints": "there are `bounds` and `term=jaxgd.Simplex()` or `jaxgd.Ball(1.0)`; add others as penalties",
    **dict.fromkeys(("gtol", "ftol", "xtol", "rtol", "atol", "eps"), _TESTS),
    **dict.fromkeys(("lr", "learning_rate", "stepsize", "step_size", "eta"), _STEPS),
    **dict.fromkeys(("momentum", "nesterov"), "it is `method=jaxgd.GradientDescent(0.1, momentum=0.9)`"),
    **dict.fromkeys(("optimizer", "solver", "algorithm"), "it is `method`; `method='auto'` need not be given"),
    **dict.fromkeys(("verbose", "disp", "display", "progress_bar"), "it is `progress=True`"),
    "epochs": "passes over rows are `batch_size=jaxgd.Batches(size=..., passes=...)`, with `jaxgd.Rows(data)`",
    **dict.fromkeys(
        ("seed", "key", "rng", "random_state"), "it is `batch_size=jaxgd.Batches(seed=...)`; all else is fixed"
    ),
    **dict.fromkeys(("penalty", "alpha", "C", "lam", "reg", "weight_decay"), _PENALTY),
    **dict.fromkeys(("sample_weight", "weights"), "it is `jaxgd.Rows(data, weights=...)`, or a factor in the loss"),
    "n_jobs": "all cores work; `minimize_many` solves many problems at once",
    "jit": "all is compiled; leave it out",
    # Of `minimize` alone:
    "starts": "it begins each of many problems from one start; write `minimize(loss, data, starts=...)` for each",
    "batch_size": "it is for one problem, a mean over `jaxgd.Rows`",
}


def _other_words(function: F) -> F:
    """Answer options that the function does not have, by what it is called here or by the nearest, and arguments."""
    known = inspect.signature(function).parameters
    in_order = [name for name, each in known.items() if each.kind is each.POSITIONAL_OR_KEYWORD]

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        if len(args) > len(in_order):
            msg = (
                f"{function.__name__}() takes {', '.join(in_order)} in this order, and got {len(args)} arguments. What"
                " `loss` gets beside the params is one `data`, such as a tuple (X, y); options go by name."
            )
            raise TypeError(msg)
        if not options.keys() <= known.keys():
            _refuse_unknown(function.__name__, options, set(known))
        devices.refuse_forked()
        return function(*args, **options)

    return cast("F", checked)


def _refuse_unknown(caller: str, options: Iterable[str], known: set[str]) -> None:
    name = next(name for name in options if name not in known)
    if name in ELSEWHERE:
        msg = f"{caller}() has no option `{name}`: {ELSEWHERE[name]}."
        raise TypeError(msg)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    own = sorted(known - {"loss", "residuals", "data", "init", "options"})
    msg = f"{caller}() has no option `{name}`; the nearest is `{nearest}`. All: {own}."
    raise TypeError(msg)


@_other_words
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
    max_evals: int | None = None,
    stop: Stop | None = None,
    dtype: Any = None,
    progress: bool = False,
    trace: bool = False,
    has_aux: bool = False,
    starts: int | None = None,
    batch_size: int | Batches | None = None,
    callback: Callable[..., Any] | None = None,
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
        data: what the loss gets: a pytree of arrays or array-likes. A list of numbers is an array. `Rows(data)` says
            that the loss is a mean over the leading axis. From a table (pandas, polars, Arrow) the loss gets a dict of
            the columns that it asks for by name, or one array of all columns if it asks for none.
        init: the start: a pytree of float or complex arrays; integers become floats. If absent, the start is 0 if the
            loss takes a scalar, else zeros of the one length among the data's trailing dimensions that the loss takes.
            If 0 is not strictly inside the bounds, the start is in their middle, or 1 beyond a single bound.
        method: "auto", another of the names in docs/methods.md, or a method such as `GradientDescent(stepsize=0.2)`.
        bounds: pair `(lower, upper)`, each a number or by leaf, see below; -inf and inf, or None, for no bound. Or a
            dict of pairs, `{"rate": (0, 1)}`, a list of a pair `(low, high)` for each param of one vector, or SciPy's
            `Bounds`. The loss is never evaluated outside; an `init` outside is moved to the nearest point inside.
        l1: weight of `sum(l1 * |params|)`, which is added to the loss and makes exact zeros. A number, or by leaf.
        l2: weight of `sum(l2 * params**2) / 2`, which is added to the loss. A number, or by leaf.
        term: a constraint on all params together, `Simplex()` or `Ball()`, or a pytree of your own with `value`,
            `prox` and `project` of the flat params, as in `jaxgd.core.terms.Term`.
        fixed: by leaf, true for parameters that stay as they are in `init`.
        tol: how much lower the loss may still get, relative to its last decreases: short for `Stop(tol=tol)`, where it
            is said in full.
        max_evals: evaluations at most: short for `Stop(max_evals=max_evals)`.
        stop: other tests to stop by, `Stop(gtol=1e-6)` for one.
        dtype: "float64" or "float32": solve in that type, whatever JAX's global setting is, and return NumPy arrays. If
            absent, arrays of JAX in `init` and `data` decide, as everywhere in JAX, and so does JAX inside of `jit` and
            other transformations, and for rows that are read. Elsewhere it is float64, unless all arrays of floats
            are narrower: what NumPy, pandas and lists hold is solved as NumPy would.
        progress: show how the solve goes, as `watch=jaxgd.watch.Progress()` does; with one parameter, as the textbook
            prints it.
        trace: keep loss, gradient norm, step size and params of every move in `result.trace`.
        has_aux: the loss returns a pair, see above.
        starts: how many starts to solve from. `init` is the first; the others are spread over the bounds, or around
            `init`. Starts that cannot reach the lowest loss are given up. The result is the best one;
            `result.optima` lists the different minima, and how many starts reached each.
        batch_size: descend by so many rows at a time, with `Rows` and an optax transformation or `GradientDescent`;
            `Batches(size=...)` has more options.
        callback: function of the best point so far, called between evaluations: short for
            `watch=jaxgd.watch.Callback(callback)`, where it is said in full.
        watch: what looks in between evaluations, one or a list: `jaxgd.watch.Checkpoint`, `TimeLimit`, `Callback`,
            `Progress`. Ctrl-C ends a watched or a long solve too, and the best point is returned.
        resume: path of a checkpoint, or the result of a watched solve that ended early. The solve carries on bit for
            bit. Loss, data and options must be the same; `stop` may differ.

    `bounds`, `l1`, `l2` and `fixed` may be given by leaf: as a pytree with the structure of `params`, or of its upper
    levels, whose leaves are numbers or arrays of the shape of the parameter. A dict may name some parameters only; the
    others have no bound and weight 0, and are not fixed. Its keys are the names of that level, or paths such as
    "layers.0.w", with dots between names, fields and places in lists, as
    `jax.tree_util.keystr(path, simple=True, separator=".")` writes them. If a key is both, it is read as a name.

    >>> def squares(params, data):
    ...     X, y = data
    ...     return jnp.mean((y - params["b"] - X @ params["w"]) ** 2) / 2
    >>> data = (jnp.array([[-1.0], [1.0]]), jnp.array([4.0, 8.0]))
    >>> fit = jaxgd.minimize(squares, data, {"w": jnp.zeros(1), "b": 0.0}, l2={"w": 1.0})
    >>> fit.params["w"].round(3).tolist(), round(float(fit.params["b"]), 3)
    ([1.0], 6.0)

    Returns:
        A `Result`. If the solve did not converge, one warning says so (`NotConvergedWarning`), and `result.check()`
        raises. JAX can differentiate the result by data, penalties, bounds and fixed parameters. The derivatives are
        those of the minimum; they are NaN if the solve found none.

    Raises:
        TypeError, ValueError: if an argument cannot be used; before anything is compiled.

    """
    stop = rule(tol, max_evals, stop)
    ask = Ask(loss, data, init, method, stop, dtype, trace, has_aux, bounds, l1, l2, term, fixed, batch_size)
    looks = looking(watch, resume, callback, progress=progress)
    return solved(ask, looks) if starts is None else solved_from(ask, starts, looks)


class Options(TypedDict, total=False):
    """Options of `minimize` that `minimize_many` takes as well."""

    method: Any
    bounds: Any
    l1: Any
    l2: Any
    term: Any
    fixed: Any
    dtype: Any
    trace: bool
    has_aux: bool


class AllOptions(Options, total=False):
    """All options of `minimize`."""

    tol: Any
    max_evals: Any
    stop: Stop | None
    progress: bool
    starts: int | None
    batch_size: int | Batches | None
    callback: Callable[..., Any] | None
    watch: Any
    resume: Any


def _spelled_out(function: F) -> F:
    """Show each option of `minimize` in the signature of a function that takes them as `**options`."""
    own, options = inspect.signature(function), inspect.signature(minimize).parameters.values()
    refused = {"starts", "batch_size"} if "in_axes" in own.parameters else set[str]()
    more = [each for each in options if each.kind is each.KEYWORD_ONLY and each.name not in {*own.parameters, *refused}]
    named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
    return function


@_other_words
@_spelled_out
def minimize_many(
    loss: Callable[..., Any],
    data: Any = None,
    init: Any = None,
    *,
    in_axes: Any = None,
    kind: str = "minimize",
    progress: bool = False,
    callback: Callable[..., Any] | None = None,
    watch: Any = None,
    resume: Any = None,
    tol: Any = None,
    max_evals: Any = None,
    stop: Stop | None = None,
    **options: Unpack[Options],
) -> Result:
    """Solve many problems of one shape at once: one for each entry of the leading axis of `data`.

    >>> import numpy as np, jax.numpy as jnp, jaxgd
    >>> def mse(theta, y):
    ...     return jnp.mean((y - theta) ** 2)
    >>> stores = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 9.0]])
    >>> result = jaxgd.minimize_many(mse, stores)
    >>> result.params.round(3).tolist(), len(result), result[1].converged
    ([2.0, 5.0], 2, True)

    Each problem is solved in a lane of its own. A lane stops by itself, and a waiting problem takes its place; a lane
    that fails changes no other. Write the loss for one problem: a sum over problems would make them share one step. All
    cores and devices of this process are used, or one of them within `with jax.default_device(device):`.

    Args:
        loss: as for `minimize`, for one problem.
        data: pytree of arrays, problems first, or `Groups(data, by=labels)`. The arrays stay where they are; the lanes
            read them by blocks.
        init: one start for all problems, or one for each, problems first.
        in_axes: pair of the axes of `init` and `data` along which the problems lie, as in `jax.vmap`: whole numbers, or
            None for what all problems share, or pytrees of these. If absent, 0 for `data`, and 0 for `init` if it has
            one start for each problem.
        kind: "minimize", "maximize" or "least_squares".
        progress: show how many problems are done as the solve goes.
        callback: as for `minimize`, and so is `watch`.
        watch: see `callback`.
        resume: as for `minimize`, but `stop` must be the same.
        tol: as for `minimize`. It may differ by problem, and so may the numbers of `stop`, step sizes, `bounds`, `l1`
            and `l2`: as an array of one number for each problem. By leaf, the problems come before the shape of the
            parameter. Weights as many as there are problems are always read as one for each problem.
        max_evals: as for `minimize`, and so is `stop`.
        stop: see `max_evals`.
        **options: the other options of `minimize`, but `starts` and `batch_size`.

    Returns:
        A `Result` of NumPy arrays, problems first. `result[i]` is the result of one problem, `result.table()` a pandas
        table. Printed, it says how many converged, why others did not, and what it cost. After Ctrl-C it has what is
        done; the rest is `INTERRUPTED`. If some did not converge, one warning says so, and `result.check()` raises.

    Raises:
        TypeError, ValueError: if an argument cannot be used; before anything is compiled.
        MemoryError: if not even one problem fits the device.

    """
    asks: dict[str, dict[str, Any]] = {
        "minimize": {},
        "maximize": {"sign": -1},
        "least_squares": {"least_squares": True},
    }
    if kind not in asks:
        msg = f"`kind` must be one of {', '.join(map(repr, asks))}; got {kind!r}."
        raise ValueError(msg)
    ask = Ask(loss, data, init, stop=rule(tol, max_evals, stop), **asks[kind], **cast("dict[str, Any]", options))
    return solved_many(ask, in_axes, looking(watch, resume, callback, progress=progress))


@_other_words
@_spelled_out
def maximize(loss: Callable[..., Any], data: Any = None, init: Any = None, **options: Unpack[AllOptions]) -> Result:
    """Find the parameters that make `loss(params, data)` largest; the options are those of `minimize`.

    The loss and gradient reported are the function's own; penalties are subtracted.

    >>> import jaxgd
    >>> result = jaxgd.maximize(lambda x: 3 - (x - 2) ** 2)
    >>> round(float(result.params), 3), round(float(result.loss), 3)
    (2.0, 3.0)
    """
    return _with_options(Ask(loss, data, init, sign=-1), cast("dict[str, Any]", options))


@_other_words
@_spelled_out
def least_squares(
    residuals: Callable[..., Any], data: Any = None, init: Any = None, **options: Unpack[AllOptions]
) -> Result:
    """Find the parameters that make half the sum of squares of `residuals(params, data)` smallest.

    The method is Levenberg and Marquardt's, with the Jacobian that JAX derives; the options are those of `minimize`.
    `residuals` returns one number for each observation, as an array or a pytree of arrays, or a single number. They
    come back in `result.aux`, and `result.loss` is half the sum of their squares. With `has_aux`, `residuals` returns a
    pair, and `result.aux` is a pair too.

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
    return _with_options(Ask(residuals, data, init, least_squares=True), cast("dict[str, Any]", options))


def _with_options(ask: Ask, options: dict[str, Any]) -> Result:
    starts = options.pop("starts", None)
    looks = {name: options.pop(name) for name in ("progress", "callback", "watch", "resume") if name in options}
    stop = rule(*(options.pop(name, None) for name in ("tol", "max_evals", "stop")))
    ask, watch = ask._replace(stop=stop, **options), looking(**looks)
    return solved(ask, watch, level=6) if starts is None else solved_from(ask, starts, watch, level=6)
