"""Tables as arrays: a dict of columns where the loss asks by name, else one matrix. Narwhals knows the libraries."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import fingerprint, inputs
from jaxgd.compile.cache import cache
from jaxgd.compile.column_access import asked
from jaxgd.data.columns import check_there

LIBRARIES = frozenset({"pandas", "polars", "pyarrow", "modin", "cudf", "dask", "ibis", "duckdb", "pyspark", "sqlframe"})


def is_table(data: Any) -> bool:
    """Return whether it is a table of some library, rather than a column or an array."""
    makers = {kind.__module__.partition(".")[0] for kind in type(data).__mro__}
    return not makers.isdisjoint(LIBRARIES) and hasattr(type(data), "columns")


def column_names(data: Any) -> list[str]:
    """Return the names of the columns of the one table among the data, if there is one."""
    tables = [leaf for leaf in jax.tree.leaves(data, is_leaf=is_table) if is_table(leaf)]
    return [str(name) for name in tables[0].columns] if len(tables) == 1 else []


class Frame:
    """A table in memory, of which only what is asked for is read."""

    ndim = 2

    def __init__(self, table: Any) -> None:
        """Check that it is one, with columns of different names."""
        try:
            import narwhals as nw  # noqa: PLC0415 - an extra
        except ImportError as error:
            msg = "A table as data needs narwhals: pip install 'jaxgd[tables]'."
            raise ImportError(msg) from error
        try:
            self._table: Any = nw.from_native(table, pass_through=True)
            self.names: list[Any] = self._table.columns if isinstance(self._table, nw.DataFrame) else []
        except nw.exceptions.DuplicateError as error:
            msg = f"`data` has several columns of one name. Give each a name of its own. {error}"
            raise ValueError(msg) from error
        if not isinstance(self._table, nw.DataFrame):
            msg = f"`data` is a {type(table).__name__}, whose rows are not in memory. Collect it into a table first."
            raise TypeError(msg)
        if not self._table.shape[0] or not self.names:
            msg = f"`data` is empty, of shape {self._table.shape}. Pass at least one row and column."
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self._table)

    def labels(self, name: str) -> np.ndarray:
        """Return a column of whatever tells rows apart."""
        check_there(name, self.names, "`data`", "`by` names")
        if missing := self._table[name].null_count():
            msg = f"`by` has no label for {missing} of {len(self)} rows: {name!r} holds nulls. Drop or label these."
            raise ValueError(msg)
        return self._table[name].to_numpy()

    def without(self, names: list[str]) -> "Frame":
        """Return the table without these columns."""
        return Frame(self._table.drop(names).to_native())

    def column(self, name: Any, asks: str = "`columns`", *, lanes: bool = False) -> np.ndarray:
        """Return a column of numbers, without a copy where it lies so in memory; of `lanes`, nulls are NaN."""
        check_there(name, self.names, "`data`", f"{asks} names")
        column = self._table.get_column(name)
        if not _is_numeric(column.dtype):
            msg = f"`data[{name!r}]` holds {column.dtype}; only numbers can be computed with. Encode or drop it first."
            raise TypeError(msg)
        if (missing := column.null_count()) and not (lanes and column.dtype.is_float()):
            msg = f"`data[{name!r}]` holds nulls: {missing} of {len(self)} rows. Fill or drop them first."
            raise ValueError(msg)
        values = column.to_numpy()
        return values.astype(float) if values.dtype == object else values

    def arrays(self, loss: Callable[..., Any], init: Any, *, lanes: bool = False) -> Any:
        """Return what the loss gets: a dict of the columns that it asks for, or one array of all; of a row, `lanes`."""
        names = self._asked(loss, init, lanes=lanes)
        if names is not None:
            return {name: self.column(name, lanes=lanes) for name in names}
        columns = [self.column(name, lanes=lanes) for name in self.names]
        if len({column.dtype for column in columns}) == 1:
            return self._table.to_numpy()
        return np.stack(columns, axis=-1, dtype=np.result_type(np.float32, *columns))

    def _asked(self, loss: Callable[..., Any], init: Any, *, lanes: bool) -> tuple[str, ...] | None:
        """Return the columns that the loss asks for by name, or None."""
        schema = {name: str(kind) for name, kind in self._table.schema.items() if _is_numeric(kind)}
        start = None if init is None else inputs.as_jax_has_them(inputs.as_start(init, np.dtype(np.float32)))
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), start)
        shape = () if lanes else (len(self),)
        key = ("asked", fingerprint.describe(loss, []), tuple(self.names), tuple(schema.items()), str(like), shape)
        if (known := cache.get(key)) is None:
            columns = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name in schema}
            known = (asked(loss, like, self.names, columns),)
            cache.put(key, known)
        return known[0]


def _is_numeric(kind: Any) -> bool:
    return kind.is_numeric() or str(kind) == "Boolean"
