"""NIST's nonlinear regressions: how many of the certified digits come back, from both published starts.

National Institute of Standards and Technology, Statistical Reference Datasets (StRD), nonlinear regression. The digits
are the log relative error, -log10(|found - certified| / |certified|), of the worst parameter, at most the 11 that are
certified. Every official file in the folder of the data is run: put the others there to run them as well.
"""

import argparse
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header, table

FOLDER = Path(__file__).parent / "data" / "nist"
CERTIFIED = 11  # digits
# Digits that count as solved.
TARGETS = {"float64": {"least_squares": 9, "minimize": 6}, "float32": {"least_squares": 6, "minimize": 4}}
AGREE = 1e-6  # relative; a model whose sum of squares at the certified values is further off is not the file's


def exponentials(b: Any, x: Any) -> Any:
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def gaussians(b: Any, x: Any) -> Any:
    peaks = (b[i] * jnp.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5))
    return b[0] * jnp.exp(-b[1] * x) + sum(peaks)


def ultrasonic(b: Any, x: Any) -> Any:
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def saturating(b: Any, x: Any) -> Any:
    return b[0] * (1 - jnp.exp(-b[1] * x))


def cubics(b: Any, x: Any) -> Any:
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def cycles(b: Any, x: Any) -> Any:
    def cycle(cosine: Any, sine: Any, period: Any) -> Any:
        return cosine * jnp.cos(2 * jnp.pi * x / period) + sine * jnp.sin(2 * jnp.pi * x / period)

    return b[0] + cycle(b[1], b[2], 12) + cycle(b[4], b[5], b[3]) + cycle(b[7], b[8], b[6])


# Of parameters b and the predictor x, shape (n,), or the predictors, shape (k, n).
MODELS: dict[str, Callable[[Any, Any], Any]] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": saturating,
    "Chwirut1": ultrasonic,
    "Chwirut2": ultrasonic,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "ENSO": cycles,
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-(((x - b[2]) / b[1]) ** 2) / 2),
    "Gauss1": gaussians,
    "Gauss2": gaussians,
    "Gauss3": gaussians,
    "Hahn1": cubics,
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Lanczos1": exponentials,
    "Lanczos2": exponentials,
    "Lanczos3": exponentials,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": saturating,
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda b, x: b[0] - b[1] * x[0] * jnp.exp(-b[2] * x[1]),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi,
    "Thurber": cubics,
}
LOGARITHMIC = {"Nelson"}  # the model is of log(y)


@dataclass(frozen=True)
class Regression:
    """A data set with what NIST publishes of it."""

    name: str
    level: str  # of difficulty
    starts: np.ndarray  # shape (2, p)
    certified: np.ndarray  # shape (p,)
    deviations: np.ndarray  # standard deviations of the parameters, shape (p,)
    rss: float  # residual sum of squares
    x: np.ndarray  # shape (n,), or (k, n) where there are several predictors
    y: np.ndarray  # shape (n,)

    def residuals(self, b: Any, data: Any) -> Any:
        """Return the residuals of the model at `b`, shape `(n,)`."""
        x, y = data
        return y - MODELS[self.name](b, x)

    def digits(self, b: Any) -> float:
        """Return the digits of the worst parameter that agree with the certified ones."""
        worst = np.max(np.abs(np.asarray(b) - self.certified) / np.abs(self.certified))
        return float(np.clip(-np.log10(max(worst, 10.0**-CERTIFIED)), 0, CERTIFIED)) if np.isfinite(worst) else 0.0

    def resolved(self, dtype: str) -> float:
        """Return the digits of the worst parameter that rounding of data and residuals in this type leaves.

        Near the certified values, the residuals' errors are taken back to the parameters by the Jacobian's
        pseudoinverse; the median over 20 points.
        """
        rng, errors = np.random.default_rng(0), []
        with jax.enable_x64(True):
            exact = (jnp.asarray(self.x), jnp.asarray(self.y))
            jacobian = np.asarray(jax.jacfwd(self.residuals)(jnp.asarray(self.certified), exact)) * self.certified
            back = np.linalg.pinv(jacobian, rcond=0)
            for _ in range(20):
                near = self.certified * (1 + 1e-6 * rng.normal(size=self.certified.size))
                b = jnp.asarray(near, dtype)
                rounded = self.residuals(b, tuple(jnp.asarray(part, dtype) for part in exact))
                off = np.asarray(rounded, float) - np.asarray(self.residuals(b.astype("float64"), exact))
                errors.append(np.max(np.abs(back @ off)))
        return float(np.clip(-np.log10(max(np.median(errors), 10.0**-CERTIFIED)), 0, CERTIFIED))

    def squares(self, b: Any) -> float:
        """Return the sum of squares at `b`."""
        with jax.enable_x64(True):
            return float(jnp.sum(self.residuals(jnp.asarray(b), (self.x, self.y)) ** 2))


def read(path: Path) -> Regression:
    """Read an official file."""
    text = path.read_text()
    number = r"([-+]?\d*\.?\d*(?:[eE][-+]?\d+)?)"
    rows = re.findall(rf"^\s*b\d+\s*=\s*{number}\s+{number}\s+{number}\s+{number}\s*$", text, re.MULTILINE)
    starts, certified, deviations = np.split(np.array(rows, float).T, [2, 3])
    rss = _found(rf"Residual Sum of Squares:\s*{number}", text)
    first, last = (int(_found(rf"Data +\(lines +{place}", text)) for place in (r"(\d+)", r"\d+ +to +(\d+)"))
    y, *x = np.array([line.split() for line in text.splitlines()[first - 1 : last]], float).T
    return Regression(
        name=path.stem,
        level=_found(r"(\w+) +Level of Difficulty", text).lower(),
        starts=starts,
        certified=certified[0],
        deviations=deviations[0],
        rss=float(rss),
        x=np.array(x) if x[1:] else x[0],
        y=np.log(y) if path.stem in LOGARITHMIC else y,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if not match:
        raise ValueError(f"The file has no line like {pattern!r}: it is not an official one.")
    return match[1]


@dataclass(frozen=True)
class Fit:
    """What a solver made of a regression from one start."""

    solver: str
    start: int  # 1 or 2
    regression: Regression
    b: np.ndarray
    evals: int
    status: str

    @property
    def digits(self) -> float:
        """The certified digits found."""
        return self.regression.digits(self.b)


def fits(regression: Regression, dtype: str) -> Iterator[Fit]:
    """Yield the fits of the solvers from both starts, nothing but the type asked for."""
    data = (regression.x, regression.y)

    def squares(b: Any, data: Any) -> Any:
        return jnp.sum(regression.residuals(b, data) ** 2)

    for i, start in enumerate(regression.starts, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
            found = {
                "least_squares": jaxgd.least_squares(regression.residuals, data, start, dtype=dtype),
                "minimize": jaxgd.minimize(squares, data, start, dtype=dtype),
            }
        for solver, result in found.items():
            yield Fit(solver, i, regression, np.asarray(result.params), int(result.evals), result.status.name)
        scipy = by_scipy(regression, start)
        if scipy is not None:
            yield Fit("scipy", i, regression, *scipy)


def by_scipy(regression: Regression, start: np.ndarray) -> tuple[np.ndarray, int, str] | None:
    """Return what SciPy's Levenberg-Marquardt (MINPACK) finds with exact Jacobians: parameters, evaluations, status."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        return None
    with jax.enable_x64(True):
        data = (jnp.asarray(regression.x), jnp.asarray(regression.y))
        residuals = jax.jit(lambda b: regression.residuals(b, data))
        jacobian = jax.jit(jax.jacfwd(residuals))
        tight = dict.fromkeys(("ftol", "xtol", "gtol"), 2.5e-16)
        try:
            found = least_squares(
                lambda b: np.array(residuals(b)),
                start,
                lambda b: np.array(jacobian(b)),
                method="lm",
                max_nfev=10_000,
                **tight,
            )
        except ValueError as error:
            return np.full_like(start, np.nan), 0, str(error)
    return found.x, found.nfev, str(found.status)


def show(regressions: Sequence[Regression], found: Sequence[Fit], dtype: str) -> None:
    """Print a row for each regression, what missed, and how many reach the targets."""
    fit = {(fit.regression.name, fit.solver, fit.start): fit for fit in found}
    scipy = any(fit.solver == "scipy" for fit in found)
    columns = ["data set", "p", "n", "level", f"digits {dtype} resolves"]
    for solver in TARGETS[dtype]:
        columns += [f"{solver}, digits", "evals", "status"]
    rows = []
    for one in regressions:
        row: list[object] = [one.name, one.certified.size, one.y.size, one.level, f"{one.resolved(dtype):.1f}"]
        for solver in TARGETS[dtype]:
            both = [fit[one.name, solver, start] for start in (1, 2)]
            row += [_both(f"{fit.digits:.1f}" for fit in both), _both(fit.evals for fit in both)]
            row += [" / ".join(dict.fromkeys(fit.status for fit in both))]
        if scipy:
            both = [fit[one.name, "scipy", start] for start in (1, 2)]
            row += [_both(f"{fit.digits:.1f}" for fit in both), _both(fit.evals for fit in both)]
        rows.append(row)
    columns += ["SciPy lm, digits", "evals"] if scipy else []
    table(f"Certified digits from start 1 / start 2, {dtype}", columns, rows)
    misses(found, TARGETS[dtype])
    print()
    for solver, target in TARGETS[dtype].items():
        possible = sum(one.resolved(dtype) >= target for one in regressions)
        reached = sum(all(fit[one.name, solver, start].digits >= target for start in (1, 2)) for one in regressions)
        print(
            f"{solver}: {reached} of {len(regressions)} data sets reach {target} digits from both starts; "
            f"{dtype} resolves that many of {possible}"
        )


def misses(found: Sequence[Fit], targets: dict[str, int]) -> None:
    """Print, of each fit short of its target, how far off it is in the loss and in standard deviations."""
    rows = []
    for fit in found:
        if fit.digits >= targets.get(fit.solver, 0):
            continue
        one = fit.regression
        above = fit.regression.squares(fit.b) / one.squares(one.certified) - 1
        off = np.max(np.abs(fit.b - one.certified) / one.deviations)
        rows.append((one.name, fit.solver, fit.start, f"{fit.digits:.1f}", f"{above:.1e}", f"{off:.1e}", fit.status))
    if rows:
        columns = (
            "data set",
            "solver",
            "start",
            "digits",
            "sum of squares above the certified, relative",
            "off, standard deviations",
            "status",
        )
        table("Short of the target", columns, rows)


def _both(cells: Any) -> str:
    return " / ".join(map(str, cells))


def known(folder: Path) -> list[Regression]:
    """Return the regressions whose model is known, and say which are not; a wrong model raises."""
    regressions = []
    for path in sorted(folder.glob("*.dat"), key=lambda path: path.stem.lower()):
        if path.stem not in MODELS:
            print(f"{path.name}: the model is not known")
            continue
        regression = read(path)
        # Rounding of the certified values leaves less than this of any sum of squares, and so of an exact fit.
        slack = AGREE * regression.rss + (1e-9 * np.linalg.norm(regression.y)) ** 2
        if not math.isclose(regression.squares(regression.certified), regression.rss, rel_tol=0, abs_tol=slack):
            raise ValueError(f"{path.name}: the model does not have the certified sum of squares.")
        regressions.append(regression)
    return regressions


def main() -> None:
    """Parse the arguments, fit, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nist", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="these data sets alone")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the official files are")
    parser.add_argument("--dtype", choices=list(TARGETS), default="float64", help="of ours; SciPy's is float64")
    args = parser.parse_args()
    print(header(" ".join(["benchmarks.nist", *sys.argv[1:]])), flush=True)
    regressions = [one for one in known(args.folder) if not args.only or one.name in args.only]
    show(regressions, [fit for one in regressions for fit in fits(one, args.dtype)], args.dtype)


if __name__ == "__main__":
    main()
