"""Profiles of the loss: how it rises along each param about the answer, the others minimized again."""

import warnings
from typing import Any

import jax
import numpy as np

from jaxgd.api import least_squares, maximize, minimize
from jaxgd.compile import fingerprint
from jaxgd.compile.program import Inputs, Program
from jaxgd.core.flat import Layout
from jaxgd.core.terms import Weights, box_of
from jaxgd.plot.canvas import BLUE, GREEN, VERMILLION, count, ink, number, paper, several_axes
from jaxgd.plot.contours import check_result
from jaxgd.result import NotConvergedWarning, Result
from jaxgd.uncertainty import information

MOST = 12  # params in one figure


def profile(
    result: Any, params: Any = None, *, width: float = 3.0, points: int = 21, rows: Any = None, ax: Any = None
) -> Any:
    """Draw the profile of the loss along each param about the answer, with the standard error marked.

    At each place the param is held and all others are minimized over again. Dashed is the parabola that the standard
    error stands for: where the two agree, intervals of so many standard errors are to be trusted.

    Args:
        result: a converged `Result`, outside of `jit`, of one problem, or one of many, `result[i]`.
        params: which, a list of names as `result.covariance().names` has them, or of their
            numbers. Absent: all that have a standard error, up to 12.
        width: how far to go to either side, in standard errors.
        points: how many places, up to 201, each a solve; made odd, so that the answer is one, and 5 at least.
        rows: how many rows the loss is a mean over, 1 for a sum, as for `stderr`.
        ax: matplotlib Axes, as many as there are params. Absent: a new figure.

    Returns:
        An array of Axes, one for each param.

    Raises:
        NotConverged: where the solve did not converge.
        TypeError, ValueError: as `result.stderr()`, and for params that have no standard error.

    """
    check_result(result, "result")
    width = number(width, "width", "standard errors to either side", positive=True)
    points = count(points, "points", "the places to solve at", 201)
    covariance = result.covariance(rows=rows)
    errors = np.sqrt(np.diagonal(covariance.matrix))
    chosen = _chosen(params, covariance.names, np.flatnonzero((errors > 0) & (errors < np.inf)))
    for i in chosen:
        if not 0 < errors[i] < np.inf:
            msg = (
                f"`params`: {covariance.names[i]} has the standard error {errors[i]:g}: it is held, on a bound, shrunk"
                " to 0, or not determined by the data. Name others."
            )
            raise ValueError(msg)
    again = _Again(result, *result.source.alone())
    places = np.linspace(-width, width, max(5, points) | 1)
    found = several_axes(ax, len(chosen))
    for axis, i in zip(found, chosen, strict=True):
        at, losses = again.flat[i] + places * errors[i], again.along(i, places * errors[i])
        alone = len(covariance.names) == 1
        axis.set(xlabel=covariance.names[i], ylabel="loss" if alone else "loss, the others minimized again")
        _draw(axis, at, losses, errors[i])
        quadratic = again.sign * errors[i] ** 2 / (2 * again.spread[i])
        parabola = losses[len(at) // 2] + quadratic * places**2
        axis.plot(at, parabola, color=VERMILLION, ls="--", lw=1.5, label="parabola of the standard error")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.5 * (high - low))
        axis.legend(loc="upper center", fontsize="small")
    return found


def _chosen(params: Any, names: list[str], sure: np.ndarray) -> list[int]:
    """Return the numbers of the params asked for; of all, those that have a standard error."""
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")  # noqa: PLR2004 - names in a message
    if params is None and not 1 <= len(sure) <= MOST:
        msg = (
            f"`params` is not given, and {len(sure)} of {len(names)} have a standard error; a figure takes 1 to {MOST}."
            f" Name those to draw, as `params=[0, 1]` or by their names. There are: {listed}."
        )
        raise ValueError(msg)
    if params is None:
        return sure.tolist()
    asked = [params] if isinstance(params, str | int | np.integer) else params
    if not isinstance(asked, list | tuple | range | np.ndarray) or not 1 <= len(asked) <= MOST:
        msg = f"`params` must be a list of 1 to {MOST} names or numbers of params; got {params!r}. There are: {listed}."
        raise TypeError(msg)
    found: list[int] = []
    for name in asked:
        fits = [i for i, own in enumerate(names) if name in {own, own.removeprefix("params")}]
        if isinstance(name, int | np.integer) and not isinstance(name, bool) and 0 <= name < len(names):
            fits = [int(name)]
        if len(fits) != 1:
            msg = f"`params` names {name!r}, which the result does not have. There are {len(names)}: {listed}."
            raise ValueError(msg)
        found += fits
    return found


class _Again:
    """A solve that can be done again, with one param held at a place."""

    def __init__(self, result: Result, program: Program, given: Inputs) -> None:
        recipe, self._has_aux = program.recipe, program.recipe.has_aux
        self.sign = recipe.sign
        solve = maximize if recipe.sign < 0 else minimize
        self._solve: Any = least_squares if recipe.least_squares else solve
        functions = fingerprint.rebuild(recipe.functions, iter(given.arrays)) if given.arrays else recipe.functions
        self._loss, self._data, self._params = functions[0], given.data, jax.tree.map(np.asarray, result.params)
        if any(np.iscomplexobj(leaf) for leaf in jax.tree.leaves(self._params)):
            msg = "`result` has complex params, which no bounds can hold. Split them in real and imaginary parts."
            raise TypeError(msg)
        self.flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self._params)]).astype(float)
        self._options, self._ends = _options(program, given, self.flat.size)
        with jax.enable_x64(program.dtype == np.float64):
            found = program.compiled(information.moments, False)(given, result.params)
        hessian = np.asarray(found.hessian, float)
        inner = ~np.asarray(found.held)
        hessian = hessian.T @ hessian if recipe.least_squares else hessian
        at = program.free[inner]
        self.spread = np.full(self.flat.size, np.nan)
        self.spread[at] = np.diagonal(np.linalg.pinv(hessian[np.ix_(inner, inner)], hermitian=True))

    def along(self, i: int, offsets: np.ndarray) -> np.ndarray:
        """Return the loss with param `i` held so far from the answer; NaN where that is out of bounds or fails."""
        losses, middle = np.full(len(offsets), np.nan), len(offsets) // 2
        for side in (range(middle, len(offsets)), range(middle - 1, -1, -1)):
            start = self._params
            for k in side:
                found = self._held(i, self.flat[i] + offsets[k], start)
                if found is not None and found.converged:
                    losses[k], start = float(found.loss), found.params
        return losses

    def _held(self, i: int, place: float, start: Any) -> Result | None:
        lower, upper = (end.copy() for end in self._ends)
        if not lower[i] <= place <= upper[i]:
            return None
        lower[i] = upper[i] = place
        bounds = (_as_tree(lower, self._params), _as_tree(upper, self._params))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            return self._solve(
                self._loss, self._data, start, bounds=bounds, has_aux=self._has_aux, dtype="float64", **self._options
            )


def _as_tree(flat: np.ndarray, params: Any) -> Any:
    """Return the numbers of all params in their shape."""
    leaves, structure = jax.tree.flatten(params)
    parts = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten([part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _options(program: Program, given: Inputs, size: int) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the options that a solve was asked with, and its bounds as vectors of all params."""
    layout = Layout.of(given.init)
    free, options = np.isin(np.arange(size), program.free), {}
    ends = [np.full(size, -np.inf), np.full(size, np.inf)]
    if not free.all():
        options["fixed"] = _as_tree(~free, given.init)
    if given.terms is None:
        return options, ends
    term, ridge = given.terms.term, given.terms.ridge
    box = box_of(term)
    if term is not box:
        options["l1"] = term.weight.tree if isinstance(term.weight, Weights) else term.weight
    if ridge is not None:
        options["l2"] = ridge.tree if isinstance(ridge, Weights) else ridge
    if box is not None:
        ends = [np.array(layout.flatten(end), float) for end in (box.lower, box.upper)]
    return options, ends


def _draw(ax: Any, places: np.ndarray, losses: np.ndarray, error: float) -> None:
    centre = places[len(places) // 2]
    ax.axvspan(
        centre - error,
        centre + error,
        color=GREEN,
        alpha=0.18,
        lw=0,
        label=f"{centre:.4g} $\\pm$ {error:.3g}, one standard error",
    )
    for end in (-error, error):
        ax.axvline(centre + end, color=GREEN, lw=1, ls=":")
    ax.axvline(centre, color=ink(), lw=0.8)
    ax.plot(places, losses, color=BLUE, lw=2, marker=".", ms=5, label="profile")
    ax.plot(centre, losses[len(places) // 2], color=BLUE, marker="*", ms=13, mec=paper(), ls="none", zorder=6)
