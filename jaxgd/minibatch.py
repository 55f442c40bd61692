"""Descent by minibatches over the same rows: shuffled anew each pass, stopped when noise is all that is left."""

import contextlib
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd import evidence, prepare_rows, sweep
from jaxgd.batches import Batches, Shuffled
from jaxgd.methods import named
from jaxgd.origin import One
from jaxgd.passes import Pass, filled, span_of
from jaxgd.prepare import Ask
from jaxgd.program import Answer, Inputs, Program
from jaxgd.resume import about, taken_apart, together
from jaxgd.rows import Rows
from jaxgd.run import Minibatches
from jaxgd.saved import Saved
from jaxgd.seen import ENDED_FROM_OUTSIDE, Seen
from jaxgd.solve import Solved, blame
from jaxgd.solvers.optax import Optax
from jaxgd.solvers.proximal import GradientDescent
from jaxgd.stop import DEFAULT, Status
from jaxgd.watching import Stage, Watching, resumable

NOTHING = np.zeros(4, np.int32)  # counts, before anything is counted
MATTERS = 1e-4  # of the decrease made, what a pass must add to be more than noise
SURE = 3  # standard errors by which every pass is above the loss at the start, where the steps do harm


def solve(ask: Ask, rows: Rows, watch: Watching) -> tuple[Program, Solved, str]:
    """Return the program, what came of it, and what the user should know."""
    batches = ask.batch_size if isinstance(ask.batch_size, Batches) else Batches(size=ask.batch_size)
    _refuse(ask)
    whole, given, note = prepare_rows.prepare(ask._replace(method="auto", stop=DEFAULT), rows, passes=True)
    program, own, _ = prepare_rows.prepare(ask, rows, tile=batches.size)
    own_pass = sweep.passes_over(whole, given, rows, ask.dtype, sweep.sample_size(whole, rows))
    start = np.asarray(whole.first(given._replace(data=None)))
    descent = _Descent((program, own), (whole, given), batches, rows, ask.dtype)

    told = partial(_told, whole, given._replace(data=None), own_pass)

    def height(answer: Answer) -> float:
        return program.recipe.sign * float(answer.loss)

    first = told(start)
    fine = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((first.loss, first.grad)))
    source = One(whole, given, rows, ask.dtype)
    if not fine:
        counts = np.array([Status.BAD_START, 0, 0, 0], np.int32)
        return program, Solved(first._replace(counts=counts)), note + blame(given, own_pass.not_finite())
    of = [float(first.loss), own_pass.total]
    stage = watch.stage(lambda: about(program, own._replace(data=None), of) | {"batches": str(batches)})
    passed = descent.run(watch, stage)
    status = Status(passed.status)
    better = [found for found in map(told, passed.lowest) if height(found) < height(first)]
    best = min(better, key=height, default=first)
    if status is Status.NOISE_FLOOR and not better and passed.least > height(first):
        status = Status.DIVERGED
    counts = np.array([status, passed.steps, passed.steps, 0], np.int32)
    run = descent.saved(passed, stage) if watch and (resumable(status) or batches.polish) else None
    solved = Solved(best._replace(counts=counts), None, run if resumable(status) else None, source)
    if not (batches.polish and status.converged):
        return program, solved, note
    if run is not None:
        watch.finish(run)
    more, said = sweep.solve(whole, given._replace(init=best.params), rows, ask.dtype, watch)
    counts = np.asarray(more.answer.counts) + np.array([0, passed.steps, passed.steps, 0], np.int32)
    more = more._replace(answer=more.answer._replace(counts=counts), source=source)
    return whole, more, note + said + " It ended with passes over all rows."


def _told(whole: Program, given: Inputs, own_pass: Pass, params: np.ndarray) -> Answer:
    """Return what all rows, and the penalties, say of the params."""
    return whole.told(given, params, own_pass(params), NOTHING, evidence.begin(whole.dtype))


def _refuse(ask: Ask) -> None:
    """Refuse methods that noise leads astray."""
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
    steps: Any = 0
    number: Any = 0  # of passes
    waited: Any = 0  # of these since the lowest
    status: Any = 0

    def plain(self) -> "Passed":
        """Return it with the numbers as Python has them."""
        return self._replace(**{name: getattr(self, name).item() for name in self._fields[2:]})


class _Descent:
    """Passes over minibatches."""

    def __init__(
        self, own: tuple[Program, Inputs], whole: tuple[Program, Inputs], batches: Batches, rows: Rows, dtype: Any
    ) -> None:
        (self._program, self._given), self._whole, self._batches = own, whole, batches
        self._rows = Shuffled(self._given, rows, batches, dtype)

    def run(self, watch: Watching, stage: Stage) -> Passed:
        """Pass over the rows until there is nothing but noise, or a watcher ends it."""
        bare = self._given._replace(data=None)
        state = self._program.begin(bare).state
        passed = Passed(state, np.stack([np.asarray(state.trial)] * 2))
        if (found := stage.resumed()) is not None:
            passed = together("passed", found[0], jax.tree.map(np.asarray, passed)).plain()
        if passed.status in ENDED_FROM_OUTSIDE:
            passed = passed._replace(status=0)
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
        """Return the solve as far as the passes have come."""
        return stage.saved(taken_apart("passed", passed))

    def _answer(self, passed: Passed) -> Answer:
        """Return the params of the lowest pass, and the loss averaged over it."""
        layout, nothing = self._program.layout(self._given.init), evidence.begin(self._program.dtype)
        params, loss = layout.unflatten(jnp.asarray(passed.lowest[0])), self._program.recipe.sign * passed.best
        return Answer(params, loss, None, None, (), jnp.asarray(NOTHING), nothing)

    def _after(self, passed: Passed) -> tuple[Passed, str]:
        """Return what one more pass comes to, and what to say of it."""
        batches, number = self._batches, passed.number + 1
        state, steps, mean, noise, average = self._pass(passed.state, number)
        measure = mean if not batches.validation else self._validated(state.trial)
        highest, fine = max(passed.highest, measure), bool(np.isfinite([measure, noise]).all())
        falls = number == 1 or measure < passed.best - MATTERS * (highest - passed.best)
        waited, lower = 0 if falls else passed.waited + 1, fine and measure < passed.best
        status = Status.MAX_PASSES if number == batches.passes else Status.RUNNING
        status = Status.NOISE_FLOOR if waited >= batches.patience else status
        passed = Passed(
            state=state,
            lowest=np.stack([np.asarray(state.trial), average]) if lower else passed.lowest,
            best=measure if lower else passed.best,
            highest=highest,
            least=min(passed.least, mean - SURE * noise),
            steps=passed.steps + steps,
            number=number,
            waited=waited,
            status=int(status if fine else Status.DIVERGED),
        )
        return passed, f"pass={number} loss={self._program.recipe.sign * mean:.8g} +- {noise:.1g}"

    def _pass(self, state: Any, number: int) -> tuple[Any, int, float, float, np.ndarray]:
        """Take every row once; return the state, the steps, the loss averaged, its error, and the params' mean."""
        program, dtype = self._program, self._program.dtype
        sums = Minibatches(state, jnp.zeros(2, dtype), jnp.zeros(program.size, dtype))
        steps = 0
        with contextlib.closing(self._rows.chunks(number)) as chunks:
            for chunk in chunks:
                span = span_of(chunk.data, dtype)
                span = span._replace(total=np.asarray(self._batches.size * span.total / span.stop, dtype))
                here = getattr(sums.state.trial, "sharding", sums.params.sharding)
                near = getattr(jax.tree.leaves(chunk.data)[0], "sharding", here)
                if near.device_set != here.device_set:
                    sums = jax.device_put(sums, near)  # to the device that holds these rows
                sums = program.minibatches(self._given._replace(data=span), sums, chunk.order, np.int32(chunk.steps))
                steps += chunk.steps
        total, square = np.asarray(sums.losses, np.float64)
        mean = total / steps
        error = math.sqrt(max(square / steps - mean**2, 0) / steps) if np.isfinite(square) else np.inf
        return sums.state, steps, mean, error, np.asarray(sums.params) / steps

    def _validated(self, params: jax.Array) -> float:
        """Return the loss of the rows held out."""
        data, (whole, given) = self._rows.held_out, self._whole
        if not data:
            msg = f"`validation={self._batches.validation}` holds out no row of so few. Give a larger part, or 0."
            raise ValueError(msg)
        span = filled(span_of(data, self._program.dtype), whole.recipe.tile)
        return float(whole.slopes(given._replace(data=span), params)[-1])
