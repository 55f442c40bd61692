"""Minimize a loss written in `jax.numpy`: `jaxgd.minimize(loss, data)`."""

from jaxgd import losses, plot, watch
from jaxgd.api import least_squares, maximize, minimize, minimize_many
from jaxgd.compile.disk import config
from jaxgd.core.stop import Status, Stop
from jaxgd.core.terms import Ball, Simplex
from jaxgd.history import Trace
from jaxgd.lanes.groups import Groups
from jaxgd.result import NotConverged, NotConvergedWarning, Result
from jaxgd.rows.rows import Rows
from jaxgd.rows.shuffle import Batches
from jaxgd.solvers.descent import BFGS, LBFGS, BarzilaiBorwein, ConjugateGradient, SteepestDescent
from jaxgd.solvers.fista import FISTA
from jaxgd.solvers.gradient_descent import GradientDescent
from jaxgd.solvers.trust_region import LevenbergMarquardt, Newton, NewtonCG, ProjectedLBFGS, SampledNewton

__version__ = "0.1.0"

__all__ = [
    "BFGS",
    "FISTA",
    "LBFGS",
    "Ball",
    "BarzilaiBorwein",
    "Batches",
    "ConjugateGradient",
    "GradientDescent",
    "Groups",
    "LevenbergMarquardt",
    "Newton",
    "NewtonCG",
    "NotConverged",
    "NotConvergedWarning",
    "ProjectedLBFGS",
    "Result",
    "Rows",
    "SampledNewton",
    "Simplex",
    "Status",
    "SteepestDescent",
    "Stop",
    "Trace",
    "config",
    "least_squares",
    "losses",
    "maximize",
    "minimize",
    "minimize_many",
    "plot",
    "watch",
]


def __dir__() -> list[str]:
    return sorted(__all__)
