"""Groups of unequal size: one model for each label, for a loss that averages over rows."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import inputs, penalties
from jaxgd.compile.build import Ask
from jaxgd.compile.frames import Frame, is_table
from jaxgd.compile.loss_jaxpr import name_of
from jaxgd.compile.program import Program, Solution
from jaxgd.compile.row_mean import refuse_no_mean
from jaxgd.compile.row_mean import weighted as of_rows
from jaxgd.core.numerics import expand_to, irregular
from jaxgd.data.columns import check_there
from jaxgd.lanes import many
from jaxgd.lanes.pool import Part, blank, put
from jaxgd.watch.session import Watching

PROGRAM = 1 << 20  # rows whose solve takes as long as compiling the program of one more length, about a second


@dataclass(frozen=True, repr=False)
class Groups:
    """Rows with a label each, for `minimize_many`: one problem for each label, in the order of the sorted labels.

    >>> import jax.numpy as jnp, jaxgd
    >>> def mse(theta, y):
    ...     return jnp.mean((y - theta) ** 2)
    >>> result = jaxgd.minimize_many(mse, jaxgd.Groups([1.0, 2.0, 3.0, 7.0, 9.0], by=["a", "a", "a", "b", "b"]))
    >>> result.labels.tolist(), result.params.round(3).tolist()
    (['a', 'b'], [2.0, 8.0])

    The loss must be a mean over the rows of its data, plus what does not depend on them; this is checked on the longest
    group. Groups are filled up with copies of a row that weigh nothing, to a few lengths. One start is for all groups;
    with `in_axes=(0, 0)` there is one for each.

    Args:
        data: pytree of arrays, each with the rows first, all of one length, or a table.
        by: the label of each row: numbers or strings, array-like of shape `(rows,)`. Of a table, or a dict of columns,
            also the name of a column, or a list of names; the loss does not get these.

    """

    data: Any
    by: Any

    instead = "Solve one problem for each group by `jaxgd.minimize_many`"  # where `minimize` is given groups

    def __repr__(self) -> str:
        return f"Groups(by={self.by!r})" if self.names else f"Groups({np.size(self.by)} rows)"

    @property
    def names(self) -> list[str]:
        """The columns that `by` names, if it does."""
        if isinstance(self.by, str):
            return [self.by]
        names = self.by if isinstance(self.by, list) and is_table(self.data) else []
        return names if all(isinstance(name, str) for name in names) and len(names) < len(self.data) else []

    def of(self, loss: Callable[..., Any], init: Any) -> "Groups":
        """Return the groups as this loss gets them, with a label for each row."""
        names, data = self.names, Frame(self.data) if is_table(self.data) else self.data
        if not isinstance(data, Frame | dict) and names:
            msg = f"`by={self.by!r}` names a column; `data` has none. Pass a table, a dict of columns, or labels."
            raise TypeError(msg)
        if isinstance(data, Frame):
            columns = [data.labels(name) for name in names]
            data = (data.without(names) if names else data).arrays(loss, init)
        else:
            for name in names:
                check_there(name, list(data), "`data`", "`by` names")
            columns = [np.asarray(data[name]) for name in names]
            data = {name: leaf for name, leaf in data.items() if name not in names} if names else data
        return Groups(data, _together(columns) if names else self.by)


def _together(columns: list[np.ndarray]) -> np.ndarray:
    """Return the labels of several columns as one, tuples."""
    if len(columns) == 1:
        return columns[0]
    labels = np.empty(len(columns[0]), object)
    labels[:] = list(zip(*(column.tolist() for column in columns), strict=True))
    return labels


class Sorted:
    """The rows of groups, one group after the other."""

    def __init__(self, groups: Groups) -> None:
        data = inputs.as_arrays(groups.data, "data")
        inputs.refuse_traced((data, groups.by), "`Groups`")
        labels = np.asarray(groups.by)
        for path, leaf in jax.tree_util.tree_leaves_with_path(data):
            if np.shape(leaf)[:1] != labels.shape:
                where = "data" + jax.tree_util.keystr(path)
                msg = f"`{where}` has shape {np.shape(leaf)}; `by` has shape {labels.shape}: one label for each row."
                raise ValueError(msg)
        missing = np.array([label != label for label in labels.tolist()])  # noqa: PLR0124 - NaN alone is not itself
        if np.any(missing):
            msg = f"`by` has no label for {int(np.sum(missing))} of {len(labels)} rows. Drop these rows, or label them."
            raise ValueError(msg)
        self.labels, of_row, self.counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self._order, self._data = np.argsort(of_row, kind="stable"), data

    def rows(self, groups: np.ndarray, length: int) -> tuple[Any, np.ndarray]:
        """Return the rows of these groups, each filled up to `length`, and their weights."""
        place, counts = np.arange(length), self.counts[groups, None]
        filled = self._order[self.starts[groups, None] + np.minimum(place, counts - 1)]
        weights = np.where(place < counts, 1 / counts, 0)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[filled], self._data), weights


def solve_groups(ask: Ask, in_axes: Any, watch: Watching) -> Solution:
    """Solve a problem for each group; the program is that of the longest."""
    if ask.has_aux or ask.trace:
        option = "has_aux" if ask.has_aux else "trace"
        msg = f"`{option}=True` cannot be had with `Groups`: groups are filled up. Pass arrays of equal length instead."
        raise ValueError(msg)
    rows, each = Sorted(ask.data), _start_for_each(in_axes)
    size, found, parts = len(rows.labels), [], []
    watch.show(size=size)
    ends = lengths(rows.counts)
    for below, length in itertools.pairwise([0, *ends]):
        groups = np.flatnonzero((rows.counts > below) & (rows.counts <= length))
        data, weights = rows.rows(groups, length)
        weighted = _weighted_residuals(ask.loss) if ask.least_squares else of_rows(ask.loss)
        own = _of_groups(ask, groups, size, each=each)._replace(loss=weighted, data=(data, weights))
        program, batch, note = many.read_lanes(own, (0 if each else None, 0))
        if not found:
            _check(ask, rows, program, weighted)
        found.append(many.solve_lanes(program, batch, watch, last=length == ends[-1])._replace(note=note))
        parts.append(Part(groups, program, batch, rows.counts[groups]))
    return _merged(size, parts, found)._replace(run=watch.frozen, labels=rows.labels)


def lengths(counts: np.ndarray) -> list[int]:
    """Return the lengths to which groups of so many rows are filled up: few, and few rows are filled in.

    A length more has to save as many rows as take the time to compile its program. Found by dynamic programming over
    the different counts, of which many are thinned out first.
    """
    sizes = np.unique(counts)
    if len(sizes) > 64:  # noqa: PLR2004 - enough to choose among
        sizes = np.unique(np.quantile(sizes, np.linspace(0, 1, 64), method="higher"))
    upto = [0, *np.searchsorted(np.sort(counts), sizes, side="right").tolist()]
    best: list[tuple[float, list[int]]] = [(0, [])]
    for last, size in enumerate(sizes.tolist(), 1):
        best.append(
            min(
                (cost + PROGRAM + size * (upto[last] - upto[first]), [*chosen, size])
                for first, (cost, chosen) in enumerate(best)
            )
        )
    return best[-1][1]


def _weighted_residuals(residuals: Callable[..., Any]) -> Callable[..., Any]:
    def weighted(params: Any, data: Any) -> Any:
        rows, weights = data
        values = jax.vmap(lambda row: residuals(params, jax.tree.map(lambda leaf: leaf[None], row)))(rows)
        return jax.tree.map(lambda leaf: leaf * expand_to(weights > 0, leaf), values)

    return weighted


def _start_for_each(in_axes: Any) -> bool:
    if in_axes is not None and (not isinstance(in_axes, tuple) or in_axes[0] not in (None, 0) or in_axes[1:] != (0,)):
        msg = f"`in_axes` with `Groups` must be (None, 0), one start for all, or (0, 0), one each; got {in_axes!r}."
        raise ValueError(msg)
    return in_axes is not None and in_axes[0] == 0


def _of_groups(ask: Ask, groups: np.ndarray, size: int, *, each: bool) -> Ask:
    """Return what is asked for of these groups: what has an entry for each group is cut to theirs."""

    def cut(weight: Any) -> Any:
        row = penalties.is_row(weight) and len(weight) == size
        return np.asarray(weight)[groups] if row else penalties.for_all(weight)

    init = ask.init
    if each:
        init = inputs.as_arrays(init, "init")
        for path, leaf in jax.tree_util.tree_leaves_with_path(init):
            if np.shape(leaf)[:1] != (size,):
                where = "init" + jax.tree_util.keystr(path)
                have = np.shape(leaf)
                msg = f"`{where}` has shape {have}; `in_axes=(0, 0)` asks for a start for each of {size} groups."
                raise ValueError(msg)
        init = jax.tree.map(lambda leaf: np.asarray(leaf)[groups], init)
    return ask._replace(init=init, l1=cut(ask.l1), l2=cut(ask.l2))


def _check(ask: Ask, rows: Sorted, program: Program, weighted: Callable[..., Any]) -> None:
    """Refuse a loss that is no mean over rows, by its value on one group."""
    group = np.array([int(np.argmax(rows.counts))])
    data, weights = jax.tree.map(lambda leaf: leaf[0], rows.rows(group, int(rows.counts[group[0]])))
    layout = program.layout(program.start)
    params = layout.unflatten(layout.flatten(program.start) + irregular(program.size, layout.dtype) / 10)
    data = jax.tree.map(jnp.asarray, data)
    what = f"all {int(rows.counts[group[0]])} rows of group {rows.labels[group[0]]!r}"
    at_once, mean = ask.loss(params, data), weighted(params, (data, jnp.asarray(weights)))
    refuse_no_mean(at_once, mean, name_of(ask.loss), what, "fill up the groups yourself and pass arrays, groups first")


def _merged(size: int, parts: list[Part], found: list[Solution]) -> Solution:
    """Return what came of the parts as one, in the order of the labels."""
    answers = [solution.answer._replace(aux=()) for solution in found]
    combined = blank(size, answers[0])
    for part, answer in zip(parts, answers, strict=True):
        put(combined, part.lanes, answer)
    compiling, slots = np.sum([each.compiling for each in found], axis=0), sum(each.slots or 0 for each in found)
    return found[-1]._replace(answer=combined, trace=None, source=parts, compiling=compiling, slots=slots)
