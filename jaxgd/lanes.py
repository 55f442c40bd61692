"""Many runs in pools of fixed width: lanes that end leave, and problems that wait take their slots."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from typing import Any

import jax
import numpy as np

from jaxgd.cache import cache, clock
from jaxgd.places import may_block, memory_of, places, settings
from jaxgd.pool import Batch, Ended, Lanes, Orders, blank, put
from jaxgd.program import Answer
from jaxgd.stop import Status, succeeded

REFILLS = 4  # times that a pool is filled, at least
WORTH = 64  # lanes worth a pool
NARROWEST = 8  # lanes; a width is this times a power of 2
SHRINK = 4  # how much narrower a pool becomes when too few lanes are left
TAIL = 64  # evaluations in a pool wider than needed, before a narrower one is compiled
PART = 4  # of its width, that a pool takes in at once
WIDEST = {"cpu": 1024, "other": 32768}
CACHE = 8 << 20  # bytes of a pool on CPU: its lanes' data stay in cache from one evaluation to the next
SHARE = 8  # part of a device's memory that a pool may take
LONGEST = 1 << 20  # evaluations in a turn
GLANCE = 0.25  # seconds in which the host looks at a pool, to print and to end


class Solve:
    """One solve of a batch by several pools, each in a thread of its own."""

    def __init__(
        self, lanes: Lanes, batch: Batch, watch: Callable[[int, int], None] | None = None, *, rivals: bool = False
    ) -> None:
        """Prepare; `watch` is told how many lanes are done of how many.

        `rivals`: only the lowest loss of all lanes matters, and those that cannot reach it are given up.
        """
        self.lanes, self.batch, self.watch, self.rivals = lanes, batch, watch, rivals
        self.ceiling = np.inf
        self.columns: Any = None  # of the answers, each (lanes, ...), on the host
        self.rows: list[tuple[np.ndarray, Any]] = []
        self.done = self.slots = 0  # lanes; evaluations made in all slots together
        self.compiling = 0.0
        self._next, self._halt, self._lock = 0, threading.Event(), threading.Lock()
        self._own, self._processes = jax.process_index(), jax.process_count()

    def run(self) -> None:
        """Solve; Ctrl-C ends all lanes and keeps what is done."""
        devices = places(alone=may_block(self.lanes.program.recipe.traced.jaxpr))
        needed = math.ceil(self.batch.size / (len(devices) * self._processes))
        # Pools that are refilled some times over waste less than one that holds all.
        width = _width_for(min(max(needed // REFILLS, min(needed, WORTH)), self._widest(devices[0])))
        self._most = width // PART
        contexts = settings()
        with ThreadPoolExecutor(len(devices)) as threads:
            working = [threads.submit(self._work, device, width, contexts) for device in devices]
            try:
                # Not for ever at once: a lock is not always given up for Ctrl-C.
                while wait(working, GLANCE).not_done:
                    pass
            except KeyboardInterrupt:
                self._halt.set()
            for worker in working:
                worker.result()

    def collected(self) -> tuple[Answer, Any]:
        """Return the answers and the rows of the trace, in the order of the problems."""
        columns, rows = self.columns, self._rows()
        if self._processes > 1:
            columns, rows = _gathered((columns, rows), self._owned())
        missing = columns.counts[:, 0] == Status.RUNNING
        columns.counts[missing, 0] = Status.INTERRUPTED
        columns.loss[missing] = np.nan
        return columns, rows

    def _owned(self) -> np.ndarray:
        """Return which process solves each problem."""
        return np.arange(self.batch.size) // self._most % self._processes

    def _rows(self) -> Any:
        """Return the rows of all lanes, as long as the longest."""
        if not self.rows:
            return None
        longest = max(int(np.max(rows[-1])) for _, rows in self.rows)
        kept = [
            (owner, jax.tree.map(lambda leaf: leaf[:, :longest] if leaf.ndim > 1 else leaf, rows))
            for owner, rows in self.rows
        ]
        whole = blank(self.batch.size, kept[0][1])
        for owner, rows in kept:
            put(whole, owner, rows)
        return whole

    def _widest(self, device: Any) -> int:
        """Return the widest pool that the device's memory or cache is for."""
        one = jax.eval_shape(lambda: self.lanes.empty(self.batch.shared, self.batch.block(0, 1), 1))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        memory = memory_of(device)
        if size > memory:
            msg = (
                f"`data` of one lane and what its solve keeps take {size / 1e9:.1f} GB; {device} has"
                f" {memory / 1e9:.1f} GB. Use a method that keeps less, such as 'cg', or a smaller problem."
            )
            raise MemoryError(msg)
        on_cpu = device.platform == "cpu"
        room = min(memory // SHARE, CACHE) if on_cpu else memory // SHARE
        return min(room // size, WIDEST["cpu" if on_cpu else "other"])

    def _work(self, device: Any, width: int, contexts: list[Callable[[], Any]]) -> None:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            stack.enter_context(jax.default_device(device))
            before = clock.seconds
            try:
                self._pool(width, device)
            except BaseException:
                self._halt.set()
                raise
            with self._lock:
                self.compiling = max(self.compiling, clock.seconds - before)

    def _pool(self, width: int, device: Any) -> None:
        """Keep a pool full while problems wait, and make it narrower when they no longer do."""
        lanes, most = self.lanes, width // PART
        shared, idle = jax.device_put(self.batch.shared, device), self.batch.block(0, most)
        pool, held, ticks, tail = lanes.empty(shared, idle, width), 0, 16, 0
        while True:
            taken = self._take(most) if held + most <= width else None
            if taken is None and held == 0 and self.columns is not None:
                return
            owner, block = taken or (np.full(most, -1, np.int32), idle)
            held += int(np.sum(owner >= 0))
            halt, last = self._halt.is_set(), self._next >= self.batch.size
            full = held + most > width or last or halt
            # When nothing waits, the host looks in where the pool may become narrower.
            least = max((other for other in lanes.widths if other < width), default=0) if last else 0
            orders = Orders((min(ticks, TAIL) if last else ticks) if full else 0, least, self.ceiling, halt)
            began = time.perf_counter()
            with nullcontext() if width in lanes.widths else lanes.lock:
                pool, ended = lanes.turn(shared, pool, owner, block, orders)
            if width not in lanes.widths:
                lanes.widths.add(width)
                cache.trim()
            if not full:
                continue
            held = self._keep(ended, width)
            ticks = _longer(ticks, time.perf_counter() - began)
            if taken is None:
                tail = tail + int(ended.ticks) if held <= width // SHRINK else 0
                narrow = self._narrower(width, held, tail)
                if narrow < width:
                    width, most, tail = narrow, narrow // PART, 0
                    pool, idle = lanes.shrink(pool, width), self.batch.block(0, most)

    def _narrower(self, width: int, held: int, tail: int) -> int:
        """Return the width for the lanes that are left, a narrower one if it is compiled or worth compiling."""
        ready = [other for other in self.lanes.widths if held <= other < width]
        if tail > TAIL:
            fitting = NARROWEST
            while fitting < held:
                fitting *= SHRINK
            ready += [fitting] if fitting < width else []
        return min(ready, default=width)

    def _take(self, most: int) -> tuple[np.ndarray, list[Any]] | None:
        """Return the next problems that wait, and their numbers; -1 for those that are not to be taken in."""
        with self._lock:
            # Blocks go to the processes in turn.
            while (self._next // most) % self._processes != self._own:
                self._next += most
            start = self._next
            if start >= self.batch.size or self._halt.is_set():
                return None
            self._next += most
        first = max(min(start, self.batch.size - most), 0)
        numbers = np.arange(first, first + most, dtype=np.int32)
        own = (numbers >= start) & (numbers < self.batch.size)
        return np.where(own, numbers, -1), self.batch.block(first, most)

    def _keep(self, ended: Ended, width: int) -> int:
        """Put answers where they belong, and return how many lanes are still in the pool."""
        owner = np.asarray(ended.owner)
        left = owner >= 0
        answer, rows = jax.tree.map(lambda leaf: np.asarray(leaf)[left], (ended.answer, ended.rows))
        owner = owner[left]
        with self._lock:
            if self.columns is None:
                self.columns = blank(self.batch.size, answer)
            put(self.columns, owner, answer)
            if rows and len(owner):
                self.rows.append((owner, rows))
            won = succeeded(answer.counts[:, 0])
            if self.rivals and np.any(won):
                self.ceiling = min(self.ceiling, float(np.min(self.lanes.program.recipe.sign * answer.loss[won])))
            self.done += len(owner)
            self.slots += int(ended.ticks) * width
            if self.watch and len(owner):
                self.watch(self.done, self.batch.size)
        return int(ended.running) + int(ended.ended)


def _gathered(tree: Any, owned: np.ndarray) -> Any:
    """Return arrays, lanes first, of which each process has the lanes it owns, whole on each."""
    from jax.experimental import multihost_utils  # noqa: PLC0415 - for several processes alone

    every = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda leaf: np.array(leaf[owned, np.arange(len(owned))]), every)


def _longer(ticks: int, seconds: float) -> int:
    """Return how many evaluations the next turn may take, so that the host looks in now and then."""
    if seconds > GLANCE:
        return max(1, ticks // 2)
    return min(2 * ticks, LONGEST) if seconds < GLANCE / 4 else ticks


def _width_for(lanes: int) -> int:
    """Return the widest pool that so many lanes fill."""
    width = NARROWEST
    while width * 2 <= lanes:
        width *= 2
    return width
