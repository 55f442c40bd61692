"""The command line: `jaxgd LOSS DATA`, also `python -m jaxgd`."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from typing import Any, TextIO

import numpy as np

import jaxgd
from jaxgd.cli import arguments, example, outputs, report, start_and_bounds
from jaxgd.cli.data import Opened, opened
from jaxgd.cli.errors import blamed, error_text
from jaxgd.cli.loss import Loaded, loaded
from jaxgd.result import NotConvergedWarning, Result
from jaxgd.solvers.registry import named

CONVERGED, NOT_CONVERGED, NOT_SOLVED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Solve what the arguments ask for, print the result, and return the exit status; with none, the main job."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        example.main()
        return CONVERGED
    try:
        asked = arguments.parse(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    stdout = sys.stdout
    try:
        with _only_results_on_stdout():
            result, names, curve = _solved(asked)
            _print((report.as_json if asked.json else report.for_people)(result, names, errors=asked.summary), stdout)
            if asked.plot:
                outputs.draw(result, asked.plot, curve)
    except KeyboardInterrupt:
        print("jaxgd: interrupted before anything was found.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever it is, the status says that nothing was solved
        print(error_text(error, with_traceback=asked.traceback), file=sys.stderr)
        return NOT_SOLVED
    return CONVERGED if np.all(result.converged) else NOT_CONVERGED


def _solved(asked: argparse.Namespace) -> tuple[Result, Sequence[str], outputs.Curve | None]:
    """Return the result, what the params are called, and what is to be drawn beside the moves.

    All that can be refused at once is refused first.
    """
    tests = {name: getattr(asked, name) for name in ("tol", "max_evals") if getattr(asked, name) is not None}
    options: dict[str, Any] = {"method": asked.method, "dtype": asked.dtype, "stop": jaxgd.Stop(**tests)}
    named(asked.method)
    options |= {"bounds": start_and_bounds.bounds(asked.bounds), "resume": outputs.resumed(asked.resume)}
    options["watch"] = _watchers(asked)
    outputs.check_plot(asked)
    init, loss = start_and_bounds.start(asked.init), loaded(asked.loss)
    data = opened(asked, loss, init)
    init = start_and_bounds.fitting(init, loss, data)
    options |= start_and_bounds.penalties(asked, loss, data.names, init)
    curve = outputs.curve(asked, loss, data) if asked.plot else None
    try:
        return _solve(asked, loss, data, init, options, trace=bool(asked.plot) and curve is None), data.names, curve
    except Exception as error:
        known = blamed(error, loss, data)
        if known is error:
            raise
        raise known from known.__cause__


def _solve(
    asked: argparse.Namespace, loss: Loaded, data: Opened, init: Any, options: dict[str, Any], *, trace: bool
) -> Result:
    if asked.by is not None:
        groups = jaxgd.Groups(data.data, by=data.labels)
        return jaxgd.minimize_many(loss.function, groups, init, kind=asked.kind, **options)
    return arguments.KINDS[asked.kind](loss.function, data.data, init, trace=trace, **options)


def _watchers(asked: argparse.Namespace) -> list[Any]:
    """Return what looks in; also none, so that Ctrl-C ends with the best point."""
    found: list[Any] = [] if asked.time_limit is None else [jaxgd.watch.TimeLimit(asked.time_limit)]
    if saves := outputs.checkpoint(asked):
        found.append(saves)
    if sys.stderr.isatty() if asked.progress is None else asked.progress:
        found.append(jaxgd.watch.Progress())
    return found


def _print(text: str, stdout: TextIO) -> None:
    try:
        print(text, file=stdout, flush=True)
    except BrokenPipeError:
        # Whoever read it has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


@contextlib.contextmanager
def _only_results_on_stdout() -> Generator[None]:
    """Let what a loss prints, and warnings, go to stderr; the result itself says where it did not converge."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"jaxgd: warning: {report.at_shell(str(message))}", file=sys.stderr)

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", NotConvergedWarning)
        warnings.showwarning = show
        yield
