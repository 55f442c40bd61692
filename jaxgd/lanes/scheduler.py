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

from jaxgd.compile.cache import cache, clock
from jaxgd.compile.devices import may_block, places
from jaxgd.compile.program import Answer
from jaxgd.core.settings import of_thread
from jaxgd.core.stop import Counts, Status, with_status
from jaxgd.lanes.collect import Answers, Pools, gathered
from jaxgd.lanes.pool import NARROWEST, Batch, Lanes, Orders, Pool, width_for
from jaxgd.watch.checkpoint import Saved
from jaxgd.watch.resume import together
from jaxgd.watch.session import GLANCE, Stage, Watching, paced
from jaxgd.watch.snapshot import Seen

REFILLS = 4  # times that a pool is filled, at least
WORTH = 64  # lanes worth a pool
SHRINK = 4  # how much narrower a pool becomes when too few lanes are left
TAIL = 64  # evaluations in a pool wider than needed, before a narrower one is compiled
PART = 4  # of its width, that a pool takes in at once
TURN = 256  # evaluations in a turn at most, where the schedule is fixed
TURNED = 1 << 30  # bytes of lanes that such a turn reads, or one evaluation: the host looks in between


class Solve:
    """One solve of a batch by several pools, each in a thread of its own."""

    def __init__(
        self, lanes: Lanes, batch: Batch, watch: Watching, stage: Stage, *, rivals: bool = False, last: bool = True
    ) -> None:
        """Prepare, or put back what is resumed.

        `rivals`: only the lowest loss of all lanes matters, and those that cannot reach it are given up; `last`: when
        it is over, so is all that is watched.
        """
        self.lanes, self.batch, self.rivals = lanes, batch, rivals
        self._watch, self._stage, self._last = watch, stage, last
        self.answers = Answers(batch.size, lanes.program.recipe.sign)
        self.compiling = np.zeros(2)  # seconds, as the clock has them
        # XLA rounds otherwise at another width, and may in another slot: what must be exact runs by a fixed schedule.
        self._exact, self._next = watch.exact, [0]  # by worker, where each has blocks of its own
        self._halt, self._lock = int(watch.status), threading.Lock()
        self._own, self._processes = jax.process_index(), jax.process_count()
        self._todo, self._begun, self._width = np.ones(batch.size, bool), (np.zeros(0, np.int32), None), 0
        self._pools = Pools()
        found = stage.resumed()
        if found is not None:
            self._restore(found[0])

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        run, answer, trace = self._shapes()
        self.answers.restore(arrays, answer, trace)
        owner, self._todo = arrays["owner"], ~self.answers.done
        self._begun = owner, together("run", arrays, run) if len(owner) else None
        self._width = int(arrays["width"])

    def _shapes(self) -> tuple[Any, Any, Any]:
        """Return run, answer and trace of one lane, as shapes and types."""
        one, program = jax.tree.unflatten(self.batch.structure, self.batch.one), self.lanes.program
        run = jax.eval_shape(program.begin, one)
        trace = run.trace and jax.eval_shape(program.trace, one, run.trace)
        return run, jax.eval_shape(program.answer, one, run), trace

    def run(self) -> None:
        """Solve; Ctrl-C ends all lanes and keeps what is done."""
        devices = places(alone=may_block(self.lanes.program.recipe.traced.jaxpr))
        needed = math.ceil(self.batch.size / (len(devices) * self._processes))
        # Pools that are refilled some times over waste less than one that holds all.
        best = width_for(min(max(needed // REFILLS, min(needed, WORTH)), self.lanes.widest(self.batch, devices[0])))
        self._width = width = self._width or best
        self._most = width // PART
        contexts = of_thread()
        shares = self._shares(len(devices), width)
        self._next = [0] * (len(devices) if self._exact else 1)
        self._pools.begin(len(devices))
        with ThreadPoolExecutor(len(devices)) as threads:
            workers = enumerate(zip(devices, shares, strict=True))
            working = [threads.submit(self._work, i, device, width, share, contexts) for i, (device, share) in workers]
            self._lead(working)
            for worker in working:
                worker.result()
        if self._watch and self._last:
            self._watch.look(self._seen(self._watch.status or self.answers.status))
        elif self._watch:
            self._watch.finish(self.saved(), int(np.sum(self.answers.done)), self.answers.failed)

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
            mask, failed, answers = self.answers.done.copy(), self.answers.failed, self.answers
            packed = Counts().pack() if answers.columns is None else answers.columns.counts[answers.done].sum(axis=0)
        lanes, counts = (int(np.sum(mask)), failed, self.batch.size), Counts.of(packed)
        return Seen(int(counts.evals), int(counts.moves), partial(self._answer, mask), self.saved, status, lanes=lanes)

    def _answer(self, done: np.ndarray) -> Answer:
        with self._lock:
            return self.answers.answer(done, self._shapes()[1] if self.answers.columns is None else None)

    def saved(self) -> Saved:
        """Return the solve as far as it has come: the answers so far, and the runs that are in the pools."""
        pools = self._pools.asked()
        owner, upto = pools["owner"], pools.pop("upto")
        with self._lock:
            arrays = self.answers.saved() | pools
        # What came after a pool was handed over is to come again.
        arrays["done"][owner[owner >= 0]] = False
        if self._exact and len(upto):
            block = np.arange(self.batch.size) // self._most
            arrays["done"] &= block * self._most < upto[block // self._processes % len(upto)]
        return self._stage.saved(arrays | {"width": np.array(self._width)})

    def _shares(self, count: int, width: int) -> list[np.ndarray]:
        """Return which of the slots that are resumed go to each pool, in order; lanes with no room are begun anew."""
        owner = self._begun[0]
        slots = np.arange(len(owner))
        if len(owner) == count * width:
            shares = np.array_split(slots, count)
        else:
            shares = [slots[owner >= 0][i::count][:width] for i in range(count)]
        held = owner[np.concatenate(shares)]
        self._todo[held[held >= 0]] = False
        return shares

    def _filled(self, shared: list[Any], width: int, share: np.ndarray, device: Any) -> Pool:
        """Return a pool with the lanes of a share on their way."""
        # Committed to the device as what a turn returns, or the second turn would be compiled anew.
        # A copy, since the pool's memory is given to the program.
        pool = jax.device_put(
            self.lanes.empty(shared, self.batch.block(0, width // PART), width), device, may_alias=False
        )
        if not len(share):
            return pool
        owner, runs = self._begun[0][share], jax.tree.map(lambda leaf: leaf[share], self._begun[1])
        given = [np.asarray(leaf[owner], dtype) for leaf, dtype in self.batch.given]
        filled: Any = Pool(owner, given, runs)  # type: ignore[arg-type] - on the host still
        return jax.tree.map(lambda every, part: every.at[: len(part)].set(part), pool, filled)

    def collected(self) -> tuple[Answer, Any]:
        """Return the answers and the rows of the trace, in the order of the problems."""
        columns, trace = self.answers.columns, self.answers.trace()
        if self._processes > 1:
            columns, trace = gathered((columns, trace), self._owned())
        missing = Counts.of(columns.counts).status == Status.RUNNING
        columns.counts[missing] = with_status(columns.counts[missing], self._halt or Status.INTERRUPTED)
        columns.loss[missing] = np.nan
        return columns, trace

    def _owned(self) -> np.ndarray:
        """Return which process solves each problem."""
        return np.arange(self.batch.size) // self._most % self._processes

    def _work(self, worker: int, device: Any, width: int, share: np.ndarray, contexts: list[Callable[[], Any]]) -> None:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            stack.enter_context(jax.default_device(device))
            stack.enter_context(clock.announcing(self._watch.compiling))
            before = clock.spent
            try:
                self._pool(worker, width, share, device)
            except BaseException:
                self._halt = self._halt or int(Status.INTERRUPTED)
                raise
            finally:
                self._pools.leave(worker)
                with self._lock:
                    self.compiling = max(self.compiling, clock.spent - before, key=np.sum)

    def _pool(self, worker: int, width: int, share: np.ndarray, device: Any) -> None:
        """Keep a pool full while problems wait, and make it narrower when they no longer do."""
        lanes, most, exact, mine = self.lanes, width // PART, self._exact, worker if self._exact else 0
        shared, idle = jax.device_put(self.batch.shared, device), self.batch.block(0, most)
        ticks_of_burst = max(1, min(TURN, TURNED // max(1, width * sum(leaf.nbytes // most for leaf in idle))))
        pool, ticks, tail = self._filled(shared, width, share, device), ticks_of_burst if exact else 16, 0
        held = int(np.sum(self._begun[0][share] >= 0))
        while True:
            self._pools.hand_over(worker, pool, self._next[mine])
            block_taken = self._take(most, mine) if held + most <= width else None
            if block_taken is None and held == 0 and self.answers.columns is not None:
                return
            owner, block = block_taken or (np.full(most, -1, np.int32), idle)
            held += int(np.sum(owner >= 0))
            halt, last = self._halt, self._next[mine] >= self.batch.size
            full = bool(held + most > width or last or halt)
            # When nothing waits, the host looks in where the pool may become narrower.
            least = max((other for other in lanes.widths if other < width), default=0) if last and not exact else 0
            ceiling = self.answers.ceiling if self.rivals else np.inf
            orders = Orders((min(ticks, TAIL) if last and not exact else ticks) if full else 0, least, ceiling, halt)
            began = time.perf_counter()
            with nullcontext() if width in lanes.widths else lanes.lock:
                pool, ended = lanes.burst(shared, pool, owner, block, orders)
            if width not in lanes.widths:
                lanes.widths.add(width)
                cache.trim()
            if not full:
                continue
            ended = jax.device_get(ended)  # first: whoever looks in does not wait for a device
            with self._lock:
                self.answers.keep(ended, width)
            held = int(ended.running) + int(ended.ended)
            ticks = ticks if exact else paced(ticks, time.perf_counter() - began)
            if block_taken is None and not exact:
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

    def _take(self, most: int, mine: int) -> tuple[np.ndarray, list[Any]] | None:
        """Return the next problems that wait, and their numbers; -1 for those that are not to be taken in."""
        with self._lock:
            # Blocks go to the processes in turn, and to workers; those of which nothing is left to do are passed over.
            while (at := self._next[mine]) < self.batch.size and not (
                at // most % self._processes == self._own
                and at // most // self._processes % len(self._next) == mine
                and self._todo[at : at + most].any()
            ):
                self._next[mine] += most
            start = self._next[mine]
            if start >= self.batch.size or self._halt:
                return None
            self._next[mine] += most
        first = max(min(start, self.batch.size - most), 0)
        numbers = np.arange(first, first + most, dtype=np.int32)
        own = (numbers >= start) & (numbers < self.batch.size)
        own[own] = self._todo[numbers[own]]
        return np.where(own, numbers, -1), self.batch.block(first, most)
