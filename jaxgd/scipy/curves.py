"""`scipy.optimize.least_squares` and `curve_fit` by the solvers of this package."""

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import OptimizeResult, OptimizeWarning

from jaxgd import api
from jaxgd.core.stop import Stop
from jaxgd.scipy.scalar import as_vector, common, ends, quietly, with_data

ROBUST: dict[str, Callable[[Any], Any]] = {  # rho(z) of SciPy's manual, of squares z
    "soft_l1": lambda z: 2 * (jnp.sqrt(1 + z) - 1),
    "huber": lambda z: jnp.where(z <= 1, z, 2 * jnp.sqrt(jnp.where(z <= 1, 1, z)) - 1),
    "cauchy": jnp.log1p,
    "arctan": jnp.arctan,
}


def least_squares(
    fun: Callable[..., Any],
    x0: Any,
    jac: Any = "2-point",
    bounds: Any = (-np.inf, np.inf),
    method: str = "trf",
    ftol: float | None = None,
    xtol: float | None = None,
    gtol: float | None = None,
    x_scale: Any = None,
    loss: str = "linear",
    f_scale: float = 1.0,
    diff_step: Any = None,
    tr_solver: Any = None,
    tr_options: Any = None,
    jac_sparsity: Any = None,
    max_nfev: int | None = None,
    verbose: int = 0,
    args: Any = (),
    kwargs: Any = None,
    callback: Callable[..., Any] | None = None,
    workers: Any = None,
) -> OptimizeResult:
    """Minimize half the sum of squares of `fun(x, *args, **kwargs)`, written in `jax.numpy`, over a vector.

    `ftol`, `xtol`, `gtol` are those of `jaxgd.Stop`; by default nothing is left that float64 resolves. `loss` and
    `f_scale` are SciPy's: "linear", "soft_l1", "huber", "cauchy", "arctan". Options that say how are not used: JAX
    derives the Jacobian, and the scale is found.

    Returns:
        An `OptimizeResult` with `x`, `cost`, `fun` (residuals), `jac` (their Jacobian), `grad`, `optimality`,
        `active_mask`, `nfev`, `njev`, `nit`, `success`, `status` (a `jaxgd.Status`), `message`.

    Raises:
        ValueError: for a `loss` that is none of these.

    """
    del jac, method, x_scale, diff_step, tr_solver, tr_options, jac_sparsity, callback, workers
    if loss != "linear" and loss not in ROBUST:
        msg = f"`loss` must be one of 'linear', {', '.join(map(repr, ROBUST))}; got {loss!r}."
        raise ValueError(msg)
    call, data = with_data(fun, args, dict(kwargs or {}))

    def residuals(x: Any, *data: Any) -> Any:
        return jnp.ravel(jnp.asarray(call(x, *data)))

    def robust(x: Any, *data: Any) -> Any:
        squares = (residuals(x, *data) / f_scale) ** 2
        return f_scale**2 * jnp.sum(ROBUST[loss](squares)) / 2

    tests = {name: value for name, value in (("ftol", ftol), ("xtol", xtol), ("gtol", gtol)) if value is not None}
    limit = {} if max_nfev is None else {"max_evals": int(max_nfev)}
    (lower, upper), start = ends(bounds), as_vector(x0)
    free = np.all(np.isneginf(lower)) and np.all(np.isposinf(upper))
    result = quietly(
        *((api.least_squares, residuals) if loss == "linear" else (api.minimize, robust)),
        data,
        start,
        bounds=None if free else tuple(np.broadcast_to(np.asarray(end, float), start.shape) for end in (lower, upper)),
        dtype="float64",
        stop=Stop(**tests, **limit),
    )
    if verbose:
        sys.stdout.write(f"{result}\n")
    x = np.asarray(result.params)
    vector, jacobian = _linearized(residuals, x, () if data is None else (data,))
    optimal = result.grad if result.residual is None else result.residual
    return OptimizeResult(
        x=x,
        cost=float(result.loss),
        fun=vector,
        jac=jacobian,
        grad=np.asarray(result.grad),
        optimality=float(np.max(np.abs(optimal))),
        active_mask=np.where(x <= lower, -1, np.where(x >= upper, 1, 0)),
        njev=result.moves,
        **common(result),
    )


def curve_fit(
    f: Callable[..., Any],
    xdata: Any,
    ydata: Any,
    p0: Any = None,
    sigma: Any = None,
    absolute_sigma: bool = False,  # noqa: FBT001, FBT002 - SciPy's
    check_finite: bool | None = None,  # noqa: FBT001
    bounds: Any = (-np.inf, np.inf),
    method: str | None = None,
    jac: Any = None,
    *,
    full_output: bool = False,
    nan_policy: str | None = None,
    **kwargs: Any,
) -> Any:
    """Fit `f(xdata, *params)`, written in `jax.numpy`, to `ydata` by least squares.

    Args:
        f: returns what `ydata` has, for `xdata` as they are passed and each of the params.
        xdata: array or pytree of arrays, passed to `f` as float64.
        ydata: array.
        p0: start, an array; ones, moved between the bounds, by default.
        sigma: standard deviations in the shape of `ydata`, or their covariance matrix.
        absolute_sigma: they are known, and not only relative to each other.
        check_finite: refuse NaN and infinity, the default.
        bounds: pair of lower and upper bounds, or `scipy.optimize.Bounds`.
        method: not used.
        jac: not used: JAX derives it.
        full_output: return also infodict, message and flag.
        nan_policy: "omit" leaves rows out whose `ydata` are NaN; "raise" refuses them.
        **kwargs: `maxfev` or `max_nfev`, `ftol`, `xtol`, `gtol`, as in `least_squares`.

    Returns:
        The params and their covariance matrix, inf where the data do not determine it.

    Raises:
        ValueError: for data that are not finite, fewer numbers than params, a start outside the bounds.
        RuntimeError: if the solve did not converge.

    """
    del method, jac
    x, y = jax.tree.map(lambda leaf: np.asarray(leaf, float), xdata), np.asarray(ydata, float).ravel()
    x = np.asarray(xdata, float) if isinstance(xdata, list) else x
    if nan_policy == "omit":
        keep = ~np.isnan(y)
        x, y = jax.tree.map(lambda leaf: leaf[..., keep], x), y[keep]
    if check_finite is not False or nan_policy == "raise":
        for name, leaf in (("ydata", y), *(("xdata", leaf) for leaf in jax.tree.leaves(x))):
            if not np.isfinite(leaf).all():
                msg = f"`{name}` holds NaN or infinity; drop or fill what is missing, or write `nan_policy='omit'`."
                raise ValueError(msg)
    start, whiten = _start(f, p0, bounds), _whitening(sigma, y)

    def residuals(params: Any, data: Any) -> Any:
        x, y = data
        return whiten(jnp.ravel(jnp.broadcast_to(jnp.asarray(f(x, *params)), y.shape)) - y)

    if y.size < start.size:
        msg = f"`ydata` has {y.size} numbers, fewer than the {start.size} params. Fix some, or pass more data."
        raise ValueError(msg)
    limit = kwargs.pop("maxfev", kwargs.pop("max_nfev", None))
    tests = {name: kwargs.pop(name) for name in ("ftol", "xtol", "gtol") if name in kwargs}
    if kwargs:
        warnings.warn(f"Unknown options are not used: {', '.join(kwargs)}", OptimizeWarning, stacklevel=2)
    found = least_squares(residuals, start, bounds=bounds, args=((x, y),), max_nfev=limit, **tests)
    if not found.success:
        msg = f"Optimal parameters not found: {found.message}"
        raise RuntimeError(msg)
    covariance = _inverse(found.jac, start.size)
    if np.isinf(covariance).any() or (not absolute_sigma and y.size == start.size):
        covariance = np.full_like(covariance, np.inf)
        warnings.warn("Covariance of the parameters could not be estimated", OptimizeWarning, stacklevel=2)
    elif not absolute_sigma:
        covariance = covariance * 2 * found.cost / (y.size - start.size)
    if full_output:
        return found.x, covariance, {"nfev": found.nfev, "fvec": found.fun}, found.message, 1
    return found.x, covariance


def _linearized(residuals: Callable[..., Any], x: np.ndarray, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals and their Jacobian."""
    with jax.enable_x64(True):
        at = jnp.asarray(x)
        return np.asarray(residuals(at, *data)), np.asarray(jax.jacfwd(residuals)(at, *data))


def _start(f: Callable[..., Any], p0: Any, bounds: Any) -> np.ndarray:
    """Return the start: ones, one for each of the function's params, moved between the bounds."""
    if p0 is not None:
        return as_vector(p0)
    params = list(inspect.signature(f).parameters.values())[1:]
    if any(param.kind is param.VAR_POSITIONAL for param in params):
        msg = f"`p0` is not given, and {getattr(f, '__name__', f)} does not say how many params it has. Pass `p0`."
        raise ValueError(msg)
    low, high = (np.broadcast_to(np.asarray(end, float), len(params)) for end in ends(bounds))
    middle = np.where(np.isfinite(low), low + 1, np.where(np.isfinite(high), high - 1, 1.0))
    both = np.isfinite(low) & np.isfinite(high)
    return np.where(both, np.where(both, low, 0) / 2 + np.where(both, high, 0) / 2, middle)


def _whitening(sigma: Any, y: np.ndarray) -> Callable[[Any], Any]:
    """Return what makes residuals of one size, by standard deviations or their covariance."""
    if sigma is None:
        return lambda residuals: residuals
    sigma = np.asarray(sigma, float)
    if sigma.shape == (y.size, y.size):
        root = np.linalg.cholesky(sigma)
        return lambda residuals: jax.scipy.linalg.solve_triangular(jnp.asarray(root), residuals, lower=True)
    if sigma.size not in (1, y.size):
        msg = (
            f"`sigma` has shape {sigma.shape}; `ydata` has {y.size} numbers. Pass as many, or their covariance matrix."
        )
        raise ValueError(msg)
    return lambda residuals: residuals / sigma.ravel()


def _inverse(jacobian: np.ndarray, size: int) -> np.ndarray:
    """Return (J'J)^-1, inf where it is singular."""
    _, values, rows = np.linalg.svd(jacobian, full_matrices=False)
    if not np.isfinite(jacobian).all() or values[-1] <= np.finfo(float).eps * max(jacobian.shape) * values[0]:
        return np.full((size, size), np.inf)
    return (rows.T / values**2) @ rows
