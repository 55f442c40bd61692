"""Simple functions added to a loss, each with its prox: bounds, the l1 norm, the simplex, the ball."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Term(Protocol):
    """A convex function of the flat params whose prox is known in closed form."""

    def value(self, params: jax.Array) -> Any:
        """Return the term's value; where it is a constraint, 0 on what the constraint allows."""
        ...

    def prox(self, params: jax.Array, stepsize: Any) -> jax.Array:
        """Return the minimizer over x of `stepsize * value(x) + |x - params|^2 / 2`."""
        ...

    def project(self, params: jax.Array) -> jax.Array:
        """Return the nearest params that the term allows."""
        ...


def residual(term: Term, params: jax.Array, grad: jax.Array) -> jax.Array:
    """Return `params - prox(params - grad, 1)`, which is zero at a minimum, for params that the term allows.

    A term that has a `residual` of its own says it without the difference, in which a small slope is lost to rounding.
    """
    own = getattr(term, "residual", None)
    return params - term.prox(params - grad, 1) if own is None else own(params, grad)


def box_of(term: Any) -> "Box | None":
    """Return the bounds that a term sets, if any."""
    return getattr(term, "box", None)


def is_separable(term: Any) -> bool:
    """Return whether a term, or None, is a sum of functions of one param each: it says which params it has `held`."""
    return term is None or getattr(term, "separable", False)


def holds(term: Any) -> bool:
    """Return whether a term says how it may `hold` the descent, as a constraint does within a trust region."""
    return hasattr(term, "hold")


class Hold(NamedTuple):
    """How a constraint holds the descent from a place."""

    free: jax.Array  # which entries may move, bools of shape (p,)
    normal: jax.Array | None = None  # the moves are at right angles to it; None or zeros: to nothing
    curvature: Any = 0.0  # the curvature that a loss has for the surface moved along being curved


@partial(jax.tree_util.register_dataclass, data_fields=["lower", "upper"], meta_fields=[])
@dataclass(frozen=True)
class Box:
    """`lower <= params <= upper`, each of shape `(p,)`, infinite where there is no bound."""

    lower: Any
    upper: Any

    separable = True

    @property
    def box(self) -> "Box":
        return self

    def held(self, params: jax.Array) -> jax.Array:
        """Return which params are at a bound, shape `(p,)`."""
        return (params <= self.lower) | (params >= self.upper)

    def value(self, params: jax.Array) -> Any:
        del params
        return 0

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        del stepsize
        return jnp.clip(params, self.lower, self.upper)

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slope, as far as there is room."""
        return jnp.clip(grad, params - self.upper, params - self.lower)

    def project(self, params: jax.Array) -> jax.Array:
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

    separable = True

    def held(self, params: jax.Array) -> jax.Array:
        """Return which params are shrunk to 0, or at a bound, shape `(p,)`."""
        shrunk = (params == 0) & (self.weight > 0)
        return shrunk if self.box is None else shrunk | self.box.held(params)

    def value(self, params: jax.Array) -> Any:
        return jnp.sum(self.weight * jnp.abs(params))

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        """Shrink towards exact zeros (soft threshold), then into the box."""
        shrunk = jnp.sign(params) * jnp.maximum(jnp.abs(params) - stepsize * self.weight, 0)
        return self.box.prox(shrunk) if self.box else shrunk

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slope with the norm's, or what is left to zero, as far as there is room."""
        shrunk = jnp.clip(params, grad - self.weight, grad + self.weight)
        return self.box.residual(params, shrunk) if self.box else shrunk

    def project(self, params: jax.Array) -> jax.Array:
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


@partial(jax.tree_util.register_dataclass, data_fields=["total"], meta_fields=[])
@dataclass(frozen=True)
class Simplex:
    """All params together are at least 0 and sum to `total`: shares, mixture weights, portfolios."""

    total: Any = 1.0

    def __post_init__(self) -> None:
        _check_positive(self.total, "total")

    def value(self, params: jax.Array) -> Any:
        del params
        return 0

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        """Return the nearest point of the simplex (Duchi et al., ICML 2008, figure 1)."""
        del stepsize
        largest = jnp.sort(params)[::-1]
        excess = (jnp.cumsum(largest) - self.total) / jnp.arange(1, params.size + 1)
        count = jnp.sum(largest > excess)
        # What sums to the total but for rounding stays as it is, with its zeros.
        return jnp.maximum(params - _cleared(excess[count - 1], 2 * self.total / count), 0)

    def residual(self, params: jax.Array, grad: jax.Array) -> jax.Array:
        """Return the slopes beside their mean where there is room: `prox` with the sum of the params taken as known."""
        order = jnp.argsort(grad - params)
        rest = params[order]
        # What is dropped from the sum is what the last params hold.
        dropped = jnp.cumsum(rest[::-1])[::-1] - rest
        excess = -(jnp.cumsum(grad[order]) + dropped) / jnp.arange(1, params.size + 1)
        excess = excess[jnp.sum(rest > grad[order] + excess) - 1]
        return jnp.minimum(grad + _cleared(excess, jnp.max(jnp.abs(grad))), params)

    def project(self, params: jax.Array) -> jax.Array:
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
        _check_positive(self.radius, "radius")

    def value(self, params: jax.Array) -> Any:
        del params
        return 0

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
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

    def project(self, params: jax.Array) -> jax.Array:
        return self.prox(params)


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
        box = box_of(term)
        if box is not None:
            box = Box(layout.flatten(box.lower), layout.flatten(box.upper))
        if isinstance(term, Box):
            term = box
        elif isinstance(term, L1):
            term = L1(flat(term.weight), box)
        else:
            term = jax.tree.map(flat, term)
        return term, None if self.ridge is None else flat(self.ridge)


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
