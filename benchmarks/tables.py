"""What a table of 1,000,000 rows costs on its way in: time, memory, and whether its columns are copied.

Each case runs in a process of its own: the memory is the growth of its peak while the table is read, the table itself
not counted. The solve is that of a regression on ten columns, beside the same with NumPy arrays, in float64.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.timing import header, interleaved, table

COLUMNS = 10
NAMES = [f"x{i}" for i in range(COLUMNS)]


def by_name(w: Any, data: Any) -> Any:
    import jax.numpy as jnp

    return jnp.mean((data["y"] - sum(w[i] * data[name] for i, name in enumerate(NAMES))) ** 2)


def by_matrix(w: Any, data: Any) -> Any:
    import jax.numpy as jnp

    return jnp.mean((data[:, -1] - data[:, :-1] @ w) ** 2)


LOSSES = {"by name": by_name, "as a matrix": by_matrix}


def made(library: str, rows: int) -> Any:
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=rows) for name in (*NAMES, "y")}
    if library == "pandas":
        import pandas as pd

        return pd.DataFrame(columns)
    if library == "polars":
        import polars as pl

        return pl.DataFrame(columns)
    import pyarrow as pa

    return pa.table(columns)


def shared(frame: Any, data: Any, form: str) -> bool:
    """Whether what the loss gets lies where the table's own columns do."""
    column = data[NAMES[0]] if form == "by name" else data[:, 0]
    return bool(np.shares_memory(frame.column(NAMES[0]), column))


def peak() -> float:
    """Return the most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def case(library: str, form: str, rows: int) -> dict[str, Any]:
    """Return what one case costs."""
    import jaxgd
    from jaxgd.compile.frames import Frame

    loss, start = LOSSES[form], np.zeros(COLUMNS)
    whole = made(library, rows)
    Frame(made(library, 10)).arrays(loss, start)
    before, began = peak(), time.perf_counter()
    data = Frame(whole).arrays(loss, start)
    reading, grown = time.perf_counter() - began, peak() - before
    copied = "no" if shared(Frame(whole), data, form) else "yes"

    def solve(given: Any) -> Any:
        return jaxgd.minimize(loss, given, start, dtype="float64").check().params

    times = interleaved({"table": lambda: solve(whole), "arrays": lambda: solve(data)}, rounds=5, calls=1)
    ratio = times["table"] / times["arrays"]
    return {"seconds": reading, "grown": grown, "copied": copied, "solve": times["table"], "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(case(*asked.case, asked.rows)))
        return
    print(header("benchmarks.tables"))
    lines = []
    for library in ("pandas", "polars", "arrow"):
        for form in LOSSES:
            command = [sys.executable, "-m", "benchmarks.tables", "--rows", str(asked.rows), "--case", library, form]
            got = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            cost = (f"{1e3 * got['seconds']:.1f}", f"{got['grown']:.0f}", got["copied"])
            lines.append((library, form, *cost, f"{1e3 * got['solve']:.0f}", f"{got['ratio']:.2f}"))
    size = asked.rows * (COLUMNS + 1) * 8 / 2**20
    title = f"{asked.rows:,} rows of {COLUMNS + 1} columns of float64, {size:.0f} MB"
    titles = ("library", "the loss asks", "read, ms", "memory, MB", "copied", "solve, ms", "times that of arrays")
    table(title, titles, lines)


if __name__ == "__main__":
    main()
