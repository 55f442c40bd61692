"""Gradient and proximal gradient methods: with a step size that is given, or found by backtracking."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.core.flat import products
from jaxgd.core.problem import Point, Problem, choose, rounding
from jaxgd.core.terms import L1

SHRINK = 0.9  # of the curvature assumed, an accepted step: lets the step size grow again


class GradientState(NamedTuple):
    """Where gradient descent stands."""

    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    left: jax.Array  # decrease predicted to be left
    gain: jax.Array  # decrease in the last step, as the slopes at its ends tell
    stepsize: jax.Array  # of the last step
    upcoming: jax.Array  # of the next
    steps: jax.Array  # taken
    place: jax.Array | None  # where Nesterov's sequence stands, of which the point is ahead; shape (p,)


@partial(jax.tree_util.register_dataclass, data_fields=["stepsize", "momentum"], meta_fields=["nesterov"])
@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent: `theta - stepsize * grad`, again and again.

    `stepsize` is a positive number, or a schedule: a function, written in `jax.numpy`, of the step number 0, 1, 2, ...
    (optax's schedules are such functions). There is no line search: every step is taken, and a step size too large for
    the loss diverges, which `Status.DIVERGED` reports. With bounds and other terms every step ends in their prox.

    `momentum`, from 0 to less than 1, adds that part of the last step to each (Polyak, USSR Comput. Math. Math. Phys. 4
    (1964)); with `nesterov` the gradient is taken after that addition (Nesterov, Soviet Math. Dokl. 27 (1983)).

    Lau, Gonzalez and Nolan, Principles and Techniques of Data Science, chapter 11.
    """

    stepsize: float | jax.Array | Callable[[jax.Array], jax.Array]
    momentum: float | jax.Array | None = None
    nesterov: bool = False

    keeps = (object,)  # any term: its prox is all that is needed

    def __post_init__(self) -> None:
        """Refuse numbers no step can be made with; tracers and schedules cannot be looked at."""
        size, momentum = self.stepsize, self.momentum
        if not (callable(size) or isinstance(size, Tracer)):
            _check_number(size, "stepsize", "a positive number or a function of the step number")
            if not np.all((np.asarray(size) > 0) & (np.asarray(size) < np.inf)):
                msg = f"`stepsize` must be positive and finite; got {size!r}. Use `maximize` to go uphill."
                raise ValueError(msg)
            # One type, so that a number of another type compiles nothing anew.
            object.__setattr__(self, "stepsize", np.asarray(size, float) if np.ndim(size) else float(size))
        if momentum is None:
            if self.nesterov:
                msg = "`nesterov=True` needs a `momentum`, such as 0.9."
                raise ValueError(msg)
        elif not isinstance(momentum, Tracer):
            _check_number(momentum, "momentum", "a number")
            if not np.all((np.asarray(momentum) >= 0) & (np.asarray(momentum) < 1)):
                msg = f"`momentum` must be at least 0 and less than 1; got {momentum!r}. The usual value is 0.9."
                raise ValueError(msg)
            object.__setattr__(self, "momentum", np.asarray(momentum, float) if np.ndim(momentum) else float(momentum))

    @property
    def name(self) -> str:
        """What a result says of the method."""
        added = "" if self.momentum is None else f" and {'Nesterov' if self.nesterov else 'heavy-ball'} momentum"
        return f"gradient descent with a given step size{added}"

    def init(self, problem: Problem, params: jax.Array) -> GradientState:
        """Return the state that asks for the start to be evaluated."""
        point = problem.nowhere(params)
        no, zero = jnp.zeros((), bool), jnp.zeros((), params.dtype)
        place = params if self.nesterov else None
        return GradientState(point, params, no, no, point.loss, zero, zero, zero, jnp.zeros((), jnp.int32), place)

    def step(self, problem: Problem, state: GradientState, trial: Point) -> GradientState:
        """Take the trial as it is, and step along its gradient."""
        given = self.stepsize(state.steps) if callable(self.stepsize) else self.stepsize
        size = jnp.asarray(given, trial.loss.dtype)
        aim, place = trial.params - size * trial.grad, None
        if self.momentum is None:
            aim = problem.prox(aim, size)
        elif state.place is None:
            aim = problem.prox(aim + self.momentum * (trial.params - state.point.params), size)
        else:
            place = problem.prox(aim, size)
            aim = problem.inside(place + self.momentum * (place - state.place))
        gain, left = along(problem, state.point, trial)
        return GradientState(
            point=trial,
            trial=aim,
            moved=jnp.isfinite(state.point.loss),
            stuck=~(jnp.isfinite(trial.loss) & jnp.isfinite(trial.norm)),
            left=jnp.maximum(size * trial.norm**2 / 2, left),
            gain=gain,
            stepsize=state.upcoming,
            upcoming=size,
            steps=state.steps + 1,
            place=place,
        )


def along(problem: Problem, point: Point, trial: Point) -> tuple[jax.Array, jax.Array]:
    """Return the decrease from the point to the trial as the slopes tell it, and the decrease left after it.

    What is left is told by the curvature along the move. A move that is lost in rounding of the params tells nothing
    (NaN); any other that is too short has met hardly any curvature, and leaves much.
    """
    move = trial.params - point.params
    before, after, square = products(jnp.stack([point.grad, trial.grad, move]), move[None])[:, 0]
    gain, bend = -(before + after) / 2, after - before
    if isinstance(problem.term, L1):
        gain = gain + problem.term.value(point.params) - problem.term.value(trial.params)
    eps = jnp.finfo(square.dtype).eps
    clear = bend > 4 * eps * jnp.abs(before)
    lost = jnp.sum(jnp.abs(move)) <= 4 * eps * trial.extent
    unclear = jnp.where(lost, jnp.nan, jnp.abs(before) / (8 * eps))
    # The quotient first: squares of far places overflow.
    left = jnp.where(clear, trial.norm**2 * (square / jnp.where(clear, bend, 1)) / 2, unclear)
    return gain, left


def _check_number(value: Any, name: str, kind: str) -> None:
    # An array holds a number for each lane of `minimize_many`.
    if not isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) or np.ndim(value) > 1:
        msg = f"`{name}` must be {kind}; got {value!r}."
        raise TypeError(msg)


class AcceleratedState(NamedTuple):
    """Where accelerated proximal gradient descent stands."""

    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    left: jax.Array  # decrease predicted to be left
    gain: jax.Array  # decrease in the last step, as the slopes at its ends tell
    stepsize: jax.Array  # of the last step
    ahead: Point  # y, where the next gradient step starts
    looking: jax.Array  # the trial is the next y, not the end of a gradient step
    curvature: jax.Array  # L
    momentum: jax.Array  # t
    begun: jax.Array  # a step has told the curvature


@dataclass(frozen=True)
class FISTA:
    """Accelerated proximal gradient descent, with backtracking and adaptive restart.

    Beck and Teboulle, SIAM J. Imaging Sci. 2 (2009), section 4: y is ahead of x by momentum, and x moves to
    prox(y - grad(y) / L). L is found by backtracking, and falls slowly while no step fails. The momentum starts anew
    where it points uphill (O'Donoghue and Candes, Found. Comput. Math. 15 (2015), section 3.2), or where the loss
    rises. An iteration evaluates y and x; without momentum they are one.
    """

    name = "FISTA"
    keeps = (object,)  # any term: its prox is all that is needed

    def init(self, problem: Problem, params: jax.Array) -> AcceleratedState:
        """Return the state that asks for the start to be evaluated."""
        point = problem.nowhere(params)
        no, zero = jnp.zeros((), bool), jnp.zeros((), params.dtype)
        return AcceleratedState(point, params, no, no, point.loss, zero, zero, point, no, zero, zero + 1, no)

    def step(self, problem: Problem, state: AcceleratedState, trial: Point) -> AcceleratedState:
        """Learn from the trial: start a gradient step from it, or accept it as the end of one."""
        first = ~jnp.isfinite(state.point.loss)
        fine = jnp.isfinite(trial.loss) & jnp.isfinite(trial.norm)
        ended = ~state.looking & ~first
        under, curvature = self._curvature(problem, state, trial, fine)
        lower = trial.loss <= state.point.loss + rounding(state.point.loss)
        moved = jnp.where(first, fine, ended & under & lower)
        point = choose(moved, trial, state.point)
        change = trial.params - state.point.params
        uphill = products((state.ahead.params - trial.params)[None], change[None])[0, 0] > 0
        # The momentum starts anew uphill, after a rise of the loss, and where y is not finite.
        restart = first | (moved & uphill) | (ended & under & ~lower) | (state.looking & ~fine)
        t = (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2
        lead = jnp.where(moved & ~restart, (state.momentum - 1) / t, 0)
        look = moved & (lead > 0)
        here = restart | (moved & ~look)
        ahead = choose(here, point, choose(state.looking & fine, trial, state.ahead))
        down = problem.prox(ahead.params - ahead.grad / curvature, 1 / curvature)
        aim = jnp.where(look, problem.inside(point.params + lead * change), down)
        gain, left = along(problem, state.point, trial)
        return AcceleratedState(
            point=point,
            trial=aim,
            moved=moved,
            stuck=~look & jnp.all(aim == ahead.params) & jnp.all(aim == point.params),
            left=jnp.where(moved & ~first, left, jnp.nan),
            gain=gain,
            stepsize=1 / jnp.where(first, jnp.inf, state.curvature),
            ahead=ahead,
            looking=look,
            curvature=curvature,
            momentum=jnp.where(restart, 1, jnp.where(moved, t, state.momentum)),
            begun=state.begun | (moved & ~first),
        )

    def _curvature(
        self, problem: Problem, state: AcceleratedState, trial: Point, fine: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return whether the parabola of curvature L lies above the loss at the trial, and the next L."""
        first = ~jnp.isfinite(state.point.loss)
        bend, square = self._bend(problem, state.ahead, trial)
        under = fine & (bend <= state.curvature * square * (1 + 1e-3))
        measured = bend / jnp.where(square > 0, square, 1)
        growth = jnp.where(fine, jnp.clip(1.1 * measured / state.curvature, 2, 100), 10)
        relaxed = jnp.where(state.begun, SHRINK * state.curvature, jnp.maximum(measured, 1e-3 * state.curvature))
        after = jnp.where(under, relaxed, growth * state.curvature)
        # The first step is of length 1: nothing is known yet that could say more; but rounding must not hide it.
        eps, tiny = jnp.finfo(square.dtype).eps, jnp.finfo(square.dtype).tiny
        shortest = jnp.maximum(jnp.sqrt(eps) * jnp.abs(trial.params), tiny)
        seen = jnp.minimum(trial.norm, jnp.max(jnp.abs(trial.residual) / shortest))
        return under, jnp.where(first, seen, jnp.where(state.looking, state.curvature, after))

    def _bend(self, problem: Problem, ahead: Point, trial: Point) -> tuple[jax.Array, jax.Array]:
        """Return twice what the smooth loss at the trial is above its tangent at `ahead`, and the squared distance."""
        move = trial.params - ahead.params
        before, after, square = products(jnp.stack([ahead.grad, trial.grad, move]), move[None])[:, 0]
        rise = trial.loss - ahead.loss
        if isinstance(problem.term, L1):
            rise = rise - problem.term.value(trial.params) + problem.term.value(ahead.params)
        # Where rounding hides the rise, the slopes at both ends tell it.
        hidden = jnp.abs(rise - before) <= rounding(ahead.loss)
        return jnp.where(hidden, after - before, 2 * (rise - before)), square
