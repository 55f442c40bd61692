"""What the data say at an answer: the curvature there, and how the gradient differs from row to row."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import fingerprint
from jaxgd.compile.program import Inputs, Program
from jaxgd.compile.sum_of_squares import of_observations
from jaxgd.core.bound_loss import as_vector
from jaxgd.core.numerics import nudge
from jaxgd.core.problem import Problem
from jaxgd.core.tiles import Span, Tiles, rows_of_tile
from jaxgd.lanes.pool import Lanes

DIGITS = 1e3  # three at least of observations' spread: where they hardly differ nothing is left but rounding


class Moments(NamedTuple):
    """What is known at the params, shape `(p,)`, of one problem; lanes first of many."""

    hessian: Any  # the Hessian, shape (p, p); of least squares R with R'R = J'J, or over tiles J'J itself
    outer: Any  # the sum over rows of their gradients' outer products, shape (p, p), or 0
    squares: Any  # the sum of the squares of the residuals, or 0
    held: Any  # shape (p,): which params a bound or an l1 norm keeps where they are
    size: Any  # shape (p,): of the params, at least 1: what a change by it changes tells whether they matter
    spread: Any  # the sum of the squares that the best constant in place of the model leaves; NaN where it is not told
    observed: Any  # residuals that an observation changes, as a mask does not let it, over tiles their part; or NaN


def size_of(flat: Any) -> Any:
    """Return the sizes of the params, of which one about 0 is taken as 1."""
    return abs(flat).clip(1)


def moments(program: Program, outer: bool, inputs: Inputs, params: Any) -> Moments:  # noqa: FBT001 - fixed by position
    """Return the moments of one problem."""
    problem = program.bind(inputs)[0]
    flat = problem.layout.flatten(params)
    held = _held(problem.term, flat)
    if program.recipe.least_squares and program.recipe.tile:
        return of_normal_equations(normal_equations(program, inputs, flat), problem.ridge, flat, held)
    if program.recipe.least_squares:
        return _of_squares(problem, flat, held, _observations(program, inputs, flat)(inputs.data))
    sums = products_of_rows(program, inputs, flat) if outer else jnp.zeros(())
    return Moments(problem.hessian(flat), sums, jnp.zeros(()), held, size_of(flat), jnp.nan, jnp.nan)


def of_lanes(program: Program, outer: bool, lanes: Lanes, shared: Any, given: Any, params: Any) -> Moments:  # noqa: FBT001
    """Return the moments of several problems, lanes first."""
    return jax.vmap(lambda given, params: moments(program, outer, lanes.inputs(shared, given), params))(given, params)


def held(program: Program, inputs: Inputs, flat: jax.Array) -> jax.Array:
    """Return which params a bound or an l1 norm keeps where they are, shape `(p,)`."""
    return _held(program.bind(inputs)[0].term, flat)


def curvature(program: Program, inputs: Inputs, flat: jax.Array) -> jax.Array:
    """Return what the rows at hand say of the Hessian, before anything is added."""
    return replace(program.bind(inputs)[0], ridge=None).hessian(flat)


def normal_equations(program: Program, inputs: Inputs, flat: jax.Array) -> jax.Array:
    """Return M'M of the rows at hand, M = [J r m w wy]: the Jacobian of the residuals r, these, and what is told.

    m is the root of a row's weight where an observation changes its residual, else 0.
    """
    tiles: Any = program.bind(inputs)[0].loss
    observed = _observations(program, inputs, flat)

    def of_tile(tile: Any) -> jax.Array:
        jacobian, residuals = jax.jacfwd(lambda x: (tiles.bind(tile).residuals(x),) * 2, has_aux=True)(flat)
        told = observed(tile)
        seen = [(weights != 0) * jnp.sqrt(tile[1]) for weights in told[:1]]
        both = jnp.column_stack([jacobian, residuals, *seen, *told])
        return jnp.matmul(both.T, both, precision="highest")

    return replace(tiles, bind=lambda tile: tile).total(of_tile)


def of_normal_equations(found: Any, ridge: Any, flat: Any, held: Any) -> Moments:
    """Return the moments of a sum of squares over tiles, from its normal equations."""
    size = flat.size
    hessian, spread, part = found[:size, :size], np.full((), np.nan), np.full((), np.nan)
    hessian = hessian if ridge is None else hessian + ridge * np.eye(size, dtype=flat.dtype)
    told = found[size + 1 :, size + 1 :]
    if told.size:
        part = told[0, 0]
    if len(told) > 2:  # noqa: PLR2004 - with w y
        (weights, cross), (_, squares) = told[1:, 1:]
        spread = squares - cross**2 / weights
        spread = jnp.where(spread > DIGITS * jnp.finfo(flat.dtype).eps * squares, spread, jnp.nan)
    return Moments(hessian, np.zeros(()), found[size, size], held, size_of(flat), spread, part)


def _observations(program: Program, inputs: Inputs, flat: jax.Array) -> Callable[[Any], list[jax.Array]]:
    """Return the function of data that tells w and w y of residuals w (y - f), each of shape (n,), as far as known."""
    recipe = program.recipe
    aux, params = recipe.traced.aux, program.layout(inputs.init).unflatten(flat)
    record = of_observations(recipe.traced, aux[0] if recipe.has_aux else aux)

    def observed(data: Any) -> list[jax.Array]:
        found = () if record is None else record(params, data, inputs.arrays)[1]
        return [as_vector(each, flat.dtype) for each in found]

    return observed


def products_of_rows(program: Program, inputs: Inputs, flat: jax.Array) -> jax.Array:
    """Return the sum over the rows at hand of the outer products of their gradients, each times its weight."""
    tiles, gradients = (_declared if program.recipe.tile else _found)(program, inputs)

    def products(tile: Any) -> jax.Array:
        slopes = gradients(flat, tile[0])
        return jnp.matmul(slopes.T, tile[1][:, None] * slopes, precision="highest")

    return replace(tiles, bind=products).total(lambda found: found)


def values(program: Program, inputs: Inputs, params: Any) -> jax.Array:
    """Return the loss for all rows, the sum of its values for single ones, and of their sizes; there and beside it.

    Shape `(2, 3)`: at the answer alone, all values may be 0.
    """
    problem, (tiles, _) = program.bind(inputs)[0], _found(program, inputs)
    flat = problem.layout.flatten(params)
    of_row = _loss_of_row(program, inputs)

    def at(flat: jax.Array) -> jax.Array:
        def sums(tile: Any) -> tuple[jax.Array, jax.Array]:
            each = jax.vmap(lambda row: of_row(flat, row))(tile[0])
            return jnp.sum(tile[1] * each), jnp.sum(tile[1] * jnp.abs(each))

        return jnp.stack([problem.loss(flat)[0], *replace(tiles, bind=sums).total(lambda found: found)])

    return jnp.stack([at(flat), at(problem.project(flat + nudge(flat)))])


def rows_of(data: Any) -> int | None:
    """Return how many rows data have, on the leading axis that all arrays share; numbers are no arrays."""
    lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(data) if np.ndim(leaf)}
    return lengths.pop() if len(lengths) == 1 else None


def _held(term: Any, flat: jax.Array) -> jax.Array:
    return jnp.zeros(flat.shape, bool) if term is None else term.held(flat)


def _of_squares(problem: Problem, flat: jax.Array, held: jax.Array, observed: list[jax.Array]) -> Moments:
    """Return the moments of a sum of squares, whose Hessian is taken as J'J."""
    jacobian, residuals = problem.linearized(flat)
    numbers = observations(problem.aux[0] if problem.loss.has_aux else problem.aux)
    residuals = residuals[: numbers.size]
    own = jacobian[: residuals.size] * (problem.sign * residuals)[:, None]
    slopes = jax.ops.segment_sum(own, numbers, num_segments=int(numbers[-1]) + 1)
    # What is held is determined by itself.
    rows = jnp.concatenate([jnp.where(held, 0, jacobian), jnp.diag(held.astype(flat.dtype))])
    outer = jnp.matmul(slopes.T, slopes, precision="highest")
    spread = count = jnp.nan
    if observed:
        count = jnp.sum(observed[0] != 0, dtype=flat.dtype)
    if len(observed) > 1:
        weights, of_data = observed
        spread = jnp.sum((of_data - weights * (of_data @ weights) / (weights @ weights)) ** 2)
        rounding = (DIGITS * jnp.finfo(flat.dtype).eps) ** 2 * (of_data @ of_data)
        spread = jnp.where(spread > rounding, spread, jnp.nan)
    return Moments(jnp.linalg.qr(rows, mode="r"), outer, jnp.sum(residuals**2), held, size_of(flat), spread, count)


def observations(residuals: Any) -> np.ndarray:
    """Return which observation each residual belongs to: the same entry of the leading axis, if all arrays have one."""
    leaves = jax.tree.leaves(residuals)
    shapes = [(*leaf.shape, 2) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf.shape for leaf in leaves]
    lengths = {leaf.shape[:1] for leaf in leaves}
    if len(lengths) > 1 or lengths == {()}:
        return np.arange(sum(int(np.prod(shape)) for shape in shapes))
    numbers = [np.repeat(np.arange(leaf.shape[0]), leaf.size // leaf.shape[0]) for leaf in leaves]
    pairs = zip(numbers, shapes, leaves, strict=True)
    return np.concatenate([np.tile(own, 1 + (len(shape) > leaf.ndim)) for own, shape, leaf in pairs])


Gradients = Callable[[jax.Array, Any], jax.Array]  # of the flat params and some rows, shape (rows, p)


def _declared(program: Program, inputs: Inputs) -> tuple[Tiles, Gradients]:
    """Return the tiles of a loss declared a mean over rows, and their rows' gradients."""
    layout, traced = program.layout(inputs.init), program.recipe.traced
    tiles: Any = program.bind(inputs)[0].loss

    def gradients(flat: jax.Array, rows: Any) -> jax.Array:
        def each(flat: jax.Array) -> jax.Array:
            # The record is a sum of the rows' values, each times its weight.
            by_weight = jax.grad(lambda weights: traced(layout.unflatten(flat), (rows, weights), inputs.arrays)[0])
            return by_weight(jnp.zeros(tiles.size, flat.dtype))

        return jax.jacfwd(each)(flat)

    return tiles, gradients


def _found(program: Program, inputs: Inputs) -> tuple[Tiles, Gradients]:
    """Return tiles of the rows of data that are just data, and their gradients."""
    leaves = [leaf for leaf in jax.tree.leaves(inputs.data) if np.ndim(leaf)]
    count, dtype = len(leaves[0]), program.dtype
    row = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) // count + program.size * dtype.itemsize
    span = Span(leaves, None, 0, count, jnp.ones((), dtype))
    tiles = Tiles(lambda tile: tile, rows_of_tile(row, count), span)
    slopes = jax.grad(_loss_of_row(program, inputs))
    return tiles, lambda flat, rows: jax.vmap(lambda row: slopes(flat, row))(rows)


def _loss_of_row(program: Program, inputs: Inputs) -> Callable[[jax.Array, Any], jax.Array]:
    """Return the loss for a single row, given as the leaves of the data that have rows."""
    recipe, layout = program.recipe, program.layout(inputs.init)
    functions = fingerprint.rebuild(recipe.functions, iter(inputs.arrays)) if inputs.arrays else recipe.functions
    leaves, structure = jax.tree.flatten(inputs.data)

    def of_row(flat: jax.Array, row: Any) -> jax.Array:
        own = iter(row)
        data = structure.unflatten([next(own)[None] if np.ndim(leaf) else leaf for leaf in leaves])
        out = functions[0](layout.unflatten(flat), data)
        return recipe.sign * (out[0] if recipe.has_aux else out).astype(flat.dtype)

    return of_row
