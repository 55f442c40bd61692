"""Arrays in memory, mapped to it, or in `.npy` files: a range of rows at a time."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Array:
    """An array in memory, or mapped to it."""

    array: Any

    @property
    def rows(self) -> int:
        return len(self.array)

    @property
    def row_bytes(self) -> int:
        return self.array.nbytes // max(len(self.array), 1)

    def read(self, low: int, high: int) -> np.ndarray:
        rows = self.array[low:high]
        # What is mapped is read from the disk here, not where it is computed with.
        return np.array(rows, subok=False) if isinstance(rows, np.memmap) else np.asarray(rows)


@dataclass(frozen=True)
class Npy:
    """A `.npy` file: opened for each read, into new memory."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def read(self, low: int, high: int) -> np.ndarray:
        size = self.dtype.itemsize
        with Path(self.path).open("rb", buffering=0) as file:
            if not self.fortran:
                array = np.empty((high - low, *self.shape[1:]), self.dtype)
                self._fill(file, self.offset + low * self.row_bytes, array, high)
                return array
            # In this order the rows are what varies fastest: a piece of each column.
            turned = np.empty((*self.shape[:0:-1], high - low), self.dtype)
            for number, column in enumerate(turned.reshape(-1, high - low)):
                self._fill(file, self.offset + (number * self.rows + low) * size, column, high)
            return np.ascontiguousarray(turned.T)

    def _fill(self, file: Any, offset: int, array: np.ndarray, high: int) -> None:
        flat: Any = array.reshape(-1).view(np.uint8)
        view, done = memoryview(flat), 0
        file.seek(offset)
        while done < len(view):
            got = file.readinto(view[done:])
            if not got:
                msg = f"{self.path} ends before row {high}; it had {self.rows} when it was opened. Leave it as it is."
                raise ValueError(msg)
            done += got


@dataclass(frozen=True)
class Chain:
    """Files of rows, one after the other."""

    files: tuple[Npy, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def row_bytes(self) -> int:
        return self.files[0].row_bytes

    def read(self, low: int, high: int) -> np.ndarray:
        pieces, start = [], 0
        for file in self.files:
            first, end = max(low - start, 0), min(high - start, file.rows)
            if first < end:
                pieces.append(file.read(first, end))
            start += file.rows
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def header(path: str) -> Npy:
    """Read what a `.npy` file says of itself, and whether it is as long as it says."""
    if Path(path).suffix.lower() != ".npy":
        msg = f"{path} is no .npy file; files in a pytree must be. Pass others by themselves, with `columns`."
        raise ValueError(msg)
    with Path(path).open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except Exception as error:  # whatever NumPy, or the parser of the header, raises
            msg = f"{path} is no .npy file: {error}. Write it with numpy.save."
            raise ValueError(msg) from error
        offset, length = file.tell(), os.fstat(file.fileno()).st_size
    check_numbers(dtype, shape, path)
    npy = Npy(path, shape, dtype, fortran and len(shape) > 1, offset)
    if length < offset + npy.rows * npy.row_bytes:
        found = 0 if npy.fortran else (length - offset) // npy.row_bytes
        msg = f"{path} ends early: it promises {npy.rows} rows and holds {found}. Write it anew."
        raise ValueError(msg)
    return npy


def check_numbers(dtype: np.dtype, shape: tuple[int, ...], name: str) -> None:
    """Refuse what holds no numbers or has no rows."""
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.dtype(bool)):
        msg = f"{name} holds {dtype} values; only numbers can be computed with. Encode or drop them first."
        raise TypeError(msg)
    if not shape:
        msg = f"{name} is a single number; arrays have the rows first. Pass an array of shape (rows, ...)."
        raise ValueError(msg)
