"""Where the curvature of a trust-region model comes from: the Hessian, its products, or the moves made."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgd.problem import Point, Problem
from jaxgd.solvers.dense import Dense
from jaxgd.solvers.region import Implicit, Model, Step
from jaxgd.solvers.scale import balanced, equilibrated, rescaled


class Curvature(Protocol):
    """What a model knows of the curvature, kept from step to step in a memory whose first field is the scale."""

    @property
    def calm(self) -> int:
        """Moves that must meet the test of `tol`."""
        ...

    @property
    def computed(self) -> bool:
        """Whether it is computed, not learnt from the moves."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it is known in every direction."""
        ...

    @property
    def first(self) -> int:
        """Products that `begin` takes."""
        ...

    def begin(self, problem: Problem, params: jax.Array) -> Any:
        """Return the memory before any evaluation."""
        ...

    def learn(self, problem: Problem, memory: Any, before: Point, trial: Point, moved: jax.Array) -> Any:
        """Return the memory after a trial that was moved to, or not."""
        ...

    def model(self, problem: Problem, memory: Any, point: Point) -> Model:
        """Return the model around the point."""
        ...

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return how many products with the loss's Hessian a step took."""
        ...


class Matrix(NamedTuple):
    """A Hessian kept as it is."""

    scale: jax.Array  # shape (p,)
    hessian: jax.Array  # shape (p, p)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Exact:
    """The Hessian as a matrix, computed after every move."""

    calm, computed, whole, first = 2, True, True, 0  # the model knows every direction, but not how far it holds

    def begin(self, problem: Problem, params: jax.Array) -> Matrix:
        """Return zeros."""
        del problem
        return Matrix(jnp.zeros_like(params), jnp.zeros((params.size, params.size), params.dtype))

    def learn(self, problem: Problem, memory: Matrix, before: Point, trial: Point, moved: jax.Array) -> Matrix:
        """Compute the Hessian where the trial was moved to."""
        del before

        def learnt() -> Matrix:
            hessian = or_slope(problem.hessian(trial.params), trial)
            return Matrix(rescaled(memory.scale, equilibrated(hessian)), hessian)

        return jax.lax.cond(moved, learnt, lambda: memory)

    def model(self, problem: Problem, memory: Matrix, point: Point) -> Dense:
        """Return the model around the point."""
        del problem
        return Dense(point.grad, memory.scale, memory.hessian)

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return the products that make a Hessian."""
        return moved * step.move.size


class Pair(NamedTuple):
    """Both Hessians of a sum of squares."""

    scale: jax.Array  # shape (p,)
    matrices: jax.Array  # shape (2, p, p): J'J and the Hessian
    choice: jax.Array  # which of them foretells better, an int32


@jax.tree_util.register_static
@dataclass(frozen=True)
class SumOfSquares:
    """The Hessian of a sum of squares, or that of Gauss and Newton, J'J, whichever foretold the last slopes better.

    Dennis, Gay and Welsch, ACM TOMS 7 (1981), section 3, choose so; here the Hessian is computed, not learnt.
    """

    calm, computed, whole, first, sum_of_squares = 2, True, True, 0, True
    reach = 100  # the first radius over the length of the params, as in MINPACK (More and others, ANL-80-74)

    def begin(self, problem: Problem, params: jax.Array) -> Pair:
        """Return zeros."""
        del problem
        zeros = jnp.zeros((2, params.size, params.size), params.dtype)
        return Pair(jnp.zeros_like(params), zeros, jnp.zeros((), jnp.int32))

    def learn(self, problem: Problem, memory: Pair, before: Point, trial: Point, moved: jax.Array) -> Pair:
        """Choose by the trial, and compute both matrices where it was moved to."""
        move, turn = trial.params - before.params, trial.grad - before.grad
        off = jnp.matmul(memory.matrices, move, precision="highest") - turn
        errors = jnp.sum((off / jnp.where(memory.scale > 0, memory.scale, 1)) ** 2, axis=1)
        told = jnp.any(move != 0) & jnp.all(jnp.isfinite(errors))
        choice = jnp.where(told, jnp.argmin(errors).astype(jnp.int32), memory.choice)

        def learnt() -> Pair:
            jacobian = problem.jacobian(trial.params)
            square = or_slope(jnp.matmul(jacobian.T, jacobian, precision="highest"), trial)
            hessian = or_slope(problem.hessian(trial.params), trial)
            return Pair(rescaled(memory.scale, jnp.diagonal(square), forget=1), jnp.stack([square, hessian]), choice)

        return jax.lax.cond(moved, learnt, lambda: memory._replace(choice=choice))

    def model(self, problem: Problem, memory: Pair, point: Point) -> Dense:
        """Return the model around the point."""
        del problem
        return Dense(point.grad, memory.scale, memory.matrices[memory.choice])

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return the products that make a Hessian and a Jacobian."""
        return 2 * moved * step.move.size


def or_slope(hessian: jax.Array, point: Point) -> jax.Array:
    """Return the Hessian made symmetric; where it overflows, one that makes the model little but a slope."""
    hessian = (hessian + hessian.T) / 2
    return jnp.where(jnp.all(jnp.isfinite(hessian)), hessian, point.norm * jnp.eye(point.params.size))


class Diagonal(NamedTuple):
    """The scale alone."""

    scale: jax.Array  # shape (p,)
    moves: jax.Array  # learnt from


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["sum_of_squares"])
@dataclass(frozen=True)
class Products:
    """The Hessian by its products with vectors; for a `sum_of_squares` that of Gauss and Newton.

    The scale makes the rows of the scaled Hessian of equal length, as Ruiz's iteration does for a matrix (2001), from
    one product a move (Diamond and Boyd, Stochastic Matrix-Free Equilibration, J. Optim. Theory Appl. 172 (2017)).
    """

    sum_of_squares: bool = False

    calm, computed, whole, first = 2, True, False, 0

    def begin(self, problem: Problem, params: jax.Array) -> Diagonal:
        """Return a scale of 1."""
        del problem
        return Diagonal(jnp.ones_like(params), jnp.zeros((), params.dtype))

    def learn(self, problem: Problem, memory: Diagonal, before: Point, trial: Point, moved: jax.Array) -> Diagonal:
        """Bring the rows of the scaled Hessian nearer to one length, after a move, by its product with signs."""
        del before

        def learnt() -> Diagonal:
            scale = balanced(memory.scale, lambda vector: self._product(problem, trial.params, vector), memory.moves)
            return Diagonal(scale, memory.moves + 1)

        return jax.lax.cond(moved, learnt, lambda: memory)

    def model(self, problem: Problem, memory: Diagonal, point: Point) -> Implicit:
        """Return the model around the point."""
        return Implicit(point.grad, memory.scale, lambda vector: self._product(problem, point.params, vector))

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return the products that solved the model, and that of the scale."""
        return step.products + moved

    def _product(self, problem: Problem, params: jax.Array, vector: jax.Array) -> jax.Array:
        return problem.gauss_newton(params, vector) if self.sum_of_squares else problem.product(params, vector)
