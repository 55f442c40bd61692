"""From a mean over rows to its program: for one compiled loop, or for passes led from the host."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxgd.compile import fingerprint, inputs
from jaxgd.compile.build import Ask, find, in_types
from jaxgd.compile.program import Inputs, Program
from jaxgd.core.protocol import Traits
from jaxgd.core.tiles import SMALL, Span, rows_of_tile
from jaxgd.rows.in_memory import is_apart, on_devices
from jaxgd.rows.rows import Rows
from jaxgd.solvers.optax import Optax
from jaxgd.solvers.registry import named

HEAD = 1024  # rows read to see what they are


def prepare_rows(ask: Ask, rows: Rows, *, tile: int | None = None, passes: bool = False) -> tuple[Program, Inputs, str]:
    """Return the program for what was asked, what to call it with, and what the user should know.

    Where the program is for `passes` over all rows, its data are the rows and their weights; for minibatches, rows of a
    `tile`, likewise.
    """
    _refuse_with_rows(ask)
    first = (rows.data, rows.weights) if rows.source is None else next(rows.source.blocks(HEAD)).data
    init = ask.init if ask.init is None else inputs.as_start(ask.init, inputs.float_type(first[0]))
    (data, weights), init = in_types(ask, first, init)
    inside = _inside(ask, (data, weights, init))
    if inside and (rows.source is not None or tile is not None):
        what = "`batch_size`" if rows.source is None else "`Rows` that are read"
        msg = f"{what} cannot be had inside `jit` and `vmap`: the solve is led from the host. Call it outside."
        raise ValueError(msg)
    leaves = jax.tree.leaves(data)
    there, size = len(leaves[0]), sum(leaf.nbytes for leaf in leaves)
    # What is spread over devices is looked at on one of them.
    apart = not inside and is_apart((data, weights))
    at_hand, _ = on_devices((data, weights))[0] if apart else (data, weights)
    spread = len(jax.tree.leaves(at_hand)[0])
    parted = rows.source is not None or jax.process_count() > 1 or apart
    sampled = not inside and (parted or passes or tile is not None or (size > SMALL and not _exact(ask.method)))
    if sampled and tile is None:
        _refuse_in_passes(ask)
    most = sys.maxsize if rows.source else spread // jax.process_count()
    if tile is not None and tile > most:
        msg = f"`batch_size` must be no more than the {most} rows there are; got {tile}."
        raise ValueError(msg)
    at_most = tile or rows_of_tile(size // there, most)
    known = there if rows.source is None else rows.source.rows
    # A power of two, so that most other numbers of rows compile nothing.
    about = 1 << (known.bit_length() - 1) if known and sampled else 0
    program, given, note = find(ask, at_hand, init, most=at_most, exactly=tile is not None, rows=about, sampled=sampled)
    if known is not None and known < program.size and ask.l1 is None and ask.l2 is None:
        note += (
            f" There are fewer rows ({known}) than parameters ({program.size}), so without a penalty the minimum may"
            " not be unique."
        )
    if sampled:
        return program, given._replace(data=(data, weights)), note
    total = there if weights is None else jnp.sum(weights)
    span = Span(data, weights, 0, there, jnp.asarray(total, program.dtype))
    return program, given._replace(data=span), note


def _inside(ask: Ask, given: Any) -> bool:
    """Whether JAX traces the solve, so that the host cannot lead it."""
    closed_over: list[Any] = []
    fingerprint.describe((ask.loss,), closed_over)
    leaves = jax.tree.leaves((given, closed_over, ask._replace(loss=None, data=None)))
    return any(isinstance(leaf, Tracer) for leaf in (*leaves, jnp.zeros(())))


def _exact(method: Any) -> bool:
    """Whether a method needs the Hessian of all rows."""
    traits = Traits.of(named(method))
    return traits.exact_curvature and not traits.of_sample


def _refuse_in_passes(ask: Ask) -> None:
    """Refuse methods that ask for more than loss and gradient over all rows."""
    method = named(ask.method)
    if _exact(ask.method):
        msg = (
            f"`method` {method.name} needs more than the loss and its gradient, which are all that passes over rows"
            " bring that are not in memory in one place. Use method='auto' or 'lbfgs'."
        )
        raise ValueError(msg)


def _refuse_with_rows(ask: Ask) -> None:
    """Refuse what a mean over rows cannot be solved with."""
    if ask.has_aux:
        msg = "`has_aux=True` cannot be had with `Rows`: a loss is called for some rows at a time. Return a number."
        raise ValueError(msg)
    method = named(ask.method)
    if isinstance(method, Optax) and method.evaluates():
        msg = (
            "`method` is an optax transformation that evaluates the loss itself, which it cannot by tiles of `Rows`."
            " Use method='auto' or 'lbfgs', or pass the arrays themselves."
        )
        raise ValueError(msg)
    if ask.least_squares:
        msg = "`least_squares` takes arrays, not `Rows`. Write jnp.mean(residuals**2) / 2 and pass it to `minimize`."
        raise ValueError(msg)
