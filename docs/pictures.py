"""The pictures of the pages, drawn as the site is built: `draw` yields the name of each and its SVG.

`python docs/pictures.py` writes that of the README, which is kept.
"""

import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

import jaxgd
from jaxgd.cli.example import tips

Y = np.array([12.1, 12.8, 14.9, 16.3, 17.2])
STYLE = {"svg.hashsalt": "jaxgd", "figure.figsize": (6.4, 3.8)}
mse = jaxgd.losses.mse


def draw() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the SVG of each picture."""
    with mpl.rc_context(STYLE):
        for paint in PICTURES:
            figure, ax = plt.subplots(layout="constrained")
            paint(ax)
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            plt.close(figure)
            yield paint.__name__, file.getvalue()


def curve(ax: Axes) -> None:
    """Draw the loss of the five numbers as a function of theta."""
    jaxgd.plot.curve(mse, Y, 12.0, ax=ax)


def tangent(ax: Axes) -> None:
    """Draw the line that touches the loss curve at a theta."""
    jaxgd.plot.tangent(mse, Y, 13.2, ax=ax)


def step(ax: Axes) -> None:
    """Draw one step of gradient descent."""
    jaxgd.plot.step(mse, Y, 12.0, stepsize=0.3, ax=ax)


def descent(ax: Axes) -> None:
    """Draw the moves of gradient descent from 12 with a step size of 0.3."""
    jaxgd.plot.descent(mse, Y, 12.0, stepsize=0.3, ax=ax)


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
    jaxgd.plot.curve(lambda theta: (theta**2 - 1) ** 2 * 2 + theta, theta=1.0, window=(-1.9, 1.9), ax=ax)


def contour(ax: Axes) -> None:
    """Draw how gradient descent and the chosen method go down a valley, the loss of a line's offset and slope."""
    X, y = np.column_stack([np.ones(4), np.arange(4.0)]), np.array([1.0, 3.0, 5.0, 7.0])
    options: dict[str, Any] = {"tol": 1e-6, "trace": True, "dtype": "float64"}
    methods = {"gradient descent": jaxgd.GradientDescent(0.45), "Newton": "newton"}
    paths = {
        name: jaxgd.minimize(jaxgd.losses.squared, (X, y), np.array([2.3, 0.1]), method=method, **options)
        for name, method in methods.items()
    }
    jaxgd.plot.contour(jaxgd.losses.squared, (X, y), paths, ax=ax)


PICTURES = (curve, tangent, step, descent, losses, valleys, contour)


# Seconds, of 5,000 logistic regressions 200 x 10, by `python -m benchmarks.lanes --only fits`: docs/measured.md.
FITS = {"jaxgd": 0.493, "optimistix LBFGS": 3.482, "optimistix BFGS": 7.402}


def front() -> None:
    """Write the picture of the README: a fit, and the time of many."""
    t, noise = np.linspace(0, 4, 20), np.random.default_rng(0).normal(scale=0.2, size=20)
    signal = 2 * np.exp(-0.8 * t) + noise

    def model(p: Any, t: Any) -> Any:
        return p["height"] * jnp.exp(-p["rate"] * t)

    def loss(p: Any, data: Any) -> Any:
        return jnp.mean((data[1] - model(p, data[0])) ** 2)

    fit = jaxgd.minimize(loss, (t, signal), {"height": 1.0, "rate": 1.0})
    errors = fit.stderr()
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplot_mosaic(
            [["data", "bars"], ["rest", "bars"]], figsize=(9, 3.6), height_ratios=[3, 1], layout="constrained"
        )
        jaxgd.plot.fit(fit, t, signal, model, ax=[axes["data"], axes["rest"]])
        said = [f"{name} {float(fit.params[name]):.2f} \u00b1 {float(errors[name]):.2f}" for name in fit.params]
        axes["data"].set_title(", ".join(said))
        axes["data"].tick_params(labelbottom=False)
        bars = axes["bars"].barh(list(FITS), list(FITS.values()), color=["C1", "0.7", "0.7"])
        axes["bars"].bar_label(bars, fmt="{:.1f} s", padding=4)
        axes["bars"].invert_yaxis()
        axes["bars"].spines[["top", "right", "bottom"]].set_visible(False)
        axes["bars"].set(title="5,000 logistic regressions", xticks=[], xlim=(0, 1.15 * max(FITS.values())))
        figure.savefig(pathlib.Path(__file__).with_name("front.svg"), metadata={"Date": None})


if __name__ == "__main__":
    front()
