"""When to stop, and why: the rule and the reason."""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.convergence import Evidence, Facts, at_floor, better, on_a_kink, on_a_ray, pinned, refuted, weigh
from jaxgd.core.flat import pack, products, root
from jaxgd.core.problem import Point, choose

CALM = 5  # moves in a row that must meet the test of `tol`, where there are as many parameters


class Status(IntEnum):
    """Why a solve ended; the first five after `RUNNING` are success, and `NOISE_FLOOR`."""

    RUNNING = 0
    CONVERGED = 1
    SMALL_GRADIENT = 2
    SMALL_STEP = 3
    SMALL_DECREASE = 4
    PRECISION_FLOOR = 5
    MAX_EVALS = 6
    STUCK = 7
    DIVERGED = 8
    BAD_START = 9
    UNBOUNDED = 10
    ZERO_GRADIENT = 11
    INTERRUPTED = 12
    OUTDONE = 13
    NOISE_FLOOR = 14
    MAX_PASSES = 15
    TIME_LIMIT = 16
    STOPPED = 17
    NO_INFLUENCE = 18

    @property
    def converged(self) -> bool:
        """Whether this status is success."""
        return bool(succeeded(int(self)))


def succeeded(codes: Any) -> Any:
    """Return which of the numbers of statuses are success."""
    return (codes >= Status.CONVERGED) & (codes <= Status.PRECISION_FLOOR) | (codes == Status.NOISE_FLOOR)


class Tolerance(NamedTuple):
    """What a method's own estimate of the decrease left is worth: what `tol` is to it, by float type, and rounding."""

    default: dict[str, float]  # where the user asks for none
    margin: dict[str, float]  # what is demanded of the estimate, of the `tol` asked for
    agree: int  # evaluations in a row that must find no more left than rounding hides
    part: float  # of what rounding hides, the most that may be left

    def demanded(self, tol: Any, dtype: Any) -> jax.Array:
        """Return what the estimate must come to, where the user asks for `tol`; 0 stands for nothing."""
        default = self.default[str(dtype)]
        return jnp.where(tol > 0, jnp.maximum(self.margin[str(dtype)] * tol, jnp.minimum(tol, default)), default)


_EVEN = {"float32": 1.0, "float64": 1.0}
# The parameters are far off where rounding begins to hide the loss, and the slopes still tell.
TOL = Tolerance({"float32": 1e-10, "float64": 1e-14}, _EVEN, agree=5, part=0.01)
# With a model of the curvature, hardly a move more reaches what rounding hides.
TOL_COMPUTED = Tolerance({"float32": 1e-30, "float64": 1e-60}, _EVEN, agree=2, part=0.01)
# One that is learnt may be much less where it is not seen yet.
TOL_LEARNT = Tolerance({"float32": 1e-30, "float64": 1e-60}, {"float32": 1e-5, "float64": 1e-9}, agree=3, part=1)


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

    def judge(self, solver: Any, run: Any, trial: Point, state: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the counts after a step, the evidence, and whether the trial is the best point yet.

        The step led `run` to `state` over the `trial`. All that is read of the vectors is what `Facts` holds, so that
        XLA makes few kernels of what follows.
        """
        (_, evals, moves, _), old = run.counts, Evidence.unpack(run.evidence)
        moves = moves + (state.moved & (evals > 0))
        computed, whole, tol = getattr(solver, "computed", False), getattr(solver, "whole", False), self.tol
        before, point, bare = run.state.point, state.point, len(trial.vectors) == 2  # noqa: PLR2004 - no term
        step = trial.params - before.params
        slope, other, square = products(pack(before.grad, trial.grad, step), step[None])[:, 0]
        facts = Facts(
            before=before,
            point=point,
            trial=trial,
            best=run.best,
            moved=state.moved,
            whole=whole,
            bare=bare,
            stuck=state.stuck,
            saddle=getattr(state, "saddle", np.False_),
            lost=getattr(state, "lost", np.False_),
            doubt=getattr(state, "doubt", 0.0),
            norm=getattr(state, "norm", point.norm),
            left=state.left,
            gain=state.gain,
            moves=moves,
            ahead=state.ahead if whole else None,
            length=root(square, jnp.sum(jnp.abs(step))),
            slopes=jnp.abs(slope) + jnp.abs(other) + jnp.abs(state.gain),
            told=-(slope + other) / 2,
            slope=slope,
            steep=point.size if bare else jnp.sum(jnp.abs(point.grad)),
            largest=None if self.gtol is None else jnp.max(jnp.abs(point.residual)),
            change=None if self.xtol is None else jnp.max(jnp.abs(point.params - before.params)),
        )
        worth = getattr(solver, "tols", TOL)
        if tol is not None:
            tol = worth.demanded(tol, trial.loss.dtype)
        seen = weigh(old, facts, tol, worth.part, computed=computed)
        status = self._status(solver, trial.params.size, seen, facts, evals + 1)
        if not computed:
            status, seen = self._confirmed(status, seen, old, facts, evals + 1)
        taken = getattr(state, "products", jnp.zeros((), jnp.int32))
        return pack(status, evals + 1, moves, taken), seen.pack(), better(old, facts, evals)

    def _confirmed(
        self, status: jax.Array, seen: Evidence, old: Evidence, facts: Facts, evals: jax.Array
    ) -> tuple[jax.Array, Evidence]:
        """Return the status and the evidence where curvature is learnt: a success waits for a test step.

        What was learnt from far away, or from a few directions, may make of a slope that nothing is left.
        """
        tested, floor = old.claim > 0, old.claim == Status.PRECISION_FLOOR
        left = jnp.where(floor, jnp.minimum(old.left, old.model), old.left)
        false = refuted(old, left, facts) | on_a_kink(old, facts)
        verdict = jnp.where(false, int(Status.STUCK), old.claim)
        claims = (status == Status.CONVERGED) | (status == Status.PRECISION_FLOOR)
        waits = claims & ~tested & (facts.point.size > 0) & (evals < self.max_evals)
        new = seen._replace(claim=jnp.where(waits, status, 0).astype(old.claim.dtype))
        status = jnp.where(tested, verdict.astype(status.dtype), jnp.where(waits, int(Status.RUNNING), status))
        return status, choose(tested, old._replace(claim=new.claim), new)

    def _status(self, solver: Any, size: int, seen: Evidence, facts: Facts, evals: jax.Array) -> jax.Array:
        """Return the status after the evaluation number `evals`, an int32."""
        calm, agree = getattr(solver, "calm", CALM), getattr(solver, "tols", TOL).agree
        computed = getattr(solver, "computed", False)
        first, fine = evals == 1, jnp.isfinite(facts.trial.loss) & jnp.isfinite(facts.trial.norm)
        here = jnp.isfinite(facts.point.loss) & jnp.isfinite(facts.point.norm)
        moved, flat = facts.moved & ~first, fine & (facts.point.size == 0) & ~facts.saddle
        floor = here & (at_floor(seen, facts, computed=computed) | pinned(seen, facts, size))
        done = flat | (here & (seen.hidden >= min(agree, size + 1)))
        if self.tol is not None:
            # A model knows the directions it has moved in: several moves must agree, but no more than there are.
            done = done | (moved & (seen.calm >= min(calm, size)))
        # Later rows win.
        rows = [(Status.MAX_EVALS, evals >= self.max_evals)]
        rows += [(Status.STUCK, facts.stuck), (Status.DIVERGED, facts.stuck & ~here)]
        rows += [(Status.PRECISION_FLOOR, floor)]
        if self.ftol is not None:
            scale = jnp.maximum(1, jnp.abs(facts.point.loss))
            rows += [(Status.SMALL_DECREASE, moved & (seen.recent[0] <= self.ftol * scale))]
        if self.xtol is not None:
            rows += [(Status.SMALL_STEP, moved & (seen.change < self.xtol))]
        if self.gtol is not None:
            rows += [(Status.SMALL_GRADIENT, facts.largest <= self.gtol)]
        rows += [(Status.CONVERGED, done), (Status.ZERO_GRADIENT, first & flat & (facts.steep == 0))]
        rows += [(Status.NO_INFLUENCE, (floor | done) & ~first & (facts.lost | on_a_ray(seen, facts)))]
        huge = float(jnp.finfo(facts.point.loss.dtype).max) ** 0.75
        endless = (facts.trial.loss < -huge) | (moved & (facts.point.extent > huge) & (facts.point.loss < seen.first))
        rows += [(Status.UNBOUNDED, endless), (Status.BAD_START, first & ~fine)]
        status = jnp.zeros((), jnp.int32)
        for reason, met in rows:
            status = jnp.where(met, int(reason), status)
        return status


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
