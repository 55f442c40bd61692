"""Where the curvature of a trust-region model comes from: the Hessian, its products, or the moves made."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import pack, products, triangle
from jaxgd.core.problem import Point, Problem, rounding
from jaxgd.core.scaling import (
    asymmetry,
    balanced,
    equilibrated,
    or_one,
    or_slope,
    rescaled,
    scale_at,
    scale_of_slopes,
    scaling_of,
    without_influence,
)
from jaxgd.solvers.subproblem import Model, Step
from jaxgd.solvers.subproblem_cg import Implicit
from jaxgd.solvers.subproblem_exact import Dense

FORESEEN = 0.1  # the part of a slope that is left where a model led to its minimum
WELL = 0.01  # the part of a change of slopes that J'J may be off, to be taken for the Hessian
CLEARLY = 0.9  # the part of the error of J'J, in what it foretells, that a Hessian must be below to be taken for it


class Curvature(Protocol):
    """What a model knows of the curvature, kept from step to step in a memory, a NamedTuple.

    It has a `scale` of the params, in which their curvatures are alike, 0 while none is known; and with a full Hessian
    `own`, the roots of the curvatures along each param, and `most`, the largest they were.
    """

    consecutive_moves: int = 2  # that must meet the test of `tol`: a model knows every direction, not how far it holds
    exact_curvature: bool = True  # it is computed, not learnt from the moves
    full_hessian: bool = False  # and known in every direction
    sum_of_squares: bool = False  # it is that of a sum of squares
    of_sample: bool = False  # it is that of a sample of the rows
    scaled: bool = False  # `begin` computes a Hessian, for the scale of few params

    def begin(self, problem: Problem, params: jax.Array) -> Any:
        """Return the memory before any evaluation."""
        ...

    def learn(self, problem: Problem, memory: Any, before: Point, trial: Point, moved: jax.Array) -> Any:
        """Return the memory after a trial that was moved to, or not."""
        ...

    def model(self, problem: Problem, memory: Any, point: Point) -> Model:
        """Return the model around the point."""
        ...

    def cost(self, memory: Any, step: Step, moved: jax.Array) -> Any:
        """Return how many products with the loss's Hessian a step took: by default none."""
        del memory, step, moved
        return 0

    def predicted_remaining(self, memory: Any, step: Step) -> jax.Array:
        """Return the decrease to the model's minimum; inf while the model is a guess."""
        del memory
        return step.predicted_remaining

    def doubt(self, memory: Any, point: Point, trial: Point) -> Any:
        """Return what rounding does to the loss, and to the decrease that the slopes tell, where more is known."""
        del memory, point, trial
        return 0, 0

    def forget(self, memory: Any, lost: jax.Array) -> tuple[Any, Any]:
        """Return the memory without what may be wrong, where no step was found, and whether that is another one."""
        del lost
        return memory, False

    def moved_on(self, memory: Any) -> Any:
        """Return the memory for another place, far from where it learnt."""
        return memory

    def unscaled(self) -> "Curvature":
        """Return the same without a Hessian at the start."""
        return self


class Matrix(NamedTuple):
    """A Hessian; a new one with each move."""

    scale: jax.Array
    hessian: jax.Array  # shape (p, p), scaled
    own: jax.Array
    most: jax.Array
    noise: jax.Array  # what rounding was seen to do to each row of late, shape (p,)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Exact(Curvature):
    """The Hessian as a matrix, computed after every move."""

    full_hessian = True

    def begin(self, problem: Problem, params: jax.Array) -> Matrix:
        del problem
        zeros, hessian = jnp.zeros_like(params), jnp.zeros((params.size, params.size), params.dtype)
        return Matrix(scale=zeros, hessian=hessian, own=zeros, most=zeros, noise=zeros)

    def learn(self, problem: Problem, memory: Matrix, before: Point, trial: Point, moved: jax.Array) -> Matrix:
        slope, move = before.grad / or_one(memory.scale), memory.scale * (trial.params - before.params)
        foreseen = slope + jnp.matmul(memory.hessian, move, precision="highest")

        def learnt() -> Matrix:
            computed = problem.hessian(trial.params)
            noise = jnp.maximum(jnp.nan_to_num(asymmetry(computed), posinf=0), memory.noise / 2)
            hessian = or_slope(computed, trial.norm, noise)
            known = equilibrated(hessian)
            scale = rescaled(memory.scale, known)
            # What never was seen is taken to be as stiff as the stiffest.
            ever = (known > 0) | (memory.most > 0)
            scale = jnp.where(ever, scale, or_one(jnp.max(jnp.where(ever, scale, 0))))
            own = jnp.sqrt(jnp.abs(jnp.diagonal(hessian)))
            most = _Foretold(slope, foreseen, move).largest(memory, own, before, trial)
            return Matrix(scale=scale, hessian=balanced(hessian, scale), own=own, most=most, noise=noise)

        return jax.lax.cond(moved, learnt, lambda: memory)

    def model(self, problem: Problem, memory: Matrix, point: Point) -> Dense:
        del problem
        return Dense.around(point, memory.scale, memory.hessian)

    def cost(self, memory: Matrix, step: Step, moved: jax.Array) -> Any:
        del memory
        return moved * step.move.size


class _Foretold(NamedTuple):
    """What the last model said of a trial, scaled."""

    slope: jax.Array  # where it was made
    after: jax.Array  # at the trial
    move: jax.Array  # to there

    def largest(self, memory: Any, own: jax.Array, before: Point, trial: Point) -> jax.Array:
        """Return the largest curvatures seen, anew where it led to a slope of 0: nothing is lost at a minimum.

        A decrease that it did not foretell as well is no minimum: it may lead where nothing depends on a param. Nor is
        a place where the curvature falls on, from much less than it was. What is lost there stays lost.
        """
        predicted = -jnp.sum((self.slope + self.after) * self.move) / 2
        true = jnp.abs(before.loss - trial.loss - predicted) <= FORESEEN * predicted + rounding(before.loss)
        ended = jnp.abs(self.after) <= FORESEEN * jnp.abs(self.slope)
        known = (jnp.abs(own - memory.own) <= FORESEEN * own) | (memory.own >= FORESEEN * memory.most)
        gone = without_influence(memory.own, memory.most, before.vectors, before.loss, None)
        return jnp.where(true & ended & known & ~gone, own, jnp.maximum(memory.most, own))


class Pair(NamedTuple):
    """Both Hessians of a sum of squares; new ones with each move."""

    scale: jax.Array
    matrices: jax.Array  # shape (2, p, p): J'J and the Hessian, NaN where it was not computed, scaled
    triangle: jax.Array  # shape (p, p + 1): R of the QR factorization of J, scaled, and Q'r; (0, p + 1) for many params
    own: jax.Array
    most: jax.Array
    # With each evaluation:
    choice: jax.Array  # which of the matrices foretells better, an int32


@jax.tree_util.register_static
@dataclass(frozen=True)
class SumOfSquares(Curvature):
    """The Hessian of a sum of squares, or that of Gauss and Newton, J'J, whichever foretold the last slopes better.

    Dennis, Gay and Welsch, ACM TOMS 7 (1981), section 3, choose so; here the Hessian is computed, not learnt, and only
    where J'J has foretold the slopes badly: it costs several times as much.
    """

    full_hessian = sum_of_squares = True

    def begin(self, problem: Problem, params: jax.Array) -> Pair:
        del problem
        zeros = jnp.zeros_like(params)
        return Pair(
            scale=zeros,
            matrices=jnp.zeros((2, params.size, params.size), params.dtype),
            triangle=jnp.zeros((scaling_of(params.size), params.size + 1), params.dtype),
            own=zeros,
            most=zeros,
            choice=jnp.zeros((), jnp.int32),
        )

    def learn(self, problem: Problem, memory: Pair, before: Point, trial: Point, moved: jax.Array) -> Pair:
        """Choose by the trial, and compute both matrices where it was moved to."""
        move, unit = memory.scale * (trial.params - before.params), or_one(memory.scale)
        slope, after = before.grad / unit, trial.grad / unit
        off = slope - after + jnp.matmul(memory.matrices, move, precision="highest")
        errors = jnp.sum(off**2, axis=1)
        informative = jnp.any(move != 0) & jnp.isfinite(errors[0])
        clearly = errors[1] < CLEARLY * errors[0]
        choice = jnp.where(informative, clearly.astype(jnp.int32), memory.choice)
        badly = informative & (errors[0] > WELL**2 * jnp.sum((after - slope) ** 2))

        def learnt() -> Pair:
            # Scaled before it is squared, so that squares stay within the range.
            jacobian, residuals = problem.linearized(trial.params)
            largest = jnp.max(jnp.abs(jacobian), axis=0)
            own = largest * jnp.sqrt(jnp.sum((jacobian / or_one(largest)) ** 2, axis=0))
            own = jnp.where(jnp.isfinite(own), own, jnp.sqrt(trial.norm))
            hessian = jax.lax.cond(
                badly | (choice > 0),
                lambda: or_slope(problem.hessian(trial.params), trial.norm),
                lambda: jnp.full_like(memory.matrices[1], jnp.nan),
            )
            # Both are solved in one scale: in that of J alone, a column next to nothing leaves the Hessian unbalanced.
            scale = rescaled(memory.scale, jnp.maximum(own, equilibrated(hessian)), forget=1)
            jacobian = jacobian / scale
            rows = triangle(jnp.column_stack([jacobian, residuals])) if len(memory.triangle) else memory.triangle
            half = rows[:, :-1] if len(rows) else jacobian
            most = _Foretold(slope, off[memory.choice] + after, move).largest(memory, own, before, trial)
            # A param that has lost its influence is left alone: what curvature it has leads to infinity.
            gone = without_influence(own, most, trial.vectors, trial.loss, problem.term)
            apart = (gone[:, None] | gone) & jnp.isfinite(hessian)
            hessian = jnp.where(apart, jnp.eye(len(gone), dtype=own.dtype), balanced(hessian, scale))
            matrices = jnp.stack([or_slope(products(half.T, half.T), 1), hessian])
            return Pair(scale=scale, matrices=matrices, triangle=rows, own=own, most=most, choice=choice)

        return jax.lax.cond(moved, learnt, lambda: memory._replace(choice=choice))

    def doubt(self, memory: Pair, point: Point, trial: Point) -> jax.Array:
        """Return what rounding of the residuals does to the loss, and to the decrease that the slopes tell, shape (2,).

        The terms of a residual are as large as its slopes times the params, however small it is itself.
        """
        length = jnp.sqrt(2 * jnp.maximum(point.loss, 0))
        sizes = jnp.abs(pack(point.params, trial.params - point.params))
        return jnp.finfo(length.dtype).eps * length * jnp.sum(memory.own * sizes, axis=1)

    def model(self, problem: Problem, memory: Pair, point: Point) -> Dense:
        del problem
        chosen = jnp.where(memory.choice == 0, memory.triangle, jnp.nan)
        return Dense.around(point, memory.scale, memory.matrices[memory.choice], chosen)

    def cost(self, memory: Pair, step: Step, moved: jax.Array) -> Any:
        both = jnp.isfinite(memory.matrices[1, 0, 0])
        return moved * step.move.size * jnp.where(both, 2, 1)  # a Jacobian, and a Hessian


class Diagonal(NamedTuple):
    """The scale alone."""

    scale: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["sum_of_squares"])
@dataclass(frozen=True)
class Products(Curvature):
    """The Hessian by its products with vectors; for a `sum_of_squares` that of Gauss and Newton."""

    sum_of_squares: bool = False

    scaled = True

    def begin(self, problem: Problem, params: jax.Array) -> Diagonal:
        return Diagonal(scale_at(problem, params))

    def learn(self, problem: Problem, memory: Diagonal, before: Point, trial: Point, moved: jax.Array) -> Diagonal:
        """Return the scale in which the curvature along the move is 1, so that squares stay within the range."""
        del problem
        change = pack(memory.scale * (trial.params - before.params), (trial.grad - before.grad) / memory.scale)
        length, curvature = products(change, change[:1])[:, 0]
        first = ~before.evaluated
        known = moved & jnp.isfinite(curvature / length) & (curvature > 0) & ~first
        scale = memory.scale * jnp.sqrt(jnp.where(known, curvature / length, 1))
        return Diagonal(scale if scaling_of(trial.params.size) else jnp.where(first, scale_of_slopes(trial), scale))

    def model(self, problem: Problem, memory: Diagonal, point: Point) -> Implicit:
        return Implicit.around(point, memory.scale, lambda vector: self._product(problem, point.params, vector))

    def cost(self, memory: Diagonal, step: Step, moved: jax.Array) -> Any:
        del memory, moved
        return step.products

    def _product(self, problem: Problem, params: jax.Array, vector: jax.Array) -> jax.Array:
        return problem.gauss_newton(params, vector) if self.sum_of_squares else problem.hvp(params, vector)
