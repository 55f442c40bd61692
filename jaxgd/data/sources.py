"""Rows from what a user has: files, arrays in memory or mapped, tables, and whatever yields batches again and again."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgd.data import parquet
from jaxgd.data.blocks import Source, check_share, part_of, paths, rows_at_a_time, uneven
from jaxgd.data.npy import Array, Chain, check_numbers, header

NEW = "Pass a function that returns a new one, such as `lambda: read(...)`."
KINDS = ".npy, " + ", ".join(parquet.SUFFIXES)


def open_source(where: Any, columns: Any = None) -> Source:
    """Return the rows of what was passed as data, without reading them.

    Args:
        where: a path, a folder or a list of paths of `.npy`, Parquet or Arrow files, one after the other; a pyarrow
            `Table` or `Dataset`; a pytree of arrays or of `.npy` files, read in step; a function without arguments
            that returns an iterator of batches, or a list or other iterable of batches; or a `Source`.
        columns: of Parquet and Arrow alone: a pytree of names, where a string is one column and a list of strings a
            matrix. None is a dict of all columns.

    """
    if isinstance(where, Iterator):
        msg = f"`data` is a {type(where).__name__}, which can be read only once. {NEW}"
        raise TypeError(msg)
    if isinstance(where, Source):
        return where
    if type(where).__module__.partition(".")[0] == "pyarrow":
        return parquet.open_object(where, columns, "`data`")
    if _is_files(where):
        files = _files(where, "data")
        suffix = Path(files[0]).suffix.lower()
        if suffix in parquet.SUFFIXES:
            return parquet.open_files(files, suffix, columns, str(where) if _is_path(where) else "`data`")
    if columns is not None:
        msg = f"`columns={columns!r}` is for Parquet and Arrow; `data` is {_described(where)}. Leave it out."
        raise TypeError(msg)
    is_node = not isinstance(where, list) and not jax.tree_util.all_leaves([where])
    if _is_files(where) or _is_array_like(where) or is_node:
        return _in_step(where)
    if isinstance(where, Iterable):
        return _Batches("`data`", where.__iter__)
    if callable(where):
        name = getattr(where, "__name__", "<lambda>")
        return _Batches("`data`" if name == "<lambda>" else f"`{name}()`", where)
    msg = f"`data` is {_described(where)}; rows are read from files, arrays, tables or batches. Pass one of these."
    raise TypeError(msg)


@dataclass(frozen=True)
class _Batches:
    """What yields batches; every `step`-th of them, from `first` on."""

    name: str
    make: Callable[[], Any]
    first: int = 0
    step: int = 1
    rows: int | None = None

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        del rows  # batches are as they come
        made = self.make()
        if not isinstance(made, Iterable):
            msg = f"{self.name} returns {_described(made)}; it must return an iterator of batches. {NEW}"
            raise TypeError(msg)
        return itertools.islice(iter(made), self.first, None, self.step)

    def share(self, index: int, of: int) -> "_Batches":
        check_share(index, of)
        name = f"part {index} of {of} of {self.name}"
        return replace(self, name=name, first=self.first + self.step * index, step=self.step * of)


@dataclass(frozen=True)
class _InStep:
    """Rows `low` to `high` of arrays and files of arrays, of one length."""

    name: str
    leaves: tuple[Any, ...]
    structure: Any
    low: int
    high: int

    @property
    def rows(self) -> int:
        return self.high - self.low

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        size = rows_at_a_time(sum(leaf.row_bytes for leaf in self.leaves), rows)
        for low in range(self.low, self.high, size):
            high = min(low + size, self.high)
            yield self.structure.unflatten([leaf.read(low, high) for leaf in self.leaves])

    def share(self, index: int, of: int) -> "_InStep":
        return part_of(self, index, of)


def _in_step(where: Any) -> _InStep:
    given, structure = jax.tree.flatten(where, is_leaf=lambda node: isinstance(node, list))
    names = [f"data{place}" for place in (paths(structure) if given else [])]
    leaves = tuple(_opened(leaf, name) for leaf, name in zip(given, names, strict=True))
    lengths = [leaf.rows for leaf in leaves]
    if not leaves:
        msg = f"`data` holds no arrays; got {where!r}. Pass at least one, rows first."
        raise ValueError(msg)
    if len(set(lengths)) > 1:
        raise ValueError(f"`data` has {uneven(structure, lengths)}.")
    return _InStep(str(where) if _is_path(where) else "`data`", leaves, structure, 0, lengths[0])


def _opened(leaf: Any, name: str) -> Array | Chain:
    """Return a leaf as what has rows to read."""
    if not _is_files(leaf):
        array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
        check_numbers(array.dtype, array.shape, f"`{name}`")
        return Array(array)
    files = tuple(map(header, _files(leaf, name)))
    for file in files[1:]:
        (kind, shape), first = (file.dtype, file.shape[1:]), (files[0].dtype, files[0].shape[1:])
        if (kind, shape) != first:
            msg = f"{file.path} has {kind} rows of shape {shape}; {files[0].path} {first[0]} of shape {first[1]}."
            raise ValueError(msg + " Write all files alike.")
    return Chain(files)


def _files(where: Any, name: str) -> list[str]:
    """Return the files of a path, a folder or a list of them; refuse files of several kinds."""
    files = [file for item in (where if isinstance(where, list) else [where]) for file in _expanded(item)]
    kinds = {Path(file).suffix.lower(): file for file in files}
    for suffix, file in kinds.items():
        if suffix not in {".npy", *parquet.SUFFIXES}:
            what = "folder" if Path(file).is_dir() else "file"
            msg = f"`{name}` has the {what} {file}; files of type {KINDS} can be read."
            raise ValueError(f"{msg} Pass a pyarrow Dataset, or a function that returns an iterator of batches.")
    if len(kinds) > 1:
        msg = f"`{name}` has files of several kinds: {', '.join(kinds.values())}. Pass files of one kind."
        raise ValueError(msg)
    return files


def _expanded(path: Any) -> list[str]:
    """Return a file, or the files of a folder by name, but for those that are hidden or marks, such as _SUCCESS."""
    if "://" in str(path):
        msg = f"{path} is not on this machine's file system. Pass a pyarrow Dataset: `pyarrow.dataset.dataset(...)`."
        raise ValueError(msg)
    if not Path(path).is_dir():
        Path(path).stat()  # what is not there is an OSError that says so
        return [str(path)]
    files = sorted(str(file) for file in Path(path).iterdir() if not file.name.startswith(("_", ".")))
    if not files:
        msg = f"the folder {path} holds no files. Pass one with files of type {KINDS}."
        raise ValueError(msg)
    return files


def _is_path(item: Any) -> bool:
    return isinstance(item, str | os.PathLike)


def _is_files(item: Any) -> bool:
    return _is_path(item) or (isinstance(item, list) and bool(item) and all(map(_is_path, item)))


def _is_array_like(item: Any) -> bool:
    return hasattr(item, "__array__") and not isinstance(item, np.generic)


def _described(item: Any) -> str:
    return repr(item) if isinstance(item, str | bool | int | float | None) else f"a {type(item).__name__}"
