"""Processes that run `benchmarks.cutest_worker`, several problems at a time."""

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

START = 120  # seconds for a worker to start
JUDGE = 180  # seconds for it to judge a point, which bounds its own polishes

Task = tuple[str, str]  # the set and the name of a problem
Workers = dict[str, "Worker"]  # one of each float type


class Worker:
    """A process that keeps to one float type; one that hangs or dies is replaced at the next request."""

    def __init__(self, dtype: str, limit: float) -> None:
        """Start nothing yet; `limit`: seconds for a solve."""
        self._dtype = dtype
        self._limit = limit
        self._process: subprocess.Popen[str] | None = None

    def ask(self, call: str, **request: object) -> dict[str, Any]:
        """Return the answer, or the error that stands for it."""
        if self._process is None:
            self._process = self._started()
        process, began = self._process, time.perf_counter()
        limit = JUDGE if call == "judge" else self._limit
        line = _line(process, json.dumps([call, request]), limit)
        if not line:
            late = time.perf_counter() - began >= limit
            self.close()
            return {"error": f"time-out after {limit:.0f} s" if late else "the worker died"}
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


def over(tasks: Sequence[Task], jobs: int, limit: float, work: Callable[[Workers, Task], list[Any]]) -> list[Any]:
    """Return what `work` returns for each problem, in their order, with as many at a time as there are jobs."""
    done = itertools.count(1)
    idle: queue.SimpleQueue[Workers] = queue.SimpleQueue()
    for _ in range(jobs):
        idle.put({dtype: Worker(dtype, limit) for dtype in ("float32", "float64")})

    def one(task: Task) -> list[Any]:
        workers = idle.get()
        try:
            return work(workers, task)
        finally:
            idle.put(workers)
            print(f"{next(done)}/{len(tasks)} {task[1]}", file=sys.stderr, flush=True)

    try:
        with ThreadPoolExecutor(jobs) as pool:
            return [found for several in pool.map(one, tasks) for found in several]
    finally:
        while not idle.empty():
            for worker in idle.get().values():
                worker.close()
