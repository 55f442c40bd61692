"""Optax transformations as methods."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.problem import Point, Problem
from jaxgd.core.protocol import unstarted
from jaxgd.solvers.gradient_descent import along


class OptaxState(NamedTuple):
    """Where an optax transformation stands."""

    # With each evaluation, which is a move: as in `unstarted`,
    point: Point
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    predicted_remaining: jax.Array
    slope_decrease: jax.Array
    stepsize: jax.Array  # the length
    # and for the next step:
    inner: Any  # the transformation's own


@partial(jax.tree_util.register_dataclass, data_fields=["transformation"], meta_fields=[])
@dataclass(frozen=True)
class Optax:
    """Take the steps of an optax transformation; anything with its `init` and `update` works.

    Those that take more arguments get `value`, `grad` and `value_fn`. Evaluations that a transformation makes itself,
    in a line search, are not counted.
    """

    transformation: Any

    @property
    def name(self) -> str:
        return f"an optax transformation{' (its own evaluations are not counted)' if self.evaluates() else ''}"

    def init(self, problem: Problem, params: jax.Array) -> OptaxState:
        inner = self.transformation.init(problem.layout.unflatten(params))
        return OptaxState(**unstarted(problem, params), inner=jax.tree.map(_strong, inner))

    def step(self, problem: Problem, state: OptaxState, trial: Point) -> OptaxState:
        """Take the trial as it is, and step as the transformation says."""
        unflatten, flatten = problem.layout.unflatten, problem.layout.flatten
        params, grad = unflatten(trial.params), problem.layout.slopes(trial.grad)
        updates, inner = self._update(
            grad, state.inner, params, trial.loss, lambda tree: problem.value(flatten(tree))[0]
        )
        gain, left, _ = along(problem, state.point, trial)
        return OptaxState(
            point=trial,
            trial=trial.params + flatten(updates),
            moved=state.point.evaluated,
            stuck=~trial.finite,
            predicted_remaining=left,
            slope_decrease=gain,
            stepsize=jnp.sqrt(jnp.sum((trial.params - state.point.params) ** 2)),
            # In the types they came in, which the loop cannot change.
            inner=jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner),
        )

    def _update(self, grad: Any, inner: Any, params: Any, loss: Any, value: Callable[[Any], Any]) -> tuple[Any, Any]:
        update = self.transformation.update
        takes = inspect.signature(update).parameters.values()
        extra = {"value": loss, "grad": grad, "value_fn": value}
        given = extra if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes) else {}
        try:
            return update(grad, inner, params, **given)
        except TypeError as error:
            msg = (
                f"`method`: the optax transformation cannot take a step: {error}. It gets the gradient, its state"
                f" and the params, and where it takes more also {', '.join(f'`{name}`' for name in extra)}."
            )
            raise TypeError(msg) from error

    def evaluates(self) -> bool:
        """Whether the transformation evaluates the loss itself, as it shows on two numbers."""
        called: list[bool] = []

        def value(params: Any) -> Any:
            called.append(True)
            return jnp.sum(params**2)

        def try_out(params: Any) -> Any:
            return self._update(params, self.transformation.init(params), params, params[0], value)

        try:
            jax.eval_shape(try_out, jnp.ones(2))
        except Exception:  # noqa: BLE001 - made for params of another structure, perhaps: then nothing is known
            return False
        return bool(called)


def _strong(leaf: Any) -> jax.Array:
    """Return the array without the weak type of a Python number."""
    return jnp.asarray(leaf, jnp.asarray(leaf).dtype)
