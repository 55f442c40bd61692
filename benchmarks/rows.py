"""A loss that is a mean over rows, the peers beside: python -m benchmarks.rows [--only regressions,network,...].

Quality is judged in float64: the decrease left, relative to the decrease from the start, against a solution by L-BFGS-B
and Newton steps in float64. Each contender tries tolerances from loose to tight, and is timed at the loosest that
leaves 1e-6 at most, else at the one that leaves least; its first call is that of the first tolerance tried, compiling
included. Ours is timed also with nothing but loss and data. Ours and JAX's peers get arrays that are on the device,
SciPy, torch and scikit-learn NumPy's.
"""

import argparse
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks import rows_peers
from benchmarks.rows_peers import Answer, Problem
from benchmarks.timing import header, interleaved, table
from jaxgd.compile.build import Ask
from jaxgd.rows import build, full_batch

PARTS = ("regressions", "network", "passes", "scaling", "disk", "cores", "processes")
RIDGE = 1e-4
GOAL = 1e-6
TOLERANCES = tuple(10 ** (-half / 2) for half in range(4, 15))  # 1e-2 to 1e-7
OURS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
CHUNK = 65_536  # rows drawn and written together
WIDE = 256  # columns of the rows on disk
LIMIT = 1 << 30  # bytes that a process which reads from disk may have
FAMILIES = {
    "logistic": lambda z, y: jnp.logaddexp(0.0, z) - y * z,
    "poisson": lambda z, y: jnp.exp(z) - y * z,
    "huber": lambda z, y: jnp.where(jnp.abs(z - y) <= 1, (z - y) ** 2 / 2, jnp.abs(z - y) - 0.5),
    "squares": lambda z, y: (z - y) ** 2 / 2,
}


def regression(name):
    """Return the loss of a family: a mean over rows and a ridge penalty."""
    pointwise = FAMILIES[name]

    def loss(w, data):
        X, y = data
        return jnp.mean(pointwise(X @ w, y)) + RIDGE / 2 * jnp.sum(w * w)

    return loss


def regression_in_torch(name):
    import torch

    of_rows = {
        "logistic": lambda z, y: torch.nn.functional.softplus(z) - y * z,
        "poisson": lambda z, y: torch.exp(z) - y * z,
        "huber": lambda z, y: torch.nn.functional.huber_loss(z, y, reduction="none"),
        "squares": lambda z, y: (z - y) ** 2 / 2,
    }[name]

    def loss(params, data):
        (w,), (X, y) = params, data
        return of_rows(X @ w, y).mean() + RIDGE / 2 * (w * w).sum()

    return loss


def chunks(name, rows, columns, spread=None):
    """Yield X and y in float32, by chunks: badly scaled columns; `spread` is the deviation of the linear predictor."""
    rng = np.random.default_rng(0)
    scales = np.exp(rng.uniform(-1.5, 1.5, columns)).astype(np.float32)
    w = rng.standard_normal(columns).astype(np.float32)
    spread = 1.0 if name == "poisson" else spread  # the largest rates stay below 200
    if spread is not None:
        w *= spread / np.linalg.norm(w * scales)
    for low in range(0, rows, CHUNK):
        rng = np.random.default_rng([1, low])
        X = rng.standard_normal((min(CHUNK, rows - low), columns), dtype=np.float32)
        X *= scales
        yield X, _targets(name, rng, X @ w).astype(np.float32)


def _targets(name, rng, z):
    if name == "logistic":
        return rng.uniform(size=len(z)) < 1 / (1 + np.exp(-np.clip(z, -50, 50)))
    if name == "poisson":
        return rng.poisson(np.exp(z))
    noise = rng.standard_normal(len(z))
    outliers = 50 * rng.standard_normal(len(z)) * (rng.uniform(size=len(z)) < 0.05)  # noqa: PLR2004 - 5 % of them
    return z + noise + (outliers if name == "huber" else 0)


def drawn(name, rows, columns, spread=None):
    X, y = np.empty((rows, columns), np.float32), np.empty(rows, np.float32)
    for low, (some, of_them) in zip(itertools.count(0, CHUNK), chunks(name, rows, columns, spread), strict=False):
        X[low : low + CHUNK], y[low : low + CHUNK] = some, of_them
    return X, y


def ours(loss, data, init=None, **options):
    """Solve; `data` are arrays, or `Rows` already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        rows = data if isinstance(data, jaxgd.Rows) else jaxgd.Rows(data)
        return jaxgd.minimize(loss, rows, init, **options)


def evaluation(loss, data):
    """Return a call that evaluates loss and gradient once, as a solve does."""
    rows = jaxgd.Rows(jax.tree.map(jnp.asarray, data))
    program, given, _ = build.prepare_rows(Ask(loss, rows), rows, passes=True)
    over = full_batch.passes_over(program, given, rows, None, full_batch.sample_size(program, rows))
    return lambda: over(np.zeros(program.size, np.float32))


class Judge:
    """A loss in float64, and how far from its minimum params are."""

    def __init__(self, loss, data, init):
        """Take the start's loss; `best` is set once it is known."""
        with jax.enable_x64(True):
            self.data = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), data)
            self._at = jax.jit(loss)
        self.first, self.best = self(init), 0.0

    def __call__(self, params):
        """Return the loss."""
        with jax.enable_x64(True):
            return float(self._at(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), self.data))

    def left(self, params):
        """Return the decrease left, relative to all there is."""
        return (self(params) - self.best) / (self.first - self.best)


def solution(name, judge):
    """Return the params of the minimum in float64: by L-BFGS-B, then Newton steps until they promise 1e-13."""
    import scipy.optimize

    X, y = judge.data
    with jax.enable_x64(True):
        slope, bend = (jax.jit(jax.vmap(f)) for f in (jax.grad(FAMILIES[name]), jax.grad(jax.grad(FAMILIES[name]))))
        both = jax.jit(jax.value_and_grad(regression(name)))
        w = scipy.optimize.minimize(
            lambda w: jax.tree.map(np.asarray, both(w, (X, y))),
            np.zeros(X.shape[1]),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000},
        ).x
        for _ in range(50):
            z = X @ w
            gradient = X.T @ np.asarray(slope(z, y)) / len(y) + RIDGE * w
            hessian = X.T @ (np.asarray(bend(z, y))[:, None] * X) / len(y) + RIDGE * np.eye(len(w))
            step = np.linalg.solve(hessian, gradient)
            if gradient @ step <= 1e-13 * (judge.first - judge(w)):
                return w
            sizes = 0.5 ** np.arange(30)
            w -= step * next((size for size in sizes if judge(w - size * step) < judge(w)), 0)
    msg = f"The reference of {name} was not found."
    raise RuntimeError(msg)


class Setting(NamedTuple):
    """What a contender is timed at."""

    call: Any
    tol: float | None
    first: float
    left: float
    cost: Any


def setting(make, judge, tolerances):
    """Return the loosest tolerance that reaches the goal, else the one that leaves least."""
    best, first = None, None
    for tol in tolerances:
        began = time.perf_counter()
        call = make(tol)
        answer = jax.block_until_ready(call())
        first = time.perf_counter() - began if first is None else first
        left = judge.left(answer.params)
        if best is None or left < best.left:
            best = Setting(call, tol, first, left, answer.cost)
        if left <= GOAL:
            break
    return best


def _ours_at(problem, tol):
    def call():
        found = ours(problem.loss, problem.on_device, tol=tol)
        return Answer(found.params, found.evals)

    return call


def regressions(given):
    """Regressions on badly scaled columns."""
    cases = [("logistic", 200_000, 50), ("logistic", 65_536, 256)]
    cases += [(name, 200_000, 50) for name in ("poisson", "huber", "squares")]
    for name, rows, columns in [(name, 5000, 10) for name, *_ in cases[1:]] if given.quick else cases:
        _regression(name, rows, columns)


def _regression(name, rows, columns):
    problem = _problem(name, rows, columns)
    judge = Judge(problem.loss, problem.data, problem.init)
    judge.best = judge(solution(name, judge))
    one = jax.jit(jax.value_and_grad(problem.loss))
    calls = {"pass of value and gradient": lambda: one(problem.init, problem.on_device)}
    interleaved(calls, rounds=1, calls=1)
    at = functools.partial(_ours_at, problem)
    settings = {"jaxgd": setting(at, judge, [None]), "jaxgd, tol": setting(at, judge, OURS)}
    for who, maker in rows_peers.tuned(problem).items():
        try:
            settings[who] = setting(maker(problem), judge, TOLERANCES)
        except ImportError:
            settings[who] = None
    calls |= {who: found.call for who, found in settings.items() if found}
    spent = interleaved(calls, rounds=5, calls=1)
    least, base = spent.pop("pass of value and gradient"), spent["jaxgd, tol"]
    shown = [["one pass", "", "", f"{1e3 * least:.2f} ms", "1.0"]]
    for who, found in settings.items():
        if found is None:
            shown.append([who])
            continue
        tol, took = "default" if found.tol is None else f"{found.tol:.0e}", spent[who]
        times = [f"{found.first:.2f} s", f"{1e3 * took:.1f} ms", f"{took / least:.1f}", f"{took / base:.2f}"]
        shown.append([who, tol, *times, found.cost, f"{found.left:.1e}", "yes" if found.left <= GOAL else "no"])
    columns_ = ["who", "tol", "first call", "warm", "passes", "over ours", "evaluations", "decrease left", "1e-6"]
    table(f"{name}, {rows} x {columns}, float32", columns_, shown)


def _problem(name, rows, columns):
    data = drawn(name, rows, columns)
    try:
        in_torch = regression_in_torch(name)
    except ImportError:
        in_torch = None
    peers = rows_peers.estimators(name, rows, RIDGE)
    on_device = jax.tree.map(jnp.asarray, data)
    return Problem(regression(name), data, on_device, jnp.zeros(columns, jnp.float32), in_torch, peers)


def net(params, data):
    X, y = data
    return jnp.mean((jnp.tanh(X @ params["W1"] + params["b1"]) @ params["W2"] + params["b2"] - y) ** 2) / 2


def net_in_torch(params, data):
    (W1, W2, b1, b2), (X, y) = params, data  # the order of JAX's leaves
    return (((X @ W1 + b1).tanh() @ W2 + b2 - y) ** 2).mean() / 2


def _net_problem(rows, inputs=62, hidden=78):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, inputs), dtype=np.float32)
    teacher = np.tanh(X @ rng.standard_normal((inputs, 20)) / 4) @ rng.standard_normal(20) / 4
    y = (teacher + 0.1 * rng.standard_normal(rows)).astype(np.float32)
    init = {
        "W1": jnp.asarray(rng.standard_normal((inputs, hidden)) / np.sqrt(inputs), jnp.float32),
        "b1": jnp.zeros(hidden, jnp.float32),
        "W2": jnp.asarray(rng.standard_normal(hidden) / np.sqrt(hidden), jnp.float32),
        "b2": jnp.zeros((), jnp.float32),
    }
    return Problem(net, (X, y), jax.tree.map(jnp.asarray, (X, y)), init, net_in_torch, {})


def network(given, most=2000):
    """Time a network of 4,993 weights to the loss that SciPy's L-BFGS-B has after 300 iterations.

    Peers stop at the first value of their own at or below it; for ours the fewest evaluations that reach it are found
    first, to within a few per cent. The loss reached is judged in float64.
    """
    problem, most = _net_problem(1000 if given.quick else 50_000), 200 if given.quick else most
    judge = Judge(net, problem.data, problem.init)
    reference = rows_peers.chase_scipy(problem, 30 if given.quick else 300)(-np.inf)()
    target = judge(reference.params) * (1 + 1e-6)
    one = jax.jit(jax.value_and_grad(net))
    calls, ends, shown = {"one pass": lambda: one(problem.init, problem.on_device)}, {}, []
    for method in ("auto", "lbfgs"):
        calls[f"jaxgd {method}"] = _fewest(problem, judge, target, most, method)
    for who, maker in rows_peers.chasing().items():
        try:
            calls[who] = maker(problem, most)(target)
        except ImportError:
            shown.append([who])
    for who in [who for who in calls if who != "one pass"]:
        answer = jax.block_until_ready(calls[who]())
        ends[who] = judge(answer.params) / target, answer.cost
        if ends[who][0] > 1 + GOAL:
            del calls[who]
    rates = sorted((who for who in calls if "adam" in who), key=lambda who: int(ends[who][1]))
    for who in rates[1:]:
        del calls[who]
    spent = interleaved(calls, rounds=3, calls=1, warm=1 if given.quick else 0)
    base = spent.get("jaxgd auto", np.nan)
    for who, (over, cost) in ends.items():
        took = spent.get(who)
        missed = "not the best rate" if who in rates else "not reached"
        times = [missed, "", ""] if took is None else [f"{took:.2f} s", *_times(took, spent["one pass"], base)]
        shown.append([who, *times, cost, f"{over:.6f}"])
    columns = ["who", "warm", "passes", "over ours", "evaluations", "loss over target"]
    table(f"Network of 4,993 weights, {len(problem.data[1])} rows, to a loss of {target:.6f}", columns, shown)


def _times(took, least, base):
    return f"{took / least:.0f}", f"{took / base:.2f}"


def _fewest(problem, judge, target, most, method):
    """Return the call that makes the fewest evaluations that reach the target, or `most`."""

    def call(evals):
        stop = jaxgd.Stop(max_evals=evals)
        found = ours(problem.loss, problem.on_device, problem.init, stop=stop, method=method)
        return Answer(found.params, found.evals)

    def reaches(evals):
        return judge(call(evals).params) <= target

    high = 16
    while high < most and not reaches(high):
        high *= 2
    low = high // 2
    while high < most and high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return lambda: call(min(high, most))


def passes(given):
    """One evaluation against reading the data once."""
    rows, columns = (4096, 64) if given.quick else (65_536, 256)
    X, y = drawn("logistic", rows, columns)
    total, on_device = jax.jit(jnp.sum), jnp.asarray(X)
    pool = ThreadPoolExecutor(2)
    halves = X[: rows // 2].ravel(), X[rows // 2 :].ravel()
    reads = {
        "jnp.sum": lambda: total(on_device),
        "np.add.reduce": lambda: np.add.reduce(X.ravel()),
        "np.add.reduce, two threads": lambda: list(pool.map(np.add.reduce, halves)),
    }
    loss = regression("logistic")
    whole, data = jax.jit(jax.value_and_grad(loss)), (on_device, jnp.asarray(y))
    start = jnp.zeros(columns, jnp.float32)
    evaluations = {"whole value_and_grad": lambda: whole(start, data), "our evaluation": evaluation(loss, (X, y))}
    spent = interleaved(reads | evaluations, rounds=21, calls=3)
    fastest = min(spent[name] for name in reads)
    size, shown = X.nbytes / 1e9, []
    for name, took in spent.items():
        shown.append([name, f"{1e3 * took:.2f} ms", f"{size / took:.1f}", f"{took / fastest:.2f}"])
    table(f"Reading {rows} x {columns} float32 once", ["what", "time", "GB/s", "over the fastest read"], shown)


def scaling(given):
    """Time against rows, and against columns of about 100 MB."""
    columns = (10, 50, 200, 500, 1000, 2000)
    sizes = [(10**power, 20) for power in (4, 5, 6, 7)]
    sizes += [(max(25_000_000 // size, 20 * size), size) for size in columns]
    if given.quick:
        sizes = [(2000, 20), (20_000, 20), (10_000, 50), (2000, 100)]
    shown = []
    for rows, columns in sizes:
        data, loss, times = drawn("logistic", rows, columns, spread=3), regression("logistic"), []
        ours(loss, data)
        for _ in range(3):
            began = time.perf_counter()
            found = jax.block_until_ready(ours(loss, data))
            times.append(time.perf_counter() - began)
        took = min(times)
        a_row, a_number = 1e6 * took / rows, 1e9 * took / rows / columns
        shown.append([rows, columns, f"{data[0].nbytes / 1e6:.0f} MB", f"{took:.3f} s", f"{a_row:.3f} us"])
        shown[-1] += [f"{a_number:.2f} ns", found.evals, found.products, found.status.name]
        del data
    columns = ["rows", "columns", "data", "best of 3", "a row", "a number", "evaluations", "products", "status"]
    table("Logistic regressions, by size", columns, shown)


def written(folder, kind, rows):
    """Write rows of `WIDE` columns to a new folder, chunk after chunk; read the files once; return what to open."""
    folder.mkdir()
    files = [folder / "X.npy", folder / "y.npy"] if kind == "npy" else [folder / "rows.parquet"]
    (_write_npy if kind == "npy" else _write_parquet)(files, rows)
    for _ in itertools.chain.from_iterable(_blocks(file) for file in files):
        pass
    return [str(file) for file in files]


def _write_npy(files, rows):
    with files[0].open("wb") as of_x, files[1].open("wb") as of_y:
        for file, shape in ((of_x, (rows, WIDE)), (of_y, (rows,))):
            about = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
        for X, y in chunks("logistic", rows, WIDE, spread=3):
            X.tofile(of_x)
            y.tofile(of_y)


def _write_parquet(files, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("X", pa.list_(pa.float32(), WIDE)), ("y", pa.float32())])
    with pq.ParquetWriter(files[0], schema, compression="none", use_dictionary=False) as writer:
        for X, y in chunks("logistic", rows, WIDE, spread=3):
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), WIDE), pa.array(y)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=CHUNK)  # 64 MB


def _blocks(file):
    """Yield the numbers of a file, 64 MB at a time."""
    with file.open("rb") as opened:
        while len(block := np.fromfile(opened, np.uint8, 1 << 26)):
            yield block


def opened(files):
    """Return rows on disk: of a pair of `.npy` files or folders, or of Parquet files."""
    if len(files) > 1:
        return jaxgd.Rows.open(tuple(files))
    return jaxgd.Rows.open(files[0], columns=("X", "y"))


def disk(given):
    """More rows than memory holds, read anew for every evaluation by a process that may have 1 GB.

    The limit is RLIMIT_DATA, what a process allocates; the peak is of all that is resident, JAX's own code and pages of
    mapped files included.
    """
    gigabytes, of_memory = (0.05, 0.02) if given.quick else (given.gigabytes, given.memory_gigabytes)
    shown, found = [], {}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for kind in ("npy", "parquet"):
            files = written(Path(name) / kind, kind, _rows_of(gigabytes))
            size, took = _read(kind, files)
            solved = _child(files, LIMIT, Path(name))
            shown.append([f"{kind}, 1 GB allowed", *_of_disk(solved, size)])
            reader = "np.fromfile" if kind == "npy" else "pyarrow's dataset"
            shown.append(
                [f"{reader} alone, once", f"{size / 1e9:.2f} GB", f"{took:.2f} s", "", "", f"{size / took / 1e9:.2f}"]
            )
            for file in files:
                Path(file).unlink()
        files = written(Path(name) / "small", "npy", _rows_of(min(gigabytes, of_memory)))
        for where, limit in (("npy, 1 GB allowed", LIMIT), ("the same in memory", 0)):
            found[where] = _child(files, limit, Path(name))
            shown.append([where, *_of_disk(found[where], sum(Path(file).stat().st_size for file in files))])
    read, held = (solved["params"] for solved in found.values())
    columns = ["what", "size", "seconds", "compiling", "evaluations", "GB/s", "GB/s running", "peak", "before", "loss"]
    table("Logistic regression of rows on disk, 256 columns", [*columns, "status"], shown)
    off = np.max(np.abs(read - held)) / np.max(np.abs(held))
    print(f"\nThe largest difference of a parameter, from disk and in memory: {off:.1e} of the largest parameter.")


def _rows_of(gigabytes):
    return int(gigabytes * 1e9 / 4 / (WIDE + 1))


def _read(kind, files):
    """Return the bytes of the files and the seconds that reading them once takes, pyarrow's or NumPy's best of 2."""
    size, times = sum(Path(file).stat().st_size for file in files), []
    for _ in range(2):
        began = time.perf_counter()
        if kind == "npy":
            count = sum(len(block) for file in files for block in _blocks(Path(file)))
        else:
            import pyarrow.dataset

            batches = pyarrow.dataset.dataset(files).to_batches(columns=["X", "y"])
            count = sum(batch.num_rows for batch in batches)
        times.append(time.perf_counter() - began)
    return (size, min(times)) if count else None


def _of_disk(solved, size):
    whole, running = (size * solved["evals"] / solved[name] / 1e9 for name in ("seconds", "run"))
    times = [f"{solved['seconds']:.2f} s", f"{solved['compile']:.2f} s", solved["evals"]]
    peaks = [f"{solved[name]:.0f} MB" for name in ("peak", "before")]
    return [
        f"{size / 1e9:.2f} GB",
        *times,
        f"{whole:.2f}",
        f"{running:.2f}",
        *peaks,
        f"{solved['loss']:.7f}",
        solved["status"],
    ]


def _child(files, limit, folder):
    """Solve in a process of its own, from disk if it has a limit, else in memory."""
    task = {"files": files, "memory": not limit, "out": str(folder / "params.npy")}
    command = [sys.executable, "-m", "benchmarks.rows", "--child", json.dumps(task)]
    if limit:
        command = ["sh", "-c", f'ulimit -d {limit >> 10}; exec "$@"', "sh", *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) | {"params": np.load(task["out"])}


def child(task):
    """Solve the rows of files and print how it went."""
    if "cores" in task:
        print(json.dumps(_timed(quick=task["quick"])))
        return
    before, began = _resident("VmHWM"), time.perf_counter()
    data = tuple(map(np.load, task["files"])) if task["memory"] else opened(task["files"])
    found = ours(regression("logistic"), data, jnp.zeros(WIDE, jnp.float32))
    took = time.perf_counter() - began
    np.save(task["out"], np.asarray(found.params))
    said = {"seconds": took, "compile": found.seconds.compile, "run": found.seconds.run, "evals": found.evals}
    said |= {"peak": _resident("VmHWM"), "before": before, "loss": float(found.loss), "status": found.status.name}
    print(json.dumps(said))


def _resident(name):
    """Return megabytes; Linux keeps them per program, while `ru_maxrss` starts at what the parent had."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) / 1024


def _timed(*, quick):
    calls, loss = {}, regression("logistic")
    for rows, columns in ((2000, 20), (4000, 50)) if quick else ((65_536, 256), (1_000_000, 20)):
        data = drawn("logistic", rows, columns, spread=None if columns == WIDE else 3)
        calls[f"{rows} x {columns}"] = lambda data=data: ours(loss, data).params
    return interleaved(calls, rounds=5, calls=1)


def cores(given):
    """One core against all, each in a process of its own."""
    spent, allowed = [], os.sched_getaffinity(0)
    task = json.dumps({"cores": True, "quick": given.quick})
    for count in (1, len(allowed)):
        # Inherited by the process that is started.
        os.sched_setaffinity(0, sorted(allowed)[:count])
        command = [sys.executable, "-m", "benchmarks.rows", "--child", task]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        os.sched_setaffinity(0, allowed)
        spent.append(json.loads(done.stdout.splitlines()[-1]))
    shown = []
    for name, one in spent[0].items():
        shown.append([name, f"{1e3 * one:.0f} ms", f"{1e3 * spent[1][name]:.0f} ms", f"{one / spent[1][name]:.2f}"])
    table("Logistic regressions, by cores", ["problem", "one core", f"all {len(allowed)}", "ratio"], shown)


def processes(given):
    """Several processes of `jax.distributed`, of which each takes its share of the rows, against one."""
    rows, shown = 50_000 if given.quick else 400_000, []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        places = _parted(Path(name), rows)
        for kind, files in places.items():
            base = None
            for count in (1, 2, 4):
                answers = _members(files, count, rows)
                base = answers[0] if base is None else base
                digests = {tuple(answer["params"]) for answer in answers}
                params, whole = (np.array(answer["params"]) for answer in (answers[0], base))
                off = np.max(np.abs(params - whole)) / np.max(np.abs(whole))
                took = statistics.median(answer["seconds"] for answer in answers)
                same = "identical" if len(digests) == 1 else "DIFFER"
                evals = ", ".join(str(evals) for evals in sorted({answer["evals"] for answer in answers}))
                shown.append([kind, count, f"{took:.2f} s", evals, same, f"{off:.1e}"])
    columns = ["rows from", "processes", "second call", "evaluations", "their answers", "off one process, relative"]
    table(f"Logistic regression {rows} x 20, by processes", columns, shown)


def _parted(folder, rows, parts=4):
    """Write the rows as folders of several files; return what to open by kind, nothing for arrays."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    X, y = drawn("logistic", rows, 20, spread=3)
    of_x, of_y, of_both = (folder / name for name in ("X", "y", "parquet"))
    for place in (of_x, of_y, of_both):
        place.mkdir()
    for i, some in enumerate(np.array_split(np.arange(rows), parts)):
        np.save(of_x / f"{i}.npy", X[some])
        np.save(of_y / f"{i}.npy", y[some])
        matrix = pa.FixedSizeListArray.from_arrays(pa.array(X[some].ravel()), 20)
        pq.write_table(pa.table({"X": matrix, "y": y[some]}), of_both / f"{i}.parquet")
    return {"arrays": [], "npy": [str(of_x), str(of_y)], "Parquet": [str(of_both)]}


def _members(files, count, rows):
    port = 20_000 + (os.getpid() + 7 * count + 100 * len(files)) % 20_000
    tasks = [{"files": files, "port": port, "count": count, "rank": rank, "rows": rows} for rank in range(count)]
    command = [sys.executable, "-m", "benchmarks.rows", "--member"]
    members = [subprocess.Popen([*command, json.dumps(task)], stdout=subprocess.PIPE, text=True) for task in tasks]
    try:
        return [json.loads(member.communicate(timeout=300)[0].splitlines()[-1]) for member in members]
    finally:
        for one in members:
            one.kill()


def member(task):
    """Solve as one of several processes, and print the answer."""
    if task["count"] > 1:
        jax.distributed.initialize(f"localhost:{task['port']}", task["count"], task["rank"])
    # Arrays are the same for all, files the same paths: each takes its share.
    data = opened(task["files"]) if task["files"] else drawn("logistic", task["rows"], 20, spread=3)
    init, loss = jnp.zeros(20, jnp.float32), regression("logistic")
    ours(loss, data, init)
    began = time.perf_counter()
    found = ours(loss, data, init)
    took = time.perf_counter() - began
    print(json.dumps({"params": np.asarray(found.params).tolist(), "seconds": took, "evals": found.evals}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of " + ", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="sizes that test the benchmark, and measure nothing")
    parser.add_argument("--gigabytes", type=float, default=8, help="rows on disk")
    parser.add_argument("--memory-gigabytes", type=float, default=4, help="rows solved also in memory")
    parser.add_argument("--folder", help="where the files lie while it runs; absent: the system's temporary folder")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--member", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child or given.member:
        child(json.loads(given.child)) if given.child else member(json.loads(given.member))
        return
    print(header("benchmarks.rows " + " ".join(sys.argv[1:])))
    for name in given.only.split(","):
        globals()[name](given)


if __name__ == "__main__":
    main()
