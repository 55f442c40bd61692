"""From which size on an accelerator overtakes the CPU: one problem and batches, the same solves on every device.

`python -m benchmarks.crossover`; `--seconds 10` limits what one size may take, beyond which larger ones are left out.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

import jaxgd
from benchmarks.timing import header, table
from jaxgd.losses import logistic

COLUMNS = 50  # of one problem
ROWS = tuple(10**k for k in range(2, 8))
LANE = (200, 10)  # rows and columns of each of many
LANES = tuple(10**k for k in range(7))
TOL = 1e-6
REPEATS = 3
MEMORY = 4e9  # bytes that the data may take

Solve = Callable[[], Any]


def logistic_data(rows: tuple[int, ...], columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return data of logistic regressions in float32, of which the last of `rows` are those of one."""
    draw = np.random.default_rng(0)
    X = draw.standard_normal((*rows, columns), np.float32)
    w = draw.standard_normal(columns, np.float32) / columns**0.5
    return X, (draw.random(rows, np.float32) < 1 / (1 + np.exp(-X @ w))).astype(np.float32)


def one(size: int) -> Solve:
    """Return the solve of one regression of so many rows, their data on the default device."""
    data = jax.device_put(logistic_data((size,), COLUMNS))
    return lambda: jaxgd.minimize(logistic, data, l2=1e-4, tol=TOL).params


def batch(size: int) -> Solve:
    """Return the solve of so many regressions, their data on the host."""
    data = logistic_data((size, LANE[0]), LANE[1])
    return lambda: jaxgd.minimize_many(logistic, data, l2=1e-4, tol=TOL).params


def seconds(solve: Solve) -> float:
    """Return the seconds of the fastest of some warm calls."""
    jax.block_until_ready(solve())
    spent = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(solve())
        spent.append(time.perf_counter() - began)
    return min(spent)


def curve(
    make: Callable[[int], Solve], sizes: Sequence[int], bytes_each: int, device: Any, most: float
) -> Iterator[float | None]:
    """Yield the seconds for each size on a device; None once one took too long, or would take too much memory."""
    spent = 0.0
    for size in sizes:
        if spent > most / REPEATS or size * bytes_each > MEMORY:
            yield None
            continue
        with jax.default_device(device):
            spent = seconds(make(size))
        yield spent


def crossover(sizes: Sequence[int], cpu: Sequence[float | None], other: Sequence[float | None]) -> int | None:
    """Return the least size from which on the other device is faster wherever both were timed; None: there is none."""
    timed = [
        (size, theirs < own)
        for size, own, theirs in zip(sizes, cpu, other, strict=True)
        if own is not None and theirs is not None
    ]
    least = None
    for size, faster in reversed(timed):
        if not faster:
            break
        least = size
    return least


def compare(title: str, make: Callable[[int], Solve], sizes: Sequence[int], bytes_each: int, most: float) -> None:
    """Print the seconds of each size on the CPU and on the first accelerator, and where the latter overtakes."""
    cpu, accelerator = jax.devices("cpu")[0], jax.devices()[0]
    names = {"CPU": cpu}
    if accelerator.platform != "cpu":
        names[accelerator.device_kind] = accelerator
    spent = {name: list(curve(make, sizes, bytes_each, device, most)) for name, device in names.items()}
    rows = [
        (f"{size:,}", *("" if column[i] is None else f"{1e3 * column[i]:,.2f}" for column in spent.values()))
        for i, size in enumerate(sizes)
    ]
    table(f"{title}: milliseconds of a warm solve", ("size", *names), rows)
    if accelerator.platform == "cpu":
        print("\nJAX has no accelerator here: there is no crossover to measure.")
        return
    own, theirs = spent.values()
    least = crossover(sizes, own, theirs)
    said = "does not overtake the CPU at these sizes" if least is None else f"overtakes the CPU from {least:,} on"
    print(f"\n{accelerator.device_kind} {said}.")


def main() -> None:
    """Print one problem by its rows, and batches by their lanes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="that one size may take on one device")
    most = parser.parse_args().seconds
    print(header("benchmarks.crossover"))
    rows, columns = LANE
    compare(f"One logistic regression of {COLUMNS} columns, by rows", one, ROWS, 4 * COLUMNS, most)
    title = f"Logistic regressions of {rows} rows and {columns} columns, by their number, data on the host"
    compare(title, batch, LANES, 4 * rows * columns, most)


if __name__ == "__main__":
    main()
