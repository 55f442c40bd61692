"""Minimize a loss written in `jax.numpy`: `jaxgd.minimize(loss, data)`."""

from jaxgd import losses
from jaxgd.api import maximize, minimize
from jaxgd.result import NotConverged, NotConvergedWarning, Result, Trace
from jaxgd.solvers.descent import LBFGS
from jaxgd.solvers.gradient import GradientDescent
from jaxgd.stop import Status, Stop

__version__ = "0.1.0"

__all__ = [
    "LBFGS",
    "GradientDescent",
    "NotConverged",
    "NotConvergedWarning",
    "Result",
    "Status",
    "Stop",
    "Trace",
    "losses",
    "maximize",
    "minimize",
]
