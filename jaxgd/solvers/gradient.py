"""Gradient descent with a step size that is given: the textbook's algorithm."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.flat import products
from jaxgd.problem import Point, Problem


class GradientState(NamedTuple):
    """Where gradient descent stands."""

    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    left: jax.Array  # decrease predicted of the next step
    gain: jax.Array  # decrease in the last step, as the slopes at its ends tell
    stepsize: jax.Array  # of the last step
    upcoming: jax.Array  # of the next
    steps: jax.Array  # taken


@partial(jax.tree_util.register_dataclass, data_fields=["stepsize"], meta_fields=[])
@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent: `theta - stepsize * grad`, again and again.

    `stepsize` is a positive number, or a schedule: a function, written in `jax.numpy`, of the step number 0, 1, 2, ...
    (optax's schedules are such functions). There is no line search: every step is taken, and a step size too large for
    the loss diverges, which `Status.DIVERGED` reports.

    Lau, Gonzalez and Nolan, Principles and Techniques of Data Science, chapter 11.
    """

    stepsize: float | jax.Array | Callable[[jax.Array], jax.Array]

    def __post_init__(self) -> None:
        """Refuse a number that is no step size; tracers and schedules cannot be looked at."""
        size = self.stepsize
        if callable(size) or isinstance(size, Tracer):
            return
        if not isinstance(size, (int, float, np.number, np.ndarray, jax.Array)) or np.ndim(size):
            msg = f"`stepsize` must be a positive number or a function of the step number; got {size!r}."
            raise TypeError(msg)
        if not 0 < size < float("inf"):
            msg = f"`stepsize` must be positive and finite; got {self.stepsize!r}. Use `maximize` to go uphill."
            raise ValueError(msg)
        # One type, so that a number of another type compiles nothing anew.
        object.__setattr__(self, "stepsize", float(size))

    @property
    def name(self) -> str:
        """What a result says of the method."""
        return "gradient descent with a given step size"

    def _size(self, count: jax.Array, like: jax.Array) -> jax.Array:
        size = self.stepsize(count) if callable(self.stepsize) else self.stepsize
        return jnp.asarray(size, like.dtype)

    def init(self, problem: Problem, params: jax.Array) -> GradientState:
        """Return the state that asks for the start to be evaluated."""
        point = problem.nowhere(params)
        no, zero = jnp.zeros((), bool), jnp.zeros((), params.dtype)
        return GradientState(point, params, no, no, point.loss, zero, zero, zero, jnp.zeros((), jnp.int32))

    def step(self, problem: Problem, state: GradientState, trial: Point) -> GradientState:
        """Take the trial as it is, and step along its gradient."""
        del problem
        started = jnp.isfinite(state.point.loss)
        size = self._size(state.steps, trial.loss)
        # Mean of the slopes at both ends of the step -stepsize * grad, times its length.
        slope, steep = products(trial.vectors, state.point.grad[None])[1, 0], state.point.norm**2
        gain = state.upcoming * (slope + steep) / 2
        # The decrease left, by the curvature along the last step; a step too short to tell it tells nothing.
        eps = jnp.finfo(steep.dtype).eps
        bend = jnp.where(steep - slope > 4 * eps * steep, steep - slope, 0)
        blur = jnp.sqrt(eps) * jnp.maximum(1, jnp.max(jnp.abs(trial.params)))
        left = jnp.where(bend > 0, state.upcoming / 2 * trial.norm**2 * (steep / bend), blur * trial.norm)
        return GradientState(
            point=trial,
            trial=trial.params - size * trial.grad,
            moved=started,
            stuck=~(jnp.isfinite(trial.loss) & jnp.isfinite(trial.norm)),
            left=jnp.maximum(size * trial.norm**2 / 2, left),
            gain=gain,
            stepsize=state.upcoming,
            upcoming=size,
            steps=state.steps + 1,
        )
