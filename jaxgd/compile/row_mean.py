"""A loss that is a mean over rows, recorded for some of them; one that is not is refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import loss_jaxpr
from jaxgd.core.flat import Layout

APART = 1e-3  # of its size, by which a mean over rows may differ from the mean of its rows, by rounding


def by_tiles(
    call: Callable[..., Any], name: str, start: Any, data: Any, arrays: list[Any], tile: int
) -> tuple[loss_jaxpr.Traced, Any]:
    """Return the record of a loss for a tile of rows and their weights, and the shapes of these.

    A loss that is no mean over rows is refused.
    """
    rows = jax.tree.map(lambda leaf: of_length(leaf, tile), data)
    shapes = (rows, jax.ShapeDtypeStruct((tile,), Layout.of(start).dtype))

    def of_tile(params: Any, data: Any, arrays: Any) -> jax.Array:
        return weighted(lambda params, rows: call(params, rows, arrays))(params, data)

    record = loss_jaxpr.record(of_tile, name, start, shapes, arrays, has_aux=False)
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((data, arrays))):
        _check(call, record, start, data, arrays, name, tile)
    return record, shapes


def row_bytes(record: loss_jaxpr.Traced, data: Any) -> int:
    """Return the bytes of a row, and of what a loss computes for each on the way."""
    there = len(jax.tree.leaves(data)[0])
    made = sum(var.aval.size * var.aval.dtype.itemsize for equation in record.jaxpr.eqns for var in equation.outvars)
    return (sum(leaf.nbytes for leaf in jax.tree.leaves(data)) + made) // there


def of_length(leaf: Any, rows: int) -> jax.ShapeDtypeStruct:
    """Return the shape of an array with so many rows."""
    return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)


def _check(
    loss: Callable[..., Any], tile: Callable[..., Any], start: Any, data: Any, arrays: Any, name: str, count: int
) -> None:
    """Refuse a loss that is no mean over rows, by its value for some and those for each of them.

    `tile` is the record of the loss for `count` rows and their weights, `start` the shapes of its params.
    """
    layout, there = Layout.of(start), len(jax.tree.leaves(data)[0])
    picked = np.linspace(0, there - 1, count).astype(int)
    rows = jax.tree.map(lambda leaf: leaf[picked], data)
    weights = np.full(count, 1 / count, layout.dtype)

    @jax.jit
    def both(params: Any, rows: Any, arrays: Any) -> tuple[jax.Array, jax.Array]:
        return loss(params, rows, arrays), tile(params, (rows, weights), arrays)[0]

    with jax.ensure_compile_time_eval():  # also where the solve is traced
        params = layout.unflatten(jnp.asarray(np.cos(1 + np.arange(layout.size)) / 10, layout.dtype))
        at_once, mean = map(float, both(params, rows, arrays))
    if abs(at_once - mean) > APART * (abs(at_once) + abs(mean)):
        msg = (
            f"`loss` {name} is no mean over rows: for {count} of them it is {at_once:.6g}, and {mean:.6g} as the mean"
            " of its values for each. Write jnp.mean over the rows, not a sum, nor a root or quotient of means; or pass"
            " the data without `Rows`."
        )
        raise ValueError(msg)


def weighted(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loss as the sum over rows of its value for each, times its weight."""

    def of_tile(params: Any, tile: Any) -> jax.Array:
        rows, weights = tile
        values = jax.vmap(lambda row: loss(params, jax.tree.map(lambda leaf: leaf[None], row)))(rows)
        return jnp.sum(weights * values)

    return of_tile
