"""Minimize a loss written in `jax.numpy`: `jaxgd.minimize(loss, data)`."""

from jaxgd import losses
from jaxgd.api import least_squares, maximize, minimize
from jaxgd.result import NotConverged, NotConvergedWarning, Result, Trace
from jaxgd.solvers.descent import BFGS, LBFGS, BarzilaiBorwein, ConjugateGradient, SteepestDescent
from jaxgd.solvers.gradient import GradientDescent
from jaxgd.solvers.newton import TrustRegion
from jaxgd.stop import Status, Stop
from jaxgd.terms import Ball, Simplex

__version__ = "0.1.0"

__all__ = [
    "BFGS",
    "LBFGS",
    "Ball",
    "BarzilaiBorwein",
    "ConjugateGradient",
    "GradientDescent",
    "NotConverged",
    "NotConvergedWarning",
    "Result",
    "Simplex",
    "Status",
    "SteepestDescent",
    "Stop",
    "Trace",
    "TrustRegion",
    "least_squares",
    "losses",
    "maximize",
    "minimize",
]
