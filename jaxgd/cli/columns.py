"""CSV, Parquet and Arrow files as the command line reads them, whole or a few rows at a time."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxgd.cli.arrays import LARGE, in_memory
from jaxgd.data import columns, parquet
from jaxgd.data.blocks import Source
from jaxgd.data.sources import open_source

CSV = {".csv": ",", ".tsv": "\t"}


class Table:
    """The columns of a CSV, Parquet or Arrow file, by pyarrow."""

    named = True

    def __init__(self, path: str, suffix: str, *, stream: bool | None) -> None:
        """Read what columns there are; all of a CSV file that is not read anew at each pass."""
        self.path, self._suffix, self._stream, self._held = path, suffix, stream, dict[str, Any]()
        if suffix in CSV and stream is None:
            self._stream = Path(path).stat().st_size > LARGE
        self._dataset = self._reading(self._open)
        self._schema = self._dataset.schema
        self.names: list[str] = list(self._schema.names)
        if suffix in CSV and len(self.names) == 1 and any(mark in self.names[0] for mark in ";,\t"):
            msg = (
                f"DATA {path} has one column, {self.names[0]!r}. They are apart by commas in .csv, tabs in .tsv files."
            )
            raise ValueError(msg)
        if not (suffix in CSV and self._stream) and not self._reading(self._dataset.count_rows):
            raise ValueError(f"DATA {path} has no rows; a loss of nothing has no minimum.")

    def _open(self) -> Any:
        if self._suffix not in CSV:
            format_ = "parquet" if parquet.SUFFIXES[self._suffix] == "Parquet" else "ipc"
            return columns.pyarrow("dataset").dataset(self.path, format=format_)
        csv, types = columns.pyarrow("csv"), columns.pyarrow("types")
        parse = csv.ParseOptions(delimiter=CSV[self._suffix])
        if not self._stream:
            return columns.pyarrow("dataset").dataset(csv.read_csv(self.path, parse_options=parse))

        def dataset(kinds: dict[str, Any]) -> Any:
            options = csv.ConvertOptions(column_types=kinds)
            format_ = columns.pyarrow("dataset").CsvFileFormat(parse_options=parse, convert_options=options)
            return columns.pyarrow("dataset").dataset(self.path, format=format_)

        # Types are those of the first block: what is whole or missing there may be a fraction further on.
        wide, first = columns.pyarrow().float64(), dataset({}).schema
        return dataset({f.name: wide for f in first if types.is_integer(f.type) or types.is_null(f.type)})

    def _reading(self, read: Callable[[], Any]) -> Any:
        """Return what is read; say in one sentence what is wrong with the file."""
        try:
            pa = columns.pyarrow()
        except ImportError as error:
            raise ImportError(f"DATA {self.path} needs pyarrow to be read: pip install 'jaxgd[arrow]'.") from error
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            kind = self._suffix[1:].upper() if self._suffix in CSV else parquet.SUFFIXES[self._suffix]
            msg = f"DATA {self.path} cannot be read as a file of type {kind}: {' '.join(str(error).split())}"
            raise ValueError(msg) from error

    @cached_property
    def numeric(self) -> list[str]:
        """The columns that hold numbers."""
        return [name for name in self.names if self._planned(name)]

    def _planned(self, structure: Any) -> Any:
        try:
            return columns.planned(structure, self._schema, self.path)
        except (TypeError, ValueError):
            return None

    def is_matrix(self, name: str) -> bool:
        """Whether a column is a matrix by itself."""
        return columns.pyarrow("types").is_fixed_size_list(self._schema.field(name).type)

    def streams(self, names: list[str]) -> bool:
        """Whether a few rows are read at a time."""
        if self._stream is not None:
            return self._stream
        plan = self._planned({name: name for name in names})
        return plan is not None and self._reading(self._dataset.count_rows) * plan.row_bytes > LARGE

    def _all(self, names: list[str]) -> list[str]:
        """Read these columns, those that are not at hand yet."""
        missing = [name for name in names if name not in self._held]
        if missing:
            table = self._reading(lambda: self._dataset.to_table(columns=missing))
            self._held |= {name: table.column(name) for name in missing}
        return names

    def _column(self, name: str) -> Any:
        return self._held[self._all([name])[0]]

    def read(self, structure: Any) -> Any:
        """Return the columns that a pytree names as arrays."""
        plan = columns.planned(structure, self._schema, self.path)
        table = columns.pyarrow().table({name: self._column(name) for name in self._all(plan.names)})
        return in_memory(open_source(table, structure))

    def source(self, structure: Any) -> Source:
        """Return the same as a source of rows."""
        return open_source(self._dataset if self._suffix in CSV else self.path, structure)

    def labels(self, name: str) -> np.ndarray:
        """Return a column of labels, one for each row."""
        column = self._column(name)
        if columns.pyarrow("types").is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        values = column.to_numpy()
        missing = column.null_count + (int(np.sum(values == "")) if values.dtype == object else 0)
        if missing:  # an empty cell of a CSV file is text without letters
            raise ValueError(f"--by: column {name!r} has no label for {missing} of {len(column)} rows.")
        return values.astype(str) if values.dtype == object else values
