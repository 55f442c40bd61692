"""Columns of Parquet and Arrow files, tables and datasets: a few rows at a time, only those asked for."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxgd.data.blocks import Source, check_share, part, part_of, rows_at_a_time
from jaxgd.data.columns import Plan, check_alike, planned, pyarrow

SUFFIXES = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".ipc": "Arrow"}
BUFFER = 1 << 20  # bytes of each column read at a time


def open_files(files: list[str], suffix: str, columns: Any, name: str) -> Source:
    """Return the rows of files of one kind, one after the other."""
    opened = [_opened(file, suffix) for file in files]
    plan = planned(columns, opened[0].schema, name)
    for file in opened[1:]:
        check_alike(plan, opened[0], file)
    return _Files(name, tuple(opened), plan, 0, sum(file.rows for file in opened))


def open_object(where: Any, columns: Any, name: str) -> Source:
    """Return the rows of a `pyarrow.Table` or a `pyarrow.dataset.Dataset`."""
    if isinstance(where, pyarrow("dataset").Dataset):
        return _Dataset(name, where, planned(columns, where.schema, name))
    if not isinstance(where, pyarrow().Table):
        msg = f"`data` is a pyarrow.{type(where).__name__}; a Table or a Dataset can be read. Pass one of these."
        raise TypeError(msg)
    return _Files(name, (_Table(name, where),), planned(columns, where.schema, name), 0, where.num_rows)


@dataclass(frozen=True)
class _Files:
    """Rows `low` to `high` of files that follow each other."""

    name: str
    files: tuple[Any, ...]
    plan: Plan
    low: int
    high: int

    @property
    def rows(self) -> int:
        return self.high - self.low

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        size, start = rows_at_a_time(self.plan.row_bytes, rows), 0
        for file in self.files:
            low, high = max(self.low - start, 0), min(self.high - start, file.rows)
            if low < high:
                for row, batch in _within(file.read(low, high, self.plan.names, size), low, high):
                    yield self.plan.arrays(batch, row, file.path)
            start += file.rows

    def share(self, index: int, of: int) -> "_Files":
        return part_of(self, index, of)


@dataclass(frozen=True)
class _Table:
    """A `pyarrow.Table`, read as if it were a file."""

    path: str
    table: Any

    @property
    def rows(self) -> int:
        return self.table.num_rows

    def read(self, low: int, high: int, names: list[str], size: int) -> Iterator[tuple[int, Any]]:
        batches = self.table.select(names).slice(low, high - low).to_batches(max_chunksize=size)
        return _numbered(batches, low)


@dataclass(frozen=True)
class _Parquet:
    """A Parquet file: of its row groups, one piece of each column is in memory at a time."""

    path: str
    schema: Any
    metadata: Any

    @property
    def rows(self) -> int:
        return self.metadata.num_rows

    def read(self, low: int, high: int, names: list[str], size: int) -> Iterator[tuple[int, Any]]:
        lengths = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        starts = [0, *itertools.accumulate(lengths)]
        groups = [i for i in range(len(lengths)) if starts[i] < high and starts[i + 1] > low]
        # Read ahead by pyarrow, all of the file would stay in memory until its end.
        options = {"metadata": self.metadata, "pre_buffer": False, "buffer_size": BUFFER}
        with pyarrow("parquet").ParquetFile(self.path, **options) as file:
            yield from _numbered(file.iter_batches(size, row_groups=groups, columns=names), starts[groups[0]])


@dataclass(frozen=True)
class _Arrow:
    """An Arrow file: one of its record batches is in memory at a time."""

    path: str
    schema: Any
    rows: int

    def read(self, low: int, high: int, names: list[str], size: int) -> Iterator[tuple[int, Any]]:
        del low, high, size  # a record batch is read as it was written; how long it is, is known once it is read
        pa, ipc = pyarrow(), pyarrow("ipc")
        options = ipc.IpcReadOptions(included_fields=sorted(map(self.schema.get_field_index, names)))
        with pa.OSFile(self.path) as raw, ipc.open_file(raw, options=options) as file:
            yield from _numbered((file.get_batch(i) for i in range(file.num_record_batches)), 0)


@dataclass(frozen=True)
class _Dataset:
    """A `pyarrow.dataset.Dataset`, or some of its fragments, or every so many of its batches."""

    name: str
    dataset: Any
    plan: Plan
    fragments: tuple[Any, ...] | None = None
    first: int = 0
    step: int = 1

    @property
    def rows(self) -> int | None:
        fragments = self._fragments() if self.fragments is None else self.fragments
        if fragments is None or self.step > 1 or any(_kind(fragment) != "parquet" for fragment in fragments):
            return None
        # `count_rows` of some row groups of a file is that of the file.
        return sum(group.num_rows for fragment in fragments for group in fragment.row_groups)

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        return itertools.islice(self._all(rows_at_a_time(self.plan.row_bytes, rows)), self.first, None, self.step)

    def share(self, index: int, of: int) -> "_Dataset":
        """Return whole fragments or row groups, where there are enough of them; else every so many batches."""
        check_share(index, of)
        name = f"part {index} of {of} of {self.name}"
        pieces = self._fragments() if self.fragments is None else self.fragments
        if pieces is not None and len(pieces) < of and all(_kind(piece) == "parquet" for piece in pieces):
            pieces = [group for piece in pieces for group in piece.split_by_row_group()]
        if pieces is None or len(pieces) < of or self.step > 1:
            return replace(self, name=name, first=self.first + self.step * index, step=self.step * of)
        low, high = part(0, len(pieces), index, of)
        return replace(self, name=name, fragments=tuple(pieces[low:high]))

    def _all(self, size: int) -> Iterator[Any]:
        options: dict[str, Any] = {"columns": self.plan.names, "batch_size": size, "batch_readahead": 4}
        options |= {"fragment_readahead": 1, "use_threads": True}
        if _kind(self.dataset) == "parquet":
            scan = pyarrow("dataset").ParquetFragmentScanOptions
            if self.dataset.format.default_fragment_scan_options == scan():  # else they are the user's own
                options["fragment_scan_options"] = scan(use_buffered_stream=True, buffer_size=BUFFER, pre_buffer=False)
        if self.fragments is None:
            scanners: Any = [self.dataset.scanner(**options)]
        else:
            scanners = (piece.scanner(schema=self.dataset.schema, **options) for piece in self.fragments)
        tagged = itertools.chain.from_iterable(scanner.scan_batches() for scanner in scanners)
        row, last = 0, None
        for batch, fragment in ((each.record_batch, each.fragment) for each in tagged):
            file = getattr(fragment, "path", None) or self.name
            file = file if self.fragments is None else f"what this part reads of {file}"
            row, last = 0 if file != last else row, file
            if batch.num_rows:
                yield self.plan.arrays(batch, row, file)
            row += batch.num_rows

    def _fragments(self) -> list[Any] | None:
        """Return the fragments, or None for a dataset with a filter: pyarrow refuses these."""
        try:
            return list(self.dataset.get_fragments())
        except ValueError:
            return None


def _kind(piece: Any) -> str:
    """Return the name of the file format of a dataset or a fragment."""
    return getattr(getattr(piece, "format", None), "default_extname", "")


def _opened(path: str, suffix: str) -> Any:
    """Return a file with its columns and its number of rows."""
    pa = pyarrow()
    try:
        if SUFFIXES[suffix] == "Parquet":
            with pyarrow("parquet").ParquetFile(path) as file:
                return _Parquet(path, file.schema_arrow, file.metadata)
        dataset = pyarrow("dataset").dataset(path, format="ipc")
        return _Arrow(path, dataset.schema, dataset.count_rows())
    except pa.ArrowInvalid as error:
        msg = f"{path} cannot be read as a file of type {SUFFIXES[suffix]}: {error}. Write it anew."
        raise ValueError(msg) from error


def _numbered(batches: Iterable[Any], row: int) -> Iterator[tuple[int, Any]]:
    """Return record batches with the numbers of their first rows."""
    for batch in batches:
        yield row, batch
        row += batch.num_rows


def _within(batches: Iterator[tuple[int, Any]], low: int, high: int) -> Iterator[tuple[int, Any]]:
    """Return what of record batches is in rows `low` to `high`."""
    for row, batch in batches:
        first, end = max(row, low), min(row + batch.num_rows, high)
        if first < end:
            yield first, batch.slice(first - row, end - first)
        if end == high:
            return
