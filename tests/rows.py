"""Losses that are means over rows, small data for them, and the ways by which data comes."""

import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxgd import Rows, losses

RNG = np.random.default_rng(0)
N = 1000
X = np.c_[RNG.normal(size=(N, 3)), np.ones(N)]
SCORE = X @ [1.0, -1.0, 0.5, 0.2]
LABELS = (SCORE + RNG.logistic(size=N) > 0) * 1.0
COUNTS = RNG.poisson(np.exp(SCORE / 2)) * 1.0
BENT = np.tanh(X @ [2.0, 1.0, 0.0, -1.0]) - 2 * np.tanh(X @ [0.0, 1.0, -2.0, 0.5]) + np.tanh(X[:, 0]) + 0.1 * SCORE
NOISY = SCORE + RNG.standard_t(2, size=N)


class Case(NamedTuple):
    """What is solved."""

    loss: Any
    data: Any
    init: Any = None
    options: Any = {}  # noqa: RUF012 - not changed
    mirrored: bool = False  # to be maximized


def network(params, data):
    features, y = data
    hidden = jnp.tanh(features @ params["in"])
    penalty = sum(jnp.sum(leaf**2) for leaf in params.values())
    return jnp.mean((y - hidden @ params["out"]) ** 2) + 1e-3 * penalty


def ridge(w, data):
    return losses.logistic(w, data) + 0.05 * jnp.sum(w**2)


def location(theta, y):
    return jnp.mean(jnp.logaddexp(y - theta, theta - y))


def likelihood(w, data):
    return -losses.logistic(w, data)


# Beside the minimum: from further away, units may come in another order.
STARTS = {
    "in": np.array([[0.8, -1.6, 0.0], [-0.2, -0.8, -0.9], [0.0, 0.0, 0.0], [0.1, 0.8, -0.5]]),
    "out": np.array([1.0, -1.3, 2.1]),
}
CASES = {
    "logistic": Case(losses.logistic, (X, LABELS)),
    "poisson": Case(losses.poisson, (X, COUNTS)),
    "huber": Case(losses.huber_regression(1.0), (X, NOISY)),
    "squares": Case(losses.squared, (X, NOISY)),
    "network": Case(network, (X, BENT), STARTS),
    "location": Case(location, NOISY),
    "penalty inside": Case(ridge, (X, LABELS)),
    "l2": Case(losses.logistic, (X, LABELS), None, {"l2": 0.1}),
    "l1": Case(losses.logistic, (X, LABELS), None, {"l1": 0.1}),
    "bounds": Case(losses.logistic, (X, LABELS), None, {"bounds": (-0.3, 0.6)}),
    "fixed": Case(losses.logistic, (X, LABELS), np.full(4, 0.3), {"fixed": np.array([True, False, False, True])}),
    "maximize": Case(likelihood, (X, LABELS), None, {}, mirrored=True),
}


def leaves_of(data):
    return data if isinstance(data, tuple) else (data,)


def like(data, leaves):
    return tuple(leaves) if isinstance(data, tuple) else next(iter(leaves))


def given(data, folder):
    del folder
    return Rows(data)


def batches(data, folder=None, cuts=(0, 7, 7, 400, 401)):
    """Batches of uneven numbers of rows, one of them of none."""
    del folder

    def every():
        for low, high in itertools.pairwise([*cuts, len(leaves_of(data)[0])]):
            yield like(data, (leaf[low:high] for leaf in leaves_of(data)))

    return Rows.open(every)


def files(data, folder):
    for number, leaf in enumerate(leaves_of(data)):
        np.save(folder / f"{number}.npy", leaf)
    return Rows.open(like(data, [folder / f"{number}.npy" for number in range(len(leaves_of(data)))]))


def mapped(data, folder, weights=None):
    files(data, folder)
    leaves = [np.load(folder / f"{number}.npy", mmap_mode="r") for number in range(len(leaves_of(data)))]
    return Rows(like(data, leaves), weights)


def parquet(data, folder, weights=None):
    """Matrices as a column each, and y; and weights."""
    *matrix, y = leaves_of(data)
    columns = {f"x{i}": column for i, column in enumerate(matrix[0].T)} if matrix else {}
    table = pa.table(columns | {"y": y} | ({} if weights is None else {"weights": weights}))
    pq.write_table(table, folder / "rows.parquet", row_group_size=300)
    names = (list(columns), "y") if matrix else "y"
    return Rows.open(folder / "rows.parquet", columns=names, weights=None if weights is None else "weights")


WAYS = {way.__name__: way for way in (given, batches, files, mapped, parquet)}


def in_passes(monkeypatch):
    """Have passes over small data led from the host, with tiles, blocks and samples of few rows."""
    monkeypatch.setattr("jaxgd.rows.build.SMALL", 0)
    monkeypatch.setattr("jaxgd.rows.build.rows_of_tile", lambda _, there: min(64, there))
    monkeypatch.setattr("jaxgd.rows.streamed.BLOCK", 1 << 14)
    monkeypatch.setattr("jaxgd.rows.full_batch.LEAST", 256)
    monkeypatch.setattr("jaxgd.solvers.registry.PER_PARAM", 0)
