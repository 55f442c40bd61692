"""What looks at a run between bursts, on the host."""

import time
from typing import Any

import numpy as np

from jaxgd.run import Run
from jaxgd.stop import Status


class Progress:
    """Print a run as it goes: a line a move for one parameter, as in the textbook, else a line a burst."""

    def __init__(self, size: int, sign: int) -> None:
        """Print a run of `size` parameters; `sign` is -1 where a maximum is sought."""
        self.size, self.sign = size, sign
        self.ticks = 1
        self._since = time.perf_counter()

    def __call__(self, before: Run, after: Run) -> None:
        """Print what the burst between the two runs did, and choose the length of the next."""
        if self.size == 1:
            if np.asarray(after.moves) > np.asarray(before.moves):
                point = before.state.point
                print(f"theta: {point.params[0]:.2f} | loss: {self.sign * point.loss:.2f}")
            return
        elapsed = time.perf_counter() - self._since
        # Bursts grow until a line comes about every half second.
        self.ticks *= 2 if elapsed < 0.25 else 1  # noqa: PLR2004
        self._since = time.perf_counter()
        print(_line(after, self.sign))


def _line(run: Run, sign: int) -> str:
    seen: Any = run.best
    largest = np.abs(np.asarray(seen.residual)).max()
    status = Status(int(run.status))
    verdict = "" if status is Status.RUNNING else f" | {status.name}"
    return f"evals: {int(run.evals)} | loss: {sign * float(seen.loss):.8g} | largest gradient: {largest:.1e}{verdict}"


def show_pass(number: int, loss: float, error: float) -> None:
    """Print what a pass over minibatches came to."""
    print(f"pass: {number} | averaged loss: {loss:.8g} +- {error:.1g}")


class LanesProgress:
    """Print how many of many problems are done, how fast, and how long the rest will take."""

    def __init__(self) -> None:
        """Start the clock."""
        self._began = self._last = time.perf_counter()

    def __call__(self, done: int, size: int) -> None:
        """Print a line every half second, and at the end."""
        now = time.perf_counter()
        if done < size and now - self._last < 0.5:  # noqa: PLR2004 - seconds
            return
        self._last, rate = now, done / (now - self._began)
        print(f"done: {done} of {size} | {rate:.3g} a second | {(size - done) / rate:.3g} s left")
