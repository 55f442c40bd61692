"""Many problems at once, the peers under `jit(vmap(...))` beside: python -m benchmarks.lanes [--only fits,sets,...]."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header, interleaved, table

PARTS = ("fits", "sets", "useful", "hard", "bad", "scale", "cores", "processes")
RIDGE = 1e-3


def logistic(w, data):
    X, y = data
    z = X @ w
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z) + RIDGE / 2 * jnp.sum(w * w)


def decay(params, data):
    t, y = data
    return jnp.mean((y - params[0] * jnp.exp(-jnp.exp(params[1]) * t) - params[2]) ** 2)


def rosenbrock(x, _):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def logistic_data(lanes, rows, size, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((lanes, rows, size), dtype=np.float32)
    X *= np.exp(rng.uniform(-1.5, 1.5, (lanes, 1, size))).astype(np.float32)
    w = rng.standard_normal((lanes, size)) * rng.exponential(1, (lanes, 1))
    odds = np.clip(np.einsum("bnp,bp->bn", X, w), -50, 50)
    return X, (rng.uniform(size=(lanes, rows)) < 1 / (1 + np.exp(-odds))).astype(np.float32)


def decay_data(lanes, rows=50, seed=1):
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 5, rows, dtype=np.float32)
    height, rate = rng.uniform(1, 3, (lanes, 1)), np.exp(rng.uniform(-1, 1, (lanes, 1)))
    y = height * np.exp(-rate * t) + rng.uniform(-1, 1, (lanes, 1)) + 0.05 * rng.standard_normal((lanes, rows))
    return np.tile(t, (lanes, 1)), y.astype(np.float32)


def problem_set(name, lanes):
    """Return loss, data and starts of a set of problems."""
    if name == "logistic":
        return logistic, logistic_data(lanes, 100, 10), np.zeros((lanes, 10), np.float32)
    if name == "decay":
        return decay, decay_data(lanes), np.tile(np.float32([1, 0, 0]), (lanes, 1))
    starts = np.random.default_rng(2).uniform(-2, 2, (lanes, 2)).astype(np.float32)
    return rosenbrock, np.zeros((lanes, 1), np.float32), starts


def peers(loss, data, init):
    """Return the peers that are installed, all lanes in one compiled call, with the tolerance that serves them best."""
    made = {}
    data, init = jax.tree.map(jnp.asarray, (data, init))
    try:
        import optimistix as optx

        for name, solver in (("LBFGS", optx.LBFGS(rtol=1e-4, atol=1e-4)), ("BFGS", optx.BFGS(rtol=1e-4, atol=1e-4))):

            def one(w, d, solver=solver):
                return optx.minimise(loss, solver, w, d, max_steps=500, throw=False).value

            batched = jax.jit(jax.vmap(one))
            made[f"optimistix {name} 1e-4"] = lambda batched=batched: batched(init, data)
    except ImportError:
        pass
    try:
        import jaxopt

        solver = jaxopt.LBFGS(loss, maxiter=500, tol=1e-4, linesearch="zoom")
        batched = jax.jit(jax.vmap(lambda w, d: solver.run(w, d).params))
        made["jaxopt LBFGS 1e-4"] = lambda: batched(init, data)
    except ImportError:
        pass
    return made


def many(loss, data, init=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        axes = None if init is None else (0, 0)
        return jaxgd.minimize_many(loss, data, init, in_axes=axes, **options)


def judge(loss, data, init):
    """Return a function of params that gives the lanes' distance to the lowest loss known, in float64, and that loss.

    It is relative to the decrease from the start.
    """
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), data)
        at = jax.jit(jax.vmap(loss))
        # On the host at once: outside this context JAX would make them float32.
        best = np.asarray(at(many(loss, data, init, dtype="float64").params, exact))
        first = np.asarray(at(np.asarray(init, np.float64), exact))

    def distance(params):
        with jax.enable_x64(True):
            found = np.asarray(at(np.asarray(params, np.float64), exact))
        return (found - best) / np.maximum(first - best, 1e-300)

    return distance


def fits(lanes=5000):
    """5,000 logistic regressions, 200 x 10."""
    data, init = logistic_data(lanes, 200, 10), np.zeros((lanes, 10), np.float32)
    passes = jax.jit(jax.vmap(jax.value_and_grad(logistic)))
    on_device = jax.tree.map(jnp.asarray, (init, data))
    own = {
        "pass of value and gradient": lambda: passes(*on_device),
        "minimize_many": lambda: many(logistic, data).params,
        "minimize_many, tol=1e-5": lambda: many(logistic, data, tol=1e-5).params,
    }
    others = {name: call for name, call in peers(logistic, data, init).items() if "jaxopt" not in name}
    spent = interleaved(own | others, rounds=5, calls=1)
    distance, rows = judge(logistic, data, init), []
    one, ours = spent["pass of value and gradient"], spent["minimize_many"]
    evals = many(logistic, data).evals
    for name, call in (own | others).items():
        far = ("", "") if "pass" in name else [f"{f(distance(call())):.1e}" for f in (np.max, _high)]
        rows.append(
            [name, f"{1e3 * spent[name]:.0f} ms", f"{spent[name] / one:.1f}", f"{spent[name] / ours:.1f}", *far]
        )
    title = f"{lanes} logistic regressions 200 x 10: {np.mean(evals):.2f} evaluations a lane, {np.max(evals)} at most"
    table(title, ["who", "time", "passes", "over ours", "worst", "99 %"], rows)


def _high(values):
    return np.quantile(values, 0.99)


def sets(lanes=2048):
    """2,048 lanes of three kinds, beside the peers."""
    rows = []
    for name in ("logistic", "decay", "rosenbrock"):
        loss, data, init = problem_set(name, lanes)
        own = {
            "minimize_many, tol=1e-3": lambda loss=loss, data=data, init=init: many(loss, data, init, tol=1e-3).params,
            "minimize_many": lambda loss=loss, data=data, init=init: many(loss, data, init).params,
        }
        calls = own | peers(loss, data, init)
        spent, distance = interleaved(calls, rounds=3, calls=1), judge(loss, data, init)
        for who, call in calls.items():
            far = distance(call())
            done = f"{np.mean(far <= 1e-3):.1%}"  # noqa: PLR2004 - what all are asked for
            rows.append([name, who, f"{1e3 * spent[who]:.0f} ms", done, f"{np.max(far):.1e}", f"{_high(far):.1e}"])
    table(f"{lanes} lanes", ["problems", "who", "time", "within 1e-3", "worst", "99 %"], rows)


def useful(width=128):
    """Print the useful work with 16 times more problems than slots."""
    from jaxgd.compile.devices import places
    from jaxgd.lanes import scheduler as pools

    widest, pools.WIDEST = pools.WIDEST, {"cpu": width, "other": width}
    rows = []
    for name in ("logistic", "decay", "rosenbrock"):
        workers = len(places(alone=False))
        loss, data, init = problem_set(name, 16 * width * workers)
        result = many(loss, data, init, tol=1e-3)
        rows.append([name, len(result), width * workers, f"{result.evals.sum() / result.slots:.0%}"])
    pools.WIDEST = widest
    table("Useful work", ["problems", "how many", "slots", "evaluations that were useful"], rows)


def hard(lanes=4096):
    """One hard lane among easy ones."""

    def valley(x, curvature):
        return curvature * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    starts = np.random.default_rng(0).uniform(0.5, 1.5, (lanes, 2)).astype(np.float32)
    easy = np.ones(lanes, np.float32)
    one = easy.copy()
    one[lanes // 2], starts[lanes // 2] = 1e4, (-1.5, 2)
    calls = {"all easy": lambda: many(valley, easy, starts), "one hard": lambda: many(valley, one, starts)}
    spent = interleaved(calls, rounds=15, calls=1)
    rows = [["minimize_many", *_pair(spent.values())]]
    with_one, without = (peers(valley, curvatures, starts) for curvatures in (one, easy))
    for name in with_one:
        spent = interleaved({"easy": without[name], "hard": with_one[name]}, rounds=5, calls=1)
        rows.append([name, *_pair(spent.values())])
    most = int(calls["one hard"]().evals[lanes // 2])
    table(f"One hard lane among {lanes}, of {most} evaluations", ["who", "without", "with", "ratio"], rows)


def _pair(spent):
    without, with_it = spent
    return f"{1e3 * without:.0f} ms", f"{1e3 * with_it:.0f} ms", f"{with_it / without:.2f}"


def bad(lanes=20_000):
    """Print what lanes that fail cost the others, and whether they change them."""
    data = logistic_data(lanes, 50, 5)
    X = np.concatenate([data[0], data[0][:1]])
    y = np.concatenate([data[1], data[1][:1]])
    kinds = np.zeros(lanes + 1, np.float32)

    def loss(w, d):
        X, y, kind = d
        wild = -jnp.sum(jnp.exp(jnp.abs(w) + 1) * (1 + jnp.sum(w)))
        bounces = 10 * jnp.sum((w - 1) ** 2)
        return jnp.select([kind == 0, kind == 1, kind == 2], [logistic(w, (X, y)), jnp.nan, wild], bounces)  # noqa: PLR2004

    plain, rows = (X[:-1], y[:-1], kinds[:-1]), []
    newton = {"tol": 1e-3}
    # Of a step size of 0.1 the last lane jumps to and fro across its minimum for ever.
    descent = {"method": jaxgd.GradientDescent(0.1), "stop": jaxgd.Stop(xtol=1e-3)}
    for kind, name, options in ((1, "NaN from the start", newton), (2, "diverges", newton), (3, "never ends", descent)):
        some = kinds.copy()
        some[-1] = kind
        calls = {
            "without": lambda options=options: many(loss, plain, **options),
            "with": lambda options=options, some=some: many(loss, (X, y, some), **options),
        }
        spent, base, result = interleaved(calls, rounds=5, calls=1), calls["without"](), calls["with"]()
        off = np.abs(result.params[:-1] - base.params)
        moved = int(np.sum(np.any(off > 0, axis=1)))
        same = f"{moved} differ, by {np.max(off):.0e} at most" if moved else "identical"
        last = result[lanes]
        rows.append([name, last.status.name, last.evals, *_pair(spent.values()), same])
    columns = ["lane", "status", "evaluations", "without", "with", "ratio", "the others"]
    table(f"One bad lane among {lanes}", columns, rows)


def scale():
    """Time and memory against the number of problems; the data of the largest is 240 MB."""
    rows = []
    X, y = logistic_data(1_000_000, 15, 3)
    for count in (1_000, 10_000, 100_000, 1_000_000):
        many(logistic, (X[:1000], y[:1000]), tol=1e-3)
        many(logistic, (X[:count], y[:count]), tol=1e-3)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        many(logistic, (X[:count], y[:count]), tol=1e-3)
        spent = time.perf_counter() - began
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows.append([count, f"{spent:.3f} s", f"{1e6 * spent / count:.2f} us", f"{grown:.0f} MB"])
    table("Logistic regressions 15 x 3", ["problems", "time", "each", "peak memory grew by"], rows)


def cores():
    """One core against two, each in a process of its own."""
    rows, spent = [], {}
    allowed = os.sched_getaffinity(0)
    for count in (1, 2):
        command = [sys.executable, "-m", "benchmarks.lanes", "--timed"]
        # Inherited by the process that is started.
        os.sched_setaffinity(0, sorted(allowed)[:count])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        os.sched_setaffinity(0, allowed)
        spent[count] = json.loads(done.stdout.splitlines()[-1])
    for name in spent[1]:
        one, two = spent[1][name], spent[2][name]
        rows.append([name, f"{1e3 * one:.0f} ms", f"{1e3 * two:.0f} ms", f"{one / two:.2f}"])
    table("One core and two", ["problems", "one", "two", "ratio"], rows)


def timed():
    """Print the times of three batches, for `cores`."""
    fits_data = logistic_data(5000, 200, 10)
    calls = {"5,000 logistic 200 x 10": lambda: many(logistic, fits_data, tol=1e-3)}
    for name in ("logistic", "decay", "rosenbrock"):
        loss, data, init = problem_set(name, 32_768)
        calls[f"32,768 {name}"] = lambda loss=loss, data=data, init=init: many(loss, data, init, tol=1e-3)
    print(json.dumps(interleaved(calls, rounds=3, calls=1)))


def processes():
    """Two processes of `jax.distributed` against one."""
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-m", "benchmarks.lanes", "--member"]
    members = [
        subprocess.Popen([*command, f"{port}:{count}:{rank}"], stdout=subprocess.PIPE, text=True)
        for count in (1, 2)
        for rank in range(count)
    ]
    said = [member.communicate(timeout=300)[0].splitlines()[-1] for member in members]
    rows = [[f"{said[0]}", *said[1:], "identical" if len(set(said)) == 1 else "DIFFER"]]
    table("Digests of the answers", ["one process", "first of two", "second of two", ""], rows)


def member(place):
    """Solve as one of several processes, and print a digest of the answers."""
    import hashlib

    port, count, rank = map(int, place.split(":"))
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, rank)
    result = many(logistic, logistic_data(20_000, 50, 5))
    print(hashlib.sha256(result.params.tobytes() + result.counts.tobytes()).hexdigest()[:16])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of " + ", ".join(PARTS))
    parser.add_argument("--timed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--member", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.timed or given.member:
        timed() if given.timed else member(given.member)
        return
    print(header("benchmarks.lanes"))
    for name in given.only.split(","):
        globals()[name]()


if __name__ == "__main__":
    main()
