"""A Hessian that a sample of the rows tells, corrected by the moves."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.flat import pack, products
from jaxgd.problem import Point, Problem
from jaxgd.solvers.region import Implicit, Step
from jaxgd.solvers.scale import equilibrated, or_one, or_slope, rescaled

STALE = 1.0  # how wrong a model may be of a gradient, over the gradient's length, before its Hessian is made anew
ANEW = -1  # in place of the moves: the next one makes the Hessian anew
REST, LONGEST = 3, 100  # moves that are given to the corrections before; four times as many each time, but no more


class Learnt(NamedTuple):
    """What is known of the Hessian."""

    scale: jax.Array  # shape (p,)
    hessian: jax.Array  # shape (p, p): B
    moves: jax.Array  # since it was made, an int32
    made: jax.Array  # how often it was, an int32


@jax.tree_util.register_static
@dataclass(frozen=True)
class Sampled:
    """The Hessian of the problem at hand, a sample of the rows, corrected by what the moves show over all rows.

    Byrd, Chin, Neveitt and Nocedal, SIAM J. Optim. 21 (2011), take the Hessian from a sample at every move; here it
    is kept, with the updates of BFGS (Nocedal and Wright, Numerical Optimization (2006), equation 6.19), until it
    foretells gradients badly.
    """

    calm, computed, whole, scaled = 2, True, False, False

    def begin(self, problem: Problem, params: jax.Array) -> Learnt:
        """Return zeros."""
        del problem
        none = jnp.zeros((), jnp.int32)
        return Learnt(jnp.zeros_like(params), jnp.zeros((params.size, params.size), params.dtype), none, none)

    def learn(self, problem: Problem, memory: Learnt, before: Point, trial: Point, moved: jax.Array) -> Learnt:
        """Take the change along the trial; or make the Hessian anew where the model was wrong of it."""
        change = pack(trial.params - before.params, trial.grad - before.grad)
        bent = jnp.matmul(memory.hessian, change[0], precision="highest")
        three = pack(*change, bent)
        (s_s, s_y, s_b), (_, y_y, _), _ = products(three, three)
        known = jnp.isfinite(before.loss)
        # In the scale of the params, so that their units do not matter.
        scale = or_one(memory.scale)
        wrong = known & (jnp.sum(((change[1] - bent) / scale) ** 2) > STALE**2 * jnp.sum((before.grad / scale) ** 2))
        # What was made twice and is wrong again is left to the moves for longer.
        rested = memory.moves >= jnp.minimum(REST * 4.0 ** (memory.made - 1), LONGEST)
        anew = (known & (memory.moves < 0)) | (moved & ((memory.made == 0) | (memory.moves < 0) | (wrong & rested)))
        eps = jnp.finfo(s_y.dtype).eps
        take = known & jnp.isfinite(y_y) & (s_y > eps * jnp.sqrt(s_s * y_y)) & (s_b > 0)
        added = change[1] / jnp.sqrt(jnp.where(take, s_y, 1))
        taken = bent / jnp.sqrt(jnp.where(take, s_b, 1))
        corrected = memory.hessian + jnp.where(take, added[:, None] * added - taken[:, None] * taken, 0)

        def make() -> Learnt:
            hessian = or_slope(problem.hessian(trial.params), trial.norm)
            none = jnp.zeros((), jnp.int32)
            return Learnt(rescaled(memory.scale, equilibrated(hessian)), hessian, none, memory.made + 1)

        moves = jnp.where(memory.moves >= 0, memory.moves + moved, memory.moves)
        return jax.lax.cond(anew, make, lambda: memory._replace(hessian=corrected, moves=moves))

    def forget(self, memory: Learnt, lost: jax.Array) -> tuple[Learnt, Any]:
        """Have the Hessian made anew, where no step was found; say whether there is a use: not if it is new."""
        stale = memory.moves > 0
        return memory._replace(moves=jnp.where(lost & stale, ANEW, memory.moves)), stale

    def model(self, problem: Problem, memory: Learnt, point: Point) -> Implicit:
        """Return the model around the point."""
        del problem

        def product(vector: jax.Array) -> jax.Array:
            return jnp.matmul(memory.hessian, vector, precision="highest")

        # Conjugate gradients, not LAPACK, whose threads wait for long where other programs run.
        return Implicit(point.grad, memory.scale, product)

    def cost(self, step: Step, moved: jax.Array) -> Any:
        """Return 0: no product is with the Hessian of all rows."""
        del step, moved
        return 0
