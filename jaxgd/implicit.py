"""How a minimum moves with what its problem is given: derivatives of the answer, without a look at the way there.

At a minimum x of a loss f(x, c) with a term h, r(x, c) = x - prox(x - grad f(x, c)) is zero, and stays so as c moves:
dr/dx dx = -dr/dc dc, the implicit function theorem (Blondel and others, Efficient and Modular Implicit Differentiation,
NeurIPS 2022; Griewank and Walther, Evaluating Derivatives, 2008, section 15). What follows is linear in dc and built of
what JAX can transpose, so that one rule serves forward and reverse mode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, lu_factor, lu_solve
from jax.scipy.sparse.linalg import cg

from jaxgd.problem import Problem
from jaxgd.solvers.scale import SCALING, scale_at
from jaxgd.terms import Box

DENSE = 1000  # params up to which the Hessian is a matrix: 8 MB in float64, and as exact as its condition allows

Given = Any  # pytree of arrays that a problem is made of
Linear = Callable[[jax.Array], jax.Array]


class Moved(NamedTuple):
    """Tangents of the flat params at a minimum."""

    params: jax.Array
    pushed: jax.Array | None  # the part of it that changes the loss to first order, of params on a bound that moves


def loss(problem: Problem, params: jax.Array) -> jax.Array:
    """Return the loss with all that is added to it, as a number that depends on nothing else that is known there."""
    value = problem.value(params)[0]
    return value if problem.term is None else value + problem.term.value(params)


def tangent(problem_of: Callable[[Given], Problem], given: Given, along: Given, params: jax.Array) -> Moved:
    """Return how the minimum `params` of a problem moves as what it is given moves `along`."""
    term = problem_of(given).term
    if term is None or hasattr(term, "face"):
        return _on_face(problem_of, given, along, params)
    if params.size > DENSE:
        msg = (
            f"`term` {type(term).__name__} lets {params.size} parameters be differentiated through, more than the"
            f" {DENSE} up to which a matrix is solved with. Use `bounds` or `l1`, or take `jax.lax.stop_gradient` of"
            " what the solve is given."
        )
        raise ValueError(msg)
    return _through_prox(problem_of, given, along, params)


def _on_face(problem_of: Callable[[Given], Problem], given: Given, along: Given, params: jax.Array) -> Moved:
    """Return the move where params on a bound go with it, and the slopes of the others stay zero: H_FF dx_F = -db_F."""

    def conditions(given: Given) -> tuple[jax.Array, jax.Array]:
        slopes, box = _face(problem_of(given), params)
        return slopes, jnp.where(params <= box.lower, box.lower, box.upper)

    problem = problem_of(given)
    (slopes, _), (turned, pushed) = jax.jvp(conditions, (given,), (along,))
    free = ~_face(problem, params)[1].blocked(params, slopes)
    pushed = jnp.where(free, 0, pushed)
    times, solve = partial(problem.product, params), _by_conjugate_gradients
    if params.size <= DENSE:
        hessian = problem.hessian(params)
        times, solve = partial(jnp.matmul, hessian, precision="highest"), _by_cholesky(hessian, free)

    def held(vector: jax.Array) -> jax.Array:
        return jnp.where(free, times(jnp.where(free, vector, 0)), vector)

    sides = -turned if problem.term is None else jnp.where(free, -turned - times(pushed), pushed)
    moved = jax.lax.custom_linear_solve(held, sides, solve, symmetric=True)
    return Moved(moved, None if problem.term is None else pushed)


def _face(problem: Problem, params: jax.Array) -> tuple[jax.Array, Box]:
    """Return the slopes of loss and term on the face that the params lie on, and its box."""
    grad = problem.at(params).grad
    if problem.term is None:
        return grad, Box(-jnp.inf, jnp.inf)
    face: Any = problem.term
    box, slope = face.face(params, grad)
    return grad + slope, box


def _by_cholesky(hessian: jax.Array, free: jax.Array) -> Callable[[Linear, jax.Array], jax.Array]:
    """Return a solver with the rows and columns of the Hessian that are free; NaN where rounding hides a pivot."""
    matrix = jnp.where(free[:, None] & free, hessian, jnp.eye(free.size, dtype=hessian.dtype))
    root = jnp.sqrt(jnp.diagonal(matrix))
    lower = jnp.linalg.cholesky(matrix / root[:, None] / root)
    sound = jnp.min(jnp.diagonal(lower)) ** 2 > free.size * jnp.finfo(hessian.dtype).eps
    return lambda _, sides: jnp.where(sound, cho_solve((lower, True), sides / root) / root, jnp.nan)


def _by_conjugate_gradients(times: Linear, sides: jax.Array) -> jax.Array:
    """Return the solution by products, in a scale in which the curvatures are alike; NaN where it is none."""
    eps, scale = jnp.finfo(sides.dtype).eps, scale_at(times, sides, SCALING)

    def scaled(vector: jax.Array) -> jax.Array:
        return times(vector / scale) / scale

    sides = sides / scale
    found, _ = cg(scaled, sides, tol=float(eps**0.75), maxiter=2 * sides.size)
    left = jnp.linalg.norm(scaled(found) - sides)
    sound = (left <= jnp.sqrt(eps) * jnp.linalg.norm(sides)) & (jnp.sum(found * sides) >= 0)
    return jnp.where(sound, found / scale, jnp.nan)


def _through_prox(problem_of: Callable[[Given], Problem], given: Given, along: Given, params: jax.Array) -> Moved:
    """Return the move where r = x - prox(x - t grad) stays zero: dr/dx = I - P (I - t H), with P that of the prox."""
    problem = problem_of(given)
    hessian = problem.hessian(params)
    largest, one = jnp.max(jnp.abs(hessian)), jnp.eye(params.size, dtype=params.dtype)
    # Any t > 0 has the same minimum; with this one the matrix is of size 1.
    step = 1 / jnp.where(largest > 0, largest, 1)

    def residual(given: Given) -> jax.Array:
        problem = problem_of(given)
        return params - problem.prox(params - step * problem.at(params).grad, step)

    near = jax.jacfwd(lambda place: problem.prox(place, step))(params - step * problem.at(params).grad)
    matrix = one - jnp.matmul(near, one - step * hessian, precision="highest")
    factors = lu_factor(matrix)
    pivots = jnp.abs(jnp.diagonal(factors[0]))
    sound = jnp.min(pivots) > params.size * jnp.finfo(params.dtype).eps * jnp.max(pivots)

    def solve(_: Any, sides: jax.Array, trans: int = 0) -> jax.Array:
        return jnp.where(sound, lu_solve(factors, sides, trans), jnp.nan)

    times = partial(jnp.matmul, matrix, precision="highest")
    sides = -jax.jvp(residual, (given,), (along,))[1]
    moved = jax.lax.custom_linear_solve(times, sides, solve, partial(solve, trans=1))
    return Moved(moved, moved)
