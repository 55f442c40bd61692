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
from jax.custom_derivatives import SymbolicZero
from jax.scipy.linalg import cho_solve, lu_factor, lu_solve
from jax.scipy.sparse.linalg import cg

from jaxgd.core.lapack import one_by_one
from jaxgd.core.numerics import irregular
from jaxgd.core.problem import Point, Problem
from jaxgd.core.settings import own
from jaxgd.core.stop import Counts, Status, succeeded
from jaxgd.core.terms import Box, is_separable

DENSE = 1000  # params up to which the Hessian is a matrix: 8 MB in float64, and as exact as its condition allows

Given = list[Any]  # arrays that a problem is made of
Linear = Callable[[jax.Array], jax.Array]


class Moved(NamedTuple):
    """Tangents of the flat params at a minimum."""

    params: jax.Array
    pushed: jax.Array | None  # the part of it that changes the loss to first order, of params on a bound that moves


def differentiable(
    solve: Callable[[Any], tuple[Any, Any]],
    problem_of: Callable[[Any], Problem],
    answer_of: Callable[[Any, Point], Any],
    names: tuple[str, ...],
) -> Callable[[Any], tuple[Any, Any]]:
    """Return `solve`, from inputs to an answer and a trace, with derivatives by these fields of the inputs.

    They are NaN where the answer is no minimum. `answer_of` says what is known at a point, as the answer has it.
    """
    wrapped = jax.custom_jvp(solve)

    def rule(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        with own():
            return pushed_forward(*primals, *tangents)

    def pushed_forward(inputs: Any, along: Any) -> tuple[Any, Any]:
        # The solve with its own derivatives: so there are second ones.
        answer, trace = wrapped(inputs)
        still = jax.tree.map(_still, (answer, trace))
        inputs_of, given, along = _moving(inputs, along, names)
        if not given:
            return (answer, trace), still
        # A start with no slope is a minimum if its Hessian says so, which is asked where it is solved with.
        status = Counts.of(answer.counts).status
        sound = succeeded(status) | (status == Status.ZERO_GRADIENT)
        along = [leaf * jnp.where(sound, 1, jnp.nan).astype(leaf.dtype) for leaf in along]
        params = problem_of(inputs).layout.flatten(answer.params)

        def seen(given: Given, params: jax.Array) -> Any:
            return answer_of(inputs_of(given), problem_of(inputs_of(given)).evaluate(params))

        def lowest(given: Given, params: jax.Array = params) -> jax.Array:
            return _lowest(problem_of(inputs_of(given)), params)

        def known(along: Given) -> Any:
            moved = answer_tangent(lambda given: problem_of(inputs_of(given)), given, along, params)
            # By the envelope theorem the loss moves as if the free params stood still.
            pushed = () if moved.pushed is None else (moved.pushed,)
            loss = jax.jvp(lowest, (given, *(params for _ in pushed)), (along, *pushed))[1]
            return jax.jvp(seen, (given, params), (along, moved.params))[1]._replace(loss=loss)

        found = one_by_one(known)(along)._replace(counts=still[0].counts, evidence=still[0].evidence)
        return (answer, trace), (found, still[1])

    wrapped.defjvp(rule, symbolic_zeros=True)
    return wrapped


def _moving(inputs: Any, along: Any, names: tuple[str, ...]) -> tuple[Callable[[Given], Any], Given, Given]:
    """Return the inputs as a function of the leaves that move in these fields, these leaves, and their tangents."""
    leaves, structure = jax.tree.flatten([getattr(inputs, name) for name in names])
    tangents = jax.tree.leaves([getattr(along, name) for name in names])
    places = [i for i, leaf in enumerate(tangents) if not isinstance(leaf, SymbolicZero)]

    def inputs_of(given: Given) -> Any:
        own = dict(zip(places, given, strict=True))
        parts = structure.unflatten([own.get(i, leaf) for i, leaf in enumerate(leaves)])
        return inputs._replace(**dict(zip(names, parts, strict=True)))

    return inputs_of, [leaves[i] for i in places], [tangents[i] for i in places]


def _still(leaf: Any) -> SymbolicZero:
    """Return the tangent of what does not move."""
    return SymbolicZero(jax.typeof(leaf).to_tangent_aval())


def answer_tangent(problem_of: Callable[[Given], Problem], given: Given, along: Given, params: jax.Array) -> Moved:
    """Return how the minimum `params` of a problem moves as what it is given moves `along`."""
    term = problem_of(given).term
    if is_separable(term):
        return _on_face(problem_of, given, along, params)
    if params.size > DENSE:
        msg = (
            f"`term` {type(term).__name__} lets {params.size} parameters be differentiated through, more than the"
            f" {DENSE} up to which a matrix is solved with. Use `bounds` or `l1`, or take `jax.lax.stop_gradient` of"
            " what the solve is given."
        )
        raise ValueError(msg)
    return _through_prox(problem_of, given, along, params)


def _lowest(problem: Problem, params: jax.Array) -> jax.Array:
    """Return the loss with all that is added to it, as a number that depends on nothing else that is known there."""
    value = problem.value(params)[0]
    return problem.sign * (value if problem.term is None else value + problem.term.value(params))


def _on_face(problem_of: Callable[[Given], Problem], given: Given, along: Given, params: jax.Array) -> Moved:
    """Return the move where params on a bound go with it, and the slopes of the others stay zero: H_FF dx_F = -db_F."""

    def conditions(given: Given) -> tuple[jax.Array, jax.Array]:
        slopes, box = _face(problem_of(given), params)
        return slopes, jnp.where(params <= box.lower, box.lower, box.upper)

    problem = problem_of(given)
    (slopes, _), (turned, pushed) = jax.jvp(conditions, (given,), (along,))
    free = ~_face(problem, params)[1].blocked(params, slopes)
    pushed = jnp.where(free, 0, pushed)
    hessian = problem.hessian(params) if params.size <= DENSE else None
    times = partial(problem.hvp, params)
    if hessian is not None:
        times = partial(jnp.matmul, hessian, precision="highest")

    def held(vector: jax.Array) -> jax.Array:
        return jnp.where(free, times(jnp.where(free, vector, 0)), vector)

    sides = -turned if problem.term is None else jnp.where(free, -turned - times(pushed), pushed)
    solve = _by_conjugate_gradients(held, params) if hessian is None else _by_cholesky(hessian, free)
    moved = jax.lax.custom_linear_solve(held, sides, solve, symmetric=True)
    return Moved(moved, None if problem.term is None else pushed)


def _face(problem: Problem, params: jax.Array) -> tuple[jax.Array, Box]:
    """Return the slopes of loss and term on the face that the params lie on, and its box."""
    grad = problem.evaluate(params).grad
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


def _by_conjugate_gradients(times: Linear, like: jax.Array) -> Callable[[Linear, jax.Array], jax.Array]:
    """Return a solver by products; NaN where it finds no solution."""
    eps = float(jnp.finfo(like.dtype).eps)

    def solved(times: Linear, sides: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, _ = cg(times, sides, tol=eps**0.75, maxiter=2 * sides.size)
        off = jnp.linalg.norm(times(found) - sides)
        return found, (off <= eps**0.5 * jnp.linalg.norm(sides)) & (jnp.sum(found * sides) >= 0)

    # A singular matrix has solutions for some sides; for any others it has none.
    probe = irregular(like.size, like.dtype)
    _, regular = solved(times, probe)

    def solve(times: Linear, sides: jax.Array) -> jax.Array:
        found, fine = solved(times, sides)
        return jnp.where(fine & regular, found, jnp.nan)

    return solve


def _through_prox(problem_of: Callable[[Given], Problem], given: Given, along: Given, params: jax.Array) -> Moved:
    """Return the move where r = x - prox(x - t grad) stays zero: dr/dx = I - P (I - t H), with P that of the prox."""
    problem = problem_of(given)
    hessian = problem.hessian(params)
    largest, one = jnp.max(jnp.abs(hessian)), jnp.eye(params.size, dtype=params.dtype)
    # Any t > 0 has the same minimum; with this one the matrix is of size 1.
    step = 1 / jnp.where(largest > 0, largest, 1)

    def residual(given: Given) -> jax.Array:
        problem = problem_of(given)
        return params - problem.prox(params - step * problem.evaluate(params).grad, step)

    near = jax.jacfwd(lambda place: problem.prox(place, step))(params - step * problem.evaluate(params).grad)
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
