"""Many parameters and dear losses: how many evaluations to a given loss, L-BFGS of SciPy and jaxopt beside.

python -m benchmarks.large [--only rosenbrock,network] [--scale 4] [--most 400]

An evaluation is one of loss and gradient; a product with the Hessian, about as dear as two, is counted as two. The
decrease is that from the start to the lowest loss that anybody finds, judged in float64. Ours are called with nothing
given, and by "newton-cg"; SciPy's L-BFGS-B and jaxopt's LBFGS with a memory of 10 and a tolerance that they do not
reach.
"""

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxgd
from benchmarks.timing import header, table
from jaxgd.core.stop import Counts

TAUS = (1e-2, 1e-4, 1e-6)  # parts of the decrease that may be left
MEMORY = 10
SEED = 0


class Job(NamedTuple):
    """A loss of params and data."""

    loss: Callable[[Any, Any], Any]
    data: Any
    start: Any


def denoising(scale: float) -> Job:
    """Return an image to smooth: squares, and smoothed total variation."""
    side, random = int(150 * scale**0.5), np.random.default_rng(SEED)
    image = np.zeros((side, side))
    image[side // 4 : side // 2, side // 3 :] = 1
    noisy = image + 0.3 * random.normal(size=image.shape)

    def loss(u: Any, noisy: Any) -> Any:
        down, right = u[1:, :-1] - u[:-1, :-1], u[:-1, 1:] - u[:-1, :-1]
        return jnp.sum((u - noisy) ** 2) / 2 + 0.3 * jnp.sum(jnp.sqrt(down**2 + right**2 + 1e-4))

    return Job(loss, noisy, np.zeros_like(noisy))


def rosenbrock(scale: float) -> Job:
    """Return Rosenbrock's extended function."""
    start = np.tile([-1.2, 1.0], int(50_000 * scale))
    return Job(lambda x, _: jnp.sum(100 * (x[1::2] - x[::2] ** 2) ** 2 + (1 - x[::2]) ** 2), np.zeros(1), start)


def factorization(scale: float) -> Job:
    """Return a matrix seen at some places, as a product of two."""
    random, (rows, columns, rank) = np.random.default_rng(SEED), (int(1500 * scale), int(1000 * scale), 8)
    one, other = random.normal(size=(rows, rank)), random.normal(size=(columns, rank))
    i, j = random.integers(rows, size=40 * rows), random.integers(columns, size=40 * rows)
    seen = np.sum(one[i] * other[j], axis=1) + 0.3 * random.normal(size=i.size)

    def loss(params: Any, data: Any) -> Any:
        i, j, seen = data
        off = jnp.sum(params["rows"][i] * params["columns"][j], axis=1) - seen
        return jnp.sum(off**2) / 2 + 0.05 * sum(jnp.sum(leaf**2) for leaf in params.values())

    start = {"rows": 0.1 * random.normal(size=one.shape), "columns": 0.1 * random.normal(size=other.shape)}
    return Job(loss, (i, j, seen), start)


def network(scale: float) -> Job:
    """Return a network of two hidden layers, of all rows at once."""
    random, sizes = np.random.default_rng(SEED), (10, 64, 32, 1)
    X = random.normal(size=(int(4000 * scale), sizes[0]))
    y = np.sin(2 * X[:, 0]) * X[:, 1] + np.abs(X[:, 2]) + 0.1 * random.normal(size=len(X))

    def loss(layers: Any, data: Any) -> Any:
        at, y = data
        *hidden, (weights, shift) = layers
        for inner, offset in hidden:
            at = jnp.tanh(at @ inner + offset)
        return jnp.mean((jnp.squeeze(at @ weights + shift, 1) - y) ** 2)

    pairs = itertools.pairwise(sizes)
    return Job(loss, (X, y), [(random.normal(size=(a, b)) / a**0.5, np.zeros(b)) for a, b in pairs])


def responses(scale: float) -> Job:
    """Return the two-parameter logistic model of answers to a test: a skill a person, slope and offset an item."""
    random, (people, items) = np.random.default_rng(SEED), (int(1900 * scale), 100)
    skill, slope, offset = random.normal(size=people), random.lognormal(0, 0.3, items), random.normal(size=items)
    right = random.random((people, items)) < 1 / (1 + np.exp(-(skill[:, None] * slope + offset)))

    def loss(params: Any, right: Any) -> Any:
        z = params["skill"][:, None] * params["slope"] + params["offset"]
        prior = jnp.sum(params["skill"] ** 2) / 2 + jnp.sum((params["slope"] - 1) ** 2) / 2
        return jnp.sum(jnp.logaddexp(0, z) - right * z) + prior + jnp.sum(params["offset"] ** 2) / 20

    start = {"skill": np.zeros(people), "slope": np.ones(items), "offset": np.zeros(items)}
    return Job(loss, right.astype(float), start)


def deconvolution(scale: float) -> Job:
    """Return a sharp signal seen blurred: squares, and smoothed l1."""
    random, size = np.random.default_rng(SEED), int(16_384 * scale)
    true = np.zeros(size)
    true[::100] = random.normal(size=true[::100].size)
    blur = np.fft.rfft(np.exp(-np.minimum(np.arange(size), size - np.arange(size)) / 4.0))
    seen = np.fft.irfft(np.fft.rfft(true) * blur, size) + 0.05 * random.normal(size=size)

    def loss(x: Any, data: Any) -> Any:
        (real, imag), seen = data
        off = jnp.fft.irfft(jnp.fft.rfft(x) * (real + 1j * imag), x.size) - seen
        return jnp.sum(off**2) / 2 + 0.02 * jnp.sum(jnp.sqrt(x**2 + 1e-4))

    return Job(loss, ((blur.real, blur.imag), seen), np.zeros(size))


def smoothing(scale: float) -> Job:
    """Return a path of place and speed, through observations some of which are wild."""
    random, steps = np.random.default_rng(SEED), int(20_000 * scale)
    seen = np.cumsum(0.1 * random.normal(size=steps)) + 0.2 * random.standard_t(2, size=steps)

    def loss(path: Any, seen: Any) -> Any:
        place, speed = path[:, 0], path[:, 1]
        wild = jnp.sum(jnp.sqrt(1 + ((place - seen) / 0.2) ** 2) - 1)
        moved = (place[1:] - place[:-1] - speed[:-1]) / 0.1
        return wild + jnp.sum(moved**2) / 2 + jnp.sum(((speed[1:] - speed[:-1]) / 0.05) ** 2) / 2

    return Job(loss, seen, np.zeros((steps, 2)))


def tensor(scale: float) -> Job:
    """Return a tensor as a sum of products of three vectors."""
    random, (side, rank) = np.random.default_rng(SEED), (int(60 * scale**0.34), 6)
    factors = [random.normal(size=(side, rank)) for _ in range(3)]
    seen = np.einsum("ir,jr,kr->ijk", *factors) + 0.1 * random.normal(size=(side,) * 3)
    start = [random.normal(size=(side, rank)) for _ in range(3)]

    def loss(factors: Any, seen: Any) -> Any:
        a, b, c = factors
        found = jnp.einsum("ir,jkr->ijk", a, b[:, None] * c)
        return jnp.mean((found - seen) ** 2)

    return Job(loss, seen, start)


def control(scale: float) -> Job:
    """Return forces to swing a pendulum up by, in as many steps."""
    steps = int(500 * scale)

    def loss(forces: Any, _: Any) -> Any:
        def step(state: Any, force: Any) -> Any:
            angle, speed = state
            speed = speed + 0.02 * (-jnp.sin(angle) - 0.1 * speed + force)
            return (angle + 0.02 * speed, speed), None

        (angle, speed), _ = jax.lax.scan(step, (forces[0] * 0, forces[0] * 0), forces)
        return (angle - jnp.pi) ** 2 + speed**2 + 1e-3 * jnp.sum(forces**2)

    return Job(loss, np.zeros(1), np.zeros(steps))


def quadratic(scale: float) -> Job:
    """Return a quadratic of condition 10^4."""
    curvatures = np.geomspace(1, 1e4, int(100_000 * scale))
    return Job(lambda x, curvatures: jnp.sum(curvatures * (x - 1) ** 2) / 2, curvatures, np.zeros_like(curvatures))


def process(scale: float) -> Job:
    """Return a Gaussian process: seven parameters, and a factorization an evaluation."""
    random, rows = np.random.default_rng(SEED), int(300 * scale**0.34)
    X = random.uniform(-2, 2, (rows, 5))
    y = np.sin(X[:, 0]) + 0.3 * X[:, 1] ** 2 + 0.3 * X[:, 2] * X[:, 3] + 0.2 * X[:, 4]
    y = y + 0.1 * random.normal(size=rows)

    def loss(logs: Any, data: Any) -> Any:
        X, y = data
        far = jnp.sum(((X[:, None] - X) / jnp.exp(logs[:5])) ** 2, axis=2)
        kernel = jnp.exp(logs[5] - far / 2) + (jnp.exp(logs[6]) + 1e-4) * jnp.eye(y.size)
        root = jnp.linalg.cholesky(kernel)
        white = jax.scipy.linalg.solve_triangular(root, y, lower=True)
        return (white @ white / 2 + jnp.sum(jnp.log(jnp.diagonal(root)))) / y.size

    return Job(loss, (X, y), np.zeros(7))


def mixture(scale: float) -> Job:
    """Return a mixture of seven normal distributions: twenty parameters."""
    random, parts = np.random.default_rng(SEED), 7
    part = random.integers(parts, size=int(20_000 * scale))
    y = random.uniform(-10, 10, parts)[part] + random.uniform(0.5, 1.5, parts)[part] * random.normal(size=part.size)

    def loss(params: Any, y: Any) -> Any:
        shares = jax.nn.log_softmax(jnp.append(params["shares"], 0))
        off = (y[:, None] - params["places"]) / jnp.exp(params["widths"])
        return -jnp.mean(jax.nn.logsumexp(shares - params["widths"] - off**2 / 2, axis=1))

    places = np.quantile(y, np.linspace(0.1, 0.9, parts))
    return Job(loss, y, {"places": places, "widths": np.zeros(parts), "shares": np.zeros(parts - 1)})


JOBS: dict[str, Callable[[float], Job]] = {
    job.__name__: job
    for job in (
        denoising,
        rosenbrock,
        factorization,
        network,
        responses,
        deconvolution,
        smoothing,
        tensor,
        control,
        quadratic,
        process,
        mixture,
    )
}


class Way(NamedTuple):
    """How a solve went: the lowest loss after so many evaluations, and its end."""

    evals: list[int]
    losses: list[float]
    params: np.ndarray
    seconds: float
    said: str

    def reached(self, target: float) -> int | None:
        """Return the evaluations after which the loss was at the target first."""
        return next((evals for evals, loss in zip(self.evals, self.losses, strict=True) if loss <= target), None)


class Recorder:
    """A watcher that looks in after every evaluation."""

    ticks = 1

    def __init__(self, most: int) -> None:
        """End after so many evaluations."""
        self.most, self.evals, self.losses = most, [], []

    def __call__(self, seen: Any) -> bool:
        """Note the lowest loss."""
        spent = seen.evals + 2 * int(Counts.of(np.asarray(seen.run.counts)).products)
        self.evals.append(spent)
        self.losses.append(float(seen.run.best.scalars[0]))
        return spent >= self.most


def ours(job: Job, method: str, most: int) -> Way:
    """Solve by a method of this library."""
    recorder = Recorder(most)
    began = time.perf_counter()
    data, start = jax.tree.map(jnp.asarray, (job.data, job.start))  # float32, as for the peers
    found = jaxgd.minimize(job.loss, data, start, method=method, watch=recorder)
    spent: Any = found.seconds
    seconds = time.perf_counter() - began - spent.trace - spent.compile
    return Way(recorder.evals, recorder.losses, np.asarray(ravel_pytree(found.params)[0]), seconds, found.status.name)


def peers(job: Job, most: int) -> dict[str, Callable[[], Way]]:
    """Return the solves of the peers that are installed."""
    start, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), job.start))
    data = jax.tree.map(jnp.asarray, job.data)
    both = jax.jit(jax.value_and_grad(lambda x: job.loss(unravel(x), data)))
    jax.block_until_ready(both(start))

    def recorded(solve: Callable[[list[float]], tuple[Any, str]]) -> Way:
        losses: list[float] = []
        began = time.perf_counter()
        params, said = solve(losses)
        params, seconds = np.asarray(params), time.perf_counter() - began
        jax.effects_barrier()
        lowest = np.fmin.accumulate(losses).tolist()
        return Way(list(range(1, len(lowest) + 1)), lowest, params, seconds, said)

    def by_scipy(losses: list[float]) -> tuple[Any, str]:
        from scipy.optimize import minimize

        def evaluate(x: Any) -> tuple[float, np.ndarray]:
            value, grad = both(jnp.asarray(x, jnp.float32))
            losses.append(float(value))
            return losses[-1], np.asarray(grad, float)

        options = {"maxfun": most, "maxiter": most, "maxcor": MEMORY, "ftol": 1e-15, "gtol": 1e-12}
        found = minimize(evaluate, np.asarray(start, float), jac=True, method="L-BFGS-B", options=options)
        return found.x, str(found.message)[:24]

    def by_jaxopt(losses: list[float]) -> tuple[Any, str]:
        import jaxopt

        def evaluate(x: Any) -> tuple[Any, Any]:
            value, grad = both(x)
            jax.debug.callback(lambda value: losses.append(float(value)), value)
            return value, grad

        solver = jaxopt.LBFGS(evaluate, value_and_grad=True, maxiter=most // 2, tol=0, history_size=MEMORY)
        return solver.run(start).params, "with compiling"

    return {"SciPy L-BFGS-B": lambda: recorded(by_scipy), "jaxopt LBFGS": lambda: recorded(by_jaxopt)}


def rows(name: str, job: Job, most: int) -> list[list[object]]:
    """Return a line for each solver."""
    solves: dict[str, Callable[[], Way]] = {
        f"jaxgd {method}": lambda method=method: ours(job, method, most) for method in ("auto", "newton-cg")
    } | peers(job, most)
    ways: dict[str, Way | None] = {}
    for solver, solve in solves.items():
        try:
            ways[solver] = solve()
        except ImportError:
            ways[solver] = None
        print(f"{name}: {solver}", file=sys.stderr, flush=True)
    with jax.enable_x64(True):
        start, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), job.start))
        exact = jax.jit(lambda x: job.loss(unravel(x), job.data))
        first = float(exact(start))
        ends = {solver: float(exact(jnp.asarray(way.params, float))) for solver, way in ways.items() if way}
    lowest = min(ends.values())
    found = []
    for solver, way in ways.items():
        if way is None:
            found.append([solver])
            continue
        counts = [way.reached(lowest + tau * (first - lowest)) for tau in TAUS]
        gap = (ends[solver] - lowest) / (first - lowest)
        reached = ["-" if count is None else count for count in counts]
        found.append([name, start.size, solver, *reached, f"{gap:.0e}", way.evals[-1], f"{way.seconds:.1f}", way.said])
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(JOBS))
    parser.add_argument("--scale", type=float, default=1.0, help="how much larger than they are")
    parser.add_argument("--most", type=int, default=400, help="evaluations, at most")
    asked = parser.parse_args(args)
    warnings.simplefilter("ignore")
    print(header("benchmarks.large " + " ".join(sys.argv[1:] if args is None else args)), flush=True)
    found = [line for name in asked.only for line in rows(name, JOBS[name](asked.scale), asked.most)]
    columns = ["job", "params", "solver", *(f"evaluations to {tau:.0e}" for tau in TAUS)]
    table(
        "Evaluations until so much of the decrease is left",
        [*columns, "left at the end", "evaluations", "seconds", "said"],
        found,
    )


if __name__ == "__main__":
    main()
