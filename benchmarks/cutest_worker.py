"""One process of `benchmarks.cutest`: solve CUTEst problems in its own float type, or judge points in float64.

It reads a request a line from standard input, a JSON object of a function's name and its arguments, and answers each
with a line. JAX's types are fixed when the problems are imported, so that each process keeps to one.
"""

import functools
import importlib
import importlib.util
import json
import math
import os
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import jaxgd
from benchmarks.ablation import left_out
from jaxgd.compile.cache import cache
from jaxgd.core.flat import Layout
from jaxgd.core.loop import Run, begin, tick
from jaxgd.core.problem import Problem
from jaxgd.solvers.registry import choose_method, named

FOLDERS = {"u": ("_unconstrained_minimisation",), "b": ("_bounded_minimisation", "_quadratic_problems")}
SECONDS = 15  # for each polish
MOST = 50_000  # evaluations of a polish
FEWER = 10_000  # evaluations of a solve, ours and SciPy's
CLOSE = 1e-10  # to the lowest loss known, at which a polish could show nothing
BFGS_SIZE = 500  # parameters above which BFGS's matrix is too large


class Flat(NamedTuple):
    """A problem as a function of one float64 vector, with its gradient."""

    start: np.ndarray  # shape (n,)
    lower: np.ndarray | None  # shape (n,); None: no bounds
    upper: np.ndarray | None
    value_and_grad: Any

    def clip(self, x: np.ndarray) -> np.ndarray:
        """Return the nearest point inside the bounds."""
        return x if self.lower is None else np.clip(x, self.lower, self.upper)


class EnoughError(Exception):
    """Ends a solve of SciPy's."""


@functools.cache
def packages() -> Path:
    """Stub the packages of sif2jax, which import 700 problems in two minutes, and return where they lie."""
    spec = importlib.util.find_spec("sif2jax")
    if spec is None or spec.origin is None:
        raise ImportError("The problems are in the package sif2jax: pip install sif2jax.")
    root = Path(spec.origin).parent
    folders = [folder for group in FOLDERS.values() for folder in group]
    for parts in [(), ("cutest",), *(("cutest", folder) for folder in folders)]:
        module: Any = types.ModuleType(".".join(("sif2jax", *parts)))
        module.__path__ = [str(root.joinpath(*parts))]
        sys.modules.setdefault(module.__name__, module)
    return root / "cutest"


@functools.lru_cache(maxsize=1)
def load(kind: str, name: str) -> Any:
    """Return a problem of sif2jax, importing only its own module; what was compiled for the last one is dropped."""
    cache.clear()
    jax.clear_caches()
    root = packages()
    for folder in FOLDERS[kind]:
        # The module of the problem's own name comes before collections of problems, as the package has it.
        for file in sorted((root / folder).glob("*.py"), key=lambda file: file.stem != name.lower()):
            if file.stem != "__init__" and f"\nclass {name}(" in file.read_text():
                return getattr(importlib.import_module(f"sif2jax.cutest.{folder}.{file.stem}"), name)()
    msg = f"sif2jax has no problem {name} in {FOLDERS[kind]}."
    raise LookupError(msg)


@functools.lru_cache(maxsize=1)
def flat(kind: str, name: str) -> Flat:
    """Return the problem as SciPy takes it."""
    problem = load(kind, name)
    start, unravel = ravel_pytree(problem.y0)
    args = problem.args
    both = jax.jit(jax.value_and_grad(lambda x: problem.objective(unravel(x), args).reshape(())))

    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = both(x)
        return float(value), np.asarray(grad, float)

    if kind == "u":
        return Flat(np.asarray(start, float), None, None, value_and_grad)
    lower, upper = (
        np.concatenate([np.broadcast_to(side, np.shape(like)).ravel() for side, like in _pairs(bound, problem.y0)])
        for bound in problem.bounds
    )
    return Flat(np.asarray(start, float), lower.astype(float), upper.astype(float), value_and_grad)


def _pairs(bound: Any, params: Any) -> list[tuple[Any, Any]]:
    return list(zip(jax.tree.leaves(bound), jax.tree.leaves(params), strict=True))


def solve(kind: str, name: str, method: str, tol: float | None = None, without: str | None = None) -> dict[str, Any]:
    """Return what `jaxgd.minimize` finds, claims and costs; a method that cannot keep bounds is skipped.

    `without`: a predicate that the verdict must do without.
    """
    problem = load(kind, name)
    args = problem.args
    bounds = problem.bounds if kind == "b" else None
    try:
        with left_out(without):
            result = jaxgd.minimize(
                lambda y: problem.objective(y, args), None, problem.y0, method=method, bounds=bounds, tol=tol
            )
    except ValueError as error:
        if kind == "b" and "cannot keep" in str(error):
            return {"skipped": str(error)}
        raise
    x = np.concatenate([np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(result.params)])
    return {
        "claimed": bool(result.converged),
        "status": result.status.name,
        "evals": result.evals,
        "products": result.products,
        "moves": result.moves,
        "compile": result.seconds.compile,
        "run": result.seconds.run,
        "x": x.tolist(),
    }


def judge(kind: str, name: str, x: list[float], dtype: str, f0: float, f_best: float) -> dict[str, Any]:
    """Return the loss at `x` in float64, how far `x` is outside the bounds, and the lowest loss a polish finds.

    A point within `CLOSE` of the lowest loss known, relative to the decrease from the start, is not polished.
    """
    problem, point = flat(kind, name), np.asarray(x)
    violation = 0.0
    if problem.lower is not None:
        # Bounds that the solve's own type rounds cannot be kept closer.
        lower, upper = (side.astype(dtype).astype(float) for side in (problem.lower, problem.upper))
        outside = np.maximum(np.minimum(lower, problem.lower) - point, point - np.maximum(upper, problem.upper))
        violation = max(0.0, float(outside.max()))
    f = problem.value_and_grad(problem.clip(point))[0]
    close = f <= f_best + CLOSE * (f0 - f_best)
    return {"f": f, "violation": violation, "lowest": min(f, f_best if close else polish(kind, name, tuple(x)))}


@functools.lru_cache(maxsize=64)
def polish(kind: str, name: str, x: tuple[float, ...]) -> float:
    """Return the lowest loss that SciPy's methods see from `x`, each at its tightest."""
    problem = flat(kind, name)
    start = problem.clip(np.asarray(x))
    tight: dict[str, dict[str, Any]] = {
        "L-BFGS-B": {"ftol": 0, "gtol": 1e-14, "maxiter": MOST, "maxfun": MOST, "maxcor": 30},
        "TNC": {"ftol": 0, "xtol": 0, "gtol": 1e-14, "maxfun": MOST},
        "BFGS": {"gtol": 1e-14, "maxiter": MOST},
    }
    if problem.lower is not None or len(x) > BFGS_SIZE:
        del tight["BFGS"]
    lowest = math.inf

    for method, options in tight.items():
        ends = time.perf_counter() + SECONDS

        def loss(x: np.ndarray, ends: float = ends) -> tuple[float, np.ndarray]:
            nonlocal lowest
            if time.perf_counter() > ends:
                raise EnoughError
            value, grad = problem.value_and_grad(problem.clip(x))
            if math.isfinite(value):
                lowest = min(lowest, value)
            return value, grad

        bounds = None if problem.lower is None else scipy.optimize.Bounds(problem.lower, problem.upper)
        try:
            scipy.optimize.minimize(loss, start, jac=True, method=method, bounds=bounds, options=options)
        except (EnoughError, ValueError, FloatingPointError):
            continue
    return lowest


def reach(name: str, method: str, target: float) -> dict[str, Any]:
    """Return the evaluations and products after which one of our methods first sees a loss at or below the target."""
    problem = load("u", name)
    args, layout = problem.args, Layout.of(problem.y0)
    bound = Problem(lambda params: (problem.objective(params, args), ()), layout, ())
    setup = (bound, choose_method(named(method), layout.size)[0], jaxgd.Stop())

    @jax.jit
    def run(start: jax.Array, target: jax.Array) -> Run:
        def going(run: Run) -> jax.Array:
            return (run.status == jaxgd.Status.RUNNING) & ~(run.best.loss <= target)

        return jax.lax.while_loop(going, lambda run: tick(*setup, run), begin(*setup[:2], start))

    ended = run(layout.flatten(problem.y0), jax.numpy.asarray(target))
    _, evals, _, products = ended.counts.tolist()
    return {"evals": evals, "products": products} if float(ended.best.loss) <= target else {}


def reach_scipy(name: str, target: float) -> dict[str, Any]:
    """Return the evaluations after which SciPy's L-BFGS-B, which nothing else stops, sees such a loss."""
    problem, evals = flat("u", name), 0

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evals
        evals += 1
        value, grad = problem.value_and_grad(x)
        if value <= target:
            raise EnoughError
        return value, grad

    options = {"ftol": 0, "gtol": 0, "maxiter": FEWER, "maxfun": FEWER}
    try:
        scipy.optimize.minimize(loss, problem.start, jac=True, method="L-BFGS-B", options=options)
    except EnoughError:
        return {"evals": evals}
    return {}


def main() -> None:
    """Answer requests until there are no more."""
    # What a problem or a solver prints must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    calls = {function.__name__: function for function in (solve, judge, reach, reach_scipy)}
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        call, request = json.loads(line)
        try:
            answer = calls[call](**request)
        except Exception as error:  # noqa: BLE001 - the sweep goes on, and lists it
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
