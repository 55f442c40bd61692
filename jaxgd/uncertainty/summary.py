"""A result as a table: each param with its standard error and interval, and what these rest on."""

import html
import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import jax
import numpy as np

from jaxgd.history import frame
from jaxgd.result import Result
from jaxgd.uncertainty.covariance import Covariance

SHOWN = 10  # lanes of many that are printed, and params of one lane
LARGE, SMALL = 1e6, 1e-3  # sizes beyond which numbers are shown with an exponent
KINDS = {
    "least_squares": "of least squares",
    "hessian": "from the curvature of a likelihood",
    "sandwich": "by the sandwich estimator",
}


@dataclass(frozen=True)
class Summary:
    """What a solve found, to be printed, shown in a notebook, or had as a `table()`; of many problems lanes first."""

    report: str  # of the solve: its status, loss and count of rows, and which standard errors there are
    names: list[str]  # of the params
    lanes: Any  # of many problems: what each lane is called; None of one
    value: np.ndarray  # shape (p,) or (lanes, p), float64, as all below
    stderr: np.ndarray  # NaN where there is none
    low: np.ndarray  # the ends of the interval
    high: np.ndarray
    level: float  # of the interval, such as 0.95
    ratio: str  # "t" or "z": what `value / stderr` is judged by
    held: Any  # shape as the values: params that have no error since they are kept where they are
    r_squared: Any = None  # the part of the spread of the observations that the model explains, see `Covariance`

    def table(self) -> Any:
        """Return a pandas `DataFrame`, a row a param; of many problems a row a lane and param."""
        columns = {"value": self.value, "stderr": self.stderr, self.ratio: self._ratios()}
        columns |= {"low": self.low, "high": self.high}
        flat = {name: np.ravel(column) for name, column in columns.items()}
        if self.lanes is None:
            return frame(flat, self.names)
        index = {"lane": np.repeat(np.asarray(self.lanes), len(self.names)), "param": self.names * len(self.lanes)}
        return frame(index | flat).set_index(["lane", "param"])

    def _ratios(self) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.where(self.stderr > 0, self.value / self.stderr, np.nan)

    def _cells(self) -> list[list[str]]:
        """Return the printed table, its heads first."""
        if self.lanes is None:
            heads = ["", "value", self.ratio, f"{100 * self.level:g} % interval"]
            columns = (self.value, self.stderr, self.held, self._ratios(), self.low, self.high)
            return [heads, *([name, *_cells_of(*row)] for name, *row in zip(self.names, *columns, strict=True))]
        heads = ["lane", *self.names[:SHOWN], *(["..."] if len(self.names) > SHOWN else [])]
        cells = [
            [str(lane), *map(_with_error, value[:SHOWN], error[:SHOWN], held[:SHOWN])]
            for lane, value, error, held in zip(self.lanes[:SHOWN], self.value, self.stderr, self.held, strict=False)
        ]
        more = [[f"and {len(self.lanes) - SHOWN} more"]] if len(self.lanes) > SHOWN else []
        return [row + [""] * (len(heads) - len(row)) for row in [heads, *cells, *more]]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([self.report, *("  " + line for line in lines)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        heads, *rows = [[html.escape(cell) for cell in row] for row in self._cells()]
        body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
        head = "".join(f"<th>{cell}</th>" for cell in heads)
        report = html.escape(self.report)
        return f"<pre>{report}</pre><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def summary(result: Result, found: Covariance | None, why: str, level: float, names: list[str]) -> Summary:
    """Return the summary of a result with its covariance, or the reason `why` there is none; with one, a warning."""
    many = np.ndim(result.counts) > 1
    value = _values(result.params, many=many)
    if found is None:
        nothing = np.full(value.shape, np.nan)
        return Summary(
            _report(result, why), names, _lanes(result), value, nothing, nothing, nothing, level, "z", nothing
        )
    error = np.sqrt(np.diagonal(found.matrix, axis1=-2, axis2=-1))
    exact = found.dof is not None
    dofs = np.atleast_1d(found.dof if exact else np.inf).astype(float)
    widths = np.array([quantile(level, dof) for dof in dofs.tolist()])
    width = error * (widths[:, None] if many else widths)
    with np.errstate(invalid="ignore"):
        low, high = value - width, value + width
    said = "" if many or found.r_squared is None else f"R² {round(found.r_squared, 4) + 0.0:.4f}; "
    said += f"standard errors {KINDS[found.kind]}" + _counted(found, many=many) + (why and f"\n  {why}")
    said = _report(result, said)
    ratio = "t" if exact else "z"
    return Summary(said, names, _lanes(result), value, error, low, high, level, ratio, found.held, found.r_squared)


def check_level(level: Any) -> None:
    """Refuse what is no level of an interval."""
    if not (isinstance(level, float | np.floating) and 0 < level < 1):
        msg = f"`level` must be a number between 0 and 1, such as 0.95; got {level!r}."
        raise ValueError(msg)


def _counted(found: Covariance, *, many: bool) -> str:
    """Say of how many rows the data are, and how many are left to tell the noise."""
    if many or found.count is None:
        return ""
    what = "residuals" if found.kind == "least_squares" else "rows"
    left = "" if found.dof is None else f", {found.dof:g} degrees of freedom"
    return f"; {found.count:g} {what}{left}"


def _report(result: Result, errors: str) -> str:
    """Return what is said above the table."""
    loss = "" if np.ndim(result.counts) > 1 else f"loss {float(result.loss):.10g}; "
    return f"{result.verdict}\n  {loss}{errors}"


def _lanes(result: Result) -> Any:
    if np.ndim(result.counts) < 2:  # noqa: PLR2004 - lanes and counts
        return None
    return list(range(len(result))) if result.labels is None else result.labels.tolist()


def _values(params: Any, *, many: bool) -> np.ndarray:
    """Return the numbers of the params in the order of their names, of many problems lanes first."""
    parts: list[np.ndarray] = []
    leaves: list[Any] = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    for leaf in leaves:
        flat = leaf.reshape(*leaf.shape[:many], -1)
        parts += [flat.real, flat.imag] if np.iscomplexobj(leaf) else [flat]
    return np.concatenate(parts, axis=-1).astype(float)


def _cells_of(value: float, error: float, held: bool, ratio: float, low: float, high: float) -> list[str]:  # noqa: FBT001
    """Return the cells of a param: its value with the error, their ratio, and the interval."""
    if not np.isfinite(error) or error == 0:
        return [_with_error(value, error, held), "", ""]
    form = _forms(value, error)[0]
    return [_with_error(value, error, held), f"{ratio:.2f}", f"{low:{form}} to {high:{form}}"]


def _with_error(value: float, error: float, held: bool) -> str:  # noqa: FBT001 - as the tables have it
    """Return a value with its error to two digits; one held still has none, and a perfect fit 0."""
    if np.isnan(error):
        return f"{value:.6g}"
    if error == 0:
        return f"{value:.6g} (held)" if held else f"{value:.6g} ± 0"
    if np.isinf(error):
        return f"{value:.6g} ± inf"
    form, of_error = _forms(value, error)
    return f"{value:{form}} ± {error:{of_error}}"


def _forms(value: float, error: float) -> tuple[str, str]:
    """Return the formats of a value and its error that show two digits of the error."""
    size = max(abs(value), error)
    if SMALL <= size < LARGE:
        form = f".{max(0, 1 - math.floor(math.log10(error)))}f"
        return form, form
    return f".{max(1, 1 + math.floor(math.log10(size / error)))}e", ".1e"


@lru_cache(maxsize=256)
def quantile(level: float, dof: float = math.inf) -> float:
    """Return the number that |t| of so many degrees of freedom, or |z| of infinitely many, exceeds by 1 - level.

    With t = sqrt(dof) tan(a) the density is proportional to cos(a)^(dof - 1), which is integrated and solved for a.
    """
    if not dof < LARGE:
        return NormalDist().inv_cdf((1 + level) / 2)
    if not dof > 0:
        return math.nan
    factor = 2 * math.exp(math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2)) / math.sqrt(math.pi)
    points, weights = np.polynomial.legendre.leggauss(128)
    low, high = 0.0, min(math.pi / 2, 10 / math.sqrt(dof))
    for _ in range(60):
        angle = (low + high) / 2
        inside = factor * angle / 2 * float(weights @ np.cos(angle / 2 * (points + 1)) ** (dof - 1))
        low, high = (angle, high) if inside < level else (low, angle)
    return math.sqrt(dof) * math.tan((low + high) / 2)
