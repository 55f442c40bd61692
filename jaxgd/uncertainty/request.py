"""What a result keeps of its solve, by reference, for what is asked of it later."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxgd.compile.frames import column_names
from jaxgd.compile.loss_jaxpr import name_of
from jaxgd.compile.program import Inputs, Program
from jaxgd.core.bound_loss import Derivatives
from jaxgd.core.settings import of_thread
from jaxgd.core.terms import is_separable
from jaxgd.history import names_of
from jaxgd.lanes.pool import Batch, Lanes, Part, blank, put
from jaxgd.result import NotConverged, Result
from jaxgd.rows.rows import Rows
from jaxgd.uncertainty.covariance import Covariance, WeakDirection, covariances, direction
from jaxgd.uncertainty.gather import Known, in_passes, moments_of_one, of_part
from jaxgd.uncertainty.summary import KINDS, Summary, check_level, summary

LOOSE = "The data do not determine {}: variances are infinite there. Fix a param, or penalize by `l2`."
KINKED = (
    "The loss has no curvature along {}, where its rows have slopes: it has kinks, as `abs` makes them, and derivatives"
    " tell no variance. Take `losses.huber`, or minimize again with rows drawn anew."
)


@dataclass(frozen=True)
class One:
    """One problem."""

    program: Program
    given: Inputs
    rows: Rows | None = None  # where passes over them are led from the host
    dtype: Any = None
    likelihood: bool = False  # the loss is known to be a negative log-likelihood
    data: Any = None  # as the user gave them
    settings: list[Callable[[], Any]] = field(default_factory=of_thread)

    def covariance(self, result: Result, kind: str | None, rows: Any) -> Covariance:
        with _under(self.settings):
            program, kind = _chosen(self.program, kind, rows, likelihood=self.likelihood)
            _check(program, self.given.terms and self.given.terms.term, kind, rows, ())
            _check_converged(result)
            known = self._known(program, result.params, rows, outer=kind == "sandwich")
            return _alone(program, known, kind, result.params, self.columns)

    @property
    def columns(self) -> list[str]:
        """What the params of one vector are called: the columns of the table in the data."""
        return column_names(self.data)

    def summary(self, result: Result, kind: str | None, rows: Any, level: float) -> Summary:
        return _summarized(self, result, kind, rows, level)

    def alone(self) -> tuple[Program, Inputs]:
        """Return the program and what it was called with."""
        return _of_arrays(self.program, self.given)

    def _known(self, program: Program, params: Any, rows: Any, *, outer: bool) -> Known:
        if self.rows is None:
            return moments_of_one(program, self.given, params, rows, outer=outer)
        return in_passes(program, self.given, self.rows, self.dtype, params, rows, outer=outer)


@dataclass(frozen=True)
class Many:
    """Many problems, or of these one or several."""

    parts: list[Part]
    lanes: Any  # their numbers: an array of them, or one
    likelihood: bool = False  # the loss is known to be a negative log-likelihood
    data: Any = None  # as the user gave them
    settings: list[Callable[[], Any]] = field(default_factory=of_thread)

    def picked(self, lane: Any) -> "Many":
        """Return what is kept of these alone."""
        return replace(self, lanes=self.lanes[lane])

    def covariance(self, result: Result, kind: str | None, rows: Any) -> Covariance:
        alone = not np.ndim(self.lanes)
        with _under(self.settings):
            chosen = [_chosen(part.program, kind, rows, likelihood=self.likelihood) for part in self.parts]
            program, kind = chosen[0]
            _check(program, _term(self.parts[0].batch), kind, rows, np.shape(self.lanes))
            if alone:
                _check_converged(result)
            params, converged = jax.tree.map(np.asarray, (result.params, result.converged))
            if alone:
                params, converged = jax.tree.map(lambda leaf: leaf[None], (params, converged))
            parts = [part._replace(program=own) for part, (own, _) in zip(self.parts, chosen, strict=True)]
            known = self._known(parts, params, converged, rows, outer=kind == "sandwich")
            if alone:
                return _alone(program, known, kind, result.params, self.columns)
        return _together(program, known, kind, params, converged, result.labels, self.columns)

    @property
    def columns(self) -> list[str]:
        """What the params of one vector are called: the columns of the table in the data."""
        return column_names(self.data)

    def summary(self, result: Result, kind: str | None, rows: Any, level: float) -> Summary:
        return _summarized(self, result, kind, rows, level)

    def alone(self) -> tuple[Program, Inputs]:
        """Return the program of the one problem that is kept, and what it would be called with alone."""
        part = next(part for part in self.parts if self.lanes in part.lanes)
        batch = part.batch.picked(np.searchsorted(part.lanes, [self.lanes]))
        own = [leaf[0] for leaf in batch.block(0, 1)]
        return _of_arrays(part.program, Lanes(part.program, batch.structure, batch.mapped).inputs(batch.shared, own))

    def _known(self, parts: list[Part], params: Any, converged: np.ndarray, rows: Any, *, outer: bool) -> Known:
        wanted, joined = np.atleast_1d(self.lanes), None
        for part in parts:
            at = np.flatnonzero(np.isin(wanted, part.lanes))
            if not len(at):
                continue
            place = np.searchsorted(part.lanes, wanted[at])
            own = of_part(part, place, jax.tree.map(lambda leaf, at=at: leaf[at], params), converged[at], rows, outer)
            joined = blank(len(wanted), own) if joined is None else joined
            put(joined, at, own)
        if joined is None:
            msg = "The result is of 0 problems, which have no covariances. Pick one at least, as `result[:1]`."
            raise ValueError(msg)
        return joined if rows is None else joined._replace(rows=np.broadcast_to(np.asarray(rows, float), len(wanted)))


def _summarized(source: One | Many, result: Result, kind: str | None, rows: Any, level: float) -> Summary:
    """Return the summary of a result; what errors it has none of, and why, stands above it."""
    check_level(level)
    many = np.ndim(result.counts) > 1
    params = jax.tree.map(lambda leaf: leaf[0], result.params) if many else result.params
    names, found = names_of(params, source.columns), None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = source.covariance(result, kind, rows)
            why = ""
        except NotConverged:
            why = "no standard errors, which are those of a minimum"
        except ValueError as error:
            if kind is not None or rows is not None:
                raise
            why = f"no standard errors: {error}"
    return summary(result, found, " ".join([why, *(str(each.message) for each in said)]).strip(), level, names)


def _chosen(program: Program, kind: str | None, rows: Any, *, likelihood: bool) -> tuple[Program, str]:
    """Return the kind of covariance that is asked for, or that the loss tells, and the program it is computed with."""
    if kind not in (None, *KINDS):
        msg = f"`kind` must be one of {tuple(KINDS)}, or None; got {kind!r}."
        raise ValueError(msg)
    if program.recipe.least_squares:
        return program, "sandwich" if kind == "sandwich" else "least_squares"
    if kind is None and likelihood:
        kind = "hessian"
    squares = program.of_residuals if kind in (None, "least_squares") else None
    if squares is not None:
        return squares, "least_squares"
    if kind == "least_squares":
        msg = (
            f"kind='least_squares' is for sums of squared differences between data and a model; `loss`"
            f" {name_of(program.recipe.functions[0])} is none. Use `jaxgd.least_squares(residuals, data)`."
        )
        raise ValueError(msg)
    return program, kind or ("sandwich" if rows is None else "hessian")


def _of_arrays(program: Program, given: Inputs) -> tuple[Program, Inputs]:
    if program.recipe.tile:
        msg = (
            "A profile solves with arrays; this result is of `Rows`, or of `Groups`. Solve with the arrays themselves."
        )
        raise ValueError(msg)
    return program, given


def _term(batch: Batch) -> Any:
    """Return what is added to the loss beside a ridge."""
    terms = jax.tree.unflatten(batch.structure, batch.leaves).terms
    return terms and terms.term


def _alone(program: Program, known: Known, kind: str, params: Any, columns: list[str]) -> Covariance:
    """Return the covariance of one problem; a warning names what the data do not determine."""
    if not np.isfinite(known.moments.hessian).all():
        msg = f"`loss` {name_of(program.recipe.functions[0])} has no finite second derivatives at the answer."
        raise ValueError(msg)
    names = names_of(params, columns)
    matrix, directions, rank, held = _finished(program, known, kind, names)
    if program.recipe.least_squares and known.rows[0] <= rank[0]:
        counts = f"{int(known.rows[0])} residuals for {len(names)} params"
        msg = f"There are {counts}: none is left to tell the noise. Give more."
        raise ValueError(msg)
    kinks = _kinks(program, known, kind, directions)[0]
    for kinked, msg in ((False, LOOSE), (True, KINKED)):
        found = [each.words for each, kink in zip(directions[0], kinks, strict=True) if kink == kinked]
        if found:
            more = f"; and {len(found) - 3} more" if found[3:] else ""
            warnings.warn(msg.format("; ".join(found[:3]) + more), stacklevel=4)
    count = None if np.isnan(known.count[0]) else float(known.count[0])
    dof = float(count - rank[0]) if kind == "least_squares" and count is not None else None
    explained = float(_r_squared(known)[0])
    r_squared = None if np.isnan(explained) or kind != "least_squares" else explained
    return Covariance(matrix[0], kind, names, directions[0], count=count, dof=dof, held=held[0], r_squared=r_squared)


def _together(
    program: Program, known: Known, kind: str, params: Any, converged: np.ndarray, labels: Any, columns: list[str]
) -> Covariance:
    """Return the covariances of many problems; a warning counts those that have none."""
    names = names_of(jax.tree.map(lambda leaf: leaf[0], params), columns)
    matrix, directions, rank, held = _finished(program, known, kind, names)
    matrix[~converged] = np.nan
    directions = [found if won else [] for found, won in zip(directions, converged, strict=True)]
    few, loose = np.isnan(np.diagonal(matrix, axis1=1, axis2=2)).any(axis=1) & converged, sum(map(bool, directions))
    kinked = sum(map(any, _kinks(program, known, kind, directions)))
    said = {
        "did not converge": int(np.sum(~converged)),
        "have no finite Hessian, or no more residuals than params": int(np.sum(few)),
        "are not determined by their data in some direction (infinite variances, see `undetermined`)": loose - kinked,
        "have a loss with kinks in some direction, as `abs` makes them (infinite variances)": kinked,
    }
    if any(said.values()):
        summary = ", ".join(f"{count} {what}" for what, count in said.items() if count)
        warnings.warn(f"Of {len(converged)} problems {summary}.", stacklevel=4)
    squared = kind == "least_squares"
    dof, r_squared = (known.count - rank, np.where(converged, _r_squared(known), np.nan)) if squared else (None, None)
    return Covariance(matrix, kind, names, directions, labels, known.count, dof, held, r_squared)


def _kinks(program: Program, known: Known, kind: str, directions: list[list[WeakDirection]]) -> list[list[bool]]:
    """Return of each direction without curvature whether rows have slopes there, which only kinks explain."""
    if kind != "sandwich":
        return [[False] * len(each) for each in directions]
    eps = float(np.finfo(program.dtype).eps)
    return [
        [float(each.vector[program.free] @ outer @ each.vector[program.free]) > eps * np.trace(outer) for each in own]
        for own, outer in zip(directions, known.moments.outer, strict=True)
    ]


def _r_squared(known: Known) -> np.ndarray:
    """Return 1 less the squares of the residuals over those that the best constant leaves, NaN where there is none."""
    with np.errstate(all="ignore"):
        return np.where(known.moments.spread > 0, 1 - known.moments.squares / known.moments.spread, np.nan)


def _finished(
    program: Program, known: Known, kind: str, names: list[str]
) -> tuple[np.ndarray, list[list[WeakDirection]], np.ndarray, np.ndarray]:
    """Return the covariances of all params, lanes first, the directions not determined, the ranks, and what is held."""
    free, squared, eps = program.free, program.recipe.least_squares, float(np.finfo(program.dtype).eps)
    root = squared and not program.recipe.tile
    found = covariances(*known.moments[:-2], known.rows, eps, kind, squared=squared, root=root)
    matrix, vectors = np.zeros((len(known.rows), len(names), len(names))), np.zeros(len(names))
    matrix[:, free[:, None], free] = found.matrix
    held = np.ones(matrix.shape[:2], bool)
    held[:, free] = known.moments.held

    def summary(own: np.ndarray) -> WeakDirection:
        vector = vectors.copy()
        vector[free] = own
        return direction(vector, names)

    return matrix, [[summary(own) for own in each] for each in found.directions], found.rank, held


def _check(program: Program, term: Any, kind: str, rows: Any, lanes: tuple[int, ...]) -> None:
    """Refuse what has no covariance."""
    if not is_separable(term):
        msg = (
            f"`term={term!r}` binds all params together, for which no covariance is known here. Write the loss of"
            " params without it, such as a softmax of them in place of a simplex."
        )
        raise ValueError(msg)
    recipe = program.recipe
    # What goes forward over a gradient, or over residuals.
    forward = recipe.least_squares or (recipe.tile and kind == "sandwich")
    if recipe.derivatives is Derivatives.FIRST or (forward and recipe.derivatives is Derivatives.BACKWARD):
        msg = f"`loss` {name_of(recipe.functions[0])} has a part without the derivatives that kind={kind!r} takes."
        raise ValueError(msg)
    if rows is None:
        return
    if recipe.least_squares:
        msg = f"`rows={rows!r}` is not for sums of squares, whose residuals are counted. Leave it out, or say `kind`."
        raise ValueError(msg)
    numbers = np.asarray(rows)
    if (
        numbers.dtype.kind not in "iuf"
        or numbers.shape not in {(), lanes}
        or not np.all((numbers > 0) & (numbers < np.inf))
    ):
        msg = f"`rows` must be a positive number, 1 where the loss is a sum over observations; got {rows!r}."
        raise ValueError(msg)


def _check_converged(result: Result) -> None:
    """Refuse an answer that is none."""
    if not result.converged:
        msg = (
            f"a covariance is that of a minimum, and this solve did not converge: {result.message} Go on from"
            " `init=result.params`, with a larger `Stop(max_evals=)` or in dtype='float64'."
        )
        raise NotConverged(msg)


def _under(contexts: list[Callable[[], Any]]) -> ExitStack:
    """Return the settings of JAX under which the problem was solved."""
    stack = ExitStack()
    for context in contexts:
        stack.enter_context(context())
    return stack
