"""What the loop and the stop rule ask of a method, with the answer of one that does not say."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.problem import Point, Problem


class Solver(Protocol):
    """Two pure functions: where to look first, and what to do after each evaluation.

    A state is a NamedTuple that has the fields of `unstarted`, and may have those of `Reported`.
    """

    def init(self, problem: Problem, params: jax.Array) -> Any:
        """Return the state that asks for the start `params` to be evaluated."""
        ...

    def step(self, problem: Problem, state: Any, trial: Point) -> Any:
        """Return the state after the evaluation that the last state asked for."""
        ...


def unstarted(problem: Problem, params: jax.Array) -> dict[str, Any]:
    """Return what the loop reads of every state, as it is before the start `params` is evaluated."""
    point, no, zero = problem.unevaluated(params), jnp.zeros((), bool), jnp.zeros((), params.dtype)
    return {
        "point": point,  # where the method stands; changes with a move alone
        "trial": params,  # where to look next
        "moved": no,  # the last trial was accepted
        "stuck": no,  # there is nowhere left to look
        "predicted_remaining": point.loss,  # decrease still to come; inf: nothing tells it yet; or `UNTOLD`
        "slope_decrease": zero,  # decrease over the last step, as the slopes at its ends tell it
        "stepsize": zero,  # of the last step
    }


UNTOLD = np.nan  # as `predicted_remaining`: the step tells nothing of it, and what was said before holds


class Tolerance(NamedTuple):
    """What a method's own estimate of the decrease left is worth: what `tol` is to it, by float type, and rounding."""

    default: dict[str, float]  # where the user asks for none
    margin: dict[str, float]  # what is demanded of the estimate, of the `tol` asked for
    agree: int  # evaluations in a row that must find no more left than rounding hides
    part: float  # of what rounding hides, the most that may be left

    def demanded(self, tol: Any, dtype: Any) -> jax.Array:
        """Return what the estimate must come to, where the user asks for `tol`; 0 stands for nothing."""
        default = self.default[str(dtype)]
        return jnp.where(tol > 0, jnp.maximum(self.margin[str(dtype)] * tol, jnp.minimum(tol, default)), default)


EVEN_MARGIN = {"float32": 1.0, "float64": 1.0}
# The parameters are far off where rounding begins to hide the loss, and the slopes still tell.
TOL = Tolerance({"float32": 1e-10, "float64": 1e-14}, EVEN_MARGIN, agree=5, part=0.01)
# With a model of the curvature, hardly a move more reaches what rounding hides.
TOL_COMPUTED = Tolerance({"float32": 1e-30, "float64": 1e-60}, EVEN_MARGIN, agree=2, part=0.01)
# One that is learnt may be much less where it is not seen yet.
TOL_LEARNT = Tolerance({"float32": 1e-30, "float64": 1e-60}, {"float32": 1e-5, "float64": 1e-9}, agree=3, part=1)


def keeps_none(size: int) -> int:
    """Return the bytes of the matrices that a method keeps for so many params."""
    del size
    return 0


def begun_anew(state: Any, other: Any, *, far: bool) -> Any:
    """Return the state as it is: nothing is taken over from another."""
    del other, far
    return state


class Traits(NamedTuple):
    """What a method declares of itself, as attributes of the same names; those of it that do not are as here."""

    exact_curvature: bool = False  # the curvature of its model is computed, not learnt from the moves
    full_hessian: bool = False  # and known in every direction
    consecutive_moves: int = 5  # that must meet the test of `tol`, where there are as many params
    tolerance: Tolerance = TOL  # what its estimate of the decrease left is worth
    scaled: bool = False  # it computes a Hessian where the params are few
    supported_terms: tuple[type, ...] = ()  # that may be added to the loss
    sum_of_squares: bool = False  # it is for these alone
    of_sample: bool = False  # its curvature is that of a sample of the rows
    name: str = ""  # what results call it
    memory: Callable[[int], int] = keeps_none  # bytes, in float64, of the matrices that it keeps
    carried: Callable[..., Any] = (
        begun_anew  # an unstarted state, with what another has learnt near or `far` from there
    )
    unscaled: Callable[[], Solver] | None = None  # the method without a Hessian at its start

    @classmethod
    def of(cls, solver: Any) -> Self:
        return _declared(cls, solver)


class Reported(NamedTuple):
    """What the state of a method may tell, beside what every state does; of shape ()."""

    saddle: Any = np.False_  # the curvature is negative somewhere
    lost: Any = np.False_  # a param has lost its influence on the loss
    doubt: Any = 0.0  # what rounding does to the loss, as far as the method knows
    norm: Any = None  # length of the gradient in the method's own scale
    ahead: Any = None  # how far the minimum of its model is
    products: Any = np.int32(0)  # with the Hessian, so far

    @classmethod
    def of(cls, state: Any) -> Self:
        return _declared(cls, state)


def _declared(kind: Any, given: Any) -> Any:
    return kind(**{name: getattr(given, name, default) for name, default in kind._field_defaults.items()})
