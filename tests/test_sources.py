"""Rows on disk and in batches: read in bounded memory, whole and in parts; what is wrong is refused by name."""

import gc
import io
import itertools
import re
import threading
import time
import tracemalloc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from jaxgd.data import npy as npy_files
from jaxgd.data.blocks import Expected, ahead, blocks
from jaxgd.data.sources import open_source

RNG = np.random.default_rng(5)
ROWS = 1000
X = RNG.normal(size=(ROWS, 6)).astype(np.float32)
Y = np.arange(ROWS, dtype=np.int64)
MATRIX = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), 6)
TABLE = pa.table({"x": MATRIX, "y": Y, "even": Y % 2 == 0, "price": X[:, 0], "cost": X[:, 1]})


class Pair(NamedTuple):
    X: object
    y: object


class Loader:
    """Yields anew each time, as a data loader does."""

    def __iter__(self):
        return iter([(X[:400], Y[:400]), (X[400:], Y[400:])])


def batches():
    for low in range(0, ROWS, 90):
        yield X[low : low + 90], Y[low : low + 90]


def whole(source, size=128, seen=None):
    """All rows of a source, by blocks; checks their sizes and numbers."""
    found = list(blocks(source, size, seen))
    sizes = [len(jax.tree.leaves(block.data)[0]) for block in found]
    assert sizes[:-1] == [size] * (len(found) - 1)
    assert 1 <= sizes[-1] <= size
    assert [block.row for block in found] == [size * i for i in range(len(found))]
    assert [block.batch for block in found] == sorted(block.batch for block in found)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *[block.data for block in found])


def same(found, *expected):
    leaves = jax.tree.leaves(found)
    assert len(leaves) == len(expected)
    for leaf, other in zip(leaves, expected, strict=True):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other)


def save(path, array):
    np.save(path, array)
    return path


def numbered(folder, save_one, ending, cuts=(0, 300, 310, ROWS)):
    """Files of the rows, in the order of their names."""
    folder.mkdir()
    for i, (low, high) in enumerate(itertools.pairwise(cuts)):
        save_one(folder / f"part{i}{ending}", low, high)
    return folder


def parquet(path, low=0, high=ROWS, groups=130):
    pq.write_table(TABLE.slice(low, high - low), path, row_group_size=groups)
    return path


def arrow(path, low=0, high=ROWS):
    pa.feather.write_feather(TABLE.slice(low, high - low), str(path), chunksize=130)
    return path


def npy(path, low=0, high=ROWS):
    return save(path, X[low:high])


PLACES = {
    "npy": lambda tmp: npy(tmp / "x.npy"),
    "npy by its name": lambda tmp: str(npy(tmp / "x.npy")),
    "npy by columns": lambda tmp: save(tmp / "f.npy", np.asfortranarray(X)),
    "npy folder": lambda tmp: numbered(tmp / "all", npy, ".npy"),
    "npy list": lambda tmp: sorted(numbered(tmp / "all", npy, ".npy", (0, 300, 300, ROWS)).iterdir()),
    "array": lambda _: X,
    "jax": lambda _: jnp.asarray(X),
    "mapped": lambda tmp: np.load(npy(tmp / "x.npy"), mmap_mode="r"),
    "frame": lambda _: pd.DataFrame(X),
    "list of batches": lambda _: [X[:10], X[10:10], X[10:700], X[700:]],
    "function": lambda _: lambda: (batch[0] for batch in batches()),
}
PAIRS = {
    "npy": lambda tmp: (npy(tmp / "x.npy"), save(tmp / "y.npy", Y)),
    "npy folder and array": lambda tmp: Pair(numbered(tmp / "all", npy, ".npy"), Y),
    "npy list": lambda tmp: {"X": sorted(numbered(tmp / "all", npy, ".npy").iterdir()), "y": Y},
    "arrays": lambda _: {"X": X, "y": Y},
    "batches": lambda _: batches,
    "loader": lambda _: Loader(),
}
TABLES = {
    "parquet": parquet,
    "parquet of one group": lambda path: parquet(path, groups=ROWS),
    "parquet folder": lambda path: numbered(path.parent / "all", parquet, ".parquet"),
    "parquet with an empty file": lambda path: numbered(
        path.parent / "all", parquet, ".parquet", (0, 0, 300, 300, ROWS)
    ),
    "parquet list": lambda path: sorted(numbered(path.parent / "all", parquet, ".parquet").iterdir()),
    "arrow": lambda path: arrow(path.with_suffix(".arrow")),
    "feather": lambda path: arrow(path.with_suffix(".feather")),
    "ipc folder": lambda path: numbered(path.parent / "all", arrow, ".ipc"),
    "table": lambda _: TABLE,
    "dataset of a table": lambda _: ds.dataset(TABLE),
    "dataset": lambda path: ds.dataset(parquet(path)),
    "dataset of files": lambda path: ds.dataset(numbered(path.parent / "all", parquet, ".parquet")),
    "filtered dataset": lambda path: ds.dataset(parquet(path)).filter(ds.field("y") >= 0),
}
PARTS = {
    **PLACES,
    **{f"{name} with y": place for name, place in PAIRS.items()},
    **{name: lambda tmp, place=place: place(tmp / "t.parquet") for name, place in TABLES.items()},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_reads_an_array(place, tmp_path):
    source = open_source(place(tmp_path))
    for size in (7, 128, ROWS, 5000):
        same(whole(source, size), X)


@pytest.mark.parametrize("place", PAIRS.values(), ids=PAIRS)
def test_reads_in_step(place, tmp_path):
    where = place(tmp_path)
    found = whole(open_source(where))
    assert isinstance(found, dict | tuple)
    assert isinstance(found, type(where)) or callable(where) or isinstance(where, Loader)
    same(found, X, Y)


@pytest.mark.parametrize("place", TABLES.values(), ids=TABLES)
def test_reads_columns(place, tmp_path):
    where = place(tmp_path / "t.parquet")
    found = whole(open_source(where, columns=(["cost", "price"], {"y": "y"}, "x", ["even", "price"])))
    same(found, X[:, 1::-1], Y, X, np.stack([Y % 2 == 0, X[:, 0]], axis=1).astype(np.float32))
    source = open_source(where)
    for _ in range(2):
        found = whole(source, 300)
        assert sorted(found) == sorted(TABLE.column_names)
        same([found["even"], found["x"], found["y"]], Y % 2 == 0, X, Y)


@pytest.mark.parametrize("of", [1, 3, 8])
@pytest.mark.parametrize("place", PARTS.values(), ids=PARTS)
def test_parts_are_all_rows_once(place, of, tmp_path):
    source = open_source(place(tmp_path))
    parts = [source.share(i, of) for i in range(of)]
    found = [np.concatenate([jax.tree.leaves(b)[-1] for b in part.batches(7)] or [Y[:0]]) for part in parts]
    for part, rows in zip(parts, found, strict=True):
        assert part.rows is None or part.rows == len(rows)
    expected = jax.tree.leaves(next(source.batches()))[-1]
    rows = np.concatenate([row for row in found if len(row)])
    every = whole(source)
    every = jax.tree.leaves(every)[-1]
    assert len(rows) == ROWS
    assert rows.dtype == expected.dtype
    assert sorted(map(str, rows)) == sorted(map(str, every))


def test_parts_of_parts(tmp_path):
    for where in (batches, parquet(tmp_path / "t.parquet"), ds.dataset(tmp_path / "t.parquet"), {"y": Y}):
        source = open_source(where, columns=None if where is batches or isinstance(where, dict) else {"y": "y"})
        found = [
            jax.tree.leaves(b)[-1] for i in range(2) for j in range(3) for b in source.share(i, 2).share(j, 3).batches()
        ]
        np.testing.assert_array_equal(np.sort(np.concatenate(found)), Y)


def test_a_part_reads_its_row_groups_alone(tmp_path):
    path = parquet(tmp_path / "t.parquet", groups=100)
    source = open_source(path, columns={"y": "y"}).share(2, 5)
    assert source.rows == 200
    assert source.name == f"part 2 of 5 of {path}"
    same(whole(source), Y[400:600])
    assert open_source(ds.dataset(path)).share(1, 5).rows == 200


def test_rows_are_known_without_reading(tmp_path):
    known = [X, parquet(tmp_path / "t.parquet"), arrow(tmp_path / "t.arrow"), TABLE, ds.dataset(tmp_path / "t.parquet")]
    assert [open_source(where).rows for where in known] == [ROWS] * 5
    assert open_source(batches).rows is None
    assert open_source(ds.dataset(known[1]).filter(ds.field("y") > 3)).rows is None


def test_other_numbers(tmp_path):
    swapped = save(tmp_path / "swapped.npy", Y.astype(">i8"))
    same(whole(open_source(swapped)), Y)
    cube = RNG.normal(size=(50, 3, 4))
    same(whole(open_source(save(tmp_path / "cube.npy", np.asfortranarray(cube))), 20), cube)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(cube.reshape(-1)), 4)
    nested = pa.table({"cube": pa.FixedSizeListArray.from_arrays(inner, 3), "a.b": Y[:50]})
    same(whole(open_source(nested), 20), Y[:50], cube)
    pq.write_table(nested, tmp_path / "nested.parquet", row_group_size=20)
    same(whole(open_source(tmp_path / "nested.parquet"), 20), Y[:50], cube)
    same(whole(open_source(tmp_path / "nested.parquet", columns="a.b"), 20), Y[:50])


def test_marks_in_folders_are_left_out(tmp_path):
    folder = numbered(tmp_path / "all", parquet, ".parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part0.parquet.crc").touch()
    same(whole(open_source(folder, columns="y")), Y)


def test_blocks_within_a_batch_are_views():
    found = list(blocks(open_source([X, X[:500]]), 500))
    assert all(np.shares_memory(block.data, X) for block in found)
    assert [(block.row, block.batch) for block in found] == [(0, 0), (500, 0), (1000, 1)]


def test_columns_are_not_copied():
    found = next(blocks(open_source(TABLE), 300)).data
    values = np.asarray(TABLE["x"].chunk(0).flatten())
    assert np.shares_memory(found["x"], values)
    assert np.shares_memory(found["price"], TABLE["price"].chunk(0).to_numpy())


def test_npy_is_read_in_bounded_memory(tmp_path, monkeypatch):
    path = save(tmp_path / "big.npy", np.zeros((20_000, 128), np.float32))
    monkeypatch.setattr("jaxgd.data.blocks.CHUNK", 1 << 18)
    most, opened = [], io.open

    def counting(*args, **options):
        file = opened(*args, **options)
        if options.get("buffering") == 0:
            fill = file.readinto
            return Counting(file, lambda view: most.append(len(view)) or fill(view))
        return file

    monkeypatch.setattr(npy_files.Path, "open", counting)
    for source in (open_source(path), open_source(np.load(path, mmap_mode="r"))):
        tracemalloc.start()
        rows = sum(len(block.data) for block in blocks(source, 500))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == 20_000
        assert peak < 2e6  # of 10 MB
    assert max(most) <= 1 << 18


class Counting:
    """A file that tells how much is read at a time."""

    def __init__(self, file, readinto):
        self.seek, self.readinto, self._file = file.seek, readinto, file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def test_parquet_is_read_in_bounded_memory(tmp_path):
    values = np.zeros((40_000, 256), np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 256)
    pq.write_table(pa.table({"x": column}), tmp_path / "one.parquet", compression=None, use_dictionary=False)
    del values, column
    gc.collect()
    source, before, most = open_source(tmp_path / "one.parquet"), pa.total_allocated_bytes(), 0
    for _ in source.batches(1000):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 25e6  # of 41 MB, in one row group


# Each row: the error, the words it must hold, where the rows are, and the columns.
def null(tmp):
    path = tmp / "n.parquet"
    pq.write_table(pa.table({"x": [1.0, None, None, 4.0], "y": Y[:4]}), path)
    return path


def null_in_list():
    return pa.table({"x": pa.array([[1.0, 2.0], [None, 3.0]], pa.list_(pa.float64(), 2))})


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def empty(path):
    path.mkdir()
    return path


def written(path, content=b"no"):
    path.write_bytes(content)
    return path


def unlike(tmp, second, name="b"):
    for file, table in (("a", TABLE), (name, second)):
        pq.write_table(table, tmp / f"{file}.parquet")
    return tmp


REFUSED = {
    "iterator": (TypeError, ["generator", "only once", "lambda: read(...)"], lambda _: batches(), None),
    "reader": (TypeError, ["RecordBatchReader", "lambda: read(...)"], lambda _: TABLE.to_reader(), None),
    "iterator in function": (TypeError, ["returns None", "iterator"], lambda _: lambda: None, None),
    "number": (TypeError, ["`data` is 3", "files, arrays"], lambda _: 3, None),
    "nothing": (ValueError, ["no arrays", "()"], lambda _: (), None),
    "single number": (ValueError, ["`data[0]`", "rows first"], lambda _: (np.float32(1).reshape(()), X), None),
    "strings": (TypeError, ["`data['a']`", "<U1"], lambda _: {"a": np.array(["a"])}, None),
    "record batch": (TypeError, ["RecordBatch", "Table or a Dataset"], lambda _: TABLE.to_batches()[0], None),
    "not there": (FileNotFoundError, ["none.npy"], lambda tmp: tmp / "none.npy", None),
    "elsewhere": (ValueError, ["s3://rows", "pyarrow.dataset"], lambda _: "s3://rows/x.parquet", None),
    "kind": (ValueError, ["t.csv", ".parquet", "function"], lambda tmp: written(tmp / "t.csv"), None),
    "empty folder": (ValueError, ["no files", "all"], lambda tmp: empty(tmp / "all"), None),
    "folder in folder": (ValueError, ["folder", "year=1"], lambda tmp: empty(tmp / "year=1").parent, None),
    "two kinds": (
        ValueError,
        ["several kinds", "a.npy", "b.parquet"],
        lambda tmp: [npy(tmp / "a.npy"), parquet(tmp / "b.parquet")],
        None,
    ),
    "parquet in step": (ValueError, ["b.parquet", "by themselves"], lambda tmp: (parquet(tmp / "b.parquet"), Y), None),
    "lengths": (ValueError, ["1000 rows in [0] and 999 in [1]"], lambda _: (X, Y[1:]), None),
    "npy unlike": (
        ValueError,
        ["b.npy has float64 rows of shape ()", "a.npy float32 of shape (6,)", "alike"],
        lambda tmp: [npy(tmp / "a.npy"), save(tmp / "b.npy", np.zeros(3))],
        None,
    ),
    "npy cut": (
        ValueError,
        ["x.npy ends early", "promises 1000 rows and holds 40"],
        lambda tmp: cut(npy(tmp / "x.npy"), 128 + 40 * 24),
        None,
    ),
    "no npy": (ValueError, ["x.npy is no .npy file", "numpy.save"], lambda tmp: written(tmp / "x.npy"), None),
    "npy objects": (TypeError, ["o.npy holds object"], lambda tmp: save(tmp / "o.npy", np.array([{}])), None),
    "npy number": (ValueError, ["o.npy is a single number"], lambda tmp: save(tmp / "o.npy", np.array(1.0)), None),
    "no parquet": (ValueError, ["x.parquet cannot be read", "Parquet"], lambda tmp: written(tmp / "x.parquet"), None),
    "no arrow": (ValueError, ["x.arrow cannot be read", "Arrow"], lambda tmp: written(tmp / "x.arrow"), None),
    "columns of arrays": (TypeError, ["`columns='x'`", "ndarray", "Leave it out"], lambda _: X, "x"),
    "columns of npy": (TypeError, ["`columns=", "Leave it out"], lambda tmp: npy(tmp / "x.npy"), ["x"]),
    "missing column": (ValueError, ["'prise'", "Did you mean 'price'?", "'cost'"], lambda _: TABLE, {"a": "prise"}),
    "number for a column": (TypeError, ["holds 3", "pytree of names"], lambda _: TABLE, (["x"], 3)),
    "no columns": (TypeError, ["holds []", "pytree of names"], lambda _: TABLE, ([], "y")),
    "matrix in a list": (ValueError, ["'x' in the list", "by itself"], lambda _: TABLE, ["x", "y"]),
    "text": (TypeError, ["'s'", "string", "Encode"], lambda _: pa.table({"s": ["a"]}), None),
    "date": (TypeError, ["'s'", "timestamp"], lambda _: pa.table({"s": pa.array([1], pa.timestamp("s"))}), None),
    "lists": (TypeError, ["'s'", "list", "pyarrow.list_(double, length)"], lambda _: pa.table({"s": [[1.0]]}), None),
    "twice": (ValueError, ["2 columns named 'a'"], lambda _: pa.table([[1], [2]], ["a", "a"]), "a"),
    "null": (ValueError, ["'x' holds nulls: 2 in rows 0 to 3 of", "n.parquet", "drop"], null, None),
    "null in a list": (ValueError, ["'x' holds nulls: 1 in", "`data`"], lambda _: null_in_list(), None),
    "null in a dataset": (ValueError, ["'x' holds nulls: 2", "n.parquet"], lambda tmp: ds.dataset(null(tmp)), None),
    "file without": (
        ValueError,
        ["b.parquet has no column 'x'", "a.parquet has"],
        lambda tmp: unlike(tmp, TABLE.drop(["x"])),
        None,
    ),
    "file unlike": (
        ValueError,
        ["'y' is int32 in", "b.parquet; int64 in", "a.parquet"],
        lambda tmp: unlike(tmp, pa.table({"y": pa.array([1], pa.int32())})),
        "y",
    ),
}
UNLIKE = {
    "none": (ValueError, ["`data` holds no rows", "at least one"], []),
    "empty": (ValueError, ["`data` holds no rows"], [X[:0], X[:0]]),
    "no arrays": (ValueError, ["batch 0 of `data` holds no arrays"], [(), ()]),
    "text": (TypeError, ["batch 0 of `data` holds <U1", "in [0]"], [(np.array(["a"]),)]),
    "number": (ValueError, ["batch 0 of `data` has no rows", "rows first"], [1.0, 2.0]),
    "later number": (ValueError, ["batch 1 of `data` has no rows"], [Y, np.int64(3)]),
    "structure": (ValueError, ["batch 1 of `data` is", "those before"], [(X, Y), {"X": X}]),
    "shape": (
        ValueError,
        ["batch 1 of `data` has rows of shape (5,) in [0]; those before had (6,)."],
        [(X,), (X[:, 1:],)],
    ),
    "type": (ValueError, ["batch 2 of `data` holds float64; those before held float32"], [X, X, X.astype(float)]),
    "lengths": (ValueError, ["batch 1 of `data` has 1000 rows in [0] and 2 in [1]"], [(X, Y), (X, Y[:2])]),
}


def refused(kind, words, call):
    with pytest.raises(kind) as caught:
        call()
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


@pytest.mark.parametrize(("kind", "words", "place", "columns"), REFUSED.values(), ids=REFUSED)
def test_refused(kind, words, place, columns, tmp_path):
    refused(kind, words, lambda: list(open_source(place(tmp_path), columns).batches()))


@pytest.mark.parametrize(("kind", "words", "given"), UNLIKE.values(), ids=UNLIKE)
def test_batches_unlike(kind, words, given):
    refused(kind, words, lambda: list(blocks(open_source(given), 100)))


def test_nulls_in_a_part(tmp_path):
    dataset = ds.dataset(
        [str(null(tmp_path)), str(parquet(tmp_path / "t.parquet"))], schema=pa.schema({"x": pa.float64()})
    )
    part = open_source(dataset).share(0, 2)
    refused(ValueError, ["holds nulls: 2 in rows 0 to 3 of what this part reads of"], lambda: list(part.batches()))


def test_sizes_refused():
    refused(ValueError, ["`size`", "got 0"], lambda: list(blocks(open_source(X), 0)))
    refused(ValueError, ["`depth`", "got 0"], lambda: ahead([], 0))
    for where in (X, batches, TABLE, ds.dataset(TABLE)):
        refused(ValueError, ["`index`", "3 processes", "got 3"], lambda where=where: open_source(where).share(3, 3))


def test_npy_cut_while_read(tmp_path):
    source = open_source(npy(tmp_path / "x.npy"))
    cut(tmp_path / "x.npy", 2000)
    refused(ValueError, ["x.npy ends before row 1000", "Leave it"], lambda: whole(source))
    (tmp_path / "x.npy").unlink()
    refused(FileNotFoundError, ["x.npy"], lambda: whole(source))


@pytest.mark.parametrize(
    ("later", "words"), [(0, "yields 0 rows"), (999, "yields 999 rows"), (1001, "yields more rows")]
)
def test_a_second_pass_of_other_length(later, words):
    lengths = iter([ROWS, later])
    rows = np.zeros(2000)
    source, seen = open_source(lambda: iter([rows[: next(lengths)]])), Expected()
    assert len(whole(source, 128, seen)) == ROWS
    assert (seen.rows, seen.passes) == (ROWS, 1)
    refused(ValueError, [words, "the second time; 1000 the first", "new iterator"], lambda: whole(source, 128, seen))


def test_a_second_pass_of_another_kind():
    kinds = iter([np.float32, np.float64])
    source, seen = open_source(lambda: iter([np.zeros(5, next(kinds))])), Expected()
    whole(source, 2, seen)
    refused(ValueError, ["batch 0", "float64", "before held float32"], lambda: whole(source, 2, seen))


def test_without_pyarrow(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("jaxgd.data.columns.importlib.import_module", missing)
    with pytest.raises(ImportError, match=re.escape("need pyarrow: pip install 'jaxgd[arrow]'.")):
        open_source(path)


def test_ahead_is_in_order():
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead([])) == []
    same(np.concatenate([block.data for block in ahead(blocks(open_source(X), 64), depth=1)]), X)


def test_ahead_raises_in_place():
    def failing():
        yield from (1, 2, 3)
        raise OSError(5, "gone")

    found, items = [], ahead(failing(), depth=5)
    with pytest.raises(OSError, match="gone"):
        found.extend(items)
    items = ahead(failing())
    assert [next(items) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(OSError, match="gone"):
        next(items)


@pytest.mark.parametrize("depth", [1, 3])
def test_ahead_is_bounded_and_ends_early(depth):
    made, ended = [], threading.Event()

    def endless():
        try:
            for i in itertools.count():
                made.append(i)
                yield i
        finally:
            ended.set()

    items = ahead(endless(), depth)
    assert not made
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= depth + 1
    items.close()
    assert ended.wait(2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxgd") and thread_lives(thread)]


def thread_lives(thread):
    thread.join(2)
    return thread.is_alive()


def test_ahead_left_alone_ends():
    ended = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            ended.set()

    for item in ahead(endless()):
        if item == 5:
            break
    gc.collect()
    assert ended.wait(2)
