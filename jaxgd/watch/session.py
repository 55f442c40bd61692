"""The watchers of a solve together: when they look in, what they end it with, and what it resumes."""

import dataclasses
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxgd.compile.devices import of_all_processes
from jaxgd.core.stop import Status
from jaxgd.watch.checkpoint import Saved, differences, read
from jaxgd.watch.snapshot import ENDED_FROM_OUTSIDE, Seen
from jaxgd.watch.watchers import Book, Checkpoint, Progress, says_true

LOG = logging.getLogger("jaxgd")
GLANCE = 0.5  # seconds between two looks, at most: a burst costs what an evaluation or two do
PATIENCE = 10.0  # seconds after which a word is said of a solve that nobody watches
LONGEST = 1 << 30  # evaluations in a burst that nothing asks to end


def paced(ticks: int, seconds: float) -> int:
    """Return how many evaluations the next burst may take, where the last took so long: that a look is now and then."""
    if seconds > GLANCE:
        return max(1, ticks // 2)
    return min(2 * ticks, LONGEST) if seconds < GLANCE / 2 else ticks


class Watching:
    """The watchers of one solve; false where nothing looks in."""

    def __init__(self, watch: Any = None, resume: Any = None, *, progress: bool = False) -> None:
        """Read what is resumed, and let the watchers refuse what they cannot do."""
        self.watchers = _as_list(watch)
        self._asked, self._show = watch is not None or resume is not None, progress
        self._resume = read(Path(resume)) if isinstance(resume, str | os.PathLike) else resume
        if self._resume is not None and not isinstance(self._resume, Saved):
            msg = f"`resume` must be the path of a checkpoint, or a result of a watched solve; got {resume!r}."
            raise TypeError(msg)
        self.status, self.note = Status.RUNNING, ""  # of what has ended the solve from outside
        self._finished, self._count, self._size, self._before = Saved([], {}), 0, 0, (0, 0)
        self._ticks, self._since = 1, time.perf_counter()
        self.frozen: Saved | None = None  # what is saved of a solve that a watcher has ended
        self._glances, self._silent = False, True  # nobody watches, and nothing was said yet
        self.together = False  # several processes go the same way, evaluation by evaluation
        for watcher in self.watchers:
            getattr(watcher, "begin", bool)()

    def __bool__(self) -> bool:
        """Whether the host must look in."""
        return self._asked or self._show

    @property
    def exact(self) -> bool:
        """Whether the solve must be the same, bit for bit, wherever it is carried on."""
        return self._resume is not None or any(isinstance(watcher, Checkpoint) for watcher in self.watchers)

    def glance(self, ticks: int) -> None:
        """Look in unasked, first after so many evaluations."""
        self._glances, self._ticks, self._since = True, ticks, time.perf_counter()
        self._until = self._since + PATIENCE

    def refuse_inside(self) -> None:
        """Refuse to watch what JAX traces, but for showing it, which is left out there."""
        if self._asked:
            msg = (
                "`watch` and `resume` cannot be had inside `jit`, `vmap` and other transformations: the host looks in"
                " between bursts, and nothing reports from inside a compiled program. Call it outside."
            )
            raise TypeError(msg)

    def show(self, *, book: int = 0, size: int = 0) -> None:
        """Begin to show progress, if that is asked for: as the `book`, times a sign, or of so many problems in all."""
        self._size = size or self._size
        if self._show:
            self.watchers.insert(0, Book(book) if book else Progress())
            self._show, self._asked = False, True

    def compiling(self) -> None:
        """Let all show it who do."""
        for watcher in self.watchers:
            getattr(watcher, "compiling", bool)()

    @property
    def ticks(self) -> int:
        """Evaluations that the next burst may take."""
        fewest = [watcher.ticks for watcher in self.watchers if hasattr(watcher, "ticks")]
        return min([self._ticks, *fewest]) if self or self._glances else LONGEST

    def look(self, seen: Seen) -> Status:
        """Let all look, and return the status to end with, or `RUNNING`."""
        now = time.perf_counter()
        self._ticks = paced(self._ticks, now - self._since)
        if seen.lanes:
            (done, failed, size), (before, lost) = seen.lanes, self._before
            seen = dataclasses.replace(seen, lanes=(done + before, failed + lost, self._size or size))
        for watcher in self.watchers:
            status = self._asked_of(watcher, seen)
            if self.status is Status.RUNNING:
                self.status = status
        if self._glances and self._silent and now > self._until and not seen.status:
            self._silent = False
            spent = now - self._until + PATIENCE
            LOG.warning(
                "jaxgd: %d evaluations in %.0f s, the loss is %.6g. `progress=True` shows how it goes; Ctrl-C ends it"
                " with the best point.",
                *(seen.evals, spent, seen.loss),
            )
        if self.together and self.watchers:
            self.status = _agreed(self.status)
        self._since = time.perf_counter()
        return self.status

    def _asked_of(self, watcher: Any, seen: Seen) -> Status:
        try:
            said = watcher(seen)
        except Exception as error:  # noqa: BLE001 - whatever it raises, nothing of the solve is lost
            traceback.print_exception(error)
            self.note = f" {type(watcher).__name__} raised {type(error).__name__}: {error}."
            return Status.INTERRUPTED
        return Status.STOPPED if says_true(said) else Status(said or Status.RUNNING)

    def interrupted(self) -> Status:
        """Return the status after Ctrl-C."""
        self.status = Status.INTERRUPTED
        return self.status

    def stage(self, describe: Callable[[], dict[str, Any]]) -> "Stage":
        """Return the next of the runs that the solve consists of; `describe` says what it is of."""
        self._count += 1
        return Stage(self, self._count - 1, describe)

    def of(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Return what is resumed of a stage, or None: it is begun."""
        if self._resume is None or number >= len(self._resume.parts):
            return None
        return self._resume.parts[number], _named(self._resume.arrays, number)

    def with_others(self, number: int, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Saved:
        """Return a stage with those that are finished, as it was when the solve was ended from outside."""
        if self.frozen is not None:
            return self.frozen
        numbered = {f"{number}.{name}": array for name, array in arrays.items()}
        return Saved([*self._finished.parts, about], self._finished.arrays | numbered)

    def freeze(self, saved: Saved) -> None:
        """Save nothing else any more."""
        self.frozen = saved

    def finish(self, saved: Saved, done: int = 0, failed: int = 0) -> None:
        """Keep a stage that is finished; of many problems, with how many are done, and have failed."""
        self._finished = saved
        self._before = (self._before[0] + done, self._before[1] + failed)


class Stage:
    """One of the runs of a solve: what it is of, and what is saved of it."""

    def __init__(self, watch: Watching, number: int, describe: Callable[[], dict[str, Any]]) -> None:
        """Describe nothing yet: that takes time."""
        self._watch, self._number, self._describe = watch, number, describe

    @cached_property
    def about(self) -> dict[str, Any]:
        return self._describe()

    def resumed(self, *, but: tuple[str, ...] = ()) -> tuple[dict[str, np.ndarray], bool] | None:
        """Return the arrays that were saved of it, and whether it was the same in all; None: it is begun.

        What it was of must be the same, but for some words.
        """
        found = self._watch.of(self._number)
        if found is None:
            return None
        was, arrays = found
        changed = differences(was, self.about)
        wrong = [text for name, text in changed.items() if name not in but]
        if wrong:
            msg = (
                f"`resume` is of another problem, or another way to solve it. It differs in: {', '.join(wrong)}."
                " Resume what was saved, or begin anew from its params by `init=`."
            )
            raise ValueError(msg)
        return arrays, not changed

    def saved(self, arrays: dict[str, np.ndarray]) -> Saved:
        """Return the solve as far as it has come."""
        return self._watch.with_others(self._number, self.about, arrays)


def _as_list(watch: Any) -> list[Any]:
    watchers = list(watch) if isinstance(watch, Iterable) else [] if watch is None else [watch]
    for watcher in watchers:
        if not callable(watcher) or isinstance(watcher, type):
            msg = f"`watch` must be a watcher, such as `jaxgd.watch.TimeLimit(60)`, or a list of them; got {watcher!r}."
            raise TypeError(msg)
    return watchers


def _named(arrays: dict[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    head = f"{number}."
    return {name.removeprefix(head): array for name, array in arrays.items() if name.startswith(head)}


def _agreed(status: Status) -> Status:
    """Return what the first of several processes that ends says, so that all end at once."""
    return Status(int(np.max(of_all_processes(np.int32(status)))))


def resumable(status: Status) -> bool:
    """Whether a run that ended so can be carried on."""
    return status in (*ENDED_FROM_OUTSIDE, Status.MAX_EVALS, Status.MAX_PASSES)
