"""Two pictures of a sweep: performance profiles (Dolan and Moré, 2002) and data profiles (Moré and Wild, 2009)."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.cutest_records import TAUS, Record, by_solver

TAU = TAUS[1]
# Okabe and Ito's colours, one a family; the dashes tell its methods apart, then a second colour.
COLOURS = {
    "jaxgd": ("#D55E00", "#000000"),
    "scipy": ("#0072B2",),
    "optx": ("#009E73",),
    "jaxopt": ("#56B4E9",),
    "jaxscipy": ("#CC79A7",),
    "optax": ("#E69F00",),
}
DASHES = ("-", "--", ":", "-.")
OURS, PEERS = 2.4, 1.2  # widths of lines

Costs = dict[str, np.ndarray]  # what each solver paid for each problem, shape (problems,); inf: not solved


def profiles(folder: Path, date: str, records: Sequence[Record]) -> None:
    """Draw both, a panel for each set and float type, and write them beside each other."""
    panels: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        panels.setdefault((record.kind, record.dtype), []).append(record)
    pictures: tuple[tuple[str, str, Callable[[list[Record]], Costs]], ...] = (
        ("performance", "evaluations of loss and gradient, times the fewest of any solver", performance),
        ("data", "evaluations of loss and gradient, divided by n + 1", data),
    )
    for name, label, costs in pictures:
        figure = Figure(
            figsize=(7.5 * len(panels) ** 0.5 + 2.5, 4.2 * math.ceil(len(panels) / 2)), layout="constrained"
        )
        grid: Any = figure.subplots(math.ceil(len(panels) / 2), min(2, len(panels)), squeeze=False)
        for axes, ((kind, dtype), own) in zip(grid.flat, panels.items(), strict=False):
            draw(axes, costs(own))
            axes.set_title(f"{'unconstrained' if kind == 'u' else 'bounded'}, {dtype}")
            axes.set_xlabel(label)
            axes.set_ylabel("share of problems solved")
        for axes in list(grid.flat)[len(panels) :]:
            axes.remove()
        figure.suptitle(f"CUTEst, solved within {TAU:.0e} of the best known, {name} profile, {date}; whole solves")
        figure.savefig(folder / f"cutest-{date}-{name}.png", dpi=130)


def paid(records: list[Record]) -> tuple[Costs, np.ndarray]:
    """Return the evaluations of each solver on each problem, inf where it does not solve it, and the n of these."""
    sizes = {record.name: record.n for record in records}
    places = {name: i for i, name in enumerate(sizes)}
    costs: Costs = {}
    for solver, own in by_solver(records).items():
        costs[solver] = np.full(len(sizes), math.inf)
        with_products = np.full(len(sizes), math.inf)
        for record in own:
            if record.solved(TAU):
                costs[solver][places[record.name]] = record.evals
                with_products[places[record.name]] = record.evals + record.products
        if any(record.products for record in own):
            costs[f"{solver} with products"] = with_products
    return costs, np.array(list(sizes.values()))


def performance(records: list[Record]) -> Costs:
    """Return the evaluations relative to the fewest of any solver."""
    costs, _ = paid(records)
    fewest = np.min(list(costs.values()), axis=0)
    fewest = np.where(np.isfinite(fewest), fewest, 1)
    return {solver: own / fewest for solver, own in costs.items()}


def data(records: list[Record]) -> Costs:
    """Return the evaluations in units of those of a simplex gradient."""
    costs, sizes = paid(records)
    return {solver: own / (sizes + 1) for solver, own in costs.items()}


def draw(axes: Any, costs: Costs) -> None:
    """Draw for each solver the share of problems that it solves at a cost or less."""
    styles = {family: itertools.cycle(itertools.product(colours, DASHES)) for family, colours in COLOURS.items()}
    finite = np.concatenate([own[np.isfinite(own)] for own in costs.values()])
    right = finite.max(initial=2) * 1.1
    for solver, own in costs.items():
        family = solver.replace(" ", "_").split("_")[0]
        colour, dash = next(styles[family])
        steps = np.sort(own[np.isfinite(own)])
        shares = np.arange(len(steps) + 1) / len(own)
        axes.step(
            [finite.min(initial=1), *steps, right],
            [*shares, shares[-1]],
            where="post",
            color=colour,
            linestyle=dash,
            linewidth=OURS if family == "jaxgd" else PEERS,
            label=solver,
            zorder=3 if family == "jaxgd" else 2,
        )
    axes.set_xscale("log")
    axes.set_xlim(finite.min(initial=1), right)
    axes.set_ylim(0, 1.02)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.legend(fontsize=mpl.rcParams["font.size"] * 0.75, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
