"""How true and how fast standard errors are: beside statsmodels, beside NIST's certified ones, and for many problems.

NIST's are from the published start from which `least_squares` comes closer; every official file in the folder is run.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.nist import FOLDER, Regression, known
from benchmarks.timing import header, table

ROWS, COLUMNS = 2000, 8
LANES, PER_LANE = 10_000, (200, 10)
DIGITS = 6  # that count as agreement
KINDS = {"hessian": "nonrobust", "sandwich": "HC0"}


def residuals(w: Any, data: Any) -> Any:
    X, y = data
    return y - X @ w


def squares(w: Any, data: Any) -> Any:
    return jnp.mean(residuals(w, data) ** 2)


def log_likelihood(w: Any, data: Any) -> Any:
    return -len(data[1]) * jaxgd.losses.logistic(w, data)


def error(found: Any, expected: Any) -> float:
    """Return the largest relative error."""
    return float(np.max(np.abs(np.asarray(found, float) / np.asarray(expected, float) - 1)))


def beside_statsmodels() -> Iterator[tuple[object, ...]]:
    """Yield the model, the call, the kind, and the errors in float64 and float32."""
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    X = np.c_[np.ones(ROWS), rng.normal(size=(ROWS, COLUMNS - 1)) * np.logspace(-1, 1, COLUMNS - 1)]
    score = X @ (rng.normal(size=COLUMNS) / np.r_[1, np.logspace(-1, 1, COLUMNS - 1)]) / 2
    y = score + rng.standard_t(4, size=ROWS) * (1 + np.abs(score))
    labels, counts = (score + rng.logistic(size=ROWS) > 0) * 1.0, rng.poisson(np.exp(score / 2)) * 1.0
    cases = [
        ("OLS", sm.OLS, y, jaxgd.least_squares, residuals, KINDS),
        ("OLS", sm.OLS, y, jaxgd.minimize, squares, ["sandwich"]),
        ("logit", sm.Logit, labels, jaxgd.minimize, jaxgd.losses.logistic, KINDS),
        ("logit", sm.Logit, labels, jaxgd.maximize, log_likelihood, KINDS),
        ("Poisson", sm.Poisson, counts, jaxgd.minimize, jaxgd.losses.poisson, KINDS),
    ]
    for name, model, target, call, loss, kinds in cases:
        exact: dict[str, Any] = {} if name == "OLS" else {"disp": 0, "tol": 1e-13, "maxiter": 200}
        results = [call(loss, (X, target), dtype=dtype) for dtype in ("float64", "float32")]
        for kind in kinds:
            expected = model(target, X).fit(cov_type=KINDS[kind], **exact).bse
            errors = [f"{error(result.stderr(kind), expected):.1e}" for result in results]
            yield f"{name}, {call.__name__}({loss.__name__})", kind, *errors


def certified(regression: Regression) -> tuple[str, str, str]:
    """Return the largest relative error of params and of standard errors, and what was said on the way."""
    data, best = (regression.x, regression.y), ("", "", "")
    least = np.inf
    for start in regression.starts:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            result = jaxgd.least_squares(regression.residuals, data, start, dtype="float64")
            try:
                off = error(result.stderr(), regression.deviations)
            except (jaxgd.NotConverged, ValueError) as failure:
                heard.append(warnings.WarningMessage(failure, UserWarning, "", 0))
                off = np.inf
        if off < least or not best[0]:
            said = "; ".join(str(one.message).split(":")[0] for one in heard)
            best, least = (f"{error(result.params, regression.certified):.1e}", f"{off:.1e}", said), off
    return best


def of_lanes(repeats: int) -> Iterator[tuple[object, ...]]:
    """Yield the kind and the median milliseconds of the covariances of many logistic regressions, warm."""
    rng, (rows, columns) = np.random.default_rng(0), PER_LANE
    X = rng.normal(size=(LANES, rows, columns)).astype(np.float32)
    score = X @ rng.normal(size=(LANES, columns, 1)).astype(np.float32) / 2
    y = (score[..., 0] + rng.logistic(size=(LANES, rows)) > 0).astype(np.float32)
    began = time.perf_counter()
    result = jaxgd.minimize_many(jaxgd.losses.logistic, (X, y))
    first = time.perf_counter() - began
    for kind in KINDS:
        spent = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            jax.block_until_ready(result.covariance(kind).matrix)
            spent.append(time.perf_counter() - began)
        yield kind, f"{1e3 * statistics.median(spent[1:]):.0f}", f"{1e3 * spent[0]:.0f}", f"{1e3 * first:.0f}"


def main() -> None:
    """Parse the arguments, compute, print."""
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uncertainty", description=description)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where NIST's official files are")
    parser.add_argument("--repeats", type=int, default=9, help="of the timed call")
    args = parser.parse_args()
    print(header(" ".join(["benchmarks.uncertainty", *sys.argv[1:]])), flush=True)
    beside = list(beside_statsmodels())
    title = f"Standard errors beside statsmodels, {ROWS} rows, {COLUMNS} params: largest relative error"
    table(title, ("model", "kind", "float64", "float32"), beside)
    print(f"\nworst of all in float64: {max(float(str(row[2])) for row in beside):.1e}")
    found = {one.name: certified(one) for one in known(args.folder)}
    columns = ("data set", "params, relative error", "standard errors, relative error", "said")
    table(
        "NIST's certified standard deviations by least_squares", columns, [(name, *row) for name, row in found.items()]
    )
    good = sum(float(row[1]) < 10.0**-DIGITS for row in found.values())
    print(f"\n{good} of {len(found)} data sets have {DIGITS} digits of all standard deviations")
    title = f"Covariances of {LANES} logistic regressions {PER_LANE[0]} x {PER_LANE[1]}, float32, milliseconds"
    table(title, ("kind", "warm", "first call", "first solve"), list(of_lanes(args.repeats)))


if __name__ == "__main__":
    main()
