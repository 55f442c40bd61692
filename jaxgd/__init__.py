"""Minimize a loss written in `jax.numpy`: `jaxgd.minimize(loss, data)`."""

import difflib as _difflib
import typing as _typing

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


_ELSEWHERE = {  # what other libraries have at their top
    "curve_fit": "write `from jaxgd.scipy import curve_fit`, or use `least_squares(residuals, data)`",
    "scipy": "write `import jaxgd.scipy`",
    **dict.fromkeys(("fit", "fmin", "minimize_scalar", "optimize", "solve"), "it is `minimize(loss, data)`"),
    **dict.fromkeys(("vmap", "batch", "minimize_batch"), "many problems are `minimize_many(loss, data)`"),
    **dict.fromkeys(("root", "fsolve", "root_find"), "where residuals can be 0, `least_squares` finds it"),
    **dict.fromkeys(("adam", "Adam", "SGD", "sgd", "OptaxSolver"), "any optimizer of optax is a `method`"),
    **dict.fromkeys(("Bounds", "LinearConstraint"), "bounds are `minimize(..., bounds=(lower, upper))`"),
    **dict.fromkeys(("GaussNewton", "NonlinearLeastSquares", "Dogleg"), "it is `least_squares(residuals, data)`"),
}


if not _typing.TYPE_CHECKING:  # for a type checker there is nothing but what is written above

    def __getattr__(name: str) -> _typing.Any:
        """Say what is called otherwise in other libraries, and what is misspelt."""
        if name in _ELSEWHERE:
            more = f": {_ELSEWHERE[name]}."
        else:
            near = _difflib.get_close_matches(name, __all__, n=1)
            more = f"; the nearest is {near[0]}." if near and not name.startswith("_") else "."
        msg = f"jaxgd has no `{name}`{more}"
        raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
