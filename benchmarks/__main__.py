"""Run benchmarks, keep what they print as dated JSON, and say what has changed between two runs.

python -m benchmarks [NAMES] [--quick] runs all, or those named, each in a process of its own.
python -m benchmarks report prints the tables of the newest result of each.
python -m benchmarks compare A B lists the numbers that differ between two results, the largest changes first.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
QUICK = {  # each benchmark, with the arguments that make it small: what it prints then tests it, and measures little
    "book": "",
    "first_call": "--rounds 1",
    "kernels": "",
    "nist": "--only Misra1a,Thurber",
    "cutest": "--methods auto --sets u --problems ROSENBR,BEALE,HELIX",
    "restarts": "--losses 5 --runs auto",
    "fuzz": "--losses 50 --methods auto",
    "lanes": "--only fits",
    "large": "--scale 0.1 --most 50",
    "rows": "--quick",
    "derivatives": "",
    "uncertainty": "--repeats 1",
    "resume": "--only kills --kills 2 --seconds 2",
    "command": "--gigabytes 0.02",
    "tables": "--rows 10000",
    "install": "",
    "crossover": "--seconds 1",
}
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(QUICK)}; or report; or compare and two files")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look at whether all run")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results are kept")
    asked = parser.parse_args()
    match asked.names:
        case ["report"]:
            print(report(asked.folder))
            return 0
        case ["compare", before, after]:
            print(compared(*(json.loads(Path(file).read_text()) for file in (before, after))))
            return 0
    if unknown := set(asked.names) - set(QUICK):
        parser.error(f"there is no benchmark {min(unknown)!r}; there are {', '.join(QUICK)}.")
    results = [run(name, QUICK[name].split() if asked.quick else [], asked.folder) for name in asked.names or QUICK]
    failed = [result["command"] for result in results if result["status"]]
    print(f"\n{len(results) - len(failed)} of {len(results)} ran" + "".join(f"\nfailed: {each}" for each in failed))
    return len(failed)


def run(name: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a benchmark, show what it prints, and keep it; return what is kept."""
    command, began = ["-m", f"benchmarks.{name}", *arguments], time.perf_counter()
    print(f"\n== python {' '.join(command)}", flush=True)
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        lines = [line for line in process.stdout or () if print(line, end="", flush=True) is None]
    result = {
        "command": "python " + " ".join(command),
        "date": time.strftime("%Y-%m-%dT%H-%M-%S"),
        "commit": _commit(),
        "seconds": round(time.perf_counter() - began, 1),
        "status": process.returncode,
        "header": next((line.strip() for line in lines if " | python -m benchmarks." in line), ""),
        "tables": tables("".join(lines)),
        "printed": "".join(lines),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result['date']}-{name}.json").write_text(json.dumps(result, indent=1))
    return result


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the Markdown tables in a text by the titles above them, the heads first."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line.startswith("|") and not set(line) <= set("|- :"):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("| ").split(" | ")])
    return found


def report(folder: Path) -> str:
    """Return the newest result of each benchmark that succeeded, as Markdown."""
    newest = {file.stem[20:]: file for file in sorted(folder.glob("*.json")) if not _read(file)["status"]}
    parts = [_read(newest[name]) for name in QUICK if name in newest]
    shown = [f"# `{part['command']}`\n\nCommit {part['commit']}. {part['printed'].strip()}" for part in parts]
    return "\n\n".join(shown) or f"There are no results in {folder}; `python -m benchmarks` makes them."


def compared(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return the numbers that stand in both results and differ, the largest ratio first."""
    old, new = (_numbers(each["tables"]) for each in (before, after))
    both = [(place, old[place], new[place]) for place in old if place in new and old[place] != new[place]]
    both.sort(key=lambda each: -max(each[1] / each[2], each[2] / each[1]) if each[1] * each[2] > 0 else float("-inf"))
    head = f"{before['commit']} ({before['date']}) and {after['commit']} ({after['date']}): `{after['command']}`"
    lines = [f"{a:g} -> {b:g}{f' ({b / a:.2f})' if a else ''}: {', '.join(place)}" for place, a, b in both]
    same = sum(old[place] == new[place] for place in old if place in new)
    return "\n".join([head, f"{same} numbers are the same, {len(lines)} differ.", *lines])


def _numbers(found: dict[str, list[list[str]]]) -> dict[tuple[str, ...], float]:
    """Return each number of the tables by its table, its row's words, its column, and its place in the cell."""
    numbers: dict[tuple[str, ...], float] = {}
    for title, (heads, *rows) in found.items():
        for row in rows:
            words = [row[0], *itertools.takewhile(lambda cell: not NUMBER.match(cell), row[1:])]
            for head, cell in zip(heads[len(words) :], row[len(words) :], strict=False):
                for at, number in enumerate(NUMBER.findall(cell)):
                    numbers[title, " ".join(words), head, str(at)] = float(number.replace(",", ""))
    return numbers


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def _commit() -> str:
    """Return the commit of the working tree, with a mark where it was changed."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    ran = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
