"""When to stop, and why: the rule and the reason."""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.convergence import (
    FRUITLESS,
    LOOKS,
    MANY,
    Evidence,
    Facts,
    at_floor,
    better,
    claimed_left,
    falls_on,
    flat_ahead,
    on_a_kink,
    on_a_ray,
    pinned,
    refuted,
    weigh,
)
from jaxgd.core.numerics import pack, products, safe_norm
from jaxgd.core.problem import Point, choose
from jaxgd.core.protocol import Reported, Traits


class Status(IntEnum):
    """Why a solve ended; `converged` says whether that is success."""

    RUNNING = 0  # no success: it goes on
    CONVERGED = 1  # success: no more is left than `tol` lets be, or than rounding hides
    SMALL_GRADIENT = 2  # success: `gtol` is met
    SMALL_STEP = 3  # success: `xtol` is met
    SMALL_DECREASE = 4  # success: `ftol` is met
    PRECISION_FLOOR = 5  # success: there is nowhere lower to go, which the rounding that was seen explains
    MAX_EVALS = 6  # no success: the limit of evaluations came first
    STUCK = 7  # no success: there is nowhere lower to go, which nothing explains
    DIVERGED = 8  # no success: the steps led up, or out of where the loss is finite
    BAD_START = 9  # no success: loss or gradient is not finite at the start
    UNBOUNDED = 10  # no success: the loss has no minimum, it falls for ever
    ZERO_GRADIENT = 11  # no success: the start has no slope, and is not known to be a minimum
    INTERRUPTED = 12  # no success: Ctrl-C, or an error in a watcher or a reader
    OUTDONE = 13  # no success: another start is lower than this one can come
    NOISE_FLOOR = 14  # success: no more is left than the noise of minibatches
    MAX_PASSES = 15  # no success: the limit of passes over minibatches came first
    TIME_LIMIT = 16  # no success: the limit of time came first
    STOPPED = 17  # no success: a watcher asked for it
    NO_INFLUENCE = 18  # no success: the params run to infinity, or some no longer matter
    DIMINISHING_RETURNS = 19  # no success: of a long solve, whose further evaluations would bring little, and no end

    @property
    def converged(self) -> bool:
        """Whether this status is success."""
        return bool(succeeded(int(self)))


def succeeded(codes: Any) -> Any:
    """Return which statuses are success, of a number or an array of them."""
    return (codes >= Status.CONVERGED) & (codes <= Status.PRECISION_FLOOR) | (codes == Status.NOISE_FLOOR)


class Counts(NamedTuple):
    """What a solve has come to in whole numbers; packed, an int32 array of shape `(..., 4)`."""

    status: Any = Status.RUNNING  # a `Status`
    evals: Any = 0  # of loss and gradient
    moves: Any = 0  # accepted steps
    products: Any = 0  # of vectors with the Hessian

    @classmethod
    def of(cls, packed: Any) -> Self:
        return cls(*(packed[..., at] for at in range(len(cls._fields))))

    def pack(self) -> np.ndarray:
        """Return the array, on the host."""
        return np.stack(np.broadcast_arrays(*self), axis=-1).astype(np.int32)


def with_status(counts: Any, status: Any) -> Any:
    """Return packed counts with another status: the one way to end a solve from outside the loop."""
    if isinstance(counts, jax.Array):
        return counts.at[..., 0].set(status)
    counts = np.array(counts)
    counts[..., 0] = status
    return counts


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stop at the first test that is met; a test that is None is not made. With no test given, `tol` is.

    `tol`: the decrease still to come is estimated at no more than `tol` times the decrease that the later half of the
    moves has brought, or times the loss itself where that is less; above 0 and below 1. The unit of the loss does not
    matter. Where no test is given, `tol` is 0, which stands for 1e-60 in float64 and 1e-30 in float32 for methods with
    a model of the curvature, and for 1e-14 and 1e-10 for the others; whatever is asked for, a solve ends where no more
    is left than rounding hides.
    `gtol`: no component of the gradient is larger than `gtol`.
    `xtol`: no parameter changed by as much as `xtol` in a move (the rule of the textbook).
    `ftol`: a move lowered the loss by no more than `ftol * max(|loss|, 1)`.
    `max_evals`: evaluations of loss and gradient, at least 1.
    """

    tol: Any = None
    gtol: Any = None
    xtol: Any = None
    ftol: Any = None
    max_evals: Any = 10_000

    def __post_init__(self) -> None:
        """Refuse values no test can be made with; tracers cannot be looked at."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in given.items():
            if isinstance(value, str) or (name == "max_evals" and value is None):
                msg = f"`{name}` must be a number; got {value!r}."
                raise TypeError(msg)
            if not isinstance(value, (int, float, np.number)):
                continue
            if name == "max_evals" and not (value >= 1 and value == int(value)):
                msg = f"`max_evals` must be at least 1, to evaluate the start, and whole; got {value!r}."
                raise ValueError(msg)
            if not value > 0:
                msg = f"`{name}` must be positive; got {value!r}. Leave it out to make no such test."
                raise ValueError(msg)
            if name == "tol" and not np.finfo(np.float64).eps ** 2 <= value < 1:
                msg = f"`tol` must be at least 5e-32 and below 1; got {value!r}. The usual value is 1e-6."
                raise ValueError(msg)
            # One type for each, so that numbers of another type compile nothing anew.
            object.__setattr__(self, name, int(value) if name == "max_evals" else float(value))
        if all(value is None for name, value in given.items() if name != "max_evals"):
            object.__setattr__(self, "tol", 0.0)

    def unresolved(self, dtype: Any) -> str:
        """Return what to say of a `tol` below what rounding of a loss of this type hides; nothing of any other."""
        least = 4 * float(np.finfo(dtype).eps)
        if not (isinstance(self.tol, float) and 0 < self.tol < least):
            return ""
        more = ' `dtype="float64"` resolves more.' if np.dtype(dtype) == np.float32 else ""
        return (
            f" `tol` is {self.tol:.1e}: {dtype} resolves no less than {least:.1e} of a loss that stays above 0.{more}"
        )

    def judge(
        self, solver: Any, run: Any, trial: Point, state: Any, clear: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the counts after a step and the evidence, both packed, and whether the trial is the best point yet.

        The step led `run` to `state` over the `trial`; far ahead of the best point the way is `clear`. All that is read
        of the vectors is what `Facts` holds, so that XLA makes few kernels of what follows.
        """
        counts, old = Counts.of(run.counts), Evidence.unpack(run.evidence)
        evals = counts.evals
        moves = counts.moves + (state.moved & (evals > 0))
        traits, reported = Traits.of(solver), Reported.of(state)
        before, point, bare = run.state.point, state.point, len(trial.vectors) == 2  # noqa: PLR2004 - no term
        if not traits.exact_curvature:
            # A test step leads from the best point, which may not be the last.
            pair = choose(old.claims, run.best[:2], before[:2])
            before = before._replace(vectors=pair[0], scalars=pair[1])
        step = trial.params - before.params
        # The sum of sizes as a product too: XLA on CPU makes three kernels of a long sum.
        rows = pack(before.grad, trial.grad, step, jnp.sign(step))
        slope, other, square, size = products(rows, step[None])[:, 0]
        facts = Facts(
            before=before,
            point=point,
            trial=trial,
            best=run.best,
            moved=state.moved,
            stuck=state.stuck,
            predicted_remaining=state.predicted_remaining,
            slope_decrease=state.slope_decrease,
            saddle=reported.saddle,
            lost=reported.lost,
            doubt=reported.doubt,
            norm=point.norm if reported.norm is None else reported.norm,
            ahead=reported.ahead if traits.full_hessian else None,
            full_hessian=traits.full_hessian,
            bare=bare,
            moves=moves,
            length=safe_norm(square, size),
            slopes=jnp.abs(slope) + jnp.abs(other) + jnp.abs(state.slope_decrease),
            trapezoid=-(slope + other) / 2,
            slope=slope,
            grad_abs_sum=point.residual_abs_sum if bare else jnp.sum(jnp.abs(point.grad)),
            largest=None if self.gtol is None else jnp.max(jnp.abs(point.residual)),
            change=None if self.xtol is None else jnp.max(jnp.abs(point.params - before.params)),
        )
        tol = None if self.tol is None else traits.tolerance.demanded(self.tol, trial.loss.dtype)
        seen = weigh(old, facts, tol, traits.tolerance.part, exact_curvature=traits.exact_curvature)
        status = self._status(traits, trial.params.size, seen, facts, evals + 1)
        more = evals + 1 < self.max_evals
        status, claim = _confirmed(status, seen, old, facts, more, clear, learnt=not traits.exact_curvature)
        # What was seen before a test step is what the verdict rests on.
        claim = claim.astype(old.claim.dtype)
        evidence = jnp.where(old.claim > 0, old._replace(claim=claim).pack(), seen._replace(claim=claim).pack())
        lower = better(old, facts, evals) & ~old.looks_ahead
        return pack(status, evals + 1, moves, reported.products), evidence, lower

    def _status(self, traits: Traits, size: int, seen: Evidence, facts: Facts, evals: jax.Array) -> jax.Array:
        """Return the status after the evaluation number `evals`, an int32."""
        first, fine, here = evals == 1, facts.trial.finite, facts.point.finite
        if traits.exact_curvature:  # between two points that differ by rounding it may go to and fro
            facts = facts._replace(stuck=facts.stuck | (seen.stalled_evals >= FRUITLESS))
        moved, flat = facts.moved & ~first, fine & (facts.point.residual_abs_sum == 0) & ~facts.saddle
        floor = here & (at_floor(seen, facts, exact_curvature=traits.exact_curvature) | pinned(seen, facts, size))
        done = flat | (here & (seen.hidden >= min(traits.tolerance.agree, size + 1)))
        if self.tol is not None:
            # A model knows the directions it has moved in: several moves must agree, but no more than there are.
            done = done | (moved & (seen.consecutive_moves >= min(traits.consecutive_moves, size)))
        # Later rows win.
        cases = [(Status.MAX_EVALS, evals >= self.max_evals)]
        cases += [(Status.STUCK, facts.stuck), (Status.DIVERGED, facts.stuck & ~here)]
        cases += [(Status.PRECISION_FLOOR, floor)]
        if self.ftol is not None:
            scale = jnp.maximum(1, jnp.abs(facts.point.loss))
            cases += [(Status.SMALL_DECREASE, moved & (seen.recent[0] <= self.ftol * scale))]
        if self.xtol is not None:
            cases += [(Status.SMALL_STEP, moved & (seen.change < self.xtol))]
        if self.gtol is not None:
            cases += [(Status.SMALL_GRADIENT, facts.largest <= self.gtol)]
        cases += [(Status.CONVERGED, done), (Status.ZERO_GRADIENT, first & flat & (facts.grad_abs_sum == 0))]
        cases += [(Status.NO_INFLUENCE, (floor | done) & ~first & (facts.lost | on_a_ray(seen, facts)))]
        huge = float(jnp.finfo(facts.point.loss.dtype).max) ** 0.75
        far = moved & (facts.point.params_abs_sum > huge) & (facts.point.loss < seen.first)
        endless = (facts.trial.loss < -huge) | far
        cases += [(Status.UNBOUNDED, endless), (Status.BAD_START, first & ~fine)]
        status = jnp.zeros((), jnp.int32)
        for reason, met in cases:
            status = jnp.where(met, int(reason), status)
        return status


def _confirmed(
    status: jax.Array, seen: Evidence, old: Evidence, facts: Facts, more: Any, clear: Any, *, learnt: bool
) -> tuple[jax.Array, jax.Array]:
    """Return the status and the claim, where an end waits for a test step, if it may make one `more`.

    What is `learnt` of the curvature from far away, or from a few directions, may make of a slope that nothing is left.
    The parameters may be on their way to infinity, if it is `clear`.
    """
    success = (status == Status.CONVERGED) | (status == Status.PRECISION_FLOOR)
    probed, beyond = old.claims, old.looks_ahead
    claim = jnp.where(old.claim > 0, old.claim % LOOKS, status)
    if learnt:
        left = claimed_left(old, claim == Status.PRECISION_FLOOR)
        false = probed & (refuted(old, left, facts) | on_a_kink(old, facts))
        claim = jnp.where(false, int(Status.STUCK), claim)
        probes = success & (old.claim == 0) & (facts.point.residual_abs_sum > 0) & more
    else:
        probes = np.False_
    ends = (success | (status == Status.STUCK) | probed) & ~beyond & ~probes
    # A few moves with the curvature computed come to rest; one search along a line may go far.
    looks = ends & (learnt | (facts.moves >= MANY)) & (seen.lowered > 0) & clear & more
    claim = jnp.where(beyond & clear & flat_ahead(old, facts), int(Status.NO_INFLUENCE), claim)
    # Where a solve is stuck on a slope, it falls on ahead whatever lies there.
    endless = (claim != Status.STUCK) & falls_on(old, facts)
    claim = jnp.where(beyond & clear & endless, int(Status.UNBOUNDED), claim)
    waits = jnp.where(looks, claim + LOOKS, jnp.where(probes, claim, 0))
    return jnp.where(waits > 0, int(Status.RUNNING), claim).astype(status.dtype), waits


class PassFacts(NamedTuple):
    """What a solve by minibatches is judged by after a pass over the rows."""

    finite: bool  # the loss averaged over the pass
    small: bool  # the gradient over all rows is as small as `gtol` asks
    left: float  # decrease that all rows say is left; inf where they were not asked
    near: float  # what `tol` lets be left
    noise: float  # what noise does to the averaged loss
    last: bool  # no more passes are allowed

    def status(self) -> Status:
        # The first that holds.
        cases = [
            (not self.finite, Status.DIVERGED),
            (self.small, Status.SMALL_GRADIENT),
            (self.left < self.near, Status.CONVERGED),
            (self.left <= self.noise, Status.NOISE_FLOOR),
            (self.last, Status.MAX_PASSES),
        ]
        return next((status for holds, status in cases if holds), Status.RUNNING)


def ended_above_start(status: Status) -> Status:
    """Return the status of passes that have led higher than the start, by more than noise."""
    return Status.DIVERGED if status in (Status.NOISE_FLOOR, Status.MAX_PASSES) else status


def _as_leaves(stop: Stop) -> tuple[list[tuple[Any, Any]], None]:
    return [(jax.tree_util.GetAttrKey(field.name), getattr(stop, field.name)) for field in fields(stop)], None


def _from_leaves(_: None, leaves: Any) -> Stop:
    # Not checked again: a `tol` that stands for the default, and what JAX passes, are no numbers a user may give.
    stop = object.__new__(Stop)
    for field, leaf in zip(fields(Stop), leaves, strict=True):
        object.__setattr__(stop, field.name, leaf)
    return stop


jax.tree_util.register_pytree_with_keys(Stop, _as_leaves, _from_leaves)
DEFAULT = Stop()
