"""Newton's method in a trust region: the curvature is computed, not learnt."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.flat import pack, products
from jaxgd.problem import Point, Problem, choose
from jaxgd.solvers.region import Model, within, within_box
from jaxgd.terms import Box

ACCEPT = 1e-4  # least part of the decrease promised that a move must bring
FORGET = 0.1  # how fast the scale follows a curvature that falls, a move


class NewtonState(NamedTuple):
    """Where Newton's method stands."""

    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    left: jax.Array  # decrease of the model to its minimum; inf where it has none
    gain: jax.Array  # decrease in the last step, as the slopes at its ends tell
    stepsize: jax.Array  # scaled length of the last step
    products: jax.Array  # Hessian-vector products so far, an int32
    saddle: jax.Array  # the model has a direction of negative curvature
    radius: jax.Array
    promised: jax.Array  # decrease of the model at the trial
    model: Model


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["least_squares"])
@dataclass(frozen=True)
class TrustRegion:
    """Newton's method in a trust region, with the whole Hessian: for few parameters.

    Nocedal and Wright, Numerical Optimization (2006), algorithm 4.1; the distance is scaled by the diagonal of the
    Hessian, so that the units of the parameters do not matter (More, 1978).
    """

    least_squares: bool = False  # the Hessian is that of Gauss and Newton, J'J: Levenberg and Marquardt's method

    calm = 1  # moves that must meet the test of `tol`: the model knows every direction
    keeps = (Box,)

    @property
    def exact(self) -> bool:
        """Whether the model's curvature is that of the loss."""
        return not self.least_squares

    @property
    def name(self) -> str:
        """What a result says of the method."""
        return "Levenberg-Marquardt" if self.least_squares else "trust-region Newton"

    def init(self, problem: Problem, params: jax.Array) -> NewtonState:
        """Return the state that asks for the start to be evaluated."""
        point = problem.nowhere(params)
        no, zero = jnp.zeros((), bool), jnp.zeros((), params.dtype)
        zeros = jnp.zeros_like(params)
        return NewtonState(
            point=point,
            trial=params,
            moved=no,
            stuck=no,
            left=point.loss,
            gain=zero,
            stepsize=zero,
            products=jnp.zeros((), jnp.int32),
            saddle=no,
            radius=point.loss,
            promised=zero,
            model=Model(zeros, jnp.zeros((params.size, params.size), params.dtype), zeros),
        )

    def step(self, problem: Problem, state: NewtonState, trial: Point) -> NewtonState:
        """Accept the trial or not, set the radius by how well the model foretold the loss, and solve the model."""
        verdict = judge(state.point, trial, state.promised)
        point = choose(verdict.moved, trial, state.point)
        model = jax.lax.cond(verdict.moved, lambda: self._model(problem, point, state.model.scale), lambda: state.model)
        radius = verdict.radius(state.radius, state.model.scale, model.scale)
        if isinstance(problem.term, Box):
            step = within_box(model, radius, point.params, problem.term)
            aim = problem.term.prox(point.params + step.move)
        else:
            step = within(model, radius)
            aim = point.params + step.move
        return NewtonState(
            point=point,
            trial=aim,
            moved=verdict.moved,
            stuck=~verdict.moved & (jnp.all(aim == point.params) | ~jnp.isfinite(state.point.loss)),
            left=step.left,
            gain=verdict.gain,
            stepsize=jnp.sqrt(jnp.sum((state.model.scale * verdict.move) ** 2)),
            products=state.products + verdict.moved * point.params.size,
            saddle=jnp.isinf(step.left),
            radius=step.radius,
            promised=step.promised,
            model=model,
        )

    def _model(self, problem: Problem, point: Point, scale: jax.Array) -> Model:
        if self.least_squares:
            jacobian = problem.jacobian(point.params)
            hessian = jnp.matmul(jacobian.T, jacobian, precision="highest")
            curvatures = jnp.diagonal(hessian)
        else:
            hessian = problem.hessian(point.params)
            hessian = (hessian + hessian.T) / 2
            # Of the Hessian with each curvature taken as positive: its own diagonal can vanish where it is indefinite.
            spectrum, basis = jnp.linalg.eigh(hessian)
            curvatures = jnp.matmul(basis**2, jnp.abs(spectrum), precision="highest")
        # Where the curvature overflows the model is a slope alone.
        known = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(curvatures))
        hessian = jnp.where(known, hessian, point.norm * jnp.eye(point.params.size))
        return Model(point.grad, hessian, rescaled(scale, jnp.where(known, curvatures, point.norm)))


def rescaled(scale: jax.Array, curvatures: jax.Array) -> jax.Array:
    """Return the scale of the parameters: roots of their curvatures, which may rise at once but fall slowly."""
    square = jnp.maximum(curvatures, FORGET * scale**2)
    square = jnp.maximum(square, jnp.finfo(scale.dtype).eps * jnp.max(square))
    old = jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.max(curvatures) > 0, jnp.sqrt(square), old)


class Verdict(NamedTuple):
    """What a trial says of the model that led there."""

    moved: jax.Array
    gain: jax.Array  # decrease as the slopes at both ends tell
    ratio: jax.Array  # decrease over the decrease promised
    move: jax.Array
    shorter: jax.Array  # the part of the move to allow next, where it was refused

    def radius(self, radius: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
        """Return the next radius, in the scale `after`, given the last one in the scale `before`."""
        old, new = jnp.sqrt(jnp.sum(pack(before * self.move, after * self.move) ** 2, axis=1))
        kept = jnp.where(old > 0, radius * (new / jnp.where(old > 0, old, 1)), radius)
        good = jnp.where((self.ratio > 0.75), jnp.maximum(kept, 2.5 * new), kept)  # noqa: PLR2004
        fair = jnp.where(self.ratio < 0.25, new / 3, good)  # noqa: PLR2004
        return jnp.where(self.moved, fair, self.shorter * old)


def judge(point: Point, trial: Point, promised: jax.Array) -> Verdict:
    """Say whether to move from the point to the trial; the start, reached from nowhere, is taken if it is finite."""
    move = trial.params - point.params
    slopes = products(pack(point.grad, trial.grad), move[None])[:, 0]
    gain, drop = -jnp.sum(slopes) / 2, point.loss - trial.loss
    # Where rounding hides the decrease, the slopes at both ends still tell it.
    noise = 4 * jnp.finfo(drop.dtype).eps * jnp.abs(point.loss)
    sure = jnp.where(jnp.abs(drop) > noise, drop, gain)
    ratio = sure / jnp.where(promised > 0, promised, jnp.inf)
    fine = jnp.isfinite(trial.loss) & jnp.isfinite(trial.norm)
    first = ~jnp.isfinite(point.loss)
    moved = fine & (first | (ratio > ACCEPT))
    # The minimizer of the parabola through both losses and the slope; too far is too far where the trial is not finite.
    bend = trial.loss - point.loss - slopes[0]
    shorter = jnp.where(fine & (bend > 0), jnp.clip(-slopes[0] / (2 * bend), 0.05, 0.5), 0.1)
    return Verdict(moved, gain, jnp.where(first, 0.5, ratio), jnp.where(first, 0, move), shorter)
