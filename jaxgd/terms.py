"""Simple functions added to a loss, each with its prox: bounds and the l1 norm."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Term(Protocol):
    """A convex function of the flat params whose prox is known in closed form."""

    def value(self, params: jax.Array) -> Any:
        """Return the term's value; where it is a constraint, 0 on what the constraint allows."""
        ...

    def prox(self, params: jax.Array, stepsize: Any) -> jax.Array:
        """Return the minimizer over x of `stepsize * value(x) + |x - params|^2 / 2`."""
        ...

    def inside(self, params: jax.Array) -> jax.Array:
        """Return the nearest params that the term allows."""
        ...


def residual(term: Term, params: jax.Array, grad: jax.Array) -> jax.Array:
    """Return `params - prox(params - grad, 1)`, which is zero at a minimum, for params that the term allows.

    A term that has a `residual` of its own says it without the difference, in which a small slope is lost to rounding.
    """
    own = getattr(term, "residual", None)
    return params - term.prox(params - grad, 1) if own is None else own(params, grad)


class Hold(NamedTuple):
    """How a constraint holds the descent from a place."""

    free: jax.Array  # entries that may move, shape (p,)
    normal: jax.Array | None = None  # the moves are at right angles to it, shape (p,); None or zeros: to nothing
    bend: Any = 0.0  # the curvature that a loss has for the surface moved along being curved


@partial(jax.tree_util.register_dataclass, data_fields=["lower", "upper"], meta_fields=[])
@dataclass(frozen=True)
class Box:
    """`lower <= params <= upper`, each of shape `(p,)`, infinite where there is no bound."""

    lower: Any
    upper: Any

    def value(self, params: jax.Array) -> Any:
        """Return 0."""
        del params
        return 0

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        """Return the nearest point inside."""
        del stepsize
        return jnp.clip(params, self.lower, self.upper)

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slope, as far as there is room."""
        return jnp.clip(grad, params - self.upper, params - self.lower)

    def inside(self, params: jax.Array) -> jax.Array:
        """Return the nearest point inside."""
        return self.prox(params)

    def face(self, params: jax.Array, grad: jax.Array) -> tuple["Box", jax.Array]:
        """Return the box itself, and no slope."""
        del grad
        return self, jnp.zeros_like(params)

    def blocked(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return which entries lie on a bound that the descent direction leads across, shape `(p,)`."""
        at_lower, at_upper = params <= self.lower, params >= self.upper
        return (at_lower & (grad > 0)) | (at_upper & (grad < 0)) | (at_lower & at_upper)

    def hold(self, params: jax.Array, step: jax.Array, grad: jax.Array) -> Hold:
        """Return which entries move, a `step` from the params, where the slope is `grad`."""
        return Hold(~self._around(params).blocked(step, grad))

    def reach(self, params: jax.Array, step: jax.Array, direction: jax.Array) -> jax.Array:
        """Return how many times the direction leads to the first bound, a `step` from the params."""
        box, size = self._around(params), jnp.abs(direction)
        room = jnp.where(direction > 0, box.upper - step, step - box.lower)
        return jnp.min(jnp.where(size > 0, room / jnp.where(size > 0, size, 1), jnp.inf))

    def _around(self, params: jax.Array) -> "Box":
        """Return the box of steps from the params."""
        return Box(self.lower - params, self.upper - params)


@partial(jax.tree_util.register_dataclass, data_fields=["weight", "box"], meta_fields=[])
@dataclass(frozen=True)
class L1:
    """`sum(weight * |params|)`, inside a box if one is given; the weight is a number or has shape `(p,)`."""

    weight: Any
    box: Box | None = None

    def value(self, params: jax.Array) -> Any:
        """Return the weighted sum."""
        return jnp.sum(self.weight * jnp.abs(params))

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        """Shrink towards exact zeros (soft threshold), then into the box."""
        shrunk = jnp.sign(params) * jnp.maximum(jnp.abs(params) - stepsize * self.weight, 0)
        return self.box.prox(shrunk) if self.box else shrunk

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slope with the norm's, or what is left to zero, as far as there is room."""
        shrunk = jnp.clip(params, grad - self.weight, grad + self.weight)
        return self.box.residual(params, shrunk) if self.box else shrunk

    def inside(self, params: jax.Array) -> jax.Array:
        """Return the nearest point of the box."""
        return self.box.prox(params) if self.box else params

    def face(self, params: jax.Array, grad: jax.Array) -> tuple[Box, jax.Array]:
        """Return the box around the params in which no sign changes, and the slope of the norm there.

        A zero takes the sign that descends, or stays where neither does. Where the weight is 0 signs may change.
        """
        leaving = jnp.where(jnp.abs(grad) > self.weight, -jnp.sign(grad), 0)
        sign = jnp.where(params == 0, leaving, jnp.sign(params))
        free = self.weight == 0
        lower = jnp.where((sign < 0) | free, -jnp.inf, 0)
        upper = jnp.where((sign > 0) | free, jnp.inf, 0)
        box = self.box or Box(-jnp.inf, jnp.inf)
        return Box(jnp.maximum(lower, box.lower), jnp.minimum(upper, box.upper)), self.weight * sign


@partial(jax.tree_util.register_dataclass, data_fields=["tree"], meta_fields=[])
@dataclass(frozen=True)
class Weights:
    """A weight for each number of the params, in their shape; that of a complex one is w + iw, for both its parts."""

    tree: Any


@partial(jax.tree_util.register_dataclass, data_fields=["term", "ridge"], meta_fields=[])
@dataclass(frozen=True)
class Terms:
    """What is added to a loss, in the shape of the user's params: at most one term, and half the sum of ridge params^2.

    The weight of an `L1`, and the ridge, is a number or `Weights`.
    """

    term: Any
    ridge: Any

    def flatten(self, layout: Any) -> tuple[Any, Any]:
        """Return both for the flat params."""

        def flat(weight: Any) -> jax.Array:
            return layout.flatten(weight.tree) if isinstance(weight, Weights) else jnp.asarray(weight, layout.dtype)

        term = self.term
        box = term if isinstance(term, Box) else getattr(term, "box", None)
        if box is not None:
            box = Box(layout.flatten(box.lower), layout.flatten(box.upper))
        if isinstance(term, Box):
            term = box
        elif isinstance(term, L1):
            term = L1(flat(term.weight), box)
        else:
            term = jax.tree.map(flat, term)
        return term, None if self.ridge is None else flat(self.ridge)
