"""From a mean over rows to its program, and where it is solved: in one compiled loop, or in passes led from the host."""

import sys
from typing import Any

import jax
from jax.core import Tracer

from jaxgd import inputs
from jaxgd.blocks import blocks
from jaxgd.methods import named
from jaxgd.prepare import Ask, find, in_types
from jaxgd.program import Inputs, Program
from jaxgd.rows import Rows
from jaxgd.solvers.optax import Optax
from jaxgd.solvers.sampled import Sampled
from jaxgd.tiles import SMALL, Span, rows_of_tile

HEAD = 1024  # rows read to see what they are


def prepare(ask: Ask, rows: Rows) -> tuple[Program, Inputs, str]:
    """Return the same for a mean over rows; where the program is of samples, the data are the rows and their weights."""
    refuse_with_rows(ask)
    first = (rows.data, rows.weights) if rows.source is None else next(blocks(rows.source, HEAD)).data
    init = ask.init if ask.init is None else inputs.as_start(ask.init, inputs.float_type(first[0]))
    (data, weights), init = in_types(ask, first, init)
    leaves = jax.tree.leaves((data, weights, init))
    inside = any(isinstance(leaf, Tracer) for leaf in leaves)
    there, size = len(leaves[0]), sum(leaf.nbytes for leaf in jax.tree.leaves(data))
    spread = min((len(shard.data) for leaf in leaves[:1] for shard in getattr(leaf, "addressable_shards", [])), default=there)
    sampled = not inside and (
        rows.source is not None or jax.process_count() > 1 or spread < there or (size > SMALL and not _exact(ask.method))
    )
    if sampled:
        refuse_in_passes(ask)
    platform = jax.default_backend()
    tile = rows_of_tile(size // there, sys.maxsize if rows.source else spread // jax.process_count(), platform)
    program, given, note = find(ask, data, init, tile=tile, sampled=sampled)
    if sampled:
        return program, given._replace(data=(data, weights)), note
    total = there if weights is None else jax.numpy.sum(weights)
    span = Span(data, weights, 0, there, jax.numpy.asarray(total, program.dtype))
    return program, given._replace(data=span), note


def _exact(method: Any) -> bool:
    """Whether a method needs the Hessian of all rows."""
    method = named(method)
    return getattr(method, "computed", False) and not isinstance(method.curvature, Sampled)


def refuse_in_passes(ask: Ask) -> None:
    """Refuse methods that ask for more than loss and gradient over all rows."""
    method = named(ask.method)
    if _exact(ask.method) or (isinstance(method, Optax) and method.evaluates()):
        msg = (
            f"`method` {method.name} needs more of all rows than the loss and its gradient, which takes many passes over"
            " rows that are not in memory in one place. Use method='auto' or 'lbfgs'."
        )
        raise ValueError(msg)


def refuse_with_rows(ask: Ask) -> None:
    """Refuse what a mean over rows cannot be solved with."""
    if ask.has_aux:
        msg = "`has_aux=True` cannot be had with `Rows`: the loss is evaluated for some rows at a time. Return a number."
        raise ValueError(msg)
    if ask.least_squares:
        msg = "`least_squares` takes arrays, not `Rows`. Write jnp.mean(residuals**2) / 2 and pass it to `minimize`."
        raise ValueError(msg)


