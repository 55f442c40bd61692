"""The loop: one for all methods, one evaluation a tick."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core import convergence
from jaxgd.core.numerics import in_one_kernel
from jaxgd.core.problem import Point, Problem, choose
from jaxgd.core.protocol import Solver, Traits
from jaxgd.core.stop import Counts, Status, Stop
from jaxgd.core.tiles import Span


class Track(NamedTuple):
    """What a trace keeps, a row a move, the start first."""

    loss: jax.Array  # shape (n,)
    grad_norm: jax.Array  # shape (n,): the largest component of the residual
    stepsize: jax.Array  # shape (n,)
    params: jax.Array  # shape (n, p)
    filled: jax.Array  # rows that are


class Run(NamedTuple):
    """Everything that changes in a solve."""

    # With each evaluation:
    state: Any  # the solver's own
    evidence: jax.Array  # an `Evidence`, packed
    counts: jax.Array  # `Counts`, packed
    # With each one that is better:
    best: Point
    # With each move:
    trace: Track | None

    @property
    def status(self) -> jax.Array:
        return Counts.of(self.counts).status

    @property
    def evals(self) -> jax.Array:
        return Counts.of(self.counts).evals

    @property
    def moves(self) -> jax.Array:
        return Counts.of(self.counts).moves


def begin(problem: Problem, solver: Solver, params: jax.Array, trace: int = 0) -> Run:
    """Return a run that has evaluated nothing; `trace` is how many moves to keep."""
    state = solver.init(problem, params)
    line, rows = jnp.zeros(trace, params.dtype), jnp.zeros((trace, params.size), params.dtype)
    track = Track(loss=line, grad_norm=line, stepsize=line, params=rows, filled=jnp.zeros((), jnp.int32))
    return Run(
        state=state,
        evidence=convergence.no_evidence(params.dtype),
        counts=jnp.asarray(Counts().pack()),
        best=problem.unevaluated(params),
        trace=track if trace else None,
    )


def tick(problem: Problem, solver: Solver, stop: Stop, run: Run) -> Run:
    """Evaluate where the solver asks, tell it, and judge."""
    return learn(problem, solver, stop, run, problem.evaluate(run.state.trial))


def learn(problem: Problem, solver: Solver, stop: Stop, run: Run, trial: Point) -> Run:
    """Tell the solver what was found where it asked, and judge."""
    if Traits.of(solver).exact_curvature:
        return _learnt(problem, solver, stop, run, trial)  # it may call a library: the loss is in it

    def learnt(carry: tuple[Run, Point]) -> tuple[Run, Point]:
        run = _learnt(problem, solver, stop, *carry)
        return run, run.best

    return in_one_kernel(learnt, (run, trial))[0]


def _learnt(problem: Problem, solver: Solver, stop: Stop, run: Run, trial: Point) -> Run:
    state = solver.step(problem, run.state, trial)
    _, clear = convergence.far_ahead(problem, run.best)
    counts, seen, better = stop.judge(solver, run, trial, state, clear)
    best, claim = choose(better, trial, run.best), convergence.Evidence.unpack(seen)
    aim = jnp.where(claim.looks_ahead, convergence.far_ahead(problem, best)[0], state.trial)
    if not Traits.of(solver).exact_curvature:
        aim = jnp.where(claim.claims, problem.project(convergence.probe(best)), aim)
    state = state._replace(trial=aim)
    return Run(
        state=state,
        evidence=seen,
        counts=counts,
        best=best,
        trace=run.trace and _record(run.trace, state, state.moved | (run.evals == 0)),
    )


def advance(problem: Problem, solver: Solver, stop: Stop, run: Run, ticks: jax.Array | int | None = None) -> Run:
    """Tick until there is a verdict, or `ticks` evaluations were made (None: no limit)."""
    until = None if ticks is None else run.evals + ticks

    def going(run: Run) -> jax.Array:
        running = run.status == Status.RUNNING
        return running if until is None else running & (run.evals < until)

    return jax.lax.while_loop(going, lambda run: tick(problem, solver, stop, run), run)


class Minibatches(NamedTuple):
    """What steps over minibatches have come to."""

    state: Any  # the solver's own
    losses: jax.Array  # shape (2,): sum of the losses, and of their squares
    params: jax.Array  # sum of the params


def minibatches(
    bind: Callable[[Span], tuple[Problem, Solver]], span: Span, sums: Minibatches, order: jax.Array, count: jax.Array
) -> Minibatches:
    """Step once for each of the first `count` minibatches, the rows of `span` that a row of `order`, int32, numbers."""

    def one(at: jax.Array, sums: Minibatches) -> Minibatches:
        rows = order[at]
        own, weights = jax.tree.map(lambda leaf: leaf[rows], (span.rows, span.weights))
        whole = Span(rows=own, weights=weights, start=jnp.int32(0), stop=jnp.int32(rows.size), total=span.total)
        problem, solver = bind(whole)
        trial = problem.evaluate(sums.state.trial)
        losses = sums.losses + jnp.stack([trial.loss, trial.loss**2])
        return Minibatches(solver.step(problem, sums.state, trial), losses, sums.params + trial.params)

    return jax.lax.fori_loop(0, count, one, sums)


def _record(track: Track, state: Any, moved: jax.Array) -> Track:
    """Append the point moved to; moves beyond the last row are not kept."""
    point = state.point
    largest = jnp.max(jnp.abs(point.residual))
    # An index out of range is dropped, so that a step that is no move writes nothing.
    at = jnp.where(moved, track.filled, track.loss.size)
    return Track(
        loss=track.loss.at[at].set(point.loss, mode="drop"),
        grad_norm=track.grad_norm.at[at].set(largest, mode="drop"),
        stepsize=track.stepsize.at[at].set(state.stepsize, mode="drop"),
        params=track.params.at[at].set(point.params, mode="drop"),
        filled=track.filled + moved,
    )
