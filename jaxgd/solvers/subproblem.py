"""A quadratic model of the loss, and the step of least model value within a distance."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import products


class Step(NamedTuple):
    """A step and what the model says of it."""

    move: jax.Array
    predicted_reduction: jax.Array  # decrease of the model along the move
    predicted_remaining: jax.Array  # decrease of the model to its minimum; inf: see `endless`
    radius: jax.Array  # the distance allowed: as asked, or of the first step where there was none
    products: jax.Array  # with the Hessian
    newton: jax.Array  # to the model's minimum, as far as curvature tells where it is
    unknown: jax.Array  # directions free to move whose curvature is rounding; NaN, above no number: not known

    @property
    def endless(self) -> jax.Array:
        """Whether no minimum of the model was met: it has none, or the radius came first."""
        return jnp.isinf(self.predicted_remaining)

    def at_edge(self, scale: jax.Array) -> jax.Array:
        """Return whether it is the radius that keeps the step short, not the model."""
        return jnp.sum((scale * self.move) ** 2) > (self.radius / 2) ** 2


def limits(radius: jax.Array) -> jax.Array:
    """Whether a radius limits the step; it is infinite where there is none."""
    return jnp.isfinite(radius)


class Model(Protocol):
    """A quadratic model of the loss around a point: g's + s'Hs / 2, and a measure of distance |Ds|."""

    @property
    def grad(self) -> jax.Array:
        """The slope g."""
        ...

    @property
    def scale(self) -> jax.Array:
        """The diagonal D."""
        ...

    def matvec(self, steps: jax.Array) -> jax.Array:
        """Return H times each of the `steps`, shape `(k, p)`."""
        ...

    def minimize_within(self, grad: jax.Array, free: jax.Array, radius: jax.Array) -> Step:
        """Return the minimizer of grad's + s'Hs / 2 over the entries that are `free` (1, else 0), |Ds| <= radius.

        Where there is none, it is the length of a Newton step with each curvature taken as positive.
        """
        ...

    def across(self, normal: jax.Array, curvature: Any) -> "Model":
        """Return the model of steps at right angles to the normal, with `curvature` added to each of its own."""
        ...


def dot(one: jax.Array, other: jax.Array) -> jax.Array:
    """Return the inner product of two vectors."""
    return products(one[None], other[None])[0, 0]


def over_square(vector: jax.Array, scale: jax.Array) -> jax.Array:
    """Return the vector divided by the scale twice: the square, which XLA would compute, may be 0."""
    inverse = 1 / scale
    return vector * inverse * inverse


def inward(normal: jax.Array, scale: jax.Array) -> jax.Array:
    """Return the step of least scaled length that a normal's product with is 1; zeros where the normal is."""
    step = over_square(normal, scale)
    along = dot(normal, step)
    return step / jnp.where(along > 0, along, 1)
