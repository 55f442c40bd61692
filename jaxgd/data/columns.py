"""Columns of Arrow record batches as arrays: which are asked for, and that they are numbers without gaps."""

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


def pyarrow(module: str = "") -> Any:
    """Return a module of pyarrow, which is imported when it is needed only."""
    try:
        return importlib.import_module(f"pyarrow.{module}".rstrip("."))
    except ImportError as error:
        msg = "Parquet and Arrow files need pyarrow: pip install 'jaxgd[arrow]'."
        raise ImportError(msg) from error


@dataclass(frozen=True)
class Plan:
    """The columns asked for: a leaf that is a string becomes an array, one that is a list of strings a matrix."""

    leaves: tuple[Any, ...]
    structure: Any
    names: list[str]
    row_bytes: int

    def arrays(self, batch: Any, row: int, file: str) -> Any:
        """Return the columns of a record batch as arrays, without copies where they lie so in memory."""
        done: dict[str, np.ndarray] = {}
        for name in self.names:
            column = batch.column(name)
            if nulls := _nulls(column):
                last = row + batch.num_rows - 1
                msg = (
                    f"column {name!r} holds nulls: {nulls} in rows {row} to {last} of {file}. Fill or drop them first."
                )
                raise ValueError(msg)
            done[name] = _values(column)
        return self.structure.unflatten([_leaf(leaf, done) for leaf in self.leaves])


class NoColumnError(ValueError, KeyError):
    """A column is asked for that is not there."""

    __str__ = Exception.__str__


def planned(columns: Any, schema: Any, name: str) -> Plan:
    """Return the plan for these columns, all of them for None; refuse what is not there or holds no numbers."""
    if columns is None:
        columns = {column: column for column in schema.names}
    leaves, structure = jax.tree.flatten(columns, is_leaf=lambda node: isinstance(node, list))
    for leaf in leaves or [columns]:
        if not (isinstance(leaf, str) or (isinstance(leaf, list) and leaf and all(isinstance(n, str) for n in leaf))):
            msg = (
                f"`columns` holds {leaf!r}. Pass a pytree of names: a string is one column,"
                ' a list of strings a matrix, as in (["x0", "x1"], "y").'
            )
            raise TypeError(msg)
    names = list(dict.fromkeys(item for leaf in leaves for item in ([leaf] if isinstance(leaf, str) else leaf)))
    for column in names:
        check_there(column, schema.names, name)
        _check_numeric(column, schema.field(column).type, name)
    for leaf in leaves:
        if isinstance(leaf, list):
            for column in leaf:
                _check_scalar(column, schema.field(column).type, leaf)
    return Plan(tuple(leaves), structure, names, sum(_width(schema.field(column).type) for column in names))


def check_alike(plan: Plan, first: Any, other: Any) -> None:
    """Refuse a file, of a path and a schema, whose columns are not those of the first."""
    for name in plan.names:
        if name not in other.schema.names:
            msg = f"{other.path} has no column {name!r}; {first.path} has. Write all files alike, or leave it out."
            raise ValueError(msg)
        kinds = [str(file.schema.field(name).type) for file in (first, other)]
        if kinds[0] != kinds[1]:
            msg = f"column {name!r} is {kinds[1]} in {other.path}; {kinds[0]} in {first.path}. Write all files alike."
            raise ValueError(msg)


def check_there(column: str, names: list[str], name: str, asks: str = "`columns` names") -> None:
    """Refuse a column that is not there, or is there twice."""
    if names.count(column) == 1:
        return
    if column in names:
        msg = f"{name} has {names.count(column)} columns named {column!r}. Give each a name of its own."
        raise ValueError(msg)
    near = difflib.get_close_matches(column, map(str, names), 1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    there = ", ".join(map(repr, names[:30])) + (f" and {len(names) - 30} more" if len(names) > 30 else "")  # noqa: PLR2004
    msg = f"{asks} {column!r}; {name} has no such column.{guess} There are: {there or 'none'}."
    raise NoColumnError(msg)


def _check_numeric(column: str, kind: Any, name: str) -> None:
    types, inner = pyarrow("types"), kind
    while types.is_fixed_size_list(inner):
        inner = inner.value_type
    if types.is_boolean(inner) or types.is_integer(inner) or types.is_floating(inner):
        return
    remedy = "Encode it as numbers, or leave it out with `columns`"
    if types.is_list(inner) or types.is_large_list(inner):
        remedy = f"Cast it to lists of one length, pyarrow.list_({inner.value_type}, length), or leave it out"
    msg = f"column {column!r} of {name} holds {kind}; only numbers can be computed with. {remedy}."
    raise TypeError(msg)


def _check_scalar(column: str, kind: Any, leaf: list[str]) -> None:
    if pyarrow("types").is_fixed_size_list(kind):
        msg = f"`columns` has {column!r} in the list {leaf!r}; it is a matrix already, of {kind}. Name it by itself."
        raise ValueError(msg)


def _width(kind: Any) -> int:
    """Return how many bytes a value takes, rounded up."""
    if pyarrow("types").is_fixed_size_list(kind):
        return kind.list_size * _width(kind.value_type)
    return -(-kind.bit_width // 8)


def _nulls(column: Any) -> int:
    """Return how many values are missing, those in lists included."""
    inside = _nulls(column.flatten()) if pyarrow("types").is_fixed_size_list(column.type) else 0
    return column.null_count + inside


def _values(column: Any) -> np.ndarray:
    """Return a column without nulls as an array; lists of one length are a matrix."""
    if pyarrow("types").is_fixed_size_list(column.type):
        values = _values(column.flatten())
        return values.reshape(len(column), column.type.list_size, *values.shape[1:])
    return column.to_numpy(zero_copy_only=not pyarrow("types").is_boolean(column.type))


def _leaf(leaf: Any, done: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(leaf, str):
        return done[leaf]
    stack = [done[name] for name in leaf]
    return np.stack(stack, axis=-1, dtype=np.result_type(np.float32, *stack))
