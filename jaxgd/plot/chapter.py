"""The pictures of the textbook's chapter on gradient descent, for a loss of one param."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgd.plot.canvas import GREEN, VERMILLION, arrow, axes, count, ink, paper
from jaxgd.plot.curves import Place, drawn, given, moved, room_below, start_of, stepsize_of, tangent_of
from jaxgd.plot.surface import surface

FAR = 10  # times the first distance from the minimum: a descent that leads further is not followed


def curve(loss: Any, data: Any = None, theta: Any = None, *, window: Any = None, ax: Any = None, **options: Any) -> Any:
    """Draw the loss over theta, its minimum, and `theta` on it.

    Args:
        loss: function of `(theta, data)`, or of `theta` alone, as for `minimize`, of one parameter.
        data: what it gets.
        theta: place to mark: a number, or a pytree that holds one, for a loss that takes such.
        window: pair (low, high) of thetas to draw. Absent: around the minimum, which `minimize` finds, and `theta`.
        ax: matplotlib Axes to draw on. Absent: a new figure.
        **options: of `minimize`, what makes up the loss: `has_aux`, `bounds`, `l1`, `l2`, `term`, `fixed`.

    Returns:
        The Axes. Where the loss is not finite, or a bound keeps it from being evaluated, the curve has a gap.

    Raises:
        TypeError, ValueError: for a loss of more params, and where the loss is finite nowhere in the window.

    """
    seen = surface(loss, data, theta, options, 1, "curve", "theta")
    places = [] if theta is None else [given(seen, theta)]
    return drawn(axes(ax), seen, window, places)


def tangent(
    loss: Any, data: Any = None, theta: Any = None, *, window: Any = None, ax: Any = None, **options: Any
) -> Any:
    """Draw the tangent of the loss at `theta`; an arrow points downhill along it, to the minimum.

    The arguments are those of `curve`. Absent, `theta` lies to the left of the minimum.
    """
    seen = surface(loss, data, theta, options, 1, "tangent", "theta")
    place = start_of(seen, theta, window)
    ax = drawn(axes(ax), seen, window, [place])
    side = "flat here" if place.slope == 0 else f"downhill to the {'left' if place.slope > 0 else 'right'}"
    reach = tangent_of(ax, place, f"tangent, slope {place.slope:.4g}: {side}")
    if place.slope:
        ahead = -0.75 * reach * np.sign(place.slope)
        arrow(ax, place[:2], (place.theta + ahead, place.loss + place.slope * ahead), VERMILLION, 2.2)
    ax.legend()
    return ax


def step(
    loss: Any,
    data: Any = None,
    theta: Any = None,
    stepsize: Any = None,
    *,
    window: Any = None,
    ax: Any = None,
    **options: Any,
) -> Any:
    """Draw one step of gradient descent: from the old theta to `theta - stepsize * slope`.

    The arguments are those of `curve`; absent, `theta` lies to the left of the minimum, and `stepsize` leads 0.4 of the
    way there.
    """
    seen = surface(loss, data, theta, options, 1, "step", "theta")
    old = start_of(seen, theta, window)
    size = stepsize_of(seen, stepsize, old)
    new = moved(seen, old, size)
    if not np.isfinite(new.loss):
        msg = f"`stepsize={size:g}` leads to theta {new.theta:g}, where the loss is not finite. Take a smaller one."
        raise ValueError(msg)
    ax = drawn(axes(ax), seen, window, [old, new], ("old theta", "new theta"))
    tangent_of(ax, old, f"tangent at the old theta, slope {old.slope:.4g}")
    low, _ = room_below(ax)
    for place in (old, new):
        ax.plot([place.theta] * 2, [low, place.loss], color=ink(), lw=0.8, ls=":", zorder=2)
    height = low + 0.06 * (ax.get_ylim()[1] - low)
    if new.theta != old.theta:
        arrow(ax, (old.theta, height), (new.theta, height), GREEN, 2.2)
    change = new.theta - old.theta
    said = f"step $-${size:.3g} $\\times$ slope = {change:+.3g}".replace("= -", "= $-$")
    ax.plot([], [], color=GREEN, lw=2.2, marker=">", label=said)
    ax.legend()
    return ax


def descent(
    loss: Any,
    data: Any = None,
    theta: Any = None,
    stepsize: Any = None,
    *,
    moves: int = 8,
    window: Any = None,
    ax: Any = None,
    **options: Any,
) -> Any:
    """Draw successive steps of gradient descent, which shrink as the slope does.

    The arguments are those of `step`; `moves` says how many at most, up to 100. A descent that leads out of all
    proportion is drawn as far as it can be seen, and the legend says that it diverges.
    """
    moves = count(moves, "moves", "how many steps to draw", 100)
    seen = surface(loss, data, theta, options, 1, "descent", "theta")
    places, end = [start_of(seen, theta, window)], ""
    size, centre = stepsize_of(seen, stepsize, places[0]), seen.minimum and float(seen.minimum[0][0])
    while len(places) <= moves and not end:
        new = moved(seen, places[-1], size)
        away = centre is not None and abs(new.theta - centre) > FAR * abs(places[0].theta - centre) > 0
        end = " it diverges" if away or not np.isfinite(new.loss) else ""
        places += [] if end else [new]
    said = f"theta after 0 to {len(places) - 1} moves, step size {size:.3g}" + (f"; then{end}" if end else "")
    ax = drawn(axes(ax), seen, window, places, ())
    low, high = room_below(ax, 0.32)
    thetas, losses, _ = zip(*places, strict=True)
    levels = low + (high - low) * (0.23 - 0.2 * (np.arange(len(places)) - 0.5) / max(1, len(places) - 1))
    ax.plot(thetas, losses, color=VERMILLION, marker="o", ls="none", mec=paper(), ms=7, label=said, zorder=6)
    for old, new, level in zip(places, places[1:], levels[1:], strict=False):
        arrow(ax, old[:2], new[:2], VERMILLION, 1.2)
        ax.plot([old.theta, new.theta], [level] * 2, color=GREEN, marker="|", ms=5, lw=2.2)
    ax.plot([], [], color=GREEN, marker="|", lw=2.2, label="the steps, one below the other")
    ax.vlines(thetas, [*levels[1:], levels[-1]], losses, color=ink(), lw=0.7, ls=":", zorder=2)
    _number(ax, places)
    ax.legend()
    return ax


def _number(ax: Any, places: Sequence[Place]) -> None:
    """Write the number of moves beside each theta, as far as there is room."""
    last, wide = np.inf, float(np.diff(ax.get_xlim())[0])
    for i, place in enumerate(places):
        if abs(place.theta - last) > 0.07 * wide:
            left = place.slope < 0
            at = {"xytext": (-9 if left else 9, -6), "ha": "right" if left else "left", "va": "center"}
            ax.annotate(str(i), place[:2], textcoords="offset points", zorder=7, **at)
            last = place.theta
