"""From what a user passes for many problems to lanes, and from their answers to one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import penalties
from jaxgd.compile.build import Ask, as_given, find, in_types, numbers_of
from jaxgd.compile.program import Answer, Program, Solution
from jaxgd.core.flat import expand_to
from jaxgd.core.stop import Counts, Status, succeeded, with_status
from jaxgd.lanes.in_axes import axes_of, lanes_first, of_one
from jaxgd.lanes.pool import Batch, Lanes, Part, put
from jaxgd.lanes.scheduler import Solve
from jaxgd.solvers.registry import named
from jaxgd.watch.bursts import aside
from jaxgd.watch.resume import about
from jaxgd.watch.session import Watching
from jaxgd.watch.snapshot import ENDED_FROM_OUTSIDE


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

    `last`: no other batch of what is watched follows. `twice`: starts with no slope are left by a small step.
    """
    watch = watch or Watching()
    key = (batch.structure, batch.mapped)
    lanes = program.lanes.setdefault(key, Lanes(program, *key))
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
    answer = _looked_at_twice(program, batch, answer) if twice else answer
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


def _looked_at_twice(program: Program, batch: Batch, answer: Answer) -> Answer:
    """Leave starts with no slope by a small step to both sides, as single solves do."""
    flat = np.flatnonzero(Counts.of(answer.counts).status == Status.ZERO_GRADIENT)
    if not len(flat):
        return answer
    few = batch.picked(flat)
    count = len(jax.tree.leaves(program.start))
    starts = jax.tree.map(lambda leaf: leaf[flat], answer.params)
    found: list[Answer] = []
    for side in (1, -1):
        neighbours = jax.vmap(lambda start, side=side: aside(program, start, side))(starts)
        leaves = [*map(np.asarray, jax.tree.leaves(neighbours)), *few.leaves[count:]]
        moved = few._replace(leaves=leaves, mapped=(*[True] * count, *few.mapped[count:]))
        found.append(solve_lanes(program, moved, twice=False).answer)
    return _better(program, answer, flat, found)


def _better(program: Program, answer: Answer, flat: np.ndarray, found: list[Answer]) -> Answer:
    """Return the answers with those of the neighbours where they are lower."""
    own = jax.tree.map(lambda leaf: leaf[flat], answer)
    succeeded_again = np.ones(len(flat), bool)
    for again in found:
        counts, other = Counts.of(own.counts), Counts.of(again.counts)
        spent = {"evals": counts.evals + other.evals, "products": counts.products + other.products}
        lower = (program.recipe.sign * (again.loss - own.loss) < 0) & (counts.status == Status.ZERO_GRADIENT)
        succeeded_again &= succeeded(other.status)
        own = jax.tree.map(
            lambda old, new, lower=lower: np.where(expand_to(lower, old), new, old),
            own._replace(counts=counts._replace(**spent).pack()),
            again._replace(counts=other._replace(**spent).pack()),
        )
    # Nothing lower beside it: the start is the minimum, unless a neighbour is flat as well.
    status = Counts.of(own.counts).status
    flat_start = (status == Status.ZERO_GRADIENT) & succeeded_again
    merged = jax.tree.map(np.array, answer)
    put(merged, flat, own._replace(counts=with_status(own.counts, np.where(flat_start, int(Status.CONVERGED), status))))
    return merged
