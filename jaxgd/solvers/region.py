"""Trust-region steps: the minimizer of a quadratic model within a distance, and within bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.terms import Box

SWEEPS = 3  # guesses of which bounds hold the step
ROUNDS = 16  # of Newton's method for the multiplier; it converges quadratically


class Model(NamedTuple):
    """A quadratic model of the loss around a point: g's + s'Hs / 2."""

    grad: jax.Array  # g, shape (p,)
    hessian: jax.Array  # H, shape (p, p)
    scale: jax.Array  # D, shape (p,): the distance is |Ds|

    def change(self, steps: jax.Array) -> jax.Array:
        """Return the model's change along each of the `steps`, shape `(k, p)`."""
        bent = jnp.matmul(steps, self.hessian, precision="highest")
        return jnp.sum(steps * (self.grad + bent / 2), axis=1)


class Step(NamedTuple):
    """A step and what the model says of it."""

    move: jax.Array  # shape (p,)
    promised: jax.Array  # decrease of the model along the move
    left: jax.Array  # decrease of the model to its minimum; inf where it has none
    radius: jax.Array  # the distance allowed: as asked, or of the first step where that was inf


def within(model: Model, radius: jax.Array) -> Step:
    """Return the step that minimizes the model within |Ds| <= radius.

    By the spectrum of the scaled Hessian: Conn, Gould and Toint, Trust-Region Methods (2000), section 7.3; Newton's
    method for the multiplier is their algorithm 7.3.1. Where the radius is infinite, it is the length of the Newton
    step with each curvature taken as positive.
    """
    curvatures, basis = jnp.linalg.eigh(model.hessian / (model.scale[:, None] * model.scale))
    slopes = jnp.matmul(model.grad / model.scale, basis, precision="highest")
    eps = jnp.finfo(slopes.dtype).eps
    # Curvatures below this are rounding of the largest.
    blur = eps * slopes.size * jnp.maximum(jnp.max(jnp.abs(curvatures)), jnp.finfo(slopes.dtype).tiny / eps)
    newton = slopes / jnp.maximum(jnp.abs(curvatures), blur)
    far = jnp.sqrt(jnp.sum(newton**2))
    radius = jnp.where(jnp.isfinite(radius), radius, jnp.where((far > 0) & (jnp.max(jnp.abs(curvatures)) > 0), far, 1))
    lowest = curvatures[0]
    least = jnp.maximum(0, blur - lowest)

    def improve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        multiplier, below = bracket
        # In units of the radius, so that squares do not overflow.
        parts = slopes / (radius * (curvatures + multiplier))
        square = jnp.sum(parts**2)
        rate = square / jnp.sum(parts**2 / (curvatures + multiplier))
        below = jnp.where(square > 1, jnp.maximum(below, multiplier), below)
        better = multiplier + rate * (jnp.sqrt(square) - 1)
        return jnp.where(square > 0, jnp.maximum(better, jnp.sqrt(below * multiplier)), multiplier), below

    # Above the answer at first; after one round Newton's method stays on its other side.
    most = least + jnp.sqrt(jnp.sum((slopes / radius) ** 2))
    multiplier, _ = jax.lax.fori_loop(0, ROUNDS, improve, (most, least))
    along = -slopes / (curvatures + multiplier)
    # The hard case: what is missing to the radius is filled up along the most negative curvature.
    missing = jnp.maximum(radius**2 - jnp.sum(along**2), 0)
    down = jnp.where(along[0] < 0, -1, 1) * jnp.sqrt(along[0] ** 2 + missing)
    negative = lowest < -blur
    along = along.at[0].set(jnp.where(negative, down, along[0]))
    left = jnp.where(negative, jnp.inf, jnp.sum(slopes * newton) / 2)
    promised = -jnp.sum(along * (slopes + curvatures * along / 2))
    return Step(jnp.matmul(basis, along, precision="highest") / model.scale, promised, left, radius)


def within_box(model: Model, radius: jax.Array, params: jax.Array, box: Box) -> Step:
    """Return a step of low model value within the radius, or a few times that, that keeps `params` in the box.

    Which bounds hold the step is guessed, the rest is solved by `within`, and guessed anew from there; the projected
    path of the gradient is tried beside it, so that the model falls whatever the guesses.
    """
    box = Box(box.lower - params, box.upper - params)
    shrink = 0.25 ** jnp.arange(6, dtype=params.dtype)[:, None]

    def sweep(k: int, carry: tuple[jax.Array, Step]) -> tuple[jax.Array, Step]:
        at, first = carry
        grad = model.grad + jnp.matmul(model.hessian, at, precision="highest")
        held = box.blocked(at, grad)
        free = jnp.where(held, 0, 1)
        hessian = jnp.where(held[:, None] | held, jnp.diag(model.scale**2), model.hessian)
        step = within(model._replace(grad=free * grad, hessian=hessian), radius)
        paths = at + shrink * step.move
        steep = grad / model.scale**2
        reach = step.radius / jnp.maximum(jnp.sqrt(jnp.sum((model.scale * steep) ** 2)), jnp.finfo(grad.dtype).tiny)
        ends = box.prox(jnp.concatenate([at[None], paths, at - shrink * reach * steep]))
        at = ends[jnp.argmin(model.change(ends))]
        first = jax.tree.map(lambda new, old: jnp.where(k == 0, new, old), step, first)
        return at, first

    zero = jnp.zeros((), params.dtype)
    start = Step(jnp.zeros_like(params), zero, zero, zero)
    move, first = jax.lax.fori_loop(0, SWEEPS, sweep, (jnp.zeros_like(params), start))
    return Step(move, -model.change(move[None])[0], first.left, first.radius)
