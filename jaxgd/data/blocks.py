"""Batches of rows regrouped into blocks of one size, and read ahead; later passes must show what the first did."""

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Item = TypeVar("Item")
Ranged = TypeVar("Ranged", bound=Any)
CHUNK = 8 << 20  # bytes read at a time


@runtime_checkable
class Source(Protocol):
    """Where rows come from, as often as they are asked for."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def rows(self) -> int | None:
        """How many there are, where known without reading them."""
        ...

    def batches(self, rows: int | None = None) -> Iterator[Any]:
        """Return pytrees of NumPy arrays, rows first, from the beginning.

        A source that can choose gives multiples of `rows` rows at a time.
        """
        ...

    def share(self, index: int, of: int) -> "Source":
        """Return the part that process `index` of `of` reads; all parts together are the whole."""
        ...


class Block(NamedTuple):
    """Rows in sequence: a pytree of NumPy arrays, the number of its first row, and of the batch that row came in."""

    data: Any
    row: int
    batch: int


@dataclass
class Expected:
    """What the first batch and the first pass showed of a source: later ones must show the same."""

    structure: Any = None
    kinds: tuple[tuple[tuple[int, ...], np.dtype], ...] = ()
    rows: int | None = None
    passes: int = 0

    def leaves(self, batch: Any, place: str) -> list[np.ndarray]:
        """Return the leaves of a batch as arrays; refuse what differs from the batches before."""
        given, structure = jax.tree.flatten(batch)
        arrays = [leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf) for leaf in given]
        if self.structure is None:
            _check_numbers(arrays, structure, place)
        elif structure != self.structure:
            msg = f"{place} is {structure}; those before were {self.structure}. Make all batches alike."
            raise ValueError(msg)
        arrays = [leaf.astype(leaf.dtype.newbyteorder("="), copy=False) for leaf in arrays]
        kinds = tuple((leaf.shape[1:], leaf.dtype) for leaf in arrays)
        if self.structure is None:
            self.structure, self.kinds = structure, kinds
        elif kinds != self.kinds or not all(leaf.ndim for leaf in arrays):
            raise ValueError(self._difference(arrays, place))
        if len({len(leaf) for leaf in arrays}) > 1:
            raise ValueError(f"{place} has {uneven(structure, list(map(len, arrays)))}.")
        return arrays

    def _difference(self, arrays: list[np.ndarray], place: str) -> str:
        """Say in which leaf a batch differs from those before."""
        for leaf, (shape, dtype), where in zip(arrays, self.kinds, paths(self.structure), strict=True):
            inside = f" in {where}" if where else ""
            if not leaf.ndim:
                return f"{place} has no rows{inside}: a single number. Arrays have the rows first."
            if leaf.shape[1:] != shape:
                return f"{place} has rows of shape {leaf.shape[1:]}{inside}; those before had {shape}."
            if leaf.dtype != dtype:
                return f"{place} holds {leaf.dtype}{inside}; those before held {dtype}. Cast them to one type."
        return ""

    def count(self, rows: int, name: str, *, ended: bool) -> None:
        """Refuse a number of rows that is not that of the first pass."""
        if self.rows is None and ended:
            if not rows:
                msg = f"{name} holds no rows; a loss of nothing has no minimum. Pass at least one row."
                raise ValueError(msg)
            self.rows = rows
        elif self.rows is not None and (rows > self.rows or (ended and rows != self.rows)):
            time, found = "the second time" if self.passes == 1 else "this time", rows if ended else "more"
            msg = (
                f"{name} yields {found} rows {time}; {self.rows} the first."
                " Pass a function that returns a new iterator each time, over the same rows."
            )
            raise ValueError(msg)
        self.passes += ended


def blocks(source: Source, size: int, seen: Expected | None = None) -> Iterator[Block]:
    """Regroup the batches of a source into blocks of `size` rows; the last may be shorter.

    A block within one batch is a view of it. `seen` carries over from one pass to the next what must stay the same.
    """
    if size < 1:
        msg = f"`size` must be at least 1 row; got {size}."
        raise ValueError(msg)
    seen = Expected() if seen is None else seen
    parts: list[list[np.ndarray]] = []
    have = row = begin = 0
    for number, batch in enumerate(source.batches(size)):
        leaves = seen.leaves(batch, f"batch {number} of {source.name}")
        length, at = len(leaves[0]), 0
        seen.count(row + have + length, source.name, ended=False)
        while at < length:
            begin = begin if have else number
            take = min(size - have, length - at)
            parts.append([leaf[at : at + take] for leaf in leaves])
            have, at = have + take, at + take
            if have == size:
                yield Block(_joined(seen.structure, parts), row, begin)
                parts, row, have = [], row + size, 0
    if have:
        yield Block(_joined(seen.structure, parts), row, begin)
    seen.count(row + have, source.name, ended=True)


def ahead(items: Iterable[Item], depth: int = 2) -> Generator[Item]:
    """Iterate in a thread of its own, at most `depth` items ahead.

    What the thread raises is raised here, in its place. Closed early, the thread ends with the item it is at.
    """
    if depth < 1:
        msg = f"`depth` must be at least 1 item; got {depth}."
        raise ValueError(msg)
    return _ahead(items, depth)


def _ahead(items: Iterable[Any], depth: int) -> Generator[Any]:
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room, closed = threading.Semaphore(depth), threading.Event()

    def work() -> None:
        try:
            iterator = iter(items)
            try:
                while room.acquire() and not closed.is_set():
                    try:
                        done.put(("item", next(iterator)))
                    except StopIteration:
                        break
            finally:
                getattr(iterator, "close", bool)()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            done.put(("error", error))
        else:
            done.put(("end", None))

    threading.Thread(target=work, name="jaxgd reads ahead", daemon=True).start()
    try:
        while True:
            kind, item = done.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            room.release()
            yield item
            del item  # while the next is waited for, nothing holds this one
    finally:
        closed.set()
        room.release()


def rows_at_a_time(row_bytes: int, rows: int | None) -> int:
    """Return how many rows make up a chunk: a multiple of `rows` where that is given."""
    many = max(CHUNK // max(row_bytes, 1), 1)
    return many if rows is None else max(many // rows, 1) * rows


def part(low: int, high: int, index: int, of: int) -> tuple[int, int]:
    """Return the range of rows that process `index` of `of` reads."""
    check_share(index, of)
    return low + (high - low) * index // of, low + (high - low) * (index + 1) // of


def part_of(source: Ranged, index: int, of: int) -> Ranged:
    """Return the part of a source of rows `low` to `high` that process `index` of `of` reads."""
    low, high = part(source.low, source.high, index, of)
    return replace(source, name=f"part {index} of {of} of {source.name}", low=low, high=high)


def check_share(index: int, of: int) -> None:
    """Refuse a process that is none of those there are."""
    if not 0 <= index < of:
        msg = f"`index` must be one of the {of} processes, 0 to {of - 1}; got {index}."
        raise ValueError(msg)


def paths(structure: Any) -> list[str]:
    """Return how messages call the leaves of a pytree."""
    tree = jax.tree.unflatten(structure, range(structure.num_leaves))
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def uneven(structure: Any, lengths: list[int]) -> str:
    """Say which two leaves have different numbers of rows."""
    where, other = paths(structure), next(i for i, length in enumerate(lengths) if length != lengths[0])
    return f"{lengths[0]} rows in {where[0]} and {lengths[other]} in {where[other]}; all leaves have one for each row"


def _check_numbers(arrays: list[np.ndarray], structure: Any, place: str) -> None:
    """Refuse a first batch that is no arrays of numbers, rows first."""
    if not arrays:
        msg = f"{place} holds no arrays; it is {structure}. Pass at least one, rows first."
        raise ValueError(msg)
    for leaf, where in zip(arrays, paths(structure), strict=True):
        inside = f" in {where}" if where else ""
        if not (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool):
            msg = f"{place} holds {leaf.dtype} values{inside}; only numbers can be computed with. Encode them first."
            raise TypeError(msg)
        if not leaf.ndim:
            msg = f"{place} has no rows{inside}: a single number. Arrays have the rows first."
            raise ValueError(msg)


def _joined(structure: Any, parts: list[list[np.ndarray]]) -> Any:
    """Return the parts of a block as one; a part alone is not copied."""
    if len(parts) == 1:
        return structure.unflatten(parts[0])
    return structure.unflatten([np.concatenate(leaves) for leaves in zip(*parts, strict=True)])
