"""What pictures are drawn with: axes, and colours, lines and markers that grey prints and all eyes tell apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Style(NamedTuple):
    """How one of several things is drawn."""

    color: str
    line: Any
    marker: str


# The colours of Okabe and Ito (2008); lines and markers differ too, for prints in grey.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
STYLES = (
    Style(BLUE, "-", "o"),
    Style(VERMILLION, "--", "s"),
    Style(GREEN, "-.", "^"),
    Style(PURPLE, ":", "D"),
    Style(ORANGE, (0, (6, 1, 1, 1, 1, 1)), "v"),
    Style("#000000", (0, (1, 1)), "P"),
)


def pyplot() -> Any:
    """Return matplotlib's `pyplot`."""
    try:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = "A picture needs matplotlib: pip install 'jaxgd[plot]'."
        raise ImportError(msg) from error
    return plt


def axes(ax: Any, width: float = 6.4, height: float = 4.2) -> Any:
    """Return the Axes given, or those of a new figure of this size in inches."""
    plt = pyplot()
    if ax is None:
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, plt.Axes):
        many = " Pick one of the array, as `ax=axes[0]`." if isinstance(ax, np.ndarray | list | tuple) else ""
        msg = f"`ax` must be matplotlib Axes, as `plt.subplots()[1]`, or None; got {_short(ax)}.{many}"
        raise TypeError(msg)
    return ax


def several_axes(ax: Any, count: int, width: float = 3.8, height: float = 3.4, most: int = 3) -> np.ndarray:
    """Return an array of so many Axes: those given, or those of a new figure, `most` in a row."""
    if ax is None:
        columns = min(count, most)
        size = (width * columns, height * -(-count // columns))
        found = pyplot().subplots(-(-count // columns), columns, figsize=size, layout="constrained", squeeze=False)[1]
        for extra in found.ravel()[count:]:
            extra.remove()
        return found.ravel()[:count]
    given = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(given) != count:
        msg = f"`ax` has {len(given)} Axes for {count} pictures. Pass as many, as `plt.subplots(1, {count})[1]`."
        raise ValueError(msg)
    found = np.empty(count, object)
    found[:] = [axes(each) for each in given]
    return found


def ink() -> str:
    """Return the colour of text, dark or light as the user's style is."""
    return pyplot().rcParams["text.color"]


def paper() -> str:
    """Return the colour of the background."""
    return pyplot().rcParams["axes.facecolor"]


def legend(ax: Any, *, above: bool) -> None:
    """Draw the legend, `above` all Axes of a figure of our own, where many lines would lie under it."""
    if above:
        handles, labels = ax.get_legend_handles_labels()
        ax.figure.legend(
            handles, labels, loc="outside upper center", fontsize="small", ncols=int(ax.figure.get_figwidth() // 2.9)
        )
    else:
        ax.legend()


def arrow(ax: Any, tail: Sequence[float], head: Sequence[float], color: str, width: float = 1.6) -> None:
    """Draw an arrow between two points of the data."""
    props = {"arrowstyle": "-|>", "color": color, "lw": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
    ax.annotate("", xy=tuple(head), xytext=tuple(tail), arrowprops=props, zorder=5)


def number(value: Any, name: str, what: str, *, positive: bool = False) -> float:
    """Return a real number that a user gave, or refuse it by name."""
    array = None if isinstance(value, bool | str | bytes) or value is None else np.asarray(value)
    if array is None or array.shape != () or array.dtype.kind not in "iuf":
        msg = f"`{name}`, {what}, must be one real number; got {_short(value)}."
        raise TypeError(msg)
    if not np.isfinite(array) or (positive and array <= 0):
        msg = f"`{name}`, {what}, must be {'positive and ' if positive else ''}finite; got {array}."
        raise ValueError(msg)
    return float(array)


def count(value: Any, name: str, what: str, most: int) -> int:
    """Return a whole number from 1 to `most` that a user gave, or refuse it by name."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        msg = f"`{name}`, {what}, must be a whole number; got {_short(value)}."
        raise TypeError(msg)
    if not 1 <= value <= most:
        msg = f"`{name}`, {what}, must be from 1 to {most}; got {value}."
        raise ValueError(msg)
    return int(value)


def interval(value: Any, name: str) -> tuple[float, float]:
    """Return the pair (low, high) that a user gave, or refuse it by name."""
    if not (isinstance(value, tuple | list | np.ndarray) and len(value) == 2):  # noqa: PLR2004 - low and high
        msg = f"`{name}` must be a pair (low, high); got {_short(value)}."
        raise TypeError(msg)
    low, high = (number(end, name, "each end of a pair (low, high)") for end in value)
    if not low < high:
        msg = f"`{name}` must be a pair (low, high) with low below high; got {value!r}."
        raise ValueError(msg)
    return low, high


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"  # noqa: PLR2004 - characters
