"""A second look at ends that may be no minima: starts with no slope, and ends that rest on a learnt curvature.

All answers are lanes first; one problem is many with one lane.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.program import Answer, Inputs, Program
from jaxgd.core.bound_loss import Derivatives
from jaxgd.core.convergence import Evidence, claimed_left, hidden_by_rounding, noise_measured
from jaxgd.core.numerics import combination, expand_to, nudge, pack, products, without_derivatives
from jaxgd.core.scaling import scaling_of
from jaxgd.core.stop import Counts, Status, succeeded, with_status
from jaxgd.lanes.pool import put
from jaxgd.solvers.trust_region import newton_step

LEARNT = (Status.CONVERGED, Status.PRECISION_FLOOR, Status.STUCK)  # ends that rest on what was learnt
LEFT_FLAT = " The gradient was exactly zero at the start, so it was left by a small step."
LOOKS = 8  # at a claim at most, each after a solve that was begun anew
PARTS = 4.0 ** -np.arange(8)  # of a Newton step, that are tried
OFF = 4  # times what a claim says is left, or rounding hides, that the curvature may say is


class Doubt(NamedTuple):
    """What the curvature, computed, says of claims, lanes first."""

    doubted: Any  # shape (lanes,): more is left than the claim says
    flat: Any  # shape (lanes,): neither slope nor curvature tells anything there
    margin: Any  # shape (lanes,): a loss lower by more refutes the claim
    params: Any  # where a Newton step leads
    evidence: Any  # the answer's, with what the curvature says is left


class Again(NamedTuple):
    """What it takes to look again at the answers of some lanes."""

    program: Program
    solve: Callable[[np.ndarray, Any, Any], Answer]  # of these lanes, from other starts, after so many evaluations
    doubt: Callable[[np.ndarray, Answer], Doubt]  # of the answers of these lanes
    limit: Any  # evaluations that a lane may make, one number or shape (lanes,)

    def with_room(self, lanes: np.ndarray, answer: Answer, evals: int) -> np.ndarray:
        """Return those of the lanes that may make more evaluations than so many."""
        limits = np.broadcast_to(self.limit, len(answer.counts))
        return lanes[(Counts.of(answer.counts).evals + evals < limits)[lanes]]


def looked_again_alone(program: Program, given: Inputs, answer: Answer) -> Answer:
    """Return the answer of one problem, or a better one; JAX may be differentiating it."""
    solved, values = [answer], without_derivatives(given)

    def solve(_: np.ndarray, starts: Any, spent: Any) -> Answer:
        numbers = list(given.numbers)
        numbers[program.limit] = after(numbers[program.limit], int(spent[0]))
        solved.append(program.solve(given._replace(init=_first(starts), numbers=numbers))[0])
        return _as_one_lane(solved[-1])

    def doubts(_: np.ndarray, answer: Answer) -> Doubt:
        return _as_one_lane(program.compiled(doubt)(values, _first(answer)))

    again = Again(program, solve, doubts, np.asarray(given.numbers[program.limit]))
    found = _first(looked_again(again, _as_one_lane(answer)))
    same = (own for own in solved if np.array_equal(without_derivatives(own.loss), found.loss, equal_nan=True))
    return next(same)._replace(counts=found.counts, evidence=jnp.asarray(found.evidence))


def after(limit: Any, spent: Any) -> Any:
    """Return what is left of a limit of evaluations."""
    return limit - spent


def _as_one_lane(tree: Any) -> Any:
    """Return the arrays of one problem on the host, as those of one lane."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], without_derivatives(tree))


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def needs_second_look(program: Program, answer: Answer) -> bool:
    """Return whether there may be anything to look at again."""
    return learns(program) or bool(np.any(Counts.of(answer.counts).status == Status.ZERO_GRADIENT))


def left_flat(before: Any, after: Any) -> bool:
    """Return whether a flat start was left, by the packed counts before and after."""
    return Counts.of(before).status == Status.ZERO_GRADIENT and Counts.of(after).moves > 0


def looked_again(again: Again, answer: Answer) -> Answer:
    """Return the answers, or better ones where a second look has found them; the work is counted."""
    answer = answer._replace(counts=np.array(answer.counts))
    flat = np.flatnonzero(Counts.of(answer.counts).status == Status.ZERO_GRADIENT)
    answer = _beside(again, answer, again.with_room(flat, answer, 1))
    if not learns(again.program):
        return answer
    answer, flat = _curved(again, answer)
    answer = _beside(again, answer, again.with_room(flat, answer, 1))
    # `ZERO_GRADIENT` is of a start.
    still = flat[Counts.of(answer.counts).status[flat] == Status.ZERO_GRADIENT]
    answer.counts[still] = with_status(answer.counts[still], Status.NO_INFLUENCE)
    return answer


def _beside(again: Again, answer: Answer, flat: np.ndarray) -> Answer:
    """Leave starts with no slope by a small step to both sides."""
    program, minima = again.program, flat
    for side in (1, -1):
        # Those that no lower neighbour was found of yet.
        flat = again.with_room(flat, answer, 0)
        if not len(flat):
            return answer
        own = _of(answer, flat)
        step = jax.vmap(lambda start, side=side: aside(program, start, side))(own.params)
        found = again.solve(flat, jax.tree.map(np.asarray, step), Counts.of(own.counts).evals)
        lower, won = _drop(program, own, found) > 0, succeeded(Counts.of(found.counts).status)
        answer = _put(answer, flat, _merged(own, found, lower))
        minima, flat = np.intersect1d(minima, flat[~lower & won]), flat[~lower]
    # Nothing lower beside it: the start is the minimum, unless a neighbour is flat as well.
    counts = answer.counts.copy()
    counts[minima] = with_status(counts[minima], Status.CONVERGED)
    return answer._replace(counts=counts)


def _curved(again: Again, answer: Answer) -> tuple[Answer, np.ndarray]:
    """Go on where the curvature, computed, says that more is left than a method says that has learnt it.

    Return also the lanes that have ended where it is flat: they are no better than a flat start.
    """
    status = Counts.of(answer.counts).status
    lanes, flat = np.flatnonzero(np.isin(status, LEARNT)), np.zeros(0, int)
    for _ in range(LOOKS):
        lanes = again.with_room(lanes, answer, len(PARTS))
        if not len(lanes):
            return answer, flat
        own = _of(answer, lanes)
        found = again.doubt(lanes, own)
        counts = Counts.of(own.counts)
        evals, products = counts.evals + len(PARTS) * found.doubted, counts.products + again.program.size
        status = np.where(found.flat, Status.ZERO_GRADIENT, counts.status)
        counts = counts._replace(status=status, evals=evals, products=products).pack()
        answer = _put(answer, lanes, own._replace(counts=counts, evidence=found.evidence))
        flat = np.append(flat, lanes[found.flat])
        lanes, found = lanes[found.doubted], _of(found, found.doubted)
        if not len(lanes):
            return answer, flat
        own = _of(answer, lanes)
        other = again.solve(lanes, found.params, Counts.of(own.counts).evals)
        # A Newton step may lead to the minimum itself.
        status = Counts.of(other.counts).status
        status = np.where(status == Status.ZERO_GRADIENT, Status.CONVERGED, status)
        other = other._replace(counts=with_status(other.counts, status))
        drop = _drop(again.program, own, other)
        refuted = drop > found.margin
        won = succeeded(Counts.of(other.counts).status)
        answer = _put(answer, lanes, _merged(own, other, refuted | (won & (drop > 0))))
        lanes = lanes[refuted & np.isin(Counts.of(other.counts).status, LEARNT)]
    counts = answer.counts.copy()
    counts[lanes] = with_status(counts[lanes], Status.STUCK)
    return answer._replace(counts=counts), flat


def doubt(program: Program, given: Inputs, answer: Answer) -> Doubt:
    """Return what the curvature at an answer, computed, says of its claim."""
    problem, sign = program.bind(given)[0], program.recipe.sign
    flat, grad = (problem.layout.flatten(tree) for tree in (answer.params, answer.grad))
    point = problem.at(flat, sign * answer.loss, sign * grad, ())
    hessian = problem.hessian(flat)
    left, aim = newton_step(problem, point, hessian)
    seen = Evidence.unpack(answer.evidence)
    status = Counts.of(answer.counts).status
    said = jnp.where(status == Status.STUCK, 0, claimed_left(seen, status == Status.PRECISION_FLOOR))
    hidden = hidden_by_rounding(point, seen.decrease)
    step = nudge(flat)
    slope, curvature = products(step[None], pack(point.grad, combination(step, hessian)))[0]
    level = jnp.abs(slope) + jnp.abs(curvature) <= hidden
    doubted = (left > OFF * jnp.maximum(said, hidden)) & ~level

    def lowest() -> jax.Array:
        # The model may hold on a part of the way alone.
        parts = jnp.asarray(PARTS, flat.dtype)[:, None]
        ways = jax.vmap(problem.project)(flat + parts * (aim - flat))
        losses = jax.lax.map(lambda params: problem.value(params)[0], ways)
        return ways[jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))]

    params = jax.lax.cond(doubted, lowest, lambda: flat)
    # A claim that stands says what the curvature does.
    known = jnp.isfinite(seen.predicted_remaining) & ~doubted
    left = jnp.where(known, jnp.maximum(seen.predicted_remaining, left), seen.predicted_remaining)
    evidence = seen._replace(predicted_remaining=left).pack()
    return Doubt(
        doubted=doubted,
        flat=level,
        margin=said + noise_measured(seen, point),
        params=problem.layout.unflatten(params),
        evidence=evidence,
    )


def learns(program: Program) -> bool:
    """Return whether the method learns a curvature that is cheap to compute."""
    traits, few = program.traits, bool(scaling_of(program.size))
    return few and traits.scaled and not traits.exact_curvature and program.recipe.derivatives is not Derivatives.FIRST


def _drop(program: Program, own: Answer, other: Answer) -> Any:
    """Return by how much the other answers are lower; NaN where they are not finite."""
    return program.recipe.sign * (own.loss - other.loss)


def _merged(own: Answer, other: Answer, lower: np.ndarray) -> Answer:
    """Return the answers, the others where these are lower, with the work of both."""
    counts, more = Counts.of(own.counts), Counts.of(other.counts)
    spent = {name: getattr(counts, name) + getattr(more, name) for name in ("evals", "products")}
    spent_moves = spent | {"moves": counts.moves + more.moves}
    own, other = (
        own._replace(counts=counts._replace(**spent).pack()),
        other._replace(counts=more._replace(**spent_moves).pack()),
    )
    return jax.tree.map(lambda old, new: np.where(expand_to(lower, old), new, old), own, other)


def _of(tree: Any, lanes: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[lanes], tree)


def _put(answer: Answer, lanes: np.ndarray, own: Answer) -> Answer:
    merged = jax.tree.map(np.array, answer)
    put(merged, lanes, own)
    return merged


def aside(program: Program, init: Any, side: int) -> Any:
    """Return a start a small step beside `init`, on one side or the other (1, -1)."""
    layout = program.layout(init)
    start = layout.flatten(init)
    return layout.unflatten(start + side * nudge(start))
