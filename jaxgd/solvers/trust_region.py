"""Trust-region methods: a quadratic model of the loss, minimized as far as it has proved to hold."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import pack, products, safe_norm
from jaxgd.core.problem import Point, Problem, choose, rounding
from jaxgd.core.protocol import TOL_COMPUTED, TOL_LEARNT, Tolerance, unstarted
from jaxgd.core.scaling import balanced, equilibrated, or_one, or_slope, scaling_of, without_influence
from jaxgd.core.terms import L1, Ball, Box, Simplex
from jaxgd.solvers.hessian import Curvature, Exact, Products, SumOfSquares
from jaxgd.solvers.hessian_lbfgs import LimitedMemoryHessian
from jaxgd.solvers.hessian_subsampled import Sampled
from jaxgd.solvers.subproblem import Step, limits
from jaxgd.solvers.subproblem_constrained import within_set
from jaxgd.solvers.subproblem_exact import Dense

REACH = 1  # the first radius over the length of the params
ACCEPT = 1e-4  # least part of the decrease promised that a move must bring


class RegionState(NamedTuple):
    """Where a trust-region method stands."""

    # With each move, as in `unstarted`:
    point: Point
    # With each evaluation, likewise:
    trial: jax.Array
    moved: jax.Array
    stuck: jax.Array
    predicted_remaining: jax.Array  # by the model; inf where it has no minimum
    slope_decrease: jax.Array
    stepsize: jax.Array  # the scaled length
    # And as in `Reported`:
    products: jax.Array
    saddle: jax.Array
    lost: jax.Array
    ahead: jax.Array
    doubt: jax.Array
    # And for the next step:
    solved: jax.Array  # the model of this point was minimized without a radius
    unknown: jax.Array  # fewest directions, so far, whose curvature was rounding; inf: none was counted
    radius: jax.Array  # see `limits`
    predicted_reduction: jax.Array  # decrease of the model at the trial
    slope: jax.Array  # of the term, on the face of it that the trial lies on, shape (p,); 0 where there is no term
    memory: Any  # of the curvature


@partial(jax.tree_util.register_dataclass, data_fields=["curvature"], meta_fields=["name"])
@dataclass(frozen=True)
class TrustRegion:
    """Minimize a model within a distance, which grows and shrinks with how well the model foretells the loss.

    Nocedal and Wright, Numerical Optimization (2006), algorithm 4.1; the distance is scaled by the diagonal of the
    Hessian, so that the units of the parameters do not matter (More, 1978). With the l1 norm, each model is solved on
    the face where the signs of the parameters are as the slopes have them (Andrew and Gao, ICML 2007).
    """

    curvature: Curvature
    name: str

    @property
    def supported_terms(self) -> tuple[type, ...]:
        return (Box, L1, Simplex, Ball) if self.full_hessian else (Box, L1)

    @property
    def consecutive_moves(self) -> int:
        return self.curvature.consecutive_moves

    @property
    def exact_curvature(self) -> bool:
        return self.curvature.exact_curvature

    @property
    def tolerance(self) -> Tolerance:
        return TOL_COMPUTED if self.exact_curvature else TOL_LEARNT

    @property
    def full_hessian(self) -> bool:
        return self.curvature.full_hessian

    @property
    def sum_of_squares(self) -> bool:
        return self.curvature.sum_of_squares

    @property
    def of_sample(self) -> bool:
        return self.curvature.of_sample

    @property
    def scaled(self) -> bool:
        return self.curvature.scaled

    def memory(self, size: int) -> int:
        return 3 * 8 * size**2 if self.full_hessian else 0  # a Hessian, its scaled copy and its spectrum

    def unscaled(self) -> "TrustRegion":
        return replace(self, curvature=self.curvature.unscaled())

    def carried(self, state: RegionState, other: RegionState, *, far: bool) -> RegionState:
        return state._replace(memory=self.curvature.moved_on(other.memory) if far else other.memory)

    def init(self, problem: Problem, params: jax.Array) -> RegionState:
        no, zero, inf = jnp.zeros((), bool), jnp.zeros((), params.dtype), jnp.full((), jnp.inf, params.dtype)
        return RegionState(
            **unstarted(problem, params),
            products=jnp.full((), scaling_of(params.size) if self.curvature.scaled else 0, jnp.int32),
            saddle=no,
            lost=no,
            ahead=zero,
            doubt=zero,
            solved=no,
            unknown=inf,
            radius=inf,
            predicted_reduction=zero,
            slope=zero if problem.term is None else jnp.zeros_like(params),
            memory=self.curvature.begin(problem, params),
        )

    def step(self, problem: Problem, state: RegionState, trial: Point) -> RegionState:
        """Accept the trial or not, set the radius by how well the model foretold the loss, and solve the model."""
        rule = self.curvature
        doubt = rule.doubt(state.memory, state.point, trial)
        verdict = judge(state.point, trial, state.predicted_reduction, state.slope, doubt)
        moved = verdict.moved
        point = choose(moved, trial, state.point)
        memory = rule.learn(problem, state.memory, state.point, trial, moved)
        model = rule.model(problem, memory, point)
        radius, length = verdict.radius(state.radius, state.memory.scale, model.scale)
        if self.full_hessian:
            # What one point tells of the curvature is not believed beyond a change by all their size of the params.
            far = REACH * jnp.sqrt(jnp.sum((model.scale * point.params) ** 2))
            radius = jnp.where(limits(radius) | (far == 0), radius, far)
        step, aim, slope = _aimed(problem, model, point, radius, state.slope)
        lost = ~moved & (jnp.all(aim == point.params) | ~state.point.evaluated)
        solved = (~moved & state.solved) | ~limits(radius) | self.full_hessian
        left = rule.predicted_remaining(memory, step)
        again: Any = False
        if self.exact_curvature:
            # Cut short by the radius the model does not say what is left: it is minimized without, before the end.
            left = jnp.where(moved | jnp.isfinite(left), left, state.predicted_remaining)
            again = lost & ~solved
        # What was learnt may be wrong: the model is tried once more without it.
        memory, other = rule.forget(memory, lost)
        again = again | other
        gone: Any = False
        if self.full_hessian:
            gone = without_influence(memory.own, memory.most, point.vectors, point.loss, problem.term)
        return RegionState(
            point=point,
            trial=aim,
            moved=moved,
            stuck=lost & jnp.logical_not(again),
            predicted_remaining=left,
            slope_decrease=verdict.slope_decrease,
            stepsize=length,
            products=state.products + rule.cost(memory, step, moved),
            saddle=step.endless,
            lost=(step.unknown > state.unknown) | jnp.any(gone),
            ahead=jnp.sqrt(jnp.sum(step.newton**2)),
            doubt=jnp.asarray(doubt[0], trial.loss.dtype),
            solved=solved,
            unknown=jnp.fmin(step.unknown, state.unknown),
            radius=jnp.where(lost & step.at_edge(model.scale), jnp.inf, step.radius),
            predicted_reduction=step.predicted_reduction,
            slope=slope,
            memory=memory,
        )


def _aimed(problem: Problem, model: Any, point: Point, radius: jax.Array, slope: jax.Array) -> tuple[Step, Any, Any]:
    """Return the step within the radius that keeps the term, where it leads, and the slope of the term there."""
    if problem.term is None:
        step = model.minimize_within(point.grad, jnp.ones_like(point.params), radius)
        return step, point.params + step.move, slope
    term: Any = problem.term
    allowed, slope = term.face(point.params, point.grad)
    step = within_set(model, slope, radius, point.params, allowed)
    return step, allowed.prox(point.params + step.move), slope


def newton_step(problem: Problem, point: Point, hessian: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the decrease left by the Hessian at a point, inf at a saddle, and where it leads, shape `(p,)`.

    A step is no longer than in the first move of the method.
    """
    hessian = or_slope(hessian, point.norm)
    scale = or_one(equilibrated(hessian))
    model = Dense.around(point, scale, balanced(hessian, scale))
    far = REACH * jnp.sqrt(jnp.sum((scale * point.params) ** 2))
    step, aim, _ = _aimed(problem, model, point, jnp.where(far > 0, far, jnp.inf), jnp.zeros_like(point.params))
    return step.predicted_remaining, aim


def Newton() -> TrustRegion:  # noqa: N802 - a method is named as in the literature
    """Return Newton's method in a trust region, with the whole Hessian: for few parameters."""
    return TrustRegion(Exact(), "trust-region Newton")


def NewtonCG() -> TrustRegion:  # noqa: N802
    """Return Newton's method in a trust region, by conjugate gradients with Hessian-vector products: for many."""
    return TrustRegion(Products(), "trust-region Newton with conjugate gradients")


def ProjectedLBFGS(memory: int = 10) -> TrustRegion:  # noqa: N802
    """Return limited-memory BFGS in a trust region, which keeps bounds; `memory` moves are remembered."""
    if not isinstance(memory, int) or memory < 1:
        msg = f"`memory` must be a positive integer; got {memory!r}. The usual values are 5 to 20."
        raise ValueError(msg)
    return TrustRegion(LimitedMemoryHessian(memory), f"projected L-BFGS with memory {memory}")


def SampledNewton() -> TrustRegion:  # noqa: N802
    """Return Newton's method in a trust region, its Hessian from a sample of rows, corrected by the moves: for `Rows`.

    Where no rows are declared, all are the sample.
    """
    return TrustRegion(Sampled(), "trust-region Newton, the Hessian from a sample of rows")


def LevenbergMarquardt(*, products: bool = False) -> TrustRegion:  # noqa: N802
    """Return Levenberg and Marquardt's method for sums of squares, in a trust region.

    With `products` it takes the Jacobian's products with vectors, by conjugate gradients: for many parameters.
    """
    if products:
        return TrustRegion(Products(sum_of_squares=True), "Levenberg-Marquardt with conjugate gradients")
    return TrustRegion(SumOfSquares(), "Levenberg-Marquardt")


class StepVerdict(NamedTuple):
    """What a trial says of the model that led there."""

    moved: jax.Array
    slope_decrease: jax.Array
    ratio: jax.Array  # decrease over the decrease promised
    move: jax.Array  # zeros from nowhere to the start
    shorter: jax.Array  # the part of the move to allow next, where it was refused

    def radius(self, radius: jax.Array, before: jax.Array, after: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the next radius, in the scale `after`, given the last in the scale `before`, and the move's length."""
        scaled = pack(before * self.move, after * self.move)
        (square, _), (_, other) = products(scaled, scaled)
        old, new = safe_norm(pack(square, other), jnp.sum(jnp.abs(scaled), axis=1))
        grown = jnp.where(old > 0, radius * (new / jnp.where(old > 0, old, 1)), radius)
        good = jnp.where((self.ratio > 0.75), jnp.maximum(grown, 2.5 * new), grown)  # noqa: PLR2004
        fair = jnp.where(self.ratio < 0.25, new / 3, good)  # noqa: PLR2004
        refused = jnp.where(old > 0, self.shorter * jnp.minimum(new, grown), radius / 4)
        return jnp.maximum(jnp.where(self.moved, fair, refused), jnp.finfo(radius.dtype).tiny), old


def judge(
    point: Point, trial: Point, predicted_reduction: jax.Array, slope: jax.Array, doubt: Any = (0, 0)
) -> StepVerdict:
    """Say whether to move from the point to the trial; the start, reached from nowhere, is taken if it is finite.

    `doubt`: what rounding does to the loss, where that is known to be more than its own, and to the decrease that the
    slopes tell; below both the model is believed.
    """
    move = trial.params - point.params
    slopes = products(pack(point.grad + slope, trial.grad + slope), move[None])[:, 0]
    gain, drop = -jnp.sum(slopes) / 2, point.loss - trial.loss
    # Where rounding hides the decrease, the slopes at both ends still tell it.
    clear = jnp.abs(drop) > jnp.maximum(rounding(point.loss), doubt[0])
    sure = jnp.where(clear, drop, gain)
    ratio = sure / jnp.where(predicted_reduction > 0, predicted_reduction, jnp.inf)
    # A move of no length is none, or the same would be made for ever.
    believed = ~clear & (jnp.abs(gain) <= doubt[1]) & (predicted_reduction > 0) & jnp.any(move != 0)
    ratio = jnp.where(believed, 1, ratio)
    fine, first = trial.finite, ~point.evaluated
    moved = fine & (first | (ratio > ACCEPT))
    # The minimizer of the parabola through both losses and the slope; too far is too far where the trial is not finite.
    excess = trial.loss - point.loss - slopes[0]
    shorter = jnp.where(fine & (excess > 0), jnp.clip(-slopes[0] / (2 * excess), 0.05, 0.5), 0.1)
    ratio, move = jnp.where(first, 0.5, ratio), jnp.where(first, 0, move)
    return StepVerdict(moved=moved, slope_decrease=gain, ratio=ratio, move=move, shorter=shorter)
