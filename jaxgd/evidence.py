"""What a verdict rests on: the evidence of the moves, weighed step by step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.flat import pack
from jaxgd.problem import Point, choose, rounding

PATIENCE = 20  # evaluations without measurable progress, as many as a line may take: the rounding floor is suspected
WINDOW = 3  # moves in each of the two sums of decreases that tell the trend


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


class Facts(NamedTuple):
    """What a step is judged by; of the points the scalars alone are read."""

    before: Point
    point: Point  # after the step
    trial: Point
    best: Point  # before the step
    moved: jax.Array
    stuck: jax.Array
    saddle: Any
    norm: jax.Array  # length of the residual after the step, in the solver's own scale
    left: jax.Array  # the solver's prediction of the decrease left
    gain: jax.Array  # decrease in the step as the slopes tell it
    steep: jax.Array  # sum of the absolute components of the gradient
    largest: jax.Array | None  # component of the residual, where `gtol` asks for it
    change: jax.Array | None  # of a parameter, largest, where `xtol` asks for it


def begin(dtype: np.dtype) -> jax.Array:
    """Return the evidence before the first evaluation, packed."""
    inf = np.inf
    return jnp.array([inf, 0, inf, inf, inf, 0, inf, 0, 0, *[inf] * (2 * WINDOW)], dtype)


def weigh(old: Evidence, facts: Facts, tol: Any, *, computed: bool) -> Evidence:
    """Return the evidence after a step; `tol` is the tolerance to test, if any.

    `computed`: the curvature of the solver's model is computed, not learnt from the moves.
    """
    moved = facts.moved & jnp.isfinite(facts.before.loss)
    drop, noise = facts.before.loss - facts.point.loss, rounding(facts.before.loss)
    # Where rounding hides the decrease, a constant added to the loss for one, the slopes still tell it.
    gain = jnp.where(jnp.abs(drop) > noise, drop, facts.gain)
    lower = facts.best.loss - facts.point.loss > rounded_off(facts.best.loss, old.made)
    progress = (moved & lower) | (facts.norm < 0.9 * old.least)
    recent = choose(moved, (gain, *old.recent[:-1]), old.recent)
    # A model that promises a rise is made up by rounding.
    left = jnp.where(facts.left >= 0, facts.left, jnp.inf)
    model = jnp.where(jnp.isfinite(left), left, old.model)
    peak, least = jnp.maximum(old.peak, facts.norm), jnp.minimum(old.least, facts.norm)
    seen = Evidence(
        first=jnp.where(jnp.isfinite(old.first), old.first, facts.point.loss),
        made=old.made + jnp.where(moved, gain, 0),
        model=model,
        left=old.left,
        change=old.change if facts.change is None else jnp.where(moved, facts.change, old.change),
        peak=peak,
        least=least,
        quiet=jnp.where(progress, 0, old.quiet + 1),
        calm=old.calm,
        recent=recent,
    )
    seen = seen._replace(left=_tail(left, recent[0]) if computed else _left(seen))
    if tol is None:
        return seen
    short = facts.norm**2 <= tol * seen.peak**2
    met = short & (seen.left <= tol * seen.made)
    return seen._replace(calm=jnp.where(met, old.calm + moved, 0))


def better(old: Evidence, facts: Facts, evals: jax.Array) -> jax.Array:
    """Lower, or equal to rounding with a shorter gradient; the start is taken whatever it is."""
    noise = rounding(facts.best.loss)
    finite = jnp.isfinite(facts.trial.loss) & jnp.isfinite(facts.trial.norm)
    level = (facts.trial.loss <= facts.best.loss + noise) & (facts.trial.norm < facts.best.norm)
    level = level & (facts.trial.loss <= old.first)
    return (evals == 0) | (finite & ((facts.trial.loss < facts.best.loss - noise) | level))


def at_floor(seen: Evidence, facts: Facts, calm: int, *, whole: bool) -> jax.Array:
    """Return whether rounding hides whatever decrease is left.

    `calm`: moves that must agree on `tol`; `whole`: the solver computes the curvature in every direction.
    """
    noise = rounded_off(facts.point.loss, seen.made)
    # The better the model says it is, the sooner a lack of progress is put down to rounding.
    resting = (seen.model <= noise / 10) & (seen.quiet >= PATIENCE)
    resting = resting | ((seen.model <= noise) & (seen.quiet >= 3 * PATIENCE))
    eps = jnp.finfo(noise.dtype).eps
    small = seen.least <= jnp.sqrt(eps) * seen.peak
    resting = resting | (small & (seen.quiet >= 25 * PATIENCE))
    hidden = (seen.model <= jnp.maximum(noise, facts.point.blur)) | (seen.calm > 0)
    # Towards infinity the gradient shrinks below its rounding at the start, but not what is left.
    promising = jnp.isfinite(seen.model) & (seen.model > jnp.sqrt(eps) * seen.made)
    hidden = hidden | (at_rounding(seen) & ~promising)
    # Steps of all lengths have been tried: what a model still promises is rounding, the less so the less it knows.
    hidden = hidden | (seen.model <= eps ** (1 / 2 if whole else 3 / 4) * seen.made)
    tried = whole | jnp.isfinite(seen.recent[min(calm, WINDOW) - 1]) | (at_rounding(seen) & ~promising)
    # Where rounding of the params changes the loss by all its size, beside a pole for one, nothing is known.
    tried = tried & (facts.point.blur <= jnp.abs(facts.point.loss) + seen.made)
    # Nor is a model that does not know every direction believed while the gradient is long.
    tried = tried & (whole | (seen.least <= eps ** (1 / 3) * seen.peak))
    return tried & (resting | (facts.stuck & hidden))


def rounded_off(loss: Any, made: Any) -> Any:
    """Return the changes that rounding hides in a loss of this size, which may be the difference of larger numbers."""
    return jnp.maximum(rounding(loss), jnp.finfo(loss.dtype).eps * rounding(made))


def at_rounding(seen: Evidence) -> Any:
    """Return whether the gradient has shrunk to its rounding."""
    return seen.least <= 4 * jnp.finfo(seen.least.dtype).eps * seen.peak


def _left(seen: Evidence) -> Any:
    """Return the decrease left: the worse of what the model and the trend of the moves say."""
    # Where the gradient has shrunk to its rounding, the trend has nothing more to say, and the model is believed.
    believed = jnp.where(at_rounding(seen), 1e4, 1 / jnp.finfo(seen.model.dtype).eps) * seen.model
    return jnp.maximum(seen.model, jnp.minimum(_trend(seen.recent), believed))


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
