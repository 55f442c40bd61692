"""What looks at a solve between bursts, on the host: shows it, saves it, ends it.

>>> import jax.numpy as jnp, jaxgd
>>> from jaxgd import watch
>>> losses = []
>>> result = jaxgd.minimize(
...     lambda x: jnp.sum((x - 3) ** 2), init=jnp.zeros(2),
...     watch=[watch.TimeLimit(60), watch.Callback(lambda seen: losses.append(float(seen.loss)))])
>>> losses[0], result.converged
(18.0, True)

A watcher is any function of a `Seen` that returns None to go on, or True, or a `Status`, to end the solve. The best
point so far is returned then, and nothing is lost. What a watcher itself raises ends the solve likewise.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgd.core.stop import Status
from jaxgd.watch.checkpoint import write
from jaxgd.watch.snapshot import ENDED_FROM_OUTSIDE, Seen

OFTEN = 0.25  # seconds between two showings
SHARE = 0.01  # part of the time that saving may take


class Progress:
    """Show a solve as it goes: a bar by tqdm (`pip install 'jaxgd[progress]'`), or lines where that is not there.

    One problem: evaluations, loss, largest gradient component, and the decrease estimated to be left. Many: how many
    are done and have failed, how fast, and how long the rest will take. While nothing runs yet, that it is compiling.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._last = 0.0
        self._said = False

    def begin(self) -> None:
        """Forget the solve before."""
        self._bar, self._said = None, False

    def compiling(self) -> None:
        """Say so, the first time."""
        if not self._said:
            print("compiling", file=sys.stderr, flush=True)
        self._said = True

    def __call__(self, seen: Seen) -> None:
        """Show what is seen, now and then, and at the end."""
        now, ended = time.perf_counter(), seen.status is not Status.RUNNING
        if not ended and now - self._last < OFTEN:
            return
        if self._bar is None:
            self._bar = _bar(seen.lanes and seen.lanes[2])
        self._last = now
        done = seen.lanes[0] if seen.lanes else seen.evals
        self._bar.set_postfix_str(_words(seen), refresh=False)
        self._bar.update(done - self._bar.n)
        if ended:
            self._bar.close()
            self._bar = None


def _words(seen: Seen) -> str:
    verdict = "" if seen.status is Status.RUNNING else f" {seen.status.name}"
    if seen.lanes:
        return f"failed={seen.lanes[1]}"
    if seen.words:
        return seen.words + verdict
    return f"loss={float(seen.loss):.8g} gradient={seen.grad_norm:.1e} left={seen.predicted_remaining:.1e}{verdict}"


def _bar(total: int | None) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in a notebook without widgets it says so, and shows a line of text
            from tqdm.auto import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        return _Lines(total)
    unit = " evals" if total is None else " problems"
    return tqdm(total=total, unit=unit, mininterval=OFTEN, dynamic_ncols=True)


class _Lines:
    """Lines in place of a bar."""

    def __init__(self, total: int | None) -> None:
        self.total, self.n, self._words, self._since = total, 0, "", time.perf_counter()

    def set_postfix_str(self, words: str, *, refresh: bool) -> None:
        del refresh
        self._words = words

    def update(self, count: int) -> None:
        self.n += count
        rate = self.n / max(time.perf_counter() - self._since, 1e-9)
        of, unit = (f" of {self.total}", "problems") if self.total else ("", "evals")
        left = f", {(self.total - self.n) / rate:.3g} s left" if self.total and self.n else ""
        print(f"{self.n}{of} {unit} [{rate:.3g} a second{left}] {self._words}", file=sys.stderr)

    def close(self) -> None:
        """There is nothing to close."""


class Book:
    """Print a line a move for one parameter, as the textbook does."""

    ticks = 1

    def __init__(self, sign: int) -> None:
        """Print the loss times `sign`."""
        self._sign, self._moves = sign, 0
        self._point: Any = None

    def __call__(self, seen: Seen) -> None:
        """Print where the last move led away from."""
        last, self._point = self._point, seen.run.state.point
        if last is not None and seen.moves > self._moves:
            print(f"theta: {last.params[0]:.2f} | loss: {self._sign * last.loss:.2f}")
        self._moves = seen.moves


class Checkpoint:
    """Save the whole run to `path` now and then, and at the end; `resume=path` carries it on, bit for bit.

    The file is whole at every moment: it is written beside, brought to disk, and renamed. It is an .npz file without
    pickles, safe to load. It remembers what it was made for, so that another problem is refused. Where saving fails,
    of a full disk for one, a warning says so, and the solve goes on.

    Args:
        path: where to save, of any name, in a folder that is there.
        every: seconds between two savings, 0 or more; saving takes a hundredth of the time at most.

    """

    def __init__(self, path: Any, every: float = 60.0) -> None:
        if not isinstance(every, int | float | np.number) or not every >= 0:
            msg = f"`every` must be a number of seconds, 0 or more; got {every!r}."
            raise ValueError(msg)
        self.path, self.every, self._next = Path(path).absolute(), float(every), 0.0
        self._draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.{jax.process_index()}.draft")

    def begin(self) -> None:
        """Refuse a folder that is not there, or cannot be written to."""
        folder, self._next = self.path.parent, 0.0
        if not folder.is_dir():
            msg = f"`path` of the checkpoint: there is no folder {str(folder)!r}. Make it first."
            raise FileNotFoundError(msg)
        if self.path.is_dir():
            msg = f"`path` of the checkpoint is a folder, {str(self.path)!r}. Name a file in it."
            raise IsADirectoryError(msg)
        try:
            self._draft.touch()
            self._draft.unlink()
        except OSError as error:
            msg = f"`path` of the checkpoint: cannot write in {str(folder)!r}: {error}. Name another folder."
            raise type(error)(error.errno, msg) from error

    def __call__(self, seen: Seen) -> None:
        """Save, if it is time, or the end."""
        began = time.perf_counter()
        if began < self._next and seen.status is Status.RUNNING:
            return
        try:
            write(self.path, seen.save(), self._draft)
        except OSError as error:
            warnings.warn(f"the checkpoint {str(self.path)!r} was not saved: {error}", RuntimeWarning, stacklevel=2)
        ended = time.perf_counter()
        self._next = ended + max(self.every, (ended - began) / SHARE)


class TimeLimit:
    """End a solve after so many seconds, compiling included, as `TIME_LIMIT`; it is looked at between evaluations."""

    def __init__(self, seconds: float) -> None:
        if not isinstance(seconds, int | float | np.number) or not seconds > 0:
            msg = f"`seconds` must be a positive number; got {seconds!r}. Leave the limit out for none."
            raise ValueError(msg)
        self.seconds, self._end = float(seconds), np.inf

    def begin(self) -> None:
        self._end = time.perf_counter() + self.seconds

    def __call__(self, seen: Seen) -> Status | None:
        del seen
        return Status.TIME_LIMIT if time.perf_counter() >= self._end else None


class Callback:
    """Call `function(seen)` between bursts, at most once in so many seconds; what returns True ends as `STOPPED`.

    `seen` is the best point so far: `seen.params`, the user's own pytree, `seen.loss`, `seen.grad`, `seen.grad_norm`;
    `seen.evals` and `seen.moves` say how far the solve is. Of many problems, the lanes lie first.
    """

    def __init__(self, function: Callable[[Seen], Any], every: float = 0.0) -> None:
        if not callable(function):
            msg = f"`function` must be a function of the best point so far; got {function!r}."
            raise TypeError(msg)
        self.function, self.every, self._next = function, every, 0.0

    def begin(self) -> None:
        self._next = 0.0

    def __call__(self, seen: Seen) -> Status | None:
        now = time.perf_counter()
        if now < self._next or seen.status in ENDED_FROM_OUTSIDE:
            return None
        self._next = now + self.every
        return Status.STOPPED if says_true(self.function(seen)) else None


def says_true(value: Any) -> bool:
    """Return whether it is a true boolean, of Python, NumPy or JAX."""
    return np.asarray(value).dtype.kind == "b" and bool(value)
