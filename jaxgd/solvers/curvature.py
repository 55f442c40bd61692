"""Where the curvature of a trust-region model comes from: the Hessian, its products, or the moves made."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgd.flat import combination, products
from jaxgd.problem import Point, Problem
from jaxgd.solvers.region import Dense, Implicit, Model, Step
from jaxgd.stop import CALM

MOST_CHANGE = 3  # of the scale of a parameter, in a move, where it is learnt from products
BALANCES = 12  # rounds of equilibration; each halves the logarithm of what is out of balance
FORGET = 0.1  # how fast the scale follows a curvature that falls, a move


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

    def begin(self, params: jax.Array) -> Any:
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


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["least_squares"])
@dataclass(frozen=True)
class Exact:
    """The Hessian as a matrix, computed after every move; with `least_squares` that of Gauss and Newton, J'J."""

    least_squares: bool = False

    calm, computed, whole = 2, True, True  # the model knows every direction, but not how far it holds

    def begin(self, params: jax.Array) -> Matrix:
        """Return zeros."""
        return Matrix(jnp.zeros_like(params), jnp.zeros((params.size, params.size), params.dtype))

    def learn(self, problem: Problem, memory: Matrix, before: Point, trial: Point, moved: jax.Array) -> Matrix:
        """Compute the matrix where the trial was moved to."""
        del before
        return jax.lax.cond(moved, lambda: self._at(problem, trial, memory.scale), lambda: memory)

    def model(self, problem: Problem, memory: Matrix, point: Point) -> Dense:
        """Return the model around the point."""
        del problem
        return Dense(point.grad, memory.scale, memory.hessian)

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return the products that make a Hessian."""
        return moved * step.move.size

    def _at(self, problem: Problem, point: Point, scale: jax.Array) -> Matrix:
        if self.least_squares:
            jacobian = problem.jacobian(point.params)
            hessian = jnp.matmul(jacobian.T, jacobian, precision="highest")
            curvatures = jnp.diagonal(hessian)
        else:
            hessian = problem.hessian(point.params)
            hessian = (hessian + hessian.T) / 2
            curvatures = _equilibrated(hessian)
        # Where the curvature overflows the model is a slope alone.
        known = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(curvatures))
        hessian = jnp.where(known, hessian, point.norm * jnp.eye(scale.size))
        return Matrix(rescaled(scale, jnp.where(known, curvatures, point.norm)), hessian)


def _equilibrated(matrix: jax.Array) -> jax.Array:
    """Return the squares of the diagonal D for which the rows of D^-1 |matrix| D^-1 are as long as each other.

    Ruiz, A scaling algorithm to equilibrate both rows and columns norms in matrices (2001). The diagonal of the matrix
    itself would vanish where the matrix is indefinite.
    """

    def balance(_: int, root: jax.Array) -> jax.Array:
        rows = jnp.sqrt(jnp.sum((matrix / root[:, None] / root) ** 2, axis=1))
        return root * jnp.where(rows > 0, jnp.sqrt(rows), 1)

    root = jax.lax.fori_loop(0, BALANCES, balance, jnp.ones_like(matrix[0]))
    return jnp.where(jnp.any(matrix != 0, axis=1), root**2, 0)


class Diagonal(NamedTuple):
    """The scale alone."""

    scale: jax.Array  # shape (p,)
    moves: jax.Array  # learnt from


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["least_squares"])
@dataclass(frozen=True)
class Products:
    """The Hessian by its products with vectors; with `least_squares` that of Gauss and Newton.

    The scale makes the rows of the scaled Hessian of equal length, as Ruiz's iteration does for a matrix (2001), from
    one product a move (Diamond and Boyd, Stochastic Matrix-Free Equilibration, J. Optim. Theory Appl. 172 (2017)).
    """

    least_squares: bool = False

    calm, computed, whole = 2, True, False

    def begin(self, params: jax.Array) -> Diagonal:
        """Return a scale of 1."""
        return Diagonal(jnp.ones_like(params), jnp.zeros((), params.dtype))

    def learn(self, problem: Problem, memory: Diagonal, before: Point, trial: Point, moved: jax.Array) -> Diagonal:
        """Bring the rows of the scaled Hessian nearer to one length, after a move, by its product with signs."""
        del before

        def learnt() -> Diagonal:
            rows = jnp.abs(self._product(problem, trial.params, _signs(memory) / memory.scale) / memory.scale)
            mean = jnp.sqrt(jnp.mean(rows**2))
            known = jnp.isfinite(mean) & (mean > 0)
            change = jnp.clip(jnp.sqrt(rows / jnp.where(known, mean, 1)), 1 / MOST_CHANGE, MOST_CHANGE)
            return Diagonal(memory.scale * jnp.where(known, change, 1), memory.moves + 1)

        return jax.lax.cond(moved, learnt, lambda: memory)

    def model(self, problem: Problem, memory: Diagonal, point: Point) -> Implicit:
        """Return the model around the point."""
        return Implicit(point.grad, memory.scale, lambda vector: self._product(problem, point.params, vector))

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return the products that solved the model, and that of the scale."""
        return step.products + moved

    def _product(self, problem: Problem, params: jax.Array, vector: jax.Array) -> jax.Array:
        return problem.gauss_newton(params, vector) if self.least_squares else problem.product(params, vector)


def _signs(memory: Diagonal) -> jax.Array:
    """Return a sign for each parameter, without a pattern, other ones each move."""
    index = jnp.arange(1, memory.scale.size + 1, dtype=memory.scale.dtype)
    return jnp.sign(jnp.cos(1.61803399 * index * (memory.moves + 1) + 0.7 * index**2))


class Pairs(NamedTuple):
    """Moves remembered, the newest last. s, y: change of params and of gradient, s'y = 1; zeros where there is none."""

    scale: jax.Array  # shape (p,)
    s: jax.Array  # shape (m, p)
    y: jax.Array  # shape (m, p)
    base: jax.Array  # theta, the curvature assumed where nothing is known; 0: not known yet


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["size"])
@dataclass(frozen=True)
class LimitedMemory:
    """The Hessian that limited-memory BFGS learns from the moves.

    Byrd, Nocedal and Schnabel, Math. Programming 63 (1994), theorem 2.3: B = theta I - W M W', W = [Y, theta S],
    M^-1 = [[-D, L'], [L, theta S'S]]. Pairs are scaled so that D = I.
    """

    size: int = 10

    calm, computed, whole = CALM, False, False

    def begin(self, params: jax.Array) -> Pairs:
        """Return an empty memory."""
        zeros = jnp.zeros((self.size, params.size), params.dtype)
        return Pairs(jnp.zeros_like(params), zeros, zeros, jnp.zeros((), params.dtype))

    def learn(self, problem: Problem, memory: Pairs, before: Point, trial: Point, moved: jax.Array) -> Pairs:
        """Take the change along the trial, moved to or not, where its curvature is positive."""
        del problem
        change = trial.vectors - before.vectors
        s, y = change[0], change[1]
        s_s, s_y, y_y = products(jnp.stack([s, s, y]), jnp.stack([s, y, y])).diagonal()
        eps = jnp.finfo(s.dtype).eps
        take = jnp.isfinite(before.loss) & jnp.isfinite(y_y) & (s_y > eps * jnp.sqrt(s_s * y_y))
        norm = jax.lax.rsqrt(jnp.where(take, s_y, 1))

        def append(rows: jax.Array, row: jax.Array) -> jax.Array:
            return jnp.where(take, jnp.concatenate([rows[1:], norm * row[None]]), rows)

        # The first step is of length 1: nothing is known yet that could say more.
        first = moved & ~jnp.isfinite(before.loss)
        base = jnp.where(take, y_y / jnp.where(take, s_y, 1), jnp.where(first, trial.norm, memory.base))
        after = Pairs(memory.scale, append(memory.s, s), append(memory.y, y), base)
        wings, middle = _compact(after)
        curvatures = base - jnp.sum(wings * jnp.matmul(middle, wings, precision="highest"), axis=0)
        return after._replace(scale=rescaled(memory.scale, jnp.abs(curvatures)))

    def model(self, problem: Problem, memory: Pairs, point: Point) -> Implicit:
        """Return the model around the point."""
        del problem
        wings, middle = _compact(memory)

        def product(vector: jax.Array) -> jax.Array:
            weights = jnp.matmul(middle, products(wings, vector[None])[:, 0], precision="highest")
            return memory.base * vector - combination(weights, wings)

        return Implicit(point.grad, memory.scale, product)

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return 0: the products are with what was learnt."""
        del step, moved
        return 0


def _compact(memory: Pairs) -> tuple[jax.Array, jax.Array]:
    """Return W', shape `(2m, p)`, and M, shape `(2m, 2m)`."""
    size = len(memory.s)
    wings = jnp.concatenate([memory.y, memory.base * memory.s])
    y_s, s_s = jnp.split(products(wings, memory.s), 2)
    lower = jnp.tril(y_s.T, -1)
    # Rows that are empty stand for themselves.
    empty = jnp.diag(jnp.where(jnp.diagonal(s_s) > 0, 0.0, 1.0).astype(s_s.dtype))
    middle = jnp.block([[-jnp.eye(size, dtype=s_s.dtype), lower.T], [lower, s_s + empty]])
    return wings, jnp.linalg.inv(middle)


def rescaled(scale: jax.Array, curvatures: jax.Array) -> jax.Array:
    """Return the scale of the parameters: roots of their curvatures, which may rise at once but fall slowly."""
    square = jnp.maximum(curvatures, FORGET * scale**2)
    square = jnp.maximum(square, jnp.finfo(scale.dtype).eps ** 2 * jnp.max(square))
    old = jnp.where(scale > 0, scale, 1)
    return jnp.where(jnp.max(curvatures) > 0, jnp.sqrt(square), old)
