"""NumPy's files as the command line reads them, without pickles: nothing in them is executed."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgd.data import npy
from jaxgd.data.blocks import Source, blocks
from jaxgd.data.sources import open_source

LARGE = 256 << 20  # bytes above which rows are read anew at each pass, unless all are asked for


class NpyFile:
    """A `.npy` file: an array, whose columns go by their numbers."""

    named = False

    def __init__(self, path: str, *, stream: bool | None) -> None:
        self.path, header = path, npy.header(path)
        self._stream = header.rows * header.row_bytes > LARGE if stream is None else stream
        matrix = len(header.shape) == 2  # noqa: PLR2004 - rows and columns
        self.names = self.numeric = [str(number) for number in range(header.shape[1])] if matrix else []

    def is_matrix(self, name: str) -> bool:
        del name
        return False

    def streams(self, names: list[str]) -> bool:
        del names
        return self._stream

    def read(self, structure: Any) -> Any:
        """Return the columns that a pytree names as arrays; for None the array."""
        return in_memory(self.source(structure))

    def source(self, structure: Any) -> Source:
        found = open_source(self.path)
        return found if structure is None else Changed(found, lambda rows: picked(structure, lambda n: rows[:, int(n)]))

    def labels(self, name: str) -> np.ndarray:
        return self.read(name)


class Npz:
    """A `.npz` file: arrays by name."""

    named = True

    def __init__(self, path: str) -> None:
        """Read all arrays, but for those that hold pickles."""
        self.path, self._held, self._texts, self._pickled = path, dict[str, Any](), dict[str, Any](), list[str]()
        if not zipfile.is_zipfile(path):
            msg = (
                f"DATA {path} is no .npz file, or it was cut short: it is no archive. Write it anew, with numpy.savez."
            )
            raise ValueError(msg)
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
                for name in found.files:
                    self._take(name, found)
        except Exception as error:  # whatever NumPy, or what unpacks the archive, raises
            msg = f"DATA {path} cannot be read as a file of type npz: {error}. Write it anew, with numpy.savez."
            raise ValueError(msg) from error
        self.numeric = list(self._held)
        self.names = [*self._held, *self._texts, *self._pickled]

    def _take(self, name: str, found: Any) -> None:
        try:
            array = found[name]
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            self._pickled.append(name)
        else:
            (self._held if array.dtype.kind in "biufc" else self._texts)[name] = array

    def is_matrix(self, name: str) -> bool:
        return name in self._held and self._held[name].ndim > 1

    def streams(self, names: list[str]) -> bool:
        del names
        return False

    def read(self, structure: Any) -> Any:
        return picked(structure, self._array)

    def source(self, structure: Any) -> Source:
        return open_source(self.read(structure))

    def labels(self, name: str) -> np.ndarray:
        return self._texts[name] if name in self._texts else self._array(name)

    def _array(self, name: str) -> np.ndarray:
        if name not in self._held:
            pickled = name in self._pickled
            why = "holds Python objects, which are not unpickled" if pickled else f"holds {self._texts[name].dtype}"
            raise TypeError(f"--columns: array {name!r} of {self.path} {why}. Encode it as numbers.")
        return self._held[name]


@dataclass(frozen=True)
class Changed:
    """A source whose batches are changed as they are read."""

    under: Source
    change: Callable[[Any], Any]

    @property
    def name(self) -> str:
        return self.under.name

    @property
    def rows(self) -> int | None:
        return self.under.rows

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        return map(self.change, self.under.batches(rows))

    def share(self, index: int, of: int) -> "Changed":
        return replace(self, under=self.under.share(index, of))


def in_memory(source: Source) -> Any:
    """Return all rows of a source at once."""
    return next(blocks(source, 1 << 40)).data


def picked(structure: Any, array: Callable[[str], np.ndarray]) -> Any:
    """Return the arrays that a pytree names; those of a list side by side."""

    def leaf(named: Any) -> np.ndarray:
        return array(named) if isinstance(named, str) else np.column_stack([array(name) for name in named])

    return jax.tree.map(leaf, structure, is_leaf=lambda node: isinstance(node, list))
