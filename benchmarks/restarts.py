"""How true a success is: random losses are minimized, and again from the answer, which must not bring more.

Each loss is a curve with parameters in random units, fitted from a random start to points on and off such a curve. A
success is refuted where the same method or another one, begun at the answer, lowers the loss by more than the result
says: what is left, the rounding measured, and that of the loss's own size. Losses are judged in float64. No right
answer is needed.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.ablation import ABLATIONS, left_out
from benchmarks.timing import header, table
from jaxgd.core.convergence import Evidence

X = np.linspace(0.1, 3, 20)
CURVES: dict[str, Callable[[Any, Any], Any]] = {
    "exponentials": lambda p, x: p[0] * jnp.exp(-p[1] * x) + p[2] * jnp.exp(-p[3] * x),
    "power": lambda p, x: p[0] * x ** p[1] + p[2],
    "logarithm": lambda p, x: p[0] * jnp.log(jnp.abs(p[1] + p[2] * x)),
    "quotient": lambda p, x: (p[0] + p[1] * x) / (1 + p[2] ** 2 * x),
    "saturating": lambda p, x: p[0] * (1 - jnp.exp(-(p[1] ** 2) * x)) + p[2],
    "logistic": lambda p, x: p[0] / (1 + jnp.exp(-p[1] * (x - p[2]))),
}
HIGHEST = 1e6  # of the points to fit
MAX_EVALS = 500
SIZES = {"exponentials": 4}
LOSSES: dict[str, Callable[[Any], Any]] = {
    "squares": lambda residuals: jnp.mean(residuals**2),
    "robust": lambda residuals: jnp.mean(jnp.log1p(residuals**2)),
    "absolute": lambda residuals: jnp.mean(jnp.abs(residuals)),  # with kinks
}
RUNS = {
    "auto": {"method": "auto"},
    "lbfgs": {"method": "lbfgs"},
    "bfgs": {"method": "bfgs"},
    "lbfgsb": {"method": "lbfgsb"},
    "least_squares": {"kind": "least_squares"},
}


def problems(curve: str, lanes: int, seed: int) -> tuple[Any, np.ndarray]:
    """Return the data of random problems, and their starts, problems first."""
    rng, size = np.random.default_rng(seed), SIZES.get(curve, 3)
    right = rng.normal(size=(lanes, size)) * 10.0 ** rng.uniform(-0.5, 0.5, (lanes, size))
    with np.errstate(all="ignore"), jax.enable_x64(True):
        y = np.asarray(jax.vmap(lambda p: CURVES[curve](p, X))(jnp.asarray(right)))
        spread = np.nanstd(np.where(np.isfinite(y), y, np.nan), axis=1, keepdims=True)
    y = y + rng.choice([0, 0.01, 0.3], (lanes, 1)) * spread * rng.normal(size=y.shape)
    units = 10.0 ** rng.uniform(-8, 8, (lanes, size))
    start = right * (1 + rng.normal(size=right.shape)) * 10.0 ** (rng.choice([0, 1, 2], (lanes, 1)) * rng.random())
    fine = np.isfinite(y).all(axis=1) & (np.abs(y).max(axis=1) < HIGHEST)
    y[~fine], start[~fine], units[~fine] = y[fine][0], start[fine][0], units[fine][0]
    return (y, units), start / units


def shown(result: Any) -> np.ndarray:
    """Return how much lower, at most, each lane says that its loss can be."""
    with jax.enable_x64(True):
        seen = jax.vmap(Evidence.unpack)(jnp.asarray(result.evidence, jnp.float64))
        left = np.maximum(np.asarray(seen.predicted_remaining), np.asarray(seen.model))
        noise = np.maximum(np.asarray(seen.noise), np.asarray(seen.doubt))
    slopes = np.sum(np.abs(np.asarray(result.grad, float) * np.asarray(result.params, float)), axis=1)
    eps = np.finfo(np.asarray(result.loss).dtype).eps
    return np.where(np.isfinite(left), left, 0) + noise + 8 * eps * (np.abs(np.asarray(result.loss, float)) + slopes)


def row(curve: str, loss: str, run: str, dtype: str, lanes: int, seed: int, without: str | None) -> list[str]:
    """Return a line of the table: what was claimed of so many problems, and what of it was refuted.

    `without`: a predicate that the first verdict must do without.
    """
    data, start = problems(curve, lanes, seed)

    def residuals(p: Any, data: Any) -> Any:
        return CURVES[curve](p * data[1], jnp.asarray(X, p.dtype)) - data[0]

    def whole(p: Any, data: Any) -> Any:
        return LOSSES[loss](residuals(p, data))

    # A loss that takes longer claims nothing here.
    options: dict[str, Any] = dict(RUNS[run]) | {"stop": jaxgd.Stop(max_evals=MAX_EVALS)}
    model = residuals if run == "least_squares" else whole
    with left_out(without):
        first = jaxgd.minimize_many(model, data, start, in_axes=(0, 0), dtype=dtype, **options)
    found = np.asarray(first.params)
    again = [
        jaxgd.minimize_many(model, data, found, in_axes=(0, 0), dtype=dtype, **options),
        jaxgd.minimize_many(whole, data, found, in_axes=(0, 0), dtype=dtype, method="bfgs", stop=options["stop"]),
    ]
    with jax.enable_x64(True):
        size = len(X) / 2 if run == "least_squares" else 1
        judge = jax.vmap(lambda p, y, units: size * whole(p, (y, units)))
        points = [np.asarray(params, float) for params in (found, *(result.params for result in again))]
        exact = [np.asarray(judge(params, *data)) for params in points]
        off = np.asarray(jax.vmap(lambda p, y, units: residuals(p, (y, units)))(points[0], *data))
    # A residual is rounded as the numbers are that it is the difference of.
    rounding = 8 * np.finfo(dtype).eps * size * np.mean(np.abs(off) * (np.abs(data[0]) + np.abs(off)), axis=1)
    lower = np.nanmin(np.stack(exact[1:]), axis=0)
    claimed = np.asarray(first.converged)
    refuted = claimed & ~(exact[0] - lower <= shown(first) + rounding)
    with np.errstate(all="ignore"):
        worst = np.where(refuted, (exact[0] - lower) / np.abs(exact[0]), 0)
    which = ", ".join(map(str, np.argsort(-worst)[: min(3, refuted.sum())]))
    evals = np.asarray(first.evals)
    return [
        curve,
        loss,
        run,
        dtype,
        str(lanes),
        str(claimed.sum()),
        str(refuted.sum()),
        f"{worst.max():.1g}",
        which,
        f"{np.median(evals):.0f}, {np.percentile(evals, 99):.0f}",
    ]


HEAD = [
    "curve",
    "loss",
    "method",
    "type",
    "losses",
    "claimed",
    "refuted",
    "worst gain, of the loss",
    "lanes",
    "evaluations, median and 99 %",
]


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=200, help="random losses of each kind")
    parser.add_argument("--curves", nargs="+", choices=list(CURVES), default=list(CURVES))
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    parser.add_argument("--kinds", nargs="+", choices=list(LOSSES), default=["squares", "robust"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", choices=list(ABLATIONS), help="leave out a predicate of the first verdict")
    options = parser.parse_args(args)
    warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
    print(header("benchmarks.restarts " + " ".join(sys.argv[1:] if args is None else args)), flush=True)
    rows = []
    for dtype in options.dtypes:
        for run in options.runs:
            for loss in options.kinds if run != "least_squares" else ["squares"]:
                for curve in options.curves:
                    rows.append(row(curve, loss, run, dtype, options.losses, options.seed, options.without))
                    print(rows[-1], file=sys.stderr, flush=True)
    table("Successes, and those that a solve begun at the answer refutes", HEAD, rows)
    for dtype in options.dtypes:
        own = [line for line in rows if line[3] == dtype]
        claims, refuted = (sum(int(line[i]) for line in own) for i in (5, 6))
        print(f"{dtype}: {refuted} of {claims} successes refuted, {100 * refuted / max(claims, 1):.2f} %")


if __name__ == "__main__":
    main()
