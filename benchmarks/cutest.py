"""CUTEst problems: how low each method gets, how truly it says so, and what that costs, the peers beside it.

A point is judged in float64, whatever was claimed of it. It solves its problem at tau if
`f(x) <= f_best + tau * (f(start) - f_best)`, with `f_best` the lowest loss that any solver found (Moré and Wild, 2009).
Many problems have several minima; so SciPy polishes the point, and what that gains, relative to the decrease made,
says how far the method was from the minimum it went to: it descended at tau if the gain is below tau. A success that
was claimed is false where the gain is above 1e-3; one is missed where it is below 1e-6 and nothing was claimed.
"""

import argparse
import json
import math
import os
import queue
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import header, table

PROBLEMS = Path(__file__).parent / "data" / "cutest.json"
SETS = {"u": "Unconstrained", "b": "Bounded"}
TAUS = (1e-3, 1e-6, 1e-9)
FALSE, MISSED = 1e-3, 1e-6  # gains of a polish
LIMIT = 120  # seconds for a solve, and for a judgement
START = 120  # seconds for a worker to start

Task = tuple[str, str]  # the set and the name of a problem


@dataclass(frozen=True)
class Record:
    """What a solver made of a problem."""

    kind: str
    name: str
    dtype: str
    solver: str
    f0: float
    f_best: float
    n: int
    f: float = math.inf  # at the point returned, in float64
    lowest: float = math.nan  # loss after the polish
    violation: float = 0.0  # how far the point is outside the bounds
    claimed: bool = False
    status: str = ""
    evals: int = 0
    products: int = 0
    moves: int = 0
    compile: float = math.nan
    run: float = math.nan
    error: str = ""

    def solved(self, tau: float) -> bool:
        """Whether the loss is as low as tau asks, at a point inside the bounds."""
        return self.violation == 0 and self.f <= self.f_best + tau * (self.f0 - self.f_best)

    @property
    def gain(self) -> float:
        """What the polish gained, relative to the decrease made; inf where there is no point to polish."""
        gained, made = self.f - self.lowest, self.f0 - self.lowest
        if not math.isfinite(gained):
            return math.inf
        return gained / made if made > 0 else 0.0

    def descended(self, tau: float) -> bool:
        """Whether the polish gains less than tau."""
        return self.gain < tau

    @property
    def false_claim(self) -> bool:
        """Whether success was claimed far from a minimum."""
        return self.claimed and not self.gain <= FALSE

    @property
    def missed(self) -> bool:
        """Whether no success was claimed at a minimum."""
        return not self.claimed and self.gain < MISSED


class Worker:
    """A process that keeps to one float type; one that hangs or dies is replaced at the next request."""

    def __init__(self, dtype: str) -> None:
        """Start nothing yet."""
        self._dtype = dtype
        self._process: subprocess.Popen[str] | None = None

    def ask(self, call: str, **request: object) -> dict[str, Any]:
        """Return the answer, or the error that stands for it."""
        if self._process is None:
            self._process = self._started()
        process = self._process
        line = _line(process, json.dumps([call, request]), LIMIT)
        if not line:
            self.close()
            return {"error": f"time-out after {LIMIT} s" if process.returncode == -9 else "the worker died"}  # noqa: PLR2004
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        one_thread = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        types = {"JAX_ENABLE_X64": str(int(self._dtype == "float64")), "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cutest_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | one_thread | types,
        )
        if not _line(process, None, START):
            raise RuntimeError("A worker does not start; run `python -m benchmarks.cutest_worker` to see why.")
        return process


def _line(process: subprocess.Popen[str], request: str | None, limit: float) -> str:
    """Return the next line that a process writes, after sending it one; empty if it is killed at the limit or dies."""
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101
    timer = threading.Timer(limit, process.kill)
    timer.start()
    try:
        if request is not None:
            print(request, file=process.stdin, flush=True)
        return process.stdout.readline()
    except BrokenPipeError:
        return ""
    finally:
        timer.cancel()


class Workers:
    """A worker of each float type, for one job at a time."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.of = {dtype: Worker(dtype) for dtype in ("float32", "float64")}

    def record(self, task: Task, known: dict[str, Any], method: str, dtype: str, tol: float | None = None) -> Any:
        """Return the record of a solve, or a note where the method does not take such problems."""
        kind, name = task
        answer = self.of[dtype].ask("solve", kind=kind, name=name, method=method, tol=tol)
        if "skipped" in answer:
            return answer["skipped"]
        if "error" not in answer:
            answer |= self.of["float64"].ask("judge", kind=kind, name=name, x=answer.pop("x"), dtype=dtype)
        about = {key: known[key] for key in ("f0", "f_best", "n")}
        return Record(kind=kind, name=name, dtype=dtype, solver=f"jaxgd {method}", **about, **answer)


def over(tasks: Sequence[Task], jobs: int, work: Callable[[Workers, Task], list[Any]]) -> list[Any]:
    """Return what `work` returns for each problem, in their order, with as many at a time as there are jobs."""
    idle: queue.SimpleQueue[Workers] = queue.SimpleQueue()
    for _ in range(jobs):
        idle.put(Workers())

    def one(task: Task) -> list[Any]:
        workers = idle.get()
        try:
            return work(workers, task)
        finally:
            idle.put(workers)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            return [found for several in pool.map(one, tasks) for found in several]
    finally:
        while not idle.empty():
            for worker in idle.get().of.values():
                worker.close()


def peers(known: dict[str, Any], kind: str, dtype: str) -> list[Record]:
    """Return the records of the peers, as the file has them."""
    return [
        Record(
            kind=kind,
            name=name,
            dtype=dtype,
            solver=solver,
            **{key: about[key] for key in ("f0", "f_best", "n")},
            f=math.inf if found["f"] is None or math.isnan(found["f"]) else found["f"],
            claimed=bool(found["claimed"]),
            evals=found["evaluations"] or 0,
        )
        for name, about in known[kind].items()
        for solver, types in about["peers"].items()
        if (found := types.get(dtype))
    ]


def by_solver(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each solver."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.solver, []).append(record)
    return groups


def share(records: Sequence[Record], test: Callable[[Record], bool]) -> str:
    """Return the percentage of records that pass a test."""
    return f"{100 * statistics.mean(map(test, records)):.1f} %"


COLUMNS = (
    "solver",
    "problems",
    *(f"{word}{tau:.0e}".replace("e-0", "e-") for word in ("solved ", "descended ") for tau in TAUS),
    "evaluations, median",
    "claimed",
    "false claims",
    "missed",
    "products, median",
    "compile, median and sum, s",
    "run, median and sum, s",
)


def row(solver: str, records: Sequence[Record], *, ours: bool) -> list[str]:
    """Return a line of the main table; of the peers' points no more is known than the loss."""
    solved = [share(records, lambda record, tau=tau: record.solved(tau)) for tau in TAUS]
    descended = [share(records, lambda record, tau=tau: record.descended(tau)) if ours else "" for tau in TAUS]
    evals = f"{statistics.median(record.evals for record in records):.0f}"
    line = [solver, str(len(records)), *solved, *descended, evals, share(records, lambda record: record.claimed)]
    if not ours:
        return line
    line += [share(records, lambda record: record.false_claim), share(records, lambda record: record.missed)]
    line += [f"{statistics.median(record.products for record in records):.0f}"]
    for seconds in ([record.compile for record in records], [record.run for record in records]):
        known = [second for second in seconds if math.isfinite(second)] or [math.nan]
        line += [f"{statistics.median(known):.3f}, {sum(known):.1f}"]
    return line


def failures(records: Sequence[Record]) -> None:
    """Print, for each solver, what it did not solve, claimed falsely or missed."""
    lists: tuple[tuple[str, Callable[[Record], bool]], ...] = (
        ("not solved at 1e-6", lambda record: not record.solved(TAUS[1])),
        ("false claims", lambda record: record.false_claim),
        ("missed", lambda record: record.missed),
        ("outside the bounds", lambda record: record.violation > 0),
    )
    columns = ("problem", "n", "f", "f_best", "gain", "status", "evaluations", "error")
    for solver, own in by_solver(records).items():
        for title, test in lists:
            rows = [
                (r.name, r.n, f"{r.f:.9g}", f"{r.f_best:.9g}", f"{r.gain:.1e}", r.status, r.evals, r.error)
                for r in own
                if test(r)
            ]
            if rows:
                table(f"{solver}, {SETS[own[0].kind].lower()}, {own[0].dtype}: {title} ({len(rows)})", columns, rows)


def sweep(known: dict[str, Any], tasks: Sequence[Task], args: argparse.Namespace) -> list[Record]:
    """Solve and judge every problem, print the tables, and return the records."""
    lock, done = threading.Lock(), [0]

    def work(workers: Workers, task: Task) -> list[Any]:
        about = known[task[0]][task[1]]
        found = [workers.record(task, about, method, dtype) for dtype in args.dtypes for method in args.methods]
        with lock:
            done[0] += 1
            print(f"{done[0]}/{len(tasks)} {task[1]}", file=sys.stderr, flush=True)
        return found

    found = over(tasks, args.jobs, work)
    for note in sorted({note for note in found if isinstance(note, str)}):
        print(f"\nSkipped: {note}")
    records = [record for record in found if isinstance(record, Record)]
    for kind in args.sets:
        names = {name for of, name in tasks if of == kind}
        for dtype in args.dtypes:
            ours = [record for record in records if (record.kind, record.dtype) == (kind, dtype)]
            theirs = [record for record in peers(known, kind, dtype) if record.name in names]
            rows = [row(solver, own, ours=True) for solver, own in by_solver(ours).items()]
            rows += [row(solver, own, ours=False) for solver, own in by_solver(theirs).items()]
            table(f"{SETS[kind]}, {dtype}", COLUMNS, rows)
            failures(ours)
    return records


def main() -> None:
    """Parse the arguments, sweep, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cutest", description=__doc__.splitlines()[0])

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser.add_argument("--methods", type=names, default=["auto", "lbfgs", "newton"])
    parser.add_argument("--dtypes", type=names, default=["float64", "float32"])
    parser.add_argument("--sets", type=names, default=["u", "b"], help="u: unconstrained, b: bounded")
    parser.add_argument("--problems", type=names, default=[], help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="problems at a time")
    args = parser.parse_args()
    print(header(" ".join(["benchmarks.cutest", *sys.argv[1:]])), flush=True)
    known = json.loads(PROBLEMS.read_text())
    tasks = [(kind, name) for kind in args.sets for name in known[kind] if not args.problems or name in args.problems]
    sweep(known, tasks, args)


if __name__ == "__main__":
    main()
