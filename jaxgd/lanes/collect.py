"""What has come of many lanes: their answers, put where they belong as they end."""

import threading
from typing import Any

import jax
import numpy as np

from jaxgd.compile.devices import of_all_processes
from jaxgd.compile.program import Answer
from jaxgd.core.stop import Counts, Status, succeeded
from jaxgd.lanes.pool import Ended, Pool, blank, put
from jaxgd.watch.resume import taken_apart, together
from jaxgd.watch.session import GLANCE


class Pools:
    """What is in the pools of several workers, handed over when it is asked for."""

    def __init__(self) -> None:
        self._working: set[int] = set()
        self._count = 0
        self._handed: dict[int, dict[str, np.ndarray]] = {}
        self._asked, self._change = False, threading.Condition()

    def begin(self, workers: int) -> None:
        """Let so many workers begin."""
        self._working, self._count = set(range(workers)), workers

    def leave(self, worker: int) -> None:
        """Let a worker end; its pool is empty."""
        with self._change:
            self._working.discard(worker)
            self._change.notify_all()

    def hand_over(self, worker: int, pool: Pool, upto: int) -> None:
        """Hand over what is in a pool, and up to which lane its worker has taken in, if that is asked for."""
        if not self._asked or worker in self._handed:
            return
        found = taken_apart("run", pool.runs) | {"owner": np.array(pool.owner), "upto": np.array([upto])}
        with self._change:
            self._handed[worker] = found
            self._change.notify_all()

    def asked(self) -> dict[str, np.ndarray]:
        """Return what all pools hold, as arrays, lanes first; their workers hand it over at the end of a turn."""
        with self._change:
            self._handed, self._asked = {}, True
            while not self._working <= self._handed.keys():
                self._change.wait(GLANCE)
            self._asked, handed = False, self._handed
        if not handed:
            return {"owner": np.zeros(0, np.int32), "upto": np.zeros(0, int)}
        # A worker that has ended has an empty pool, and has taken in all.
        empty = {name: np.zeros_like(array) for name, array in next(iter(handed.values())).items()}
        empty |= {"owner": np.full_like(empty["owner"], -1), "upto": np.array([np.iinfo(int).max])}
        pools = [handed.get(worker, empty) for worker in range(self._count)]
        return {name: np.concatenate([pool[name] for pool in pools]) for name in pools[0]}


class Answers:
    """Answers of lanes that are done, on the host."""

    def __init__(self, size: int, sign: int) -> None:
        """Keep room for so many lanes; `sign` is -1 where a maximum is sought."""
        self.size, self._sign = size, sign
        self.columns: Any = None  # an `Answer`, each leaf (lanes, ...), once one is known
        self.done = np.zeros(size, bool)
        self.slots = 0  # evaluations made in all slots together
        self.ceiling = np.inf  # the lowest loss that a lane has converged to
        self._traces: list[tuple[np.ndarray, Any]] = []

    def keep(self, ended: Ended, width: int) -> None:
        """Put the answers of lanes that have left a pool where they belong."""
        owner = np.asarray(ended.owner)
        left = owner >= 0
        answer, trace = jax.tree.map(lambda leaf: np.asarray(leaf)[left], (ended.answer, ended.trace))
        owner = owner[left]
        if self.columns is None:
            self.columns = blank(self.size, answer)
        put(self.columns, owner, answer)
        if trace and len(owner):
            self._traces.append((owner, trace))
        self.done[owner] = True
        self.slots += int(ended.ticks) * width
        self._lower(answer)

    def _lower(self, answer: Any) -> None:
        """Lower the ceiling to the lowest loss of lanes that have converged."""
        won = succeeded(Counts.of(answer.counts).status)
        self.ceiling = min(self.ceiling, float(np.min(self._sign * answer.loss[won], initial=np.inf)))

    @property
    def failed(self) -> int:
        """How many of those that are done have failed."""
        if self.columns is None:
            return 0
        return int(np.sum(self.done & ~succeeded(Counts.of(self.columns.counts).status)))

    @property
    def status(self) -> Status:
        """What the first lane that failed has ended with, or `CONVERGED`."""
        codes = Counts.of(self.columns.counts).status
        return Status(int(codes[~succeeded(codes)][0] if self.failed else Status.CONVERGED))

    def answer(self, done: np.ndarray, one: Any) -> Answer:
        """Return a copy of the answers, NaN where a lane is not `done`; `one`: shapes of one, where none is known."""
        nothing = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape), leaf.dtype), one)

        def or_nan(leaf: np.ndarray) -> np.ndarray:
            copy = np.resize(leaf, (self.size, *leaf.shape[1:]))
            if np.issubdtype(copy.dtype, np.inexact):
                copy[~done] = np.nan
            return copy

        return jax.tree.map(or_nan, self.columns if one is None else nothing)

    def trace(self) -> Any:
        """Return the rows of the traces of all lanes, as long as the longest, or None."""
        if not self._traces:
            return None
        longest = max(int(np.max(trace[-1])) for _, trace in self._traces)
        blocks = [(owner, jax.tree.map(lambda leaf: _as_long(leaf, longest), trace)) for owner, trace in self._traces]
        joined = blank(self.size, blocks[0][1])
        for owner, trace in blocks:
            put(joined, owner, trace)
        return joined

    def saved(self) -> dict[str, np.ndarray]:
        answer, trace = ({} if tree is None else tree for tree in (self.columns, self.trace()))
        parts = taken_apart("answer", answer) | taken_apart("trace", trace)
        return parts | {"done": self.done.copy(), "slots": np.array(self.slots)}

    def restore(self, arrays: dict[str, np.ndarray], answer: Any, trace: Any) -> None:
        """Put back what was saved; `answer` and `trace` have the structure of those of one lane."""
        self.done, self.slots = arrays["done"], int(arrays["slots"])
        if np.any(self.done):
            self.columns = together("answer", arrays, answer)
            self._lower(jax.tree.map(lambda leaf: leaf[self.done], self.columns))
        if trace is not None and "trace.0" in arrays:
            joined = together("trace", arrays, trace)
            self._traces = [(np.flatnonzero(self.done), jax.tree.map(lambda leaf: leaf[self.done], joined))]


def _as_long(leaf: np.ndarray, longest: int) -> np.ndarray:
    """Return the rows of traces cut, or filled up, to so many; counts of rows as they are."""
    if leaf.ndim == 1 or leaf.shape[1] == longest:
        return leaf
    more = max(longest - leaf.shape[1], 0)
    return np.pad(leaf[:, :longest], [(0, 0), (0, more), *[(0, 0)] * (leaf.ndim - 2)])


def gathered(tree: Any, owned: np.ndarray) -> Any:
    """Return arrays, lanes first, of which each process has the lanes it owns, whole on each."""
    return jax.tree.map(lambda leaf: np.array(leaf[owned, np.arange(len(owned))]), of_all_processes(tree))
