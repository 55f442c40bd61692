"""Files that the command line writes: that they can be written is known before the solve."""

import argparse
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxgd import plot
from jaxgd.cli.data import Opened
from jaxgd.cli.loss import Loaded
from jaxgd.rows.rows import Rows
from jaxgd.watch.checkpoint import Saved, read
from jaxgd.watch.watchers import Checkpoint


def checkpoint(asked: argparse.Namespace) -> Checkpoint | None:
    """Return the watcher that saves; refuse a path that cannot be written, or holds something else."""
    if asked.checkpoint is None:
        return None
    path = Path(asked.checkpoint)
    check_writable("--checkpoint", path, asked)
    if path.is_file() and path.stat().st_size:
        try:
            read(path)
        except ValueError as error:
            msg = f"--checkpoint {str(path)!r} is there and is no checkpoint; it would be lost. Name another file."
            raise ValueError(msg) from error
    return Checkpoint(path) if asked.every is None else Checkpoint(path, asked.every)


def resumed(path: str | None) -> Saved | None:
    """Return the run that was saved."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise FileNotFoundError(f"--resume: there is no checkpoint {path!r}. Leave --resume out to begin.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"--resume: {path!r} is no checkpoint, or it was cut short. Leave --resume out to begin.")
    return read(Path(path))


def check_plot(asked: argparse.Namespace) -> None:
    """Refuse a plot that could not be drawn, or not be written."""
    if asked.plot is None:
        return
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("--plot needs matplotlib: pip install 'jaxgd[plot]'.") from error
    kinds = Figure().canvas.get_supported_filetypes()
    if Path(asked.plot).suffix[1:].lower() not in kinds:
        raise ValueError(f"--plot {asked.plot!r} is of an unknown kind. Name a .png, .pdf or .svg file.")
    check_writable("--plot", Path(asked.plot), asked)


def check_writable(option: str, path: Path, asked: argparse.Namespace) -> None:
    """Refuse a path that cannot be written, or is read; leave all as it is."""
    file = asked.loss.rpartition(":")[0]
    for other, name in (("DATA", asked.data), ("LOSS", file), ("--init", asked.init)):
        if name and path.exists() and os.path.exists(name) and path.samefile(name):  # noqa: PTH110 - JSON is no path
            raise ValueError(f"{option} {str(path)!r} is {other}, which would be lost. Name another file.")
    folder = path.absolute().parent
    if path.is_dir():
        raise IsADirectoryError(f"{option} {str(path)!r} is a folder. Name a file in it.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} {str(path)!r}: there is no folder {str(folder)!r}. Make it first.")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(error.errno, f"{option} {str(path)!r} cannot be written: {error.strerror}") from error


class Curve(NamedTuple):
    """What is drawn of a regression on one column."""

    x: Any
    y: Any
    model: Callable[[Any, Any], Any]  # of the params and x
    names: tuple[str, str]  # of x and y


def curve(asked: argparse.Namespace, loss: Loaded, data: Opened) -> Curve | None:
    """Return the curve that a ready-made loss fits, where it is one of a single column that is at hand."""
    mean = loss.ready and loss.ready.mean
    if mean is None or len(asked.columns.X) != 1 or isinstance(data.data, Rows):
        return None
    X, y = data.data
    if X.shape[1] > len(data.names):  # a column that is a matrix by itself
        return None
    model = lambda w, x: mean(w[-1] * x + sum(w[:-1]))  # noqa: E731 - the intercept, if there is one
    return Curve(X[:, -1], y, model, (asked.columns.X[0], asked.columns.y[0]))


def draw(result: Any, path: str, of: Curve | None) -> None:
    """Draw data and fitted curve, or loss, gradient and step against moves."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    figure = Figure(figsize=(6.4, 5.2) if of else (6, 8), layout="constrained")
    if of is None:
        plot.trace(result, ax=figure.subplots(3, sharex=True))
    else:
        axes = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        plot.fit(result, of.x, of.y, of.model, ax=axes)
        axes[0].set_ylabel(of.names[1])
        axes[1].set_xlabel(of.names[0])
    figure.savefig(path)
