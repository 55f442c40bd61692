"""Rows that are wrong are refused by name; passes that break off return what they came to; a sample leads nowhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rows import BENT, LABELS, NOISY, N, X, batches, in_passes, parquet

import jaxgd
from jaxgd import NotConvergedWarning, Rows, Status, Stop, losses, minimize, minimize_many
from jaxgd.rows.in_memory import RowsInMemory
from jaxgd.rows.streamed import Stream

DATA = (X, LABELS)
logistic = losses.logistic


@pytest.fixture(autouse=True)
def _passes(monkeypatch):
    in_passes(monkeypatch)


def spoilt(array, row, value=np.nan):
    array = np.array(array)
    array[row] = value
    return array


def stream(*parts):
    return Rows.open(lambda: iter(parts))


def summed(w, data):
    return jnp.sum((data[1] - data[0] @ w) ** 2)


def spread(w, data):
    return jnp.std(data[1] - data[0] @ w)


def over_n(w, data):
    return jnp.sum((data[1] - data[0] @ w) ** 2) / N


def root(w, data):
    return jnp.sqrt(jnp.mean((data[1] - data[0] @ w) ** 2))


def with_aux(w, data):
    return logistic(w, data), w


def residuals(w, data):
    return data[1] - data[0] @ w


WRONG = {
    "lengths": (
        ValueError,
        r"`data\['y'\]` has 5 rows; `data\['X'\]` has 1000",
        lambda: Rows({"X": X, "y": LABELS[:5]}),
    ),
    "one number": (ValueError, r"`data\[1\]` is one number", lambda: Rows((X, 2.0))),
    "no rows": (ValueError, r"`data\[0\]` is empty, of shape \(0, 4\)", lambda: Rows((X[:0], LABELS[:0]))),
    "no data": (ValueError, "`data` holds no numbers; got None", lambda: Rows(None)),
    "weight below 0": (ValueError, r"`weights\[7\]` is -1.0", lambda: Rows(DATA, spoilt(np.ones(N), 7, -1))),
    "weight of nan": (ValueError, r"`weights\[3\]` is nan", lambda: Rows(DATA, spoilt(np.ones(N), 3))),
    "weight of inf": (ValueError, r"`weights\[3\]` is inf", lambda: Rows(DATA, spoilt(np.ones(N), 3, np.inf))),
    "weights short": (ValueError, r"each of 1000 rows; got shape \(5,\)", lambda: Rows(DATA, np.ones(5))),
    "weights wide": (ValueError, r"got shape \(1000, 4\)", lambda: Rows(DATA, X)),
    "weights all 0": (ValueError, "all 0 for 1000 rows", lambda: Rows(DATA, np.zeros(N))),
    "weights no column": (ValueError, "say by `columns`", lambda: Rows.open("rows.parquet", weights="w")),
    "sum": (ValueError, "summed is no mean over rows: for 64 of them", lambda: minimize(summed, Rows(DATA))),
    "deviation": (ValueError, "spread is no mean over rows", lambda: minimize(spread, Rows(DATA))),
    "closed over n": (ValueError, "over_n is no mean over rows", lambda: minimize(over_n, Rows(DATA))),
    "root": (ValueError, "root is no mean over rows.*nor a root", lambda: minimize(root, stream(DATA))),
    "aux": (ValueError, "`has_aux=True` cannot be had", lambda: minimize(with_aux, Rows(DATA), has_aux=True)),
    "squares": (ValueError, "`least_squares` takes arrays", lambda: jaxgd.least_squares(residuals, Rows(DATA))),
    "starts": (TypeError, "`starts=3` takes arrays, not `Rows`", lambda: minimize(logistic, Rows(DATA), starts=3)),
    "many": (TypeError, "`minimize_many` takes arrays, not `Rows`", lambda: minimize_many(logistic, Rows(DATA))),
    "newton": (ValueError, "trust-region Newton needs more", lambda: minimize(logistic, stream(DATA), method="newton")),
    "optax search": (
        ValueError,
        "evaluates the loss itself",
        lambda: minimize(logistic, Rows(DATA), method=optax.lbfgs()),
    ),
    "in jit": (
        ValueError,
        "cannot be had inside `jit`",
        lambda: jax.jit(lambda w: minimize(logistic, stream(DATA), w))(np.zeros(4)),
    ),
    "wider batch": (
        ValueError,
        r"batch 2 of .* has rows of shape \(3,\) in \[0\]; those before had \(4,\)",
        lambda: minimize(logistic, stream(DATA, DATA, (X[:, :3], LABELS))),
    ),
    "an empty stream": (ValueError, "holds no rows|no rows", lambda: minimize(logistic, Rows.open(lambda: iter([])))),
    "an iterator": (TypeError, "can be read only once", lambda: Rows.open(iter([DATA]))),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name):
    error, words, call = WRONG[name]
    with pytest.raises(error, match=words):
        call()


def ill(make):
    """The message of a solve that must warn of its start."""
    with pytest.warns(NotConvergedWarning, match="BAD_START"):
        result = make()
    assert result.status is Status.BAD_START
    return result.message


@pytest.mark.parametrize("way", [Rows, batches])
def test_a_row_that_is_not_finite_is_named(way):
    assert "row 707 of `data[0]`" in ill(lambda: minimize(logistic, way((spoilt(X, 707), LABELS))))
    assert "row 3 of `data[1]`" in ill(lambda: minimize(logistic, way((X, spoilt(LABELS, 3, np.inf)))))
    assert "`init`" in ill(lambda: minimize(logistic, way(DATA), np.full(4, np.nan)))


def test_a_row_that_is_not_finite_is_named_in_the_compiled_loop(monkeypatch):
    monkeypatch.setattr("jaxgd.rows.build.SMALL", 1 << 22)
    assert "row 707 of `data[0]`" in ill(lambda: minimize(logistic, Rows((spoilt(X, 707), LABELS))))


def later(pass_number, change):
    """Rows that change from a pass on; passes are counted from 0, the look at the first rows is one."""
    count = iter(range(1000))

    def read():
        yield X[:500], LABELS[:500]
        yield change() if next(count) >= pass_number else (X[500:], LABELS[500:])

    return Rows.open(read)


def failing():
    raise OSError("the disk is gone")


def test_a_stream_that_ends_early_the_second_time():
    with pytest.raises(ValueError, match=r"yields 600 rows the second time; 1000 the first"):
        minimize(logistic, later(2, lambda: (X[500:600], LABELS[500:600])))


@pytest.mark.parametrize("at", [3, 5])
def test_a_read_that_fails_returns_what_was_reached(at):
    with pytest.warns(NotConvergedWarning, match="the disk is gone"):
        result = minimize(logistic, later(at, failing))
    assert result.status is Status.INTERRUPTED
    assert "Reading failed: the disk is gone." in result.message
    assert result.evals == at - 1
    assert result.loss == pytest.approx(float(logistic(jnp.asarray(result.params), DATA)), rel=1e-6)
    assert result.loss <= np.log(2)


def test_a_read_that_fails_at_first_raises():
    with pytest.raises(OSError, match="the disk is gone"):
        minimize(logistic, later(1, failing))


def test_fewer_rows_than_params_are_said():
    few = (X[:3], NOISY[:3])
    assert "fewer rows (3) than parameters (4)" in minimize(losses.squared, Rows(few)).message
    assert "fewer rows" not in minimize(losses.squared, Rows(few), l2=0.1).message
    assert "fewer rows" not in minimize(losses.squared, Rows((X[:4], NOISY[:4])), l2=0.1).message


@pytest.mark.parametrize("rows", [1, 5, 64, 65])
def test_streams_of_any_length(rows):
    data = (X[:rows], NOISY[:rows])
    result = minimize(losses.squared, batches(data, cuts=(0, rows // 2)), l2=0.1, dtype="float64").check()
    gram = X[:rows].T @ X[:rows] / rows + 0.1 * np.eye(4)
    assert np.allclose(result.params, np.linalg.solve(gram, X[:rows].T @ NOISY[:rows] / rows), atol=1e-8)


def test_weights_of_a_stream_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"`weights\[777\]` is -1.0"):
        minimize(logistic, parquet(DATA, tmp_path, spoilt(np.ones(N), 777, -1.0)))
    with pytest.raises(ValueError, match="are all 0"):
        minimize(logistic, parquet(DATA, tmp_path, np.zeros(N)))


@pytest.mark.parametrize("way", [Rows, batches])
def test_trace_and_progress(way, capsys):
    result = minimize(logistic, way(DATA), trace=True, progress=True)
    assert len(result.trace.loss) == result.moves + 1
    assert result.trace.loss[0] == pytest.approx(np.log(2))
    assert np.allclose(result.trace.params[-1], result.params, atol=1e-4)
    assert f"{result.evals} evals" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "way"), [(RowsInMemory, Rows), (Stream, batches)])
def test_ctrl_c_returns_the_best_so_far(kind, way, monkeypatch):
    passes, call = iter(range(100)), kind.__call__

    def interrupted(self, params):
        if next(passes) == 3:
            raise KeyboardInterrupt
        return call(self, params)

    monkeypatch.setattr(kind, "__call__", interrupted)
    with pytest.warns(NotConvergedWarning, match="INTERRUPTED"):
        result = minimize(logistic, way(DATA))
    assert result.evals == 3
    assert result.loss == pytest.approx(float(logistic(jnp.asarray(result.params), DATA)), rel=1e-6)


def test_a_limit_of_evaluations_is_one_of_passes():
    with pytest.warns(NotConvergedWarning, match="MAX_EVALS"):
        result = minimize(logistic, Rows(DATA), stop=Stop(max_evals=2))
    assert result.evals == 2


SORTED = tuple(leaf[np.argsort(LABELS, kind="stable")] for leaf in DATA)
SCALES = np.array([1e-4, 1.0, 1e4, 1e2])
RARE = (np.r_[np.zeros((9999, 2)), [[1.0, 0.5]]] + np.c_[np.zeros(10000), np.ones(10000)], np.r_[np.zeros(9999), 50.0])


def bent(w, data):
    features, y = data
    return jnp.mean((y - 2 * jnp.tanh(features @ w[:4]) + jnp.tanh(features @ w[4:])) ** 2)


HARD = {
    "sorted": (logistic, SORTED, None, 1),
    "repeated": (logistic, tuple(np.repeat(leaf[:50], 20, axis=0) for leaf in DATA), None, 1),
    "scaled": (logistic, (X * SCALES, LABELS), None, 1 / SCALES),
    "rare": (losses.squared, RARE, None, 1),
    "not convex": (bent, (X, BENT), np.linspace(-1, 1, 8), 1),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sample_that_misleads_costs_moves_alone(name, dtype):
    loss, data, init, scale = HARD[name]
    result = minimize(loss, Rows(data), init, dtype=dtype).check()
    assert result.evals <= 150  # with the updates of BFGS up to 10,000
    reference = minimize(loss, data, init, dtype="float64").check()
    if name == "not convex":  # of several minima it finds one
        reference = minimize(loss, data, result.params, dtype="float64").check()
    off = (np.asarray(result.params, float) - reference.params) / scale
    assert np.abs(off).max() <= {"float32": 5e-3, "float64": 1e-6}[dtype] * np.abs(reference.params / scale).max()
    assert float(result.loss) <= float(loss(jnp.zeros(np.shape(result.params)) if init is None else init, data))


def test_the_loss_is_never_above_that_at_the_start():
    start = np.array([2.0, -1.0, 3.0, 0.5])
    first = float(logistic(jnp.asarray(start), DATA))
    for most in (1, 2, 3, 4, 6):
        for way in (Rows, batches):
            with pytest.warns(NotConvergedWarning):
                result = minimize(logistic, way(DATA), start, stop=Stop(gtol=1e-30, max_evals=most))
            assert result.loss <= first * (1 + 1e-6)
