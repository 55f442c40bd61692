"""What the benchmarks share: the line that says where a table comes from, fair timing, and printing."""

import datetime as dt
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import jax

PACKAGES = (
    "jaxgd",
    "jax",
    "jaxlib",
    "numpy",
    "optimistix",
    "jaxopt",
    "optax",
    "scipy",
    "sif2jax",
    "scikit-learn",
    "torch",
    "statsmodels",
    "pyarrow",
    "pandas",
    "polars",
    "narwhals",
)


def header(module: str) -> str:
    """Return one line with the date, the machine, the versions and the command."""
    import jaxgd

    found = {"jaxgd": jaxgd.__version__} | {name: _version(name) for name in PACKAGES if name != "jaxgd"}
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    machine = f"{_cpu()}, {os.cpu_count()} cores{load}, {jax.default_backend()}"
    today = dt.date.today()  # noqa: DTZ011 - the local date is meant
    return f"{today} | {machine} | Python {platform.python_version()}, {versions} | python -m {module}"


def interleaved(
    contenders: dict[str, Callable[[], object]], rounds: int, calls: int, warm: int = 2
) -> dict[str, float]:
    """Return each contender's median seconds for a call; every round gives each a run of `calls` in a row.

    `warm` calls warm up, and all wait for their arrays.
    """
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        jax.block_until_ready([call() for _ in range(warm)])
    for _ in range(rounds):
        for name, call in contenders.items():
            began = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(call())
            spent[name].append((time.perf_counter() - began) / calls)
    return {name: statistics.median(times) for name, times in spent.items()}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table; a row with nothing but a name is a peer that is not installed."""
    full = [[str(cell) for cell in row] if len(row) > 1 else [str(row[0]), "not installed"] for row in rows]
    full = [row + [""] * (len(columns) - len(row)) for row in full]
    widths = [max(len(row[i]) for row in [columns, *full]) for i in range(len(columns))]
    print(f"\n## {title}\n")
    for row in [columns, ["-" * width for width in widths], *full]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
