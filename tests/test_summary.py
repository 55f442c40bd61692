"""A result as a table: values with errors and intervals, by the names the user gave."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

import jaxgd
from jaxgd import Groups, losses, minimize, minimize_many
from jaxgd.uncertainty.summary import quantile

RNG = np.random.default_rng(3)
N = 80
TABLE = pd.DataFrame({"one": np.ones(N), "size": RNG.normal(size=N), "age": RNG.normal(size=N)})
Y = TABLE.to_numpy() @ [1.0, 2.0, -1.0] + RNG.normal(size=N)
LINE = minimize(losses.squared, (TABLE, Y), dtype="float64")
PEER = sm.OLS(Y, TABLE).fit()


@pytest.mark.parametrize("dof", [1, 2, 5, 40, 41, 1000, 1e5, np.inf])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_quantiles_as_scipy(dof, level):
    assert quantile(level, float(dof)) == pytest.approx(stats.t.ppf((1 + level) / 2, dof), rel=1e-8)


def test_a_regression_as_statsmodels():
    table = LINE.summary().table()
    assert table.index.tolist() == ["one", "size", "age"]
    np.testing.assert_allclose(table["value"], PEER.params, rtol=1e-8)
    np.testing.assert_allclose(table["stderr"], PEER.bse, rtol=1e-7)
    np.testing.assert_allclose(table["t"], PEER.tvalues, rtol=1e-7)
    np.testing.assert_allclose(table[["low", "high"]], PEER.conf_int(), rtol=1e-7)
    narrow = LINE.summary(level=0.5).table()
    np.testing.assert_allclose(narrow[["low", "high"]], PEER.conf_int(0.5), rtol=1e-7)


def test_a_likelihood_has_z():
    labels = (Y > 1).astype(float)
    by_residuals = jaxgd.least_squares(lambda w, data: data[1] - data[0] @ w, (TABLE.to_numpy(), Y))
    assert all("z" in line.summary("sandwich").table() for line in (LINE, by_residuals))
    table = minimize(losses.logistic, (TABLE, labels), dtype="float64").summary().table()
    peer = sm.Logit(labels, TABLE).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(table["z"], peer.tvalues, rtol=1e-6)
    np.testing.assert_allclose(table[["low", "high"]], peer.conf_int(), rtol=1e-6)


def test_it_prints_as_people_write_numbers():
    said = str(LINE.summary())
    assert said.startswith("Converged (CONVERGED): ")
    start = f"loss {LINE.loss:.10g}; R² {PEER.rsquared:.4f}; "
    assert f"{start}standard errors of least squares; 80 residuals, 77 degrees of freedom" in said
    low, high = PEER.conf_int().loc["one"]
    row = next(line.split(maxsplit=1) for line in said.splitlines() if line.split()[0] == "one")
    assert row[1].split("  ")[0] == f"{PEER.params['one']:.2f} ± {PEER.bse['one']:.2f}"
    assert f"{low:.2f} to {high:.2f}" in row[1]
    assert repr(LINE.summary()) == said


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_large_and_small_numbers_have_exponents(size):
    said = minimize(losses.mse, Y * size, dtype="float64").summary()
    value, error = str(said).splitlines()[-1].split("  ")[2].split(" ± ")
    assert float(value) == pytest.approx(np.mean(Y) * size, rel=0.05)
    assert float(error) == pytest.approx(np.std(Y, ddof=1) / np.sqrt(N) * size, rel=0.05)


def curve(params, data):
    x, y = data
    return jnp.mean((y - params["height"] * jnp.exp(-params["rate"]["x"] * x) - params["b"][0]) ** 2)


def test_params_go_by_their_keys_and_held_ones_say_so():
    x = np.linspace(0, 4, 50)
    start = {"height": 1.0, "rate": {"x": 1.0}, "b": np.zeros(1)}
    fit = minimize(
        curve,
        (x, 2 * np.exp(-x) + 0.01 * RNG.normal(size=50)),
        start,
        dtype="float64",
        fixed={"b": True, "height": False, "rate": {"x": False}},
    )
    summary = fit.summary()
    assert summary.table().index.tolist() == ["b[0]", "height", "rate.x"]
    assert "0 (held)" in str(summary)
    assert fit.covariance().names == summary.names


def test_names_that_clash_are_paths():
    fit = minimize(lambda p, y: jnp.mean((y - p["a.b"] - p["a"]["b"]) ** 2), Y, {"a.b": 0.0, "a": {"b": 0.0}}, l2=0.1)
    assert fit.summary().names == ["params['a']['b']", "params['a.b']"]
    many = minimize_many(lambda p, y: jnp.mean((y - p["loss"]) ** 2), Y.reshape(8, 10), {"loss": 0.0})
    assert {"loss", "params['loss']"} <= set(many.table().columns)


def test_of_lanes_and_groups():
    groups = minimize_many(losses.squared, Groups((TABLE, Y), by=np.repeat(["cat", "dog"], N // 2)), dtype="float64")
    summary = groups.summary()
    own = sm.OLS(Y[N // 2 :], TABLE[N // 2 :]).fit()
    np.testing.assert_allclose(summary.table().loc["dog", ["low", "high"]], own.conf_int(), rtol=1e-6)
    assert "2 of 2 problems converged" in str(summary)
    assert str(summary).splitlines()[-1].split("  ")[1] == "dog"
    np.testing.assert_array_equal(groups["dog"].params, groups[1].params)
    with pytest.raises(KeyError, match="no group is called 'dgo'; there are 2, such as 'dog'"):
        groups["dgo"]
    many = minimize_many(losses.mse, RNG.normal(size=(12, 5)))
    assert "and 2 more" in str(many.summary())
    assert len(many.summary().table()) == 12


X, WEIGHTS = TABLE.to_numpy(), RNG.uniform(0.5, 2, N)


def by_terms(params, data):
    X, y, weights = data
    return jnp.average((params["a"] * X[:, 1] - (y - params["b"] * X[:, 2]) + params["c"]) ** 2, weights=weights)


R_SQUARED = {  # the fit, and the weights
    "ready-made": lambda: (LINE, 1),
    "of rows": lambda: (minimize(losses.squared, jaxgd.Rows((X, Y))), 1),
    "halved, in float32": lambda: (
        minimize(lambda w, d: jnp.mean((d[0] @ w - d[1]) ** 2) / 2, (X, Y), dtype="float32"), 1
    ),
    "weighted, term by term": lambda: (minimize(by_terms, (X, Y, WEIGHTS), dict.fromkeys("abc", 0.0)), WEIGHTS),
    "by residuals": lambda: (
        jaxgd.least_squares(lambda w, d: (d[1] - d[0] @ w) * jnp.sqrt(d[2]), (X, Y, WEIGHTS), np.zeros(3)), WEIGHTS
    ),
    "far from 0": lambda: (minimize(lambda w, d: jnp.mean((d[0] @ w - d[1] - 1e8) ** 2), (X, Y)), 1),
    "far from 0, as given": lambda: (minimize(losses.squared, (X, Y + 1e9)), 1),
    "far from 0, lanes": lambda: (minimize_many(losses.squared, (X[None], Y[None] + 1e8))[0], 1),
    "absolute, far from 0": lambda: (minimize(lambda w, d: jnp.mean(abs(d[1] - d[0] @ w) ** 2), (X, Y + 1e3)), 1),
    "with aux": lambda: (
        jaxgd.least_squares(lambda w, d: (d[0] @ w - d[1], w), (X, Y), np.zeros(3), has_aux=True), 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", R_SQUARED)
def test_r_squared_as_statsmodels(name):
    fit, weights = R_SQUARED[name]()
    peer = sm.WLS(Y, X, weights=np.broadcast_to(weights, N)).fit()
    assert fit.summary().r_squared == pytest.approx(
        peer.rsquared, rel=1e-4 if "32" in name else 1e-6 if "far" in name else 1e-10
    )


def test_r_squared_of_each_group_and_lane():
    by = np.repeat(["cat", "dog"], [30, 50])
    groups = minimize_many(losses.squared, Groups((X, Y), by=by), dtype="float64").summary()
    peers = [sm.OLS(Y[by == name], X[by == name]).fit().rsquared for name in ("cat", "dog")]
    np.testing.assert_allclose(groups.r_squared, peers, rtol=1e-9)
    lanes = minimize_many(lambda w, y: jnp.mean((y - X @ w) ** 2), np.stack([Y, Y**2]), np.zeros(3)).summary()
    np.testing.assert_allclose(lanes.r_squared, [PEER.rsquared, sm.OLS(Y**2, X).fit().rsquared], rtol=1e-9)


def test_what_has_no_r_squared():
    table = minimize(lambda w, data: jnp.mean((data[1] - data[0] @ w) ** 2), (X, np.c_[Y, Y**2]), np.zeros((3, 2)))
    likelihood = minimize(losses.poisson, (X, np.round(abs(Y))))
    alike = minimize(losses.squared, (X[:, 1:], np.full(N, 2.0)))
    rows_alike = minimize(losses.squared, jaxgd.Rows((np.float32(X), np.float32(1e4 + Y))))
    by_two = minimize(lambda w, d: jnp.mean((d[1] / d[2] - d[0] @ w / d[2]) ** 2), (X, Y, WEIGHTS))
    moved = minimize(lambda w, d: jnp.mean((d[1] - d[2] - d[0] @ w) ** 2), (X, Y, WEIGHTS))
    for fit in (table, likelihood, alike, rows_alike, by_two, moved):
        assert fit.summary().r_squared is None
        assert "R²" not in str(fit.summary())


def test_a_perfect_fit_is_not_held():
    start, data = np.array([0.0, 0.0, 3.0]), (X, X @ [1.0, 2.0, 3.0])
    fit = minimize(losses.squared, data, start, fixed=[False, False, True])
    lines = str(fit.summary()).splitlines()[-3:]
    assert [line.endswith("(held)") for line in lines] == [False, False, True]
    assert all("±" in line for line in lines[:2])
    alike = minimize_many(lambda p, y: jnp.mean((y - p) ** 2), np.ones((2, 4)), 0.0).summary()
    assert "1 ± 0" in str(alike)
    assert "held" not in str(alike)


def test_in_a_notebook_it_is_a_table():
    text = minimize(lambda p, y: jnp.mean((y - p["<a>"]) ** 2), Y, {"<a>": 0.0}).summary()._repr_html_()
    assert "<table>" in text
    assert "<th>&lt;a&gt;</th>" in text


def test_what_has_no_errors_says_so_first():
    with pytest.warns(jaxgd.NotConvergedWarning):
        failed = minimize(losses.logistic, (TABLE, (Y > 1) * 1.0), stop=jaxgd.Stop(max_evals=2))
    said = str(failed.summary())
    assert said.startswith("Not converged (MAX_EVALS)")
    assert "no standard errors, which are those of a minimum" in said
    assert "±" not in said
    own = minimize(lambda w: jnp.sum((w - 1) ** 4 + w**2), init=np.zeros(2)).summary()
    assert "no standard errors: " in str(own)
    assert "kind='hessian'" in str(own)
    doubled = minimize(losses.squared, (np.c_[TABLE, TABLE["age"]], Y))
    assert "do not determine" in str(doubled.summary())
    with pytest.raises(ValueError, match="`level` must be a number between 0 and 1"):
        LINE.summary(level=95)


def test_results_and_data_show_themselves():
    assert repr(LINE) == str(LINE)
    assert repr(jaxgd.Rows(Y)) == "Rows(80 rows)"
    assert repr(jaxgd.Rows.open(lambda: iter([Y]))).startswith("Rows(rows of ")
    assert repr(Groups(Y, by=np.arange(N) % 2)) == "Groups(80 rows)"
    assert repr(Groups(TABLE, by="age")) == "Groups(by='age')"
    seen = []
    minimize(losses.mse, Y, watch=seen.append)
    assert repr(seen[-1]).startswith(f"Seen(after {seen[-1].evals} evaluations and {seen[-1].moves} moves, ")
