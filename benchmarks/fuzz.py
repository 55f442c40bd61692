"""Random losses: what a solve claims of them, and what others refute.

python -m benchmarks.fuzz [--losses 2000] [--methods auto,lbfgs]

A loss is a sum of four random terms of random affine forms of three params, times a number, plus another. Terms are
smooth, kinked, flat, periodic, not finite in a half-space, or without a lower end; params are in random units, starts
near or far. A success is refuted where a solve from the answer, by the same method or another, or one of many points
close by, is lower by more than the result says, and the way there leads over no hill; gravely, where that is more than
a billionth of the decrease. All is judged in float64.
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
from benchmarks.restarts import shown
from benchmarks.timing import header, table

TERMS: dict[str, Callable[[Any], Any]] = {
    "square": lambda z: z**2 / 2,
    "quartic": lambda z: z**4 / 4,
    "size": jnp.abs,
    "Huber": lambda z: jnp.where(jnp.abs(z) <= 1, z**2 / 2, jnp.abs(z) - 0.5),
    "smooth size": lambda z: jnp.sqrt(1 + z**2),
    "Cauchy": lambda z: jnp.log1p(z**2),
    "hinge": lambda z: jnp.maximum(0, z),
    "softplus": lambda z: jnp.logaddexp(0.0, z),
    "exponential": jnp.exp,
    "barrier": lambda z: z - jnp.log(z),  # not a number below 0
    "wave": lambda z: 1 - jnp.cos(z),
    "well": lambda z: -1 / (1 + z**2),
    "flat": lambda z: 0 * z,
    "slope": lambda z: z,  # without a lower end
}
PARAMS, COUNT = 3, 4
MAX_EVALS = 1000
METHODS = ("auto", "newton", "newton-cg", "lbfgs", "lbfgsb", "bfgs", "cg")
NEAR = 64  # points close by
GRAVE = 1e-9  # of the decrease: more is no rounding


def loss(params: Any, data: Any) -> Any:
    """Return one random loss."""
    which, weights, slopes, offsets, units, factor, constant = data
    z = slopes @ (params * units) + offsets
    # Terms that are not chosen are taken at 1, where all are finite, and so are their slopes.
    chosen = [which == place for place in range(len(TERMS))]
    values = [jnp.where(own, term(jnp.where(own, z, 1)), 0) for own, term in zip(chosen, TERMS.values(), strict=True)]
    return factor * jnp.sum(weights * sum(values)) + constant


def problems(lanes: int, seed: int) -> tuple[Any, np.ndarray]:
    """Return the data of random losses, and their starts, problems first."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(TERMS), (lanes, COUNT))
    # Most have a lower end, and most are finite everywhere.
    rare = (which == len(TERMS) - 1) | (which == list(TERMS).index("barrier"))
    which = np.where(rare & (rng.random(which.shape) < 0.7), 0, which)  # noqa: PLR2004
    slopes = rng.normal(size=(lanes, COUNT, PARAMS)) * (rng.random((lanes, COUNT, PARAMS)) < 0.7)  # noqa: PLR2004
    weights = 10.0 ** rng.uniform(-3, 3, (lanes, COUNT)) * rng.choice([1, 1, 1, 0], (lanes, COUNT))
    offsets = rng.normal(size=(lanes, COUNT)) * rng.choice([0, 1, 10], (lanes, 1))
    units = 10.0 ** rng.uniform(-8, 8, (lanes, PARAMS)) ** rng.choice([0, 1], (lanes, 1))
    factor = 10.0 ** (rng.uniform(-6, 6, lanes) * rng.choice([0, 1], lanes))
    constant = rng.choice([0.0, 0.0, 1.0, 1e3], lanes) * factor
    start = rng.normal(size=(lanes, PARAMS)) * rng.choice([0, 1, 1, 10, 100], (lanes, 1)) / units
    return (which, weights, slopes, offsets, units, factor, constant), start


def rounding(params: np.ndarray, data: Any, dtype: str) -> np.ndarray:
    """Return what rounding of its terms does to each loss, whatever they come to together."""
    which, weights, slopes, offsets, units, factor, constant = data
    with jax.enable_x64(True):
        parts = np.abs(slopes * (params * units)[:, None])
        z = np.einsum("lkp,lp->lk", slopes, params * units) + offsets
        at = jnp.asarray(z)
        each = [jax.vmap(jax.vmap(jax.value_and_grad(term)))(at) for term in TERMS.values()]
        values, steep = (np.stack([np.asarray(pair[i]) for pair in each]) for i in (0, 1))
        picked = np.arange(len(TERMS))[:, None, None] == which
        value, slope = (np.sum(np.where(picked, np.abs(of), 0), axis=0) for of in (values, steep))
        value += which == list(TERMS).index("wave")  # 1 - cos z is rounded as 1 is
        blurred = np.sum(weights * (value + slope * (parts.sum(axis=2) + np.abs(offsets))), axis=1)
    known = np.finfo(dtype)
    # Below the least number of the type a term is 0.
    least = float(known.tiny) * (1 + factor * (1 + np.sum(weights, axis=1)))
    return 16 * (float(known.eps) * (factor * blurred + np.abs(constant)) + least)


@np.errstate(all="ignore")
def row(method: str, dtype: str, lanes: int, seed: int) -> list[str]:
    """Return a line of the table: how the solves ended, and what of it was refuted."""
    data, start = problems(lanes, seed)
    options: dict[str, Any] = {"in_axes": (0, 0), "dtype": dtype, "max_evals": MAX_EVALS}
    first = jaxgd.minimize_many(loss, data, start, method=method, **options)
    found, status = np.asarray(first.params), np.asarray(first.status)
    options["dtype"] = "float64"
    found = found.astype(float)
    again = [jaxgd.minimize_many(loss, data, found, method=other, **options) for other in (method, "bfgs")]
    rng = np.random.default_rng(seed + 1)
    size = np.abs(found) + 1e-3 / data[4]
    steps = rng.normal(size=(NEAR, lanes, PARAMS)) * 10.0 ** rng.uniform(-8, -3, (NEAR, lanes, 1))
    with jax.enable_x64(True):
        judge = jax.jit(jax.vmap(loss))
        here = np.asarray(judge(found, data))
        began = np.asarray(judge(start, data))
        places = [np.asarray(result.params) for result in again] + list(found + steps * size)
        others = np.stack([np.asarray(judge(place, data)) for place in places])
        others = np.where(np.isfinite(others), others, np.inf)
        lowest = np.stack(places)[np.argmin(others, axis=0), np.arange(lanes)]
        ways = [np.asarray(judge(found + part * (lowest - found), data)) for part in np.geomspace(1e-6, 1, 40)]
    lower = here - np.min(others, axis=0)
    claimed = np.asarray(first.converged)
    blur = rounding(found, data, dtype)
    seen = (1 + 1e-9) * shown(first) + blur
    refuted = claimed & ~(lower <= seen) & (np.max(ways, axis=0) <= here + seen)
    said = np.abs(np.asarray(first.loss, float) - here)
    # What remains are claims that are off by some roundings more than was said.
    grave = refuted & ~(lower <= GRAVE * np.abs(began - here))
    # Of a loss that the type does not hold nothing is said.
    known = np.isfinite(here) & np.isfinite(began) & np.isfinite(blur) & np.isfinite(np.asarray(first.loss))
    wrong, risen = known & ~(said <= 4 * blur), known & ~(here <= began + blur)
    worst = np.where(refuted, lower / np.abs(here), 0)
    names = {jaxgd.Status(code).name: count for code, count in zip(*np.unique(status, return_counts=True), strict=True)}
    for lane in np.flatnonzero(grave)[:5]:
        terms = ", ".join(np.array(list(TERMS))[data[0][lane]])
        print(
            f"{method} {dtype} seed {seed} lane {lane}: {jaxgd.Status(int(status[lane])).name} at {here[lane]:.9g},"
            f" lower by {lower[lane]:.2g}, shown {shown(first)[lane]:.2g} and {blur[lane]:.2g}: {terms}",
            file=sys.stderr,
        )
    counts = ", ".join(f"{count} {name}" for name, count in sorted(names.items(), key=lambda pair: -pair[1])[:5])
    totals = (lanes, claimed.sum(), refuted.sum(), grave.sum(), wrong.sum(), risen.sum())
    return [method, dtype, *map(str, totals), f"{worst.max():.1g}", counts]


HEAD = ["method", "type", "losses", "claimed", "refuted", "gravely", "misstated", "above the start", "worst", "ends"]


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=int, default=2000, help="random losses for each method and type")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"], default=["float64", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(args)
    warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
    print(header("benchmarks.fuzz " + " ".join(sys.argv[1:] if args is None else args)), flush=True)
    rows = [row(method, dtype, options.losses, options.seed) for dtype in options.dtypes for method in options.methods]
    table("Random losses", HEAD, rows)
    for dtype in options.dtypes:
        own = [line for line in rows if line[1] == dtype]
        claims, refuted, grave = (sum(int(line[i]) for line in own) for i in (3, 4, 5))
        print(f"{dtype}: {refuted} of {claims} successes refuted, {grave} by more than {GRAVE:g} of the decrease")


if __name__ == "__main__":
    main()
