"""A Hessian that a sample of the rows tells, corrected by the moves."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import pack, products
from jaxgd.core.problem import Point, Problem
from jaxgd.core.scaling import equilibrated, or_one, or_slope, rescaled
from jaxgd.solvers.hessian import Curvature
from jaxgd.solvers.subproblem_cg import Implicit

STALE = 1.0  # how wrong a model may be of a gradient, over the gradient's length, before its Hessian is made anew
LEAST = 1e-8  # cosine of the step and what the model missed, below which nothing is learnt: r of equation 6.26
REST, LONGEST = 3, 100  # moves that are given to the corrections before; four times as many each time, but no more


class Learnt(NamedTuple):
    """What is known of the Hessian."""

    # With each evaluation:
    hessian: jax.Array  # shape (p, p): B
    moves: jax.Array  # since it was made
    anew: jax.Array  # it is to be made anew with the next evaluation
    # With each Hessian:
    scale: jax.Array
    computed: jax.Array  # how often one was made


@jax.tree_util.register_static
@dataclass(frozen=True)
class Sampled(Curvature):
    """The Hessian of the problem at hand, a sample of the rows, corrected by what the moves show over all rows.

    Byrd, Chin, Neveitt and Nocedal, SIAM J. Optim. 21 (2011), take the Hessian from a sample at every move; here it
    is kept, with symmetric updates of rank one (Nocedal and Wright, Numerical Optimization (2006), equation 6.24),
    until it foretells gradients badly. Those of BFGS lose what the sample told where few rows were missing in it.
    """

    of_sample = True

    def begin(self, problem: Problem, params: jax.Array) -> Learnt:
        del problem
        none, hessian = jnp.zeros((), jnp.int32), jnp.zeros((params.size, params.size), params.dtype)
        return Learnt(hessian, moves=none, anew=jnp.zeros((), bool), scale=jnp.zeros_like(params), computed=none)

    def learn(self, problem: Problem, memory: Learnt, before: Point, trial: Point, moved: jax.Array) -> Learnt:
        """Take the change along the trial; or make the Hessian anew where the model was wrong of it."""
        step = trial.params - before.params
        off = trial.grad - before.grad - jnp.matmul(memory.hessian, step, precision="highest")
        known = before.evaluated
        # In the scale of the params, so that their units do not matter.
        scale = or_one(memory.scale)
        scaled = pack(scale * step, off / scale, before.grad / scale)
        (s_s, s_r, _), (_, r_r, _), (*_, g_g) = products(scaled, scaled)
        wrong = known & (r_r > STALE**2 * g_g)
        # What was made twice and is wrong again is left to the moves for longer.
        rested = memory.moves >= jnp.minimum(REST * 4.0 ** (memory.computed - 1), LONGEST)
        anew = ((known | moved) & memory.anew) | (moved & ((memory.computed == 0) | (wrong & rested)))
        least = jnp.maximum(LEAST * jnp.sqrt(s_s) * jnp.sqrt(r_r), jnp.finfo(s_r.dtype).tiny)
        take = known & jnp.isfinite(r_r) & (jnp.abs(s_r) > least)
        corrected = memory.hessian + jnp.where(take, off[:, None] * off / jnp.where(take, s_r, 1), 0)

        def make() -> Learnt:
            hessian = or_slope(problem.hessian(trial.params), trial.norm)
            scale, none = rescaled(memory.scale, equilibrated(hessian)), jnp.zeros((), jnp.int32)
            return Learnt(hessian, moves=none, anew=jnp.zeros((), bool), scale=scale, computed=memory.computed + 1)

        return jax.lax.cond(anew, make, lambda: memory._replace(hessian=corrected, moves=memory.moves + moved))

    def forget(self, memory: Learnt, lost: jax.Array) -> tuple[Learnt, Any]:
        """Have the Hessian made anew, where no step was found; say whether there is a use: not if it is new."""
        stale = (memory.moves > 0) & ~memory.anew
        return memory._replace(anew=memory.anew | (lost & stale)), stale

    def moved_on(self, memory: Learnt) -> Learnt:
        """Have the Hessian made anew there."""
        return memory._replace(anew=jnp.ones((), bool))

    def model(self, problem: Problem, memory: Learnt, point: Point) -> Implicit:
        del problem

        def product(vector: jax.Array) -> jax.Array:
            return jnp.matmul(memory.hessian, vector, precision="highest")

        # Conjugate gradients, not LAPACK, whose threads wait for long where other programs run.
        return Implicit.around(point, memory.scale, product)
