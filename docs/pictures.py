"""The pictures of the pages, drawn as the site is built: `draw` yields the name of each and its SVG."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxgd
from jaxgd.__main__ import tips

Y = np.array([12.1, 12.8, 14.9, 16.3, 17.2])
GREY, BLUE, RED = "#808080", "#5b7fd6", "#d6604d"  # seen on light and dark paper
STYLE = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "legend.frameon": False,
    "legend.labelcolor": GREY,
    "lines.linewidth": 2,
    "savefig.transparent": True,
    "svg.hashsalt": "jaxgd",
    "xtick.color": GREY,
    "ytick.color": GREY,
}
mse = jaxgd.losses.mse


def draw() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the SVG of each picture."""
    with mpl.rc_context(STYLE):
        for paint in PICTURES:
            figure = Figure(figsize=(6, 3.4), layout="constrained")
            paint(figure.subplots())
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            yield paint.__name__, file.getvalue()


def curve(ax: Axes) -> None:
    """Draw the loss of the five numbers as a function of theta."""
    _curve(ax)
    _marked(ax, [14.66], "the minimum")


def tangent(ax: Axes) -> None:
    """Draw the line that touches the loss curve at a theta."""
    _curve(ax)
    for theta in (13.2, 15.8):
        _tangent(ax, theta)
        _marked(ax, [theta])


def step(ax: Axes) -> None:
    """Draw one step of gradient descent: along the tangent's slope, back onto the curve."""
    _curve(ax)
    theta = 12.0
    after = theta - 0.3 * float(jax.grad(mse)(theta, Y))
    _tangent(ax, theta)
    _marked(ax, [theta, after])
    low = float(mse(after, Y))
    ax.annotate("", (after, low), (theta, low), arrowprops={"arrowstyle": "->", "color": RED})
    ax.plot([theta, theta], [low, float(mse(theta, Y))], ":", color=GREY)
    ax.text((theta + after) / 2, low - 0.7, r"$-\alpha\, L'(\theta)$", color=RED, ha="center", va="top")


def descent(ax: Axes) -> None:
    """Draw the moves of gradient descent from 12 with a step size of 0.3."""
    _curve(ax)
    method, stop = jaxgd.GradientDescent(stepsize=0.3), jaxgd.Stop(xtol=1e-3)
    trace = jaxgd.minimize(mse, Y, 12.0, method=method, stop=stop, trace=True).trace
    ax.plot(trace.params, trace.loss, "o-", color=RED, markersize=5, linewidth=1)


def losses(ax: Axes) -> None:
    """Draw three mean losses of the tips, each shifted to a minimum of zero."""
    percent = tips()
    thetas = np.linspace(13, 19, 200)
    named: dict[str, Callable[[Any, Any], Any]] = {
        "squared": mse,
        "Huber, delta 1": jaxgd.losses.huber(1.0),
        "absolute": jaxgd.losses.mae,
    }
    for (name, loss), style in zip(named.items(), ("-", "--", ":"), strict=True):
        heights = np.array([float(loss(theta, percent)) for theta in thetas])
        ax.plot(thetas, (heights - heights.min()) / np.ptp(heights), style, label=name)
    ax.set(xlabel="theta, percent of the bill", ylabel="loss, from its lowest to its highest here")
    ax.legend()


def valleys(ax: Axes) -> None:
    """Draw a loss with two minima."""
    thetas = np.linspace(-2.2, 2.2, 200)
    ax.plot(thetas, (thetas**2 - 1) ** 2 * 2 + thetas, color=BLUE)
    ax.set(xlabel="theta", ylabel="loss", ylim=(-2, 8))


def contour(ax: Axes) -> None:
    """Draw how gradient descent and the chosen method go down a valley, the loss of a line's offset and slope."""
    x, y = np.arange(4.0), np.array([1.0, 3.0, 5.0, 7.0])
    X = np.column_stack([np.ones(4), x])
    offset, slope = np.meshgrid(np.linspace(-0.5, 3.2, 80), np.linspace(-0.4, 3.2, 80))
    height = np.mean((y - offset[..., None] - slope[..., None] * x) ** 2, axis=-1)
    ax.contour(offset, slope, np.log(height), levels=12, colors=BLUE, alpha=0.4, linewidths=1)
    for method, name, style in ((jaxgd.GradientDescent(0.45), "gradient descent", "o-"), ("auto", "Newton", "s--")):
        options: dict[str, Any] = {"method": method, "tol": 1e-6, "trace": True, "dtype": "float64"}
        path = jaxgd.minimize(jaxgd.losses.squared, (X, y), np.array([2.3, 0.1]), **options).trace
        ax.plot(*np.asarray(path.params).T, style, markersize=3, linewidth=1, label=name)
    ax.set(xlabel="offset", ylabel="slope")
    ax.legend()


PICTURES = (curve, tangent, step, descent, losses, valleys, contour)


def _curve(ax: Axes) -> None:
    thetas = np.linspace(11, 18, 200)
    ax.plot(thetas, [float(loss) for loss in jax.vmap(mse, (0, None))(thetas, jnp.asarray(Y))], color=BLUE)
    ax.plot(Y, np.full(5, 2.0), "|", color=GREY, markersize=12)
    ax.set(xlabel="theta; the five numbers are marked below", ylabel="mean squared error", ylim=(1.6, 16))


def _marked(ax: Axes, thetas: list[float], words: str = "") -> None:
    ax.plot(thetas, [float(mse(theta, Y)) for theta in thetas], "o", color=RED)
    if words:
        place = thetas[0], float(mse(thetas[0], Y))
        ax.annotate(words, place, (0, 14), textcoords="offset points", ha="center", color=RED)


def _tangent(ax: Axes, theta: float) -> None:
    loss, slope = (float(number) for number in jax.value_and_grad(mse)(theta, Y))
    line = theta + np.array([-1.1, 1.1])
    ax.plot(line, loss + slope * (line - theta), "--", color=RED, linewidth=1.5)
