"""How true the derivatives of the answer are: beside finite differences and an unrolled loop, for each method and term.

A nonlinear regression in float64 moves along random directions of all that it is given: data, penalties, bounds, what
is held still. Errors are relative to the largest component of the derivative, the worst of the directions. The unrolled
loop takes proximal gradient steps in plain `jax.numpy`; the finite differences are central, of solves anew,
extrapolated (Richardson, 1911). Forward and reverse mode are compared by u'(Jv) = (J'u)'v.
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
from jaxgd.compile.cache import cache

N, P, DIRECTIONS = 40, 4, 3
STEPS, STEP = 3000, 0.3  # of the unrolled loop
H = 2e-3  # of the finite differences
WEIGHTS = np.cos(np.arange(P))  # u
HELD = np.array([False, True, False, False])
GIVEN: dict[str, dict[str, Any]] = {
    "none": {},
    "l2": {"l2": 0.1},
    "fixed": {"init": np.array([0.0, 0.3, 0.0, 0.0])},
    "bounds": {"lower": np.array([-0.1, -3.0, -3.0, 0.1]), "upper": 0.2},
    "l1": {"l1": 0.15},
    "l1 and bounds": {"l1": 0.03, "lower": -3.0, "upper": 0.2},
    "simplex": {"total": 0.3},
    "ball": {"radius": 0.3},
}
EVERY = tuple(GIVEN)
SMOOTH, SEPARATE = EVERY[:3], EVERY[:6]


def residuals(w: Any, data: Any) -> Any:
    X, y = data
    return (y - X @ w - 0.2 * jnp.sin(X @ w)) / np.sqrt(N)


def loss(w: Any, data: Any) -> Any:
    return jnp.sum(residuals(w, data) ** 2) / 2


def by(method: Any) -> Callable[..., Any]:
    return lambda data, **options: jaxgd.minimize(loss, data, method=method, **options)


def lanes(data: Any, init: Any = None, **options: Any) -> Any:
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), data)
    return jaxgd.minimize_many(loss, twice, jnp.zeros(P) if init is None else init, in_axes=(None, 0), **options)[0]


SOLVES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "auto": (by("auto"), EVERY),
    "maximize": (lambda data, **options: jaxgd.maximize(lambda w, d: -loss(w, d), data, **options), EVERY),
    "least_squares": (lambda data, **options: jaxgd.least_squares(residuals, data, **options), SEPARATE),
    "minimize_many": (lanes, EVERY),
    **{name: (by(name), SEPARATE) for name in ("newton", "newton-cg", "newton-sampled", "lbfgsb")},
    **{name: (by(name), SMOOTH) for name in ("lbfgs", "bfgs", "cg", "bb", "steepest")},
    "fista": (by("fista"), EVERY),
    "GradientDescent": (by(jaxgd.GradientDescent(STEP)), EVERY),
    "optax.adam": (by(optax.adam(optax.exponential_decay(0.1, 200, 0.5))), SMOOTH),
}


def solution(solve: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Return the params that jaxgd finds."""
    options: dict[str, Any] = {name: given[name] for name in ("l1", "l2") if name in given}
    options["init"], options["fixed"] = (given["init"], HELD) if "init" in given else (jnp.zeros(P), None)
    if "upper" in given:
        options["bounds"] = (given["lower"], given["upper"])
    if "total" in given or "radius" in given:
        options["term"] = jaxgd.Simplex(given["total"]) if "total" in given else jaxgd.Ball(given["radius"])
    return solve(given["data"], **options).params


def unrolled(given: dict[str, Any]) -> Any:
    """Return the params by so many proximal gradient steps."""
    free = ~HELD if "init" in given else True

    def step(_: int, w: Any) -> Any:
        w = w - STEP * free * (jax.grad(loss)(w, given["data"]) + given.get("l2", 0) * w)
        if "l1" in given:
            w = jnp.sign(w) * jnp.maximum(jnp.abs(w) - STEP * given["l1"], 0)
        if "upper" in given:
            w = jnp.minimum(jnp.maximum(w, given["lower"]), given["upper"])
        if "radius" in given:
            w = w * given["radius"] / jnp.maximum(given["radius"], jnp.linalg.norm(w))
        if "total" in given:
            excess = (jnp.cumsum(jnp.sort(w)[::-1]) - given["total"]) / jnp.arange(1, P + 1)
            w = jnp.maximum(w - jnp.max(excess), 0)
        return w

    return jax.lax.fori_loop(0, STEPS, step, given.get("init", jnp.zeros(P)))


def differences(given: dict[str, Any], along: dict[str, Any]) -> Any:
    def central(h: float) -> Any:
        ends = [jax.tree.map(lambda at, to, h=h: at + h * to, given, along) for h in (h, -h)]
        return (solution(by("auto"), ends[0]) - solution(by("auto"), ends[1])) / (2 * h)

    return (4 * central(H / 2) - central(H)) / 3


def compared(solve: Callable[..., Any], given: Any, ways: list[Any], apart: list[Any], steps: list[Any]) -> list[str]:
    """Return the worst errors, beside finite differences and the unrolled loop, and of one mode beside the other."""
    cache.clear()  # a process has room for the code of some hundreds of programs
    jax.clear_caches()
    found = [jax.jvp(lambda g: solution(solve, g), (given,), (way,))[1] for way in ways]
    whole = jax.grad(lambda g: WEIGHTS @ solution(solve, g))(given)
    back = [sum(map(jnp.vdot, jax.tree.leaves(whole), jax.tree.leaves(way))) for way in ways]
    pairs = ((found, apart), (found, steps), ([WEIGHTS @ way for way in found], back))
    sizes = [jnp.max(jnp.abs(step)) for step in steps]
    return [f"{max(map(lambda a, b, size: jnp.max(jnp.abs(a - b)) / size, *pair, sizes)):.1e}" for pair in pairs]


def main() -> None:
    """Print the table."""
    print(header("benchmarks.derivatives"), flush=True)
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("error", jaxgd.NotConvergedWarning)
    random, rows = np.random.default_rng(0), []
    X = random.standard_normal((N, P))
    data = (X, X @ [0.5, -0.3, 0.2, 0.05] + 0.3 * random.standard_normal(N))
    for term, own in GIVEN.items():
        given = jax.tree.map(jnp.asarray, own | {"data": data})
        ways = [jax.tree.map(lambda leaf: random.standard_normal(np.shape(leaf)), given) for _ in range(DIRECTIONS)]
        apart = [differences(given, way) for way in ways]
        steps = [jax.jvp(unrolled, (given,), (way,))[1] for way in ways]
        rows += [
            (name, term, *compared(of, given, ways, apart, steps)) for name, (of, to) in SOLVES.items() if term in to
        ]
    rows.sort(key=lambda row: list(SOLVES).index(row[0]))
    rows.append(("worst", "", *(f"{max(float(row[i]) for row in rows):.1e}" for i in (2, 3, 4))))
    columns = ("solved by", "term", "finite differences", "unrolled", "forward, reverse")
    table(f"Worst relative error of the derivative, n = {N}, p = {P}, float64", columns, rows)


if __name__ == "__main__":
    main()
