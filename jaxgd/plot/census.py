"""Pictures of many problems: what they cost, how they ended, and how the worst of them went."""

from typing import Any

import numpy as np

from jaxgd.core.stop import Status
from jaxgd.plot.canvas import BLUE, STYLES, VERMILLION, axes, ink
from jaxgd.plot.canvas import count as number
from jaxgd.plot.contours import check_result, draw_moves, scale_moves
from jaxgd.result import Result

WIDE = 30  # times the fewest evaluations: from there on the scale is a log scale
BINS = 40


def evals(result: Any, *, ax: Any = None) -> Any:
    """Draw a histogram of the evaluations of many problems, those that did not converge on top of the others.

    Args:
        result: what `minimize_many` returned, of any number of problems.
        ax: matplotlib Axes to draw on. Absent: a new figure.

    Returns:
        The Axes; the bars' heights sum to the number of problems.

    """
    check_result(result, "result", lanes=True)
    ax, spent, won = axes(ax), np.asarray(result.evals), np.asarray(result.converged)
    edges, log = _edges(spent)
    kinds = [(spent[won], BLUE, "", "converged"), (spent[~won], VERMILLION, "///", "not converged")]
    below = np.zeros(len(edges) - 1)
    for values, color, hatch, said in kinds:
        heights = np.histogram(values, edges)[0]
        if len(values):
            ax.bar(
                edges[:-1],
                heights,
                np.diff(edges),
                below,
                align="edge",
                color=color,
                hatch=hatch,
                ec="white",
                lw=0.5,
                label=f"{said}: {len(values)}",
            )
        below = below + heights
    median = float(np.median(spent))
    ax.axvline(median, color=ink(), ls="--", lw=1.4, label=f"median {median:g}, most {spent.max()}")
    ax.set(xlabel="evaluations of a problem", ylabel="problems", xscale="linear")
    ax.yaxis.get_major_locator().set_params(integer=True)
    gap = 0.02 * (edges[-1] - edges[0])
    ax.set(xlim=(edges[0] - (0 if log else gap), edges[-1] + gap), ylim=(0, 1.08 * below.max()))
    if log:
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()
    return ax


def _edges(spent: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the edges of bins that hold whole numbers, and whether they are for a log scale."""
    low, high = int(spent.min()), int(spent.max())
    if high > WIDE * max(low, 1):
        edges = np.unique(np.round(np.geomspace(max(low, 1), high + 1, BINS + 1))) - 0.5
        return (edges if low else np.concatenate([[-0.5], edges])), True
    wide = max(1, -(-(high - low + 1) // BINS))
    return np.arange(low, high + wide + 1, wide) - 0.5, False


def statuses(result: Any, *, ax: Any = None) -> Any:
    """Draw how many of many problems ended with each `Status`, the most frequent first.

    Args:
        result: what `minimize_many` returned.
        ax: matplotlib Axes to draw on. Absent: a new figure.

    Returns:
        The Axes; the bars' lengths sum to the number of problems. Hatched are those that are no success.

    """
    check_result(result, "result", lanes=True)
    codes, counts = np.unique(np.asarray(result.status), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    codes, counts = [Status(code) for code in codes[order]], counts[order]
    ax = axes(ax, height=1.4 + 0.45 * len(codes))
    for won, color, hatch in ((True, BLUE, ""), (False, VERMILLION, "///")):
        at = [i for i, code in enumerate(codes) if code.converged is won]
        if at:
            label = "success" if won else "no success"
            ax.barh(at, counts[at], 0.7, color=color, hatch=hatch, ec="white", label=f"{label}: {counts[at].sum()}")
    for i, value in enumerate(counts):
        ax.annotate(str(value), (value, i), (4, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(codes)), [code.name for code in codes])
    ax.invert_yaxis()
    ax.set(xlabel="problems", xlim=(0, 1.12 * counts.max()))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="lower right")
    return ax


def worst(result: Any, count: int = 5, *, ax: Any = None) -> Any:
    """Draw how the loss fell, move by move, in the worst of many problems: those that failed, then the costliest.

    Args:
        result: what `minimize_many(..., trace=True)` returned.
        count: of how many problems, up to 6, which can be told apart.
        ax: matplotlib Axes to draw on. Absent: a new figure.

    Returns:
        The Axes, with each loss above the lowest of its own problem, on a log scale.

    Raises:
        ValueError: for a result without a trace.

    """
    check_result(result, "result", lanes=True)
    lanes = worst_lanes(result)[: number(count, "count", "the problems to draw", len(STYLES))]
    if result.trace is None:
        msg = (
            f"`result` has no trace of its moves. Solve with `trace=True`; of many problems, the worst alone: lanes"
            f" {lanes.tolist()}."
        )
        raise ValueError(msg)
    ax, lengths = axes(ax), []
    for lane, style in zip(lanes, STYLES, strict=False):
        one = result[int(lane)]
        losses = np.asarray(one.trace.loss, float)
        lengths.append(len(losses))
        finite = losses[np.isfinite(losses)]
        name = f"lane {lane}" if one.labels is None else str(one.labels)
        said = f"{name}: {one.status.name}, {one.evals} evaluations"
        draw_moves(ax, losses - (finite.min() if finite.size else 0), style, said)
    ax.set(yscale="log", xlabel="moves", ylabel="loss above the problem's lowest")
    scale_moves(ax, lengths)
    ax.legend()
    return ax


def worst_lanes(result: Result) -> np.ndarray:
    """Return the numbers of all problems, those that failed first, the costliest of each kind first."""
    return np.lexsort((-np.asarray(result.evals), np.asarray(result.converged)))
