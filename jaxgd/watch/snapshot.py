"""What watchers see of a solve."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxgd.core.convergence import Evidence
from jaxgd.core.stop import Status
from jaxgd.watch.checkpoint import Saved

# Between two evaluations, by what the host has seen.
ENDED_FROM_OUTSIDE = (Status.INTERRUPTED, Status.TIME_LIMIT, Status.STOPPED, Status.DIMINISHING_RETURNS)


@dataclass(frozen=True, repr=False)
class Seen:
    """A solve between two bursts: how far it is, and the best point so far.

    Of many problems, `params` and `loss` have the lanes first, and are NaN where one is not done. By minibatches, the
    loss is averaged over the lowest pass, and there is no gradient.
    """

    evals: int  # of many: of those done
    moves: int
    answer: Callable[[], Any]
    save: Callable[[], Saved]
    status: Status = Status.RUNNING  # another one: this is the last look
    run: Any = None
    lanes: tuple[int, int, int] | None = None  # of many: how many are done, have failed, and are there
    words: str = ""  # to show in place of loss and gradient

    def __repr__(self) -> str:
        done = "" if self.lanes is None else ", {} lanes done, {} failed, of {}".format(*self.lanes)
        return f"Seen(after {self.evals} evaluations and {self.moves} moves, {self.status.name}{done})"

    @cached_property
    def _answer(self) -> Any:
        return self.answer()

    @property
    def params(self) -> Any:
        """The user's pytree."""
        return self._answer.params

    @property
    def loss(self) -> Any:
        """The loss there."""
        return self._answer.loss

    @property
    def grad(self) -> Any:
        """The gradient there, in the shape of params."""
        return self._answer.grad

    @property
    def grad_norm(self) -> float:
        """The largest absolute component of the gradient; with bounds and other terms, of the residual."""
        found = self._answer
        slopes = found.grad if found.residual is None else found.residual
        return max(float(np.max(np.abs(np.asarray(leaf)), initial=0)) for leaf in jax.tree.leaves(slopes))

    @property
    def predicted_remaining(self) -> float:
        """The decrease of the loss estimated to be left; inf while nothing is known."""
        return float(np.asarray(self._answer.evidence)[Evidence._fields.index("predicted_remaining")])
