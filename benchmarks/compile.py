"""What the first call costs: seconds to trace, lower and compile one logistic regression with each solver."""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header, table
from jaxgd.compile.cache import cache

N, P = 2000, 50
REPETITIONS = 5
BASIS = "optimistix LBFGS(1e-4)"
Solve = Callable[[Any, Any], Any]  # of the start and the data


def new_loss() -> Solve:
    """Return the logistic loss, a new function each time."""

    def loss(w: Any, data: Any) -> Any:
        X, y = data
        z = X @ w
        return jnp.mean(jnp.logaddexp(0.0, z) - y * z)

    return loss


def problem() -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return a start and random data that a logistic model has made."""
    random = np.random.default_rng(0)
    X = random.standard_normal((N, P))
    y = random.random(N) < 1 / (1 + np.exp(-X @ random.standard_normal(P) / 4))
    return jnp.zeros(P), (jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32))


# Each of these returns a new solve to put inside the user's `jax.jit`, and one to call without.


def value_and_grad() -> tuple[Solve, Solve]:
    """One evaluation: what every solver has to compile at least."""
    solve = jax.value_and_grad(new_loss())
    return solve, jax.jit(solve)


def jaxgd_default() -> tuple[Solve, Solve]:
    """Solve with nothing but loss, data and start."""
    loss = new_loss()
    return (lambda w, data: jaxgd.minimize(loss, data, w).params,) * 2


def jaxgd_descent() -> tuple[Solve, Solve]:
    """Solve by gradient descent with a given step size."""
    loss, method, stop = new_loss(), jaxgd.GradientDescent(0.5), jaxgd.Stop(xtol=1e-3)
    return (lambda w, data: jaxgd.minimize(loss, data, w, method=method, stop=stop).params,) * 2


def optimistix(name: str) -> tuple[Solve, Solve]:
    """Solve by the method of this name."""
    import optimistix as optx

    loss, solver = new_loss(), getattr(optx, name)(rtol=1e-4, atol=1e-4)
    return (lambda w, data: optx.minimise(loss, solver, w, data, throw=False).value,) * 2


def optax_lbfgs() -> tuple[Solve, Solve]:
    """Solve by the loop of optax's manual: optax has the steps, the user writes the loop."""
    import optax

    loss, method = new_loss(), optax.lbfgs()

    def solve(w: Any, data: Any) -> Any:
        def of_w(w: Any) -> Any:
            return loss(w, data)

        evaluate = optax.value_and_grad_from_state(of_w)

        def step(carry: tuple[Any, Any]) -> tuple[Any, Any]:
            w, state = carry
            value, grad = evaluate(w, state=state)
            updates, state = method.update(grad, state, w, value=value, grad=grad, value_fn=of_w)
            return optax.apply_updates(w, updates), state

        def going(carry: tuple[Any, Any]) -> Any:
            count, grad = (optax.tree_utils.tree_get(carry[1], name) for name in ("count", "grad"))
            return (count == 0) | ((count < 500) & (jnp.linalg.norm(grad) >= 1e-4))  # noqa: PLR2004

        return jax.lax.while_loop(going, step, (w, method.init(w)))[0]

    return solve, jax.jit(solve)


def jaxopt_lbfgs() -> tuple[Solve, Solve]:
    """Solve by jaxopt's L-BFGS with its zoom line search."""
    import jaxopt

    solver = jaxopt.LBFGS(new_loss(), maxiter=500, tol=1e-4, linesearch="zoom")
    return (lambda w, data: solver.run(w, data).params,) * 2


CONTENDERS: dict[str, Callable[[], tuple[Solve, Solve]]] = {
    "value_and_grad alone": value_and_grad,
    "jaxgd": jaxgd_default,
    "jaxgd GradientDescent(0.5)": jaxgd_descent,
    "optimistix LBFGS(1e-4)": lambda: optimistix("LBFGS"),
    "optimistix BFGS(1e-4)": lambda: optimistix("BFGS"),
    "optax lbfgs in a loop(1e-4)": optax_lbfgs,
    "jaxopt LBFGS, zoom(1e-4)": jaxopt_lbfgs,
}


def measure(make: Callable[[], tuple[Solve, Solve]], w: Any, data: Any) -> list[float]:
    """Return seconds to trace, lower and compile inside `jax.jit`, their sum, and seconds of a first plain call."""
    inside, _ = make()
    forget()
    marks = [time.perf_counter()]
    stage: Any = jax.jit(inside)
    for advance in (lambda jitted: jitted.trace(w, data), lambda traced: traced.lower(), lambda low: low.compile()):
        stage = advance(stage)
        marks.append(time.perf_counter())
    _, plain = make()
    forget()
    began = time.perf_counter()
    jax.block_until_ready(plain(w, data))
    first = time.perf_counter() - began
    return [*(after - before for before, after in pairwise(marks)), marks[-1] - marks[0], first]


def forget() -> None:
    """Drop everything compiled so far, by jaxgd and by JAX."""
    cache.clear()
    jax.clear_caches()


def main() -> None:
    """Print the table."""
    print(header("benchmarks.compile"), flush=True)
    jax.config.update("jax_enable_compilation_cache", False)
    w, data = problem()
    seconds: dict[str, list[list[float]]] = {name: [] for name in CONTENDERS}
    missing: set[str] = set()
    for _ in range(REPETITIONS):
        for name, make in CONTENDERS.items():
            try:
                seconds[name].append(measure(make, w, data))
            except ImportError:
                missing.add(name)
    medians = {name: [statistics.median(column) for column in zip(*seconds[name], strict=True)] for name in CONTENDERS}
    rows: list[tuple[str, ...]] = []
    for name, found in medians.items():
        if name in missing:
            rows.append((name,))
            continue
        *stages, first = (f"{value:.3f}" for value in found)
        ratios = [f"{found[i] / medians[BASIS][i]:.2f}" if medians[BASIS] else "" for i in (3, 4)]
        rows.append((name, *stages, ratios[0], first, ratios[1]))
    columns = ("who", "trace, s", "lower, s", "compile, s", "sum, s", "ratio", "first plain call, s", "ratio")
    title = f"Logistic regression, n = {N}, p = {P}, float32: medians of {REPETITIONS}, interleaved, nothing cached"
    table(f"{title}; ratios to {BASIS}", columns, rows)


if __name__ == "__main__":
    main()
