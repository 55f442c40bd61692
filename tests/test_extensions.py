"""One of each thing that the design lets be added in one place, and the laws run on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_laws as laws
from problems import PROBLEMS
from solvers import Entry

import jaxgd
from jaxgd.core.numerics import combination, products
from jaxgd.core.problem import Point, Problem, choose
from jaxgd.core.protocol import TOL_LEARNT, Tolerance
from jaxgd.data.blocks import check_share
from jaxgd.solvers.descent import Descent
from jaxgd.solvers.hessian import Curvature
from jaxgd.solvers.line_search import Wolfe
from jaxgd.solvers.quasi_newton_directions import Move
from jaxgd.solvers.subproblem_exact import Dense
from jaxgd.solvers.trust_region import TrustRegion


class LastMove(NamedTuple):
    """What `Memoryless` knows. s, y: change of params and of gradient in the last move, s'y = 1."""

    pair: jax.Array  # shape (2, p)
    scale: jax.Array
    num_pairs: jax.Array


@jax.tree_util.register_static
@dataclass(frozen=True)
class Memoryless:
    """A direction: BFGS of the last move alone. Shanno, Math. of Operations Research 3 (1978)."""

    tolerance: Tolerance = TOL_LEARNT

    def begin(self, params: jax.Array) -> LastMove:
        zero = jnp.zeros((), params.dtype)
        return LastMove(jnp.zeros((2, params.size), params.dtype), zero, zero)

    def learn(self, memory: LastMove, move: Move, grad: jax.Array) -> tuple[LastMove, jax.Array]:
        scaled = jnp.where(move.take, move.change / jnp.sqrt(jnp.where(move.take, move.curvature, 1)), memory.pair)
        y_y = products(scaled[1:], scaled[1:])[0, 0]
        scale = jnp.where(move.take, 1 / y_y, memory.scale)
        pairs = memory.num_pairs + move.take
        pair = jnp.where(pairs > 0, scaled, 0)
        s_g, y_g = products(pair, grad[None])[:, 0]
        weights = jnp.stack([(jnp.where(pairs > 0, 2, 0) * s_g) - scale * y_g, -scale * s_g])
        return LastMove(pair, scale, pairs), -scale * grad - combination(weights, pair)

    def predicted_remaining(self, memory: LastMove, params: jax.Array, norm: jax.Array, slope: jax.Array) -> jax.Array:
        del params, norm
        return jnp.where(memory.num_pairs > 0, -slope / 2, jnp.inf)


class First(NamedTuple):
    """A Hessian, and the scale of the params."""

    scale: jax.Array
    hessian: jax.Array


@jax.tree_util.register_static
@dataclass(frozen=True)
class Chord(Curvature):
    """A curvature: the Hessian of the start, which the moves are not told of."""

    exact_curvature = False
    consecutive_moves = 5

    def begin(self, problem: Problem, params: jax.Array) -> First:
        del problem
        return First(jnp.ones_like(params), jnp.eye(params.size, dtype=params.dtype))

    def learn(self, problem: Problem, memory: First, before: Point, trial: Point, moved: jax.Array) -> First:
        del moved
        first = ~before.evaluated
        return choose(first, First(memory.scale, problem.hessian(trial.params)), memory)

    def model(self, problem: Problem, memory: First, point: Point) -> Dense:
        del problem
        return Dense(point.grad, memory.scale, memory.hessian)

    def cost(self, memory: Any, step: Any, moved: jax.Array) -> Any:
        del memory, step, moved
        return 0


@partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=[])
@dataclass(frozen=True)
class Length:
    """A term: the Euclidean length, times a weight, as in the group lasso."""

    weight: Any

    def value(self, params: jax.Array) -> Any:
        return self.weight * jnp.sqrt(jnp.sum(params**2))

    def prox(self, params: jax.Array, stepsize: Any = 1) -> jax.Array:
        length = jnp.sqrt(jnp.sum(params**2))
        return params * jnp.maximum(1 - stepsize * self.weight / jnp.where(length > 0, length, 1), 0)

    def project(self, params: jax.Array) -> jax.Array:
        return params


@dataclass(frozen=True)
class Parity:
    """A reader: whole numbers below a limit, in blocks, and whether they are odd."""

    rows: int
    first: int = 0
    step: int = 1
    name: str = "numbers"

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        size = rows or 100
        for start in range(size * self.first, self.rows, size * self.step):
            numbers = np.arange(start, min(start + size, self.rows))
            yield numbers / self.rows, numbers % 2.0

    def share(self, index: int, of: int) -> "Parity":
        check_share(index, of)
        return Parity(self.rows, self.first + self.step * index, self.step * of)


ADDED = [
    Entry("memoryless", lambda _: Descent(Memoryless(), Wolfe(curvature=0.1), "memoryless BFGS")),
    Entry("chord", lambda _: TrustRegion(Chord(), "chord")),
]
METHODS = pytest.mark.parametrize("solver", ADDED, ids=lambda entry: entry.name)
CONVEX = [problem for problem in PROBLEMS if problem.name in ("line", "quadratic", "logistic")]


@laws.DTYPES
@METHODS
@pytest.mark.parametrize("problem", CONVEX, ids=lambda problem: problem.name)
def test_a_direction_and_a_curvature_converge_and_say_what_is_true(solver, problem, dtype):
    laws.test_converges_to_the_minimum_and_says_what_is_true(solver, problem, dtype)


@laws.DTYPES
@METHODS
def test_a_direction_and_a_curvature_keep_the_laws(solver, dtype, monkeypatch):
    problem = next(problem for problem in CONVEX if problem.name == "line")
    laws.test_resume_is_bit_identical(solver, problem, dtype)
    if dtype == "float32":
        laws.test_jit_and_vmap(solver, problem, monkeypatch)
        laws.test_rows_repeated_or_permuted_change_nothing(solver, problem)


@laws.DTYPES
@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
def test_a_term_is_minimized_alone_in_lanes_and_again(weight, dtype):
    aim = np.array([3.0, -4.0, 1.0])

    def loss(p, aim):
        return jnp.sum((p - aim) ** 2) / 2

    right = aim * max(0, 1 - weight / np.linalg.norm(aim))
    result = jaxgd.minimize(loss, aim, np.ones(3), term=Length(weight), dtype=dtype).check()
    assert np.allclose(result.params, right, atol=laws.precision(dtype))
    again = jaxgd.minimize(loss, aim, result.params, term=Length(weight), dtype=dtype).check()
    assert again.loss >= result.loss * (1 - 1e-6)
    assert again.evals <= 12  # beside the start too, on both sides, and far ahead of these ends
    lanes = jaxgd.minimize_many(loss, np.stack([aim, -aim]), np.ones(3), term=Length(weight), dtype=dtype).check()
    assert np.allclose(lanes.params, [right, -right], atol=laws.precision(dtype))


def test_a_reader_gives_what_the_same_rows_in_memory_do():
    def loss(p, data):
        x, y = data
        return jnp.mean((y - p[0] - p[1] * x) ** 2)

    source = Parity(1000)
    whole = jaxgd.minimize(loss, next(source.batches(1000)), np.zeros(2), dtype="float64")
    read = jaxgd.minimize(loss, jaxgd.Rows.open(source), np.zeros(2), dtype="float64").check()
    assert np.allclose(read.params, whole.params, rtol=1e-8)
    parts = [np.concatenate([x for x, _ in source.share(i, 2).batches(100)]) for i in range(2)]
    assert sorted(np.concatenate(parts)) == sorted(next(source.batches(1000))[0])
