"""What users pass as data and start: array-likes in, arrays out, or an error that names the leaf."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

WIDE = 64  # bits of the type that NumPy computes in


def as_arrays(tree: Any, name: str) -> Any:
    """Return the pytree with each array-like turned into an array; a list of numbers is an array.

    Raises `TypeError` or `ValueError` for what holds no numbers, naming the leaf.
    """
    if type(tree) is np.ndarray and tree.dtype.kind in "fiu" and tree.size:
        return tree
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_one_array)
    if not paths and tree is not None:
        msg = f"`{name}` holds no numbers; got {tree!r}. Pass at least one value."
        raise ValueError(msg)
    return treedef.unflatten([_as_array(leaf, name + jax.tree_util.keystr(path)) for path, leaf in paths])


def as_start(tree: Any, like: np.dtype) -> Any:
    """Return `init` as a pytree of float or complex arrays.

    Integers are taken as floats of type `like`, and half precision as float32: steps in it cannot be told apart.
    """

    def convert(path: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf.astype(jnp.float32) if leaf.dtype in (jnp.float16, jnp.bfloat16) else leaf
        if leaf.dtype == bool:
            msg = f"`init{jax.tree_util.keystr(path)}` is boolean; parameters are real or complex. Pass floats."
            raise TypeError(msg)
        return leaf.astype(like)

    start = jax.tree_util.tree_map_with_path(convert, as_arrays(tree, "init"))
    if not sum(leaf.size for leaf in jax.tree.leaves(start)):
        msg = f"`init` holds no parameters; got {tree!r}. Pass a pytree with at least one number."
        raise ValueError(msg)
    return start


def as_jax_has_them(tree: Any) -> Any:
    """Return the pytree with NumPy's leaves in the types that JAX gives them.

    JAX may remember what it made of a NumPy array, also where its setting for float64 has changed since: so arrays that
    it makes smaller in one setting are objects of our own, copies or views.
    """

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or leaf.dtype.itemsize <= 4:  # noqa: PLR2004 - bytes, of float32
            return leaf
        kind = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return leaf.view() if kind == leaf.dtype else leaf.astype(kind)

    return jax.tree.map(convert, tree)


def cast(tree: Any, dtype: np.dtype) -> Any:
    """Return the pytree with float and complex leaves in the precision of `dtype`; those that have it as they are."""

    def convert(leaf: Any) -> Any:
        real = jnp.issubdtype(leaf.dtype, jnp.floating)
        if not (real or jnp.issubdtype(leaf.dtype, jnp.complexfloating)):
            return leaf
        kind = dtype if real else jnp.result_type(dtype, jnp.complex64)
        return leaf if leaf.dtype == kind else leaf.astype(kind)

    return jax.tree.map(convert, tree)


def in_type(tree: Any, dtype: Any) -> Any:
    """Return arrays in the types in which they are computed with: the precision of `dtype`, if that is not None."""
    return as_jax_has_them(tree if dtype is None else cast(tree, np.dtype(dtype)))


def float_type(data: Any) -> np.dtype:
    """Return the type a start takes from the data: its floats' common type, or JAX's default float."""
    config: Any = jax.config
    return _float_type(tuple(leaf.dtype for leaf in jax.tree.leaves(data)), x64=config.jax_enable_x64)


@functools.lru_cache(maxsize=256)
def _float_type(types: tuple[np.dtype, ...], *, x64: bool) -> np.dtype:
    del x64  # asked for as part of the key: what a type stands for depends on it
    floats = [kind for kind in map(jax.dtypes.canonicalize_dtype, types) if jnp.issubdtype(kind, jnp.inexact)]
    if not floats:
        return jax.dtypes.canonicalize_dtype(float)
    return jnp.finfo(jnp.result_type(jnp.float32, *floats)).dtype


def wide(*trees: Any) -> bool:
    """Return whether none of the arrays is JAX's or of narrower floats; Python's numbers are of any type."""
    leaves = jax.tree.leaves(trees, is_leaf=_is_one_array)
    bits = {jnp.finfo(kind).bits for kind in map(_type_of, leaves) if kind and jnp.issubdtype(kind, jnp.inexact)}
    return max(bits, default=WIDE) >= WIDE and not any(isinstance(leaf, jax.Array) for leaf in leaves)


def _type_of(leaf: Any) -> np.dtype | None:
    """Return the type of an array; None of numbers, and of tables of several columns."""
    kind = getattr(leaf, "dtype", None)
    if kind is None or isinstance(kind, np.dtype):
        return kind
    return np.asarray(leaf).dtype


def not_finite(tree: Any, name: str, columns: Sequence[str] = ()) -> list[str]:
    """Return the paths of the leaves that hold NaN or infinity, of a table with the names of the `columns` that do."""
    found: list[str] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
            where = f"`{name}{jax.tree_util.keystr(path)}`"
            if array.ndim == 2 and array.shape[1] == len(columns):  # noqa: PLR2004 - rows and columns
                bad = set(np.nonzero(~np.isfinite(array))[1].tolist())
                where += f" in {', '.join(repr(columns[at]) for at in sorted(bad))}"
            found.append(where)
    return found


def not_finite_rows(rows: Any, first: int = 0) -> list[str]:
    """Return which of the rows is the first that is not finite, `first` being the number of the first there is."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(rows):
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            where = f"row {first + int(np.argmax(bad))} of `data{jax.tree_util.keystr(path)}`"
            return [f"{where}, the first of {int(bad.sum())} in view"]
    return []


def _is_one_array(node: Any) -> bool:
    """Whether a node is to become one array: a list of numbers, or what JAX would not take apart as it should."""
    if isinstance(node, list):
        return not any(isinstance(item, dict | tuple) or _is_array_like(item) for item in node)
    return isinstance(node, Iterator)


def _is_array_like(item: Any) -> bool:
    return hasattr(item, "__array__") and not isinstance(item, np.generic)


def _as_array(leaf: Any, name: str) -> Any:
    given = leaf
    if not isinstance(leaf, np.ndarray | jax.Array):
        try:
            leaf = np.asarray(leaf)
        except (ValueError, TypeError, RuntimeError) as error:
            msg = (
                f"`{name}` cannot be made an array: {str(error).rstrip('.')}."
                " Rows of a list must have equal lengths; pass several arrays as a tuple or a dict."
            )
            raise ValueError(msg) from error
    if leaf.dtype == object and hasattr(given, "columns") and hasattr(given, "items"):
        # Columns of several types, as of a pandas DataFrame: the common type of numbers, or the name of what is none.
        columns = [_as_array(column.to_numpy(), f"{name}[{key!r}]") for key, column in given.items()]
        return np.stack([column.astype(np.result_type(float, *columns)) for column in columns], axis=-1)
    if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
        what = f"holds {leaf.dtype} values" if leaf.ndim else f"is a {type(given).__name__}"
        msg = f"`{name}` {what}; only numbers can be computed with. {_remedy(given)}."
        raise TypeError(msg)
    if leaf.size == 0 and not name.startswith("init"):
        msg = f"`{name}` is empty, of shape {leaf.shape}; a loss of nothing has no minimum. Pass at least one value."
        raise ValueError(msg)
    return leaf


def _remedy(given: Any) -> str:
    """Say what to pass in place of what holds no numbers."""
    for kind, remedy in (
        ((Iterator, set), "Pass a list of its items"),
        ((str, Path), "Read the file first, as `pandas.read_csv` does; large ones by `jaxgd.Rows.open`"),
    ):
        if isinstance(given, kind):
            return remedy
    if hasattr(given, "toarray"):  # sparse
        return "Pass its `toarray()`"
    return getattr(given, "instead", "Encode or drop them first")


def refuse_traced(tree: Any, what: str) -> None:
    """Refuse what JAX traces where the host must know the values."""
    if any(isinstance(leaf, Tracer) for leaf in (*jax.tree.leaves(tree), jnp.zeros(()))):
        msg = (
            f"{what} cannot be had inside `jit`, `vmap`, `grad` and other transformations, since the host looks at the"
            " values. Call it outside; `minimize`, and `minimize_many` of arrays, work inside."
        )
        raise TypeError(msg)
