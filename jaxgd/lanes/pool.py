"""Pools of lanes: what a program of many solves is compiled to, and what it is given."""

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.devices import memory_of
from jaxgd.compile.executables import Compiled
from jaxgd.compile.program import Answer, Inputs, Program
from jaxgd.core import tiles
from jaxgd.core.convergence import Evidence
from jaxgd.core.lapack import one_by_one
from jaxgd.core.loop import Run, tick
from jaxgd.core.numerics import expand_to
from jaxgd.core.stop import Status, with_status

NARROWEST = 8  # lanes; a width is this times a power of 2
WIDEST = {"cpu": 1024, "other": 32768}
CACHE = 8 << 20  # bytes of a pool on CPU: its lanes' data stay in cache from one evaluation to the next
WIDEST_BLOCK = 4096  # lanes that are computed with at a time, where they are not solved
SHARE = 8  # part of a device's memory that a pool may take


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
    def one(self) -> list[Any]:
        """The leaves of one lane, as shapes and types alone."""
        shapes = [
            np.shape(leaf)[1:] if mapped else np.shape(leaf)
            for leaf, mapped in zip(self.leaves, self.mapped, strict=True)
        ]
        return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, self.types, strict=True)]

    @property
    def given(self) -> list[tuple[Any, Any]]:
        """What differs by lane, each with its type."""
        return [pair for *pair, mapped in zip(self.leaves, self.types, self.mapped, strict=True) if mapped]  # type: ignore[misc]

    def block(self, start: int, length: int) -> list[Any]:
        """Return what differs of the lanes from `start` on."""
        if length > self.size:
            # Filled up with the last.
            lanes = np.minimum(np.arange(length), self.size - 1)
            return [leaf[lanes].astype(dtype) for leaf, dtype in self.given]
        return [_slice(leaf, start, length, dtype) for leaf, dtype in self.given]

    def picked(self, lanes: np.ndarray) -> "Batch":
        """Return the batch of these lanes alone."""
        leaves = [leaf[lanes] if mapped else leaf for leaf, mapped in zip(self.leaves, self.mapped, strict=True)]
        return self._replace(size=len(lanes), leaves=leaves)


class Part(NamedTuple):
    """Some of many problems, solved by one program."""

    lanes: np.ndarray  # their numbers
    program: Program
    batch: Batch
    counts: np.ndarray | None = None  # of groups: the rows of each


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
    trace: Any  # of the trace
    running: jax.Array  # lanes that are left running
    ended: jax.Array  # lanes that have ended and could not leave yet
    ticks: jax.Array  # evaluations made in every slot


class Orders(NamedTuple):
    """What the host tells a pool for a turn."""

    ticks: Any  # evaluations to make at most, unless enough lanes end before
    least: Any  # lanes left running at which to stop
    ceiling: Any  # lanes that cannot get below this loss are given up; inf: none
    halt: Any  # the status to end all lanes with; 0: let them run


class Lanes:
    """The turns of a program's pools, compiled once for each width."""

    def __init__(self, program: Program, structure: Any, mapped: tuple[bool, ...], *, light: bool = True) -> None:
        """Prepare; `structure` is that of the inputs, `mapped` says which of its leaves differ by lane.

        `light`: the lanes are few, so that compiling is what takes long.
        """
        self.program, self.structure, self.mapped = program, structure, mapped
        self.burst = Compiled(one_by_one(self._burst), light=light, lanes=True, donate_argnums=1)
        self.shrink = jax.jit(self._shrink, static_argnums=1)
        self.widths: set[int] = set()  # compiled
        self._runs: dict[Any, Any] = {}  # shapes and types of a run, by those of what it is given
        self.lock = threading.Lock()  # so that what several workers need is compiled once

    def inputs(self, shared: list[Any], given: list[Any]) -> Inputs:
        """Return the inputs of one lane, of what all have in common and its own."""
        own = iter(given)
        leaves = [next(own) if mapped else leaf for leaf, mapped in zip(shared, self.mapped, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def empty(self, shared: list[Any], block: list[Any], width: int) -> Pool:
        """Return a pool with all slots free, on the host, for lanes like those of the block."""
        # By NumPy, for which nothing is compiled.
        given: Any = [np.zeros((width, *leaf.shape[1:]), leaf.dtype) for leaf in block]
        runs = jax.tree.map(lambda leaf: np.zeros((width, *leaf.shape), leaf.dtype), self._run(shared, block))
        owner: Any = np.full(width, -1, np.int32)
        return Pool(owner, given, runs)

    def _run(self, shared: list[Any], block: list[Any]) -> Run:
        """Return the shapes and types of the run of one lane."""
        one = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in block]
        key = (
            tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in shared),
            tuple((leaf.shape, leaf.dtype) for leaf in one),
        )
        if key not in self._runs:
            self._runs[key] = jax.eval_shape(lambda *leaves: self.program.begin(self.inputs(*leaves)), shared, one)
        return self._runs[key]

    def widest(self, batch: Batch, device: Any) -> int:
        """Return the widest pool that the device's memory or cache is for."""
        block = batch.block(0, 1)
        kept = (block, self._run(batch.shared, block))
        size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
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

    def _burst(self, shared: list[Any], pool: Pool, owner: Any, block: list[Any], orders: Orders) -> tuple[Pool, Ended]:
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
            return self.program.answer(inputs, run), run.trace and self.program.trace(inputs, run.trace)

        answers, trace = jax.vmap(answer)(given, runs)
        leaving = pool.owner.at[slots].get(mode="fill", fill_value=-1)
        running = jnp.sum((pool.owner >= 0) & ~ended)
        late = jnp.sum(ended) - jnp.sum(leaving >= 0)
        pool = pool._replace(owner=pool.owner.at[slots].set(-1, mode="drop"))
        return pool, Ended(leaving, answers, trace, running, late, ticks)

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
            return made + 1, jax.tree.map(lambda a, b: jnp.where(expand_to(alive, a), a, b), new, runs)

        return jax.lax.while_loop(going, onwards, (jnp.zeros((), jnp.int32), pool.runs))

    def _told(self, runs: Run, orders: Orders) -> Run:
        """Return the runs after what the host says of them."""
        running, status = runs.status == Status.RUNNING, runs.status
        # Ten times what the model says is left.
        reach = runs.best.scalars[:, 0] - 10 * jax.vmap(Evidence.unpack)(runs.evidence).predicted_remaining
        status = jnp.where(running & (reach > orders.ceiling), int(Status.OUTDONE), status)
        status = jnp.where(running & (orders.halt > 0), orders.halt, status)
        return runs._replace(counts=with_status(runs.counts, status))

    def _shrink(self, pool: Pool, width: int) -> Pool:
        """Return the pool with its lanes in `width` slots."""
        slots = jnp.nonzero(pool.owner >= 0, size=width, fill_value=pool.owner.size)[0]
        smaller = jax.tree.map(lambda leaf: leaf.at[slots].get(mode="clip"), pool)
        return smaller._replace(owner=pool.owner.at[slots].get(mode="fill", fill_value=-1))


def blank(size: int, like: Any) -> Any:
    """Return arrays on the host for so many lanes, each as long as those of `like` are beyond their first axis."""
    return jax.tree.map(lambda leaf: np.zeros((size, *leaf.shape[1:]), leaf.dtype), like)


def put(columns: Any, lanes: np.ndarray, trace: Any) -> None:
    """Put the rows of these lanes in their places."""
    for column, leaf in zip(jax.tree.leaves(columns), jax.tree.leaves(trace), strict=True):
        column[lanes] = leaf


def in_blocks(batch: Batch, size: int, of_block: Callable[..., Any], *trees: Any) -> Any:
    """Return what `of_block` does, lanes first, of the batch and trees beside it, some lanes at a time; on the host.

    `size`: of the params, of which each lane takes a matrix.
    """
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in batch.block(0, 1)) + 8 * size**2
    room = 16 * tiles.CACHE if jax.default_backend() == "cpu" else tiles.BUFFER
    most, found = min(batch.size, WIDEST_BLOCK, max(1, room // one)), None
    width = 1 << (most.bit_length() - 1)  # of few widths, each of which is compiled
    for start in range(0, batch.size, width):
        first = min(start, batch.size - width)  # the last block is full as well
        own = [jax.tree.map(lambda leaf, first=first: leaf[first : first + width], tree) for tree in trees]
        block = jax.tree.map(np.asarray, of_block(batch.shared, batch.block(first, width), *own))
        found = blank(batch.size, block) if found is None else found
        put(found, np.arange(first, first + width), block)
    return found


def width_for(lanes: int) -> int:
    """Return the widest pool that so many lanes fill."""
    width = NARROWEST
    while width * 2 <= lanes:
        width *= 2
    return width
