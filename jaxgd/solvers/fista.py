"""Accelerated proximal gradient descent, with a step size found by backtracking."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import products
from jaxgd.core.problem import Point, Problem, choose, rounding
from jaxgd.core.protocol import UNTOLD, unstarted
from jaxgd.solvers.gradient_descent import along

SHRINK = 0.9  # of the curvature assumed, an accepted step: lets the step size grow again


class AcceleratedState(NamedTuple):
    """Where accelerated proximal gradient descent stands."""

    # With each move, as in `unstarted`:
    point: Point
    # With each evaluation, likewise:
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    predicted_remaining: jax.Array
    slope_decrease: jax.Array
    stepsize: jax.Array
    looking: jax.Array  # the trial is the next y, not the end of a gradient step
    curvature: jax.Array  # L
    # With each gradient step:
    ahead: Point  # y, where the next one starts
    momentum: jax.Array  # t
    # Once:
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
    supported_terms = (object,)  # any term: its prox is all that is needed

    def init(self, problem: Problem, params: jax.Array) -> AcceleratedState:
        common, no, zero = unstarted(problem, params), jnp.zeros((), bool), jnp.zeros((), params.dtype)
        return AcceleratedState(
            **common, looking=no, curvature=zero, ahead=common["point"], momentum=zero + 1, begun=no
        )

    def step(self, problem: Problem, state: AcceleratedState, trial: Point) -> AcceleratedState:
        """Learn from the trial: start a gradient step from it, or accept it as the end of one."""
        first, fine = ~state.point.evaluated, trial.finite
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
        aim = jnp.where(look, problem.project(point.params + lead * change), down)
        gain, left, _ = along(problem, state.point, trial)
        stuck = ~look & jnp.all(aim == ahead.params) & jnp.all(aim == point.params)
        # What a step by the curvature of the last trial would bring, were the params not rounded.
        left = jnp.where(moved & ~first, left, jnp.where(stuck, point.norm**2 / (2 * state.curvature), UNTOLD))
        return AcceleratedState(
            point=point,
            trial=aim,
            moved=moved,
            stuck=stuck,
            predicted_remaining=left,
            slope_decrease=gain,
            stepsize=1 / jnp.where(first, jnp.inf, state.curvature),
            looking=look,
            curvature=curvature,
            ahead=ahead,
            momentum=jnp.where(restart, 1, jnp.where(moved, t, state.momentum)),
            begun=state.begun | (moved & ~first),
        )

    def _curvature(
        self, problem: Problem, state: AcceleratedState, trial: Point, fine: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return whether the parabola of curvature L lies above the loss at the trial, and the next L."""
        first = ~state.point.evaluated
        s_y, square = self._measured(problem, state.ahead, trial)
        under = fine & (s_y <= state.curvature * square * (1 + 1e-3))
        measured = s_y / jnp.where(square > 0, square, 1)
        growth = jnp.where(fine, jnp.clip(1.1 * measured / state.curvature, 2, 100), 10)
        relaxed = jnp.where(state.begun, SHRINK * state.curvature, jnp.maximum(measured, 1e-3 * state.curvature))
        after = jnp.where(under, relaxed, growth * state.curvature)
        # The first step is of length 1: nothing is known yet that could say more; but rounding must not hide it.
        eps, tiny = jnp.finfo(square.dtype).eps, jnp.finfo(square.dtype).tiny
        shortest = jnp.maximum(jnp.sqrt(eps) * jnp.abs(trial.params), tiny)
        seen = jnp.minimum(trial.norm, jnp.max(jnp.abs(trial.residual) / shortest))
        return under, jnp.where(first, seen, jnp.where(state.looking, state.curvature, after))

    def _measured(self, problem: Problem, ahead: Point, trial: Point) -> tuple[jax.Array, jax.Array]:
        """Return twice what the smooth loss at the trial is above its tangent at `ahead`, and the squared distance."""
        move = trial.params - ahead.params
        before, after, square = products(jnp.stack([ahead.grad, trial.grad, move]), move[None])[:, 0]
        rise = trial.loss - ahead.loss
        if problem.term is not None:
            rise = rise - problem.term.value(trial.params) + problem.term.value(ahead.params)
        # Where rounding hides the rise, the slopes at both ends tell it.
        hidden = jnp.abs(rise - before) <= rounding(ahead.loss)
        return jnp.where(hidden, after - before, 2 * (rise - before)), square
