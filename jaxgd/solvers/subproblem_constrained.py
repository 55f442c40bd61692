"""Trust-region steps within a box, the simplex or a ball."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.terms import Ball, Box, Hold, Simplex, residual
from jaxgd.solvers.subproblem import Model, Step, dot, inward, over_square

TRIES = 0.25 ** np.arange(2)  # points on each projected path, beside the one where it meets its first bound
CURVED = 0.1 ** np.arange(8)  # likewise where a step that is too long may rise
SWEEPS = 4  # guesses of which bounds hold the step, at most


def within_set(
    model: Model, slope: jax.Array, radius: jax.Array, params: jax.Array, allowed: Box | Simplex | Ball
) -> Step:
    """Return a step of low model value within the radius that keeps `params` in what is allowed.

    Which bounds hold the step is guessed, the rest is solved in the region, and guessed anew from there, until the
    guess holds; points on the projected paths of the step and of the gradient are compared beside it, so that the model
    falls whatever the guesses. `slope` is added to the model's gradient.
    """
    gradient, tiny = model.grad + slope, jnp.finfo(params.dtype).tiny

    def sweep(carry: _Sweep) -> _Sweep:
        at, first = carry.at, carry.first
        face = _face(model, allowed.hold(params, at, carry.grad), carry.grad)
        step = face.model.minimize_within(face.grad, face.free, jnp.where(carry.sweeps > 0, carry.first.radius, radius))
        steepest = face.steepest
        # As far as the model falls along it (Cauchy's point), or the region reaches.
        fall, rise = dot(steepest, -face.grad), dot(steepest, face.model.matvec(steepest[None])[0])
        reach = step.radius / jnp.maximum(_length(model, steepest[None])[0], tiny)
        cauchy = jnp.where(rise > 0, jnp.minimum(fall / jnp.where(rise > 0, rise, 1), reach), reach)
        cauchy = jnp.where(fall > 0, cauchy, 0)
        paths = [_path(allowed, params, at, direction, face.tries) for direction in (step.move, cauchy * steepest)]
        ends = jnp.concatenate([at[None], *paths])
        # What is allowed is convex and holds 0, so that a step too long for the region may be shortened.
        ends = ends * jnp.minimum(1, step.radius / jnp.maximum(_length(model, ends), tiny))[:, None]
        curved = model.matvec(ends)
        changes = jnp.sum(ends * (gradient + curved / 2), axis=1)
        best = jnp.argmin(changes)
        end = ends[best]
        first = jax.tree.map(lambda new, old: jnp.where(carry.sweeps == 0, new, old), step, first)
        first = first._replace(products=carry.first.products + step.products + len(ends) + 1)
        # Done where no bound was met, or where nothing better was found.
        met = jnp.any(end != at + step.move) & (best > 0)
        return _Sweep(
            at=end,
            grad=gradient + curved[best],
            predicted_reduction=-changes[best],
            first=first,
            sweeps=carry.sweeps + 1,
            done=~met,
        )

    last = jax.lax.while_loop(lambda carry: (carry.sweeps < SWEEPS) & ~carry.done, sweep, _Sweep.begin(gradient))
    return last.first._replace(move=last.at, predicted_reduction=last.predicted_reduction)


class _Face(NamedTuple):
    """What moves from a place."""

    model: Model
    free: jax.Array  # shape (p,), 1 or 0, an int32
    grad: jax.Array  # of the model there
    steepest: jax.Array  # the steepest descent
    tries: np.ndarray  # shape (n,): how much of a path to try


def _face(model: Model, hold: Hold, grad: jax.Array) -> _Face:
    """Return what moves where the model's gradient is `grad`, as it is held."""
    free = jnp.where(hold.free, 1, 0)
    if hold.normal is None:
        steepest = -free * over_square(grad, model.scale)
        return _Face(model=model, free=free, grad=grad, steepest=steepest, tries=TRIES)
    normal = free * hold.normal
    # What joins all params compares them, as if they had one unit.
    unit = jnp.full_like(grad, jnp.max(model.scale))
    slopes, flat = (grad - normal * dot(inward(normal, scale), grad) for scale in (model.scale, unit))
    model, steepest = model.across(normal, hold.curvature), -free * over_square(flat, unit)
    return _Face(model=model, free=free, grad=slopes, steepest=steepest, tries=CURVED)


def _length(model: Model, steps: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum((model.scale * steps) ** 2, axis=1))


def _path(
    allowed: Box | Simplex | Ball, params: jax.Array, at: jax.Array, direction: jax.Array, tries: np.ndarray
) -> jax.Array:
    """Return steps along a direction, from one: to where the path meets its first bound, and beyond, bent by bounds."""
    first = jnp.minimum(allowed.reach(params, at, direction), 1)
    shrink = jnp.append(jnp.asarray(tries, at.dtype), first)
    return -jax.vmap(lambda step: residual(allowed, params, -step))(at + shrink[:, None] * direction)


class _Sweep(NamedTuple):
    at: jax.Array  # the step so far
    grad: jax.Array  # of the model there
    predicted_reduction: jax.Array  # decrease of the model to there
    first: Step  # of the first sweep, which tells of the model
    sweeps: jax.Array
    done: jax.Array

    @classmethod
    def begin(cls, grad: jax.Array) -> "_Sweep":
        zero, none, still = jnp.zeros((), grad.dtype), jnp.zeros((), jnp.int32), jnp.zeros_like(grad)
        first = Step(
            move=still,
            predicted_reduction=zero,
            predicted_remaining=zero,
            radius=zero,
            products=none,
            newton=still,
            unknown=zero,
        )
        return cls(at=still, grad=grad, predicted_reduction=zero, first=first, sweeps=none, done=jnp.zeros((), bool))
