"""From what a user passes for many problems to lanes, and from their answers to one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import penalties
from jaxgd.compile.build import Ask, as_given, find, in_types, numbers_of
from jaxgd.compile.executables import LIGHT
from jaxgd.compile.program import Answer, Program, Solution
from jaxgd.core.stop import Counts
from jaxgd.lanes.in_axes import axes_of, lanes_first, of_one
from jaxgd.lanes.pool import Batch, Lanes, Part, in_blocks
from jaxgd.lanes.scheduler import Solve
from jaxgd.lanes.second_look import Again, Doubt, after, doubt, learns, looked_again
from jaxgd.solvers.registry import named
from jaxgd.watch.resume import about
from jaxgd.watch.session import Watching
from jaxgd.watch.snapshot import ENDED_FROM_OUTSIDE

FEW = 64  # times what an evaluation may make for its kernels to be compiled quickly: all lanes together may make


def read_lanes(ask: Ask, in_axes: Any) -> tuple[Program, Batch, str]:
    """Return the program of one problem, the batch of all, and what the user should know."""
    data, init = as_given(ask)
    options = (named(ask.method), ask.stop)
    axes, size = axes_of(ask, in_axes, init, data, options)
    init, data = (lanes_first(tree, own) for tree, own in zip((init, data), axes, strict=True))
    own_init, own_data = (of_one(tree, own) for tree, own in zip((init, data), axes, strict=True))

    def by_lane(leaf: Any) -> bool:
        return np.shape(leaf) == (size,)

    def first(option: Any) -> Any:
        # Taken apart only where needed: what is put together again is checked again.
        lanes = any(map(by_lane, jax.tree.leaves(option)))
        return jax.tree.map(lambda leaf: leaf[0] if by_lane(leaf) else leaf, option) if lanes else option

    alone = ask._replace(method=ask.method if isinstance(ask.method, str) else first(options[0]), stop=first(ask.stop))
    own_data, own_init = in_types(alone, own_data, own_init)
    program, one, note = find(alone, own_data, own_init, lanes=size)
    numbers = numbers_of(options)
    if learns(program):
        # What a second look may still spend is each lane's own.
        numbers[program.limit] = np.broadcast_to(numbers[program.limit], size)
    axes_init = [None] * len(jax.tree.leaves(one.init)) if init is None else axes[0]
    mapped = (
        *(axis is not None for axis in (*axes_init, *axes[1])),
        *[False] * len(one.arrays),
        *map(by_lane, numbers),
        *([] if one.terms is None else penalties.by_lane(one.terms, one.init)),
    )
    leaves, structure = jax.tree.flatten(one)
    full = jax.tree.leaves((one.init if init is None else init, data, one.arrays, numbers, one.terms))
    leaves = [given if own else leaf for given, leaf, own in zip(full, leaves, mapped, strict=True)]
    count = len(axes_init) + len(axes[1])
    types = [leaf.dtype for leaf in jax.tree.leaves((one.init, own_data))]
    types += [jnp.result_type(leaf) for leaf in leaves[count:]]
    return program, Batch(size, structure, leaves, mapped, types), note


def solve_lanes(
    program: Program,
    batch: Batch,
    watch: Watching | None = None,
    *,
    rivals: bool = False,
    last: bool = True,
    twice: bool = True,
) -> Solution:
    """Solve all problems of the batch; of `rivals` those are given up that cannot reach the lowest loss.

    `last`: no other batch of what is watched follows. `twice`: the answers are looked at again.
    """
    watch = watch or Watching()
    key, light = (batch.structure, batch.mapped), batch.size * program.made <= LIGHT * FEW
    lanes = program.lanes.setdefault((*key, light), Lanes(program, *key, light=light))
    if any(isinstance(leaf, Tracer) for leaf in batch.leaves):
        watch.refuse_inside()
        # Inside `jit` and other transformations there is no host to refill a pool: all lanes in lock-step.
        given = [leaf.astype(dtype) for leaf, dtype in batch.given]

        def one(given: list[Any]) -> tuple[Answer, Any]:
            inputs = lanes.inputs(batch.shared, given)
            answer, trace = program.solve(inputs)
            return answer, trace and program.trace(inputs, trace)

        return Solution(program, *jax.vmap(one)(given))
    watch.show()
    running = Solve(lanes, batch, watch, watch.stage(partial(_about, program, batch)), rivals=rivals, last=last)
    running.run()
    answer, trace = running.collected()
    _put_starts(batch, answer)
    answer = looked_again(_again(program, batch, lanes), answer) if twice else answer
    return Solution(
        program,
        answer,
        trace,
        run=watch.frozen,
        source=[Part(np.arange(batch.size), program, batch)],
        compiling=running.compiling,
        slots=running.answers.slots,
    )


def _about(program: Program, batch: Batch) -> dict[str, Any]:
    """Return what the runs of a batch are of."""
    given = jax.tree.unflatten(batch.structure, batch.leaves)
    return about(program, given) | {"lanes": batch.size, "by lane": [*batch.mapped]}


def _put_starts(batch: Batch, answer: Answer) -> None:
    """Put the starts where a lane was never begun."""
    counts = Counts.of(answer.counts)
    never = np.isin(counts.status, ENDED_FROM_OUTSIDE) & (counts.evals == 0)
    columns = jax.tree.leaves(answer.params)
    for column, leaf, own in zip(columns, batch.leaves[: len(columns)], batch.mapped, strict=False):
        column[never] = leaf[never] if own else leaf


def _again(program: Program, batch: Batch, lanes: Lanes) -> Again:
    """Return what it takes to look again at the answers of a batch."""
    count = len(jax.tree.leaves(program.start))
    limit = jax.tree.unflatten(batch.structure, range(len(batch.leaves))).numbers[program.limit]

    def solve(some: np.ndarray, starts: Any, spent: Any) -> Answer:
        few, mapped = batch.picked(some), [True] * count + [*batch.mapped[count:]]
        leaves = [*map(np.asarray, jax.tree.leaves(starts)), *few.leaves[count:]]
        if mapped[limit]:
            leaves[limit] = after(leaves[limit], spent)
        return solve_lanes(program, few._replace(leaves=leaves, mapped=tuple(mapped)), twice=False).answer

    def doubts(some: np.ndarray, answer: Answer) -> Doubt:
        return in_blocks(batch.picked(some), program.size, program.compiled(_doubts, lanes), answer)

    return Again(program, solve, doubts, batch.leaves[limit])


def _doubts(program: Program, lanes: Lanes, shared: Any, given: Any, answer: Answer) -> Doubt:
    """Return what the curvature says of the claims of several lanes."""
    return jax.vmap(lambda given, answer: doubt(program, lanes.inputs(shared, given), answer))(given, answer)
