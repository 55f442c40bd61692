"""What was seen on the way, and tables of it."""

from collections.abc import Collection, Sequence
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
        return frame(columns | columns_of(self.params, others=columns), range(len(columns["loss"])), ["move"])


def names_of(params: Any, columns: Sequence[str] = ()) -> list[str]:
    """Return what each number of the params of one problem is called; of one vector as the `columns` of the data."""
    leaves = _named(params)
    if len(leaves) == 1 and np.shape(leaves[0][1]) == (len(columns),) and not np.iscomplexobj(leaves[0][1]):
        return list(columns)
    names: list[str] = []
    for name, leaf in leaves:
        own = [f"{name}[{i}]" for i in range(int(np.prod(np.shape(leaf))))] if np.ndim(leaf) else [name]
        parts = (".real", ".imag") if np.iscomplexobj(leaf) else ("",)
        names += [each + part for part in parts for each in own]
    return names


def columns_of(params: Any, names: Sequence[str] = (), others: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Return a column for each parameter, by name; the rows lie first. `others` are the names of other columns."""
    columns: dict[str, np.ndarray] = {}
    for name, leaf in _named(params):
        flat = np.asarray(leaf).reshape(len(leaf), -1)
        own = [name] if np.ndim(leaf) == 1 else [f"{name}[{i}]" for i in range(flat.shape[1])]
        columns |= dict(zip(own, flat.T, strict=True))
    if len(names) == len(columns):
        columns = dict(zip(names, columns.values(), strict=True))
    return {f"params[{name!r}]" if name in others else name: column for name, column in columns.items()}


def _named(params: Any) -> list[tuple[str, Any]]:
    """Return the leaves with what they are called: by the keys of dicts, or by their paths where these clash."""
    pairs = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in pairs]
    keys = [isinstance(key, jax.tree_util.DictKey | jax.tree_util.GetAttrKey) for path, _ in pairs for key in path[:1]]
    if not keys or not all(keys) or len(set(names)) < len(names) or "[" in "".join(names):
        names = ["params" + jax.tree_util.keystr(path) for path, _ in pairs]
    return [(name, leaf) for name, (_, leaf) in zip(names, pairs, strict=True)]


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
