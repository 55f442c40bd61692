"""Many starts for one problem: where to begin, and which minima they found."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import inputs
from jaxgd.compile.build import Ask, prepare
from jaxgd.compile.penalties import for_all
from jaxgd.compile.program import Solution
from jaxgd.core.stop import Counts, Status, succeeded
from jaxgd.core.terms import box_of
from jaxgd.lanes import many
from jaxgd.result import Optimum
from jaxgd.watch.session import Watching


def solve_from_starts(ask: Ask, count: int, watch: Watching) -> Solution:
    """Solve from so many starts; the answer is that of the best lane."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        msg = f"`starts` must be a whole number of starts, 1 or more; got {count!r}."
        raise ValueError(msg)
    asks = ask._replace(init=_starts(ask, count), l1=for_all(ask.l1), l2=for_all(ask.l2))
    program, batch, note = many.read_lanes(asks, (0, None))
    found = many.solve_lanes(program, batch, watch, rivals=True)
    answer, sign = found.answer, program.recipe.sign
    loss = np.where(np.isnan(answer.loss), np.inf, sign * answer.loss)
    status = Counts.of(answer.counts).status
    done = succeeded(status)
    best = int(np.lexsort((loss, ~done & (loss > np.min(loss, where=done, initial=np.inf))))[0])
    optima = _optima(answer, np.flatnonzero(done)[np.argsort(loss[done], kind="stable")])
    given_up = int(np.sum(status == Status.OUTDONE))
    said = (
        f" Of {count} starts {int(np.sum(done))} converged, to {len(optima)} different minima; the lowest was reached"
    )
    note += f"{said} by {optima[0].starts if optima else 0}, and {given_up} were given up."
    answer, trace = jax.tree.map(lambda leaf: leaf[best], (answer, found.trace))
    return found._replace(answer=answer, trace=trace, note=note, source=prepare(ask)[:2], slots=None, optima=optima)


def _starts(ask: Ask, count: int) -> Any:
    """Return starts, lanes first: the start itself, and points that fill the box, or surround the start, evenly.

    The points are multiples, modulo 1, of powers of the root g > 1 of g^(d + 1) = g + 1 (Roberts, The unreasonable
    effectiveness of quasirandom sequences, 2018), spread as a logistic distribution where there is no box.
    """
    program, given, _ = prepare(ask)
    inputs.refuse_traced(given, f"`starts={count}`")
    layout = program.layout(given.init)
    start = np.asarray(layout.flatten(given.init), float)
    term = given.terms and given.terms.flatten(layout)[0]
    box = box_of(term)
    lower, upper = (-np.inf, np.inf) if box is None else (np.asarray(box.lower, float), np.asarray(box.upper, float))
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (start.size + 1))
    places = (0.5 + np.outer(np.arange(count), root ** -np.arange(1.0, start.size + 1))) % 1
    places = np.clip(places, 1e-6, 1 - 1e-6)
    around = start + np.maximum(1, np.abs(start)) * np.log(places / (1 - places))
    boxed = np.isfinite(lower) & np.isfinite(upper)
    width = np.where(boxed, upper, 1) - np.where(boxed, lower, 0)
    points = np.where(boxed, np.where(boxed, lower, 0) + places * width, np.clip(around, lower, upper))
    points[0] = start
    return jax.tree.map(np.asarray, jax.vmap(layout.unflatten)(jnp.asarray(points, layout.dtype)))


def _optima(answer: Any, order: np.ndarray) -> list[Optimum]:
    """Return the different minima among the lanes in `order`, the lowest first."""
    flat = np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(answer.params)], axis=1)
    close = max(1e-4, float(np.finfo(answer.loss.dtype).eps) ** (1 / 3))
    found: list[int] = []
    reached: list[int] = []
    for lane in order:
        for i, other in enumerate(found):
            if np.all(np.abs(flat[lane] - flat[other]) <= close * (1 + np.abs(flat[other]))):
                reached[i] += 1
                break
        else:
            found.append(int(lane))
            reached.append(1)
    pick = zip(found, reached, strict=True)
    return [
        Optimum(float(answer.loss[i]), jax.tree.map(lambda leaf, i=i: leaf[i], answer.params), count)
        for i, count in pick
    ]
