"""A Hessian learnt from the moves, for trust-region models."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import combination, inverse, products, small_product
from jaxgd.core.problem import Point, Problem
from jaxgd.core.protocol import Traits
from jaxgd.core.scaling import rescaled, scale_at, scale_of_slopes, scaling_of
from jaxgd.solvers.hessian import Curvature
from jaxgd.solvers.subproblem import Step
from jaxgd.solvers.subproblem_cg import Implicit


class Pairs(NamedTuple):
    """Moves remembered, the newest last. s, y: change of params and of gradient, s'y = 1; zeros where there is none."""

    # With each evaluation:
    scale: jax.Array
    s: jax.Array  # shape (m, p)
    y: jax.Array  # shape (m, p)
    base: jax.Array  # theta, the curvature assumed where nothing is known; 0 before the start is evaluated
    # Once, with the start:
    units: jax.Array  # s and y are of units * params


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["size", "scaled"])
@dataclass(frozen=True)
class LimitedMemoryHessian(Curvature):
    """The Hessian that limited-memory BFGS learns from the moves.

    Byrd, Nocedal and Schnabel, Math. Programming 63 (1994), theorem 2.3: B = theta I - W M W', W = [Y, theta S],
    M^-1 = [[-D, L'], [L, theta S'S]]. Pairs are scaled so that D = I, and the params as in `Descent`.
    """

    size: int = 10
    scaled: bool = True

    consecutive_moves = Traits().consecutive_moves
    exact_curvature = False

    def begin(self, problem: Problem, params: jax.Array) -> Pairs:
        none = jnp.zeros((self.size, params.size), params.dtype)
        units = scale_at(problem, params) if self.scaled else jnp.ones_like(params)
        return Pairs(scale=jnp.zeros_like(params), s=none, y=none, base=jnp.zeros((), params.dtype), units=units)

    def learn(self, problem: Problem, memory: Pairs, before: Point, trial: Point, moved: jax.Array) -> Pairs:
        """Take the change along the trial, moved to or not, where its curvature is positive."""
        del problem
        first = moved & ~before.evaluated
        if not (self.scaled and scaling_of(trial.params.size)):
            memory = memory._replace(units=jnp.where(first, scale_of_slopes(trial), memory.units))
        s, y = memory.units * (trial.params - before.params), (trial.grad - before.grad) / memory.units
        s_s, s_y, y_y = products(jnp.stack([s, s, y]), jnp.stack([s, y, y])).diagonal()
        eps = jnp.finfo(s.dtype).eps
        take = before.evaluated & jnp.isfinite(y_y) & (s_y > eps * jnp.sqrt(s_s * y_y))
        norm = jax.lax.rsqrt(jnp.where(take, s_y, 1))

        def append(rows: jax.Array, row: jax.Array) -> jax.Array:
            return jnp.where(take, jnp.concatenate([rows[1:], norm * row[None]]), rows)

        # The first curvature is 1, as scaled.
        base = jnp.where(take, y_y / jnp.where(take, s_y, 1), jnp.where(first, 1, memory.base))
        # Where the curvature is negative, what was learnt elsewhere does not hold; its size still tells how far to go.
        anew = moved & ~first & jnp.isfinite(y_y) & (s_y < 0)
        size = jnp.clip(-s_y / jnp.where(anew, s_s, 1), 0.1 * memory.base, memory.base)
        pairs = jnp.where(anew, 0, jnp.stack([append(memory.s, s), append(memory.y, y)]))
        after = memory._replace(s=pairs[0], y=pairs[1], base=jnp.where(anew, size, base))
        wings, middle = _compact(after)
        # Row by row, as a product of matrices is a library call: see `products`.
        weighed = jax.lax.fori_loop(
            0, len(wings), lambda i, sums: sums + wings[i] * combination(middle[i], wings), jnp.zeros_like(base + s)
        )
        curvatures = base - weighed
        own = memory.units * jnp.sqrt(jnp.abs(curvatures))
        return after._replace(scale=rescaled(memory.scale, own, behind=jnp.inf))

    def forget(self, memory: Pairs, lost: jax.Array) -> tuple[Pairs, Any]:
        """Drop the moves remembered where no step was found; say whether there were any."""
        remaining = jnp.where(lost, 0, jnp.stack([memory.s, memory.y]))
        base = jnp.where(lost, 1, memory.base)
        return memory._replace(s=remaining[0], y=remaining[1], base=base), jnp.any(memory.s != 0)

    def model(self, problem: Problem, memory: Pairs, point: Point) -> Implicit:
        del problem
        wings, middle = _compact(memory)

        def product(vector: jax.Array) -> jax.Array:
            scaled = memory.units * vector
            weights = jnp.matmul(middle, products(wings, scaled[None])[:, 0], precision="highest")
            return memory.units * (memory.base * scaled - combination(weights, wings))

        return Implicit.around(point, memory.scale, product)

    def predicted_remaining(self, memory: Pairs, step: Step) -> jax.Array:
        """Return the decrease to the model's minimum; inf while the model is a guess."""
        return jnp.where(jnp.any(memory.s[-1] != 0), step.predicted_remaining, jnp.inf)

    def unscaled(self) -> "LimitedMemoryHessian":
        return replace(self, scaled=False)


def _compact(memory: Pairs) -> tuple[jax.Array, jax.Array]:
    """Return W', shape `(2m, p)`, and M, shape `(2m, 2m)`."""
    size = len(memory.s)
    wings = jnp.concatenate([memory.y, memory.base * memory.s])
    y_s, s_s = jnp.split(products(wings, memory.s), 2)
    lower = jnp.tril(y_s.T, -1)
    # Rows that are empty stand for themselves.
    empty = jnp.diag(jnp.where(jnp.diagonal(s_s) > 0, 0.0, 1.0).astype(s_s.dtype))
    # M by its Schur complement, which is positive definite.
    own = inverse(s_s + empty + small_product(lower, lower.T))
    cross = small_product(own, lower)
    return wings, jnp.block([[small_product(lower.T, cross) - jnp.eye(size, dtype=own.dtype), cross.T], [cross, own]])
