"""What compiling costs, method by method, peers beside: python -m benchmarks.kernels.

A program is a list of kernels, each compiled by itself on CPU. All are counted as XLA leaves them, and the processor
seconds to trace, lower and compile are those of a plain call, nothing cached. Peers are compiled by `jax.jit`.
"""

import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header, table
from jaxgd.compile.build import Ask, prepare
from jaxgd.compile.cache import cache
from jaxgd.compile.executables import quick_options

ROWS, PARAMS = 2000, 50
REPETITIONS = 5
BASIS = "optimistix LBFGS(1e-4)"
METHODS = ("auto", "gd", "steepest", "bb", "cg", "bfgs", "lbfgs", "newton-cg", "newton", "lbfgsb")


def new_loss() -> Callable[[Any, Any], Any]:
    """Return the logistic loss, a new function each time."""

    def loss(w: Any, data: Any) -> Any:
        X, y = data
        z = X @ w
        return jnp.mean(jnp.logaddexp(0.0, z) - y * z)

    return loss


def problem() -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return a start and random data that a logistic model has made."""
    random = np.random.default_rng(0)
    X = random.standard_normal((ROWS, PARAMS))
    y = random.random(ROWS) < 1 / (1 + np.exp(-X @ random.standard_normal(PARAMS) / 4))
    return jnp.zeros(PARAMS), (jnp.asarray(X, jnp.float32), jnp.asarray(y, jnp.float32))


def kernels(executable: Any) -> int:
    """Return how many kernels XLA has made: its fusions, but all in a loop that it compiles as one count as one."""
    text = executable.as_text()
    parts = dict(re.findall(r"^(?:ENTRY )?%(\S+) \((.*?)^\}", text, re.MULTILINE | re.DOTALL))
    found, todo, seen = 0, re.findall(r"^ENTRY %(\S+) ", text, re.MULTILINE), set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in parts[name].splitlines():
            if " fusion(" in line or 'xla_cpu_small_call="true"' in line:
                found += 1
            else:
                todo += [part for part in re.findall(r"%([\w.\-]+)", line) if part in parts]
    return found


def ours(name: str, w: Any, data: Any) -> tuple[Any, float]:
    """Return the program of a method, and the processor seconds that making it took."""
    began = time.process_time()
    method: Any = jaxgd.GradientDescent(0.5) if name == "gd" else name
    program, given, _ = prepare(Ask(new_loss(), data, w, method))
    return program.solve.executable(given), time.process_time() - began


def peer(solve: Callable[[Any, Any], Any], w: Any, data: Any) -> tuple[Any, float]:
    """Return the program of a peer, likewise."""
    began = time.process_time()
    found = jax.jit(solve).lower(w, data).compile()
    return found, time.process_time() - began


def optimistix(name: str) -> Callable[[Any, Any], Any]:
    """Return the solver of this name."""
    import optimistix as optx

    loss, solver = new_loss(), getattr(optx, name)(rtol=1e-4, atol=1e-4)
    return lambda w, data: optx.minimise(loss, solver, w, data, throw=False).value


def optax_lbfgs() -> Callable[[Any, Any], Any]:
    """Return the loop of optax's manual: optax has the steps, the user writes the loop."""
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

    return solve


def jaxopt_lbfgs() -> Callable[[Any, Any], Any]:
    """Return jaxopt's L-BFGS with its zoom line search."""
    import jaxopt

    solver = jaxopt.LBFGS(new_loss(), maxiter=500, tol=1e-4, linesearch="zoom")
    return lambda w, data: solver.run(w, data).params


PEERS: dict[str, Callable[[], Callable[[Any, Any], Any]]] = {
    "value_and_grad alone": lambda: jax.value_and_grad(new_loss()),
    "optimistix LBFGS(1e-4)": lambda: optimistix("LBFGS"),
    "optimistix BFGS(1e-4)": lambda: optimistix("BFGS"),
    "optax lbfgs in a loop(1e-4)": optax_lbfgs,
    "jaxopt LBFGS, zoom(1e-4)": jaxopt_lbfgs,
}


def main() -> None:
    """Print the table."""
    print(header("benchmarks.kernels"), flush=True)
    jax.config.update("jax_enable_compilation_cache", False)
    jaxgd.config.cache = False
    quick_options(lanes=False)
    w, data = problem()
    makers = {f"jaxgd {name}": lambda name=name: ours(name, w, data) for name in METHODS}
    makers |= {name: lambda make=make: peer(make(), w, data) for name, make in PEERS.items()}
    counts, seconds, missing = dict[str, int](), dict[str, list[float]](), set[str]()
    for _ in range(REPETITIONS):
        for name, make in makers.items():
            cache.clear()
            jax.clear_caches()
            try:
                executable, spent = make()
            except ImportError:
                missing.add(name)
                continue
            counts[name] = kernels(executable)
            seconds.setdefault(name, []).append(spent)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    basis = medians.get(BASIS)
    lines = [
        (name,)
        if name in missing
        else (name, counts[name], f"{medians[name]:.2f}", f"{medians[name] / basis:.2f}" if basis else "")
        for name in makers
    ]
    title = f"Logistic regression, n = {ROWS}, p = {PARAMS}, float32: medians of {REPETITIONS}, interleaved"
    columns = ("who", "kernels", "processor seconds to trace, lower and compile", f"times {BASIS}")
    table(title, columns, lines)


if __name__ == "__main__":
    main()
