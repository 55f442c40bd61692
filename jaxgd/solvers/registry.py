"""Methods by name, and which to choose."""

import difflib
import sys
from collections.abc import Callable
from typing import Any

from jaxgd.core.bound_loss import Derivatives
from jaxgd.core.protocol import Solver, Traits
from jaxgd.core.scaling import FEW
from jaxgd.core.terms import holds, is_separable
from jaxgd.solvers.descent import BFGS, LBFGS, BarzilaiBorwein, ConjugateGradient, SteepestDescent
from jaxgd.solvers.fista import FISTA
from jaxgd.solvers.optax import Optax
from jaxgd.solvers.trust_region import LevenbergMarquardt, Newton, NewtonCG, ProjectedLBFGS, SampledNewton

MOST_MEMORY = 16e9  # bytes that a matrix may take in float64
FEW_DENSE = 300  # parameters for which curvature is worth its cost: as a matrix J'J, or where a term joins them all
FEW_SAMPLED = 100  # parameters for which the Hessian of a sample of rows is
PER_PARAM = 40  # rows for each parameter, of which half are a sample that tells the Hessian
FEW_LINEAR = 2000  # likewise, where the loss is of X @ w and the Hessian one product of matrices
PRODUCTS = 15  # with the Hessian that a move of Newton's method takes where the params are more
OVERHEAD = 1 << 16  # operations of a loss that take as long as what a method does with an evaluation
EVALUATIONS = 5  # that the Hessian of a move may cost: methods that learn it need so many more
METHODS: dict[str, Callable[[], Any]] = {
    "auto": lambda: None,
    "lbfgs": LBFGS,
    "lbfgsb": ProjectedLBFGS,
    "bfgs": BFGS,
    "cg": ConjugateGradient,
    "newton": Newton,
    "newton-cg": NewtonCG,
    "newton-sampled": SampledNewton,
    "fista": FISTA,
    "bb": BarzilaiBorwein,
    "steepest": SteepestDescent,
}
_NO_SLOPES = "it is for losses without slopes; JAX derives them, so leave `method` out"
_RESIDUALS = "write `jaxgd.least_squares(residuals, data, init)`, which needs no `method`"
_FROM_OPTAX = "pass optax's transformation with its step size, as `method=optax.{name}(1e-2)`"
_CONSTRAINED = "constraints are `bounds` and `term=jaxgd.Simplex()` or `jaxgd.Ball(1.0)`; add others as penalties"
_GLOBAL = "write `starts=64` with `bounds`, which solves from many starts"
ELSEWHERE = {  # methods of other libraries, as `plain` writes them
    **dict.fromkeys(("neldermead", "powell", "cobyla", "nmsimplex", "cobyqa"), _NO_SLOPES),
    **dict.fromkeys(("lm", "trf", "dogbox", "leastsq", "leastsquares", "gaussnewton"), _RESIDUALS),
    **{name: _FROM_OPTAX.format(name=name) for name in ("adam", "adamw", "adagrad", "rmsprop", "sgd", "lion", "nadam")},
    **dict.fromkeys(("slsqp", "trustconstr", "ipopt"), _CONSTRAINED),
    **dict.fromkeys(("differentialevolution", "basinhopping", "dualannealing", "cmaes", "shgo"), _GLOBAL),
    **dict.fromkeys(("tnc", "trustncg", "trustkrylov", "nonlinearcg"), "the nearest is 'newton-cg' or 'cg'"),
    **dict.fromkeys(("trustexact", "dogleg", "newtoncholesky", "irls"), "the nearest is 'newton'"),
    **dict.fromkeys(("gd", "gradientdescent"), "it is `method=jaxgd.GradientDescent(0.1)`, with a step size"),
    **dict.fromkeys(("sag", "saga", "liblinear"), "leave `method` out; of many rows, pass `jaxgd.Rows(data)`"),
}


def named(method: Any) -> Any:
    """Return the method, or what its name stands for; None stands for a choice still to be made."""
    if not isinstance(method, str):
        if not isinstance(method, type) and hasattr(method, "init") and hasattr(method, "update"):
            return Optax(method)
        if isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
            own = method in METHODS.values() or (isinstance(method, type) and hasattr(method, "step"))
            remedy = f"Call it: `method={method.__name__}(...)`" if own else "Try `method='auto'`"
            msg = f"`method` must be a name or a solver with `init` and `step`; got {method!r}. {remedy}."
            raise TypeError(msg)
        return method
    names = {plain(name): name for name in METHODS}
    if (known := names.get(plain(method))) is None:
        nearest = difflib.get_close_matches(method.lower(), METHODS, n=1, cutoff=0.0)[0]
        why = ELSEWHERE.get(plain(method), f"the nearest is {nearest!r}")
        msg = f"`method` {method!r} is unknown: {why}. Names: {', '.join(map(repr, METHODS))}."
        raise ValueError(msg)
    return METHODS[known]()


def plain(name: str) -> str:
    """Return a name without what its spellings differ in."""
    return "".join(filter(str.isalnum, name.lower()))


def choose_method(
    method: Any,
    size: int,
    term: Any = None,
    *,
    least_squares: bool = False,
    derivatives: Derivatives = Derivatives.ALL,
    sampled: bool = False,
    linear: bool = False,
    rows: int = 0,
    operations: int = 0,
) -> tuple[Solver, str]:
    """Return the solver to use for `size` parameters and what is added to the loss, and what to say of it.

    `sampled`: for passes over so many `rows`, 0 if that is not known, where curvature is that of a sample; `linear`:
    the loss is of X @ w; `operations`: that it takes.
    """
    curved, forward = derivatives is not Derivatives.FIRST, derivatives in (Derivatives.ALL, Derivatives.FORWARD)
    if method is None:
        # For many params it takes products with the Jacobian's transpose, each of which is a whole Jacobian there.
        least_squares = least_squares and (derivatives is Derivatives.ALL or (forward and size <= FEW_DENSE))
        if sampled:
            return _choice_in_passes(size, term, curved=curved, linear=linear, rows=rows)
        dear = not linear and _costs_much(size, operations)
        return _choice(size, term, least_squares=least_squares, curved=curved, dear=dear)
    traits = Traits.of(method)
    name, squares = traits.name or repr(method), traits.sum_of_squares
    if traits.exact_curvature and not (forward if squares else curved):
        msg = (
            f"`method` {name} needs derivatives of the loss that JAX does not have where it holds a"
            f" `jax.custom_vjp`: {derivatives.value}. Define it by `jax.custom_jvp`, or use method='lbfgs', or 'lbfgsb'"
            " with bounds."
        )
        raise ValueError(msg)
    method = method if curved else _unscaled(method)
    if squares and not least_squares:
        msg = f"`method` {name} is for sums of squares. Use `jaxgd.least_squares(residuals, data)`."
        raise ValueError(msg)
    if term is not None and not isinstance(term, traits.supported_terms):
        able = [
            other
            for other, make in METHODS.items()
            if other != "auto" and isinstance(term, Traits.of(make()).supported_terms)
        ]
        msg = (
            f"`method` {name} cannot keep {type(term).__name__}."
            f" Methods that can: {', '.join(map(repr, ['auto', *able]))}."
        )
        raise ValueError(msg)
    needed = traits.memory(size)
    if needed > MOST_MEMORY:
        msg = (
            f"`method` {name} keeps a Hessian of {size} parameters as a matrix, {needed / 1e9:.0f} GB in"
            " float64. Use method='newton-cg' or 'lbfgs', which keep none."
        )
        raise ValueError(msg)
    return method, name


def _costs_much(size: int, operations: int) -> bool:
    """Return whether the Hessian costs more than it saves; a product with it costs as much as two evaluations."""
    return 2 * min(size, PRODUCTS) * operations > EVALUATIONS * (operations + OVERHEAD)


def _choice(size: int, term: Any, *, least_squares: bool, curved: bool, dear: bool = False) -> tuple[Solver, str]:
    """Choose: curvature is worth computing for some parameters, or to keep what is added; else it is learnt.

    `dear`: the Hessian is not worth its cost.
    """
    few, joint = size <= FEW_DENSE, holds(term) and not is_separable(term)
    solver: Any = NewtonCG() if few or term is not None else LBFGS()
    why = "many parameters"
    if not is_separable(term) and not (joint and curved and few):
        solver, why = FISTA(), f"the prox of {type(term).__name__} is all it needs"
    elif not curved:
        solver = _unscaled(LBFGS() if term is None else ProjectedLBFGS())
        why = "no second derivatives: the loss holds a `jax.custom_vjp`"
    elif least_squares:
        solver, why = LevenbergMarquardt(products=not few), "a sum of squares"
    elif joint or (size <= FEW and not dear):
        solver, why = Newton(), "few parameters"
    elif few and dear:
        solver, why = BFGS() if term is None else ProjectedLBFGS(), "a Hessian costs many evaluations"
    return solver, f"{solver.name} (chosen: {why})"


def _choice_in_passes(size: int, term: Any, *, curved: bool, linear: bool, rows: int) -> tuple[Solver, str]:
    """Choose for passes over many rows: the Hessian of a sample is worth its cost where it is cheap and tells much."""
    cheap = size <= (FEW_LINEAR if linear else FEW_SAMPLED)
    if not is_separable(term) or not curved:
        return _choice(size, term, least_squares=False, curved=False)
    if cheap and size * PER_PARAM <= (rows or sys.maxsize):
        solver, why = SampledNewton(), "a mean over many rows"
    else:
        solver, why = LBFGS() if term is None else ProjectedLBFGS(), "a mean over many rows, many parameters"
        # The curvature of a network tells little beside where it is taken.
        solver = solver if linear else _unscaled(solver)
    return solver, f"{solver.name} (chosen: {why})"


def _unscaled(method: Any) -> Any:
    """Return the method without the Hessian that scales few params at its start."""
    unscaled = Traits.of(method).unscaled
    return method if unscaled is None else unscaled()
