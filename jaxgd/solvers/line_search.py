"""Line searches: value and slope along a line go in, the next step size comes out."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.numerics import pack
from jaxgd.core.problem import choose

PATIENCE = 3  # interpolations in a bracket before it is halved
SETTLED = jnp.inf  # in place of the trials made: the next one is taken as it is, if finite


class Line(Protocol):
    """What a search knows of the line it is on."""

    @property
    def stepsize(self) -> jax.Array:
        """Where to look next."""
        ...

    @property
    def slope(self) -> jax.Array:
        """At the line's start."""
        ...

    def pack(self) -> jax.Array:
        """Return one vector, the step size first."""
        ...


class Mark(NamedTuple):
    """A place on a line."""

    stepsize: jax.Array
    loss: jax.Array
    slope: jax.Array


class Search(NamedTuple):
    """A search along one line by a bracket around the answer."""

    stepsize: jax.Array
    low: Mark  # too short a step
    high: Mark  # too long a step; an infinite one while none is known
    slope: jax.Array
    trials: jax.Array  # made since `high` is known, or `SETTLED`

    @property
    def bounded(self) -> jax.Array:
        """Whether a step is known that is too long."""
        return jnp.isfinite(self.high.stepsize)

    def pack(self) -> jax.Array:
        return pack(self.stepsize, *self.low, *self.high, self.slope, self.trials)


class Backtrack(NamedTuple):
    """A search along one line that only shortens its step."""

    stepsize: jax.Array
    slope: jax.Array
    trials: jax.Array  # made, or `SETTLED`
    recent: jax.Array  # losses where the last lines started, shape (window,), newest first; -inf: none

    def pack(self) -> jax.Array:
        return jnp.concatenate([pack(*self[:3]), self.recent])


class SearchVerdict(NamedTuple):
    """What a search learnt from one trial."""

    line: Line
    accepted: jax.Array  # the trial is the line's answer
    failed: jax.Array  # the line has no answer


class LineSearch(Protocol):
    """How far to go along a line."""

    def begin(self, like: jax.Array) -> Line:
        """Return a search that accepts its first trial, the start of everything, in the type of a number `like`."""
        ...

    def unpack(self, packed: jax.Array) -> Any:
        """Read a line from its vector."""
        ...

    def start(self, last: Any, loss: jax.Array, slope: jax.Array) -> Line:
        """Return the search along the line after `last`, with this loss and slope at its start, first trial at 1."""
        ...

    def judge(self, line: Any, /, start: jax.Array, loss: jax.Array, slope: jax.Array) -> SearchVerdict:
        """Learn from the loss and slope at the step size asked for; `start` is the loss at the line's start."""
        ...


def cubic_minimizer(one: Mark, other: Mark, noise: jax.Array) -> jax.Array:
    """Return the step to the minimizer of the cubic through two losses and slopes; NaN where it has none.

    Nocedal and Wright, Numerical Optimization (2006), equation 3.59. Where the losses differ by less than `noise`
    the slopes alone decide, which makes it the secant step.
    """
    (a, fa, da), (b, fb, db) = one, other
    rise = jnp.where(jnp.abs(fb - fa) > noise, (fb - fa) / (b - a), (da + db) / 2)
    d1 = da + db - 3 * rise
    # Scaled by the largest term, so that the squares neither overflow nor vanish.
    scale = jnp.maximum(jnp.abs(d1), jnp.maximum(jnp.abs(da), jnp.abs(db)))
    d2 = scale * jnp.sqrt((d1 / scale) ** 2 - (da / scale) * (db / scale)) * jnp.sign(b - a)
    return b - (b - a) * (db + d2 - d1) / (db - da + 2 * d2)


def _check(name: str, value: Any, low: float, high: float, *, integer: bool = False) -> None:
    """Refuse an option of a search that is not between two numbers."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and low < value < high and (not integer or value == int(value))):
        rule = "a positive integer" if integer else f"above {low} and below {high}"
        msg = f"`{name}` must be {rule}; got {value!r}. Leave it out for the usual value."
        raise ValueError(msg)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[],
    meta_fields=["sufficient", "curvature", "strong", "growth", "max_trials"],
)
@dataclass(frozen=True)
class Wolfe:
    """Search for a step that meets the Wolfe conditions, or near the rounding floor the approximate ones.

    A trial t on the line phi is accepted when phi(t) <= phi(0) + `sufficient` t phi'(0) and
    phi'(t) >= `curvature` phi'(0), where `strong` also |phi'(t)| <= `curvature` |phi'(0)|; or, where rounding hides the
    decrease, when phi(t) is within rounding of phi(0) and |phi'(t)| <= `curvature` |phi'(0)| (Hager and Zhang, SIAM J.
    Optim. 16 (2005), equation 4.1 ff.). Trials come from safeguarded cubic interpolation. A trial that is not finite is
    too long a step, never an end.
    """

    sufficient: float = 1e-4
    curvature: float = 0.9
    strong: bool = False
    growth: float = 10.0
    max_trials: int = 20

    def __post_init__(self) -> None:
        _check("sufficient", self.sufficient, 0, 1)
        _check("curvature", self.curvature, self.sufficient, 1)
        _check("growth", self.growth, 1, np.inf)
        _check("max_trials", self.max_trials, 0, np.inf, integer=True)

    def begin(self, like: jax.Array) -> Search:
        zero, inf = jnp.zeros_like(like), jnp.full_like(like, jnp.inf)
        return Search(zero, low=Mark(zero, inf, zero), high=Mark(inf, inf, zero), slope=zero, trials=SETTLED + zero)

    def unpack(self, packed: jax.Array) -> Search:
        stepsize, *marks, slope, trials = packed
        return Search(stepsize, low=Mark(*marks[:3]), high=Mark(*marks[3:]), slope=slope, trials=trials)

    def start(self, last: Search, loss: jax.Array, slope: jax.Array) -> Search:
        del last
        zero, inf = jnp.zeros_like(loss), jnp.full_like(loss, jnp.inf)
        # Rounding can turn a direction uphill: a step of 0 fails at once.
        step = jnp.where(slope < 0, zero + 1, 0)
        return Search(step, low=Mark(zero, loss, slope), high=Mark(inf, inf, zero), slope=slope, trials=zero)

    def judge(self, search: Search, start: jax.Array, loss: jax.Array, slope: jax.Array) -> SearchVerdict:
        step, eps = search.stepsize, jnp.finfo(loss.dtype).eps
        noise, settling = 4 * eps * jnp.abs(start), search.trials == SETTLED
        finite = jnp.isfinite(loss) & jnp.isfinite(slope)
        enough = (loss <= start + self.sufficient * step * search.slope) & (loss <= search.low.loss)
        level = loss <= start + noise
        flat = jnp.abs(slope) <= -self.curvature * search.slope
        wolfe = enough & (flat if self.strong else slope >= self.curvature * search.slope)
        approximate = level & flat
        accepted = finite & (((wolfe | approximate) & (search.slope < 0)) | settling)

        too_long = ~finite | (slope >= 0) | ~(enough | level)
        trial = Mark(step, jnp.where(finite, loss, jnp.inf), slope)
        low, high = choose(too_long, search.low, trial), choose(too_long, trial, search.high)
        after = search._replace(low=low, high=high)
        after = after._replace(trials=search.trials + after.bounded)
        narrow = high.stepsize - low.stepsize <= 2 * eps * high.stepsize
        exhausted = after.bounded & ((after.trials > self.max_trials) | narrow)
        # A step too short to change anything is no answer.
        settle = exhausted & (low.stepsize > 0) & ((low.loss < start) | (low.slope > search.slope))
        after = after._replace(
            stepsize=jnp.where(settle, low.stepsize, self._next(search, trial, after, noise)),
            trials=jnp.where(settle, SETTLED, after.trials),
        )
        return SearchVerdict(after, accepted, ~accepted & ((exhausted & ~settle) | settling))

    def _next(self, search: Search, trial: Mark, after: Search, noise: jax.Array) -> jax.Array:
        """Return the next trial: inside the bracket, or beyond the last trial while there is none."""
        bounded = after.bounded
        a, b = choose(bounded, after.low, search.low), choose(bounded, after.high, trial)
        width = b.stepsize - a.stepsize
        least = jnp.where(bounded, a.stepsize + 0.1 * width, b.stepsize + 0.1 * width)
        most = jnp.where(bounded, b.stepsize - 0.1 * width, b.stepsize + (self.growth - 1) * width)
        # Of a line's first bracket nothing is known but what the cubic says: the step may be of another size.
        least = jnp.where(bounded & (after.trials == 1) & (after.low.stepsize == 0), 0, least)
        # Halve where the cubic knows nothing and when it is slow; go far where the slope does not rise.
        blind = jnp.where(bounded, a.stepsize + 0.5 * width, most)
        step = cubic_minimizer(a, b, noise)
        useful = jnp.where(bounded, jnp.isfinite(step) & (after.trials <= PATIENCE), step > b.stepsize)
        return jnp.where(useful, jnp.clip(step, least, most), blind)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["sufficient", "window", "max_trials"])
@dataclass(frozen=True)
class Nonmonotone:
    """Search for a step that lowers the largest of the last losses; the first trial almost always does.

    Grippo, Lampariello and Lucidi, SIAM J. Numer. Anal. 23 (1986): a trial t on the line phi is accepted when phi(t)
    is at most `sufficient` t phi'(0) plus the largest loss where the last `window` lines started, rounding apart.
    """

    sufficient: float = 1e-4
    window: int = 10
    max_trials: int = 30

    def __post_init__(self) -> None:
        _check("sufficient", self.sufficient, 0, 1)
        _check("window", self.window, 0, np.inf, integer=True)
        _check("max_trials", self.max_trials, 0, np.inf, integer=True)

    def begin(self, like: jax.Array) -> Backtrack:
        zero = jnp.zeros_like(like)
        return Backtrack(zero, slope=zero, trials=SETTLED + zero, recent=jnp.full(self.window, -jnp.inf, like.dtype))

    def unpack(self, packed: jax.Array) -> Backtrack:
        return Backtrack(*packed[:3], recent=packed[3:])

    def start(self, last: Backtrack, loss: jax.Array, slope: jax.Array) -> Backtrack:
        one = jnp.ones_like(loss)
        recent = jnp.concatenate([loss[None], last.recent[:-1]])
        return Backtrack(one, slope=slope, trials=0 * one, recent=recent)

    def judge(self, line: Backtrack, start: jax.Array, loss: jax.Array, slope: jax.Array) -> SearchVerdict:
        step, eps = line.stepsize, jnp.finfo(loss.dtype).eps
        finite, settling = jnp.isfinite(loss) & jnp.isfinite(slope), line.trials == SETTLED
        most = jnp.max(line.recent)
        noise = 4 * eps * jnp.abs(most)
        enough = (loss <= most + noise + self.sufficient * step * line.slope) & (line.slope < 0)
        accepted = finite & (enough | settling)
        # Nothing is known of the loss beyond a trial that is not finite: go back far.
        best = cubic_minimizer(Mark(jnp.zeros_like(step), start, line.slope), Mark(step, loss, slope), noise)
        shorter = jnp.where(jnp.isfinite(best), jnp.clip(best, 0.1 * step, 0.5 * step), 0.1 * step)
        failed = ~accepted & ((line.trials >= self.max_trials) | settling | (line.slope >= 0))
        return SearchVerdict(line._replace(stepsize=shorter, trials=line.trials + 1), accepted, failed)
