"""The loop: one for all methods, one evaluation a tick."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxgd.flat import once, pack
from jaxgd.problem import Point, Problem, choose, rounding
from jaxgd.stop import CALM, Evidence, Status, Stop


class Solver(Protocol):
    """Two pure functions: where to look first, and what to do after each evaluation."""

    def init(self, problem: Problem, params: jax.Array) -> Any:
        """Return the state that asks for the start `params`, shape `(p,)`, to be evaluated."""
        ...

    def step(self, problem: Problem, state: Any, trial: Point) -> Any:
        """Return the state after the evaluation that the last state asked for."""
        ...


class Rows(NamedTuple):
    """What a trace keeps, a row a move, the start first; `filled` says how many."""

    loss: jax.Array  # shape (n,)
    grad_norm: jax.Array  # shape (n,)
    stepsize: jax.Array  # shape (n,)
    params: jax.Array  # shape (n, p)
    filled: jax.Array


class Run(NamedTuple):
    """Everything that changes in a solve."""

    state: Any  # the solver's own
    best: Point
    evidence: jax.Array  # an `Evidence`, packed
    counts: jax.Array  # int32, shape (4,): status, evaluations, moves, Hessian-vector products
    rows: Rows | None

    @property
    def status(self) -> jax.Array:
        """The `Status`, an int32."""
        return self.counts[0]

    @property
    def evals(self) -> jax.Array:
        """Evaluations of loss and gradient."""
        return self.counts[1]

    @property
    def moves(self) -> jax.Array:
        """Accepted steps."""
        return self.counts[2]


def begin(problem: Problem, solver: Solver, stop: Stop, params: jax.Array, trace: int = 0) -> Run:
    """Return a run that has evaluated nothing; `trace` is how many moves to keep."""
    state = solver.init(problem, params)
    line = jnp.zeros(trace, params.dtype)
    rows = Rows(line, line, line, jnp.zeros((trace, params.size), params.dtype), jnp.zeros((), jnp.int32))
    best = problem.nowhere(params)
    return Run(state, best, stop.begin(params.dtype), jnp.zeros(4, jnp.int32), rows if trace else None)


def tick(problem: Problem, solver: Solver, stop: Stop, run: Run) -> Run:
    """Evaluate where the solver asks, tell it, and judge."""
    before = run.state.point
    trial = problem.at(run.state.trial)
    state = solver.step(problem, run.state, trial)
    evals = run.evals + 1
    computed = getattr(solver, "computed", False)
    evidence = stop.weigh(run.evidence, before, state, computed=computed)
    calm, whole = getattr(solver, "calm", CALM), getattr(solver, "whole", False)
    status = stop.judge(evidence, state, trial, evals, calm, whole=whole)
    moves = run.moves + (state.moved & (evals > 1))
    return Run(
        state=state,
        best=choose(_better(trial, run.best, run.evidence, run.evals), trial, run.best),
        evidence=evidence,
        counts=pack(status, evals, moves, getattr(state, "products", jnp.zeros((), jnp.int32))),
        rows=run.rows and _record(run.rows, state, state.moved | (evals == 1)),
    )


def advance(problem: Problem, solver: Solver, stop: Stop, run: Run, ticks: jax.Array | int | None = None) -> Run:
    """Tick until there is a verdict, or `ticks` evaluations were made (None: no limit)."""
    until = None if ticks is None else run.evals + ticks

    def going(run: Run) -> jax.Array:
        running = run.status == Status.RUNNING
        return running if until is None else running & (run.evals < until)

    return jax.lax.while_loop(going, lambda run: tick(problem, solver, stop, run), run)


def _better(trial: Point, best: Point, evidence: jax.Array, evals: jax.Array) -> jax.Array:
    """Lower, or equal to rounding with a shorter gradient; the start is taken whatever it is."""
    noise = rounding(best.loss)
    finite = jnp.isfinite(trial.loss) & jnp.isfinite(trial.norm)
    level = (trial.loss <= best.loss + noise) & (trial.norm < best.norm)
    level = level & (trial.loss <= Evidence.unpack(evidence).first)
    better = (evals == 0) | (finite & ((trial.loss < best.loss - noise) | level))
    return once(better, best.norm)


def _record(rows: Rows, state: Any, moved: jax.Array) -> Rows:
    """Append the point moved to; moves beyond the last row are not kept."""
    point = state.point
    largest = jnp.max(jnp.abs(point.residual))
    # An index out of range is dropped, so that a step that is no move writes nothing.
    at = jnp.where(moved, rows.filled, rows.loss.size)
    return Rows(
        rows.loss.at[at].set(point.loss, mode="drop"),
        rows.grad_norm.at[at].set(largest, mode="drop"),
        rows.stepsize.at[at].set(state.stepsize, mode="drop"),
        rows.params.at[at].set(point.params, mode="drop"),
        rows.filled + moved,
    )
