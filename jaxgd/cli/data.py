"""DATA of the command line: a file, and what of it the loss gets. Nothing in it is executed."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.cli.arguments import Columns
from jaxgd.cli.arrays import Changed, NpyFile, Npz
from jaxgd.cli.columns import CSV, Table
from jaxgd.cli.loss import Loaded
from jaxgd.compile import column_access
from jaxgd.data import parquet
from jaxgd.data.blocks import Source
from jaxgd.data.columns import check_there
from jaxgd.rows.rows import Paired, Rows

ROWS = 8  # of which a loss is asked what columns it needs
KINDS = (*CSV, *parquet.SUFFIXES, ".npy", ".npz")
File = Table | NpyFile | Npz


class Opened(NamedTuple):
    """What the loss gets, and what is known of it."""

    data: Any
    labels: Any = None  # of each row
    names: Sequence[str] = ()  # of the columns of X

    @property
    def at_hand(self) -> Any:
        """What the loss gets, or the first row of it where rows are read in passes."""
        source = getattr(self.data, "source", None) if isinstance(self.data, Rows) else None
        return self.data if source is None else next(source.blocks(1)).data[0]


def opened(asked: argparse.Namespace, loss: Loaded, init: Any) -> Opened:
    """Return the data for the loss, from the file that is named."""
    if asked.data is None:
        return Opened(None)
    file = open_file(asked.data, stream=_stream(asked))
    columns = _fitting(asked.columns, loss, file)
    wanted = [] if columns is None else [*(columns.X or []), *columns.y]
    for option, name in [*(("--columns", name) for name in wanted), ("--by", asked.by)]:
        if name is not None:
            check_there(name, file.names, f"DATA {file.path}", f"{option} names")
    structure, finish = _shaped(columns, file, intercept=asked.intercept)
    if columns is None and file.named:
        structure = _asked(loss, init, file)
    stream = file.streams(wanted or jax.tree.leaves(structure))
    names = [] if columns is None else [*(["intercept"] if asked.intercept else []), *(columns.X or [])]
    data = _rows(Changed(file.source(structure), finish)) if stream else finish(file.read(structure))
    labels = None if asked.by is None else file.labels(asked.by)
    return Opened(data, labels, names)


def _asked(loss: Loaded, init: Any, file: File) -> Any:
    """Return which columns a loss gets, as `minimize` finds out of a table: by name, else all as a matrix."""
    rows = jax.ShapeDtypeStruct((ROWS,), np.float32)
    like = None if init is None else jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), np.float32), init)
    by_name = column_access.asked(loss.function, like, file.names, dict.fromkeys(file.numeric, rows))
    return list(file.names) if by_name is None else {name: name for name in by_name}


def _rows(source: Source) -> Rows:
    rows = Rows.open(source.batches)
    rows.source = Paired(source, paired=False)  # which knows, other than a function, how many rows there are
    return rows


def _stream(asked: argparse.Namespace) -> bool | None:
    """Return whether rows are to be read anew at each pass; None: where they are many."""
    needs_memory = asked.in_memory or asked.by is not None or asked.kind == "least_squares"
    return True if asked.stream else False if needs_memory else None


def open_file(name: str, *, stream: bool | None) -> File:
    """Return a file of one of the known kinds; refuse what is not there, unknown, or empty.

    `stream`: a few rows are read at a time, or all at once; None: as large as the file is.
    """
    path = Path(name)
    if path.is_dir():
        raise IsADirectoryError(f"DATA {name} is a folder. Name a file in it.")
    if not path.exists():
        raise FileNotFoundError(f"DATA: there is no file {name!r}.")
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        raise ValueError(f"DATA {name} is of an unknown kind; files of type {', '.join(KINDS)} can be read.")
    if path.is_file() and not path.stat().st_size:
        raise ValueError(f"DATA {name} is empty.")
    if suffix == ".npz":
        if stream:
            raise ValueError(f"--stream: {name} can only be read whole. Save arrays as .npy, or leave --stream out.")
        return Npz(name)
    return NpyFile(name, stream=stream) if suffix == ".npy" else Table(name, suffix, stream=stream)


def _fitting(columns: Columns | None, loss: Loaded, file: File) -> Columns | None:
    """Return the columns; refuse those that the loss cannot take."""
    there = f"DATA has {_listed(file.names)}" if file.names else "DATA has no columns"
    if columns is not None and not file.names and not file.named:
        raise ValueError(f"--columns is for columns; {file.path} holds one array without any. Leave it out.")
    if loss.ready is None:
        return columns
    if loss.ready.regression and (columns is None or columns.X is None):
        raise ValueError(f"LOSS {loss.name} is a regression: name its columns by --columns x1,x2:y. {there}.")
    if not loss.ready.regression and columns is not None and columns.X is not None:
        raise ValueError(f"LOSS {loss.name} takes one column: --columns {columns.y[0]}.")
    if not loss.ready.regression and columns is None and file.named:
        if len(file.numeric) != 1:
            raise ValueError(f"LOSS {loss.name} takes one column: name it by --columns. {there}.")
        return Columns(None, file.numeric)
    return columns


def _shaped(columns: Columns | None, file: File, *, intercept: bool) -> tuple[Any, Callable[[Any], Any]]:
    """Return the pytree of names to read, None for all, and what makes of it what the loss gets."""
    if columns is None:
        return None, lambda data: data
    y = columns.y[0] if len(columns.y) == 1 else columns.y
    if columns.X is None:
        return y, lambda data: data
    # A column that is a matrix by itself is named by itself.
    X: Any = columns.X[0] if len(columns.X) == 1 and file.is_matrix(columns.X[0]) else columns.X
    if not intercept:
        return (X, y), lambda data: data
    return ((X, y), _with_ones) if columns.X else (y, lambda y: (np.ones((len(y), 1)), y))


def _with_ones(data: Any) -> Any:
    X, y = data
    return np.concatenate([np.ones((len(X), 1), X.dtype), X], axis=1), y


def _listed(names: Iterable[str], most: int = 20) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
