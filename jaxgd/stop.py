"""When to stop, and why: the rule and the reason."""

from dataclasses import dataclass, fields
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.flat import pack
from jaxgd.problem import Point, choose, rounding

TOL = {"float32": 1e-10, "float64": 1e-14}  # asked for where the user asks for nothing
TOL_COMPUTED = {"float32": 1e-12, "float64": 1e-20}  # where the curvature is computed: a move more reaches it
WINDOW = 3  # moves in each of the two sums of decreases that tell the trend
CALM = 5  # moves in a row that must meet the test of `tol`, where there are as many parameters
PATIENCE = 10  # evaluations without measurable progress before the rounding floor is suspected


class Status(IntEnum):
    """Why a solve ended; the first five after `RUNNING` are success."""

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

    @property
    def converged(self) -> bool:
        """Whether this status is success."""
        return Status.CONVERGED <= self <= Status.PRECISION_FLOOR


class Evidence(NamedTuple):
    """What a verdict rests on, all scalars but the last."""

    first: jax.Array  # loss at the start
    made: jax.Array  # decrease since the start
    model: jax.Array  # the solver's last prediction of the decrease left
    left: jax.Array  # the decrease estimated to be left: the worse of what the model and the trend of the moves say
    change: jax.Array  # largest change of a parameter in the last move, where `xtol` asks for it
    peak: jax.Array  # longest gradient so far
    least: jax.Array  # shortest gradient so far
    quiet: jax.Array  # evaluations since the last progress
    calm: jax.Array  # moves in a row that met the test of `tol`
    recent: tuple[jax.Array, ...]  # decreases of the last 2 * WINDOW moves, newest first

    @classmethod
    def unpack(cls, packed: jax.Array) -> "Evidence":
        """Read the evidence from its vector."""
        head = len(cls._fields) - 1
        return cls(*packed[:head], tuple(packed[head:]))  # type: ignore[arg-type]

    def pack(self) -> jax.Array:
        """Return one vector: XLA compiles and runs one operation, not one a field."""
        return jnp.concatenate([pack(*self[:-1]), jnp.stack(self.recent)])


@partial(jax.tree_util.register_dataclass, data_fields=["tol", "gtol", "xtol", "ftol", "max_evals"], meta_fields=[])
@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stop at the first test that is met; a test that is None is not made. With no test given, `tol` is.

    `tol`: the loss is estimated to be within `tol` of the best reachable, relative to the decrease since the start,
    `loss - best <= tol * (loss(init) - best)`. Scaling or shifting the loss does not change it. Where no test is given,
    `tol` is 0, which stands for 1e-20 in float64 and 1e-12 in float32 for methods that compute the curvature, and for
    1e-14 and 1e-10 for the others.
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
            # One type for each, so that numbers of another type compile nothing anew.
            object.__setattr__(self, name, int(value) if name == "max_evals" else float(value))
        if all(value is None for name, value in given.items() if name != "max_evals"):
            object.__setattr__(self, "tol", 0.0)

    def begin(self, dtype: np.dtype) -> jax.Array:
        """Return the evidence before the first evaluation, packed."""
        inf = np.inf
        return jnp.array([inf, 0, inf, inf, inf, 0, inf, 0, 0, *[inf] * (2 * WINDOW)], dtype)

    def weigh(self, packed: jax.Array, before: Point, state: Any, *, computed: bool) -> jax.Array:
        """Return the evidence after a step that led from `before` to `state`.

        `computed`: the curvature of the solver's model is computed, not learnt from the moves.
        """
        old, point = Evidence.unpack(packed), state.point
        moved = state.moved & jnp.isfinite(before.loss)
        drop, noise = before.loss - point.loss, rounding(before.loss)
        # Where rounding hides the decrease, a constant added to the loss for one, the slopes still tell it.
        gain = jnp.where(jnp.abs(drop) > noise, drop, state.gain)
        progress = (moved & (drop > _hidden(before.loss, old.made))) | (point.norm < 0.9 * old.least)
        change, recent = old.change, choose(moved, (gain, *old.recent[:-1]), old.recent)
        model = jnp.where(jnp.isfinite(state.left), state.left, old.model)
        peak, least = jnp.maximum(old.peak, point.norm), jnp.minimum(old.least, point.norm)
        if self.xtol is not None:
            change = jnp.where(moved, jnp.max(jnp.abs(point.params - before.params)), change)
        seen = Evidence(
            first=jnp.where(jnp.isfinite(old.first), old.first, point.loss),
            made=old.made + jnp.where(moved, gain, 0),
            model=model,
            left=_tail(state.left, recent[0]) if computed else _left(model, recent, peak, least),
            change=change,
            peak=peak,
            least=least,
            quiet=jnp.where(progress, 0, old.quiet + 1),
            calm=old.calm,
            recent=recent,
        )
        if self.tol is None:
            return seen.pack()
        tol = jnp.where(self.tol > 0, self.tol, (TOL_COMPUTED if computed else TOL)[str(point.loss.dtype)])
        short = point.norm**2 <= tol * seen.peak**2
        met = short & (seen.left <= tol * seen.made)
        return seen._replace(calm=jnp.where(met, old.calm + moved, 0)).pack()

    def judge(
        self, packed: jax.Array, state: Any, trial: Point, evals: jax.Array, calm: int, *, whole: bool
    ) -> jax.Array:
        """Return the status after the evaluation number `evals`, an int32.

        `calm`: moves that must agree on `tol`; `whole`: the solver computes the curvature in every direction.
        """
        seen, point = Evidence.unpack(packed), state.point
        first, fine = evals == 1, jnp.isfinite(trial.loss) & jnp.isfinite(trial.norm)
        moved, noise = state.moved & ~first, _hidden(point.loss, seen.made)
        # Component by component, since the norm can underflow.
        flat = fine & ~jnp.any(point.residual != 0) & ~getattr(state, "saddle", jnp.zeros((), bool))
        # On one parameter a search that fails has closed in on the minimum from both sides.
        pinned = point.params.size == 1
        # The better the model says it is, the sooner a lack of progress is put down to rounding.
        tried = whole | jnp.isfinite(seen.recent[min(calm, WINDOW) - 1])
        at_floor = ((seen.model <= noise / 10) & (seen.quiet >= PATIENCE)) | (
            (seen.model <= noise) & (seen.quiet >= 5 * PATIENCE)
        )
        # What rounding of the params alone does to the loss.
        blur = jnp.finfo(point.loss.dtype).eps * jnp.sum(jnp.abs(point.residual * point.params))
        hidden = (seen.model <= jnp.maximum(noise, blur)) | (seen.calm > 0) | _at_rounding(seen.least, seen.peak)
        if whole:
            # All lengths of step have been tried: what the model still promises is rounding of the gradient.
            hidden = hidden | (seen.model <= jnp.sqrt(jnp.finfo(point.loss.dtype).eps) * seen.made)
        at_floor = fine & tried & (at_floor | (state.stuck & hidden))
        # Later rows win.
        rows = [(Status.MAX_EVALS, evals >= self.max_evals)]
        rows += [(Status.STUCK, state.stuck), (Status.DIVERGED, state.stuck & ~fine)]
        rows += [(Status.PRECISION_FLOOR, at_floor | (state.stuck & fine & pinned))]
        if self.ftol is not None:
            scale = jnp.maximum(1, jnp.abs(point.loss))
            rows += [(Status.SMALL_DECREASE, moved & (seen.recent[0] <= self.ftol * scale))]
        if self.xtol is not None:
            rows += [(Status.SMALL_STEP, moved & (seen.change < self.xtol))]
        if self.gtol is not None:
            rows += [(Status.SMALL_GRADIENT, jnp.max(jnp.abs(point.residual)) <= self.gtol)]
        if self.tol is not None:
            # A model knows the directions it has moved in: several moves must agree, but no more than there are.
            rows += [(Status.CONVERGED, moved & (seen.calm >= min(calm, point.params.size)))]
        rows += [(Status.CONVERGED, flat), (Status.ZERO_GRADIENT, first & flat & ~jnp.any(point.grad != 0))]
        huge = float(jnp.finfo(point.loss.dtype).max) ** 0.75
        rows += [(Status.UNBOUNDED, trial.loss < -huge), (Status.BAD_START, first & ~fine)]
        status = jnp.zeros((), jnp.int32)
        for reason, met in rows:
            status = jnp.where(met, int(reason), status)
        return status


def _hidden(loss: Any, made: Any) -> Any:
    """Return the changes that rounding hides in a loss of this size, which may be the difference of larger numbers."""
    return jnp.maximum(rounding(loss), jnp.finfo(loss.dtype).eps * rounding(made))


def _at_rounding(least: Any, peak: Any) -> Any:
    """Return whether the gradient has shrunk to its rounding."""
    return least <= 4 * jnp.finfo(least.dtype).eps * peak


def _left(model: Any, recent: tuple[jax.Array, ...], peak: Any, least: Any) -> Any:
    """Return the decrease left: the worse of what the model and the trend of the moves say."""
    eps = jnp.finfo(model.dtype).eps
    # Where the gradient has shrunk to its rounding, the trend has nothing more to say, and the model is believed.
    believed = jnp.where(_at_rounding(least, peak), 1e4, 1 / eps) * model
    return jnp.maximum(model, jnp.minimum(_trend(recent), believed))


def _tail(left: Any, last: Any) -> Any:
    """Return the decrease left if the moves go on shrinking as from the last one's to the model's."""
    rate = left / last
    return jnp.where(rate < 1, left / (1 - jnp.where(rate < 1, rate, 0)), jnp.inf)


def _trend(recent: tuple[jax.Array, ...]) -> jax.Array:
    """Return the decrease left if the moves go on shrinking as they do; inf while unknown or not shrinking.

    With A the sum of the last moves' decreases and B of those before, the rest is A r / (1 - r), r = A / B.
    """
    last, earlier = sum(recent[:WINDOW]), sum(recent[WINDOW:])
    known = jnp.isfinite(earlier) & (last < earlier)
    return jnp.where(known, last * last / jnp.where(known, earlier - last, 1), jnp.inf)
