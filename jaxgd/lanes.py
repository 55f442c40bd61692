"""Many runs in pools of fixed width: lanes that end leave, and problems that wait take their slots."""

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.evidence import Evidence
from jaxgd.program import Answer, Inputs, Program, clock
from jaxgd.run import Run, tick
from jaxgd.stop import Status

REFILLS = 4  # times that a pool is filled, at least
WORTH = 64  # lanes worth a pool
NARROWEST = 8  # lanes; the others are this times powers of 4
SHRINK = 4  # how much narrower a pool becomes when too few lanes are left
TAIL = 64  # evaluations in a pool wider than needed, before a narrower one is compiled
PART = 4  # of its width, that a pool takes in at once
WIDEST = {"cpu": 1024, "other": 32768}
CACHE = 8 << 20  # bytes of a pool on CPU: its lanes' data stay in cache from one evaluation to the next
SHARE = 8  # part of a device's memory that a pool may take
MOST_WORKERS = 16
LONGEST = 1 << 20  # evaluations in a turn
GLANCE = 0.25  # seconds in which the host looks at a pool, to print and to end


class Batch(NamedTuple):
    """The inputs of many lanes: leaves of `Inputs`, those that differ by lane with the lanes first."""

    size: int
    structure: Any
    leaves: list[Any]
    mapped: tuple[bool, ...]  # whether a leaf differs by lane
    types: list[Any]  # in which a leaf is computed with

    @property
    def shared(self) -> list[Any]:
        """What all lanes have in common; 0 elsewhere."""
        return [0 if mapped else leaf for leaf, mapped in zip(self.leaves, self.mapped, strict=True)]

    @property
    def given(self) -> list[tuple[Any, Any]]:
        """What differs by lane, each with its type."""
        return [pair for *pair, mapped in zip(self.leaves, self.types, self.mapped, strict=True) if mapped]  # type: ignore[misc]

    def block(self, start: int, length: int) -> list[Any]:
        """Return what differs of the lanes from `start` on."""
        return [_slice(leaf, start, length, dtype) for leaf, dtype in self.given]

    def picked(self, lanes: np.ndarray) -> "Batch":
        """Return the batch of these lanes alone."""
        leaves = [leaf[lanes] if mapped else leaf for leaf, mapped in zip(self.leaves, self.mapped, strict=True)]
        return self._replace(size=len(lanes), leaves=leaves)


def _slice(leaf: Any, start: int, length: int, dtype: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return np.asarray(leaf[start : start + length], dtype)
    return _sliced(leaf, start, length).astype(dtype)


_sliced = jax.jit(jax.lax.dynamic_slice_in_dim, static_argnums=2)


class Pool(NamedTuple):
    """Slots for as many lanes as the pool is wide."""

    owner: jax.Array  # int32, shape (w,): number of the problem in each slot; -1: the slot is free
    given: list[jax.Array]  # each (w, ...): what differs by lane
    runs: Run  # each (w, ...)


class Ended(NamedTuple):
    """What comes back to the host after a turn; of the lanes that leave, at most as many as were taken in."""

    owner: jax.Array  # int32, shape (k,); -1: none
    answer: Answer
    rows: Any  # of the trace
    running: jax.Array  # lanes that are left running
    ended: jax.Array  # lanes that have ended and could not leave yet
    ticks: jax.Array  # evaluations made in every slot


class Orders(NamedTuple):
    """What the host tells a pool for a turn."""

    ticks: Any  # evaluations to make at most, unless enough lanes end before
    least: Any  # lanes left running at which to stop
    ceiling: Any  # lanes that cannot get below this loss are given up; inf: none
    halt: Any  # end all lanes


class Lanes:
    """The turns of a program's pools, compiled once for each width."""

    def __init__(self, program: Program, structure: Any, mapped: tuple[bool, ...]) -> None:
        """Prepare; `structure` is that of the inputs, `mapped` says which of its leaves differ by lane."""
        self.program, self.structure, self.mapped = program, structure, mapped
        self.turn = jax.jit(self._turn, donate_argnums=1)
        self.shrink = jax.jit(self._shrink, static_argnums=1)
        self.widths: set[int] = set()  # compiled
        self.lock = threading.Lock()  # so that what several workers need is compiled once

    def inputs(self, shared: list[Any], given: list[Any]) -> Inputs:
        """Return the inputs of one lane, of what all have in common and its own."""
        own = iter(given)
        leaves = [next(own) if mapped else leaf for leaf, mapped in zip(shared, self.mapped, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def empty(self, shared: list[Any], block: list[Any], width: int) -> Pool:
        """Return a pool with all slots free, for lanes like those of the block."""
        runs = jax.eval_shape(jax.vmap(lambda given: self.program.begin(self.inputs(shared, given))), block)
        given, runs = jax.tree.map(lambda leaf: jnp.zeros((width, *leaf.shape[1:]), leaf.dtype), (block, runs))
        return Pool(jnp.full(width, -1, jnp.int32), given, runs)

    def _turn(self, shared: list[Any], pool: Pool, owner: Any, block: list[Any], orders: Orders) -> tuple[Pool, Ended]:
        """Take the block in, advance until as many lanes have ended as a block holds, and let those leave."""
        most = owner.size
        pool = self._taken(shared, pool, owner, block)
        ticks, runs = self._advanced(shared, pool, orders, most)
        pool = pool._replace(runs=self._told(runs, orders))
        ended = (pool.owner >= 0) & (pool.runs.status != Status.RUNNING)
        slots = jnp.nonzero(ended, size=most, fill_value=pool.owner.size)[0]
        given, runs = jax.tree.map(lambda leaf: leaf.at[slots].get(mode="clip"), (pool.given, pool.runs))

        def answer(given: list[Any], run: Run) -> Any:
            inputs = self.inputs(shared, given)
            return self.program.answer(inputs, run), run.rows and self.program.rows(inputs, run.rows)

        answers, rows = jax.vmap(answer)(given, runs)
        leaving = pool.owner.at[slots].get(mode="fill", fill_value=-1)
        running = jnp.sum((pool.owner >= 0) & ~ended)
        late = jnp.sum(ended) - jnp.sum(leaving >= 0)
        pool = pool._replace(owner=pool.owner.at[slots].set(-1, mode="drop"))
        return pool, Ended(leaving, answers, rows, running, late, ticks)

    def _taken(self, shared: list[Any], pool: Pool, owner: Any, block: list[Any]) -> Pool:
        """Return the pool with the block's lanes in free slots."""
        free = jnp.nonzero(pool.owner < 0, size=owner.size, fill_value=pool.owner.size)[0]
        # Those of the block that are not to be taken in go nowhere.
        slots = jnp.where(owner >= 0, free[jnp.cumsum(owner >= 0) - 1], pool.owner.size)
        runs = jax.vmap(lambda given: self.program.begin(self.inputs(shared, given)))(block)
        return jax.tree.map(lambda old, new: old.at[slots].set(new, mode="drop"), pool, Pool(owner, block, runs))

    def _advanced(self, shared: list[Any], pool: Pool, orders: Orders, most: int) -> tuple[jax.Array, Run]:
        """Tick as the orders say, until all lanes have ended, or `most` of them."""

        def step(given: list[Any], run: Run) -> Run:
            return tick(*self.program.bind(self.inputs(shared, given)), run)

        def going(carry: tuple[jax.Array, Run]) -> jax.Array:
            made, runs = carry
            running = jnp.sum((pool.owner >= 0) & (runs.status == Status.RUNNING))
            ended = jnp.sum(pool.owner >= 0) - running
            return (made < orders.ticks) & (running > orders.least) & (ended < most)

        def onwards(carry: tuple[jax.Array, Run]) -> tuple[jax.Array, Run]:
            made, runs = carry
            alive = (pool.owner >= 0) & (runs.status == Status.RUNNING)
            new = jax.vmap(step)(pool.given, runs)
            return made + 1, jax.tree.map(lambda a, b: jnp.where(_beside(alive, a), a, b), new, runs)

        return jax.lax.while_loop(going, onwards, (jnp.zeros((), jnp.int32), pool.runs))

    def _told(self, runs: Run, orders: Orders) -> Run:
        """Return the runs after what the host says of them."""
        running, status = runs.status == Status.RUNNING, runs.status
        # Ten times what the model says is left.
        reach = runs.best.scalars[:, 0] - 10 * jax.vmap(Evidence.unpack)(runs.evidence).left
        status = jnp.where(running & (reach > orders.ceiling), int(Status.OUTDONE), status)
        status = jnp.where(running & orders.halt, int(Status.INTERRUPTED), status)
        return runs._replace(counts=runs.counts.at[:, 0].set(status))

    def _shrink(self, pool: Pool, width: int) -> Pool:
        """Return the pool with its lanes in `width` slots."""
        slots = jnp.nonzero(pool.owner >= 0, size=width, fill_value=pool.owner.size)[0]
        smaller = jax.tree.map(lambda leaf: leaf.at[slots].get(mode="clip"), pool)
        return smaller._replace(owner=pool.owner.at[slots].get(mode="fill", fill_value=-1))


def _beside(flags: jax.Array, leaf: jax.Array) -> jax.Array:
    return flags.reshape(-1, *[1] * (leaf.ndim - 1))


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
        places = _places(alone=self.lanes.program.recipe.traced.may_block)
        needed = math.ceil(self.batch.size / (len(places) * self._processes))
        # Pools that are refilled some times over waste less than one that holds all.
        width = _width_for(min(max(needed // REFILLS, min(needed, WORTH)), self._widest(places[0])))
        self._most = width // PART
        settings = _settings()
        with ThreadPoolExecutor(len(places)) as threads:
            working = [threads.submit(self._work, place, width, settings) for place in places]
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
        whole = jax.tree.map(
            lambda leaf: np.zeros(
                (self.batch.size, *([longest] if leaf.ndim > 1 else []), *leaf.shape[2:]), leaf.dtype
            ),
            self.rows[0][1],
        )
        for owner, rows in self.rows:
            for column, leaf in zip(jax.tree.leaves(whole), jax.tree.leaves(rows), strict=True):
                column[owner] = leaf[:, :longest] if leaf.ndim > 1 else leaf
        return whole

    def _widest(self, device: Any) -> int:
        """Return the widest pool that the device's memory or cache is for."""
        one = jax.eval_shape(lambda: self.lanes.empty(self.batch.shared, self.batch.block(0, 1), 1))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))
        memory = _memory(device)
        if size > memory:
            msg = (
                f"`data` of one lane and what its solve keeps take {size / 1e9:.1f} GB; {device} has"
                f" {memory / 1e9:.1f} GB. Use a method that keeps less, such as 'cg', or a smaller problem."
            )
            raise MemoryError(msg)
        on_cpu = device.platform == "cpu"
        room = min(memory // SHARE, CACHE) if on_cpu else memory // SHARE
        return min(room // size, WIDEST["cpu" if on_cpu else "other"])

    def _work(self, device: Any, width: int, settings: list[Callable[[], Any]]) -> None:
        with ExitStack() as stack:
            for setting in settings:
                stack.enter_context(setting())
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
        """Keep a pool full while problems wait, and make it smaller when they no longer do."""
        lanes, most = self.lanes, width // PART
        shared, idle = jax.device_put(self.batch.shared, device), self.batch.block(0, most)
        pool, held, ticks, tail = lanes.empty(shared, idle, width), 0, 16, 0
        while True:
            taken = self._take(most) if held + most <= width else None
            if taken is None and held == 0:
                return
            halt = self._halt.is_set()
            owner, block = taken or (np.full(len(idle[0]) if idle else most, -1, np.int32), idle)
            held += int(np.sum(owner >= 0))
            full = held + most > width or self._next >= self.batch.size or halt
            began = time.perf_counter()
            ready = [other for other in lanes.widths if other < width]
            last = self._next >= self.batch.size
            # When nothing waits, the host looks in where the pool may become narrower.
            limit, least = (min(ticks, TAIL), max(ready, default=0)) if last else (ticks, 0)
            orders = Orders(limit if full else 0, least, self.ceiling, halt)
            with nullcontext() if width in lanes.widths else lanes.lock:
                pool, ended = lanes.turn(shared, pool, owner, block, orders)
            lanes.widths.add(width)
            if not full:
                continue
            held = self._keep(ended)
            seconds = time.perf_counter() - began
            ticks = (
                max(1, ticks // 2) if seconds > GLANCE else min(2 * ticks, LONGEST) if seconds < GLANCE / 4 else ticks
            )
            with self._lock:
                self.slots += int(ended.ticks) * width
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
        return np.where(numbers >= start, numbers, -1), self.batch.block(first, most)

    def _keep(self, ended: Ended) -> int:
        """Put answers where they belong, and return how many lanes are still in the pool."""
        owner = np.asarray(ended.owner)
        left = owner >= 0
        answer, rows = jax.tree.map(lambda leaf: np.asarray(leaf)[left], (ended.answer, ended.rows))
        owner = owner[left]
        with self._lock:
            if self.columns is None:
                self.columns = jax.tree.map(
                    lambda leaf: np.zeros((self.batch.size, *leaf.shape[1:]), leaf.dtype), answer
                )
            for column, leaf in zip(jax.tree.leaves(self.columns), jax.tree.leaves(answer), strict=True):
                column[owner] = leaf
            if rows:
                self.rows.append((owner, rows))
            won = answer.counts[:, 0] <= Status.PRECISION_FLOOR
            if self.rivals and np.any(won):
                self.ceiling = min(self.ceiling, float(np.min(self.lanes.program.recipe.sign * answer.loss[won])))
            self.done += len(owner)
            if self.watch and len(owner):
                self.watch(self.done, self.batch.size)
        return int(ended.running) + int(ended.ended)


def _places(*, alone: bool) -> list[Any]:
    """Return the device of each worker: on CPU one worker a core, elsewhere two, of which one is always computing.

    `alone`: on CPU one program must not run beside another.
    """
    devices = jax.local_devices()
    preferred = jax.config.jax_default_device  # type: ignore[attr-defined]
    if preferred is not None:
        devices = [preferred] if not isinstance(preferred, str) else jax.local_devices(backend=preferred)[:1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = max(1, cores // len(devices)) if devices[0].platform == "cpu" else 2
    if alone and devices[0].platform == "cpu":
        return devices[:1]
    return (devices * each)[: max(len(devices), MOST_WORKERS)]


def _gathered(tree: Any, owned: np.ndarray) -> Any:
    """Return arrays, lanes first, of which each process has the lanes it owns, whole on each."""
    from jax.experimental import multihost_utils  # noqa: PLC0415 - for several processes alone

    every = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda leaf: np.array(leaf[owned, np.arange(len(owned))]), every)


def _settings() -> list[Callable[[], Any]]:
    """Return contexts that bring this thread's settings of JAX to another."""
    config: Any = jax.config
    wide, precision, promotion = (
        config.jax_enable_x64,
        config.jax_default_matmul_precision,
        config.jax_numpy_dtype_promotion,
    )
    return [
        lambda: jax.enable_x64(wide),
        lambda: jax.default_matmul_precision(precision),
        lambda: jax.numpy_dtype_promotion(promotion),
    ]


def _width_for(lanes: int) -> int:
    """Return the widest pool that so many lanes fill."""
    width = NARROWEST
    while width * 2 <= lanes:
        width *= 2
    return width


def _memory(device: Any) -> int:
    """Return the bytes of memory of a device."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 33
