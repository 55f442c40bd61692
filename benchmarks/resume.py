"""Kill solves at random moments and resume them; and what watching costs.

python -m benchmarks.resume [--only kills,cost] [--kills 20] [--seconds 10] [--repeats 5] [--every 60]

`kills`: a child process solves with a checkpoint saved as often as it may be, and is killed (SIGKILL) at a random
moment; another one resumes from what it left, or begins where it left nothing yet. The answer must be that of a child
that was left alone, bit for bit, and the file must be whole whenever it is there. `cost`: a solve with every watcher on
beside one with none, one after the other, several times.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header
from jaxgd import Stop, watch
from jaxgd.solvers.gradient_descent import GradientDescent
from jaxgd.watch.watchers import checkpoint


def logistic(w, data):
    features, labels = data
    score = features @ w
    return jnp.mean(jnp.logaddexp(0, score) - labels * score) + 1e-3 * jnp.sum(w**2)


def fit(rows, params, lanes=None, seed=0):
    draw = np.random.default_rng(seed)
    shape = (rows,) if lanes is None else (lanes, rows)
    features = draw.normal(size=(*shape, params)).astype(np.float32)
    return features, (draw.uniform(size=shape) < 1 / (1 + np.exp(-features[..., 0]))).astype(np.float32)


def single(evals=30_000, **options):
    method, stop = GradientDescent(1e-3, momentum=0.9), Stop(xtol=1e-30, max_evals=evals)
    return jaxgd.minimize(logistic, fit(2000, 20), method=method, stop=stop, **options)


def steady(evals=100, **options):
    """Descend by steps that never arrive, so that a solve lasts as long as it is asked to."""
    stop = Stop(xtol=1e-30, max_evals=evals)
    return jaxgd.minimize(logistic, fit(100_000, 50), method=GradientDescent(1e-3), stop=stop, **options)


def quasi_newton(evals=12_000, **options):
    def valley(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    stop = Stop(gtol=1e-30, max_evals=evals)
    return jaxgd.minimize(valley, init=np.full(3000, -1.2, np.float32), method="lbfgs", stop=stop, **options)


def lanes(count=3000, **options):
    return jaxgd.minimize_many(logistic, fit(50, 7, count), method="lbfgs", **options)


def rows(evals=100, folder=None, **options):
    method, stop = GradientDescent(0.1), Stop(xtol=1e-30, max_evals=evals)
    source = jaxgd.Rows.open((f"{folder}/features.npy", f"{folder}/labels.npy"))
    return jaxgd.minimize(logistic, source, jnp.zeros(20), method=method, stop=stop, **options)


KINDS = {"single": single, "quasi-newton": quasi_newton, "lanes": lanes, "rows": rows}
LASTING = {"steady": steady, "lanes": lanes, "rows": rows}


def child(kind, folder, path, out):
    """Solve with a checkpoint, from the one that is there, and leave the answer."""
    warnings.simplefilter("ignore")
    path = Path(path)
    options = {"watch": watch.Checkpoint(path, every=0), "resume": path if path.exists() else None}
    options |= {"folder": folder} if kind == "rows" else {}
    print("solving", flush=True)
    result = KINDS[kind](**options)
    np.savez(out, params=result.params, loss=result.loss, counts=result.counts)


def started(kind, folder, path, out):
    args = [sys.executable, "-m", "benchmarks.resume", "--child", kind, str(folder), str(path), str(out)]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    return process, time.perf_counter()


def kills(count, folder):
    for name, leaf in zip(("features", "labels"), fit(400_000, 20), strict=True):
        np.save(folder / f"{name}.npy", leaf)
    draw = np.random.default_rng(0)
    for kind in KINDS:
        process, began = started(kind, folder, folder / f"{kind}.whole", folder / f"{kind}.npz")
        process.wait()
        length, same, on_the_way = time.perf_counter() - began, 0, 0
        with np.load(folder / f"{kind}.npz") as file:
            whole = dict(file)
        for i in range(count):
            path, out = folder / f"{kind}.{i}", folder / f"{kind}.{i}.npz"
            process, _ = started(kind, folder, path, out)
            time.sleep(draw.uniform(0, length))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            if path.exists():
                on_the_way += 1
                checkpoint.read(path)  # it is whole
            process, _ = started(kind, folder, path, out)
            process.wait()
            with np.load(out) as file:
                same += all(np.array_equal(file[name], whole[name]) for name in whole)
        print(
            f"{kind}: killed {count} times within {length:.1f} s, {on_the_way} times with a checkpoint there,"
            f" the same bit for bit {same} times",
            flush=True,
        )


def timed(call, **options):
    began = time.perf_counter()
    call(**options)
    return time.perf_counter() - began


def watchers(folder, every):
    return [
        watch.Progress(),
        watch.Checkpoint(folder / "cost", every=every),
        watch.TimeLimit(1e6),
        watch.Callback(lambda _: None),
    ]


def cost(seconds, folder, repeats, every):
    """Compare solves of some seconds, without and with all watchers."""
    for name, leaf in zip(("features", "labels"), fit(400_000, 20), strict=True):
        np.save(folder / f"{name}.npy", leaf)
    null = Path(os.devnull).open("w")  # noqa: SIM115 - open until the end
    for kind, small in (("steady", 100), ("lanes", 3000), ("rows", 100)):
        name = "count" if kind == "lanes" else "evals"
        options = {"folder": folder} if kind == "rows" else {}
        timed(LASTING[kind], **{name: small}, **options)
        count = int(small * seconds / timed(LASTING[kind], **{name: small}, **options))
        bare, watched = [], []
        for _ in range(repeats + 1):
            bare.append(timed(LASTING[kind], **{name: count}, **options))
            stderr, sys.stderr = sys.stderr, null
            try:
                watched.append(timed(LASTING[kind], **{name: count}, watch=watchers(folder, every), **options))
            finally:
                sys.stderr = stderr
        # The first of each has compiled.
        bare, watched = bare[1:], watched[1:]
        ratios = [b / a for a, b in zip(bare, watched, strict=True)]
        print(
            f"{kind}: {statistics.median(bare):.2f} s bare, {statistics.median(watched):.2f} s watched:"
            f" median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="kills,cost")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--every", type=float, default=60, help="seconds between two savings")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(*asked.child)
        return
    warnings.simplefilter("ignore")
    print(header("benchmarks.resume"))
    with tempfile.TemporaryDirectory() as folder:
        if "kills" in asked.only:
            kills(asked.kills, Path(folder))
        if "cost" in asked.only:
            cost(asked.seconds, Path(folder), asked.repeats, asked.every)


if __name__ == "__main__":
    main()
