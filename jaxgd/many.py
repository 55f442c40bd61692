"""From what a user passes for many problems to lanes, and from their answers to one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd import added
from jaxgd.flat import beside
from jaxgd.lanes import Solve
from jaxgd.methods import named
from jaxgd.pool import Batch, Lanes, put
from jaxgd.prepare import Ask, as_given, find, in_types, numbers_of
from jaxgd.program import Answer, Program
from jaxgd.solve import aside
from jaxgd.stop import Status, succeeded

Watch = Callable[[int, int], None]  # told how many lanes are done of how many
Axes = list[int | None]  # of the leaves of a pytree: the axis along which lanes follow each other


class Outcome(NamedTuple):
    """What came of many solves."""

    answer: Answer  # lanes first
    rows: Any  # of the trace, lanes first
    slots: int | None = None  # evaluations made in all slots of the pools, also in those that stood idle
    compiling: float = 0.0  # seconds


def read(ask: Ask, in_axes: Any) -> tuple[Program, Batch, str]:
    """Return the program of one problem, the batch of all, and what the user should know."""
    data, init = as_given(ask)
    options = (named(ask.method), ask.stop)
    axes, size = _axes(ask, in_axes, init, data, options)
    init, data = (_lanes_first(tree, own) for tree, own in zip((init, data), axes, strict=True))
    own_init, own_data = (_of_one(tree, own) for tree, own in zip((init, data), axes, strict=True))

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
        *([] if one.terms is None else added.by_lane(one.terms, one.init)),
    )
    leaves, structure = jax.tree.flatten(one)
    full = jax.tree.leaves((one.init if init is None else init, data, one.arrays, numbers, one.terms))
    leaves = [given if own else leaf for given, leaf, own in zip(full, leaves, mapped, strict=True)]
    count = len(axes_init) + len(axes[1])
    types = [leaf.dtype for leaf in jax.tree.leaves((one.init, own_data))]
    types += [jnp.result_type(leaf) for leaf in leaves[count:]]
    return program, Batch(size, structure, leaves, mapped, types), note


def solve(program: Program, batch: Batch, watch: Watch | None = None, *, rivals: bool = False) -> Outcome:
    """Solve all problems of the batch; of `rivals` those are given up that cannot reach the lowest loss."""
    key = (batch.structure, batch.mapped)
    lanes = program.lanes.setdefault(key, Lanes(program, *key))
    if any(isinstance(leaf, Tracer) for leaf in batch.leaves):
        # Inside `jit` and other transformations there is no host to refill a pool: all lanes in lock-step.
        given = [leaf.astype(dtype) for leaf, dtype in batch.given]

        def one(given: list[Any]) -> tuple[Answer, Any]:
            inputs = lanes.inputs(batch.shared, given)
            answer, rows = program.solve(inputs)
            return answer, rows and program.rows(inputs, rows)

        return Outcome(*jax.vmap(one)(given))
    running = Solve(lanes, batch, watch, rivals=rivals)
    running.run()
    answer, rows = running.collected()
    _put_starts(batch, answer)
    return Outcome(_looked_at_twice(program, batch, answer), rows, running.slots, running.compiling)


def _put_starts(batch: Batch, answer: Answer) -> None:
    """Put the starts where a lane was never begun."""
    never = (answer.counts[:, 0] == Status.INTERRUPTED) & (answer.counts[:, 1] == 0)
    columns = jax.tree.leaves(answer.params)
    for column, leaf, own in zip(columns, batch.leaves[: len(columns)], batch.mapped, strict=False):
        column[never] = leaf[never] if own else leaf


def _looked_at_twice(program: Program, batch: Batch, answer: Answer) -> Answer:
    """Leave starts with no slope by a small step to both sides, as single solves do."""
    flat = np.flatnonzero(answer.counts[:, 0] == Status.ZERO_GRADIENT)
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
        found.append(solve(program, moved).answer)
    return _better(program, answer, flat, found)


def _better(program: Program, answer: Answer, flat: np.ndarray, found: list[Answer]) -> Answer:
    """Return the answers with those of the neighbours where they are lower."""
    own = jax.tree.map(lambda leaf: leaf[flat], answer)
    counts, calm = own.counts.copy(), np.ones(len(flat), bool)
    for again in found:
        counts = counts + again.counts * np.array([0, 1, 0, 1], np.int32)
        lower = (program.recipe.sign * (again.loss - own.loss) < 0) & (counts[:, 0] == Status.ZERO_GRADIENT)
        calm &= succeeded(again.counts[:, 0])
        taken = again._replace(
            counts=np.column_stack([again.counts[:, 0], counts[:, 1], again.counts[:, 2], counts[:, 3]])
        )
        own = jax.tree.map(
            lambda old, new, lower=lower: np.where(beside(lower, old), new, old), own._replace(counts=counts), taken
        )
        counts = own.counts
    # Nothing lower beside it: the start is the minimum, unless a neighbour is flat as well.
    still = (counts[:, 0] == Status.ZERO_GRADIENT) & calm
    counts[:, 0] = np.where(still, int(Status.CONVERGED), counts[:, 0])
    whole = jax.tree.map(np.array, answer)
    put(whole, flat, own._replace(counts=counts))
    return whole


def _axes(ask: Ask, in_axes: Any, init: Any, data: Any, options: Any) -> tuple[tuple[Axes, Axes], int]:
    """Return the axes along which the lanes lie, and how many lanes there are."""
    if in_axes is not None and not (isinstance(in_axes, tuple | list) and len(in_axes) == 2):  # noqa: PLR2004
        msg = f"`in_axes` must be a pair, of `init` and `data`, as in `jax.vmap`; got {in_axes!r}. Write (None, 0)."
        raise ValueError(msg)
    # Without data only the starts can differ.
    asked = (None if data is not None else 0, 0) if in_axes is None else in_axes
    axes = (_spread(asked[0], init, "init"), _spread(asked[1], data, "data"))
    sizes = _sizes(init, axes[0], "init") | _sizes(data, axes[1], "data") | _option_sizes(options)
    if not sizes:
        # Nothing else differs: a row of weights has one for each problem.
        sizes = {name: len(row) for name, row in (("l1", ask.l1), ("l2", ask.l2)) if added.is_row(row)}
    if not sizes:
        # Nothing but the bounds and weights can: they have an axis more than the params, which are vectors at most.
        added_ = jax.tree.leaves((ask.bounds, ask.l1, ask.l2))
        counts = [np.shape(leaf)[0] for leaf in added_ if np.ndim(leaf) > 1]
        sizes = {"bounds": counts[0]} if counts else {}
    if not sizes:
        msg = (
            f"nothing differs by lane, with `in_axes={in_axes!r}`. Give `data` or `init` an axis of problems, or an"
            " option such as `l2` one number for each; for one problem, use `minimize`."
        )
        raise ValueError(msg)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"`{name}` has {size}" for name, size in sizes.items())
        msg = f"the numbers of problems differ: {listed}. Say by `in_axes` which have an axis of problems, and which."
        raise ValueError(msg)
    size = next(iter(sizes.values()))
    leaves = jax.tree.leaves(init)
    if in_axes is None and data is not None and leaves and all(np.shape(leaf)[:1] == (size,) for leaf in leaves):
        first: Axes = [0] * len(leaves)
        one = _of_one(data, axes[1])
        if _takes(ask, _of_one(init, first), one):
            if _takes(ask, init, one):
                msg = (
                    f"`init` may be one start for all problems or one for each, since it is as long as there are"
                    f" problems, {size}. Say which: `in_axes=(None, 0)` or `in_axes=(0, 0)`."
                )
                raise ValueError(msg)
            axes = (first, axes[1])
    return axes, size


def _spread(axes: Any, tree: Any, name: str) -> Axes:
    """Return the axis of each leaf; one stands for all that is below it."""
    found: Axes = []

    def spread(axis: Any, below: Any) -> None:
        if axis is not None and not isinstance(axis, int):
            msg = f"`in_axes` of `{name}` must be whole numbers or None; got {axis!r}."
            raise TypeError(msg)
        found.extend([axis] * len(jax.tree.leaves(below)))

    try:
        jax.tree.map(spread, axes, tree, is_leaf=lambda node: node is None)
    except ValueError as error:
        have = jax.tree.map(lambda leaf: list(np.shape(leaf)), tree)
        msg = f"`in_axes` of `{name}`, {axes!r}, does not have the structure of `{name}`, which has shapes {have}."
        raise ValueError(msg) from error
    return found


def _sizes(tree: Any, axes: Axes, name: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for (path, leaf), axis in zip(jax.tree_util.tree_leaves_with_path(tree), axes, strict=True):
        where, dims = name + jax.tree_util.keystr(path), np.ndim(leaf)
        if axis is not None and not -dims <= axis < dims:
            msg = (
                f"`{where}` of shape {np.shape(leaf)} has no axis {axis} of problems. Say by `in_axes` that it is the"
                " same for all: None in its place, as in `jax.vmap`."
            )
            raise ValueError(msg)
        if axis is not None:
            sizes[where] = np.shape(leaf)[axis]
    return sizes


def _option_sizes(options: Any) -> dict[str, int]:
    """Return how many numbers each option has that has one for each lane."""
    named_options = dict(zip(("method", "stop"), options, strict=True))
    paths = jax.tree_util.tree_leaves_with_path(named_options)
    return {
        jax.tree_util.keystr(path[:1])[2:-2] + jax.tree_util.keystr(path[1:]): len(leaf)
        for path, leaf in paths
        if not callable(leaf) and np.ndim(leaf) == 1
    }


def _lanes_first(tree: Any, axes: Axes) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    moved = [leaf if axis in (None, 0) else _moved(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]
    return structure.unflatten(moved)


def _moved(leaf: Any, axis: int) -> Any:
    return np.moveaxis(leaf, axis, 0) if isinstance(leaf, np.ndarray) else jnp.moveaxis(leaf, axis, 0)


def _of_one(tree: Any, axes: Axes) -> Any:
    """Return the arrays of the first lane; the lanes lie first."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([leaf if axis is None else leaf[0] for leaf, axis in zip(leaves, axes, strict=True)])


def _takes(ask: Ask, init: Any, data: Any) -> bool:
    """Whether the loss takes such params."""
    args = (init,) if data is None else (init, data)
    try:
        out = jax.eval_shape(ask.loss, *jax.tree.map(jnp.asarray, args))
    except Exception:  # noqa: BLE001 - whatever a loss raises says that it does not
        return False
    value: Any = out[0] if ask.has_aux else out
    return ask.least_squares or getattr(value, "shape", None) == ()
