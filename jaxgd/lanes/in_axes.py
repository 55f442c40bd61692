"""Along which axes of what users pass the problems lie, and how many there are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import penalties
from jaxgd.compile.build import Ask

Axes = list[int | None]  # of the leaves of a pytree: the axis along which lanes follow each other


def axes_of(ask: Ask, in_axes: Any, init: Any, data: Any, options: Any) -> tuple[tuple[Axes, Axes], int]:
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
        sizes = penalties.rows({"l1": ask.l1, "l2": ask.l2}, init)
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
        one = of_one(data, axes[1])
        if _takes(ask, of_one(init, first), one):
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


def lanes_first(tree: Any, axes: Axes) -> Any:
    """Return the arrays with their axes of lanes first."""
    leaves, structure = jax.tree.flatten(tree)
    moved = [leaf if axis in (None, 0) else _moved(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)]
    return structure.unflatten(moved)


def _moved(leaf: Any, axis: int) -> Any:
    return np.moveaxis(leaf, axis, 0) if isinstance(leaf, np.ndarray) else jnp.moveaxis(leaf, axis, 0)


def of_one(tree: Any, axes: Axes) -> Any:
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
