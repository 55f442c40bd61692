"""`scipy.optimize.minimize` by the solvers of this package."""

import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from jaxgd import api
from jaxgd.core.stop import Stop
from jaxgd.result import NotConvergedWarning, Result
from jaxgd.solvers.registry import METHODS, plain

LIMITS = ("maxiter", "maxfun", "maxfev", "max_nfev")
TESTS = {"gtol": "gtol", "xtol": "xtol", "xatol": "xtol", "ftol": "ftol", "fatol": "ftol"}


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: Any = (),
    method: str | None = None,
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: dict[str, Any] | None = None,
) -> OptimizeResult:
    """Minimize `fun(x, *args)`, written in `jax.numpy`, over a vector.

    Args:
        fun: returns a number; with `jac=True` a pair, of which the first is taken.
        x0: start, an array; it is made a vector.
        args: what else `fun` takes.
        method: one of SciPy's names, or of those in docs/methods.md. Those that need no derivatives, and None, choose.
        jac: not used: JAX derives it.
        hess: likewise.
        hessp: likewise.
        bounds: a sequence of pairs, or `scipy.optimize.Bounds`.
        constraints: none can be kept.
        tol: as in `jaxgd.minimize`.
        callback: function of `x`, or of `intermediate_result`; it ends the solve by `StopIteration`.
        options: `maxiter` limits the evaluations; `gtol`, `xtol` and `ftol` are those of `jaxgd.Stop`; `disp` prints.

    Returns:
        An `OptimizeResult` with `x`, `fun`, `jac`, `nfev`, `njev`, `nit`, `success`, `status` (a `jaxgd.Status`),
        `message`.

    Raises:
        ValueError: for constraints.

    """
    del hess, hessp
    if constraints not in ((), [], None):
        msg = f"`constraints={constraints!r}` cannot be kept. Use `bounds`, or add them to the loss as penalties."
        raise ValueError(msg)
    given = dict(options or {})
    limits = [given.pop(name) for name in LIMITS if name in given]
    tests = {TESTS[name]: given.pop(name) for name in TESTS if name in given}
    shows = given.pop("disp", False)
    if given:
        warnings.warn(f"Unknown options are not used: {', '.join(given)}", OptimizeWarning, stacklevel=2)
    own, (loss, data) = method is not None and plain(method) in map(plain, METHODS), with_data(fun, args, {})
    result = quietly(
        api.minimize,
        first_of(loss) if jac is True else loss,
        data,
        as_vector(x0),
        method=method if own else "auto",
        bounds=as_arrays(bounds),
        dtype="float64",
        callback=callback and _looking_at(callback),
        stop=Stop(tol=tol, **tests, **({"max_evals": int(min(limits))} if limits else {})),
    )
    if shows:
        sys.stdout.write(f"{result}\n")
    return OptimizeResult(x=result.params, fun=float(result.loss), jac=result.grad, njev=result.evals, **common(result))


def with_data(fun: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> tuple[Callable[..., Any], Any]:
    """Return a function of params and data, and the data: arrays and floats among the arguments, None for none.

    All else, such as a whole number that counts, is closed over.
    """
    given = (args if isinstance(args, tuple) else (args,), kwargs)
    leaves, structure = jax.tree.flatten(given, is_leaf=lambda node: isinstance(node, list))
    varies = [not isinstance(leaf, int | str) and np.asarray(leaf).dtype.kind in "biufc" for leaf in leaves]
    data = tuple(np.asarray(leaf) for leaf, own in zip(leaves, varies, strict=True) if own)
    others = [leaf for leaf, own in zip(leaves, varies, strict=True) if not own]

    def loss(x: Any, data: Any = ()) -> Any:
        numbers, rest = iter(data), iter(others)
        args, kwargs = structure.unflatten([next(numbers) if own else next(rest) for own in varies])
        return fun(x, *args, **kwargs)

    return loss, data or None


def first_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without its second value, a gradient."""
    return lambda *args: function(*args)[0]


def quietly(solve: Callable[..., Result], *args: Any, **options: Any) -> Result:
    """Return the result without a warning where it failed: `success` says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        return solve(*args, **options)


def common(result: Result) -> dict[str, Any]:
    """Return what all results of SciPy have."""
    status = result.status
    return {
        "nfev": result.nfev,
        "nit": result.nit,
        "success": bool(result.converged),
        "status": status,
        "message": f"{status.name}: {result.message}",
    }


def as_vector(start: Any) -> np.ndarray:
    """Return a start as a vector of floats."""
    return np.atleast_1d(np.asarray(start, float)).ravel()


def as_arrays(bounds: Any) -> Any:
    """Return a sequence of pairs, or `Bounds`, as lower and upper bounds."""
    if bounds is None:
        return None
    if hasattr(bounds, "lb"):
        return tuple(np.asarray(end, float) for end in ends(bounds))
    pairs: Sequence[Any] = [tuple(pair) for pair in bounds]
    if any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004 - low and high
        msg = f"`bounds` must be a sequence of pairs (low, high); got {bounds!r}."
        raise ValueError(msg)
    none = (-np.inf, np.inf)
    return tuple(np.array([none[i] if pair[i] is None else pair[i] for pair in pairs], float) for i in (0, 1))


def ends(bounds: Any) -> tuple[Any, Any]:
    """Return the lower and the upper bounds, of a pair of them or of `Bounds`."""
    return (bounds.lb, bounds.ub) if hasattr(bounds, "lb") else bounds


def _looking_at(callback: Callable[..., Any]) -> Callable[[Any], bool]:
    """Return a callback of this package that calls one of SciPy's."""
    by_name = list(inspect.signature(callback).parameters) == ["intermediate_result"]

    def look(seen: Any) -> bool:
        x = np.array(seen.params)
        try:
            if by_name:
                callback(intermediate_result=OptimizeResult(x=x, fun=float(seen.loss)))
            else:
                callback(x)
        except StopIteration:
            return True
        return False

    return look
