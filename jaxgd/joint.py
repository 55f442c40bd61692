"""Constraints that join all params: the simplex, a ball."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.terms import Box, Hold


def _cleared(difference: jax.Array, size: Any) -> jax.Array:
    """Return 0 in place of a difference that is rounding of numbers of this size; its derivatives are as before."""
    hidden = jnp.abs(difference) <= 2 * jnp.finfo(difference.dtype).eps * size
    return difference - jax.lax.stop_gradient(jnp.where(hidden, difference, 0))


def _check_positive(value: Any, name: str) -> None:
    """Refuse what is no positive number; what JAX passes in its place cannot be looked at."""
    if isinstance(value, str | list | tuple | dict) or (isinstance(value, np.ndarray) and value.ndim):
        msg = f"`{name}` must be one number; got {value!r}."
        raise TypeError(msg)
    if isinstance(value, int | float | np.number | np.ndarray) and not 0 < value < float("inf"):
        msg = f"`{name}` must be positive and finite; got {value!r}."
        raise ValueError(msg)


@partial(jax.tree_util.register_dataclass, data_fields=["total"], meta_fields=[])
@dataclass(frozen=True)
class Simplex:
    """All params together are at least 0 and sum to `total`: shares, mixture weights, portfolios."""

    total: Any = 1.0

    def __post_init__(self) -> None:
        """Refuse a total that no params have."""
        _check_positive(self.total, "total")

    def value(self, params: jax.Array) -> Any:
        """Return 0."""
        del params
        return 0

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        """Return the nearest point of the simplex (Duchi et al., ICML 2008, figure 1)."""
        del stepsize
        largest = jnp.sort(params)[::-1]
        excess = (jnp.cumsum(largest) - self.total) / jnp.arange(1, params.size + 1)
        excess = excess[jnp.sum(largest > excess) - 1]
        # What sums to the total but for rounding stays as it is, with its zeros.
        return jnp.maximum(params - _cleared(excess, self.total), 0)

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slopes beside their mean where there is room: `prox` with the sum of the params taken as known."""
        order = jnp.argsort(grad - params)
        rest = params[order]
        # What is dropped from the sum is what the last params hold.
        dropped = jnp.cumsum(rest[::-1])[::-1] - rest
        excess = -(jnp.cumsum(grad[order]) + dropped) / jnp.arange(1, params.size + 1)
        excess = excess[jnp.sum(rest > grad[order] + excess) - 1]
        return jnp.minimum(grad + _cleared(excess, jnp.max(jnp.abs(grad))), params)

    def inside(self, params: jax.Array) -> jax.Array:
        """Return the nearest point inside."""
        return self.prox(params)

    def face(self, params: jax.Array, grad: jax.Array) -> tuple["Simplex", jax.Array]:
        """Return the simplex itself, and a slope that no move sees: it makes the mean slope 0."""
        inner = params > 0
        return self, jnp.full_like(params, -jnp.sum(jnp.where(inner, grad, 0)) / jnp.sum(inner))

    def hold(self, params: jax.Array, step: jax.Array, grad: jax.Array) -> Hold:
        """Return which entries move, a `step` from the params: a zero where its slope is below the mean of those."""
        inner = params + step > 0
        order = jnp.argsort(jnp.where(inner, -jnp.inf, grad))
        mean = jnp.cumsum(grad[order]) / jnp.arange(1, grad.size + 1)
        mean = mean[jnp.sum(inner[order] | (grad[order] < mean)) - 1]
        return Hold(inner | (grad < mean), jnp.ones_like(params))

    def reach(self, params: jax.Array, step: jax.Array, direction: jax.Array) -> jax.Array:
        """Return how many times the direction leads to the first zero, a `step` from the params."""
        return Box(0, jnp.inf).reach(params, step, direction)


@partial(jax.tree_util.register_dataclass, data_fields=["radius"], meta_fields=[])
@dataclass(frozen=True)
class Ball:
    """The Euclidean length of all params together is at most `radius`."""

    radius: Any = 1.0

    def __post_init__(self) -> None:
        """Refuse a radius that no ball has."""
        _check_positive(self.radius, "radius")

    def value(self, params: jax.Array) -> Any:
        """Return 0."""
        del params
        return 0

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        """Return the nearest point of the ball."""
        del stepsize
        square = jnp.sum(params**2)
        # A root of 0 has no derivative.
        length = jnp.sqrt(jnp.where(square > 0, square, 1))
        return jnp.where((square > 0) & (length > self.radius), self.radius / length, 1) * params

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slope, without what leads out of the ball."""
        # In units in which squares do not overflow.
        unit = jnp.maximum(self.radius, jnp.max(jnp.abs(grad)))
        at, slope, radius = params / unit, grad / unit, self.radius / unit
        beyond = jnp.sum(slope * (slope - 2 * at)) - self.room(params) / unit**2
        length = jnp.sqrt(radius**2 + jnp.maximum(beyond, 0))
        inwards = (radius * grad + beyond / (length + radius) * params) / length
        return jnp.where(beyond > 0, inwards, grad)

    def room(self, params: jax.Array) -> jax.Array:
        """Return the square of the radius less that of the params; 0 on the sphere, whatever rounding makes of it."""
        square = self.radius**2
        return _cleared(square - jnp.sum(params**2), 2 * params.size**0.5 * square)

    def face(self, params: jax.Array, grad: jax.Array) -> tuple["Ball", jax.Array]:
        """Return the ball itself, and no slope."""
        del grad
        return self, jnp.zeros_like(params)

    def hold(self, params: jax.Array, step: jax.Array, grad: jax.Array) -> Hold:
        """Return whether the steepest descent, a `step` from the params, is along the sphere."""
        at = params + step
        outwards = -jnp.sum(grad * at)
        held = (self.room(at) <= 0) & (outwards > 0)
        return Hold(jnp.ones_like(at, bool), jnp.where(held, at, 0), jnp.where(held, outwards / self.radius**2, 0))

    def reach(self, params: jax.Array, step: jax.Array, direction: jax.Array) -> jax.Array:
        """Return how many times the direction leads to the sphere, a `step` from the params."""
        at, square = params + step, jnp.sum(direction**2)
        along, room = jnp.sum(at * direction), jnp.maximum(self.room(at), 0)
        root = jnp.sqrt(along**2 + square * room)
        far = jnp.where(along > 0, room / jnp.where(along > 0, along + root, 1), root - along)
        return far / jnp.where(along > 0, 1, jnp.where(square > 0, square, 1))

    def inside(self, params: jax.Array) -> jax.Array:
        """Return the nearest point inside."""
        return self.prox(params)
