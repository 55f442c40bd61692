"""Descent methods: a direction, and a search along it."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.flat import once, products
from jaxgd.problem import Point, Problem, choose
from jaxgd.solvers.directions import DenseInverse, Direction, LimitedMemory, Move
from jaxgd.solvers.search import LineSearch, Nonmonotone, Wolfe
from jaxgd.solvers.trail import Conjugate, Gradient


class DescentState(NamedTuple):
    """Where a descent stands."""

    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    left: jax.Array  # decrease predicted to be left; inf while it is unknown
    gain: jax.Array  # decrease in the last step, as the slopes at its ends tell
    stepsize: jax.Array  # of the last step
    direction: jax.Array
    line: jax.Array  # what the search knows, packed in one vector: XLA compiles and runs one operation, not twelve
    memory: Any  # what the direction remembers


@partial(jax.tree_util.register_dataclass, data_fields=["direction", "search"], meta_fields=["name"])
@dataclass(frozen=True)
class Descent:
    """Move along a direction, as far as a search says."""

    direction: Direction
    search: LineSearch
    name: str

    def memory(self, size: int) -> int:
        """Return the bytes, in float64, of the matrix that the direction keeps."""
        return 8 * size**2 if isinstance(self.direction, DenseInverse) else 0

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
            line=self.search.begin(point.loss).pack(),
            memory=self.direction.begin(params),
        )

    def step(self, problem: Problem, state: DescentState, trial: Point) -> DescentState:
        """Learn from the trial: accept it and turn, or look elsewhere on the line."""
        del problem
        slope = products(trial.vectors, state.direction[None])[1, 0]
        line = self.search.unpack(state.line)
        after, moved, failed = self.search.judge(line, state.point.loss, trial.loss, slope)
        moved, failed = once(moved, state.point.norm), once(failed, state.point.norm)
        over, point = moved | failed, choose(moved, trial, state.point)

        curvature = line.stepsize * (slope - line.slope)
        memory = state.memory
        # The first step is of length 1: nothing is known yet that could say more.
        scale = jnp.where(memory.scale > 0, memory.scale, 1 / point.norm)
        memory = memory._replace(scale=scale, taken=jnp.where(failed, 0, memory.taken))
        move = Move(
            change=trial.vectors - state.point.vectors,
            curvature=curvature,
            moved=moved,
            take=moved & (curvature > 0),
            over=over,
            direction=state.direction,
            stepsize=line.stepsize,
            slope=line.slope,
            norm=state.point.norm,
        )
        memory, direction = self.direction.learn(memory, move, point)
        descent = products(point.vectors, direction[None])[1, 0]
        packed = choose(over, self.search.start(line, point.loss, descent).pack(), after.pack())
        return DescentState(
            point=point,
            trial=point.params + packed[0] * direction,
            moved=moved,
            stuck=failed & (state.memory.taken == 0),
            left=self.direction.left(memory, point, descent),
            gain=-line.stepsize * (line.slope + slope) / 2,
            stepsize=line.stepsize,
            direction=direction,
            line=packed,
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


def BFGS() -> Descent:  # noqa: N802
    """Return BFGS with a Wolfe search: the inverse Hessian is a matrix, so it is for some hundreds of parameters.

    Nocedal and Wright, Numerical Optimization (2006), algorithm 6.1, as one evaluation a step.
    """
    return Descent(DenseInverse(), Wolfe(), "BFGS")


BETAS = {"hager-zhang": "Hager-Zhang", "polak-ribiere": "Polak-Ribiere"}


def ConjugateGradient(beta: str = "hager-zhang") -> Descent:  # noqa: N802
    """Return nonlinear conjugate gradients with a strong Wolfe search; `beta` is "hager-zhang" or "polak-ribiere".

    It keeps three vectors, however many moves it makes: for very many parameters.
    """
    if beta not in BETAS:
        msg = f"`beta` must be {' or '.join(map(repr, BETAS))}; got {beta!r}."
        raise ValueError(msg)
    return Descent(Conjugate(beta), Wolfe(curvature=0.1, strong=True), f"conjugate gradients ({BETAS[beta]})")


def SteepestDescent() -> Descent:  # noqa: N802
    """Return steepest descent with a Wolfe search: the loss falls with every move.

    Nocedal and Wright, Numerical Optimization (2006), chapter 3.
    """
    return Descent(Gradient(), Wolfe(), "steepest descent with a Wolfe search")


def BarzilaiBorwein() -> Descent:  # noqa: N802
    """Return the gradient method with adaptive Barzilai-Borwein steps; the loss may rise for a few moves.

    Raydan, SIAM J. Optim. 7 (1997), with the steps of Zhou, Gao and Dai (2006).
    """
    return Descent(Gradient(), Nonmonotone(), "Barzilai-Borwein")
