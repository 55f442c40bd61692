"""CUTEst problems: how low each method gets, how truly it says so, and what that costs, the peers beside it.

A point is judged in float64, whatever was claimed of it. It solves its problem at tau if
`f(x) <= f_best + tau * (f(start) - f_best)`, with `f_best` the lowest loss that any solver found (Moré and Wild, 2009).
Many problems have several minima; so SciPy polishes the point, unless it is as low as any known, and what that gains,
relative to the decrease made, says how far the method was from the minimum it went to: it descended at tau if the gain
is below tau. A success that was claimed is false where the gain is above 1e-3; one is missed where it is below 1e-6 and
nothing was claimed.
"""

import argparse
import datetime as dt
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation import ABLATIONS
from benchmarks.cutest_jobs import Task, Workers, over
from benchmarks.cutest_records import TAUS, Record, by_solver, peers
from benchmarks.timing import header, table

PROBLEMS = Path(__file__).parent / "data" / "cutest.json"
SETS = {"u": "Unconstrained", "b": "Bounded"}
TOLS = (1e-3, 1e-6, 1e-9)
PEER = "scipy_lbfgsb"  # whose evaluations ours are compared with
SHOWN = 4  # changes of a verdict that are listed


def share(records: Sequence[Record], test: Callable[[Record], bool]) -> str:
    """Return the percentage of records that pass a test."""
    return f"{100 * statistics.mean(map(test, records)):.1f} %"


COLUMNS = (
    "solver",
    "problems",
    *(f"{word}{tau:.0e}".replace("e-0", "e-") for word in ("solved ", "descended ") for tau in TAUS),
    "evaluations, median of solved at 1e-6",
    "claimed",
    "false claims",
    "missed",
    "products, the same",
    "compile, median and sum, s",
    "run, median and sum, s",
)


def row(solver: str, records: Sequence[Record], *, ours: bool) -> list[str]:
    """Return a line of the main table; of the peers' points no more is known than the loss."""
    solved = [share(records, lambda record, tau=tau: record.solved(tau)) for tau in TAUS]
    descended = [share(records, lambda record, tau=tau: record.descended(tau)) if ours else "" for tau in TAUS]
    # The medians of costs are of what was solved: a method that gives up early is not quick.
    paid = [record for record in records if record.solved(TAUS[1])]
    evals, products = (
        str(statistics.median_high(costs)) if paid else ""
        for costs in ([record.evals for record in paid], [record.products for record in paid])
    )
    line = [solver, str(len(records)), *solved, *descended, evals, share(records, lambda record: record.claimed)]
    if not ours:
        return line
    line += [share(records, lambda record: record.false_claim), share(records, lambda record: record.missed)]
    line += [products]
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


def solved_and_judged(workers: Workers, task: Task, known: dict[str, Any], dtype: str, **options: Any) -> Record | str:
    """Return the record of a solve, or a note where the method does not take such problems."""
    kind, name = task
    answer = workers[dtype].ask("solve", kind=kind, name=name, **options)
    if "skipped" in answer:
        return answer["skipped"]
    about = {key: known[kind][name][key] for key in ("f0", "f_best", "n")}
    if "error" not in answer:
        point = {"x": answer.pop("x"), "f0": about["f0"], "f_best": about["f_best"]}
        answer |= workers["float64"].ask("judge", kind=kind, name=name, dtype=dtype, **point)
    return Record(kind=kind, name=name, dtype=dtype, solver=f"jaxgd {options['method']}", **about, **answer)


def sweep(known: dict[str, Any], tasks: Sequence[Task], args: argparse.Namespace) -> list[Record]:
    """Solve and judge every problem, print the tables, and return the records, the peers' among them."""

    def work(workers: Workers, task: Task) -> list[Any]:
        pairs = [(dtype, method) for dtype in args.dtypes for method in args.methods]
        return [solved_and_judged(workers, task, known, dtype, method=method) for dtype, method in pairs]

    found = over(tasks, args.jobs, args.limit, work)
    for note in sorted({note for note in found if isinstance(note, str)}):
        print(f"\nSkipped on the bounded problems: {note}")
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
            records += theirs
    return records


def tolerances(known: dict[str, Any], tasks: Sequence[Task], args: argparse.Namespace) -> None:
    """Ask for several tolerances in float64, and print how often a claimed success had reached what was asked for."""

    def work(workers: Workers, task: Task) -> list[Any]:
        pairs = [(method, tol) for method in args.methods for tol in TOLS]
        return [
            (tol, solved_and_judged(workers, task, known, "float64", method=method, tol=tol)) for method, tol in pairs
        ]

    found = [(tol, record) for tol, record in over(tasks, args.jobs, args.limit, work) if isinstance(record, Record)]
    columns = (
        "set",
        "solver",
        "tol",
        "problems",
        "claimed",
        "of these delivered",
        "evaluations, median",
        "worst gains",
    )
    rows = []
    for kind in args.sets:
        for solver in dict.fromkeys(record.solver for _, record in found):
            for tol in TOLS:
                own = [record for of, record in found if (of, record.kind, record.solver) == (tol, kind, solver)]
                claimed = [record for record in own if record.claimed and not record.error]
                if not claimed:
                    continue
                worst = sorted((r for r in claimed if not r.gain <= tol), key=lambda r: -r.gain)[:4]
                delivered = share(claimed, lambda record, tol=tol: record.gain <= tol)
                evals = f"{statistics.median(record.evals for record in own):.0f}"
                names = ", ".join(f"{record.name} {record.gain:.0e}" for record in worst)
                rows.append((SETS[kind], solver, f"{tol:.0e}", len(own), len(claimed), delivered, evals, names))
    table("Asked for tol in float64: is what a polish gains below tol of the decrease made?", columns, rows)


def ablate(known: dict[str, Any], tasks: Sequence[Task], args: argparse.Namespace) -> None:
    """Solve with each predicate of the verdict left out, and print how many verdicts and evaluations that changes."""
    ways = (None, *ABLATIONS)

    def work(workers: Workers, task: Task) -> list[Any]:
        pairs = [(dtype, method) for dtype in args.dtypes for method in args.methods]
        return [
            (way, solved_and_judged(workers, task, known, dtype, method=method, without=way))
            for dtype, method in pairs
            for way in ways
        ]

    found = [(way, record) for way, record in over(tasks, args.jobs, args.limit, work) if isinstance(record, Record)]
    records: dict[str | None, list[Record]] = {way: [record for of, record in found if of == way] for way in ways}
    rows = []
    for way, own in records.items():
        pairs = list(zip(own, records[None], strict=True))
        changed = [
            f"{a.name} {a.solver.split()[-1]} {a.dtype}: {b.status} to {a.status}"
            for a, b in pairs
            if a.status != b.status
        ]
        rows.append(
            (
                way or "nothing",
                len(own),
                len(changed),
                sum(record.false_claim for record in own),
                sum(record.missed for record in own),
                sum(record.evals for record in own),
                "; ".join(changed[:SHOWN]),
            )
        )
    columns = ("left out", "solves", "verdicts changed", "false claims", "missed", "evaluations", "the first changes")
    table("What each predicate of the verdict does", columns, rows)


def evaluations(
    known: dict[str, Any], tasks: Sequence[Task], args: argparse.Namespace, records: Sequence[Record]
) -> None:
    """Print evaluations until f first is within 1e-6 of the best, float64 unconstrained, beside SciPy's L-BFGS-B."""

    def work(workers: Workers, task: Task) -> list[Any]:
        about = known["u"][task[1]]
        given = {"name": task[1], "target": about["f_best"] + TAUS[1] * (about["f0"] - about["f_best"])}
        answers = {method: workers["float64"].ask("reach", method=method, **given) for method in args.methods}
        return [(task[1], answers, workers["float64"].ask("reach_scipy", **given))]

    found = over([task for task in tasks if task[0] == "u"], args.jobs, args.limit, work)
    solved = {(r.solver, r.name): r for r in records if (r.kind, r.dtype) == ("u", "float64") and r.solved(TAUS[1])}
    rows = []
    for method in args.methods:
        pairs = [(answers[method], scipy) for _, answers, scipy in found]
        reached = [(ours["evals"], ours["products"], scipy["evals"]) for ours, scipy in pairs if _both(ours, scipy)]
        alone = [
            sum(bool(one.get("evals")) and not other.get("evals") for one, other in pairs)
            for pairs in (pairs, [pair[::-1] for pair in pairs])
        ]
        whole = [
            solved[f"jaxgd {method}", name].evals / solved[PEER, name].evals
            for name, _, _ in found
            if {(f"jaxgd {method}", name), (PEER, name)} <= solved.keys()
        ]
        ratios = sorted(evals / theirs for evals, _, theirs in reached)
        rows.append(
            (
                f"jaxgd {method}",
                len(reached),
                *alone,
                _ratio(ratios),
                " to ".join(f"{quartile:.2f}" for quartile in statistics.quantiles(ratios, n=4)[::2])
                if ratios[1:]
                else "",
                _ratio([products / theirs for _, products, theirs in reached]),
                _ratio([(evals + products) / theirs for evals, products, theirs in reached]),
                f"{_ratio(whole)} of {len(whole)}",
            )
        )
    columns = (
        "solver",
        "both reach",
        "ours alone",
        "SciPy alone",
        "evaluations, median ratio",
        "quartiles",
        "products, median ratio",
        "both together, median ratio",
        "whole solves, median ratio",
    )
    table("Evaluations until f is within 1e-6, float64, over those of SciPy's L-BFGS-B", columns, rows)


def _both(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return bool(ours.get("evals")) and bool(theirs.get("evals"))


def _ratio(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}" if ratios else ""


def write(folder: Path, line: str, records: Sequence[Record]) -> None:
    """Write the records with the line that says where they come from, and draw the profiles."""
    from benchmarks.cutest_plots import profiles

    folder.mkdir(parents=True, exist_ok=True)
    today = dt.date.today()  # noqa: DTZ011 - the local date is meant
    rows = [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in found.items()}
        for found in (vars(record) for record in records)
    ]
    (folder / f"cutest-{today}.json").write_text(json.dumps({"from": line, "records": rows}))
    profiles(folder, str(today), records)


def main() -> None:
    """Parse the arguments, sweep, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cutest", description=(__doc__ or "").splitlines()[0])

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser.add_argument("--methods", type=names, default=["auto", "lbfgs", "newton"])
    parser.add_argument("--dtypes", type=names, default=["float64", "float32"])
    parser.add_argument("--sets", type=names, default=["u", "b"], help="u: unconstrained, b: bounded")
    parser.add_argument("--problems", type=names, default=[], help="these alone")
    parser.add_argument("--jobs", type=int, default=2, help="problems at a time")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a solve")
    parser.add_argument("--tol-table", action="store_true", help="instead: is the tolerance asked for delivered?")
    parser.add_argument("--ablate", action="store_true", help="instead: what does each predicate of a verdict do?")
    parser.add_argument("--evaluations", action="store_true", help="also: evaluations until solved, beside SciPy's")
    parser.add_argument("--out", type=Path, help="folder for the records and two pictures")
    args = parser.parse_args()
    line = header(" ".join(["benchmarks.cutest", *sys.argv[1:]]))
    print(line, flush=True)
    known = json.loads(PROBLEMS.read_text())
    tasks = [(kind, name) for kind in args.sets for name in known[kind] if not args.problems or name in args.problems]
    if args.tol_table:
        tolerances(known, tasks, args)
        return
    if args.ablate:
        ablate(known, tasks, args)
        return
    records = sweep(known, tasks, args)
    if args.evaluations:
        evaluations(known, tasks, args, records)
    if args.out:
        write(args.out, line, records)


if __name__ == "__main__":
    main()
