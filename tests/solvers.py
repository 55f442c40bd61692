"""The table of solvers every law runs over: a name, the method for a problem, and whether it can solve it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax
import pytest
from problems import PROBLEMS, Problem

import jaxgd


@dataclass(frozen=True)
class Entry:
    name: str
    method: Callable[[Problem], Any]
    fit: Callable[[Problem], bool] = lambda _: True


def conditioned(problem: Problem) -> bool:
    return problem.curvature is not None


def decreasing(problem: Problem) -> Any:
    size = 1 / problem.curvature
    return jaxgd.GradientDescent(lambda count: size * (0.5 + 0.5 * 0.99**count))


def among(*names: str) -> Callable[[Problem], bool]:
    return lambda problem: problem.name in names


SOLVERS = [
    Entry("auto", lambda _: "auto"),
    Entry("lbfgs", lambda _: "lbfgs"),
    Entry("lbfgs-3", lambda _: jaxgd.LBFGS(memory=3), among("quadratic", "rosenbrock")),
    Entry("lbfgsb", lambda _: "lbfgsb", among("tips", "line", "logistic", "complex", "rosenbrock", "valley")),
    Entry("bfgs", lambda _: "bfgs", among("tips", "line", "logistic", "complex", "rosenbrock", "valley")),
    Entry("cg", lambda _: "cg", among("tips", "line", "poisson", "logistic", "rosenbrock", "valley")),
    Entry("cg-pr", lambda _: jaxgd.ConjugateGradient("polak-ribiere"), among("quadratic", "rosenbrock", "valley")),
    Entry("newton", lambda _: "newton"),
    Entry("newton-cg", lambda _: "newton-cg", among("tips", "line", "logistic", "complex", "rosenbrock", "valley")),
    Entry("fista", lambda _: "fista", among("tips", "quadratic", "line", "poisson")),
    Entry("bb", lambda _: "bb", among("quadratic", "line", "rosenbrock")),
    Entry("steepest", lambda _: "steepest", among("quadratic", "line", "rosenbrock", "valley")),
    Entry("heavy-ball", lambda problem: jaxgd.GradientDescent(1 / problem.curvature, momentum=0.5), among("line")),
    Entry(
        "nesterov",
        lambda problem: jaxgd.GradientDescent(1 / problem.curvature, momentum=0.8, nesterov=True),
        among("quadratic", "line"),
    ),
    Entry("adam", lambda _: optax.adam(0.1), among("quadratic", "line")),
    Entry("gradient", lambda problem: jaxgd.GradientDescent(1 / problem.curvature), conditioned),
    Entry("schedule", decreasing, among("tips", "line")),
]

PAIRS = [
    pytest.param(solver, problem, id=f"{solver.name}-{problem.name}")
    for solver in SOLVERS
    for problem in PROBLEMS
    if solver.fit(problem)
]
FIRST_PAIRS = [pair for pair in PAIRS if pair.values[1].name in ("book", "line")]
