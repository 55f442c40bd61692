"""How true the derivatives of the answer are: beside finite differences and an unrolled loop, for each method and term.

A logistic regression in float64 moves along random directions of all that it is given: data, penalties, bounds, what is
held still. The error is relative to the largest component of the derivative, the worst of the directions. The unrolled
loop takes proximal gradient steps in plain `jax.numpy` until nothing changes; the finite differences are central, of
solves anew, extrapolated (Richardson, 1911). Forward and reverse mode are compared by u'(Jv) = (J'u)'v.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxgd
from benchmarks.timing import header, table
from jaxgd.cache import cache

N, P = 40, 4
DIRECTIONS = 3
STEPS, STEP = 3_000, 0.5  # of the unrolled loop
H = 2e-3  # of the finite differences
Given = dict[str, Any]

SMOOTH = ("none", "l2", "fixed")
CONVEX = (*SMOOTH, "bounds", "l1", "l1 and bounds")
EVERY = (*CONVEX, "simplex", "ball")
METHODS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "auto": ("auto", EVERY),
    "newton": ("newton", CONVEX),
    "newton-cg": ("newton-cg", CONVEX),
    "newton-sampled": ("newton-sampled", CONVEX),
    "lbfgs": ("lbfgs", SMOOTH),
    "lbfgsb": ("lbfgsb", CONVEX),
    "bfgs": ("bfgs", SMOOTH),
    "cg": ("cg", SMOOTH),
    "fista": ("fista", EVERY),
    "bb": ("bb", SMOOTH),
    "steepest": ("steepest", SMOOTH),
    "GradientDescent": (jaxgd.GradientDescent(STEP), EVERY),
    "optax.adam": (optax.adam(optax.exponential_decay(0.1, 200, 0.5)), SMOOTH),
}
GIVEN: dict[str, Given] = {
    "none": {},
    "l2": {"l2": 0.1},
    "fixed": {"init": np.array([0.0, 0.3, 0.0, 0.0])},
    "bounds": {"lower": np.array([-0.1, -3.0, -3.0, 0.02]), "upper": 0.2},
    "l1": {"l1": 0.06},
    "l1 and bounds": {"l1": 0.03, "lower": -3.0, "upper": 0.1},
    "simplex": {"total": 0.5},
    "ball": {"radius": 0.4},
}


def loss(w: Any, data: Any) -> Any:
    X, y = data
    z = X @ w
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z) + 0.05 * jnp.sum(w**4)


def solution(given: Given, **options: Any) -> Any:
    """Return the params that jaxgd finds."""
    options |= {name: given[name] for name in ("l1", "l2", "init") if name in given}
    if "init" in given:
        options["fixed"] = np.array([False, True, False, False])
    if "upper" in given:
        options["bounds"] = (given["lower"], given["upper"])
    if "total" in given or "radius" in given:
        options["term"] = jaxgd.Simplex(given["total"]) if "total" in given else jaxgd.Ball(given["radius"])
    return jaxgd.minimize(loss, given["data"], **options).params


def unrolled(given: Given) -> Any:
    """Return the params by so many proximal gradient steps."""
    held = "init" in given

    def step(_: int, w: Any) -> Any:
        slope = jax.grad(loss)(w, given["data"]) + given.get("l2", 0) * w
        return prox(w - STEP * slope * jnp.array([1, 0 if held else 1, 1, 1]), given)

    return jax.lax.fori_loop(0, STEPS, step, given["init"] if held else jnp.zeros(P))


def prox(w: Any, given: Given) -> Any:
    if "l1" in given:
        w = jnp.sign(w) * jnp.maximum(jnp.abs(w) - STEP * given["l1"], 0)
    if "upper" in given:
        w = jnp.minimum(jnp.maximum(w, given["lower"]), given["upper"])
    if "radius" in given:
        w = w * given["radius"] / jnp.maximum(given["radius"], jnp.linalg.norm(w))
    if "total" in given:
        # The shift that makes the positive parts sum to the total, by halving, then exactly on the parts that are left.
        kept = w > jax.lax.stop_gradient(_shift(w, given["total"]))
        w = jnp.where(kept, w - (jnp.sum(jnp.where(kept, w, 0)) - given["total"]) / jnp.sum(kept), 0)
    return w


def _shift(w: Any, total: Any) -> Any:
    def halve(_: int, ends: Any) -> Any:
        middle = jnp.mean(ends)
        high = jnp.sum(jnp.maximum(w - middle, 0)) > total
        return jnp.where(high, jnp.array([middle, ends[1]]), jnp.array([ends[0], middle]))

    return jnp.mean(jax.lax.fori_loop(0, 60, halve, jnp.array([jnp.min(w) - total, jnp.max(w)])))


def differences(solve: Callable[[Given], Any], given: Given, along: Given) -> Any:
    """Return the derivative by finite differences."""

    def central(h: float) -> Any:
        ends = [solve(jax.tree.map(lambda at, to, h=h: at + h * to, given, along)) for h in (h, -h)]
        return (ends[0] - ends[1]) / (2 * h)

    return (4 * central(H / 2) - central(H)) / 3


def main() -> None:
    """Print the table."""
    print(header("benchmarks.derivatives"), flush=True)
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("error", jaxgd.NotConvergedWarning)
    random = np.random.default_rng(0)
    X = random.standard_normal((N, P))
    data = (X, (random.random(N) < 1 / (1 + np.exp(-X @ [1.0, -0.5, 0.3, 0.0]))).astype(float))
    rows: list[tuple[str, ...]] = []
    for term, given in GIVEN.items():
        given = jax.tree.map(jnp.asarray, given | {"data": data})  # noqa: PLW2901
        ways = [jax.tree.map(lambda leaf: random.standard_normal(np.shape(leaf)), given) for _ in range(DIRECTIONS)]
        auto = jax.jit(solution)
        apart = [differences(auto, given, way) for way in ways]
        loop = jax.jit(lambda given, way: jax.jvp(unrolled, (given,), (way,)))
        steps = [loop(given, way)[1] for way in ways]
        for name, (method, terms) in METHODS.items():
            if term in terms:
                rows.append((name, term, *compared(method, given, ways, apart, steps)))
    rows.sort(key=lambda row: list(METHODS).index(row[0]))
    columns = ("method", "term", "finite differences", "unrolled", "forward, reverse")
    rows.append(("worst", "", *(f"{max(float(row[i]) for row in rows):.1e}" for i in (2, 3, 4))))
    table(f"Worst relative error of the derivative, n = {N}, p = {P}, float64", columns, rows)


def compared(method: Any, given: Given, ways: list[Any], apart: list[Any], steps: list[Any]) -> list[str]:
    """Return the worst errors, beside finite differences and the unrolled loop, and of one mode beside the other."""
    cache.clear()  # a process has room for the code of some hundreds of programs
    jax.clear_caches()
    found = [np.asarray(jax.jvp(lambda g: solution(g, method=method), (given,), (way,))[1]) for way in ways]
    weights = np.cos(np.arange(P))
    whole = jax.grad(lambda g: jnp.sum(weights * solution(g, method=method)))(given)
    sums = [sum(np.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (whole, way)), strict=True)) for way in ways]
    sizes = [np.max(np.abs(step)) for step in steps]

    def worst(these: Any, those: Any) -> str:
        pairs = zip(these, those, sizes, strict=True)
        return f"{max(np.max(np.abs(a - np.asarray(b))) / size for a, b, size in pairs):.1e}"

    turned = [np.sum(weights * way) for way in found]
    return [worst(found, apart), worst(found, steps), worst(turned, sums)]


if __name__ == "__main__":
    main()
