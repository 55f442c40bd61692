"""Descent by minibatches over the same rows: shuffled anew each pass, stopped when noise is all that is left."""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.build import Ask
from jaxgd.compile.program import Answer, Inputs, Program, Solution
from jaxgd.core import convergence
from jaxgd.core.stop import DEFAULT, Counts, PassFacts, Status, Stop, ended_above_start
from jaxgd.rows import build, full_batch
from jaxgd.rows.between_passes import AllRows, Without
from jaxgd.rows.in_memory import filled, span_of
from jaxgd.rows.rows import Rows
from jaxgd.rows.shuffle import Batches, Shuffled, Sums, passed_over
from jaxgd.solvers.gradient_descent import GradientDescent
from jaxgd.solvers.optax import Optax
from jaxgd.solvers.registry import named
from jaxgd.watch.checkpoint import Saved
from jaxgd.watch.failures import where_not_finite
from jaxgd.watch.resume import about, taken_apart, together
from jaxgd.watch.session import Stage, Watching, resumable
from jaxgd.watch.snapshot import ENDED_FROM_OUTSIDE, Seen

MATTERS = 1e-4  # of the decrease made, what a pass must add to be more than noise
SURE = 3  # standard errors by which every pass is above the loss at the start, where the steps do harm
NOT_POLISHED = (*ENDED_FROM_OUTSIDE, Status.MAX_EVALS)


def solve_by_minibatches(ask: Ask, rows: Rows, watch: Watching) -> Solution:
    """Descend by minibatches; what is asked later is answered over all rows."""
    batches = ask.batch_size if isinstance(ask.batch_size, Batches) else Batches(size=ask.batch_size)
    _refuse(ask, batches)
    auto = ask._replace(method="auto", stop=DEFAULT)
    program, given, note = build.prepare_rows(auto, rows, passes=True)
    count = full_batch.sample_size(program, rows)
    all_rows = AllRows(program, given, full_batch.passes_over(program, given, rows, ask.dtype, count), count)
    program, own, _ = build.prepare_rows(ask, rows, tile=batches.size)
    over_all, first = (all_rows.program, given), all_rows.first
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first.loss, first.grad))):
        counts = Counts(Status.BAD_START).pack()
        note += where_not_finite(given, all_rows.own.not_finite(), first)
        return Solution(program, first._replace(counts=counts), note=note, source=over_all)
    descent = _Descent((program, own), all_rows, batches, rows, ask)
    of = [float(first.loss), all_rows.own.total]
    stage = watch.stage(lambda: about(program, own._replace(data=None), of) | {"batches": str(batches)})
    passed = descent.run(watch, stage)
    status, best = descent.verdict(passed)
    counts = Counts(status, passed.steps, passed.steps).pack()
    run = descent.saved(passed, stage) if watch and (resumable(status) or batches.polish) else None
    spare = _spare(ask.stop.max_evals, passed.steps)
    if not batches.polish or status in NOT_POLISHED or spare < 1:
        note += " With `polish=True` the rest is done over all rows." if status is Status.MAX_PASSES else ""
        run = run if resumable(status) else None
        return Solution(program, best._replace(counts=counts), note=note, run=run, source=over_all)
    if run is not None:
        watch.finish(run)
    stop = dataclasses.replace(ask.stop, tol=ask.stop.tol or None, max_evals=spare)
    polish, given, _ = build.prepare_rows(auto._replace(stop=stop, init=best.params), rows, passes=True)
    more = full_batch.solve_by_passes(polish, given, rows, ask.dtype, watch)
    counts = np.asarray(more.answer.counts) + Counts(evals=passed.steps, moves=passed.steps).pack()
    note += more.note + " It ended with passes over all rows."
    return more._replace(answer=more.answer._replace(counts=counts), note=note, source=over_all)


def _limit(stop: Stop) -> float:
    """Return how many minibatches there may be: the default is for evaluations over all rows."""
    return np.inf if stop.max_evals == DEFAULT.max_evals else stop.max_evals


def _spare(most: int, steps: int) -> int:
    """Return how many evaluations over all rows there may be after so many of minibatches."""
    return most if most == DEFAULT.max_evals else most - steps


def _refuse(ask: Ask, batches: Batches) -> None:
    """Refuse methods that noise leads astray, and tests that it would meet."""
    method = named(ask.method)
    if not isinstance(method, Optax | GradientDescent) or (isinstance(method, Optax) and method.evaluates()):
        msg = (
            f"`batch_size={ask.batch_size!r}` is for optax transformations without a search, as optax.adam(1e-3),"
            f" and for `GradientDescent`; got method={ask.method!r}. Without `batch_size`, all rows are used."
        )
        raise ValueError(msg)
    if jax.process_count() > 1:
        msg = "`batch_size` is for one process: what several make of their minibatches would go apart."
        raise ValueError(msg)
    for name in ("xtol", "ftol"):
        if (value := getattr(ask.stop, name)) is not None:
            msg = (
                f"`{name}={value}` cannot be had with `batch_size`: it is of a single move, mostly noise there."
                " Use `gtol` or `tol`, which are tested over all rows between passes, or `max_evals`."
            )
            raise ValueError(msg)
    if ask.stop.tol and batches.validation:
        msg = (
            f"`tol={ask.stop.tol}` cannot be had with `validation={batches.validation}`: it is of the loss of all rows,"
            " and those held out tell when to stop. Leave one of them out."
        )
        raise ValueError(msg)
    if ask.trace:
        msg = "`trace=True` cannot be had with `batch_size`: moves are too many. Use `progress=True`."
        raise ValueError(msg)


class Passed(NamedTuple):
    """What passes have come to."""

    state: Any  # the solver's own
    lowest: Any  # shape (2, p): params at the end of the lowest pass, and their mean over it
    best: Any = np.inf  # measure of that pass
    highest: Any = -np.inf  # of any pass
    least: Any = np.inf  # loss that a pass may have had, but for noise
    most: Any = np.inf  # loss that the last pass may have had, but for noise
    steps: Any = 0
    number: Any = 0  # of passes
    waited: Any = 0  # of these since the lowest
    predicted_remaining: Any = np.inf  # decrease that all rows say is left
    status: Any = 0

    def plain(self) -> "Passed":
        """Return it with the numbers as Python has them."""
        return self._replace(**{name: getattr(self, name).item() for name in self._fields[2:]})


class _Descent:
    """Passes over minibatches."""

    def __init__(self, own: tuple[Program, Inputs], all_rows: AllRows, batches: Batches, rows: Rows, ask: Ask) -> None:
        (self._program, self._given), self._whole, self._batches = own, all_rows, batches
        self._rows, self._stop, self._limit = (
            Shuffled(self._given, rows, batches, ask.dtype),
            ask.stop,
            _limit(ask.stop),
        )
        self._matters = max(MATTERS, ask.stop.tol or 0)
        self._uncut: Passed | None = None  # where the last pass was cut, what was before it

    def run(self, watch: Watching, stage: Stage) -> Passed:
        """Pass over the rows until there is nothing but noise, or a watcher ends it."""
        bare = self._given._replace(data=None)
        state = self._program.begin(bare).state
        passed = Passed(state, np.stack([np.asarray(state.trial)] * 2))
        if (found := stage.resumed(but=("stop",))) is not None:
            passed = together("passed", found[0], jax.tree.map(np.asarray, passed)).plain()
        if passed.status in (*ENDED_FROM_OUTSIDE, Status.MAX_EVALS):
            passed = passed._replace(status=0)
        elif self._is_small(self._whole.first):
            passed = passed._replace(status=int(Status.SMALL_GRADIENT))
        watch.show()
        words = ""

        def look() -> Status:
            answer, save = partial(self._answer, passed), partial(self.saved, passed, stage)
            return watch.look(Seen(passed.steps, passed.steps, answer, save, Status(passed.status), words=words))

        try:
            while not passed.status:
                passed, words = self._after(passed)
                passed = passed if passed.status else passed._replace(status=int(look()))
        except KeyboardInterrupt:
            passed = passed._replace(status=int(watch.interrupted()))
        look()
        return passed

    def saved(self, passed: Passed, stage: Stage) -> Saved:
        """Return the solve as far as whole passes have come."""
        return stage.saved(taken_apart("passed", self._uncut or passed))

    def verdict(self, passed: Passed) -> tuple[Status, Answer]:
        """Return the status, and the lowest point of those at hand over all rows."""
        found, status = self._whole.better(passed.lowest), Status(passed.status)
        if status is Status.SMALL_GRADIENT:
            found = [*filter(self._is_small, found)]
        if not found and passed.number and passed.least > self._whole.height(self._whole.first):
            status = ended_above_start(status)
        return status, self._whole.judged(found[0] if found else self._whole.first, passed.predicted_remaining)

    def _answer(self, passed: Passed) -> Answer:
        """Return the params of the lowest pass, and the loss averaged over it."""
        layout, nothing = self._program.layout(self._given.init), convergence.no_evidence(self._program.dtype)
        params, loss = layout.unflatten(jnp.asarray(passed.lowest[0])), self._program.recipe.sign * passed.best
        return Answer(params, loss, None, None, (), jnp.asarray(Counts().pack()), nothing)

    def _after(self, passed: Passed) -> tuple[Passed, str]:
        """Return what one more pass comes to, and what to say of it."""
        number, batches = passed.number + 1, self._batches
        if passed.steps >= self._limit:
            return passed._replace(status=int(Status.MAX_EVALS)), ""
        found = passed_over(self._program, self._given, self._rows, passed.state, number, self._limit - passed.steps)
        words = f"pass={number} loss={self._program.recipe.sign * found.mean:.8g} +- {found.error:.1g}"
        if found.cut:
            self._uncut, lowest = passed, np.concatenate([passed.lowest, found.ends])
            cut = passed._replace(lowest=lowest, steps=passed.steps + found.steps, status=int(Status.MAX_EVALS))
            return cut, words
        measure = found.mean if not batches.validation else self._without().held(found.ends[0])
        highest, fine = max(passed.highest, measure), bool(np.isfinite([measure, found.error]).all())
        falls = number == 1 or measure < passed.best - self._matters * (highest - passed.best)
        lower, rising = fine and measure < passed.best, found.mean > passed.most
        passed = Passed(
            state=found.state,
            lowest=found.ends if lower else passed.lowest,
            best=measure if lower else passed.best,
            highest=highest,
            least=min(passed.least, found.mean - SURE * found.error),
            most=found.mean + SURE * found.error,
            steps=passed.steps + found.steps,
            number=number,
            waited=0 if falls else passed.waited + 1,
        )
        return self._judged(passed, found, finite=fine, rising=rising), words

    def _judged(self, passed: Passed, found: Sums, *, finite: bool, rising: bool) -> Passed:
        """Return it with its status: passes that bring little are an end where all rows say the same.

        Where the loss is `rising` by more than noise the steps do harm.
        """
        small = finite and self._stop.gtol is not None and any(map(self._is_small, self._whole.better(found.ends)))
        seen = PassFacts(finite, small, np.inf, 0.0, 0.0, last=passed.number == self._batches.passes)
        if small:
            passed = passed._replace(lowest=found.ends)
        elif finite and not rising and passed.waited >= self._batches.patience:
            left, near, noise = self._at_rest(passed, found.error)
            passed, seen = passed._replace(waited=0, predicted_remaining=left), seen._replace(near=near, noise=noise)
            # What a polish finds out is not asked before.
            seen = seen._replace(left=0.0 if self._batches.polish else left)
        return passed._replace(status=int(seen.status()))

    def _at_rest(self, passed: Passed, error: float) -> tuple[float, float, float]:
        """Return what all rows say is left where the passes bring little, what `tol` lets be, and what noise hides."""
        all_rows, part, tol = self._whole, self._batches.validation, self._stop.tol
        if self._batches.polish:
            return np.inf, 0.0, error
        best, near = (*all_rows.better(passed.lowest), all_rows.first)[0], 0.0
        if part:
            error *= math.sqrt((1 - part) / part)  # that of the rows held out, which are fewer
        elif tol is not None:
            near = float(self._program.traits.tolerance.demanded(tol, self._program.dtype)) * all_rows.decrease(best)
        left = all_rows.remaining(best, max(error, near), self._without() if part else None)
        return left, near, error

    def _is_small(self, answer: Answer) -> bool:
        """Whether the gradient over all rows is as small as `gtol` asks."""
        slopes = jax.tree.leaves(answer.grad if answer.residual is None else answer.residual)
        return self._stop.gtol is not None and all(np.max(np.abs(leaf)) <= self._stop.gtol for leaf in slopes)

    def _without(self) -> Without:
        """Return the passes without the rows held out."""
        data, all_rows = self._rows.held_out, self._whole
        if not data:
            msg = f"`validation={self._batches.validation}` holds out no row of so few. Give a larger part, or 0."
            raise ValueError(msg)
        span = span_of(data, self._program.dtype)
        given = all_rows.given._replace(data=filled(span, all_rows.program.recipe.tile))
        return Without(all_rows.own, partial(all_rows.program.slopes, given), float(span.total))
