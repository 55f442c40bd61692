"""Many runs in pools of fixed width: lanes that end leave, and problems that wait take their slots."""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxgd.cache import cache, clock
from jaxgd.kept import Kept, Pools
from jaxgd.places import may_block, places, settings
from jaxgd.pool import Batch, Lanes, Orders, Pool
from jaxgd.program import Answer
from jaxgd.resume import together
from jaxgd.saved import Saved
from jaxgd.seen import Seen
from jaxgd.stop import Status
from jaxgd.watching import GLANCE, Part, Watching, paced

REFILLS = 4  # times that a pool is filled, at least
WORTH = 64  # lanes worth a pool
NARROWEST = 8  # lanes; a width is this times a power of 2
SHRINK = 4  # how much narrower a pool becomes when too few lanes are left
TAIL = 64  # evaluations in a pool wider than needed, before a narrower one is compiled
PART = 4  # of its width, that a pool takes in at once


class Solve:
    """One solve of a batch by several pools, each in a thread of its own."""

    def __init__(
        self, lanes: Lanes, batch: Batch, watch: Watching, part: Part, *, rivals: bool = False, last: bool = True
    ) -> None:
        """Prepare, or put back what is resumed.

        `rivals`: only the lowest loss of all lanes matters, and those that cannot reach it are given up; `last`: when
        it is over, so is all that is watched.
        """
        self.lanes, self.batch, self.rivals = lanes, batch, rivals
        self._watch, self._part, self._last = watch, part, last
        self.kept = Kept(batch.size, lanes.program.recipe.sign)
        self.compiling = 0.0
        self._next, self._halt, self._lock = 0, int(watch.status), threading.Lock()
        self._own, self._processes = jax.process_index(), jax.process_count()
        self._todo, self._begun, self._width = np.ones(batch.size, bool), (np.zeros(0, np.int32), None), 0
        self._pools = Pools()
        found = part.resumed()
        if found is not None:
            self._restore(found[0])

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Put back what was saved."""
        run, answer, rows = self._shapes()
        self.kept.restore(arrays, answer, rows)
        left = ~self.kept.done[arrays["owner"]]
        runs = jax.tree.map(lambda leaf: leaf[left], together("run", arrays, run)) if left.any() else None
        self._todo, self._begun = ~self.kept.done, (arrays["owner"][left], runs)
        self._width = int(arrays["width"])

    def _shapes(self) -> tuple[Any, Any, Any]:
        """Return run, answer and trace of one lane, as shapes and types."""
        one, program = jax.tree.unflatten(self.batch.structure, self.batch.one), self.lanes.program
        run = jax.eval_shape(program.begin, one)
        rows = run.rows and jax.eval_shape(program.rows, one, run.rows)
        return run, jax.eval_shape(program.answer, one, run), rows

    def run(self) -> None:
        """Solve; Ctrl-C ends all lanes and keeps what is done."""
        devices = places(alone=may_block(self.lanes.program.recipe.traced.jaxpr))
        needed = math.ceil(self.batch.size / (len(devices) * self._processes))
        # Pools that are refilled some times over waste less than one that holds all.
        best = _width_for(min(max(needed // REFILLS, min(needed, WORTH)), self.lanes.widest(self.batch, devices[0])))
        self._width = width = self._width or best
        self._most = width // PART
        contexts = settings()
        shares = self._shares(len(devices), width)
        self._pools.begin(len(devices))
        with ThreadPoolExecutor(len(devices)) as threads:
            workers = enumerate(zip(devices, shares, strict=True))
            working = [threads.submit(self._work, i, device, width, share, contexts) for i, (device, share) in workers]
            self._lead(working)
            for worker in working:
                worker.result()
        if self._watch and self._last:
            self._watch.look(self._seen(self._watch.status or self.kept.status))
        elif self._watch:
            self._watch.finish(self.saved(), int(np.sum(self.kept.done)), self.kept.failed)

    def _lead(self, working: list[Any]) -> None:
        """Let the watchers look in until all is done, or one of them ends it."""
        try:
            # Not for ever at once: a lock is not always given up for Ctrl-C.
            while wait(working, GLANCE).not_done:
                if self._watch and not self._halt and (status := self._watch.look(self._seen())):
                    self._end(status)
        except KeyboardInterrupt:
            self._end(self._watch.interrupted())

    def _end(self, status: Status) -> None:
        """End all lanes; what is saved is what was before."""
        try:
            if self._watch:
                self._watch.freeze(self.saved())
        finally:
            self._halt = int(status)

    def _seen(self, status: Status = Status.RUNNING) -> Seen:
        with self._lock:
            mask, failed, kept = self.kept.done.copy(), self.kept.failed, self.kept
            counts = np.zeros(4) if kept.columns is None else kept.columns.counts[kept.done].sum(axis=0)
        lanes = (int(np.sum(mask)), failed, self.batch.size)
        return Seen(int(counts[1]), int(counts[2]), partial(self._answer, mask), self.saved, status, lanes=lanes)

    def _answer(self, done: np.ndarray) -> Answer:
        with self._lock:
            return self.kept.answer(done, self._shapes()[1] if self.kept.columns is None else None)

    def saved(self) -> Saved:
        """Return the solve as far as it has come: the answers so far, and the runs that are in the pools."""
        pools = self._pools.asked()
        with self._lock:
            arrays = self.kept.saved() | pools
        return self._part.saved(arrays | {"width": np.array(self._width)})

    def _shares(self, count: int, width: int) -> list[np.ndarray]:
        """Return which of the lanes that are resumed on their way each pool holds; what has no room is begun anew."""
        owner = self._begun[0]
        shares = [np.arange(len(owner))[i::count][:width] for i in range(count)]
        self._todo[owner[np.concatenate(shares)]] = False
        return shares

    def _filled(self, shared: list[Any], width: int, share: np.ndarray) -> Pool:
        """Return a pool with the lanes of a share on their way."""
        pool = self.lanes.empty(shared, self.batch.block(0, width // PART), width)
        if not len(share):
            return pool
        owner, runs = self._begun[0][share], jax.tree.map(lambda leaf: leaf[share], self._begun[1])
        given = [np.asarray(leaf[owner], dtype) for leaf, dtype in self.batch.given]
        filled: Any = Pool(owner, given, runs)  # type: ignore[arg-type] - on the host still
        return jax.tree.map(lambda whole, part: whole.at[: len(part)].set(part), pool, filled)

    def collected(self) -> tuple[Answer, Any]:
        """Return the answers and the rows of the trace, in the order of the problems."""
        columns, rows = self.kept.columns, self.kept.rows()
        if self._processes > 1:
            columns, rows = _gathered((columns, rows), self._owned())
        missing = columns.counts[:, 0] == Status.RUNNING
        columns.counts[missing, 0] = self._halt or Status.INTERRUPTED
        columns.loss[missing] = np.nan
        return columns, rows

    def _owned(self) -> np.ndarray:
        """Return which process solves each problem."""
        return np.arange(self.batch.size) // self._most % self._processes

    def _work(self, worker: int, device: Any, width: int, share: np.ndarray, contexts: list[Callable[[], Any]]) -> None:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            stack.enter_context(jax.default_device(device))
            before = clock.seconds
            try:
                self._pool(worker, width, share, device)
            except BaseException:
                self._halt = self._halt or int(Status.INTERRUPTED)
                raise
            finally:
                self._pools.leave(worker)
                with self._lock:
                    self.compiling = max(self.compiling, clock.seconds - before)

    def _pool(self, worker: int, width: int, share: np.ndarray, device: Any) -> None:
        """Keep a pool full while problems wait, and make it narrower when they no longer do."""
        # Another width rounds otherwise.
        lanes, most, exact = self.lanes, width // PART, self._watch.exact
        shared, idle = jax.device_put(self.batch.shared, device), self.batch.block(0, most)
        pool, held, ticks, tail = self._filled(shared, width, share), len(share), 16, 0
        while True:
            self._pools.hand_over(worker, pool)
            taken = self._take(most) if held + most <= width else None
            if taken is None and held == 0 and self.kept.columns is not None:
                return
            owner, block = taken or (np.full(most, -1, np.int32), idle)
            held += int(np.sum(owner >= 0))
            halt, last = self._halt, self._next >= self.batch.size
            full = bool(held + most > width or last or halt)
            # When nothing waits, the host looks in where the pool may become narrower.
            least = max((other for other in lanes.widths if other < width), default=0) if last and not exact else 0
            ceiling = self.kept.ceiling if self.rivals else np.inf
            orders = Orders((min(ticks, TAIL) if last else ticks) if full else 0, least, ceiling, halt)
            began = time.perf_counter()
            with nullcontext() if width in lanes.widths else lanes.lock:
                pool, ended = lanes.turn(shared, pool, owner, block, orders)
            if width not in lanes.widths:
                lanes.widths.add(width)
                cache.trim()
            if not full:
                continue
            with self._lock:
                self.kept.keep(ended, width)
            held = int(ended.running) + int(ended.ended)
            ticks = paced(ticks, time.perf_counter() - began)
            if taken is None and not exact:
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
            # Blocks go to the processes in turn; those of which nothing is left to do are passed over.
            while self._next < self.batch.size and not (
                (self._next // most) % self._processes == self._own and self._todo[self._next : self._next + most].any()
            ):
                self._next += most
            start = self._next
            if start >= self.batch.size or self._halt:
                return None
            self._next += most
        first = max(min(start, self.batch.size - most), 0)
        numbers = np.arange(first, first + most, dtype=np.int32)
        own = (numbers >= start) & (numbers < self.batch.size)
        own[own] = self._todo[numbers[own]]
        return np.where(own, numbers, -1), self.batch.block(first, most)


def _gathered(tree: Any, owned: np.ndarray) -> Any:
    """Return arrays, lanes first, of which each process has the lanes it owns, whole on each."""
    from jax.experimental import multihost_utils  # noqa: PLC0415 - for several processes alone

    every = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda leaf: np.array(leaf[owned, np.arange(len(owned))]), every)


def _width_for(lanes: int) -> int:
    """Return the widest pool that so many lanes fill."""
    width = NARROWEST
    while width * 2 <= lanes:
        width *= 2
    return width
