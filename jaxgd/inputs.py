"""What users pass as data and start: array-likes in, arrays out, or an error that names the leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_arrays(tree: Any, name: str) -> Any:
    """Return the pytree with each array-like turned into an array; a list of numbers is an array.

    Raises `TypeError` or `ValueError` for what holds no numbers, naming the leaf.
    """
    if type(tree) is np.ndarray and tree.dtype.kind in "fiu" and tree.size:
        return tree
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_list_of_numbers)
    return treedef.unflatten([_as_array(leaf, name + jax.tree_util.keystr(path)) for path, leaf in paths])


def as_start(tree: Any, like: np.dtype) -> Any:
    """Return `init` as a pytree of float or complex arrays; integers are taken as floats of type `like`."""

    def convert(path: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        if leaf.dtype == bool:
            msg = f"`init{jax.tree_util.keystr(path)}` is boolean; parameters are real or complex. Pass floats."
            raise TypeError(msg)
        return leaf.astype(like)

    start = jax.tree_util.tree_map_with_path(convert, as_arrays(tree, "init"))
    if not jax.tree.leaves(start):
        msg = f"`init` holds no parameters; got {tree!r}. Pass a pytree with at least one number."
        raise ValueError(msg)
    return start


def cast(tree: Any, dtype: np.dtype) -> Any:
    """Return the pytree with float and complex leaves in the precision of `dtype`."""

    def convert(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return leaf.astype(jnp.result_type(dtype, jnp.complex64))
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)


def float_type(data: Any) -> np.dtype:
    """Return the type a start takes from the data: its floats' common type, or JAX's default float."""
    types = [jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(data)]
    floats = [kind for kind in types if jnp.issubdtype(kind, jnp.inexact)]
    if not floats:
        return jax.dtypes.canonicalize_dtype(float)
    return jnp.finfo(jnp.result_type(jnp.float32, *floats)).dtype


def not_finite(tree: Any, name: str) -> list[str]:
    """Return the paths of the leaves that hold NaN or infinity."""
    found: list[str] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
            found.append(f"`{name}{jax.tree_util.keystr(path)}`")
    return found


def _is_list_of_numbers(node: Any) -> bool:
    if not isinstance(node, list):
        return False
    items: list[Any] = node
    return not any(isinstance(item, (dict, tuple, np.ndarray, jax.Array)) for item in items)


def _as_array(leaf: Any, name: str) -> Any:
    if not isinstance(leaf, np.ndarray | jax.Array):
        try:
            leaf = np.asarray(leaf)
        except (ValueError, TypeError) as error:
            msg = f"`{name}` cannot be made an array: {error}. Rows of a list must have equal lengths."
            raise ValueError(msg) from error
    if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
        msg = f"`{name}` holds {leaf.dtype} values; only numbers can be computed with. Encode or drop them first."
        raise TypeError(msg)
    if leaf.size == 0 and not name.startswith("init"):
        msg = f"`{name}` is empty, of shape {leaf.shape}; a loss of nothing has no minimum. Pass at least one value."
        raise ValueError(msg)
    return leaf
