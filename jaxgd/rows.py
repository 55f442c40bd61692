"""Data whose loss is a mean over its rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd import inputs
from jaxgd.flat import Layout

APART = 1e-3  # of its size, by which a mean over rows may differ from the mean of its rows, by rounding


class Rows:
    """Data over whose rows, the entries of the leading axis, the loss is a mean.

    >>> import numpy as np, jax.numpy as jnp, jaxgd
    >>> def mse(theta, y):
    ...     return jnp.mean((y - theta) ** 2)
    >>> rows = jaxgd.Rows([1.0, 2.0, 6.0], weights=[1, 1, 2])
    >>> round(float(jaxgd.minimize(mse, rows).params), 3)
    3.75

    Knowing that, `minimize` reads the data once an evaluation, by tiles that stay in the cache, takes the curvature from
    a sample of the rows, reads rows from disk, and spreads them over cores and devices. Penalties on the params may be
    added to the mean. A loss that is no mean over rows is an error.

    Args:
        data: pytree of arrays, rows first; the loss gets some of the rows at a time, in the same structure.
        weights: array of one number a row, not negative: a row of weight 2 counts as two.

    Raises:
        ValueError, TypeError: for leaves of different length, no rows, and weights that are none.

    """

    def __init__(self, data: Any, weights: Any = None) -> None:
        """Check the lengths; the arrays are kept where they are."""
        self.data = inputs.as_arrays(data, "data")
        leaves = jax.tree_util.tree_leaves_with_path(self.data)
        names = ["data" + jax.tree_util.keystr(path) for path, _ in leaves]
        for name, (_, leaf) in zip(names, leaves, strict=True):
            if not leaf.ndim:
                msg = f"`{name}` is one number; `Rows` needs arrays, rows first. Let the loss close over what all share."
                raise ValueError(msg)
            if len(leaf) != len(leaves[0][1]):
                msg = (
                    f"`{name}` has {len(leaf)} rows; `{names[0]}` has {len(leaves[0][1])}."
                    " All arrays in `Rows` must have as many entries on their first axis."
                )
                raise ValueError(msg)
        self.weights = None if weights is None else _as_weights(weights, len(self))

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(jax.tree.leaves(self.data)[0])


def _as_weights(weights: Any, rows: int) -> Any:
    weights = inputs.as_arrays(weights, "weights")
    if getattr(weights, "shape", None) != (rows,):
        msg = f"`weights` must be one number for each of {rows} rows; got shape {np.shape(weights)}."
        raise ValueError(msg)
    if isinstance(weights, Tracer):
        return weights
    bad = np.flatnonzero(~((np.asarray(weights) >= 0) & np.isfinite(np.asarray(weights))))
    if len(bad):
        msg = f"`weights[{bad[0]}]` is {weights[bad[0]]}; weights must be 0 or more, and finite."
        raise ValueError(msg)
    if not np.any(np.asarray(weights) > 0):
        msg = f"`weights` are all 0 for {rows} rows, so there is nothing to take the mean of. Give some row a weight."
        raise ValueError(msg)
    return weights


def check_mean(
    loss: Callable[..., Any], tile: Callable[..., Any], start: Any, data: Any, arrays: Any, name: str, count: int
) -> None:
    """Refuse a loss that is no mean over rows, by its value for some and those for each of them.

    `tile` is the record of the loss for `count` rows and their weights, `start` the shapes of its params.
    """
    layout, there = Layout.of(start), len(jax.tree.leaves(data)[0])
    picked = np.linspace(0, there - 1, count).astype(int)
    rows = jax.tree.map(lambda leaf: leaf[picked], data)
    weights = np.full(count, 1 / count, layout.dtype)
    params = layout.unflatten(jnp.cos(1 + jnp.arange(layout.size, dtype=layout.dtype)) / 10)

    @jax.jit
    def both(params: Any, rows: Any, arrays: Any) -> tuple[jax.Array, jax.Array]:
        return loss(params, rows, arrays), tile(params, (rows, weights), arrays)[0]

    whole, mean = map(float, both(params, rows, arrays))
    if abs(whole - mean) > APART * (abs(whole) + abs(mean)):
        msg = (
            f"`loss` {name} is no mean over rows: for {count} of them it is {whole:.6g}, and {mean:.6g} as the mean of"
            " its values for each. Write jnp.mean over the rows, not a sum, nor a root or quotient of means; or pass"
            " the data without `Rows`."
        )
        raise ValueError(msg)


def some(tree: Any, count: int, seed: int = 0) -> tuple[Any, Any]:
    """Return two samples of so many rows each; the same one twice where there are not enough rows for two."""
    there, draw = len(jax.tree.leaves(tree)[0]), np.random.default_rng(seed)
    parts = count if 2 * count > there else 2 * count
    # One row, at random, of each of so many stretches.
    edges = np.arange(parts + 1) * there // parts
    picked = edges[:-1] + (draw.random(parts) * np.diff(edges)).astype(int)

    def taken(leaf: Any, rows: np.ndarray) -> Any:
        near = isinstance(leaf, np.ndarray) or leaf.device.platform == "cpu"
        return jnp.asarray(np.take(np.asarray(leaf), rows, axis=0)) if near else leaf[rows]

    if parts == count:
        return (jax.tree.map(lambda leaf: taken(leaf, picked), tree),) * 2
    # Each stretch serves one of the two, at random.
    swap = draw.permutation(parts)
    halves = [np.sort(half) for half in (swap[:count], swap[count:])]
    return tuple(jax.tree.map(lambda leaf: taken(leaf, picked[half]), tree) for half in halves)  # type: ignore[return-value]
