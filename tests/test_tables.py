"""Tables of three libraries go in as they are: by name where the loss asks by name, else as a matrix."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import jaxgd
from jaxgd import Groups, Rows, losses, minimize, minimize_many
from jaxgd.compile.frames import Frame, is_table

RNG = np.random.default_rng(0)
COLUMNS = {
    "x": RNG.normal(size=60),
    "size": RNG.integers(1, 6, 60),
    "smoker": RNG.random(60) < 0.5,
    "store": np.array(["B", "A", "C"])[np.arange(60) % 3],
    "region": np.array(["south", "north"])[np.arange(60) // 30],
}
COLUMNS["y"] = 2 * COLUMNS["x"] + COLUMNS["size"] - 1 + RNG.normal(size=60) / 10
DESIGN = np.column_stack([COLUMNS["x"], COLUMNS["size"], np.ones(60)])
SLOPES = np.linalg.lstsq(DESIGN, COLUMNS["y"])[0]
INIT = {"x": 0.0, "size": 0.0, "one": 0.0}
MAKERS = pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
NUMBERS = ("x", "size", "y")


def by_name(params, table):
    return jnp.mean((table["y"] - params["x"] * table["x"] - params["size"] * table["size"] - params["one"]) ** 2)


def by_matrix(w, table):
    return jnp.mean((table[:, -1] - table[:, :2] @ w[:2] - w[2]) ** 2)


def some(make, names):
    return make({name: COLUMNS[name] for name in names})


@MAKERS
def test_a_loss_asks_by_name(make):
    for loss in (by_name, jax.jit(by_name), lambda params, table: jax.jit(by_name)(params, table) + 0.0):
        params = minimize(loss, make(COLUMNS), INIT, dtype="float64").check().params
        assert sorted(params) == sorted(INIT)
        assert np.allclose([params[name] for name in INIT], SLOPES, atol=1e-5)


@MAKERS
def test_a_loss_takes_a_matrix(make):
    result = minimize(by_matrix, some(make, NUMBERS), np.zeros(3), dtype="float64").check()
    assert np.allclose(result.params, SLOPES, atol=1e-5)


@MAKERS
def test_a_start_is_inferred(make):
    table = some(make, ["y"])
    for loss in (lambda theta, table: jnp.mean((table["y"] - theta) ** 2), jaxgd.losses.mse):
        assert np.isclose(minimize(loss, table, dtype="float64").params, COLUMNS["y"].mean())


@MAKERS
def test_rows_of_a_table(make):
    weights = COLUMNS["size"] / np.mean(COLUMNS["size"])
    root = np.sqrt(weights)
    expected = np.linalg.lstsq(DESIGN * root[:, None], COLUMNS["y"] * root)[0]
    table = make({**COLUMNS, "weight": weights})
    params = minimize(by_name, Rows(table, weights="weight"), INIT, dtype="float64").check().params
    assert np.allclose([params[name] for name in INIT], expected, atol=1e-5)
    assert len(Rows(table)) == 60


@MAKERS
def test_one_lane_for_each_group(make):
    result = minimize_many(by_name, Groups(make(COLUMNS), by="store"), INIT, dtype="float64").check()
    table = result.table()
    assert table.index.name == "store"
    assert table.index.tolist() == result.labels.tolist() == ["A", "B", "C"]
    own = COLUMNS["store"] == "B"
    expected = np.linalg.lstsq(DESIGN[own], COLUMNS["y"][own])[0]
    assert np.allclose([table.loc["B", name] for name in INIT], expected, atol=1e-5)


def test_groups_by_several_columns():
    table = pd.DataFrame(COLUMNS)
    result = minimize_many(by_name, Groups(table, by=["store", "region"]), INIT, dtype="float64").check()
    assert result.table().index.names == ["store", "region"]
    assert result.table().index.tolist() == sorted(set(zip(COLUMNS["store"], COLUMNS["region"], strict=True)))
    assert result[2:4].by == ("store", "region")
    lists = minimize_many(
        by_name, Groups({name: COLUMNS[name] for name in (*NUMBERS, "store")}, by="store"), INIT, dtype="float64"
    )
    labels = minimize_many(by_name, Groups(table, by=COLUMNS["store"].tolist()), INIT, dtype="float64")
    assert lists.labels.tolist() == labels.labels.tolist() == ["A", "B", "C"]
    assert np.allclose(lists.params["x"], labels.params["x"])


@MAKERS
def test_one_lane_for_each_row(make):
    table = some(make, NUMBERS)
    for loss in (
        lambda theta, row: (theta - row["x"] * row["y"]) ** 2,
        lambda theta, row: (theta - row[0] * row[2]) ** 2,
    ):
        result = minimize_many(loss, table, dtype="float64", method="bb").check()
        assert np.allclose(result.params, COLUMNS["x"] * COLUMNS["y"], atol=1e-6)


@MAKERS
def test_a_null_is_the_failure_of_its_lane(make):
    table = make({"x": [1.0, None, 3.0]})
    with pytest.warns(jaxgd.NotConvergedWarning, match="1 of 3"):
        result = minimize_many(lambda theta, row: (theta - row["x"]) ** 2, table, method="bb")
    assert [status == jaxgd.Status.BAD_START for status in result.status] == [False, True, False]


@MAKERS
def test_columns_are_not_copied(make):
    table = make(COLUMNS)
    column = table["x"].chunk(0) if make is pa.table else table["x"]
    assert np.shares_memory(Frame(table).column("x"), column.to_numpy())


def test_a_matrix_of_one_kind_is_not_copied():
    table = pd.DataFrame(RNG.normal(size=(50, 3)))
    assert np.shares_memory(Frame(table).arrays(by_matrix, np.zeros(3)), table.to_numpy())


def test_what_is_asked_of_a_table():
    def everything(params, table):
        assert "x" in table
        assert table.get("nowhere") is None
        return sum(jnp.mean((params - table[name]) ** 2) for name in list(table.keys()))

    def half(params, table):
        return jnp.mean(table["x"] @ params)

    frame = Frame(pd.DataFrame(COLUMNS))
    numbers = ["x", "size", "smoker", "y"]
    assert list(frame.arrays(everything, 0.0)) == numbers
    assert list(frame.arrays(half, np.zeros(2))) == ["x"]
    assert list(frame.arrays(lambda p, t: sum(jnp.sum(v * p) for k, v in t.items()), 0.0)) == numbers
    assert list(frame.arrays(lambda p, t: sum(jnp.sum(v * p) for v in t.values()), 0.0)) == numbers
    assert list(frame.arrays(by_name, INIT)) == ["y", "x", "size"]
    numeric = Frame(pd.DataFrame({name: COLUMNS[name] for name in numbers}))
    assert numeric.arrays(lambda w, t: w[0] * t[:, 0], None).shape == (60, 4)
    assert list(frame.arrays(lambda p, _: p.nowhere, 0.0)) == numbers
    for loss in (
        lambda p, t: jnp.mean((1 - t) * p),
        lambda p, t: jnp.mean(t.T * p),
        lambda p, t: sum(jnp.sum(row * p) for row in t),
        lambda p, t: jnp.sum(t > p),
        lambda p, _: p.nowhere,
    ):
        assert numeric.arrays(loss, 0.0).shape == (60, 4)


class Wrong:
    """A tensor that still needs its gradient."""

    def __array__(self, *args, **kwargs):
        msg = "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        raise RuntimeError(msg)


def with_null(make):
    values = [None, *COLUMNS["x"][1:].tolist()]
    return make({**COLUMNS, "x": values})


def solve(table, loss=by_name):
    return minimize(loss, table, INIT)


@MAKERS
@pytest.mark.parametrize(
    ("solve", "error", "words"),
    [
        (lambda make: solve(with_null(make)), ValueError, ["'x'", "nulls", "1 of 60 rows", "Fill or drop"]),
        (
            lambda make: solve(make(COLUMNS), lambda p, t: by_name(p, t) + t["store"].sum()),
            TypeError,
            ["'store'", "Enc"],
        ),
        (lambda make: solve(make(COLUMNS), lambda p, t: t["siz"] + p["x"]), KeyError, ["'siz'", "mean 'size'"]),
        (lambda make: solve(make(COLUMNS), lambda p, t: t[["x", "y"]] + p["x"]), KeyError, ["dict", "jnp.stack"]),
        (lambda make: minimize(jaxgd.losses.mse, make(COLUMNS)), TypeError, ["'store'", "only numbers"]),
        (lambda make: solve(make({"x": np.zeros(0), "y": np.zeros(0)})), ValueError, ["empty", "(0, 2)"]),
        (lambda make: minimize_many(by_name, Groups(make(COLUMNS), by="stores"), INIT), ValueError, ["mean 'store'"]),
        (lambda make: minimize_many(by_name, Groups(with_null(make), by="x"), INIT), ValueError, ["no label for 1 of"]),
        (lambda make: Rows(make(COLUMNS), weights="store"), TypeError, ["'store'", "only numbers"]),
        (lambda make: Rows(make(COLUMNS), weights="wait"), ValueError, ["'wait'", "no such column"]),
    ],
)
def test_tables_that_are_refused(make, solve, error, words, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_: pytest.fail("it was compiled"))
    with pytest.raises(error) as caught:
        solve(make)
    assert all(word in str(caught.value) for word in words)


def test_names_that_are_there_twice():
    columns = [np.ones(2), np.ones(2)]
    for table in (pd.DataFrame(np.ones((2, 2)), columns=["x", "x"]), pa.table(columns, names=["x", "x"])):
        with pytest.raises(ValueError, match=r"(?s)several columns of one name.*'x'"):
            minimize(jaxgd.losses.mse, table)


def test_what_is_no_table():
    with pytest.raises(TypeError, match=r"LazyFrame.*Collect"):
        minimize(by_name, pl.LazyFrame(COLUMNS), INIT)
    with pytest.raises(TypeError, match="`by='store'` names a column"):
        minimize_many(by_name, Groups(np.zeros(3), by="store"), INIT)
    with pytest.raises(ValueError, match=r"`data` cannot be made an array.*detach"):
        minimize(jaxgd.losses.mse, Wrong())
    assert not any(map(is_table, [pd.Series([1.0]), pl.Series([1.0]), pa.array([1.0]), COLUMNS, [1.0], None]))


def test_tables_need_narwhals(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ImportError, match=r"jaxgd\[tables\]"):
        minimize(by_name, pd.DataFrame(COLUMNS), INIT)


def test_a_failure_names_the_columns_of_a_table():
    table = pd.DataFrame({"one": np.ones(30), "age": np.linspace(-1, 1, 30), "fare": np.arange(30.0) % 7})
    gaps = table.copy()
    gaps.loc[3, "fare"], gaps.loc[5, "age"] = np.nan, np.inf
    with pytest.warns(jaxgd.NotConvergedWarning, match=r"Not finite: `data\[0\]` in 'age', 'fare'; drop or fill"):
        minimize(losses.logistic, (gaps, (table["fare"] > 2) * 1.0))
    with pytest.warns(jaxgd.NotConvergedWarning, match="On the way to infinity: age"):
        minimize(losses.logistic, (table, (table["age"] > 0) * 1.0))
