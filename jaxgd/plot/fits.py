"""Pictures of data with a fitted curve and how sure it is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.flat import Layout
from jaxgd.plot.canvas import BLUE, GREEN, VERMILLION, ink, number, pyplot, several_axes
from jaxgd.plot.canvas import count as whole
from jaxgd.plot.contours import check_result
from jaxgd.result import NotConverged, Result

POINTS = 200  # of a curve
MOST = 12  # problems in one figure


def fit(
    result: Any, x: Any, y: Any, model: Callable[..., Any], *, width: float = 1.96, count: int = 6, ax: Any = None
) -> Any:
    """Draw data, the fitted curve with the band of its standard error, and below it what the curve leaves.

    Args:
        result: a `Result` of one problem, or of many, of which the best and the worst are drawn, by their loss.
        x: array of shape `(n,)`; of many problems also `(lanes, n)`.
        y: array of shape `(n,)`; of many problems `(lanes, n)`.
        model: function of `(params, x)`, in `jax.numpy`, that returns what `y` should be, for any number of `x`.
        width: of the band to either side, in standard errors of the curve, by the delta method from
            `result.covariance()`. 1.96 is 95 % of a normal distribution. Where that is refused, there is no band.
        count: of how many problems at most, up to 12.
        ax: matplotlib Axes: two for one problem, or as many as problems are drawn. Absent: a new figure.

    Returns:
        An array of Axes. Of one problem there are two, that of the data and that of the residuals.

    Raises:
        TypeError, ValueError: for data of other shapes, and a model that does not fit them.

    """
    lanes = isinstance(result, Result) and np.ndim(result.counts) > 1
    check_result(result, "result", lanes=lanes)
    width = number(width, "width", "standard errors to either side", positive=True)
    x, y = (_numbers(values, name) for values, name in ((x, "x"), (y, "y")))
    if not lanes:
        _check_shapes(x, y, ())
        return _with_residuals(result, x, y, model, width, ax)
    count = min(whole(count, "count", "the problems to draw", MOST), len(result))
    _check_shapes(x, y, (len(result),))
    order = np.argsort(np.where(np.isfinite(result.loss), result.loss, np.inf), kind="stable")
    chosen = [*order[: -(-count // 2)], *order[len(order) - count // 2 :]]
    found = several_axes(ax, len(chosen))
    for axis, lane in zip(found, map(int, chosen), strict=True):
        one = result[lane]
        _draw(axis, one, x if x.ndim == 1 else x[lane], y[lane], model, width)
        name = f"lane {lane}" if one.labels is None else str(one.labels)
        axis.set_title(f"{name}: loss {float(one.loss):.3g}" + ("" if one.converged else f", {one.status.name}"))
    return found


def _with_residuals(result: Result, x: np.ndarray, y: np.ndarray, model: Any, width: float, ax: Any) -> Any:
    if ax is None:
        size = {"figsize": (6.4, 5.2), "layout": "constrained"}
        ax = pyplot().subplots(2, sharex=True, gridspec_kw={"height_ratios": [3, 1]}, **size)[1]
    upper, lower = several_axes(ax, 2)
    fitted = _draw(upper, result, x, y, model, width)
    upper.legend()
    lower.plot(x, y - fitted, "o", ms=3.5, color=BLUE)
    lower.axhline(0, color=ink(), lw=0.8)
    lower.set(xlabel="x", ylabel="y - curve")
    return np.array([upper, lower], object)


def _draw(ax: Any, result: Result, x: np.ndarray, y: np.ndarray, model: Any, width: float) -> np.ndarray:
    """Draw data, curve and band; return the curve at the data."""
    at = np.linspace(x.min(), x.max(), POINTS)
    fitted, curve = (_curve(model, result, places) for places in (x, at))
    ax.plot(x, y, "o", ms=3.5, color=BLUE, label="data")
    ax.plot(at, curve, color=VERMILLION, lw=1.8, label="fitted")
    errors = _errors(model, result, at)
    if errors is not None:
        band = {"color": GREEN, "alpha": 0.25, "lw": 0, "label": f"{width:g} standard errors"}
        ax.fill_between(at, curve - width * errors, curve + width * errors, **band)
    ax.set(ylabel="y")
    return fitted


def _curve(model: Any, result: Result, x: np.ndarray) -> np.ndarray:
    """Return the model at the answer, or refuse one that does not fit."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, result.params)
        try:
            found = np.asarray(model(params, jnp.asarray(x)))
        except Exception as error:
            error.add_note("`model` raised this; it is called as model(result.params, x), with x of any length.")
            raise
    if found.shape != x.shape:
        msg = f"`model` returns shape {found.shape} for x of shape {x.shape}. Return one number for each."
        raise ValueError(msg)
    return found


def _errors(model: Any, result: Result, x: np.ndarray) -> np.ndarray | None:
    """Return the standard errors of the curve, None where the answer has none: Var f = J C J'."""
    try:
        covariance = result.covariance().matrix
    except (NotConverged, ValueError):
        return None
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, result.params)
        layout = Layout.of(params)
        jacobian = jax.jacfwd(lambda flat: model(layout.unflatten(flat), jnp.asarray(x)))(layout.flatten(params))
    jacobian = np.asarray(jacobian, float)
    # A variance that is infinite counts where the curve depends on it alone.
    known = np.where(jacobian[:, :, None] * jacobian[:, None] == 0, 0, covariance)
    variances = np.einsum("ni,nij,nj->n", jacobian, known, jacobian)
    return np.sqrt(variances) if np.isfinite(variances).all() and (variances >= 0).all() else None


def _numbers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or not array.size:
        msg = f"`{name}` must be an array of numbers; got {array.dtype} of shape {array.shape}."
        raise TypeError(msg)
    return array.astype(float)


def _check_shapes(x: np.ndarray, y: np.ndarray, lanes: tuple[int, ...]) -> None:
    """Refuse data that are not one number for each x, of each problem."""
    fits = y.ndim == 1 + len(lanes) and y.shape[:-1] == lanes and x.shape in {y.shape, y.shape[-1:]}
    if not fits:
        want = "(n,)" if not lanes else f"({lanes[0]}, n), problems first"
        msg = f"`x` and `y` have shapes {x.shape} and {y.shape}; y must have shape {want}, and x as many numbers."
        raise ValueError(msg)
