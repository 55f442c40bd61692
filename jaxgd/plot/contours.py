"""Solves seen from above and over their moves: contours with paths, and losses, gradients and steps by move."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxgd.plot.canvas import STYLES, axes, interval, legend, paper, pyplot, several_axes
from jaxgd.plot.curves import finite_somewhere
from jaxgd.plot.surface import ROOM, Surface, surface
from jaxgd.result import Result

SIDE = 81  # places along each side where contours are evaluated, half as many where the data are large
LEVELS = 14
FAR = 8  # times the moves of the shortest solve
COLUMNS = {
    "loss": "loss above the lowest seen",
    "grad_norm": "largest gradient component",
    "stepsize": "step size",
}


def contour(
    loss: Any,
    data: Any = None,
    results: Any = None,
    *,
    init: Any = None,
    window: Any = None,
    ax: Any = None,
    **options: Any,
) -> Any:
    """Draw the contours of a loss of two params, with the paths that solves took.

    Args:
        loss: function of `(params, data)`, or of `params` alone, as for `minimize`, of two parameters.
        data: what it gets.
        results: a `Result` solved with `trace=True`, a list of up to six, or a dict of them by name. Absent: solved
            here, from `init`.
        init: the start, as for `minimize`; it is also what says the shape of params, where that is not to be found out.
        window: pair of pairs ((low, high), (low, high)), one for each param. Absent: around the paths.
        ax: matplotlib Axes to draw on. Absent: a new figure.
        **options: of `minimize`, what makes up the loss: `has_aux`, `bounds`, `l1`, `l2`, `term`, `fixed`.

    Returns:
        The Axes. Contours lie such that equal areas are between them; where the loss is not finite, there is a gap.

    Raises:
        TypeError, ValueError: for a loss of more params or fewer, and results without a trace.

    """
    named = {} if results is None else named_results(results)
    paths = {name: moves_of(result) for name, result in named.items()}
    like = next(iter(named.values())).params if named and init is None else init
    seen = surface(loss, data, like, options, 2, "contour", "init")
    if not named:
        named = {"": seen.lowest}
        paths = {"": moves_of(seen.lowest)}
    points = {name: _points(seen, rows.params) for name, rows in paths.items()}
    ranges = _window(seen, window, np.concatenate(list(points.values())), [*named.values()])
    ax, own = axes(ax, 6.4, 5.0), ax is None
    _contours(ax, seen, ranges)
    for style, (name, path) in zip(STYLES, points.items(), strict=False):
        won = bool(named[name].converged)
        said = ": ".join(part for part in (name, f"{len(path) - 1} moves, {'' if won else 'not '}converged") if part)
        every = max(1, len(path) // 15)
        ax.plot(*path.T, color="white", lw=4, alpha=0.8)
        ax.plot(*path.T, color=style.color, ls=style.line, marker=style.marker, markevery=every, ms=5, label=said)
        ax.plot(*path[0], color=style.color, marker="o", ms=10, mfc="none", mew=1.8)
        ax.plot(*path[-1], color=style.color, marker="*", ms=15, mec=paper())
    ax.plot([], [], color="0.4", marker="o", ms=9, mfc="none", mew=1.8, ls="none", label="start")
    ax.plot([], [], color="0.4", marker="*", ms=12, ls="none", label="end")
    ax.set(xlabel=seen.names[0], ylabel=seen.names[1], xlim=ranges[0], ylim=ranges[1])
    legend(ax, above=own and len(points) > 1)
    return ax


def trace(results: Any, of: Any = ("loss", "grad_norm", "stepsize"), *, ax: Any = None) -> Any:
    """Draw loss, gradient and step size against the moves, on log scales, of one solve or of several overlaid.

    Args:
        results: a `Result` solved with `trace=True`, a list of up to six, or a dict of them by name.
        of: "loss", drawn as its height above the lowest that any of the solves has seen, "grad_norm", the largest
            component of the gradient, "stepsize", or a tuple of these.
        ax: matplotlib Axes, as many as `of` names. Absent: a new figure.

    Returns:
        The Axes; an array of them where `of` is a tuple. What is zero or not finite has no place on a log scale.

    Raises:
        TypeError, ValueError: for results without a trace, of many problems, or inside `jit`.

    """
    columns = [of] if isinstance(of, str) else list(of) if isinstance(of, tuple | list) else [of]
    for column in columns or [of]:
        if not isinstance(column, str) or column not in COLUMNS:
            msg = f"`of` must be one of {list(COLUMNS)}, or a tuple of these; got {of!r}."
            raise ValueError(msg)
    named = named_results(results)
    traces = {name: moves_of(result) for name, result in named.items()}
    lowest = min(_lowest(trace.loss) for trace in traces.values())
    found = several_axes(ax, len(columns))
    for axis, column in zip(found, columns, strict=True):
        for style, (name, rows) in zip(STYLES, traces.items(), strict=False):
            values = np.asarray(getattr(rows, column), float) - (lowest if column == "loss" else 0)
            draw_moves(axis, values, style, name)
        axis.set(yscale="log", xlabel="moves", ylabel=COLUMNS[column])
        scale_moves(axis, [len(rows.loss) for rows in traces.values()])
    if len(traces) > 1:
        legend(found[0], above=ax is None)
    return found[0] if isinstance(of, str) else found


def draw_moves(ax: Any, values: np.ndarray, style: Any, name: str) -> None:
    """Draw positive values, one a move, as a line with some markers."""
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    every = max(1, len(values) // 12)
    ax.plot(values, color=style.color, ls=style.line, marker=style.marker, markevery=every, ms=5, lw=1.6, label=name)


def scale_moves(ax: Any, lengths: Sequence[int]) -> None:
    """Set the scale of the moves: where some solves took far more than others, a log scale from the first move on."""
    if max(lengths) > FAR * min(lengths):
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlim(-0.15, 1.15 * max(lengths))
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)


def _lowest(losses: Any) -> float:
    finite = np.asarray(losses, float)
    finite = finite[np.isfinite(finite)]
    return float(finite.min()) if finite.size else np.inf


def named_results(results: Any) -> dict[str, Result]:
    """Return results by name, or refuse what is none."""
    if isinstance(results, dict):
        named = {str(name): result for name, result in results.items()}
    elif isinstance(results, list | tuple):
        named = {f"{i + 1}: {_method(result)}": result for i, result in enumerate(results)}
    else:
        named = {_method(results): results}
    if not 1 <= len(named) <= len(STYLES):
        msg = f"`results` must be 1 to {len(STYLES)} results, which can be told apart; got {len(named)}."
        raise ValueError(msg)
    for result in named.values():
        check_result(result, "results")
    return named


def _method(result: Any) -> str:
    return result.method.split(" (")[0] if isinstance(result, Result) else ""


def check_result(result: Any, name: str, *, lanes: bool = False) -> None:
    """Refuse what is no result, one inside `jit`, and one of many problems, or of one where `lanes` are asked for."""
    if not isinstance(result, Result):
        msg = f"`{name}` must be a `Result`, as `minimize` returns it; got one of type {type(result).__name__}."
        raise TypeError(msg)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(result)):
        msg = f"`{name}` is being traced by JAX; pictures cannot be drawn inside `jit` and the like. Return it first."
        raise TypeError(msg)
    many = np.ndim(result.counts) > 1
    if many and not lanes:
        msg = (
            f"`{name}` has {len(result)} problems, and this picture is of one. Pick one, as `result[0]`; for all use"
            " `plot.evals`, `plot.statuses` or `plot.worst`."
        )
        raise ValueError(msg)
    if lanes and not many:
        msg = f"`{name}` is of one problem; this picture is of many, as `minimize_many` returns them. Use `plot.trace`."
        raise ValueError(msg)


def moves_of(result: Result) -> Any:
    """Return the trace of one problem, or refuse a result that has none."""
    if result.trace is None:
        msg = f"`results`: the one by {result.method} has no trace of its moves. Solve with `trace=True`."
        raise ValueError(msg)
    filled = int(result.trace.count)
    return result.trace.trimmed() if len(result.trace.loss) > filled else result.trace


def _points(seen: Surface, params: Any) -> np.ndarray:
    own = jax.tree.map(lambda leaf: np.shape(leaf)[1:], params)
    like = jax.tree.map(np.shape, seen.given.init)
    if own != like:
        msg = f"`results` hold params of shapes {own}; the loss takes {like}. Pass those of this loss."
        raise ValueError(msg)
    return seen.rows(params)


def _window(seen: Surface, window: Any, points: np.ndarray, results: Sequence[Result]) -> list[tuple[float, float]]:
    """Return what range of each param to draw: that of the paths, and what is near the answer."""
    if window is not None:
        if not (isinstance(window, tuple | list | np.ndarray) and len(window) == 2):  # noqa: PLR2004 - one a param
            msg = f"`window` must be a pair of pairs ((low, high), (low, high)), one for each param; got {window!r}."
            raise TypeError(msg)
        return [interval(own, f"window[{i}]") for i, own in enumerate(window)]
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        msg = "`window` is not given, and the paths are not finite. Give `window=((low, high), (low, high))`."
        raise ValueError(msg)
    best = min(results, key=lambda result: float(result.loss) if np.isfinite(result.loss) else np.inf)
    centre = seen.flat(best.params)
    # How far the contour through the highest place reaches, as the curvature at the answer tells it.
    hessian, losses = seen.hessian(centre), seen.at(points)[0]
    losses = losses[np.isfinite(losses)]
    rise = float(losses.max() - losses.min()) if len(losses) else 0.0
    fine = np.isfinite(hessian).all() and np.linalg.eigvalsh(hessian)[0] > 0
    far = np.sqrt(2 * rise * np.diagonal(np.linalg.inv(hessian))) if fine else np.zeros(2)
    # A path that says itself how wide the picture should be is not made small by a valley that is long.
    long = np.ptp(np.vstack([points, centre]), axis=0)
    far = np.where(long > 0.2 * far, np.minimum(far, 1.5 * long), far)
    low = np.minimum(points.min(axis=0), centre - 0.5 * far)
    high = np.maximum(points.max(axis=0), centre + 0.5 * far)
    wide = high - low
    wide = np.where(wide > 0, wide, wide.max() if wide.max() > 0 else np.maximum(1.0, np.abs(centre)))
    middle = (low + high) / 2
    return [(m - 0.58 * w, m + 0.58 * w) for m, w in zip(middle, wide, strict=True)]


def _contours(ax: Any, seen: Surface, ranges: Sequence[tuple[float, float]]) -> None:
    """Draw contours, in greys light enough for the paths."""
    side = SIDE if seen.numbers <= ROOM else SIDE // 2
    sides = [np.linspace(low, high, side) for low, high in ranges]
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    losses = seen.at(grid)[0].reshape(side, side)
    finite_somewhere(losses, ranges, seen)
    finite = losses[np.isfinite(losses)]
    levels = np.unique(np.quantile(finite, np.linspace(0, 1, LEVELS)))
    if len(levels) < 3 or levels[-1] - levels[0] <= 1e-12 * abs(levels[-1]):  # noqa: PLR2004 - two would be no contour
        return
    colours = pyplot().get_cmap("Greys_r")(np.linspace(0.7, 1.0, len(levels) - 1))
    filled = ax.contourf(*sides, losses, levels=levels, colors=colours)
    ax.contour(*sides, losses, levels=levels[1:-1], colors="0.55", linewidths=0.6)
    ax.figure.colorbar(filled, ax=ax, label="loss", format="%.3g")
