"""Trust-region steps: the minimizer of a quadratic model within a distance, and within what a constraint allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.flat import pack, products, root
from jaxgd.core.problem import Point, rounding
from jaxgd.core.scaling import or_one
from jaxgd.core.terms import Ball, Box, Hold, Simplex, residual

TRIES = 0.25 ** np.arange(2)  # points on each projected path, beside the one where it meets its first bound
CURVED = 0.1 ** np.arange(8)  # likewise where a step that is too long may rise
SWEEPS = 4  # guesses of which bounds hold the step, at most
ENOUGH = 0.01  # what conjugate gradients leave of a gradient's length
MOST_PRODUCTS = 250  # in one solve by conjugate gradients


class Step(NamedTuple):
    """A step and what the model says of it."""

    move: jax.Array  # shape (p,)
    promised: jax.Array  # decrease of the model along the move
    left: jax.Array  # decrease of the model to its minimum; inf where it has none
    radius: jax.Array  # the distance allowed: as asked, or of the first step where that was inf
    products: jax.Array  # with the Hessian, an int32
    newton: jax.Array  # shape (p,): to the model's minimum, as far as curvature tells where it is
    unknown: jax.Array  # directions free to move whose curvature is rounding; nan where that is not known

    def at_edge(self, scale: jax.Array) -> jax.Array:
        """Return whether it is the radius that keeps the step short, not the model."""
        return jnp.sum((scale * self.move) ** 2) > (self.radius / 2) ** 2


class Model(Protocol):
    """A quadratic model of the loss around a point: g's + s'Hs / 2, and a measure of distance |Ds|."""

    @property
    def grad(self) -> jax.Array:
        """The slope g, shape `(p,)`."""
        ...

    @property
    def scale(self) -> jax.Array:
        """The diagonal D, shape `(p,)`."""
        ...

    def times(self, steps: jax.Array) -> jax.Array:
        """Return H times each of the `steps`, shape `(k, p)`."""
        ...

    def within(self, grad: jax.Array, free: jax.Array, radius: jax.Array) -> Step:
        """Return the minimizer of grad's + s'Hs / 2 over the entries that are `free` (1, else 0), |Ds| <= radius.

        Where the radius is infinite, it is the length of a Newton step with each curvature taken as positive.
        """
        ...

    def across(self, normal: jax.Array, bend: Any) -> "Model":
        """Return the model of steps at right angles to the normal, with `bend` added to each curvature."""
        ...


@dataclass(frozen=True)
class Implicit:
    """A model whose Hessian is known by its products with vectors, solved by conjugate gradients."""

    grad: jax.Array
    scale: jax.Array
    product: Callable[[jax.Array], jax.Array]
    size: jax.Array  # scaled length of the params
    noise: jax.Array  # changes of the loss that rounding hides

    @classmethod
    def around(cls, point: Point, scale: jax.Array, product: Callable[[jax.Array], jax.Array]) -> "Implicit":
        """Return the model around a point."""
        scaled = scale * point.params
        size = root(_dot(scaled, scaled), jnp.sum(jnp.abs(scaled)))
        return cls(point.grad, scale, product, size, rounding(point.loss))

    def times(self, steps: jax.Array) -> jax.Array:
        """Return H times each of the `steps`."""
        return jax.vmap(self.product)(steps)

    def within(self, grad: jax.Array, free: jax.Array, radius: jax.Array) -> Step:
        """Return an approximate minimizer.

        Truncated conjugate gradients: Steihaug, SIAM J. Numer. Anal. 20 (1983), section 2.
        """
        # In units of the steepest slope, so that no square leaves the range.
        slopes = free * grad / self.scale
        unit = or_one(jnp.max(jnp.abs(slopes)))
        slopes, radius, size, noise = slopes / unit, radius / unit, self.size / unit, self.noise / unit / unit
        steep = _dot(slopes, slopes)
        most = min(2 * slopes.size, MOST_PRODUCTS)
        limited = jnp.isfinite(radius)

        def going(search: "_Conjugate") -> jax.Array:
            square, far, *_, ended, taken = search.scalars
            # What is left of the slope is hidden where it brings no more over all the size of the params.
            hidden = (taken > 0) & (jnp.sqrt(square) * (size + jnp.sqrt(far)) <= noise)
            return (taken < most) & (ended == 0) & (square > ENOUGH**2 * steep) & ~hidden

        zero = jnp.zeros_like(steep)
        start = pack(jnp.zeros_like(slopes), slopes, -slopes)
        first = _Conjugate(start, pack(steep, zero, zero, steep, zero, zero, zero))
        search = jax.lax.while_loop(going, lambda search: self._onwards(search, free, radius), first)
        (at, rest, _), (_, far, *_, ended, taken) = search.vectors, search.scalars
        promised = -_dot(at, slopes + rest) / 2 * unit * unit
        far = jnp.sqrt(far)
        radius = jnp.where(limited, radius, jnp.where(far > 0, far, 1))
        left = jnp.where(ended > 0, jnp.inf, promised)
        move = unit * at / self.scale
        return Step(move, promised, left, unit * radius, taken.astype(jnp.int32), move, zero)

    def across(self, normal: jax.Array, bend: Any) -> "Implicit":
        """Return the model on the face."""
        inner = inward(normal, self.scale)

        def product(vector: jax.Array) -> jax.Array:
            vector = vector - inner * _dot(normal, vector)
            bent = self.product(vector) + bend * vector
            return bent - normal * _dot(inner, bent)

        return Implicit(self.grad, self.scale, product, self.size, self.noise)

    def _onwards(self, search: "_Conjugate", free: jax.Array, radius: jax.Array) -> "_Conjugate":
        """Move to the minimum along the direction, or to the edge, and turn."""
        at, rest, direction = search.vectors
        eps, limited = jnp.finfo(radius.dtype).eps, jnp.isfinite(radius)
        square, far, along, length, largest, _, taken = search.scalars
        bent = free * self.product(free * direction / self.scale) / self.scale
        bend = _dot(direction, bent)
        largest = jnp.maximum(largest, jnp.abs(bend) / length)
        clear = jnp.abs(bend) > eps * at.size * length * largest
        convex = clear & (bend > 0)
        # With no radius to stop at, a curvature is taken as positive, and one that is 0 ends the first step at 1.
        ahead = jnp.where(clear, square / jnp.where(clear, jnp.abs(bend), 1), jax.lax.rsqrt(length))
        to_edge = jnp.where(limited, _to_edge(far, along, length, radius), ahead)
        inside = convex & ~(limited & (ahead > to_edge))
        stepsize = jnp.where(inside, ahead, to_edge)
        rest = rest + stepsize * bent
        left = _dot(rest, rest)
        turn = left / square
        moved = pack(at + stepsize * direction, rest, turn * direction - rest)
        # Not by recurrence, which in float32 goes astray.
        (far, _, along), _, (*_, length) = products(moved, moved)
        return _Conjugate(moved, pack(left, far, along, length, largest, ~inside, taken + 1))


class _Conjugate(NamedTuple):
    """A search by conjugate gradients, in units where the distance is Euclidean; packed, for XLA to copy at once."""

    vectors: jax.Array  # shape (3, p): where it is, the slope of the model there, the direction
    scalars: jax.Array  # shape (7,): squared slope, at'at, at'd, d'd, largest curvature, ended at an edge, products


def _dot(one: jax.Array, other: jax.Array) -> jax.Array:
    return products(one[None], other[None])[0, 0]


def _to_edge(far: jax.Array, along: jax.Array, length: jax.Array, radius: jax.Array) -> jax.Array:
    """Return how far along a direction d the distance from 0 is the radius, from a place x within it.

    `far`, `along` and `length` are x'x, x'd and d'd.
    """
    room = jnp.maximum(radius**2 - far, 0)
    root = jnp.sqrt(along**2 + length * room)
    # Of the two forms of the root, the one that does not cancel.
    return jnp.where(along > 0, room / (along + root), (root - along) / length)


def _twice_over(vector: jax.Array, scale: jax.Array) -> jax.Array:
    inverse = 1 / scale  # over the square of the scale, which XLA would compute, and may be 0
    return vector * inverse * inverse


def inward(normal: jax.Array, scale: jax.Array) -> jax.Array:
    """Return the step of least scaled length that a normal's product with is 1; zeros where the normal is."""
    step = _twice_over(normal, scale)
    along = _dot(normal, step)
    return step / jnp.where(along > 0, along, 1)


def within_set(
    model: Model, slope: jax.Array, radius: jax.Array, params: jax.Array, allowed: Box | Simplex | Ball
) -> Step:
    """Return a step of low model value within the radius that keeps `params` in what is allowed.

    Which bounds hold the step is guessed, the rest is solved in the region, and guessed anew from there, until the
    guess holds; points on the projected paths of the step and of the gradient are compared beside it, so that the model
    falls whatever the guesses. `slope` is added to the model's gradient.
    """
    gradient, tiny = model.grad + slope, jnp.finfo(params.dtype).tiny

    def change(steps: jax.Array, bent: jax.Array) -> jax.Array:
        return jnp.sum(steps * (gradient + bent / 2), axis=1)

    def sweep(carry: _Sweep) -> _Sweep:
        at, first = carry.at, carry.first
        face = _face(model, allowed.hold(params, at, carry.grad), carry.grad)
        step = face.model.within(face.grad, face.free, jnp.where(carry.sweeps > 0, carry.first.radius, radius))
        steep = face.steep
        # As far as the model falls along it (Cauchy's point), or the region reaches.
        fall, rise = _dot(steep, -face.grad), _dot(steep, face.model.times(steep[None])[0])
        reach = step.radius / jnp.maximum(_length(model, steep[None])[0], tiny)
        cauchy = jnp.where(rise > 0, jnp.minimum(fall / jnp.where(rise > 0, rise, 1), reach), reach)
        cauchy = jnp.where(fall > 0, cauchy, 0)
        paths = [_path(allowed, params, at, direction, face.tries) for direction in (step.move, cauchy * steep)]
        ends = jnp.concatenate([at[None], *paths])
        # What is allowed is convex and holds 0, so that a step too long for the region may be shortened.
        ends = ends * jnp.minimum(1, step.radius / jnp.maximum(_length(model, ends), tiny))[:, None]
        bent = model.times(ends)
        changes = change(ends, bent)
        best = jnp.argmin(changes)
        end = ends[best]
        first = jax.tree.map(lambda new, old: jnp.where(carry.sweeps == 0, new, old), step, first)
        first = first._replace(products=carry.first.products + step.products + len(ends) + 1)
        # Done where no bound was met, or where nothing better was found.
        met = jnp.any(end != at + step.move) & (best > 0)
        return _Sweep(end, gradient + bent[best], -changes[best], first, carry.sweeps + 1, ~met)

    zero, none, still = jnp.zeros((), params.dtype), jnp.zeros((), jnp.int32), jnp.zeros_like(params)
    first = Step(still, zero, zero, zero, none, still, zero)
    start = _Sweep(still, gradient, zero, first, none, jnp.zeros((), bool))
    last = jax.lax.while_loop(lambda carry: (carry.sweeps < SWEEPS) & ~carry.done, sweep, start)
    return last.first._replace(move=last.at, promised=last.promised)


class _Face(NamedTuple):
    """What moves from a place."""

    model: Model
    free: jax.Array  # shape (p,), 1 or 0
    grad: jax.Array  # of the model there
    steep: jax.Array  # the steepest descent
    tries: np.ndarray  # how much of a path to try


def _face(model: Model, hold: Hold, grad: jax.Array) -> _Face:
    """Return what moves where the model's gradient is `grad`, as it is held."""
    free = jnp.where(hold.free, 1, 0)
    if hold.normal is None:
        return _Face(model, free, grad, -free * _twice_over(grad, model.scale), TRIES)
    normal = free * hold.normal
    # What joins all params compares them, as if they had one unit.
    unit = jnp.full_like(grad, jnp.max(model.scale))
    slopes, flat = (grad - normal * _dot(inward(normal, scale), grad) for scale in (model.scale, unit))
    return _Face(model.across(normal, hold.bend), free, slopes, -free * _twice_over(flat, unit), CURVED)


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
    at: jax.Array
    grad: jax.Array  # of the model there
    promised: jax.Array
    first: Step
    sweeps: jax.Array
    done: jax.Array
