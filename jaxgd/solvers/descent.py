"""Descent methods: a direction, and a search along it."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.flat import combination, once, pack, products
from jaxgd.problem import Point, Problem, choose
from jaxgd.solvers.search import Search, Wolfe


class Memory(NamedTuple):
    """What `LimitedMemory` knows of the curvature. s, y: change of params and of gradient in a move, s'y = 1."""

    pairs: jax.Array  # shape (2m, p): s and y of each pair, one under the other
    small: jax.Array  # shape (2, m, m): inverse of R, the upper triangle of SY' in order of age; and YY'
    scale: jax.Array  # gamma, the curvature radius assumed where nothing is known
    taken: jax.Array  # pairs since the last reset


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["size"])
@dataclass(frozen=True)
class LimitedMemory:
    """The limited-memory BFGS direction in its compact form.

    Byrd, Nocedal and Schnabel, Math. Programming 63 (1994), theorem 2.2: with q = R^-1 S g,
    H g = gamma g + S' R^-T (D q + gamma (YY' q - Y g)) - gamma Y' q. Here pairs are scaled so that D = I, and R^-1 is
    kept instead of R: a new pair appends the column -R^-1 S y, and the oldest leaves as the first row and
    column, in whatever slots they lie.
    """

    size: int = 10

    def begin(self, params: jax.Array) -> Memory:
        """Return an empty memory."""
        zero = jnp.zeros((), params.dtype)
        pairs = jnp.zeros((2 * self.size, params.size), params.dtype)
        # A NumPy constant needs no operation to be filled.
        return Memory(pairs, jnp.asarray(np.zeros((2, self.size, self.size), params.dtype)), zero, zero)

    def learn(
        self, memory: Memory, change: jax.Array, sy: jax.Array, grad: jax.Array, take: jax.Array
    ) -> tuple[Memory, jax.Array]:
        """Take the pair where `take` says so; return the memory and -H grad."""
        slot = memory.taken.astype(jnp.int32) % self.size
        norm = jnp.where(take, jax.lax.rsqrt(jnp.where(take, sy, 1)), 0)
        pair = jnp.where(take, norm * change, jax.lax.dynamic_slice_in_dim(memory.pairs, 2 * slot, 2))
        pairs = jax.lax.dynamic_update_slice_in_dim(memory.pairs, pair, 2 * slot, 0)
        s_y, s_g, y_y, y_g = products(pairs, pack(pair[1], grad)).reshape(self.size, 4).T

        new = jnp.arange(self.size) == slot
        trailing = jnp.where(new[:, None] | new[None, :], 0, memory.small[0])
        column = jnp.where(new, 1, -_times(trailing, s_y))
        inverse = jnp.where(new[None, :], column[:, None], trailing)
        gram = jnp.where(new[None, :], y_y[:, None], jnp.where(new[:, None], y_y[None, :], memory.small[1]))
        small = jnp.where(take, pack(inverse, gram), memory.small)
        scale = jnp.where(take, 1 / y_y[slot], memory.scale)

        q = _times(small[0], s_g)
        a = _times(small[0].T, q + scale * (_times(small[1], q) - y_g))
        weights = pack(a, -scale * q).T.reshape(-1)
        return Memory(pairs, small, scale, memory.taken + take), -scale * grad - combination(weights, pairs)

    def forget(self, memory: Memory, when: jax.Array) -> Memory:
        """Empty the memory where `when` says so; the scale stays."""
        return memory._replace(small=jnp.where(when, 0, memory.small), taken=jnp.where(when, 0, memory.taken))


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Multiply as a reduction, which XLA fuses; for the few numbers of a memory."""
    return jnp.sum(matrix * vector, axis=1)


class DescentState(NamedTuple):
    """Where a descent stands."""

    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    left: jax.Array  # decrease predicted to be left, half of grad' H grad; inf while H is unknown
    gain: jax.Array  # decrease in the last step, as the slopes at its ends tell
    stepsize: jax.Array  # of the last step
    direction: jax.Array
    search: jax.Array  # a `Search`, packed in one vector: XLA compiles and runs one operation, not twelve
    memory: Memory


@partial(jax.tree_util.register_dataclass, data_fields=["direction", "search"], meta_fields=["name"])
@dataclass(frozen=True)
class Descent:
    """Move along a direction, as far as a search says."""

    direction: LimitedMemory
    search: Wolfe
    name: str

    def init(self, problem: Problem, params: jax.Array) -> DescentState:
        """Return the state that asks for the start to be evaluated."""
        point = problem.nowhere(params)
        no, zero = jnp.zeros((), bool), jnp.zeros((), params.dtype)
        return DescentState(
            point=point,
            trial=params,
            moved=no,
            stuck=no,
            left=point.loss,
            gain=zero,
            stepsize=zero,
            direction=jnp.zeros_like(params),
            search=pack(*self.search.begin(point.loss)),
            memory=self.direction.begin(params),
        )

    def step(self, problem: Problem, state: DescentState, trial: Point) -> DescentState:
        """Learn from the trial: accept it and turn, or look elsewhere on the line."""
        del problem
        slope = products(trial.vectors, state.direction[None])[1, 0]
        line = Search(*state.search)
        search, moved, failed = self.search.judge(line, state.point.loss, trial.loss, slope)
        moved, failed = once(moved, state.point.norm), once(failed, state.point.norm)
        point = choose(moved, trial, state.point)

        sy = line.stepsize * (slope - line.slope)
        memory = self.direction.forget(state.memory, failed)
        # The first step is of length 1: nothing is known yet that could say more.
        memory = memory._replace(scale=jnp.where(memory.scale > 0, memory.scale, 1 / point.norm))
        change = trial.vectors - state.point.vectors
        memory, direction = self.direction.learn(memory, change, sy, point.grad, moved & (sy > 0))
        descent = products(point.vectors, direction[None])[1, 0]
        search = pack(*choose(moved | failed, self.search.start(point.loss, descent), search))
        return DescentState(
            point=point,
            trial=point.params + search[0] * direction,
            moved=moved,
            stuck=failed & (state.memory.taken == 0),
            left=jnp.where(memory.taken > 0, -descent / 2, jnp.inf),
            gain=-line.stepsize * (line.slope + slope) / 2,
            stepsize=line.stepsize,
            direction=direction,
            search=search,
            memory=memory,
        )


def LBFGS(memory: int = 10) -> Descent:  # noqa: N802 - a method is named as in the literature
    """Return limited-memory BFGS with a Wolfe search; `memory` is the number of moves it remembers.

    Nocedal and Wright, Numerical Optimization (2006), algorithm 7.5, as one evaluation a step.
    """
    if not isinstance(memory, int) or memory < 1:
        msg = f"`memory` must be a positive integer; got {memory!r}. The usual values are 5 to 20."
        raise ValueError(msg)
    return Descent(LimitedMemory(memory), Wolfe(), f"L-BFGS with memory {memory}")
