"""What a verdict rests on: the evidence of the moves, weighed step by step, and the tests made with it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.numerics import pack
from jaxgd.core.problem import Point, Problem, choose, rounding

PATIENCE = 20  # evaluations without measurable progress, as many as a line may take: the rounding floor is suspected
FRUITLESS = 1000  # likewise, after which no more is to come, where curvature is computed
ROUGHLY = 4  # how far off what is left may be estimated where curvature is learnt; a test step confirms it
KINK = 0.01  # the part of a slope beside a minimum, at a test step's length, that is left at one of a smooth loss
WINDOW = 3  # moves in each of the two sums of decreases that tell the trend
MANY, SHRUNK = 8, 0.25  # moves after which the last one must be shorter than this part of their mean, near a minimum
AHEAD = 10  # times as far on as the params have come, where an end after many moves is looked beyond
GONE = 0.01  # of the decrease that was made: what a slope far ahead would change the loss by at most, if it is gone
LOOKS = 64  # added to a claim, a `Status`, that waits for this


class Evidence(NamedTuple):
    """What a verdict rests on, also counts as numbers of the params' type: it is packed in one vector."""

    # Once:
    first: jax.Array  # loss at the start; inf before it is evaluated
    # With each move:
    decrease: jax.Array  # decrease since the start
    lately: jax.Array  # decrease in the later half of the moves
    coming: jax.Array  # the part of it since the next half has begun
    change: jax.Array  # largest change of a parameter in the last move, where `xtol` asks for it
    lowered: jax.Array  # moves that lowered the loss by more than rounding
    last: jax.Array  # length of the last of these
    path: jax.Array  # of all these together
    consecutive_moves: jax.Array  # moves in a row that met the test of `tol`
    # With each evaluation:
    model: jax.Array  # the solver's last prediction of the decrease left; inf before there is one
    predicted_remaining: jax.Array  # the decrease estimated to be left; inf where nothing tells it
    noise: jax.Array  # what rounding was seen to do to the loss of late
    doubt: jax.Array  # what it does to the loss, as far as the method knows
    max_grad_norm: jax.Array  # longest gradient of the later half of the moves
    next_max_grad_norm: jax.Array  # likewise, since the next half has begun
    stalled_evals: jax.Array  # evaluations since the last progress
    hidden: jax.Array  # evaluations in a row that found no more left than rounding hides
    claim: jax.Array  # the end that a test step is to confirm, a `Status`, or `RUNNING`; `LOOKS` more: a far one
    # With each move:
    recent: tuple[jax.Array, ...]  # decreases of the last 2 * WINDOW moves, newest first; inf for those not made yet

    @property
    def claims(self) -> jax.Array:
        """Whether a success waits for a test step to confirm it."""
        return (self.claim > 0) & ~self.looks_ahead

    @property
    def looks_ahead(self) -> jax.Array:
        """Whether an end waits for a test step far ahead."""
        return self.claim >= LOOKS

    @classmethod
    def unpack(cls, packed: jax.Array) -> "Evidence":
        head = len(cls._fields) - 1
        return cls(*packed[:head], tuple(packed[head:]))  # type: ignore[arg-type]

    def lowered_by(self, decrease: Any) -> "Evidence":
        """Return the evidence with a decrease added that no move made."""
        return self._replace(decrease=self.decrease + decrease, lately=self.lately + decrease)

    def pack(self) -> jax.Array:
        """Return one vector: XLA compiles and runs one operation, not one a field."""
        return jnp.concatenate([pack(*self[:-1]), jnp.stack(self.recent)])


class Facts(NamedTuple):
    """What a step is judged by; of the points the scalars alone are read."""

    before: Point
    point: Point  # after the step
    trial: Point
    best: Point  # before the step
    # As the state has them, by `unstarted` and `Reported`:
    moved: jax.Array
    stuck: jax.Array
    predicted_remaining: jax.Array
    slope_decrease: jax.Array
    saddle: Any
    lost: Any
    doubt: Any
    norm: jax.Array  # of the residual where the state tells none
    ahead: Any
    # Of the method, the problem and the step:
    full_hessian: bool  # the curvature of the solver's model is computed in every direction
    bare: bool  # no term is added to the loss, which makes kinks of its own
    moves: jax.Array  # with this one
    length: jax.Array  # from the last point to the trial
    slopes: jax.Array  # how far the slopes at both say that the loss changes, together
    trapezoid: jax.Array  # the decrease that they tell, by the trapezoidal rule
    slope: jax.Array  # at the last point alone
    grad_abs_sum: jax.Array  # sum of the absolute components of the gradient
    largest: jax.Array | None  # component of the residual, where `gtol` asks for it
    change: jax.Array | None  # of a parameter, largest, where `xtol` asks for it


def no_evidence(dtype: np.dtype) -> jax.Array:
    """Return the evidence before the first evaluation, packed."""
    unknown = {"first", "model", "predicted_remaining", "change"}
    head = [np.inf if name in unknown else 0 for name in Evidence._fields[:-1]]
    return jnp.array([*head, *[np.inf] * (2 * WINDOW)], dtype)


def weigh(old: Evidence, facts: Facts, tol: Any, part: float, *, exact_curvature: bool) -> Evidence:
    """Return the evidence after a step; `tol` is the tolerance to test, if any.

    `part`: of what rounding hides, the most that may be left. `exact_curvature`: the curvature of the solver's model is
    computed, not learnt from the moves.
    """
    known = facts.before.evaluated
    moved = facts.moved & known
    drop = facts.before.loss - facts.trial.loss
    # Where rounding hides the decrease, a constant added to the loss for one, the slopes still tell it.
    gain = jnp.where(jnp.abs(drop) > rounding(facts.before.loss), drop, facts.slope_decrease)
    lower = moved & (facts.best.loss - facts.point.loss > jnp.maximum(old.noise, rounding(facts.best.loss)))
    seen = _added(old, facts, jnp.where(moved, gain, 0), moved)._replace(
        first=jnp.where(jnp.isfinite(old.first), old.first, facts.point.loss),
        noise=jnp.maximum(jnp.where(known, noise_seen(facts, drop), 0), old.noise / 2),
        doubt=jnp.where(known, facts.doubt, 0),
        lowered=old.lowered + lower,
        last=jnp.where(lower, facts.length, old.last),
        path=old.path + jnp.where(lower, facts.length, 0),
        stalled_evals=jnp.where(lower, 0, old.stalled_evals + 1),
    )
    seen = _estimated(seen, facts, exact_curvature=exact_curvature)
    below = seen.predicted_remaining <= part * hidden_by_rounding(facts.point, seen.decrease)
    seen = seen._replace(hidden=jnp.where(below, old.hidden + 1, 0))
    if tol is None:
        return seen
    # Far above the minimum, decreases are large whatever the loss comes to.
    size = jnp.abs(facts.point.loss) + jnp.finfo(gain.dtype).eps * seen.lately
    met = seen.predicted_remaining <= tol * jnp.minimum(seen.lately, size)
    return seen._replace(consecutive_moves=jnp.where(met, old.consecutive_moves + moved, 0))


def _added(old: Evidence, facts: Facts, gain: jax.Array, moved: jax.Array) -> Evidence:
    """Return the evidence with what a move adds to sums and maxima, which a new half of the moves begins anew."""
    halved = moved & ((facts.moves & (facts.moves - 1)) == 0)
    lately, coming = old.lately + gain, old.coming + gain
    steepest, steeper = jnp.maximum(old.max_grad_norm, facts.norm), jnp.maximum(old.next_max_grad_norm, facts.norm)
    return old._replace(
        decrease=old.decrease + gain,
        lately=jnp.where(halved, coming, lately),
        coming=jnp.where(halved, 0, coming),
        change=old.change if facts.change is None else jnp.where(moved, facts.change, old.change),
        max_grad_norm=jnp.where(halved, steeper, steepest),
        next_max_grad_norm=jnp.where(halved, facts.norm, steeper),
        recent=choose(moved, (gain, *old.recent[:-1]), old.recent),
    )


def _estimated(seen: Evidence, facts: Facts, *, exact_curvature: bool) -> Evidence:
    """Return the evidence with the decrease that is left, by the solver's model and what the moves say of it."""
    # A model that promises a rise is made up by rounding; one that is learnt is a guess before the first move,
    # unless trials were refused until none was left.
    left = jnp.where(
        (facts.predicted_remaining >= 0) & (exact_curvature | (facts.moves > 0) | facts.stuck),
        facts.predicted_remaining,
        jnp.inf,
    )
    if exact_curvature:
        left = left if facts.full_hessian else jnp.maximum(left, as_shrunk(seen, facts.norm))
        return seen._replace(model=left, predicted_remaining=left)
    left = jnp.where(jnp.isnan(facts.predicted_remaining), seen.model, left)  # `UNTOLD`
    left = jnp.where(facts.point.residual_abs_sum > 0, left, 0)
    model = jnp.where(jnp.isfinite(left), left, seen.model)
    # A model that is learnt knows the directions moved in alone. The trend of the moves says more, or where rounding
    # has ended it, what the slopes bring if each parameter changes by all its size.
    slopes = jnp.minimum(facts.point.param_rounding / jnp.finfo(left.dtype).eps, seen.decrease)
    left = jnp.maximum(jnp.maximum(left, jnp.minimum(trend(seen.recent), slopes)), as_shrunk(seen, facts.norm))
    return seen._replace(model=model, predicted_remaining=left)


def noise_seen(facts: Facts, drop: jax.Array) -> jax.Array:
    """Return what rounding is seen to do to the loss, whose decrease over the step was the `drop`; 0 where it is not.

    Between two points a convex loss changes by no more than its slope at one of them says: what is more is rounding, or
    was a long step across a hill, which is soon forgotten.
    """
    off = jnp.abs(drop - facts.slope_decrease)
    return jnp.where(jnp.isfinite(off) & (off > facts.slopes), off, 0)


def as_shrunk(seen: Evidence, norm: jax.Array) -> jax.Array:
    """Return the decrease left if the loss is a parabola on which the gradient has shrunk to this length."""
    return seen.lately * (norm / jnp.where(seen.max_grad_norm > 0, seen.max_grad_norm, 1)) ** 2


def better(old: Evidence, facts: Facts, evals: jax.Array) -> jax.Array:
    """Lower, or equal to rounding and nearer to the minimum by gradient or model; the start is taken whatever it is."""
    noise, rise = rounding(facts.best.loss), facts.trial.loss - facts.best.loss
    level = (rise <= noise) & (facts.trial.norm < facts.best.norm)
    # Where the curvature is known in every direction, the model says that the loss is lower there.
    onwards = facts.moved & facts.full_hessian
    level = level | (onwards & (rise <= jnp.maximum(noise_measured(old, facts.best), facts.doubt)))
    level = level & (facts.trial.loss <= old.first)
    return (evals == 0) | (facts.trial.finite & ((facts.trial.loss < facts.best.loss - noise) | level))


def hidden_by_rounding(point: Point, made: Any) -> Any:
    """Return the decrease that rounding hides at a point: of the loss, and by rounding of the parameters.

    Where the latter is all the loss and more than was `made`, beside a pole for one, nothing is known of it.
    """
    size = jnp.abs(point.loss) + made
    return rounding(point.loss) + jnp.where(point.param_rounding < size, 4 * point.param_rounding, 0)


def noise_measured(seen: Evidence, point: Point) -> Any:
    """Return what rounding does to the loss, as far as it was measured or is known."""
    size = jnp.abs(point.loss) + seen.lately
    # What changes the loss by more of its size than half the digits of the type is no rounding, but its shape.
    noise = jnp.minimum(seen.noise, jnp.sqrt(jnp.finfo(size.dtype).eps) * size)
    return jnp.maximum(jnp.maximum(noise, seen.doubt), hidden_by_rounding(point, seen.decrease))


def claimed_left(seen: Evidence, at_floor: Any) -> jax.Array:
    """Return the decrease that a success says is left at most, be it at the floor of rounding or not."""
    return jnp.where(at_floor, jnp.minimum(seen.predicted_remaining, seen.model), seen.predicted_remaining)


def at_floor(seen: Evidence, facts: Facts, *, exact_curvature: bool) -> Any:
    """Return whether no step lowers the loss, and what was seen of rounding explains it."""
    measured = noise_measured(seen, facts.point)
    ended = facts.stuck | resting(seen, facts.before.loss - facts.trial.loss, measured)
    return ended & (jnp.minimum(seen.predicted_remaining, seen.model) <= (1 if exact_curvature else ROUGHLY) * measured)


def resting(seen: Evidence, drop: jax.Array, noise: Any) -> Any:
    """Return whether nothing has come of many evaluations.

    A trial that changed the loss by more than rounding says that there is more to be found on a shorter step.
    """
    return (seen.stalled_evals >= PATIENCE) & (jnp.abs(drop) <= 4 * noise)


def pinned(seen: Evidence, facts: Facts, size: int) -> Any:
    """Return whether refused trials have closed in on the minimum over one parameter from both sides."""
    fine = facts.trial.finite & jnp.isfinite(facts.norm**2)
    return facts.stuck & ~facts.moved & (size == 1) & (seen.stalled_evals > 1) & fine


def refuted(seen: Evidence, left: jax.Array, facts: Facts) -> Any:
    """Return whether a test step from the best point tells of a decrease by more than is `left`, and rounding.

    The loss fell over the step, or the slopes at its ends say that it falls to the minimum along it.
    """
    drop = facts.best.loss - facts.trial.loss
    # What the slopes at both ends tell alike is no rounding, whatever was taken for it.
    sure = jnp.abs(drop - facts.trapezoid) <= facts.trapezoid / 2
    hidden = hidden_by_rounding(facts.best, seen.decrease)
    noise = jnp.where(sure, hidden, noise_measured(seen, facts.best))
    grad_change = 2 * (jnp.abs(facts.slope) - facts.trapezoid)
    to_lowest = jnp.where(grad_change > 0, facts.slope**2 / jnp.where(grad_change > 0, grad_change, 1) / 2, 0)
    # A term that is added has slopes of its own.
    lower = facts.bare & (to_lowest > 4 * jnp.maximum(left, hidden))
    return lower | (drop > 4 * jnp.maximum(left, noise))


def on_a_kink(seen: Evidence, facts: Facts) -> Any:
    """Return whether the loss changed over a test step by other than its slopes say, and neither of them is small.

    Where it is smooth, the slope at a minimum is small beside that at the other end.
    """
    drop, other = facts.best.loss - facts.trial.loss, -2 * facts.trapezoid - facts.slope
    # The step leads down the slope of the best point, whatever it was at the last.
    slope = -jnp.abs(facts.slope)
    off = jnp.abs(drop + (slope + other) / 2)
    sloped = facts.bare & (-slope > KINK * jnp.abs(other))
    return sloped & (off > jnp.maximum(jnp.abs(drop) / 2, 4 * noise_measured(seen, facts.best)))


def probe(point: Point) -> jax.Array:
    """Return params for a test step: each changed down its slope, by its last two thirds of the digits at most.

    The units of the params do not matter.
    """
    size = jnp.abs(point.params)
    part = point.residual / jnp.where(point.residual_abs_sum > 0, point.residual_abs_sum, 1) * size
    largest = jnp.max(jnp.abs(part))
    return point.params - jnp.cbrt(jnp.finfo(size.dtype).eps) * size * (part / jnp.where(largest > 0, largest, 1))


def on_a_ray(seen: Evidence, facts: Facts) -> Any:
    """Return whether the moves have not shrunk, as they do near a minimum: the parameters run to infinity."""
    ahead = seen.last if facts.ahead is None else facts.ahead
    return (seen.lowered >= MANY) & (ahead * seen.lowered > SHRUNK * seen.path)


def far_ahead(problem: Problem, best: Point) -> tuple[jax.Array, Any]:
    """Return params `AHEAD` times as far from the start on as the best point, and whether no term is in the way."""
    if problem.start is None:
        return best.params, np.False_
    aim = best.params + AHEAD * (best.params - problem.start)
    return aim, np.True_ if problem.term is None else jnp.all(problem.project(aim) == aim)


def flat_ahead(seen: Evidence, facts: Facts) -> Any:
    """Return whether the loss is no higher far ahead, and its slope is gone: there is no minimum on the way.

    Around a minimum it is a parabola, and higher there by `AHEAD^2` times what the moves brought.
    """
    level = facts.best.loss - facts.trial.loss >= -noise_measured(seen, facts.best)
    slope = -2 * facts.trapezoid - facts.slope
    return facts.trial.finite & level & (jnp.abs(slope) <= GONE * seen.decrease)


def falls_on(seen: Evidence, facts: Facts) -> Any:
    """Return whether the loss is lower far ahead, by more than all that was gained, and falls there as it does here.

    That is no other minimum farther on: at this one it would not fall.
    """
    drop, other = facts.best.loss - facts.trial.loss, -2 * facts.trapezoid - facts.slope
    return facts.trial.finite & (drop > seen.decrease) & (jnp.maximum(facts.slope, other) < -drop / 4)


def trend(recent: tuple[jax.Array, ...]) -> jax.Array:
    """Return the decrease left if the moves go on shrinking as they do; inf while unknown or not shrinking.

    With A the sum of the last moves' decreases and B of those before, the rest is A r / (1 - r), r = A / B.
    """
    last, earlier = sum(recent[:WINDOW]), sum(recent[WINDOW:])
    known = jnp.isfinite(earlier) & (last < earlier)
    return jnp.where(known, last * last / jnp.where(known, earlier - last, 1), jnp.inf)
