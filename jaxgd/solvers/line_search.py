"""Line searches: value and slope along a line go in, the next step size comes out."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.flat import pack

PATIENCE = 3  # interpolations in a bracket before it is halved
Mark = tuple[jax.Array, jax.Array, jax.Array]  # step size, loss, slope


class Search(NamedTuple):
    """A search along one line, all scalars; `low` is too short a step, `high` too long (inf: none known)."""

    stepsize: jax.Array  # where to look next
    low: jax.Array
    low_loss: jax.Array
    low_slope: jax.Array
    high: jax.Array
    high_loss: jax.Array
    high_slope: jax.Array
    slope: jax.Array  # at the line's start
    trials: jax.Array  # made since `high` is known; inf: take the next one as it is, if finite

    def pack(self) -> jax.Array:
        """Return one vector."""
        return pack(*self)


class Backtrack(NamedTuple):
    """A search along one line that only shortens its step."""

    stepsize: jax.Array  # where to look next
    slope: jax.Array  # at the line's start
    trials: jax.Array  # made; inf: take the next one as it is, if finite
    recent: jax.Array  # losses where the last lines started, newest first; -inf: none

    def pack(self) -> jax.Array:
        """Return one vector."""
        return jnp.concatenate([pack(*self[:3]), self.recent])


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


class SearchVerdict(NamedTuple):
    """What a search learnt from one trial."""

    line: Line
    accepted: jax.Array  # the trial is the line's answer
    failed: jax.Array  # the line has no answer


class LineSearch(Protocol):
    """How far to go along a line."""

    def begin(self, like: jax.Array) -> Line:
        """Return a search that accepts its first trial: the start of everything."""
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


def cubic_minimizer(
    a: jax.Array, fa: jax.Array, da: jax.Array, b: jax.Array, fb: jax.Array, db: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return the minimizer of the cubic through two values and slopes; NaN where it has none.

    Nocedal and Wright, Numerical Optimization (2006), equation 3.59. Where the values differ by less than `noise`
    the slopes alone decide, which makes it the secant step.
    """
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
        """Refuse numbers with which no step is found, or any."""
        _check("sufficient", self.sufficient, 0, 1)
        _check("curvature", self.curvature, self.sufficient, 1)
        _check("growth", self.growth, 1, np.inf)
        _check("max_trials", self.max_trials, 0, np.inf, integer=True)

    def begin(self, like: jax.Array) -> Search:
        """Return a search that accepts its first trial: the start of everything."""
        zero, inf = jnp.zeros_like(like), jnp.full_like(like, jnp.inf)
        return Search(zero, zero, inf, zero, inf, inf, zero, zero, inf)

    def unpack(self, packed: jax.Array) -> Search:
        """Read a search from its vector."""
        return Search(*packed)

    def start(self, last: Search, loss: jax.Array, slope: jax.Array) -> Search:
        """Return the search along a new line with this loss and slope at its start, first trial at 1."""
        del last
        zero, inf = jnp.zeros_like(loss), jnp.full_like(loss, jnp.inf)
        # Rounding can turn a direction uphill: a step of 0 fails at once.
        step = jnp.where(slope < 0, zero + 1, 0)
        return Search(step, zero, loss, slope, inf, inf, zero, slope, zero)

    def judge(self, search: Search, start: jax.Array, loss: jax.Array, slope: jax.Array) -> SearchVerdict:
        """Learn from the loss and slope at `search.stepsize`; `start` is the loss at the line's start."""
        step, eps = search.stepsize, jnp.finfo(loss.dtype).eps
        noise, settling = 4 * eps * jnp.abs(start), jnp.isinf(search.trials)
        finite = jnp.isfinite(loss) & jnp.isfinite(slope)
        enough = (loss <= start + self.sufficient * step * search.slope) & (loss <= search.low_loss)
        level = loss <= start + noise
        flat = jnp.abs(slope) <= -self.curvature * search.slope
        wolfe = enough & (flat if self.strong else slope >= self.curvature * search.slope)
        approximate = level & flat
        accepted = finite & (((wolfe | approximate) & (search.slope < 0)) | settling)

        too_long = ~finite | (slope >= 0) | ~(enough | level)
        trial = (step, jnp.where(finite, loss, jnp.inf), slope)
        low = _select(too_long, (search.low, search.low_loss, search.low_slope), trial)
        high = _select(too_long, trial, (search.high, search.high_loss, search.high_slope))
        bounded = jnp.isfinite(high[0])
        trials = search.trials + bounded
        exhausted = bounded & ((trials > self.max_trials) | (high[0] - low[0] <= 2 * eps * high[0]))
        # A step too short to change anything is no answer.
        settle = exhausted & (low[0] > 0) & ((low[1] < start) | (low[2] > search.slope))
        stepsize = jnp.where(settle, low[0], self._next(search, trial, low, high, noise, trials))
        after = Search(stepsize, *low, *high, search.slope, jnp.where(settle, jnp.inf, trials))
        return SearchVerdict(after, accepted, ~accepted & ((exhausted & ~settle) | settling))

    def _next(
        self, search: Search, trial: Mark, low: Mark, high: Mark, noise: jax.Array, trials: jax.Array
    ) -> jax.Array:
        """Return the next trial: inside the bracket, or beyond the last trial while there is none."""
        bounded = jnp.isfinite(high[0])
        a = _select(bounded, low, (search.low, search.low_loss, search.low_slope))
        b = _select(bounded, high, trial)
        width = b[0] - a[0]
        least = jnp.where(bounded, a[0] + 0.1 * width, b[0] + 0.1 * width)
        most = jnp.where(bounded, b[0] - 0.1 * width, b[0] + (self.growth - 1) * width)
        # Of a line's first bracket nothing is known but what the cubic says: the step may be of another size.
        least = jnp.where(bounded & (trials == 1) & (low[0] == 0), 0, least)
        # Halve where the cubic knows nothing and when it is slow; go far where the slope does not rise.
        blind = jnp.where(bounded, a[0] + 0.5 * width, most)
        step = cubic_minimizer(*a, *b, noise)
        useful = jnp.where(bounded, jnp.isfinite(step) & (trials <= PATIENCE), step > b[0])
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
        """Refuse numbers with which no step is found."""
        _check("sufficient", self.sufficient, 0, 1)
        _check("window", self.window, 0, np.inf, integer=True)
        _check("max_trials", self.max_trials, 0, np.inf, integer=True)

    def begin(self, like: jax.Array) -> Backtrack:
        """Return a search that accepts its first trial: the start of everything."""
        zero, inf = jnp.zeros_like(like), jnp.full_like(like, jnp.inf)
        return Backtrack(zero, zero, inf, jnp.full(self.window, -jnp.inf, like.dtype))

    def unpack(self, packed: jax.Array) -> Backtrack:
        """Read a search from its vector."""
        return Backtrack(packed[0], packed[1], packed[2], packed[3:])

    def start(self, last: Backtrack, loss: jax.Array, slope: jax.Array) -> Backtrack:
        """Return the search along a new line with this loss and slope at its start, first trial at 1."""
        one = jnp.ones_like(loss)
        return Backtrack(one, slope, 0 * one, jnp.concatenate([loss[None], last.recent[:-1]]))

    def judge(self, line: Backtrack, start: jax.Array, loss: jax.Array, slope: jax.Array) -> SearchVerdict:
        """Learn from the loss and slope at `line.stepsize`; `start` is the loss at the line's start."""
        step, eps = line.stepsize, jnp.finfo(loss.dtype).eps
        finite, settling = jnp.isfinite(loss) & jnp.isfinite(slope), jnp.isinf(line.trials)
        most = jnp.max(line.recent)
        noise = 4 * eps * jnp.abs(most)
        enough = (loss <= most + noise + self.sufficient * step * line.slope) & (line.slope < 0)
        accepted = finite & (enough | settling)
        # Nothing is known of the loss beyond a trial that is not finite: go back far.
        best = cubic_minimizer(jnp.zeros_like(step), start, line.slope, step, loss, slope, noise)
        shorter = jnp.where(jnp.isfinite(best), jnp.clip(best, 0.1 * step, 0.5 * step), 0.1 * step)
        failed = ~accepted & ((line.trials >= self.max_trials) | settling | (line.slope >= 0))
        return SearchVerdict(line._replace(stepsize=shorter, trials=line.trials + 1), accepted, failed)


def _select(condition: jax.Array, yes: Mark, no: Mark) -> Mark:
    return jnp.where(condition, yes[0], no[0]), jnp.where(condition, yes[1], no[1]), jnp.where(condition, yes[2], no[2])
