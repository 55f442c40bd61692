"""Scales of the params, in which their curvatures are alike."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

MOST_AT_ONCE = 1e3  # change of a scale, by one of the products at the start
SCALING = 8  # products at the start for the scale of a method that learns the curvature
BALANCES = 12  # rounds of equilibration; each halves the logarithm of what is out of balance
FORGET = 0.1  # how fast the scale follows a curvature that falls, a move


class Diagonal(NamedTuple):
    """The scale alone."""

    scale: jax.Array  # shape (p,)
    moves: jax.Array  # learnt from


def equilibrated(matrix: jax.Array) -> jax.Array:
    """Return the squares of the diagonal D for which the rows of D^-1 |matrix| D^-1 are as long as each other.

    Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices (2001). The diagonal of the matrix
    itself would vanish where the matrix is indefinite.
    """
    # So that squares do not overflow.
    largest = jnp.max(jnp.abs(matrix))
    unit = jnp.where(largest > float(jnp.finfo(matrix.dtype).max) ** 0.25, largest, 1)
    sizes = matrix / unit

    def balance(_: int, root: jax.Array) -> jax.Array:
        rows = jnp.sqrt(jnp.sum((sizes / root[:, None] / root) ** 2, axis=1))
        return root * jnp.where(rows > 0, jnp.sqrt(rows), 1)

    root = jax.lax.fori_loop(0, BALANCES, balance, jnp.ones_like(matrix[0]))
    return jnp.where(jnp.any(matrix != 0, axis=1), unit * root**2, 0)


def balanced(memory: Diagonal, product: Callable[[jax.Array], jax.Array], most: float) -> Diagonal:
    """Bring the rows of the scaled Hessian nearer to one length, by its product with signs.

    A scale changes by no more than a factor of `most`.
    """
    index = jnp.arange(1, memory.scale.size + 1, dtype=memory.scale.dtype)
    # Without a pattern, and others each time.
    signs = jnp.sign(jnp.cos(1.61803399 * index * (memory.moves + 1) + 0.7 * index**2))
    rows = jnp.abs(product(signs / memory.scale) / memory.scale)
    mean = jnp.sqrt(jnp.mean(rows**2))
    known = jnp.isfinite(mean) & (mean > 0)
    change = jnp.clip(jnp.sqrt(rows / jnp.where(known, mean, 1)), 1 / most, most)
    return Diagonal(memory.scale * jnp.where(known & (rows > 0), change, 1), memory.moves + 1)


def scale_at(product: Callable[[jax.Array], jax.Array], params: jax.Array, times: int) -> jax.Array:
    """Return the scale of the params that so many products with the Hessian tell, shape `(p,)`."""
    first = Diagonal(jnp.ones_like(params), jnp.zeros((), params.dtype))
    if not times:
        return first.scale
    scale = jax.lax.fori_loop(0, times, lambda _, memory: balanced(memory, product, MOST_AT_ONCE), first).scale
    return jnp.maximum(scale, jnp.finfo(scale.dtype).eps * jnp.max(scale))


def rescaled(scale: jax.Array, curvatures: jax.Array, forget: float = FORGET) -> jax.Array:
    """Return the scale of the parameters: roots of their curvatures, which may rise at once but fall slowly."""
    square = jnp.maximum(curvatures, forget * scale**2)
    square = jnp.maximum(square, jnp.finfo(scale.dtype).eps ** 2 * jnp.max(square))
    old = jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.max(curvatures) > 0, jnp.sqrt(square), old)
