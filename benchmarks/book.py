"""The book's own problems: whether the numbers are right, and what a warm call, a change and the import cost.

Lau, Gonzalez and Nolan, Principles and Techniques of Data Science, chapter 11.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header, interleaved, table
from jaxgd.cli.example import tips
from jaxgd.compile.cache import cache
from jaxgd.losses import huber, mse

Y = np.array([12.1, 12.8, 14.9, 16.3, 17.2])
RULE = jaxgd.Stop(xtol=1e-3)
MOST = 10_000  # moves of the bare loop
OPTIONAL = ("pandas", "optax", "scipy", "matplotlib", "hypothesis")
ROUNDS, CALLS = 200, 10  # of the warm calls
SLOW_ROUNDS = 5  # of those that trace again at every call


def by_hand(grad: Callable[[float, np.ndarray], float], y: np.ndarray, alpha: float, theta: float = 0.0) -> list[float]:
    """Return all thetas of the book's loop in NumPy, which ends with a step shorter than 1e-3."""
    thetas = [theta]
    while True:
        thetas.append(theta - alpha * grad(theta, y))
        if abs(thetas[-1] - theta) < 1e-3:  # noqa: PLR2004 - the book's rule
            return thetas
        theta = thetas[-1]


def grad_mse(theta: float, y: np.ndarray) -> float:
    """Return the gradient of the mean squared error."""
    return -2 * np.mean(y - theta)


def grad_huber(theta: float, y: np.ndarray) -> float:
    """Return the gradient of the mean Huber loss with delta 1."""
    return -np.mean(np.clip(y - theta, -1, 1))


@jax.jit
def bare(theta: Any, y: Any, alpha: Any, tol: Any) -> tuple[Any, Any, Any]:
    """Return what the book's loop written out in JAX returns: as fast as a solve can be called."""
    grad = jax.grad(mse)

    def step(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        theta, _, moves = state
        new = theta - alpha * grad(theta, y)
        return new, jnp.abs(new - theta), moves + 1

    return jax.lax.while_loop(lambda state: (state[1] >= tol) & (state[2] < MOST), step, (theta, jnp.inf, 0))


def minimizer(grad: Callable[[float, np.ndarray], float], y: np.ndarray) -> float:
    """Return where the gradient changes sign, by bisection in float64."""
    low, high = y.min(), y.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if grad(middle, y) > 0 else (middle, high)
    return high


def correctness() -> None:
    """Print what comes out beside what must."""
    descent: dict[str, Any] = {"method": jaxgd.GradientDescent(0.2), "stop": RULE, "dtype": "float64"}
    problems = (
        ("mse", mse, grad_mse, Y, 18, 14.658511131035242),
        ("Huber", huber(1.0), grad_huber, tips(), 189, 15.506849531471964),
    )
    rows = []
    for name, loss, grad, y, moves, theta in problems:
        thetas = by_hand(grad, y, 0.2)
        result = jaxgd.minimize(loss, y, 0.0, **descent)
        for who, got in (
            ("must be", (moves, theta)),
            ("NumPy loop by hand", (len(thetas) - 1, float(thetas[-1]))),
            ("jaxgd", (result.moves, float(result.params))),
        ):
            rows.append((name, who, *got, "yes" if got == (moves, theta) else "NO"))
    title = "Gradient descent, alpha 0.2 from 0 to |step| < 1e-3, float64"
    table(title, ("loss", "who", "moves", "theta", "exact"), rows)

    result = jaxgd.minimize(mse, Y, 12.0, **descent | {"method": jaxgd.GradientDescent(0.3)}, trace=True)
    rows = [("NumPy loop by hand", by_hand(grad_mse, Y, 0.3, 12.0)), ("jaxgd", result.trace.params)]
    rows = [(who, *(f"{theta:.3f}" for theta in thetas[1:5])) for who, thetas in rows]
    table("mse, alpha 0.3 from 12: theta after each move", ("who", "1", "2", "3", "4"), rows)

    rows = [row for name, loss, grad, y, _, _ in problems for row in defaults(name, loss, grad, y)]
    table("Nothing but loss and data", ("loss", "who", "theta", "off the minimizer", "converged", "evals"), rows)


def defaults(name: str, loss: Any, grad: Any, y: np.ndarray) -> Iterator[tuple[object, ...]]:
    """Yield a row for each who solves with its own defaults."""
    best = minimizer(grad, y)

    def row(who: str, theta: Any, converged: Any, evals: Any) -> tuple[object, ...]:
        digits = f"{float(theta):.15g}" if np.asarray(theta).dtype == np.float64 else f"{float(theta):.8g}"
        return name, who, digits, f"{float(theta) - best:.1e}", bool(converged), evals

    for who, options in (("jaxgd, float32", {"dtype": "float32"}), ("jaxgd, float64", {"dtype": "float64"})):
        result = jaxgd.minimize(loss, y, **options)
        yield row(who, result.params, result.converged, result.evals)
    try:
        import optimistix as optx

        solution = optx.minimise(loss, optx.BFGS(rtol=1e-6, atol=1e-6), jnp.float32(0), jnp.asarray(y), throw=False)
        done = solution.result == optx.RESULTS.successful
        yield row("optimistix BFGS(1e-6), float32", solution.value, done, int(solution.stats["num_steps"]))
    except ImportError:
        yield name, "optimistix", "not installed"
    try:
        from scipy.optimize import minimize

        with jax.enable_x64(True):
            value = jax.jit(lambda theta: loss(theta[0], y))
            found = minimize(value, np.zeros(1), jac=lambda theta: grad(theta, y)[None], method="L-BFGS-B")
        yield row("SciPy L-BFGS-B, float64", found.x[0], found.success, found.nfev)
    except ImportError:
        yield name, "SciPy", "not installed"


def warm_calls() -> None:
    """Print the time of a call like one before."""
    narrow = np.float32(Y)
    on_device = [jax.device_put(np.float32(value)) for value in (0.0, Y, 0.2, 1e-3)]
    floor = "bare jit of the book's loop, NumPy data (the floor)"
    fast = {
        floor: lambda: bare(0.0, Y, 0.2, 1e-3),
        "the same, all arguments on the device": lambda: bare(*on_device),
        "the book's loop in NumPy, gradient by hand": lambda: by_hand(grad_mse, Y, 0.2)[-1],
        "jaxgd": lambda: jaxgd.minimize(mse, narrow).params,
        "jaxgd, data on the device": lambda: jaxgd.minimize(mse, on_device[1]).params,
        "jaxgd GradientDescent": lambda: (
            jaxgd.minimize(mse, narrow, method=jaxgd.GradientDescent(0.2), stop=jaxgd.Stop(xtol=1e-3)).params
        ),
        "jaxgd in the user's own jit": own_jit(lambda y: jaxgd.minimize(mse, y).params),
    }
    slow: dict[str, Callable[[], object]] = {}
    rows: list[tuple[object, ...]] = []
    for add in (add_optimistix, add_jaxopt, add_jax_scipy, add_scipy):
        try:
            add(fast, slow)
        except ImportError as error:
            rows.append((error.name,))
    seconds = interleaved(fast, ROUNDS, CALLS) | interleaved(slow, SLOW_ROUNDS, 1)
    rows = [(name, f"{1e6 * spent:,.1f}", f"{spent / seconds[floor]:,.2f}") for name, spent in seconds.items()] + rows
    title = (
        f"Warm call, mse of 5 numbers, float32 (SciPy and the NumPy loop: float64), medians of {ROUNDS} runs of {CALLS}"
    )
    table(f"{title}; those that trace again: of {SLOW_ROUNDS} calls", ("who", "us", "ratio to the floor"), rows)


def own_jit(solve: Callable[[Any], Any]) -> Callable[[], object]:
    """Return the call of a solve that the user has wrapped in `jax.jit`."""
    jitted = jax.jit(solve)
    return lambda: jitted(Y)


def add_optimistix(fast: dict[str, Callable[[], object]], _: dict[str, Callable[[], object]]) -> None:
    """Add optimistix, at the tolerance of the book's rule."""
    import optimistix as optx

    def loss(theta: Any, y: Any) -> Any:
        return mse(theta, y)

    zero, data = jnp.float32(0), jnp.asarray(Y)
    for name, solver in (
        ("GradientDescent", optx.GradientDescent(0.2, rtol=1e-3, atol=1e-3)),
        ("BFGS", optx.BFGS(rtol=1e-3, atol=1e-3)),
    ):
        fast[f"optimistix {name}, data on the device"] = lambda s=solver: (
            optx.minimise(loss, s, zero, data, max_steps=1000, throw=False).value
        )
    fast["optimistix BFGS in the user's own jit"] = own_jit(
        lambda y, s=solver: optx.minimise(loss, s, jnp.float32(0), y, max_steps=1000, throw=False).value
    )


def add_jaxopt(fast: dict[str, Callable[[], object]], slow: dict[str, Callable[[], object]]) -> None:
    """Add jaxopt, which traces again at every call unless the user wraps it."""
    import jaxopt

    solver = jaxopt.GradientDescent(mse, maxiter=1000, tol=1e-3)
    slow["jaxopt GradientDescent"] = lambda: solver.run(jnp.float32(0), Y).params
    fast["jaxopt GradientDescent in the user's own jit"] = own_jit(lambda y: solver.run(jnp.float32(0), y).params)


def add_jax_scipy(_: dict[str, Callable[[], object]], slow: dict[str, Callable[[], object]]) -> None:
    """Add JAX's own BFGS, which compiles again at every call unless the user wraps it."""
    from jax.scipy.optimize import minimize

    slow["jax.scipy.optimize BFGS"] = lambda: (
        minimize(lambda theta: mse(theta[0], Y), jnp.zeros(1), method="BFGS", tol=1e-3).x
    )


def add_scipy(fast: dict[str, Callable[[], object]], _: dict[str, Callable[[], object]]) -> None:
    """Add SciPy with two gradients."""
    from scipy.optimize import minimize

    by_jax = jax.jit(jax.value_and_grad(lambda theta, y: mse(theta[0], y)))

    def by_numpy(theta: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        return np.mean((y - theta) ** 2), np.array([grad_mse(theta[0], y)])

    for name, value_and_grad in (("jax gradient", by_jax), ("gradient by hand", by_numpy)):
        fast[f"SciPy L-BFGS-B, {name}"] = lambda f=value_and_grad: (
            minimize(f, np.zeros(1), (Y,), jac=True, method="L-BFGS-B").x
        )


class Counter:
    """Counts how often a loss is traced.

    It has slots, so that jaxgd knows it by identity. A list would not do: what a loss closes over is part of the
    loss to jaxgd, and a list that has grown makes it another loss.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        """Start at 0."""
        self.count = 0

    def __call__(self, value: Any) -> Any:
        """Count one, and return the loss's value."""
        self.count += 1
        return value


def fresh(counter: Counter) -> Callable[[Any, Any], Any]:
    """Return a new function of the same code each time."""
    return lambda theta, y: counter(jnp.mean((y - theta) ** 2))


def recompiles() -> None:
    """Print how often the loss is traced, and XLA compiles, in a first call and in one with something new."""
    compiles: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiles.append(event) if event.endswith("backend_compile_duration") else None
    )
    solves: dict[str, Any] = {
        "jaxgd": lambda loss, y, _, tol: jaxgd.minimize(loss, y, tol=tol),
        "jaxgd GradientDescent": lambda loss, y, alpha, tol: jaxgd.minimize(
            loss, y, method=jaxgd.GradientDescent(alpha), stop=jaxgd.Stop(xtol=tol)
        ),
    }
    rows: list[tuple[object, ...]] = []
    try:
        import optimistix as optx

        solves["optimistix GradientDescent"] = lambda loss, y, alpha, tol: optx.minimise(
            loss, optx.GradientDescent(alpha, rtol=tol, atol=tol), jnp.float32(0), jnp.asarray(y), throw=False
        )
    except ImportError as error:
        rows.append((error.name,))
    changes = {
        "nothing": {},
        "data of the same shape": {"y": Y[::-1] + 1},
        "step size 0.2 -> 0.1": {"alpha": 0.1},
        "tol 1e-3 -> 1e-4": {"tol": 1e-4},
        "fresh lambda of the same code": {"loss": None},
    }
    for who, solve in solves.items():
        for what, change in changes.items():
            if who == "jaxgd" and "alpha" in change:
                continue
            cache.clear()
            jax.clear_caches()
            counter, cells = Counter(), []
            arguments = {"loss": fresh(counter), "y": Y, "alpha": 0.2, "tol": 1e-3}
            for given in (arguments, arguments | change):
                counter.count = 0
                compiles.clear()
                jax.block_until_ready(solve(given["loss"] or fresh(counter), given["y"], given["alpha"], given["tol"]))
                cells += [counter.count, len(compiles)]
            rows.append((who, what, f"{cells[0]} then {cells[2]}", f"{cells[1]} then {cells[3]}"))
    title = "Traces of the loss and XLA compilations: first call, then a second with something new"
    table(title, ("who", "new in the second call", "traces", "compilations"), rows)


def imports() -> None:
    """Print the time of the import, each in a fresh process, and which optional packages it brings in."""
    code = (
        "import sys; from time import perf_counter as now\n"
        "began = now(); import jax; jax_s = now() - began; old = set(sys.modules)\n"
        "began = now(); import jaxgd; jaxgd_s = now() - began\n"
        f"print(jax_s, jaxgd_s, *(set({OPTIONAL}) & (set(sys.modules) - old)))"
    )
    # With bytecode as an installed package has it; the first run writes it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, env=env, check=True, capture_output=True, text=True) for _ in range(6)]
    outputs = [run.stdout.split() for run in runs[1:]]
    jax_s, jaxgd_s = (statistics.median(float(output[i]) for output in outputs) for i in (0, 1))
    brought = ", ".join(sorted({name for output in outputs for name in output[2:]})) or "none"
    columns = ("import jax, s", "import jaxgd on top, s", f"what that brought in of {', '.join(OPTIONAL)}")
    table("Import, medians of 5 fresh processes", columns, [(f"{jax_s:.3f}", f"{jaxgd_s:.3f}", brought)])


def main() -> None:
    """Print all tables."""
    print(header("benchmarks.book"))
    correctness()
    warm_calls()
    recompiles()
    imports()


if __name__ == "__main__":
    main()
