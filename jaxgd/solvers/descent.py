"""Descent methods: a direction, and a search along it."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import once, pack, products
from jaxgd.core.problem import Point, Problem, choose
from jaxgd.core.protocol import Tolerance, unstarted
from jaxgd.core.scaling import Units, scaling_of
from jaxgd.solvers.gradient_directions import Conjugate, Gradient
from jaxgd.solvers.line_search import LineSearch, Nonmonotone, Wolfe
from jaxgd.solvers.quasi_newton_directions import DenseInverse, Direction, LimitedMemoryInverse, Move


class DescentState(NamedTuple):
    """Where a descent stands."""

    # With each move, as in `unstarted`:
    point: Point
    # With each evaluation, likewise:
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    predicted_remaining: jax.Array
    slope_decrease: jax.Array
    stepsize: jax.Array
    line: jax.Array  # a `Line`, packed in one vector: XLA compiles and runs one operation, not twelve
    # With each line:
    norm: jax.Array  # as in `Reported`
    direction: jax.Array  # in the units, as all that is learnt
    memory: Any  # the direction's own
    # Once, but where all is lost in them:
    units: Units  # of the params
    products: jax.Array  # as in `Reported`


@partial(jax.tree_util.register_dataclass, data_fields=["direction", "search"], meta_fields=["name", "scaled"])
@dataclass(frozen=True)
class Descent:
    """Move along a direction, as far as a search says.

    Where they are few and `scaled`, the params are measured in units that make the rows of the Hessian at the start of
    length 1, so that the user's units matter little.
    """

    direction: Direction
    search: LineSearch
    name: str
    scaled: bool = True

    @property
    def tolerance(self) -> Tolerance:
        return self.direction.tolerance

    def memory(self, size: int) -> int:
        return 8 * size**2 if isinstance(self.direction, DenseInverse) else 0

    def unscaled(self) -> "Descent":
        return replace(self, scaled=False)

    def carried(self, state: DescentState, other: DescentState, *, far: bool) -> DescentState:
        del far
        return state._replace(memory=other.memory, units=other.units)

    def init(self, problem: Problem, params: jax.Array) -> DescentState:
        zero, hvps = jnp.zeros((), params.dtype), scaling_of(params.size) if self.scaled else 0
        return DescentState(
            **unstarted(problem, params),
            line=self.search.begin(zero).pack(),
            norm=zero,
            direction=jnp.zeros_like(params),
            memory=self.direction.begin(params),
            units=Units.at(problem, params) if hvps else Units.unknown(params),
            products=jnp.full((), hvps, jnp.int32),
        )

    def step(self, problem: Problem, state: DescentState, trial: Point) -> DescentState:
        """Learn from the trial: accept it and turn, or look elsewhere on the line."""
        del problem
        units = state.units.begun(trial, ~state.point.evaluated)
        old, new = _in(units, state.point.vectors), _in(units, trial.vectors)
        slope = products(new, state.direction[None])[1, 0]
        line = self.search.unpack(state.line)
        after, moved, failed = self.search.judge(line, state.point.loss, trial.loss, slope)
        moved, failed = once(moved, state.point.norm), once(failed, state.point.norm)
        # Where no line has an answer, not even along the gradient, the scale is tried that the user gave.
        lost = failed & (state.memory.num_pairs == 0)
        units, stuck = units.dropped(lost)
        over, point = moved | failed, choose(moved, trial, state.point)
        here = _in(units, point.vectors)
        grad, norm = here[1], units.length(here[1])
        # The first curvature is 1, as scaled; where nothing is known, the first step is of length 1.
        first = jnp.where(units.known, 1, 1 / norm)
        memory = state.memory._replace(
            scale=jnp.where((state.memory.scale == 0) | lost, first, state.memory.scale),
            num_pairs=jnp.where(failed, 0, state.memory.num_pairs),
        )
        move = Move.along(state, line, new - old, slope, moved=moved, over=over)
        memory, direction = self.direction.learn(memory, move, grad)
        descent = products(grad[None], direction[None])[0, 0]
        packed = choose(over, self.search.start(line, point.loss, descent).pack(), after.pack())
        return DescentState(
            point=point,
            trial=point.params + packed[0] * (direction / units.scale),
            moved=moved,
            stuck=stuck,
            predicted_remaining=self.direction.predicted_remaining(memory, here[0], norm, descent),
            slope_decrease=-line.stepsize * (line.slope + slope) / 2,
            stepsize=line.stepsize,
            line=packed,
            norm=norm,
            direction=direction,
            memory=memory,
            units=units,
            products=state.products,
        )


def _in(units: Units, vectors: jax.Array) -> jax.Array:
    """Return params and gradient in the units."""
    return pack(units.scale, 1 / units.scale) * vectors


def LBFGS(memory: int = 10) -> Descent:  # noqa: N802 - a method is named as in the literature
    """Return limited-memory BFGS with a Wolfe search; `memory` is the number of moves it remembers.

    Nocedal and Wright, Numerical Optimization (2006), algorithm 7.5, as one evaluation a step.
    """
    if not isinstance(memory, int) or memory < 1:
        msg = f"`memory` must be a positive integer; got {memory!r}. The usual values are 5 to 20."
        raise ValueError(msg)
    return Descent(LimitedMemoryInverse(memory), Wolfe(), f"L-BFGS with memory {memory}")


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
    return Descent(Gradient(), Wolfe(), "steepest descent with a Wolfe search", scaled=False)


def BarzilaiBorwein() -> Descent:  # noqa: N802
    """Return the gradient method with adaptive Barzilai-Borwein steps; the loss may rise for a few moves.

    Raydan, SIAM J. Optim. 7 (1997), with the steps of Zhou, Gao and Dai (2006).
    """
    return Descent(Gradient(), Nonmonotone(), "Barzilai-Borwein", scaled=False)
