"""Data whose loss is a mean over its rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import inputs
from jaxgd.compile.frames import Frame, is_table
from jaxgd.data.blocks import Block, Expected, Source, blocks
from jaxgd.data.sources import open_source


class Rows:
    """Data over whose rows, the entries of the leading axis, the loss is a mean.

    >>> import numpy as np, jax.numpy as jnp, jaxgd
    >>> def mse(theta, y):
    ...     return jnp.mean((y - theta) ** 2)
    >>> rows = jaxgd.Rows([1.0, 2.0, 6.0], weights=[1, 1, 2])
    >>> round(float(jaxgd.minimize(mse, rows).params), 3)
    3.75

    Knowing that, `minimize` reads the data once an evaluation, by tiles that stay in the cache, takes the curvature
    from a sample of the rows, reads rows from disk, and spreads them over cores and devices. Penalties on the params
    may be added to the mean. A loss that is no mean over rows is an error.

    Args:
        data: pytree of arrays, rows first, or a table; the loss gets some of the rows at a time, in the same structure.
        weights: array of one number a row, not negative: a row of weight 2 counts as two. Of a table, also the name of
            a column.

    Raises:
        ValueError, TypeError: for leaves of different length, no rows, and weights that are none.

    """

    source: "Paired | None" = None  # where rows are read from; None: they are in memory

    def __init__(self, data: Any, weights: Any = None) -> None:
        """Check the lengths; the arrays are kept where they are."""
        if is_table(data):
            data = Frame(data)
            if isinstance(weights, str):
                weights, data = data.column(weights, "`weights`"), data.without([weights])
        self.data = data if isinstance(data, Frame) else inputs.as_arrays(data, "data")
        leaves = jax.tree_util.tree_leaves_with_path(self.data)
        names = ["data" + jax.tree_util.keystr(path) for path, _ in leaves]
        if not leaves:
            msg = f"`data` holds no numbers; got {data!r}. Pass at least one array, rows first."
            raise ValueError(msg)
        for name, (_, leaf) in zip(names, leaves, strict=True):
            if not leaf.ndim:
                msg = (
                    f"`{name}` is one number; `Rows` takes arrays, rows first. Let the loss close over what all share."
                )
                raise ValueError(msg)
            if len(leaf) != len(leaves[0][1]):
                msg = (
                    f"`{name}` has {len(leaf)} rows; `{names[0]}` has {len(leaves[0][1])}."
                    " All arrays in `Rows` must have as many entries on their first axis."
                )
                raise ValueError(msg)
        self.weights = None if weights is None else _as_weights(weights, len(leaves[0][1]))
        if any(isinstance(leaf, np.memmap) for _, leaf in leaves):
            self.source = Paired(open_source((self.data, self.weights)), paired=True)

    def of(self, loss: Callable[..., Any], init: Any) -> "Rows":
        """Return the rows as this loss gets them: of a table, the columns that it asks for."""
        return Rows(self.data.arrays(loss, init), self.weights) if isinstance(self.data, Frame) else self

    @classmethod
    def open(cls, where: Any, columns: Any = None, weights: str | None = None) -> "Rows":
        """Return rows that are read anew, in blocks, at every evaluation: memory holds a few blocks.

        >>> import numpy as np, jax.numpy as jnp, jaxgd
        >>> def batches():
        ...     for start in (0, 10, 20):
        ...         yield np.arange(start, start + 10.0)
        >>> def mse(theta, y):
        ...     return jnp.mean((y - theta) ** 2)
        >>> round(float(jaxgd.minimize(mse, jaxgd.Rows.open(batches)).params), 3)
        14.5

        Args:
            where: path of a .npy, Parquet or Arrow file, of a folder of them, or a list of paths; a pytree of .npy
                paths, read in step; a pyarrow `Dataset` or `Table`; or a function that returns an iterator of batches,
                pytrees of arrays of any number of rows, the same rows each time it is called.
            columns: of Parquet and Arrow alone: what the loss gets, as a pytree of names, in which a list of names is a
                matrix: `columns=(["x1", "x2"], "y")`. Absent: a dict of all columns.
            weights: name of the column of weights.

        Raises:
            ValueError, TypeError: for columns that are missing, hold no numbers or nulls, and for batches that differ.

        """
        rows = cls.__new__(cls)
        if weights is not None and columns is None:
            msg = f"`weights={weights!r}` names a column; say by `columns` which others the loss gets."
            raise ValueError(msg)
        rows.data, rows.weights = None, weights
        source = open_source(where, columns if weights is None else (columns, weights))
        rows.source = Paired(source, paired=weights is not None)
        return rows

    def __len__(self) -> int:
        """Return how many rows there are, where that is known without reading them."""
        count = len(jax.tree.leaves(self.data)[0]) if self.source is None else self.source.rows
        if count is None:
            msg = "How many rows there are is known once they are read."
            raise TypeError(msg)
        return count

    def __repr__(self) -> str:
        count = len(self) if self.source is None else self.source.rows
        said = "rows" if count is None else f"{count} rows"
        return f"Rows({said})" if self.source is None else f"Rows({said} of {self.source.name})"


@dataclass(frozen=True)
class Paired:
    """A source of rows and weights; where it is not `paired`, there are no weights."""

    source: Source
    paired: bool

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def rows(self) -> int | None:
        return self.source.rows

    def blocks(self, size: int, seen: Expected | None = None) -> Iterator[Block]:
        """Yield blocks of so many rows, pairs of rows and weights."""
        for block in blocks(self.source, size, seen):
            yield block if self.paired else block._replace(data=(block.data, None))

    def share(self, index: int, of: int) -> "Paired":
        return Paired(self.source.share(index, of), self.paired)


def _as_weights(weights: Any, rows: int) -> Any:
    weights = inputs.as_arrays(weights, "weights")
    if getattr(weights, "shape", None) != (rows,):
        msg = f"`weights` must be one number for each of {rows} rows; got shape {np.shape(weights)}."
        raise ValueError(msg)
    if isinstance(weights, Tracer):
        return weights
    check_weights(np.asarray(weights))
    if not np.any(np.asarray(weights) > 0):
        msg = f"`weights` are all 0 for {rows} rows, so there is nothing to take the mean of. Give some row a weight."
        raise ValueError(msg)
    return weights


def check_weights(weights: np.ndarray, first: int = 0) -> None:
    """Refuse weights that are none; `first` is the number of the first row."""
    bad = np.flatnonzero(~((weights >= 0) & np.isfinite(weights)))
    if len(bad):
        msg = f"`weights[{first + bad[0]}]` is {weights[bad[0]]}; weights must be 0 or more, and finite."
        raise ValueError(msg)


def draw_rows(tree: Any, count: int, there: int) -> list[Any]:
    """Return two samples of `count` rows, with no row in both; or all rows, where there are not enough for two."""
    if 2 * count > there:
        return [jax.tree.map(jnp.asarray, tree)]
    draw = np.random.default_rng(0)
    # One row, at random, of each of so many stretches; each serves one of the samples, at random.
    edges = np.arange(2 * count + 1) * there // (2 * count)
    picked = edges[:-1] + (draw.random(2 * count) * np.diff(edges)).astype(int)
    order = draw.permutation(2 * count)

    halves = (picked[np.sort(order[:count])], picked[np.sort(order[count:])])
    return [jax.tree.map(lambda leaf, own=half: _taken(leaf, own), tree) for half in halves]


def _taken(leaf: Any, rows: np.ndarray) -> Any:
    return leaf[rows] if isinstance(leaf, np.ndarray) else _gathered(leaf, rows)


@jax.jit
def _gathered(leaf: jax.Array, rows: jax.Array) -> jax.Array:
    return leaf.at[rows].get(mode="clip", indices_are_sorted=True)
