"""The command line on a file larger than the memory it may take.

python -m benchmarks.command [--gigabytes 1] [--columns 10] [--kind parquet,csv,npy] [--folder FOLDER]

Random numbers that no compression makes smaller are written to a file, a regression of its last column on the others is
run as `python -m jaxgd squared FILE`, and the time, the peak memory of that process, and what it says are printed,
beside those of the same command on a thousand rows: what Python, JAX and compiling take. The file is deleted.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import header

ROWS = 200_000  # written at a time


def numbers(rows, columns, seed):
    """Return features, and in the last column what a linear model with noise makes of them."""
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(rows, columns - 1))
    return np.column_stack([X, 0.5 + X @ np.arange(1, columns) + draw.normal(size=rows)])


def write(path, rows, columns):
    """Write so many rows, some at a time."""
    parts = (numbers(min(ROWS, rows - low), columns, low) for low in range(0, rows, ROWS))
    if path.suffix == ".npy":
        array = np.lib.format.open_memmap(path, "w+", np.float64, (rows, columns))
        for low, part in zip(range(0, rows, ROWS), parts, strict=True):
            array[low : low + ROWS] = part
        array.flush()
        return
    import pyarrow as pa
    from pyarrow import csv, parquet

    schema = pa.schema([(f"x{i}", pa.float64()) for i in range(columns - 1)] + [("y", pa.float64())])
    options = {"compression": "none", "use_dictionary": False}
    with (
        csv.CSVWriter(path, schema) if path.suffix == ".csv" else parquet.ParquetWriter(path, schema, **options)
    ) as file:
        for part in parts:
            file.write_table(pa.table(list(part.T.copy()), schema=schema))


def run(path, columns):
    """Run the command; return its seconds, the peak of its memory in GB, and its answer."""
    names = [str(i) for i in range(columns)] if path.suffix == ".npy" else [f"x{i}" for i in range(columns - 1)] + ["y"]
    asked = f"{','.join(names[:-1])}:{names[-1]}"
    words = [sys.executable, "-m", "jaxgd", "squared", path, "--columns", asked, "--intercept", "--json"]
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        out = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"the command ended with status {child.returncode}")
    # Linux counts in kilobytes, macOS in bytes.
    return time.perf_counter() - began, used.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6), json.loads(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--kind", default="parquet")
    parser.add_argument("--folder")
    asked = parser.parse_args()
    print(header("benchmarks.command"))
    for kind in asked.kind.split(","):
        width = 8 if kind != "csv" else 19.4  # bytes of a number, about
        rows = int(asked.gigabytes * 1e9 / width / asked.columns)
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            for name, count in (("few", 1000), ("many", rows)):
                path = Path(folder) / f"{name}.{kind}"
                # By another process: what this one has taken, the system counts to its children.
                writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, count, asked.columns))
                writer.start()
                writer.join()
                seconds, peak, found = run(path, asked.columns)
                worst = np.max(np.abs(np.array(found["params"]) - np.append(0.5, np.arange(1, asked.columns))))
                print(
                    f"{kind} {path.stat().st_size / 1e9:.2f} GB, {count} rows of {asked.columns}: {seconds:.1f} s, peak"
                    f" {peak:.2f} GB; {found['status']} after {found['evals']} evaluations, params within {worst:.1e}"
                    " of those the rows were drawn with"
                )
                path.unlink()


if __name__ == "__main__":
    main()
