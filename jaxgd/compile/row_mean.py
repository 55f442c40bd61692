"""A loss that is a mean over rows, recorded for some of them; one that is not is refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import loss_jaxpr
from jaxgd.core.flat import Layout
from jaxgd.core.numerics import irregular

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


def refuse_no_mean(at_once: Any, mean: Any, name: str, what: str, remedy: str) -> None:
    """Refuse a loss that is not for rows `at_once` what the `mean` is of those for each; `what` names the rows."""
    for one, other in zip(jax.tree.leaves(at_once), jax.tree.leaves(mean), strict=True):
        off, size = np.max(np.abs(np.ravel(one) - np.ravel(other))), np.max(np.abs(one)) + np.max(np.abs(other))
        if off > APART * size:
            msg = (
                f"`loss` {name} is no mean over rows: for {what} it is {_short(one)}, and"
                f" {_short(other)} as the mean of its values for each. Write jnp.mean over the rows, not a sum,"
                f" nor a root or quotient of means; or {remedy}."
            )
            raise ValueError(msg)


def _short(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=6)


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
        params = layout.unflatten(irregular(layout.size, layout.dtype) / 10)
        at_once, mean = both(params, rows, arrays)
        refuse_no_mean(at_once, mean, name, f"{count} of them", "pass the data without `Rows`")


def weighted(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return the loss as the sum over rows of its value for each, times its weight."""

    def of_tile(params: Any, tile: Any) -> jax.Array:
        rows, weights = tile
        values = jax.vmap(lambda row: loss(params, jax.tree.map(lambda leaf: leaf[None], row)))(rows)
        return jnp.sum(weights * values)

    return of_tile
