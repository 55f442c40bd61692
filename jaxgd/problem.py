"""What is minimized: a loss of one flat vector, and what is known of it at a point."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.flat import Layout, pack, products


class Point(NamedTuple):
    """A place and what is known there, packed so that XLA copies it in two operations."""

    vectors: jax.Array  # shape (2, p): params, grad
    scalars: jax.Array  # shape (2,): loss, norm
    aux: Any  # what the loss returned beside its value, or ()

    @property
    def params(self) -> jax.Array:
        """The place, shape `(p,)`."""
        return self.vectors[0]

    @property
    def grad(self) -> jax.Array:
        """The gradient, shape `(p,)`."""
        return self.vectors[1]

    @property
    def loss(self) -> jax.Array:
        """The loss."""
        return self.scalars[0]

    @property
    def norm(self) -> jax.Array:
        """The Euclidean length of the gradient."""
        return self.scalars[1]


@dataclass(frozen=True)
class Problem:
    """A loss with its data bound, as a function of one flat vector."""

    loss: Callable[[Any], tuple[jax.Array, Any]]  # of the user's pytree of parameters; returns value and aux
    layout: Layout
    aux: Any  # shapes and types of aux
    sign: int = 1  # -1: the user asked for the maximum

    def value(self, params: jax.Array) -> tuple[jax.Array, Any]:
        """Return the loss to minimize at the flat `params`, in their type, and aux."""
        value, aux = self.loss(self.layout.unflatten(params))
        return self.sign * value.astype(params.dtype), aux

    def at(self, params: jax.Array) -> Point:
        """Evaluate loss and gradient at the flat `params`."""
        (loss, aux), grad = jax.value_and_grad(self.value, has_aux=True)(params)
        vectors = pack(params, grad)
        return Point(vectors, pack(loss, jnp.sqrt(products(vectors, grad[None])[1, 0])), aux)

    def nowhere(self, params: jax.Array) -> Point:
        """Return what is known of `params` before any evaluation: the loss is taken as infinite."""
        aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.aux)
        scalars = jnp.array([jnp.inf, 0], params.dtype)
        return Point(pack(params, jnp.zeros_like(params)), scalars, aux)


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Select between two pytrees of one structure, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
