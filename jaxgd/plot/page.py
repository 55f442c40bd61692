"""A page with sliders for the step size and the start of gradient descent, which redraws it: no server, no network."""

import html
import json
import os
import tempfile
import webbrowser
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxgd.compile.loss_jaxpr import name_of
from jaxgd.plot.canvas import number
from jaxgd.plot.curves import check_inside, default_stepsize, finite_somewhere, seen_window, start_of
from jaxgd.plot.surface import surface

SHOWN = 400  # cells of the grid in the window; as many lie to either side
HEIGHT = 700  # of the frame in a notebook, in pixels


@dataclass(frozen=True)
class Page:
    """A page that stands alone: a notebook shows it in a frame, `save` writes it, `open` shows it in a browser."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        """Return a frame that keeps the page apart from the notebook's."""
        inner = html.escape(self.html, quote=True)
        style = f"width:100%;height:{HEIGHT}px;border:0"
        return f'<iframe title="Gradient descent" sandbox="allow-scripts" style="{style}" srcdoc="{inner}"></iframe>'

    def save(self, path: Any) -> Path:
        """Write the page to a file, `path`, and return where it is."""
        if not isinstance(path, str | os.PathLike) or not str(path):
            msg = f"`path` must say where the page is to be written, as 'descent.html'; got {path!r}."
            raise TypeError(msg)
        try:
            Path(path).write_text(self.html, encoding="utf-8")
        except OSError as error:
            msg = f"`path={str(path)!r}` cannot be written: {error.strerror}. Choose a file in a folder that is there."
            raise type(error)(msg) from error
        return Path(path)

    def open(self) -> Path:
        """Show the page in a browser, from a file among the temporary ones, and return where that is."""
        path = self.save(Path(tempfile.mkdtemp(prefix="jaxgd-")) / "descent.html")
        webbrowser.open(path.as_uri())
        return path


def explore(
    loss: Any,
    data: Any = None,
    theta: Any = None,
    stepsize: Any = None,
    *,
    xtol: float = 1e-3,
    window: Any = None,
    **options: Any,
) -> Page:
    """Return a page that draws gradient descent on a loss of one parameter, with sliders for step size and start.

    The loss and its slope are tabled here, and the page reads between by Hermite's cubics, so it needs neither Python
    nor a network. In a notebook it shows itself.

    Args:
        loss: function of `(theta, data)`, or of `theta` alone, as for `minimize`, of one parameter.
        data: what it gets.
        theta: where the slider of the start stands at first. Absent: left of the minimum.
        stepsize: where that of the step size stands. Absent: what leads 0.4 of the way to the minimum.
        xtol: the descent ends when theta changes by less, as in the textbook.
        window: pair (low, high) of thetas to draw. Absent: around the minimum, which `minimize` finds, and `theta`.
        **options: of `minimize`, what makes up the loss: `has_aux`, `bounds`, `l1`, `l2`, `term`, `fixed`.

    Returns:
        A `Page` with `save(path)`, `open()`, and its text as `html`.

    Raises:
        TypeError, ValueError: for a loss of more params, and where the loss is finite nowhere in the window.

    """
    xtol = number(xtol, "xtol", "the change of theta to end at", positive=True)
    if stepsize is not None:
        stepsize = number(stepsize, "stepsize", "where the slider stands", positive=True)
    seen = surface(loss, data, theta, options, 1, "explore", "theta")
    low, high = seen_window(seen, window, [start_of(seen, theta, window).theta] if theta is not None else [])
    place = start_of(seen, theta, (low, high))
    check_inside(place.theta, (low, high))
    if stepsize is None:
        stepsize = default_stepsize(seen, place.theta, place.slope)
    wide = high - low
    grid = np.linspace(low - wide, high + wide, 3 * SHOWN + 1)
    losses, slopes = seen.at(grid[:, None])
    finite_somewhere(losses[SHOWN : 2 * SHOWN + 1], (low, high), seen)
    least = seen.minimum
    content = {
        "loss": name_of(loss),
        "name": seen.names[0],
        "grid": [float(grid[0]), float(grid[-1])],
        "losses": _numbers(losses),
        "slopes": _numbers(slopes[:, 0]),
        "window": [low, high],
        "minimum": None if least is None else [float(least[0][0]), float(least[1])],
        "theta": place.theta,
        "stepsize": stepsize,
        "xtol": xtol,
    }
    template = resources.files("jaxgd").joinpath("plot/explore.html").read_text(encoding="utf-8")
    return Page(template.replace('"told here"', _json(content)))


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return numbers as JSON has them, which has none that is not finite."""
    return [float(f"{value:.12g}") if np.isfinite(value) else None for value in values]


def _json(content: Any) -> str:
    """Return JSON that no text in it can end the script of."""
    text = json.dumps(content, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
