"""Scales of the params, in which their curvatures are alike."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import pack, products, safe_norm
from jaxgd.core.problem import Point, Problem, rounding
from jaxgd.core.terms import is_separable

FEW = 32  # params for which a Hessian as a matrix is cheap to compute, compile and factorize
BALANCES = 10  # rounds of equilibration; each halves the logarithm of what is out of balance
NOISY = 16  # times what rounding makes of it, below which a row of a Hessian tells nothing: it may be alike in a column
BEHIND = 30  # how far, at most, the scale is behind the root of a curvature that falls
FORGET = 0.1  # how fast the scale follows a curvature that falls, a move


class Units(NamedTuple):
    """The units that a method measures the params in."""

    scale: jax.Array  # shape (p,): what is measured is scale * params
    known: jax.Array  # the scale tells the size of curvatures; else it is 1

    @classmethod
    def at(cls, problem: Problem, params: jax.Array) -> "Units":
        """Return those that the Hessian tells."""
        return cls(scale_at(problem, params), jnp.ones((), bool))

    @classmethod
    def unknown(cls, params: jax.Array) -> "Units":
        """Return those of the user."""
        return cls(jnp.ones_like(params), jnp.zeros((), bool))

    def begun(self, point: Point, first: jax.Array) -> "Units":
        """Return those that the slopes at the start tell, where no Hessian has."""
        begins = first & ~self.known
        return Units(jnp.where(begins, scale_of_slopes(point), self.scale), self.known | begins)

    def dropped(self, lost: jax.Array) -> tuple["Units", jax.Array]:
        """Return those of the user where all is lost in these, and whether it is lost in those as well."""
        return Units(jnp.where(lost, 1, self.scale), self.known & ~lost), lost & ~self.known

    def length(self, grad: jax.Array) -> jax.Array:
        """Return the length of a gradient that is in these units."""
        rows = pack(grad, jnp.sign(grad))
        (square, size), _ = products(rows, rows)
        return safe_norm(square, size)


def equilibrated(matrix: jax.Array) -> jax.Array:
    """Return the diagonal D for which the rows of D^-1 |matrix| D^-1 are as long as each other, shape `(p,)`.

    Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices (2001). The diagonal of the matrix
    itself would vanish where the matrix is indefinite.
    """
    # By the largest entries first, so that no square leaves the range. Rows and columns are the same; XLA on CPU
    # reduces columns faster.
    rows = jnp.max(jnp.abs(matrix), axis=0)
    root = jnp.sqrt(jnp.where(rows > 0, rows, 1))
    # No entry is above 1 any more: the squares are taken once, and what is balanced is 1 / root^2.
    squares = (matrix / root[:, None] / root) ** 2

    def refine(_: int, inverse: jax.Array) -> jax.Array:
        rows = inverse * jnp.sum(squares * inverse[:, None], axis=0)
        return inverse * jnp.where(rows > 0, jax.lax.rsqrt(jnp.where(rows > 0, rows, 1)), 1)

    inverse = jax.lax.fori_loop(0, BALANCES, refine, jnp.ones_like(root))
    root = root * jax.lax.rsqrt(inverse)
    return jnp.where(rows > 0, root, 0)


def or_slope(hessian: jax.Array, slope: Any, noise: Any = 0) -> jax.Array:
    """Return the Hessian made symmetric; where it is not finite, one that makes the model little but a slope.

    Rows that are hardly larger than what makes them differ from their columns are rounding alone: they are 0. `noise`
    is what made them differ before, shape `(p,)`: they may be alike by luck.
    """
    finite = jnp.isfinite(hessian)
    hessian = jnp.where(finite, hessian, slope * jnp.eye(len(hessian), dtype=hessian.dtype))
    known = jnp.max(jnp.abs(hessian), axis=0) > NOISY * jnp.maximum(asymmetry(hessian), noise)
    return jnp.where(known[:, None] & known, (hessian + hessian.T) / 2, 0)


def asymmetry(hessian: jax.Array) -> jax.Array:
    """Return by how much the rows of a Hessian differ from its columns, which rounding makes, shape `(p,)`."""
    return jnp.max(jnp.abs(hessian - hessian.T), axis=0)


def or_one(scale: jax.Array) -> jax.Array:
    """Return the scale, 1 where none is known yet."""
    return jnp.where(scale > 0, scale, 1)


def balanced(matrix: jax.Array, scale: jax.Array) -> jax.Array:
    """Return D^-1 matrix D^-1, with D the scale."""
    inverse = 1 / scale  # of two divisions XLA makes one, by a product that may be 0
    return matrix * inverse[:, None] * inverse


def scaling_of(size: int) -> int:
    """Return the products that make a Hessian for the scale: none where the params are many."""
    return size if size <= FEW else 0


def scale_at(problem: Problem, params: jax.Array) -> jax.Array:
    """Return the scale in which the rows of the Hessian are of length 1, shape `(p,)`; 1 where it tells none."""
    if not scaling_of(params.size):
        return jnp.ones_like(params)
    hessian = or_slope(problem.hessian(params), jnp.zeros((), params.dtype))
    return rescaled(jnp.zeros_like(params), equilibrated(hessian))


def scale_of_slopes(point: Point) -> jax.Array:
    """Return the scale in which a curvature of 1 makes a Newton step of length 1 in the user's units, shape `(p,)`.

    In it, squares stay within the range whatever the unit of the loss.
    """
    grad, bare = point.grad, len(point.vectors) == 2  # noqa: PLR2004 - no term: the length is known
    length = point.norm if bare else safe_norm(jnp.sum(grad**2), jnp.sum(jnp.abs(grad)))
    return jnp.full_like(grad, jnp.sqrt(or_one(length)))


def rescaled(scale: jax.Array, own: jax.Array, forget: float = FORGET, behind: float = BEHIND) -> jax.Array:
    """Return the scale of the parameters: the roots of their curvatures, `own`, but falling slowly.

    It is `behind` the root of its own curvature by no more than that factor, so that rounding of others does not hide
    it. It stays where there is no curvature, and is 1 for a param of which none was ever seen.
    """
    root = jnp.where(own > 0, jnp.clip(forget**0.5 * scale, own, behind * own), scale)
    return or_one(root)


def without_influence(own: jax.Array, most: jax.Array, vectors: jax.Array, loss: Any, term: Any) -> jax.Array:
    """Return which params, free to move, the loss no longer depends on as it did, shape `(p,)`.

    `own` are the roots of their curvatures, `most` the largest these were, `vectors` begins with params and slopes. The
    roots have gone below the rounding of that, and a change by all the size of a param changes the loss by no more than
    rounding; or the slope is 0, which tells nothing where the curvature is below the rounding of what it was.
    """
    eps, (params, slopes) = jnp.finfo(most.dtype).eps, vectors[:2]
    gone = (own < eps * most) & ((own * params) ** 2 <= rounding(loss))
    gone = gone | ((slopes == 0) & (own < jnp.sqrt(NOISY * eps) * most))
    return gone if term is None or not is_separable(term) else gone & ~term.held(params)
