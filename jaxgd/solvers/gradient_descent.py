"""Gradient descent with a step size that is given, as in the textbook."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.core.numerics import pack, products
from jaxgd.core.problem import Point, Problem
from jaxgd.core.protocol import UNTOLD, unstarted


class GradientState(NamedTuple):
    """Where gradient descent stands."""

    # With each evaluation, which is a move: as in `unstarted`,
    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    predicted_remaining: jax.Array
    slope_decrease: jax.Array
    stepsize: jax.Array
    # and for the next step:
    upcoming: jax.Array  # its step size
    steps: jax.Array  # taken
    place: jax.Array | None  # where Nesterov's sequence stands, of which the point is ahead


@partial(jax.tree_util.register_dataclass, data_fields=["stepsize", "momentum"], meta_fields=["nesterov"])
@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent: `theta - stepsize * grad`, again and again.

    `stepsize` is a positive number, or a schedule: a function, written in `jax.numpy`, of the step number 0, 1, 2, ...
    (optax's schedules are such functions). There is no line search: every step is taken, and a step size too large for
    the loss diverges, which `Status.DIVERGED` reports. With bounds and other terms every step ends in their prox.

    `momentum`, from 0 to less than 1, adds that part of the last step to each (Polyak, USSR Comput. Math. Math. Phys. 4
    (1964)); with `nesterov` the gradient is taken after that addition (Nesterov, Soviet Math. Dokl. 27 (1983)).

    Lau, Gonzalez and Nolan, Principles and Techniques of Data Science, chapter 11.
    """

    stepsize: float | jax.Array | Callable[[jax.Array], jax.Array]
    momentum: float | jax.Array | None = None
    nesterov: bool = False

    supported_terms = (object,)  # any term: its prox is all that is needed

    def __post_init__(self) -> None:
        """Refuse numbers no step can be made with; tracers and schedules cannot be looked at."""
        size, momentum = self.stepsize, self.momentum
        if not (callable(size) or isinstance(size, Tracer)):
            _check_number(size, "stepsize", "a positive number or a function of the step number")
            if not np.all((np.asarray(size) > 0) & (np.asarray(size) < np.inf)):
                msg = f"`stepsize` must be positive and finite; got {size!r}. Use `maximize` to go uphill."
                raise ValueError(msg)
            # One type, so that a number of another type compiles nothing anew.
            object.__setattr__(self, "stepsize", np.asarray(size, float) if np.ndim(size) else float(size))
        if momentum is None:
            if self.nesterov:
                msg = "`nesterov=True` needs a `momentum`, such as 0.9."
                raise ValueError(msg)
        elif not isinstance(momentum, Tracer):
            _check_number(momentum, "momentum", "a number")
            if not np.all((np.asarray(momentum) >= 0) & (np.asarray(momentum) < 1)):
                msg = f"`momentum` must be at least 0 and less than 1; got {momentum!r}. The usual value is 0.9."
                raise ValueError(msg)
            object.__setattr__(self, "momentum", np.asarray(momentum, float) if np.ndim(momentum) else float(momentum))

    @property
    def name(self) -> str:
        added = "" if self.momentum is None else f" and {'Nesterov' if self.nesterov else 'heavy-ball'} momentum"
        return f"gradient descent with a given step size{added}"

    def init(self, problem: Problem, params: jax.Array) -> GradientState:
        return GradientState(
            **unstarted(problem, params),
            upcoming=jnp.zeros((), params.dtype),
            steps=jnp.zeros((), jnp.int32),
            place=params if self.nesterov else None,
        )

    def step(self, problem: Problem, state: GradientState, trial: Point) -> GradientState:
        """Take the trial as it is, and step along its gradient."""
        given = self.stepsize(state.steps) if callable(self.stepsize) else self.stepsize
        size = jnp.asarray(given, trial.loss.dtype)
        aim, place = trial.params - size * trial.grad, None
        if self.momentum is None:
            aim = problem.prox(aim, size)
        elif state.place is None:
            aim = problem.prox(aim + self.momentum * (trial.params - state.point.params), size)
        else:
            place = problem.prox(aim, size)
            aim = problem.project(place + self.momentum * (place - state.place))
        gain, left, length = along(problem, state.point, trial)
        # A step of one size that changed no param, to rounding, is made for ever.
        still = (state.steps > 0) & (length == 0) if place is None and not callable(self.stepsize) else False
        return GradientState(
            point=trial,
            trial=aim,
            moved=state.point.evaluated,
            stuck=~trial.finite | still,
            predicted_remaining=jnp.maximum(size * trial.norm**2 / 2, left),
            slope_decrease=gain,
            stepsize=state.upcoming,
            upcoming=size,
            steps=state.steps + 1,
            place=place,
        )


def along(problem: Problem, point: Point, trial: Point) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the decrease from the point to the trial as the slopes tell it, the decrease left after it, and the way.

    The way is a sum of absolute changes.

    What is left is told by the curvature along the move. A move that is lost in rounding of the params leaves it
    `UNTOLD`; any other that is too short has met hardly any curvature, and leaves much.
    """
    move = trial.params - point.params
    rows = pack(point.grad, trial.grad, move, jnp.sign(move))
    before, after, square, size = products(rows, move[None])[:, 0]
    gain, curvature = -(before + after) / 2, after - before
    if problem.term is not None:
        gain = gain + problem.term.value(point.params) - problem.term.value(trial.params)
    eps = jnp.finfo(square.dtype).eps
    clear = curvature > 4 * eps * jnp.abs(before)
    lost = size <= 4 * eps * trial.params_abs_sum
    unclear = jnp.where(lost, UNTOLD, jnp.abs(before) / (8 * eps))
    # The quotient first: squares of far places overflow.
    left = jnp.where(clear, trial.norm**2 * (square / jnp.where(clear, curvature, 1)) / 2, unclear)
    return gain, left, size


def _check_number(value: Any, name: str, kind: str) -> None:
    # An array holds a number for each lane of `minimize_many`.
    if not isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) or np.ndim(value) > 1:
        msg = f"`{name}` must be {kind}; got {value!r}."
        raise TypeError(msg)
