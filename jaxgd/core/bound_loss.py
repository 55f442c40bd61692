"""A loss with its data bound: its value and derivatives as functions of one flat vector."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.core.flat import Held, Layout
from jaxgd.core.linear_products import Cut
from jaxgd.core.numerics import products


class Derivatives(Enum):
    """Which derivatives of a loss JAX has: fewer where it holds a `jax.custom_vjp`, or a loop of unknown length."""

    ALL = "all"
    FORWARD = "not those in reverse mode"
    BACKWARD = "not those of its parts, in forward mode"
    FIRST = "not the second ones"


@dataclass(frozen=True)
class BoundLoss:
    """A loss with its data bound, in the sign it is minimized by and the params' type."""

    function: Callable[[Any], tuple[jax.Array, Any]]  # of the user's pytree of params; returns value and aux
    layout: Layout | Held
    sign: int = 1  # -1: the user asked for the maximum
    derivatives: Derivatives = Derivatives.ALL
    cut: Cut | None = None  # the function, cut at its products of data and params
    has_aux: bool = False  # the aux of a least-squares loss is a pair, of its residuals and the user's own
    squares: Callable[[Any], Any] | None = None  # the residuals of a loss that returns none, of the user's pytree

    def total(self, of: Callable[["BoundLoss"], Any]) -> Any:
        """Return what `of` returns of it; of a loss in parts it is the sum over these."""
        return of(self)

    def __call__(self, params: jax.Array) -> tuple[jax.Array, Any]:
        """Return value and aux."""
        value, aux = self.function(self.layout.unflatten(params))
        return self.sign * value.astype(params.dtype), aux

    def value_and_grad(self, params: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
        """Return value and aux, and the gradient."""
        if self.derivatives is not Derivatives.FORWARD:
            return jax.value_and_grad(self, has_aux=True)(params)

        def twice(params: jax.Array) -> Any:
            out = self(params)
            return out[0], out

        grad, out = jax.jacfwd(twice, has_aux=True)(params)
        return out, grad

    def hvp(self, params: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """Return the product of the Hessian at `params` with a vector, as a function of the vector."""
        grad = (jax.jacfwd if self.derivatives is Derivatives.FORWARD else jax.grad)(lambda x: self(x)[0])
        if self.derivatives in (Derivatives.BACKWARD, Derivatives.FIRST):
            return lambda vector: jax.vjp(grad, params)[1](vector)[0]
        return lambda vector: jax.jvp(grad, (params,), (vector,))[1]

    def hessian(self, params: jax.Array) -> jax.Array:
        """Return the Hessian, shape `(p, p)`."""
        eye = jnp.eye(params.size, dtype=params.dtype)
        if self.cut is None or self.derivatives is not Derivatives.ALL:
            return jax.vmap(self.hvp(params))(eye)
        tree, cut = self.layout.unflatten(params), self.cut
        factors = cut.factors(tree)
        blocks = [self.layout.blocks(leaf, data) for data, (leaf, _) in zip(factors, cut.dots.places, strict=True)]

        def value(params: jax.Array, products: list[jax.Array]) -> jax.Array:
            return self.sign * cut(self.layout.unflatten(params), products).astype(params.dtype)

        slopes = jax.grad(value, (0, 1))
        at = (params, cut.products(tree, factors))
        found, turned = jax.vmap(lambda *along: jax.jvp(slopes, at, along)[1])(eye, blocks)
        for grad_change, block in zip(turned, blocks, strict=True):
            found = found + products(grad_change.reshape(len(eye), -1), block.reshape(len(eye), -1))
        return found

    def gauss_newton(self, params: jax.Array, vector: jax.Array) -> jax.Array:
        """Return J'J, with the Jacobian of the residuals at `params`, times `vector`."""
        along = jax.jvp(self.residuals, (params,), (vector,))[1]
        if self.derivatives is Derivatives.FORWARD:
            return jnp.matmul(jax.jacfwd(self.residuals)(params).T, along, precision="highest")
        return jax.vjp(self.residuals, params)[1](along)[0]

    def residuals(self, params: jax.Array) -> jax.Array:
        """Return the residuals of a sum of squares as one vector, in the sign of the loss."""
        if self.squares is not None:
            return as_vector(self.squares(self.layout.unflatten(params)), params.dtype)
        aux = self(params)[1]
        return as_vector(aux[0] if self.has_aux else aux, params.dtype)


def as_vector(tree: Any, dtype: Any) -> jax.Array:
    """Return all numbers of a pytree of arrays in one real vector; a complex array is its real and imaginary parts."""
    parts = [
        part for leaf in jax.tree.leaves(tree) for part in (leaf.real, *([leaf.imag] if jnp.iscomplexobj(leaf) else []))
    ]
    return jnp.concatenate([part.astype(dtype).ravel() for part in parts])
