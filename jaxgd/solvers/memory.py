"""A Hessian learnt from the moves, for trust-region models."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.flat import combination, products
from jaxgd.problem import Point, Problem
from jaxgd.solvers.curvature import rescaled
from jaxgd.solvers.region import Implicit, Step
from jaxgd.stop import CALM


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
