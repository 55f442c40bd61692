"""Trust-region steps by conjugate gradients: all that is asked of the Hessian is its product with vectors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import pack, products, safe_norm
from jaxgd.core.problem import Point, rounding
from jaxgd.core.scaling import or_one
from jaxgd.solvers.subproblem import Step, dot, inward, limits

ENOUGH = 0.01  # what conjugate gradients leave of a gradient's length
MOST_PRODUCTS = 250  # in one solve by conjugate gradients


@dataclass(frozen=True)
class Implicit:
    """A model whose Hessian is known by its products with vectors, solved by conjugate gradients."""

    grad: jax.Array
    scale: jax.Array
    hvp: Callable[[jax.Array], jax.Array]  # of a direction
    size: jax.Array  # scaled length of the params
    noise: jax.Array  # changes of the loss that rounding hides

    @classmethod
    def around(cls, point: Point, scale: jax.Array, product: Callable[[jax.Array], jax.Array]) -> "Implicit":
        scaled = scale * point.params
        size = safe_norm(dot(scaled, scaled), jnp.sum(jnp.abs(scaled)))
        return cls(grad=point.grad, scale=scale, hvp=product, size=size, noise=rounding(point.loss))

    def matvec(self, steps: jax.Array) -> jax.Array:
        return jax.vmap(self.hvp)(steps)

    def minimize_within(self, grad: jax.Array, free: jax.Array, radius: jax.Array) -> Step:
        """Return an approximate minimizer.

        Truncated conjugate gradients: Steihaug, SIAM J. Numer. Anal. 20 (1983), section 2.
        """
        # In units of the steepest slope, so that no square leaves the range.
        slopes = free * grad / self.scale
        unit = or_one(jnp.max(jnp.abs(slopes)))
        slopes, radius, size, noise = slopes / unit, radius / unit, self.size / unit, self.noise / unit / unit
        initial = dot(slopes, slopes)
        most = min(2 * slopes.size, MOST_PRODUCTS)
        limited = limits(radius)

        def going(search: "_Conjugate") -> jax.Array:
            square, far, *_, ended, count = search.scalars
            # What is left of the slope is hidden where it brings no more over all the size of the params.
            hidden = (count > 0) & (jnp.sqrt(square) * (size + jnp.sqrt(far)) <= noise)
            return (count < most) & (ended == 0) & (square > ENOUGH**2 * initial) & ~hidden

        zero = jnp.zeros_like(initial)
        start = pack(jnp.zeros_like(slopes), slopes, -slopes)
        first = _Conjugate(start, pack(initial, zero, zero, initial, zero, zero, zero))
        search = jax.lax.while_loop(going, lambda search: self._onwards(search, free, radius), first)
        (at, rest, _), (_, far, *_, ended, count) = search.vectors, search.scalars
        predicted = -dot(at, slopes + rest) / 2 * unit * unit
        far = jnp.sqrt(far)
        radius = jnp.where(limited, radius, jnp.where(far > 0, far, 1))
        left = jnp.where(ended > 0, jnp.inf, predicted)
        move = unit * at / self.scale
        return Step(
            move=move,
            predicted_reduction=predicted,
            predicted_remaining=left,
            radius=unit * radius,
            products=count.astype(jnp.int32),
            newton=move,
            unknown=zero,
        )

    def across(self, normal: jax.Array, curvature: Any) -> "Implicit":
        inner = inward(normal, self.scale)

        def product(vector: jax.Array) -> jax.Array:
            vector = vector - inner * dot(normal, vector)
            h_d = self.hvp(vector) + curvature * vector
            return h_d - normal * dot(inner, h_d)

        return replace(self, hvp=product)

    def _onwards(self, search: "_Conjugate", free: jax.Array, radius: jax.Array) -> "_Conjugate":
        """Move to the minimum along the direction, or to the edge, and turn."""
        at, rest, direction = search.vectors
        eps, limited = jnp.finfo(radius.dtype).eps, limits(radius)
        square, far, along, length, largest, _, count = search.scalars
        h_d = free * self.hvp(free * direction / self.scale) / self.scale
        curvature = dot(direction, h_d)
        largest = jnp.maximum(largest, jnp.abs(curvature) / length)
        clear = jnp.abs(curvature) > eps * at.size * length * largest
        convex = clear & (curvature > 0)
        # With no radius to stop at, a curvature is taken as positive, and one that is 0 ends the first step at 1.
        ahead = jnp.where(clear, square / jnp.where(clear, jnp.abs(curvature), 1), jax.lax.rsqrt(length))
        to_edge = jnp.where(limited, _to_edge(far, along, length, radius), ahead)
        inside = convex & ~(limited & (ahead > to_edge))
        stepsize = jnp.where(inside, ahead, to_edge)
        rest = rest + stepsize * h_d
        left = dot(rest, rest)
        beta = left / square
        moved = pack(at + stepsize * direction, rest, beta * direction - rest)
        # Not by recurrence, which in float32 goes astray.
        (far, _, along), _, (*_, length) = products(moved, moved)
        return _Conjugate(moved, pack(left, far, along, length, largest, ~inside, count + 1))


class _Conjugate(NamedTuple):
    """A search by conjugate gradients, in units where the distance is Euclidean; packed, for XLA to copy at once."""

    vectors: jax.Array  # shape (3, p): where it is, the slope of the model there, the direction
    scalars: jax.Array  # shape (7,): squared slope, at'at, at'd, d'd, largest curvature, ended at an edge, products


def _to_edge(far: jax.Array, along: jax.Array, length: jax.Array, radius: jax.Array) -> jax.Array:
    """Return how far along a direction d the distance from 0 is the radius, from a place x within it.

    `far`, `along` and `length` are x'x, x'd and d'd.
    """
    room = jnp.maximum(radius**2 - far, 0)
    root = jnp.sqrt(along**2 + length * room)
    # Of the two forms of the root, the one that does not cancel.
    return jnp.where(along > 0, room / (along + root), (root - along) / length)
