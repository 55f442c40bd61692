"""The first call of a process, imports apart, and that of the next: python -m benchmarks.first_call [--rounds 3].

Each call is made in a process of its own, ours and the peers' in turn. The folder where programs are kept is empty in
the first process, and is that of the first in the second; JAX's own cache is off. Peers keep nothing between processes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import header, table

RANDOM = np.random.default_rng(0)
X, NOISE = RANDOM.standard_normal((20_000, 50)).astype(np.float32), RANDOM.standard_normal(20_000)
TIMES = np.linspace(0, 4, 50, dtype=np.float32)


def rosenbrock(x: Any, _: Any = None) -> Any:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def logistic(w: Any, data: Any) -> Any:
    rows, y = data
    z = rows @ w
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z)


def decay(p: Any, data: Any) -> Any:
    times, y = data
    return p[0] * jnp.exp(-p[1] * times) + p[2] - y


def sum_of_decay(p: Any, data: Any) -> Any:
    return jnp.mean(decay(p, data) ** 2)


def rows(columns: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = X[:200, :columns]
    return chosen, (chosen[:, 0] + NOISE[:200] > 0).astype(np.float32)


def decays(count: int) -> tuple[np.ndarray, np.ndarray]:
    shape = np.random.default_rng(1).uniform(0.5, 2, (2, count, 1))
    noise = 0.05 * np.random.default_rng(2).standard_normal((count, len(TIMES)))
    return np.tile(TIMES, (count, 1)), (shape[0] * np.exp(-shape[1] * TIMES) + 0.5 + noise).astype(np.float32)


PROBLEMS: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "Rosenbrock, 2 params": (rosenbrock, None, np.array([-1.2, 1.0], np.float32)),
    "logistic 200 x 5": (logistic, rows(5), np.zeros(5, np.float32)),
    "logistic 200 x 50": (logistic, rows(50), np.zeros(50, np.float32)),
    "least squares, 3 params": (decay, (TIMES, decays(1)[1][0]), np.array([1.0, 0.5, 0.0], np.float32)),
    "100 decays": (sum_of_decay, decays(100), np.array([1.0, 1.0, 0.0], np.float32)),
    "20,000 decays": (sum_of_decay, decays(20_000), np.array([1.0, 1.0, 0.0], np.float32)),
}


def ours(name: str) -> Callable[[], Any]:
    """Return the call with nothing but loss, data and start."""
    import jaxgd

    loss, data, init = PROBLEMS[name]
    if name.endswith("decays"):
        return lambda: jaxgd.minimize_many(loss, data, init=init).params
    if loss is decay:
        return lambda: jaxgd.least_squares(loss, data, init).params
    return lambda: (jaxgd.minimize(loss, init=init) if data is None else jaxgd.minimize(loss, data, init)).params


def optimistix(name: str, method: str) -> Callable[[], Any]:
    """Return the call of a solver of optimistix, over lanes under `vmap`."""
    import optimistix as optx

    loss, data, init = PROBLEMS[name]
    solver = getattr(optx, method)(rtol=1e-4, atol=1e-4)
    find = optx.least_squares if loss is decay else optx.minimise
    solve = jax.jit(lambda data: find(loss, solver, init, data, max_steps=500, throw=False).value)
    return lambda: jax.jit(jax.vmap(solve))(data) if name.endswith("decays") else solve(data)


def scipy(name: str) -> Callable[[], Any]:
    """Return the call of SciPy with a gradient that JAX compiles; of lanes one after another."""
    from scipy import optimize

    loss, data, init = PROBLEMS[name]
    start = init.astype(float)
    if loss is decay:
        jacobian = jax.jit(jax.jacfwd(loss))
        value = jax.jit(loss)
        return lambda: optimize.least_squares(value, start, jac=lambda p, d: np.asarray(jacobian(p, d)), args=(data,)).x
    both = jax.jit(jax.value_and_grad(loss))

    def of(x: Any, data: Any) -> tuple[float, np.ndarray]:
        value, grad = both(jnp.asarray(x, jnp.float32), data)
        return float(value), np.asarray(grad, float)

    one: Any = lambda own: optimize.minimize(of, start, args=(own,), jac=True, method="BFGS").x  # noqa: E731
    return lambda: [one(pair) for pair in zip(*data, strict=True)] if name.endswith("decays") else one(data)


def peers(name: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return who makes the first call of a problem."""
    if name == "least squares, 3 params":
        found = {"optimistix LM": lambda: optimistix(name, "LevenbergMarquardt")}
    else:
        found = {f"optimistix {method}": lambda method=method: optimistix(name, method) for method in ("BFGS", "LBFGS")}
    with_scipy = {} if name == "20,000 decays" else {"SciPy, jitted gradient": lambda: scipy(name)}
    return {"jaxgd": lambda: ours(name)} | found | with_scipy


def called(name: str, who: str) -> None:
    """Print the seconds, of the clock and of the processor, that a first call takes in this process."""
    call = peers(name)[who]()
    jax.block_until_ready(jnp.zeros(3) + 1)
    clock, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    print(json.dumps([time.perf_counter() - clock, time.process_time() - processor]))


def in_a_process(name: str, who: str, kept: str) -> list[float]:
    """Return what `called` prints in a new process that keeps its programs in a folder."""
    settings = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")} | {"JAXGD_CACHE": kept}
    command = [sys.executable, "-m", "benchmarks.first_call", "--of", name, "--who", who]
    return json.loads(subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print the table, or make one call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--of", help="make this call alone")
    parser.add_argument("--who")
    args = parser.parse_args()
    if args.of:
        called(args.of, args.who)
        return
    print(header("benchmarks.first_call"), flush=True)
    lines: list[tuple[str, ...]] = []
    for name in PROBLEMS:
        found: dict[str, list[list[float]]] = {}
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as kept:
                for who in peers(name):
                    found.setdefault(who, []).append(in_a_process(name, who, kept))
                found.setdefault("jaxgd, second process", []).append(in_a_process(name, "jaxgd", kept))
        medians = {
            who: [statistics.median(column) for column in zip(*each, strict=True)] for who, each in found.items()
        }
        least = min(processor for who, (_, processor) in medians.items() if who.startswith("optimistix"))
        for who, (clock, processor) in medians.items():
            lines.append((name, who, f"{clock:.2f}", f"{processor:.2f}", f"{processor / least:.2f}"))
    columns = ("what", "who", "seconds", "of the processor", "times the best of optimistix")
    table(f"First call of a process, imports apart: medians of {args.rounds}", columns, lines)


if __name__ == "__main__":
    main()
