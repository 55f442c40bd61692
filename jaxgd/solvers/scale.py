"""Scales of the params, in which their curvatures are alike."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.flat import pack, products, root

MOST_AT_ONCE = 1e3  # change of a scale, by one of the products at the start
SCALING = 8  # products at the start for the scale of a method that learns the curvature
BALANCES = 10  # rounds of equilibration; each halves the logarithm of what is out of balance
FORGET = 0.1  # how fast the scale follows a curvature that falls, a move


class Units(NamedTuple):
    """The units that a method measures the params in."""

    scale: jax.Array  # shape (p,): what is measured is scale * params
    known: jax.Array  # the scale tells curvatures; else it is 1

    @classmethod
    def at(cls, product: Callable[[jax.Array], jax.Array], params: jax.Array, times: int) -> "Units":
        """Return those that so many products with the Hessian tell."""
        return cls(scale_at(product, params, times), jnp.ones((), bool))

    def dropped(self, lost: jax.Array) -> tuple["Units", jax.Array]:
        """Return those of the user where all is lost in these, and whether it is lost in those as well."""
        return Units(jnp.where(lost, 1, self.scale), self.known & ~lost), lost & ~self.known

    def length(self, grad: jax.Array) -> jax.Array:
        """Return the length of a gradient that is in these units."""
        rows = pack(grad, jnp.sign(grad))
        (square, size), _ = products(rows, rows)
        return root(square, size)


def equilibrated(matrix: jax.Array) -> jax.Array:
    """Return the squares of the diagonal D for which the rows of D^-1 |matrix| D^-1 are as long as each other.

    Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices (2001). The diagonal of the matrix
    itself would vanish where the matrix is indefinite.
    """
    # So that squares do not overflow.
    largest = jnp.max(jnp.abs(matrix))
    unit = jnp.where(largest > float(jnp.finfo(matrix.dtype).max) ** 0.25, largest, 1)
    sizes = matrix / unit

    # Rows and columns are the same; XLA on CPU sums columns faster.
    def balance(_: int, root: jax.Array) -> jax.Array:
        rows = jnp.sqrt(jnp.sum((sizes / root[:, None] / root) ** 2, axis=0))
        return root * jnp.where(rows > 0, jnp.sqrt(rows), 1)

    root = jax.lax.fori_loop(0, 2, balance, jnp.ones_like(matrix[0]))
    # No entry is above 1 any more: the squares are taken once, and what is balanced is 1 / root^2.
    squares = (sizes / root[:, None] / root) ** 2

    def refine(_: int, inverse: jax.Array) -> jax.Array:
        rows = inverse * jnp.sum(squares * inverse[:, None], axis=0)
        return inverse * jnp.where(rows > 0, jax.lax.rsqrt(jnp.where(rows > 0, rows, 1)), 1)

    inverse = jax.lax.fori_loop(0, BALANCES, refine, jnp.ones_like(root))
    root = root * jax.lax.rsqrt(inverse)
    return jnp.where(jnp.any(matrix != 0, axis=1), unit * root**2, 0)


def balanced(scale: jax.Array, product: Callable[[jax.Array], jax.Array], time: Any, most: float = 3) -> jax.Array:
    """Bring the rows of the scaled Hessian nearer to one length, by its product with signs, others each `time`.

    A scale changes by no more than a factor of `most`.
    """
    rows = _rows(scale, product, time)
    mean = jnp.sqrt(jnp.mean(rows**2))
    known = jnp.isfinite(mean) & (mean > 0)
    return scale * jnp.where(known, _change(rows / jnp.where(known, mean, 1), most), 1)


def scale_at(product: Callable[[jax.Array], jax.Array], params: jax.Array, times: int) -> jax.Array:
    """Return the scale in which the rows of the Hessian are of length 1, as so many products tell, shape `(p,)`."""
    ones = jnp.ones_like(params)
    if not times:
        return ones

    def improve(time: int, scale: jax.Array) -> jax.Array:
        rows = _rows(scale, product, time)
        return scale * jnp.where(jnp.all(jnp.isfinite(rows)), _change(rows, MOST_AT_ONCE), 1)

    scale = jax.lax.fori_loop(0, times, improve, ones)
    return jnp.maximum(scale, jnp.finfo(scale.dtype).eps * jnp.max(scale))


def _rows(scale: jax.Array, product: Callable[[jax.Array], jax.Array], time: Any) -> jax.Array:
    """Return about how long the rows of the scaled Hessian are."""
    index = jnp.arange(1, scale.size + 1, dtype=scale.dtype)
    # Without a pattern.
    signs = jnp.sign(jnp.cos(1.61803399 * index * (time + 1) + 0.7 * index**2))
    return jnp.abs(product(signs / scale) / scale)


def _change(rows: jax.Array, most: float) -> jax.Array:
    """Return by how much to change the scale; not where a row is 0, of which nothing is known."""
    return jnp.where(rows > 0, jnp.clip(jnp.sqrt(rows), 1 / most, most), 1)


def rescaled(scale: jax.Array, curvatures: jax.Array, forget: float = FORGET) -> jax.Array:
    """Return the scale of the parameters: roots of their curvatures, which may rise at once but fall slowly."""
    square = jnp.maximum(curvatures, forget * scale**2)
    square = jnp.maximum(square, jnp.finfo(scale.dtype).eps ** 2 * jnp.max(square))
    old = jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.max(curvatures) > 0, jnp.sqrt(square), old)
