"""What all rows say of a descent by minibatches: where it has come to, and whether there is more to gain."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxgd.compile.program import Answer, Inputs, Program
from jaxgd.core import convergence
from jaxgd.core.convergence import Evidence
from jaxgd.core.stop import Counts
from jaxgd.rows.full_batch import descended
from jaxgd.rows.in_memory import Pass

LOOKS = 30  # evaluations over all rows, in which a decrease that is left must show


class AllRows:
    """The loss over all rows, and the method that `auto` chooses for it."""

    def __init__(self, program: Program, given: Inputs, own: Pass, count: int) -> None:
        """Evaluate the start; a sample that tells the curvature has `count` rows."""
        self.program, self.given, self.own, self._count = program, given, own, count
        self._bare = given._replace(data=None)
        self.first = self.evaluate(np.asarray(program.first(self._bare)))

    def evaluate(self, params: np.ndarray) -> Answer:
        """Return what all rows, and the penalties, say of the params."""
        return self.program.answer_from(
            self._bare, params, self.own(params), Counts().pack(), convergence.no_evidence(self.program.dtype)
        )

    def height(self, answer: Answer) -> float:
        """Return the loss as it is minimized."""
        return self.program.recipe.sign * float(answer.loss)

    def decrease(self, answer: Answer) -> float:
        """Return the decrease since the start."""
        return self.height(self.first) - self.height(answer)

    def judged(self, answer: Answer, remaining: float) -> Answer:
        """Return the answer with the decrease made, and that which is left."""
        seen = Evidence.unpack(convergence.no_evidence(self.program.dtype))
        seen = seen._replace(decrease=self.decrease(answer), predicted_remaining=remaining)
        return answer._replace(evidence=seen.pack())

    def better(self, points: Iterable[np.ndarray]) -> list[Answer]:
        """Return what is said of the params that are lower than the start, the lowest first."""
        lower = [evaluate for evaluate in map(self.evaluate, points) if self.height(evaluate) < self.height(self.first)]
        return sorted(lower, key=self.height)

    def remaining(self, answer: Answer, enough: float, without: "Without | None" = None) -> float:
        """Return by how much the loss can fall from the answer, as far as `LOOKS` evaluations tell.

        It is looked no further where that is more than `enough`, or surely less. Of a descent `without` some rows, by
        how much the loss of these falls.
        """
        start, made, rest = self.given._replace(init=answer.params), 0.0, 0.0
        height = self.height(answer) if without is None else without.held(self._flat(answer.params))
        for run in descended(self.program, start, without or self.own, self._count, LOOKS):
            here = float(run.best.loss) if without is None else without.held(np.asarray(run.best.params))
            seen = Evidence.unpack(run.evidence)
            made, rest = max(made, height - here), float(seen.predicted_remaining)
            if made > enough or float(seen.decrease) + rest <= enough:
                break
        return made + (rest if np.isfinite(rest) and without is None else 0.0)

    def _flat(self, params: Any) -> np.ndarray:
        return np.asarray(self.program.layout(self.given.init).flatten(params))


class Without:
    """Passes over all rows but those held out."""

    def __init__(self, own: Pass, out: Callable[[np.ndarray], np.ndarray], weight: float) -> None:
        """Take the rows of `own` without those that `out` evaluates, which weigh so much together."""
        self._own, self._out, self._weight, self.total = own, out, weight, own.total - weight

    def held(self, params: np.ndarray) -> float:
        """Return the loss of the rows held out."""
        return float(self._out(params)[-1])

    def __call__(self, params: np.ndarray, of: Any = None) -> np.ndarray:
        del of
        return (self._own.total * self._own(params) - self._weight * self._out(params)) / self.total

    def samples(self, count: int) -> list[Any]:
        """Return samples of all rows: they tell the curvature alone."""
        return self._own.samples(count)

    def not_finite(self) -> list[str]:
        return self._own.not_finite()
