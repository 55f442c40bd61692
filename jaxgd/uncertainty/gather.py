"""What is known at answers, brought to the host: of one problem, by passes over rows, by blocks of lanes."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.compile.loss_jaxpr import name_of
from jaxgd.compile.program import Inputs, Program
from jaxgd.compile.row_mean import APART
from jaxgd.core.tiles import Span
from jaxgd.lanes.pool import Lanes, Part, in_blocks
from jaxgd.rows.full_batch import passes_over
from jaxgd.rows.rows import Rows
from jaxgd.uncertainty import information
from jaxgd.uncertainty.information import Moments


class Known(NamedTuple):
    """Moments of several problems, lanes first."""

    moments: Moments
    rows: Any  # shape (lanes,): how many the Hessian is a mean over, 1 for a sum; of least squares the residuals
    count: Any  # shape (lanes,): rows there are, NaN where it is not known; of least squares the residuals


def moments_of_one(program: Program, given: Inputs, params: Any, rows: Any, *, outer: bool) -> Known:
    """Return what is known of one problem; `rows` is as the user says, `outer` whether rows are told apart."""
    span = given.data if isinstance(given.data, Span) else None
    if span is None:
        rows = _rows(program, given, params, rows, outer=outer)
    else:
        rows = span.total * _residuals_of_row(program) if rows is None else rows
    found = program.compiled(information.moments, outer)(given, params)
    if span is not None:
        found = found._replace(outer=found.outer * span.total)
    count = rows if span is not None or program.recipe.least_squares else information.rows_of(given.data) or np.nan
    known = Known(_on_host(found, first=True), np.full(1, rows, np.float64), np.full(1, count, np.float64))
    return _observed(program, known)


def in_passes(
    program: Program, given: Inputs, rows: Rows, dtype: Any, params: Any, count: Any, *, outer: bool
) -> Known:
    """Return what passes over all rows bring."""
    own = passes_over(program, given, rows, dtype, program.recipe.tile)
    shared = given._replace(data=None)
    problem = program.bind(shared)[0]
    flat = np.asarray(problem.layout.flatten(params))
    held = program.compiled(information.held)(shared, flat)
    if program.recipe.least_squares:
        found = own(flat, program.compiled(information.normal_equations))
        found = _on_host(information.of_normal_equations(found, problem.ridge, flat, held), first=True)
        count = np.full(1, own.total * _residuals_of_row(program), np.float64)
        return _observed(program, Known(found, count, count))
    hessian = own(flat, program.compiled(information.curvature))
    hessian = hessian if problem.ridge is None else hessian + np.asarray(problem.ridge) * np.eye(flat.size)
    sums = own(flat, program.compiled(information.products_of_rows)) * own.total if outer else np.zeros(())
    found = _on_host(
        Moments(hessian, sums, np.zeros(()), held, information.size_of(flat), *np.full(2, np.nan)), first=True
    )
    return Known(found, np.full(1, own.total if count is None else count, np.float64), np.full(1, own.total))


def of_part(part: Part, place: np.ndarray, params: Any, converged: np.ndarray, rows: Any, outer: bool) -> Known:  # noqa: FBT001
    """Return what is known of some lanes of a part."""
    _, program, batch, counts = part
    batch = batch if np.array_equal(place, np.arange(batch.size)) else batch.picked(place)
    lanes = program.lanes.setdefault((batch.structure, batch.mapped), Lanes(program, batch.structure, batch.mapped))
    first = int(np.argmax(converged))
    one = lanes.inputs(batch.shared, [leaf[0] for leaf in batch.picked(np.array([first])).block(0, 1)])
    if counts is None:
        at = jax.tree.map(lambda leaf: leaf[first], params)
        rows = _rows(program, one, at, rows, outer=outer) if np.any(converged) else 1.0
        rows = np.full(batch.size, 1.0) if np.ndim(rows) else np.full(batch.size, rows, np.float64)
        count = np.full(batch.size, information.rows_of(one.data) or np.nan)
    else:
        rows = count = counts[place].astype(np.float64)
    found = _on_host(in_blocks(batch, program.size, program.compiled(information.of_lanes, outer, lanes), params))
    if counts is not None and program.recipe.least_squares:
        rows = rows * (_residuals(program) / len(jax.tree.leaves(one.data)[0]))
    elif counts is not None and outer:
        found.outer[:] *= rows[:, None, None] ** 2  # a row's part of the mean is its own value over their number
    return _observed(program, Known(found, rows, rows if program.recipe.least_squares else count))


def _observed(program: Program, known: Known) -> Known:
    """Return what is known with those residuals counted alone that an observation changes, where that is told."""
    if not program.recipe.least_squares:
        return known
    count = known.moments.observed * (known.rows if program.recipe.tile else 1)
    count = np.where(np.isnan(count), known.rows, count)
    rounded = abs(count - np.round(count)) <= information.DIGITS * np.finfo(program.dtype).eps * known.rows
    count = np.where(rounded, np.round(count), count)
    return Known(known.moments, count, count)


def _on_host(found: Moments, *, first: bool = False) -> Moments:
    """Return moments in float64 on the host; those of one as the `first` of lanes."""
    return Moments(*(np.asarray(leaf, bool if leaf.dtype == bool else float)[None if first else ...] for leaf in found))


def _rows(program: Program, given: Inputs, params: Any, rows: Any, *, outer: bool) -> Any:
    """Return how many rows the loss is a mean over, 1 for a sum, or how many residuals there are."""
    if program.recipe.least_squares:
        return _residuals(program)
    name, count = name_of(program.recipe.functions[0]), information.rows_of(given.data)
    remedy = "Pass `rows=`: 1 where the loss is a sum over observations, their number where it is a mean."
    if outer:
        remedy = (
            "kind='sandwich', which is taken where the loss is not known to be a likelihood or a sum of squares, needs"
            " the gradients of single rows. For a negative log-likelihood pass kind='hessian' with `rows=`: 1 where the"
            " loss is a sum over observations, their number where it is a mean; squares go to `least_squares`."
        )
    if rows is not None and not outer:
        return rows
    if count is None:
        what = "no data were given" if given.data is None else "the arrays of `data` differ in length"
        msg = f"`rows={rows!r}`: how many rows the loss `{name}` is of is not known, since {what}. {remedy}"
        raise ValueError(msg)
    try:
        seen = np.asarray(program.compiled(information.values)(given, params), np.float64)
    except Exception as error:
        msg = f"`loss` {name} cannot be called for a single row: {error}. {remedy}"
        raise ValueError(msg) from error
    if rows is not None:
        return rows
    at_once, total, sizes = seen[np.isfinite(seen).all(axis=1)].T
    fits = [len(at_once) > 0 and bool(np.all(np.abs(at_once - total / n) < APART * sizes / n)) for n in (count, 1)]
    if count > 1 and fits[0] == fits[1]:
        msg = (
            f"`loss` {name} cannot be told to be the mean or the sum of its values for single rows: for all {count} it"
            f" is {seen[0, 0]:.6g}, their mean {seen[0, 1] / count:.6g}, their sum {seen[0, 1]:.6g}. {remedy}"
        )
        raise ValueError(msg)
    return count if fits[0] else 1


def _residuals_of_row(program: Program) -> int:
    """Return how many residuals a row of tiles has; 1 where the loss has none."""
    return _residuals(program) // program.recipe.tile if program.recipe.least_squares else 1


def _residuals(program: Program) -> int:
    """Return how many residuals there are."""
    aux = program.recipe.traced.aux
    return len(information.observations(aux[0] if program.recipe.has_aux else aux))
