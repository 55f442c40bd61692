"""The table of solvers every law runs over: a name, the method for a problem, and whether it can solve it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


SOLVERS = [
    Entry("auto", lambda _: "auto"),
    Entry("lbfgs", lambda _: "lbfgs", lambda problem: problem.name == "book"),
    Entry("lbfgs-3", lambda _: jaxgd.LBFGS(memory=3), lambda problem: problem.name in ("quadratic", "rosenbrock")),
    Entry("bfgs", lambda _: "bfgs"),
    Entry("cg", lambda _: "cg"),
    Entry("cg-pr", lambda _: jaxgd.ConjugateGradient("polak-ribiere")),
    Entry("steepest", lambda _: "steepest"),
    Entry("bb", lambda _: "bb"),
    Entry("newton", lambda _: "newton"),
    Entry("gradient", lambda problem: jaxgd.GradientDescent(1 / problem.curvature), conditioned),
    Entry("schedule", decreasing, lambda problem: problem.name in ("tips", "line")),
]

PAIRS = [
    pytest.param(solver, problem, id=f"{solver.name}-{problem.name}")
    for solver in SOLVERS
    for problem in PROBLEMS
    if solver.fit(problem)
]
FIRST_PAIRS = [pair for pair in PAIRS if pair.values[1].name in ("book", "line")]
