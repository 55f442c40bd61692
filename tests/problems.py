"""The table of problems every law runs over. Each proves itself in `test_problems.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import losses
from jaxgd.cli.example import tips

RNG = np.random.default_rng(7)
X = RNG.normal(size=(120, 4)) * [1.0, 0.3, 3.0, 1.0]
SLOPES = np.array([0.5, -1.0, 0.2, 0.0])
LABELS = (RNG.uniform(size=120) < 1 / (1 + np.exp(-X @ SLOPES))).astype(float)
COUNTS = RNG.poisson(np.exp(0.3 * X[:, 0] + 0.5)).astype(float)


@dataclass(frozen=True)
class Problem:
    """A loss, its data and start; the curvature that bounds a fixed step, and what is known of the minimum."""

    name: str
    loss: Callable[..., Any]
    data: Any
    init: Any
    curvature: float | None  # largest near the path; None: too badly conditioned for a fixed step
    minimizer: Any = None
    lowest: float | None = None
    quadratic: bool = False


def ridge(w: Any, data: Any) -> Any:
    return losses.logistic(w, data) + 1e-2 * jnp.sum(w**2)


def line(params: Any, data: Any) -> Any:
    x, y = data
    return jnp.mean((y - params["slope"] * x - params["offset"]["b"]) ** 2)


def quadratic(x: Any, curvatures: Any) -> Any:
    return jnp.sum(curvatures * (x - 1) ** 2) / 2


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def complex_square(z: Any) -> Any:
    off = z - jnp.array([1 + 2j, -1j])
    return jnp.sum(jnp.array([1, 3]) * (off.real**2 + off.imag**2))


BOOK = np.array([12.1, 12.8, 14.9, 16.3, 17.2])

PROBLEMS = [
    Problem("book", losses.mse, BOOK, 0.0, 2.0, BOOK.mean(), BOOK.var(), quadratic=True),
    Problem("tips", losses.huber(1.0), tips(), 0.0, 1.0, 15.530633813965784),
    Problem(
        "quadratic", quadratic, np.array([1.0, 2.0, 5.0, 10.0, 3.0]), np.zeros(5), 10.0, np.ones(5), 0.0, quadratic=True
    ),
    Problem("logistic", ridge, (X, LABELS), np.zeros(4), 3.0),
    Problem("poisson", losses.poisson, (np.column_stack([X[:, 0], np.ones(120)]), COUNTS), np.zeros(2), 20.0),
    Problem(
        "line",
        line,
        (np.arange(5.0), 2 * np.arange(5.0) + 1),
        {"slope": np.zeros(()), "offset": {"b": np.zeros(())}},
        15.0,
        {"slope": 2.0, "offset": {"b": 1.0}},
        0.0,
        quadratic=True,
    ),
    Problem("complex", complex_square, None, np.zeros(2, complex), 6.0, np.array([1 + 2j, -1j]), 0.0, quadratic=True),
    Problem("rosenbrock", rosenbrock, None, np.array([-1.2, 1.0]), None, np.ones(2), 0.0),
    Problem("valley", rosenbrock, None, np.zeros(10), None, np.ones(10), 0.0),
]


def value(problem: Problem, params: Any) -> Any:
    """Return the loss as a user would call it."""
    params, data = jax.tree.map(lambda leaf: jnp.asarray(+leaf), (params, problem.data))
    return problem.loss(params) if data is None else problem.loss(params, data)
