"""What was seen on the way, and tables of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np


@partial(
    jax.tree_util.register_dataclass, data_fields=["loss", "grad_norm", "stepsize", "params", "count"], meta_fields=[]
)
@dataclass(frozen=True)
class Trace:
    """What was seen on the way, a row a move, the start first.

    Inside `jit` and `vmap` the arrays keep their full length, and `count` says how many rows are filled; otherwise they
    are trimmed to it.
    """

    loss: Any  # shape (n,)
    grad_norm: Any  # shape (n,): largest absolute component
    stepsize: Any  # shape (n,): of the move that led there, 0 for the start
    params: Any  # the user's pytree, each leaf with a leading axis of length n
    count: Any

    def trimmed(self) -> "Trace":
        """Return the rows that are filled, of one solve."""
        rows = jax.tree.map(lambda column: column[: int(self.count)], replace(self, count=None))
        return replace(rows, count=self.count)

    def table(self) -> Any:
        """Return a pandas `DataFrame`, a row a move and a column for each parameter."""
        columns: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in ("loss", "grad_norm", "stepsize")}
        return frame(columns | columns_of(self.params), range(len(columns["loss"])), ["move"])


def columns_of(params: Any) -> dict[str, np.ndarray]:
    """Return a column for each parameter, by name; the rows lie first."""
    columns: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, rows = "params" + jax.tree_util.keystr(path), np.asarray(leaf)
        flat, single = rows.reshape(len(rows), -1), rows.ndim == 1
        columns |= {name if single else f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
    return columns


def frame(columns: dict[str, Any], index: Any = None, names: Sequence[str | None] = (None,)) -> Any:
    """Return a pandas `DataFrame` of columns by name, its index called by one name or, of tuples, by several."""
    try:
        import pandas as pd  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = "A table needs pandas: pip install 'jaxgd[pandas]'."
        raise ImportError(msg) from error
    table = pd.DataFrame(columns, index=index)
    table.index = pd.MultiIndex.from_tuples(index) if len(names) > 1 else table.index
    return table.rename_axis(index=names)
