"""How sure answers are: against statsmodels, certified values and each other; what has no covariance says so."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from rows import COUNTS, LABELS, NOISY, RNG, WAYS, N, X, in_passes, mapped

import jaxgd
from jaxgd import Groups, NotConverged, Rows, Simplex, Stop, least_squares, losses, maximize, minimize, minimize_many

KINDS = pytest.mark.parametrize("kind", ["hessian", "sandwich"])
CLOSE = 1e-7  # relative: 6 digits and more
STEPS = jaxgd.GradientDescent(1.0)  # of all methods the one that compiles first


def close(found, expected, rel=CLOSE):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rel, atol=rel * np.max(np.abs(expected)))


def residuals(w, data):
    features, y = data
    return y - features @ w


def squares(w, data):
    return jnp.mean(residuals(w, data) ** 2)


def of_peer(kind, model, y, features=X):
    exact = {} if model is sm.OLS else {"disp": 0, "tol": 1e-12}
    return model(y, features).fit(cov_type="nonrobust" if kind == "hessian" else "HC0", **exact).cov_params()


def by_hand(w, kind, y=LABELS, features=X, weights=1.0, l2=0.0, free=slice(None)):
    """The covariance of a logistic regression at `w`, of the params that are free."""
    chance, weights = 1 / (1 + np.exp(-features @ np.asarray(w, float))), weights * np.ones(len(y))
    own = features[:, free]
    bent = own.T @ (own * (weights * chance * (1 - chance))[:, None]) + l2 * np.sum(weights) * np.eye(own.shape[1])
    inverse = np.linalg.inv(bent)
    return inverse if kind == "hessian" else inverse @ (own.T * weights * (chance - y) ** 2) @ own @ inverse


PEERS = {
    "logistic": (losses.logistic, LABELS, sm.Logit),
    "poisson": (losses.poisson, COUNTS, sm.Poisson),
    "a sum": (lambda w, data: jnp.sum(jnp.logaddexp(0, data[0] @ w) - data[1] * (data[0] @ w)), LABELS, sm.Logit),
}


@KINDS
@pytest.mark.parametrize("name", PEERS)
def test_likelihoods_as_statsmodels(name, kind):
    loss, y, model = PEERS[name]
    expected = of_peer(kind, model, y)
    result = minimize(loss, (X, y), dtype="float64")
    found = result.covariance(kind)
    assert found.matrix.dtype == np.float64
    close(found, expected)
    close(result.stderr(kind), np.sqrt(np.diag(expected)))


@KINDS
def test_in_float32(kind):
    close(minimize(losses.logistic, (X, LABELS)).covariance(kind), of_peer(kind, sm.Logit, LABELS), 1e-3)


@KINDS
def test_least_squares_as_statsmodels(kind):
    expected = of_peer(kind, sm.OLS, NOISY)
    close(least_squares(residuals, (X, NOISY), dtype="float64").covariance(kind), expected)


@pytest.mark.parametrize("factor", [1, 10])
def test_the_sandwich_of_squares_knows_no_scale(factor):
    expected, factor = of_peer("sandwich", sm.OLS, NOISY), np.array(factor, float)  # no part of the program
    result = minimize(lambda w, data: factor * squares(w, data), (X, NOISY), dtype="float64")
    close(result.covariance("sandwich"), expected)


def _product(w, data):
    own = residuals(w, data)
    return own @ own


WEIGHTS = RNG.uniform(0.5, 2, N)
SQUARES = {
    "mean": squares,
    "half a mean": losses.squared,
    "sum": lambda w, data: jnp.sum(residuals(w, data) ** 2),
    "product": _product,
    "of its own jit": jax.jit(lambda w, data: 3 * jnp.mean(jnp.square(residuals(w, data))) + 1),
    "absolute": lambda w, data: jnp.mean(jnp.abs(residuals(w, data)) ** 2),
    "row by row": lambda w, data: jnp.mean(jax.vmap(lambda x, y: (y - x @ w) ** 2)(*data)),
    "weighted": lambda w, data: jnp.average(residuals(w, data) ** 2, weights=WEIGHTS),
    "two products": lambda w, data: residuals(w, data) @ residuals(w, data),
    "half of a product": lambda w, data: 0.5 * residuals(w, data) @ residuals(w, data),
    "two of einsum": lambda w, data: jnp.einsum("i,i", residuals(w, data), residuals(w, data)),
    "norm": lambda w, data: jnp.linalg.norm(residuals(w, data)) ** 2,
    "power": lambda w, data: jnp.mean(residuals(w, data) ** 2.0),
    "halves of it": lambda w, data: jnp.sum(residuals(w, data)[::-1] ** 2),
    "weighted twice": lambda w, data: jnp.sum(WEIGHTS * residuals(w, data) * residuals(w, data)),
    "weighted inside": lambda w, data: jnp.sum((residuals(w, data) * jnp.sqrt(WEIGHTS)) ** 2) / 2,
}


@pytest.mark.parametrize("name", SQUARES)
def test_squared_losses_are_recognized(name):
    """The default is that of a regression table."""
    weights = WEIGHTS if "weighted" in name else np.ones(N)
    result = minimize(SQUARES[name], (X, NOISY), np.zeros(4), dtype="float64")
    found = result.covariance()
    assert (found.kind, found.count, found.dof) == ("least_squares", N, N - 4)
    close(found, sm.WLS(NOISY, X, weights=weights).fit().cov_params())


MASK = np.arange(N) % 3 > 0
MASKED = {
    "where inside": lambda w, data: jnp.sum(jnp.where(data[2], residuals(w, data[:2]), 0) ** 2),
    "where outside": lambda w, data: jnp.sum(jnp.where(data[2], residuals(w, data[:2]) ** 2, 0)),
    "mean where": lambda w, data: jnp.mean(residuals(w, data[:2]) ** 2, where=data[2]),
    "times": lambda w, data: jnp.mean(data[2] * residuals(w, data[:2]) ** 2),
}


@pytest.mark.parametrize("name", MASKED)
def test_rows_that_are_masked_are_none(name):
    loss, peer = MASKED[name], sm.OLS(NOISY[MASK], X[MASK]).fit()
    result = minimize(loss, (X, NOISY, MASK), np.zeros(4), dtype="float64")
    found = result.covariance()
    assert (found.kind, found.count, found.dof) == ("least_squares", MASK.sum(), MASK.sum() - 4)
    close(found, peer.cov_params())
    centered = NOISY[MASK] - NOISY[MASK].mean()
    assert found.r_squared == pytest.approx(1 - peer.ssr / (centered @ centered), rel=1e-9)
    if name != "times":  # a sum, or the mean of other rows: no mean over rows
        return
    rows = minimize(loss, Rows((X, NOISY, MASK)), np.zeros(4), dtype="float64").covariance()
    assert rows.count == MASK.sum()
    close(rows, peer.cov_params())


def _gauss(w, data):
    return squares(w[:4], data) / jnp.exp(2 * w[4]) / 2 + w[4]


OTHERS = {
    "hinge": (losses.hinge, LABELS, 4),
    "huber": (losses.huber_regression(), NOISY, 4),
    "a likelihood with its noise": (_gauss, NOISY, 5),
    "an own likelihood": (lambda w, data: _logit(data[0] @ w, data[1]), LABELS, 4),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_get_the_sandwich(name):
    loss, y, size = OTHERS[name]
    result = minimize(loss, (X, y), np.zeros(size), dtype="float64")
    found = result.covariance()
    assert found.kind == "sandwich"
    close(found, result.covariance("sandwich"))
    with pytest.raises(ValueError, match="kind='least_squares' is for sums of squared"):
        result.covariance("least_squares")


def test_squares_with_a_penalty_among_them_are_none():
    result = minimize(lambda w, data: squares(w, data) + 0.1 * jnp.sum(w**2), (X, NOISY), dtype="float64")
    assert result.covariance().kind == "sandwich"
    ridge = minimize(squares, (X, NOISY), l2=0.2, dtype="float64")
    noise = np.sum((NOISY - X @ ridge.params) ** 2) / (N - 4)
    close(ridge.covariance(), noise * np.linalg.inv(X.T @ X + 0.1 * N * np.eye(4)))


@pytest.mark.usefixtures("several_lengths")
def test_squares_of_lanes_groups_rows_and_the_largest():
    expected = of_peer("hessian", sm.OLS, NOISY)
    other = NOISY[::-1]
    many = minimize_many(squares, (X, np.stack([NOISY, other])), in_axes=(None, (None, 0)), dtype="float64")
    close(many.covariance().matrix[0], expected)
    close(many[1].covariance(), of_peer("hessian", sm.OLS, other))
    groups = minimize_many(squares, Groups((X, NOISY), by=GROUP), dtype="float64", l2=0.0)
    with pytest.warns(UserWarning, match="1 have .* no more residuals than params"):
        close(groups.covariance().matrix[0], of_peer("hessian", sm.OLS, NOISY[GROUP == 0], X[GROUP == 0]))
    largest = maximize(lambda w, data: -_product(w, data), (X, NOISY), dtype="float64")
    close(largest.covariance(), expected)
    assert minimize(squares, (X, NOISY)).stderr() == pytest.approx(np.sqrt(np.diag(expected)), rel=1e-3)


@pytest.mark.parametrize("way", ["tiles", *WAYS])
def test_squares_of_rows_any_way(way, tmp_path, monkeypatch):
    if way != "tiles":
        in_passes(monkeypatch)
    rows = WAYS.get(way, WAYS["given"])((X, NOISY), tmp_path)
    found = minimize(losses.squared, rows, dtype="float64").covariance()
    assert (found.kind, found.count) == ("least_squares", N)
    close(found, of_peer("hessian", sm.OLS, NOISY))


@pytest.mark.parametrize("way", ["tiles", "passes", "mapped"])
def test_squares_of_rows_with_weights_and_terms(way, tmp_path, monkeypatch):
    if way != "tiles":
        in_passes(monkeypatch)
    weights = RNG.integers(1, 4, N).astype(np.float64)
    rows = mapped((X, NOISY), tmp_path, weights) if way == "mapped" else Rows((X, NOISY), weights)
    options = {"l2": 0.05, "fixed": [False, True, False, False]}
    result = minimize(squares, rows, np.zeros(4), dtype="float64", **options)
    own, count = X[:, [0, 2, 3]], weights.sum()
    noise = np.sum(weights * (NOISY - X @ result.params) ** 2) / (count - 3)
    hessian = own.T @ (own * weights[:, None]) + 0.05 / 2 * count * np.eye(3)
    free = np.ix_([0, 2, 3], [0, 2, 3])
    found = result.covariance()
    assert (found.kind, found.count, found.dof) == ("least_squares", count, count - 3)
    close(found.matrix[free], noise * np.linalg.inv(hessian))
    assert not found.matrix[1].any()


def test_squares_of_rows_name_what_they_do_not_determine():
    doubled = np.c_[X, X[:, 0]]
    result = minimize(squares, Rows((doubled, NOISY)), dtype="float64")
    with pytest.warns(UserWarning, match=r"do not determine 0\.71 params\[0\] - 0\.71 params\[4\]"):
        found = result.covariance()
    assert found.dof == N - 4
    close(found.matrix[1:4, 1:4], of_peer("hessian", sm.OLS, NOISY)[1:, 1:])


# National Institute of Standards and Technology, StRD: y, x; the start; certified parameters' standard deviations.
VOLUMES = [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78]
PRESSURES = [77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0]
MISRA = np.stack([VOLUMES, PRESSURES], axis=1)
BOX = np.array([[109, 1], [149, 2], [149, 3], [191, 5], [213, 7], [224, 10]])
CERTIFIED = {
    "Misra1a": (MISRA, [250, 0.0005], [2.7070075241e00, 7.2668688436e-06]),
    "BoxBOD": (BOX, [100, 0.75], [1.2354515176e01, 1.0455993237e-01]),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_standard_deviations(name):
    data, start, expected = CERTIFIED[name]

    def saturating(b, data):
        return data[:, 0] - b[0] * (1 - jnp.exp(-b[1] * data[:, 1]))

    close(least_squares(saturating, data, start, dtype="float64").stderr(), expected, 1e-6)


@KINDS
@pytest.mark.parametrize("init", [3.0, 1e6, -2e-3])
def test_a_param_that_has_lost_its_influence_is_named(kind, init):
    def lost(w, data):
        return data[1] - data[0] @ w["a"] - 1e-310 * w["b"] * data[0][:, 1] ** 2

    result = least_squares(lost, (X, NOISY), {"a": np.zeros(4), "b": init}, dtype="float64")
    with pytest.warns(UserWarning, match="do not determine b:"):
        found = result.covariance(kind)
    assert found.matrix[4, 4] == np.inf
    close(found.matrix[:4, :4], of_peer(kind, sm.OLS, NOISY))


@KINDS
@pytest.mark.parametrize("units", [1e-20, 1e-9, 1e9, 1e20])
def test_units_lose_no_influence(kind, units):
    """A param is judged by its own size: here it is as small or as large as its units."""
    scales = np.array([1.0, 1 / units, 1.0, 1.0])
    result = least_squares(residuals, (X * scales, NOISY), dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(result.covariance(kind))
    close(found * np.outer(scales, scales), of_peer(kind, sm.OLS, NOISY), 1e-6)


def test_residuals_of_several_numbers_a_row():
    """All numbers of a row, both parts of a complex one too, are one observation to the sandwich."""

    def several(w, data):
        features, y = data
        score = features @ w
        return {"pair": y - score[:, None], "complex": y[:, 0] + 1j * y[:, 1] - (1 + 1j) * score}

    both = np.stack([NOISY, LABELS], axis=1)
    result = least_squares(several, (X, both), np.zeros(4), dtype="float64")
    slopes = 2 * X * (np.sum(both, axis=1) - 2 * X @ result.params)[:, None]
    inverse = np.linalg.inv(4 * X.T @ X)
    close(result.covariance("sandwich"), inverse @ slopes.T @ slopes @ inverse)
    close(result.covariance(), inverse * 2 * result.loss / (4 * N - 4))


def test_maximize_is_minimize_of_minus_the_function():
    result = maximize(lambda w, data: -losses.logistic(w, data), (X, LABELS), dtype="float64", method=STEPS)
    for kind in ("hessian", "sandwich"):
        close(result.covariance(kind), by_hand(result.params, kind))


PLAIN = minimize(losses.logistic, (X, LABELS), dtype="float64")
HELD = {
    "fixed": {"fixed": [True, False, False, False], "init": [1.0, 0, 0, 0]},
    "bounds": {"bounds": ([-np.inf] * 4, [0.1, np.inf, np.inf, np.inf])},
    "l1": {"l1": 0.07},
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_has_no_variance_and_the_rest_what_it_has_alone(name):
    result = minimize(losses.logistic, (X, LABELS), dtype="float64", method=STEPS, **HELD[name])
    free = np.array([False, True, True, True]) if name != "l1" else result.params != 0
    assert 0 < free.sum() < 4
    for kind in ("hessian", "sandwich"):
        found = result.covariance(kind)
        close(found.matrix[np.ix_(free, free)], by_hand(result.params, kind, free=free))
        assert not found.matrix[~free].any()
        assert not found.undetermined


def test_l2_is_in_the_hessian_alone():
    result = minimize(losses.logistic, (X, LABELS), l2=0.1, dtype="float64", method=STEPS)
    for kind in ("hessian", "sandwich"):
        close(result.covariance(kind), by_hand(result.params, kind, l2=0.1))
    line = least_squares(residuals, (X, NOISY), l2=5.0, dtype="float64")
    noise = np.sum(np.asarray(residuals(line.params, (X, NOISY))) ** 2) / (N - 4)
    close(line.covariance(), noise * np.linalg.inv(X.T @ X + 5 * np.eye(4)))


def test_complex_params_are_their_parts_by_name():
    tree = {"a": np.zeros(2), "z": np.zeros(2, complex)}

    def joint(w, data):
        flat = jnp.concatenate([w["a"], w["z"].real[:1], w["z"].imag[:1]])
        penalty = w["z"][1].real ** 2 + w["z"][1].imag ** 2
        return losses.logistic(flat, data) + penalty

    result = minimize(joint, (X, LABELS), tree, dtype="float64", method=jaxgd.GradientDescent(0.5))
    flat = [*result.params["a"], result.params["z"][0].real, result.params["z"][0].imag]
    found, plain = result.covariance("hessian"), by_hand(flat, "hessian")
    assert found.names[1:4] == ["a[1]", "z[0].real", "z[1].real"]
    kept = [0, 1, 2, 4]
    close(found.matrix[np.ix_(kept, kept)], plain)
    error = result.stderr("hessian")
    assert error["z"].shape == (2,)
    close(error["z"][0], np.sqrt(plain[2, 2]) + 1j * np.sqrt(plain[3, 3]))
    table = found.table()
    assert table.loc["a[0]", "z[0].imag"] == pytest.approx(plain[0, 3])


def test_a_number_has_a_number():
    y = [1.0, 2.0, 3.0, 6.0]
    result = minimize(losses.mse, y, dtype="float64", method=jaxgd.GradientDescent(0.4))
    assert result.stderr("sandwich") == pytest.approx(np.std(y) / 2)
    assert result.stderr() == pytest.approx(np.std(y, ddof=1) / 2)
    assert np.shape(result.stderr()) == ()
    assert result.covariance().names == ["params"]


def test_shared_numbers_among_the_data_are_no_rows():
    result = minimize(
        lambda w, d: d[2] * losses.logistic(w, d[:2]), (X, LABELS, 3.0), np.zeros(4), dtype="float64", method=STEPS
    )
    close(result.covariance("hessian"), by_hand(result.params, "hessian") / 3)


NO_ROWS = {
    "neither": (lambda w, data: jnp.sqrt(squares(w, data)), (X, NOISY), "neither|cannot be told"),
    "lengths": (
        lambda w, data: jnp.sqrt(squares(w, data[:2])) + jnp.sum(data[2]) * 0,
        (X, NOISY, np.ones(3)),
        "differ",
    ),
}


@pytest.mark.parametrize("name", NO_ROWS)
def test_a_loss_of_no_known_rows_asks_for_them(name):
    loss, data, words = NO_ROWS[name]
    result = minimize(loss, data, np.zeros(4), dtype="float64", method=jaxgd.GradientDescent(0.1))
    with pytest.raises(ValueError, match=words) as caught:
        result.covariance()
    assert "`rows=`" in str(caught.value)
    close(result.covariance(rows=5), result.covariance(rows=1).matrix / 5)


def test_a_loss_without_data_asks_for_rows():
    with jax.enable_x64(True):
        data = (jnp.asarray(X), jnp.asarray(LABELS))
    result = minimize(lambda w: losses.logistic(w, data), init=np.zeros(4), dtype="float64", method=STEPS)
    close(result.covariance(rows=N), by_hand(result.params, "hessian"))
    with pytest.raises(ValueError, match=r"no data were given.*`rows=`"):
        result.covariance()
    with pytest.raises(ValueError, match="gradients of single rows"):
        result.covariance("sandwich", rows=N)


def test_a_loss_that_takes_no_single_row_says_so():
    def halves(w, data):
        y = data[1]
        return losses.logistic(w, data) + 0 * jnp.dot(y[: N // 2], y[N // 2 :].reshape(N // 2))

    with pytest.raises(ValueError, match=r"cannot be called for a single row.*`rows=`"):
        minimize(halves, (X, LABELS), np.zeros(4), dtype="float64", method=STEPS).covariance()


REFUSED = {
    "kind": (lambda: PLAIN.covariance("hc3"), "`kind` must be one of.*'hc3'"),
    "rows": (lambda: PLAIN.covariance(rows=0), "`rows` must be a positive number"),
    "shape": (lambda: PLAIN.covariance(rows=[1, 2]), "`rows` must be a positive number"),
    "counted": (lambda: least_squares(residuals, (X, NOISY)).covariance(rows=3), "residuals are counted"),
    "few": (lambda: least_squares(residuals, (X[:4], NOISY[:4])).covariance(), "There are 4 residuals for 4 params"),
    "term": (lambda: minimize(losses.logistic, (X, LABELS), term=Simplex(), method=STEPS).covariance(), "Simplex"),
    "vmap": (
        lambda: jax.vmap(lambda y: minimize(losses.mse, y, method=STEPS))(np.ones((2, 3))).covariance(),
        "do not hold",
    ),
    "jit": (lambda: jax.jit(lambda r: r)(PLAIN).stderr(), "`stderr` needs the data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_none_says_so(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_not_converged():
    with pytest.warns(jaxgd.NotConvergedWarning):
        result = minimize(losses.logistic, (X, LABELS), stop=Stop(max_evals=2), method=STEPS)
    with pytest.raises(NotConverged, match=r"covariance is that of a minimum.*init=result.params"):
        result.stderr()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_copies_hold_no_data(copied):
    other = copied(PLAIN)
    assert other.source is None
    assert PLAIN.source is not None
    assert other.params.tolist() == PLAIN.params.tolist()
    assert str(other) == str(PLAIN)
    assert len(pickle.dumps(PLAIN)) < X.nbytes
    with pytest.raises(ValueError, match="do not hold"):
        other.covariance()


@pytest.mark.parametrize("squared", [False, True])
def test_a_direction_that_is_not_determined_is_named(squared):
    def tree(w, data):
        features, y = data
        return (features @ jnp.stack([w["a"] + w["b"], 10 * w["c"], *w["d"]]), y)

    start = {"a": 0.0, "b": 0.0, "c": 0.0, "d": np.zeros(2)}
    kind = None if squared else "hessian"
    if squared:
        plain = least_squares(residuals, (X, NOISY), dtype="float64")
        result = least_squares(lambda w, d: d[1] - tree(w, d)[0], (X, NOISY), start, dtype="float64")
    else:
        plain = PLAIN
        result = minimize(lambda w, d: _logit(*tree(w, d)), (X, LABELS), start, dtype="float64")
    with pytest.warns(UserWarning, match=r"do not determine 0\.71 a - 0\.71 b") as warned:
        error = result.stderr(kind)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert error["a"] == error["b"] == np.inf
    with pytest.warns(UserWarning, match="do not determine"):
        found = result.covariance(kind)
    assert len(found.undetermined) == 1
    close(found.undetermined[0].vector, [0.5**0.5, -(0.5**0.5), 0, 0, 0])
    # As without the two: of the others their sum is what is determined, and takes one observation.
    close([error["c"] * 10, *error["d"]], plain.stderr()[1:])


def _logit(z, y):
    return jnp.mean(jnp.logaddexp(0, z) - y * z)


def test_directions_are_told_apart():
    doubled = np.c_[X, X[:, 0], 2 * X[:, 1]]
    result = minimize(losses.logistic, (doubled, LABELS))
    with pytest.warns(UserWarning, match="do not determine"):
        found = result.covariance().undetermined
    assert sorted(one.words for one in found) == [
        "0.71 params[0] - 0.71 params[4]",
        "0.89 params[1] - 0.45 params[5]",
    ]


def test_a_kink_has_no_curvature():
    result = minimize(losses.mae, [1.0, 2.0, 4.0])
    with pytest.warns(UserWarning, match="no curvature along params, where its rows have slopes"):
        assert result.stderr() == np.inf


LANES = np.stack([LABELS, 1 - LABELS, RNG.permutation(LABELS)])


@pytest.mark.parametrize(
    "options", [{}, {"l2": np.array([0.0, 0.1, 1.0]), "bounds": (-9, 0.2)}], ids=["plain", "terms"]
)
def test_lanes_are_as_alone(options, monkeypatch):
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST_BLOCK", 2)
    call = {"in_axes": (None, (None, 0)), "dtype": "float64", "method": STEPS}
    many = minimize_many(losses.logistic, (X, LANES), **call, **options).check()
    for kind in ("hessian", "sandwich"):
        found, errors = many.covariance(kind), many.stderr(kind)
        for lane, (w, y) in enumerate(zip(many.params, LANES, strict=True)):
            free = w < 0.2 if options else np.ones(4, bool)
            l2 = options["l2"][lane] if options else 0
            close(found.matrix[lane][np.ix_(free, free)], by_hand(w, kind, y, free=free, l2=l2))
            assert not found.matrix[lane][~free].any()
            close(many[lane].covariance(kind), found.matrix[lane])
            close(errors[lane], np.sqrt(np.diag(found.matrix[lane])))
        close(many[1:].covariance(kind), found.matrix[1:])
        close(many[np.array([2, 0])].covariance(kind), found.matrix[[2, 0]])
    close(many.covariance(rows=[1, 2, 4]).matrix[2], many.covariance(rows=4).matrix[2])
    table = found.table()
    assert table.index.names == ["lane", "param"]
    assert table.loc[(1, "params[2]"), "params[3]"] == found.matrix[1, 2, 3]


GROUP = np.repeat([2, 0, 1, 3], [200, 496, 300, 4])


def test_groups_are_as_alone():
    many = minimize_many(losses.logistic, Groups((X, LABELS), by=GROUP), dtype="float64", l2=0.1, method=STEPS).check()
    for kind in ("hessian", "sandwich"):
        found = many.covariance(kind)
        for lane, w in enumerate(many.params):
            own = lane == GROUP
            close(found.matrix[lane], by_hand(w, kind, LABELS[own], X[own], l2=0.1))
            close(many[lane].covariance(kind), found.matrix[lane])
    assert found.table().index.names == ["group", "param"]


def test_groups_of_least_squares():
    """Rows that fill up a group are no residuals; a group of as many rows as params has no noise to tell."""
    many = minimize_many(residuals, Groups((X, NOISY), by=GROUP), kind="least_squares", dtype="float64")
    for kind in ("hessian", "sandwich"):
        with pytest.warns(UserWarning, match="Of 4 problems 1 have .* no more residuals than params"):
            found = many.covariance(kind)
        for lane in range(3):
            own = lane == GROUP
            close(found.matrix[lane], of_peer(kind, sm.OLS, NOISY[own], X[own]))
        assert np.isnan(found.matrix[3]).all()
    with pytest.raises(ValueError, match="There are 4 residuals for 4 params"):
        many[3].covariance()


def test_lanes_that_have_none_are_counted_in_one_warning():
    y = np.stack([RNG.normal(size=5), np.full(5, np.nan), RNG.normal(size=5)])
    columns = np.ones((3, 5, 2)) * [1.0, 2.0]
    columns[2, 0] = 0.5

    def loss(w, data):
        y, columns = data
        return jnp.mean((y - columns @ w) ** 2)

    with pytest.warns(jaxgd.NotConvergedWarning):
        many = minimize_many(loss, (y, columns), np.zeros(2), dtype="float64", method=jaxgd.GradientDescent(0.1))
    with pytest.warns(UserWarning, match=r"Of 3 problems 1 did not converge, 1 are not determined") as warned:
        found = many.covariance()
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert np.isnan(found.matrix[1]).all()
    assert np.isinf(np.diagonal(found.matrix[0])).all()
    assert np.isfinite(found.matrix[2]).all()
    assert [len(each) for each in found.undetermined] == [1, 0, 0]
    assert found.undetermined[0][0].words == "0.89 params[0] - 0.45 params[1]"
    with pytest.raises(NotConverged):
        many[1].covariance()
    with pytest.warns(UserWarning, match="Of 1 problems 1 did not converge"):
        assert np.isnan(many[1:2].covariance()).all()


@pytest.mark.parametrize("way", ["tiles", *WAYS])
def test_rows_any_way(way, tmp_path, monkeypatch):
    if way != "tiles":
        in_passes(monkeypatch)
    rows = WAYS.get(way, WAYS["given"])((X, LABELS), tmp_path)
    result = minimize(losses.logistic, rows, dtype="float64", method=STEPS, tol=0.1)
    assert (result.source.rows is None) == (way == "tiles")
    for kind in ("hessian", "sandwich"):
        close(result.covariance(kind), by_hand(result.params, kind))


@pytest.mark.parametrize("way", ["tiles", "passes", "mapped"])
def test_rows_with_weights_and_terms(way, tmp_path, monkeypatch):
    if way != "tiles":
        in_passes(monkeypatch)
    weights = RNG.integers(0, 4, N).astype(np.float64)
    rows = mapped((X, LABELS), tmp_path, weights) if way == "mapped" else Rows((X, LABELS), weights)
    options = {"l2": 0.05, "bounds": (-9, [0.2, 9, 9, 9]), "fixed": [False, True, False, False]}
    result = minimize(losses.logistic, rows, np.zeros(4), dtype="float64", method=STEPS, tol=1e-4, **options)
    free = np.array([False, False, True, True])
    assert (result.params[~free] == [0.2, 0]).all()
    for kind in ("hessian", "sandwich"):
        found = result.covariance(kind).matrix
        close(found[np.ix_(free, free)], by_hand(result.params, kind, weights=weights, l2=0.05, free=free))
        assert not found[~free].any()
    close(result.covariance(rows=2 * weights.sum()).matrix, result.covariance().matrix / 2)


def test_minibatches_and_starts_have_theirs():
    result = minimize(losses.logistic, Rows((X, LABELS)), method=jaxgd.GradientDescent(0.5), batch_size=100)
    close(result.covariance("sandwich"), by_hand(result.params, "sandwich"), 1e-3)
    several = minimize(losses.logistic, (X, LABELS), starts=3, dtype="float64", method=STEPS)
    close(several.stderr(), PLAIN.stderr(), 1e-2)


def test_no_warning_where_all_is_determined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PLAIN.covariance("sandwich")


def test_what_a_loss_read_has_changed():
    """Where the function no longer is what was solved, rows tell, and the curvature is as it was."""
    factor = [1.0]

    def loss(w, data):
        return factor[0] * losses.logistic(w, data)

    result = minimize(loss, (X, LABELS), dtype="float64", method=STEPS)
    factor[0] = 3.0
    close(result.covariance(rows=N), by_hand(result.params, "hessian"))
    with pytest.raises(ValueError, match="cannot be told"):
        result.covariance("sandwich")


def test_weights_by_leaf_in_passes(monkeypatch):
    def named(params, data):
        return losses.logistic(jnp.append(params["w"], params["b"]), data)

    in_passes(monkeypatch)
    init, options = {"w": np.zeros(3), "b": np.zeros(())}, {"l2": {"w": 0.1}, "dtype": "float64"}
    whole = minimize(named, (X, LABELS), init, **options).stderr()
    passes = minimize(named, Rows((X, LABELS)), init, **options).stderr()
    jax.tree.map(close, passes, whole)
