"""A loss of one param as a curve: its window, its minimum, and places on it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgd.compile.loss_jaxpr import name_of
from jaxgd.plot.canvas import BLUE, VERMILLION, ink, interval, number, paper
from jaxgd.plot.surface import Surface

GRID = 401  # places where a curve is evaluated


class Place(NamedTuple):
    """A theta on the curve."""

    theta: float
    loss: float
    slope: float


def given(seen: Surface, theta: Any) -> Place:
    """Return the theta that a user gave, on the curve."""
    point = seen.flat(seen.ask.init if np.ndim(theta) == 0 else theta)
    found, slopes = seen.one(*point)
    if not np.isfinite(found):
        msg = f"`theta={theta!r}`: the loss {name_of(seen.ask.loss)} is not finite there, or a bound excludes it."
        raise ValueError(f"{msg} Choose another.")
    return Place(float(point[0]), found, float(slopes[0]))


def start_of(seen: Surface, theta: Any, window: Any) -> Place:
    """Return the theta given, or one to the left of the minimum."""
    if theta is not None:
        return given(seen, theta)
    low, high = seen_window(seen, window, [])
    at = low + 0.1 * (high - low)
    found, slopes = seen.one(at)
    if not np.isfinite(found):
        msg = f"`theta` is not given, and the loss is not finite at {at:.5g}, in the window's left. Give `theta`."
        raise ValueError(msg)
    return Place(at, found, float(slopes[0]))


def moved(seen: Surface, old: Place, size: float) -> Place:
    """Return where a step of gradient descent leads."""
    theta = old.theta - size * old.slope
    found, slopes = seen.one(theta)
    return Place(theta, found, float(slopes[0]))


def stepsize_of(seen: Surface, stepsize: Any, place: Place) -> float:
    """Return the step size given, or one that leads 0.4 of the way to the minimum."""
    if stepsize is not None:
        return number(stepsize, "stepsize", "what the slope is multiplied by", positive=True)
    return default_stepsize(seen, place.theta, place.slope)


def default_stepsize(seen: Surface, theta: float, slope: float) -> float:
    """Return the step size that leads 0.4 of the way to the minimum from `theta`."""
    least = seen.minimum
    size = 0.0 if least is None or slope == 0 else 0.4 * (float(least[0][0]) - theta) / -slope
    if not 0 < size < np.inf:
        msg = f"`stepsize` is not given, and none leads from theta {theta:g} to a minimum. Give `stepsize`."
        raise ValueError(msg)
    return size


def seen_window(seen: Surface, window: Any, thetas: Sequence[float]) -> tuple[float, float]:
    """Return the window given, or one around the minimum that holds the thetas."""
    if window is not None:
        return interval(window, "window")
    least, start = seen.minimum, float(seen.flat(seen.given.init)[0])
    if least is None and not thetas:
        msg = f"`window` is not given, and no minimum was found to draw around: {seen.lowest.message}"
        raise ValueError(f"{msg} Give `window=(low, high)`.")
    centre = thetas[0] if least is None else float(least[0][0])
    half = 1.25 * max((abs(theta - centre) for theta in thetas), default=0.4 * abs(start - centre))
    if half <= 1e-9 * abs(centre):
        curvature, high = (0.0, 0.0) if least is None else (float(seen.hessian(least[0])[0, 0]), abs(least[1]))
        half = 2 * np.sqrt(2 * high / curvature) if curvature > 0 and high > 0 else max(1.0, abs(centre))
    return centre - half, centre + half


def drawn(ax: Any, seen: Surface, window: Any, places: Sequence[Place], labels: Sequence[str] | None = None) -> Any:
    """Draw the loss over the window, its minimum, and the places with their labels."""
    low, high = seen_window(seen, window, [place.theta for place in places])
    check_inside(places[0].theta if places else low, (low, high))
    grid = np.linspace(low, high, GRID)
    losses = seen.at(grid[:, None])[0]
    finite_somewhere(losses, (low, high), seen)
    ax.plot(grid, losses, color=ink(), lw=1.8, label="loss", zorder=3)
    least = seen.minimum
    if least is not None and low <= least[0][0] <= high:
        lower = np.nanmin(losses) < least[1] - 1e-6 * (np.nanmax(losses) - least[1])
        what = f"{'local ' if lower else ''}minimum, {seen.names[0]} = {least[0][0]:.5g}"
        ax.plot(*least, color=BLUE, marker="*", ms=13, ls="none", mec=paper(), label=what, zorder=7)
    named = ("theta",) if labels is None else labels
    for place, name, face in zip(
        places, named, (paper(), VERMILLION) if len(named) > 1 else (VERMILLION,), strict=False
    ):
        said = f"{name} = {place.theta:.5g}, loss {place.loss:.4g}"
        ax.plot(*place[:2], color=VERMILLION, marker="o", ms=8, mfc=face, ls="none", label=said, zorder=6)
    _limits(ax, losses, [place.loss for place in places])
    ax.set(xlabel=seen.names[0], ylabel="loss", xlim=(low, high))
    ax.legend()
    return ax


def check_inside(theta: float, window: tuple[float, float]) -> None:
    """Refuse a theta that a window does not show."""
    if not window[0] <= theta <= window[1]:
        msg = f"`theta={theta:g}` lies outside `window=({window[0]:g}, {window[1]:g})`."
        raise ValueError(f"{msg} Widen the window, or leave it out.")


def finite_somewhere(losses: np.ndarray, window: Any, seen: Surface) -> None:
    """Refuse a window in which the loss is finite nowhere."""
    if not np.isfinite(losses).any():
        said = "; ".join(f"({low:.4g}, {high:.4g})" for low, high in np.reshape(window, (-1, 2)))
        msg = f"`window={said}`: the loss {name_of(seen.ask.loss)} is finite nowhere there. Choose another `window`."
        raise ValueError(msg)


def _limits(ax: Any, losses: np.ndarray, marked: Sequence[float]) -> None:
    """Set the range of losses: what lies far above all that is marked is cut off."""
    low, high = np.nanmin(losses), np.nanmax(losses)
    if marked:
        top = max(marked)
        high = min(high, low + 2.5 * (top - low)) if top > low else high
        low, high = min(low, *marked), max(high, top)
    gap = 0.06 * (high - low) if high > low else max(1.0, abs(low)) / 10
    ax.set_ylim(low - gap, high + gap)


def room_below(ax: Any, share: float = 0.16) -> tuple[float, float]:
    """Make room under the curve, and return the range of losses."""
    low, high = ax.get_ylim()
    ax.set_ylim(low - share * (high - low), high)
    return ax.get_ylim()


def tangent_of(ax: Any, place: Place, label: str) -> float:
    """Draw the tangent at a place, and return how far it reaches to either side."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    slope_size = abs(place.slope)
    reach = min(0.3 * (right - left), 0.45 * (high - low) / slope_size if slope_size else np.inf)
    thetas = place.theta + np.array([-reach, reach])
    ax.plot(thetas, place.loss + place.slope * (thetas - place.theta), color=VERMILLION, lw=1.6, ls="--", label=label)
    return reach
