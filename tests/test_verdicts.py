"""What a verdict must hold for: any start, unit and loss. Right values are SciPy's in float64, or closed forms."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import jaxgd
from jaxgd import Status, least_squares, minimize, minimize_many
from jaxgd.core.convergence import Evidence

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
pytestmark = pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
X = np.linspace(0.1, 3, 25)
CURVES = {
    "exponential": lambda p, x: p[0] * jnp.exp(-p[1] * x),
    "power": lambda p, x: p[0] * x ** p[1],
    "logarithm": lambda p, x: p[0] * jnp.log(jnp.abs(x + p[1])),
    "quotient": lambda p, x: p[0] / (x + p[1] ** 2),
    "saturating": lambda p, x: p[0] * (1 - jnp.exp(-(p[1] ** 2) * x)),
}


def exponential_regression(seed):
    """Return a sum of squares over 100 rows of four columns, its data, and its lowest value."""
    rng = np.random.default_rng(seed)
    features = np.column_stack([np.ones(100), rng.normal(size=(100, 3))])
    y = np.exp(features @ np.full(4, 0.7)) + 0.3 * rng.normal(size=100)

    def loss(b, data):
        return jnp.sum((data[1] - jnp.exp(data[0] @ b)) ** 2)

    return loss, (features, y), minimize(loss, (features, y), np.zeros(4), dtype="float64").check().loss


def promised(result):
    """Return what the result says can be gained at most: what is left, and what rounding hides or was seen to do."""
    with jax.enable_x64(True):
        seen = Evidence.unpack(jnp.asarray(result.evidence))
        pair = map(jax.tree.leaves, (result.grad, result.params))
        blur = float(sum(np.sum(np.abs(g * p)) for g, p in zip(*pair, strict=True)))
        eps = float(jnp.finfo(result.loss.dtype).eps)
        left = [float(part) for part in (seen.predicted_remaining, seen.model) if np.isfinite(part)]
        noise = max(float(seen.noise), float(seen.doubt))
        return max(left, default=0.0) + noise + 8 * eps * (abs(float(result.loss)) + blur)


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("method", ["auto", "lbfgs"])
def test_minimizing_again_gains_no_more_than_was_promised(kind, method):
    def loss(p, data):
        x, y, units = data
        return jnp.mean((y - CURVES[kind](p * units, x)) ** 2)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.tuples(st.floats(-3, 3), st.floats(0.1, 2)),
        st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
        st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
        st.integers(0, 5),
    )
    def check(right, start, powers, noise):
        units = 2.0 ** np.array(powers)
        with jax.enable_x64(True):
            y = np.asarray(CURVES[kind](jnp.asarray(right), X)) + 0.1 * noise * np.cos(7 * X)
        data, start = (X, y, units), np.array(start) / units
        first = minimize(loss, data, start, method=method, dtype="float64")
        if first.converged:
            again = minimize(loss, data, first.params, method=method, dtype="float64")
            # Beside a loss of 0, what no params of this type can change for the better counts too.
            with jax.enable_x64(True):
                here = np.asarray(first.params)
                apart = [np.nextafter(here, side * np.inf) for side in (1, -1)]
                rounding = max(abs(float(loss(place, data)) - float(first.loss)) for place in (here, *apart))
            assert again.loss >= first.loss - promised(first) - rounding

    check()


@pytest.mark.parametrize(
    ("method", "dtype"), [("auto", "float32"), ("auto", "float64"), ("bfgs", "float64"), ("lbfgs", "float64")]
)
def test_a_far_start_loosens_nothing(method, dtype):
    loss, data, lowest = exponential_regression(2)
    assert lowest == pytest.approx(8.6049047, rel=1e-7)
    for start in (0.0, 3.0, 5.0):
        result = minimize(loss, data, np.full(4, start), method=method, dtype=dtype)
        assert not result.converged or result.loss <= lowest * (1 + 1e-5)


@DTYPES
def test_growth_from_a_far_start(dtype):
    t = np.arange(21.0)
    for start in ((1.0, 1.0), (1.0, 2.0)):
        fit = least_squares(
            lambda p, d: p[0] * jnp.exp(p[1] * d[0]) - d[1], (t, 2 * np.exp(0.1 * t)), np.array(start), dtype=dtype
        )
        assert fit.check().loss < 1e-9
        assert np.allclose(fit.params, [2, 0.1], rtol=1e-5)


@DTYPES
@pytest.mark.parametrize("method", ["auto", "lbfgs", "bfgs", "lbfgsb"])
def test_a_slope_without_end_along_a_kink_is_no_floor(method, dtype):
    """Far out, rounding of the kink hides the slope, which goes on as far as one looks."""
    slopes = np.array([[0.8, 0.5, 0.6], [0.4, -1.8, 0.6], [0.0, -1.3, 0.5]])

    def loss(p):
        wide, kink, slope = slopes @ p
        return 0.1 * jnp.log1p(wide**2) + 30 * jnp.maximum(0, kink) + 0.08 * slope + 1000

    result = minimize(loss, init=np.array([-0.8, 1.1, 0.6]), method=method, dtype=dtype, max_evals=1000)
    assert not result.converged
    assert float(result.loss) < 1000


def test_small_units_of_single_params():
    rng = np.random.default_rng(0)
    w = np.linspace(1, 2, 100)
    flux = 1e-17 * (1.2 * np.exp(-0.5 * (w - 1.4) ** 2 / 0.11**2) + 0.1 * rng.normal(size=100))

    def residuals(p, d):
        return d[1] - p["amp"] * jnp.exp(-0.5 * (d[0] - p["mean"]) ** 2 / p["sd"] ** 2)

    start = {"amp": 1e-17, "mean": 1.3, "sd": 0.2}
    for fit in (
        least_squares(residuals, (w, flux), start),
        minimize(lambda p, d: jnp.mean(residuals(p, d) ** 2), (w, flux), start),
    ):
        assert fit.check().params["mean"] == pytest.approx(1.4041, abs=1e-3)
        assert fit.params["sd"] == pytest.approx(0.10687, rel=2e-3)


@pytest.mark.parametrize("bounds", [None, ({"a": 0.0}, None)])
def test_a_param_that_nothing_depends_on_stays(bounds):
    x = np.linspace(0, 5, 60)
    y = 2 * np.exp(-0.8 * x) + 0.05 * np.random.default_rng(0).normal(size=60)

    def residuals(p, d):
        return d[1] - (p["a"] * jnp.exp(-p["k"] * d[0]) + 0 * p["idle"])

    start = {"a": 1.0, "k": 1.0, "idle": 1000.0}
    squares = least_squares(residuals, (x, y), start, dtype="float64", bounds=bounds)
    mean = minimize(lambda p, d: jnp.mean(residuals(p, d) ** 2), (x, y), start, dtype="float64", bounds=bounds)
    assert squares.check().params["idle"] == mean.check().params["idle"] == 1000


def entropy_dual():
    """Return the dual of a maximum-entropy model whose features depend on each other: convex, flat along some lines."""
    rng = np.random.default_rng(3)
    features = rng.integers(0, 2, size=(6, 4)).astype(float)
    features = np.column_stack([features, features[:, 0] + features[:, 1], np.ones(6)])
    target = rng.dirichlet(np.ones(6)) @ features
    return lambda w: jax.nn.logsumexp(jnp.asarray(features, w.dtype) @ w) - jnp.asarray(target, w.dtype) @ w


@pytest.mark.parametrize("method", ["auto", "newton-cg", "lbfgs", "bfgs", "cg"])
def test_flat_directions_lead_nowhere(method):
    result = minimize(entropy_dual(), None, np.zeros(6), method=method, dtype="float64").check()
    assert result.loss == pytest.approx(1.7476189061874, rel=1e-12)
    assert result.evals < 40


def test_flat_directions_are_left_alone_from_every_start():
    dual = entropy_dual()
    for far in (1, 2, 3, 5, 10, 20, 50):
        result = minimize(dual, None, far * np.arange(6.0), dtype="float64").check()
        assert result.loss == pytest.approx(1.7476189061874, rel=1e-12)
        assert np.abs(result.params).max() < 1000


@DTYPES
@pytest.mark.parametrize("method", ["auto", "newton-cg", "lbfgsb"])
def test_flat_directions_far_away_make_no_success(method, dtype):
    dual = entropy_dual()
    for far in (5, 50, 100, 500):
        result = minimize(dual, None, far * np.arange(6.0), method=method, dtype=dtype, stop=jaxgd.Stop(max_evals=500))
        with jax.enable_x64(True):
            loss = float(dual(jnp.asarray(result.params, "float64")))
        assert not result.converged or loss < 1.7476189061874 + 1e-4


@DTYPES
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_steps_too_short_to_change_a_param_end(momentum, dtype):
    method = jaxgd.GradientDescent(1e-20, momentum=momentum)
    result = minimize(lambda p, y: jnp.mean((y - p) ** 2), np.arange(4.0), 1e3, method=method, dtype=dtype)
    assert result.status is Status.STUCK
    assert "step size too short" in result.message
    assert result.evals == 2


def test_a_column_too_many_costs_neither_success_nor_evaluations():
    # A category's columns add up to the constant, so that one direction has no curvature, and of its slope rounding
    # alone is left: a step along it would lead to and fro.
    def poisson(w, data):
        rows, counts = data
        return jnp.mean(jnp.exp(rows @ w) - counts * (rows @ w))

    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        kind, x = rng.integers(0, 4, 200), rng.normal(size=200)
        rows = np.column_stack([np.ones(200), x * 10 ** rng.uniform(-2, 2), np.eye(4)[kind]])
        counts = rng.poisson(np.exp(0.5 * x + 0.3 * kind)).astype(float)
        found.append((minimize(poisson, (rows, counts)), minimize(poisson, (rows[:, :-1], counts)).check()))
    assert all(abs(full.loss - fewer.loss) <= 1e-12 for full, fewer in found)
    assert np.median([full.evals for full, _ in found]) <= 1.5 * np.median([fewer.evals for _, fewer in found])
    assert np.mean([full.converged for full, _ in found]) >= 0.75


def test_directions_without_curvature_cost_no_patience():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((500, 9)), rng.integers(0, 10, 500)

    def softmax(w, data):
        scores = data[0] @ w
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - jnp.take_along_axis(scores, data[1][:, None], 1)[:, 0])

    for start in (0.0, 1.0):
        result = minimize(softmax, (features, labels), start * rng.standard_normal((9, 10)), dtype="float32").check()
        assert result.evals <= 20


@DTYPES
@pytest.mark.parametrize("method", ["auto", "lbfgs", "newton-cg"])
def test_a_slope_that_rounds_to_zero_is_no_minimum(dtype, method):
    features, labels = np.array([[1.0, -2], [1, -1], [1, 1], [1, 2]]), np.array([0.0, 0, 1, 1])  # a line separates them

    def loss(w, data):
        scores = data[0] @ w
        return jnp.sum(jnp.logaddexp(0, scores) - data[1] * scores) + data[2]

    for shift in (0.0, 1.0, 100.0):
        result = minimize(loss, (features, labels, shift), np.zeros(2), method=method, dtype=dtype)
        assert result.status in (Status.NO_INFLUENCE, Status.STUCK)


@DTYPES
@pytest.mark.parametrize("method", ["auto", "lbfgs"])
def test_a_loss_that_falls_in_a_straight_line_is_no_plateau(dtype, method):
    def huber(x):
        off = jnp.abs(x - 3)
        return jnp.sum(jnp.where(off < 1, off**2 / 2, off - 0.5))

    def exponential(x):
        return jnp.sum(jnp.exp(x - 3) - x)

    for loss, start in ((huber, 1e4), (huber, [1e4, -30.0]), (exponential, 40.0)):
        result = minimize(loss, init=np.array(start), method=method, dtype=dtype).check()
        assert result.params == pytest.approx(3, abs=1e-3)
        assert result.evals < 1000


@DTYPES
@pytest.mark.parametrize("method", ["auto", "lbfgs", "bfgs", "cg", "bb", "steepest", "lbfgsb"])
def test_no_success_on_a_kink_above_the_lowest(dtype, method):
    def absolute(w, data):
        return jnp.sum(jnp.abs(data[0] @ w - data[1]))

    stop = jaxgd.Stop(max_evals=1000)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(15, 5)).astype(np.float32).astype(float)
        y = (features @ rng.normal(size=5) + rng.normal(size=15)).astype(np.float32).astype(float)
        cost, both = np.r_[np.zeros(5), np.ones(15)], np.vstack([features, -features])
        lowest = linprog(cost, np.hstack([both, -np.vstack([np.eye(15)] * 2)]), np.r_[y, -y], bounds=(None, None)).fun
        result = minimize(absolute, (features, y), method=method, dtype=dtype, stop=stop)
        reached = np.abs(features @ np.asarray(result.params, float) - y).sum()
        assert not result.converged or reached < lowest * (1 + 1e-4)


@pytest.mark.parametrize(("dtype", "method"), [("float32", "auto"), ("float32", "lbfgs"), ("float64", "lbfgs")])
def test_no_success_at_infinity(dtype, method):
    data = np.array([[1.0, 0], [1, 0.5], [1, 2], [1, 3]]), np.array([1.0, 1, 0, 0])  # a line separates the classes
    result = minimize(jaxgd.losses.logistic, data, method=method, dtype=dtype)
    assert result.status == Status.NO_INFLUENCE
    assert "infinity: params[0], params[1]" in result.message


@DTYPES
@pytest.mark.parametrize("method", ["auto", "newton-cg", "lbfgs", "bfgs", "cg", "bb", "steepest", "lbfgsb"])
def test_classes_that_a_line_separates_have_no_minimum(method, dtype):
    """Whatever the rows and their units, and above any constant."""

    def loss(w, data):
        return jaxgd.losses.logistic(w, data[:2]) + data[2]

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.integers(0, 10**6), st.integers(-6, 6), st.sampled_from([0.0, 1.0, 30.0]))
    def check(seed, power, shift):
        rng = np.random.default_rng(seed)
        features = np.column_stack([np.ones(20), rng.normal(size=(20, 2)) * 2.0**power])
        scores = features @ (rng.normal(size=3) / [1, 2.0**power, 2.0**power])
        labels = (scores > np.median(scores)).astype(float)
        stop = jaxgd.Stop(max_evals=2000)
        result = minimize(loss, (features, labels, shift), np.zeros(3), method=method, dtype=dtype, stop=stop)
        assert not result.converged

    check()


def test_a_loss_without_second_derivatives_may_run_to_infinity_as_well():
    @jax.custom_vjp
    def loss(x):
        return jnp.exp(-x[0]) + (x[1] - 1) ** 2

    def pull(x, cotangent):
        slope = jax.pure_callback(lambda x: np.array([-np.exp(-x[0]), 2 * (x[1] - 1)], x.dtype), x, x)
        return (cotangent * slope,)

    loss.defvjp(lambda x: (loss(x), x), pull)
    result = minimize(loss, None, np.zeros(2), dtype="float32")
    assert result.status == Status.NO_INFLUENCE
    assert "infinity:" not in result.message  # by which params, curvatures would tell


def test_no_success_where_a_param_has_lost_its_influence():
    x = np.linspace(0, 4, 50)
    y = 823.5 - 5.3 * np.exp(-8.2 * x) + 0.2 * np.random.default_rng(0).normal(size=50)
    fit = least_squares(lambda p, d: d[1] - (p[0] - p[1] * jnp.exp(-p[2] * d[0])), (x, y), np.ones(3), dtype="float64")
    assert not fit.converged or fit.loss == pytest.approx(0.830, abs=1e-3)


@DTYPES
@pytest.mark.parametrize(("method", "most"), [("auto", 3), ("newton-cg", 3), ("bfgs", 5), ("lbfgs", 5), ("lbfgsb", 21)])
def test_a_solve_begun_at_an_answer_ends_at_once(method, most, dtype):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 10))
    y = (rng.random(2000) < 1 / (1 + np.exp(-features @ rng.normal(size=10)))).astype(float)
    first = minimize(jaxgd.losses.logistic, (features, y), np.zeros(10), method=method, dtype=dtype).check()
    again = minimize(jaxgd.losses.logistic, (features, y), first.params, method=method, dtype=dtype).check()
    assert again.evals <= most


@pytest.mark.parametrize("kind", ["minimize", "bounds", "least_squares", "many", "lbfgs"])
def test_float32_data_while_x64_is_on(kind):
    with jax.enable_x64(True):
        y = jnp.array([1.0, 2.0, 3.0], "float32")

        def mse(t, y):
            return jnp.mean((t - y) ** 2)

        calls = {
            "minimize": lambda: minimize(mse, y),
            "bounds": lambda: minimize(mse, y, bounds=(0, 9)),
            "least_squares": lambda: least_squares(lambda t, y: y - t, y),
            "many": lambda: jaxgd.minimize_many(mse, y[None]),
            "lbfgs": lambda: minimize(mse, y, method="lbfgs"),
        }
        result = calls[kind]()
        assert np.allclose(result.params, 2, atol=1e-6)
        assert np.asarray(result.params).dtype == np.float32


def test_nobody_waits_for_digits_that_the_loss_does_not_have():
    rng = np.random.default_rng(0)
    features, y = rng.standard_normal((2000, 50)), (rng.random(2000) < 0.5).astype(float)
    for method, most in (("auto", 8), ("lbfgs", 14), ("bfgs", 16)):
        result = minimize(jaxgd.losses.logistic, (features, y), np.zeros(50), method=method, dtype="float32").check()
        assert result.evals <= most


@pytest.mark.parametrize("tol", [1.0, 2.0, 1e-40])
def test_a_tolerance_that_asks_for_nothing_or_too_much_is_refused(tol):
    with warnings.catch_warnings(), pytest.raises(ValueError, match="`tol` must be at least 5e-32 and below 1"):
        minimize(jaxgd.losses.mse, [1.0, 2.0], tol=tol)


@DTYPES
def test_squares_of_terms_that_are_nearly_alike_keep_their_digits(dtype):
    """Sums of three exponentials: the Jacobian's singular values span more than its square can tell apart."""
    x = np.linspace(0, 1.15, 24)
    y = 0.0951 * np.exp(-x) + 0.8607 * np.exp(-3 * x) + 1.5576 * np.exp(-5 * x)

    def residuals(p, d):
        return d[1] - sum(p[i] * jnp.exp(-p[i + 1] * d[0]) for i in (0, 2, 4))

    for start in ((0.5, 0.7, 3.6, 4.2, 4.0, 6.3), (1.2, 0.3, 5.6, 5.5, 6.5, 7.6)):
        fit = least_squares(residuals, (x, y), np.array(start), dtype=dtype).check()
        assert fit.loss < {"float32": 1e-13, "float64": 1e-28}[dtype]
        assert np.allclose(
            fit.params, [0.0951, 1, 0.8607, 3, 1.5576, 5], rtol={"float32": 1e-2, "float64": 1e-9}[dtype]
        )


@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e-21])
def test_columns_whose_squares_leave_the_range(unit):
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, (30, 5))
    right = np.array([1.0, 2, 0, 3, 0])
    fit = least_squares(
        lambda p, d: d[0] @ p - d[1],
        (features * unit, features @ right),
        np.zeros(5),
        bounds=(0, None),
        dtype="float32",
    )
    assert np.allclose(fit.params * unit, right, atol=1e-4)
    assert fit.converged or unit < 1e-19  # where squares leave the range, the Hessian is 0, and STUCK the status
    assert fit.evals < 50


@pytest.mark.parametrize("size", [3, 50])
@pytest.mark.parametrize("method", ["auto", "newton-cg", "lbfgs", "bfgs", "cg", "lbfgsb", "steepest", "bb"])
def test_the_unit_of_the_loss_is_nothing_to_a_method(method, size):
    """In float32 the squares of slopes as large or as small as these leave the range."""

    def loss(x, unit):
        return unit * jnp.sum((x - 1) ** 2 + (x - 1) ** 4 + 0.3 * jnp.cos(x))

    right = minimize(loss, 1.0, np.zeros(size), dtype="float64").check().params
    for unit in (1e-20, 1.0, 1e20):
        result = minimize(loss, np.float32(unit), np.zeros(size), method=method, dtype="float32").check()
        assert np.allclose(result.params, right, rtol=1e-2)
        assert result.evals <= 50


def test_a_far_start_leaves_a_scale_behind_that_the_answer_does_not_need():
    """There squares of scaled slopes leave the range of float32 (Newton-CG), or decreases dwarf the loss (FISTA)."""
    for seed in (2, 4):
        loss, data, lowest = exponential_regression(seed)
        newton = minimize(loss, data, np.full(4, 5.0), method="newton-cg", dtype="float32").check()
        assert newton.loss <= lowest * (1 + 1e-5)
        assert newton.evals < 100
        fista = minimize(loss, data, np.full(4, 5.0), method="fista", dtype="float64")
        assert not fista.converged or fista.loss <= lowest * (1 + 1e-6)


@DTYPES
def test_params_that_run_to_infinity_by_themselves_are_named(dtype):
    def loss(p):
        return (p["a"] - 1) ** 2 + jnp.log1p(jnp.exp(-p["b"])) + (p["c"] - 2) ** 2 / 2 - jnp.exp(-(p["c"] ** 2))

    fit = minimize(loss, init={"a": 0.0, "b": 0.0, "c": 0.0}, method="bfgs", dtype=dtype)
    assert fit.status == Status.NO_INFLUENCE
    assert "infinity: b." in fit.message


@DTYPES
def test_a_minimum_foretold_far_away_may_be_where_nothing_depends_on_a_param(dtype):
    """Jennrich and Sampson's function from ten times the usual start: one param leaps to where its exponentials end."""
    i = np.arange(1.0, 11)
    fit = least_squares(
        lambda p, i: 2 + 2 * i - jnp.exp(i * p[0]) - jnp.exp(i * p[1]), i, np.array([3.0, 4.0]), dtype=dtype
    )
    assert fit.status == Status.NO_INFLUENCE
    assert "Without influence: params[0]." in fit.message


@pytest.mark.parametrize("method", ["bfgs", "lbfgs", "cg", "lbfgsb"])
@DTYPES
def test_learnt_curvature_claims_nothing_that_a_step_refutes(method, dtype):
    for seed in (2, 6):
        loss, data, lowest = exponential_regression(seed)
        for start in (0.0, 3.0, 5.0):
            result = minimize(loss, data, np.full(4, start), method=method, dtype=dtype)
            assert not result.converged or result.loss <= lowest * (1 + 1e-5)
            assert result.converged or start > 0


@DTYPES
def test_an_answer_without_second_derivative_is_no_plateau(dtype):
    def loss(p):
        return jnp.sum(jnp.abs(p["z"] - 1 - 2j) ** 2) + (p["a"] - 1) ** 2

    result = minimize(loss, None, {"z": np.zeros(2, complex), "a": 0.0}, dtype=dtype).check()
    assert np.allclose(result.params["z"], 1 + 2j)


def test_the_start_that_is_bad_is_named():
    def loss(p):
        return jnp.sqrt(p["a"]) + p["b"] ** 2

    message = minimize(loss, None, {"a": 0.0, "b": 1.0}, dtype="float64").message
    assert message == (
        "the gradient is not finite at the start: loss 1.0. Pass another `init`."
        " Not finite: the gradient by `init['a']`."
    )
    beyond = minimize(lambda p: jnp.exp(p) ** 2, None, 80.0, dtype="float32").message
    assert "the loss is not finite" in beyond
    assert "dtype='float64'" in beyond


def test_a_kink_of_one_param_is_closed_in_on_and_said_to_be():
    result = minimize(lambda t: jnp.abs(t - 1), None, 5.0).check()
    assert result.status is Status.PRECISION_FLOOR
    assert result.params == pytest.approx(1)
    assert "both sides" in result.message


def test_a_kink_is_not_said_to_be_a_lost_influence():
    """A support vector machine: its hinges are no plateau."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 5))
    labels = np.sign(features @ rng.normal(size=5) + rng.normal(size=100))

    def hinge(w, data):
        return jnp.mean(jax.nn.relu(1 - data[1] * (data[0] @ w))) + 0.01 * jnp.sum(w**2)

    for start in (0.1, 30.0):
        result = minimize(hinge, (features, labels), start * rng.normal(size=5), stop=jaxgd.Stop(max_evals=2000))
        assert result.status is not Status.NO_INFLUENCE


def test_a_tol_below_what_the_type_resolves_is_said():
    def mse(theta, y):
        return jnp.mean((y - theta) ** 2)

    y = np.arange(9.0)
    assert "`tol` is 1.0e-09: float32 resolves no less than 4.8e-07" in minimize(mse, np.float32(y), tol=1e-9).message
    assert "resolves" not in minimize(mse, y, tol=1e-6).message
    assert "resolves" not in minimize(mse, y, tol=1e-9).message
    assert "resolves" not in minimize(mse, y).message


@DTYPES
@pytest.mark.parametrize("lanes", [False, True])
def test_a_bound_that_takes_all_influence_leaves_a_finite_estimate(lanes, dtype):
    """At a height of 0 nothing depends on the others: a model without curvature has a step of 0, not of NaN."""
    t = np.linspace(0, 20, 160)
    y = 2 * np.exp(-0.15 * t) * np.cos(3 * t + 0.5)

    def loss(p, y):
        curve = p["height"] * jnp.exp(-p["damping"] * t) * jnp.cos(p["omega"] * t + p["phase"])
        return jnp.mean((y - curve) ** 2)

    start = {"height": 1.0, "damping": 0.1, "omega": 1.5, "phase": 0.0}
    bounds = {"height": (0, None), "damping": (0, None), "omega": (1, 6)}
    solve, data = (minimize_many, y[None]) if lanes else (minimize, y)
    result = solve(loss, data, start, bounds=bounds, dtype=dtype)
    result = result[0] if lanes else result
    assert result.params["height"] == 0
    assert result.converged
    assert re.search(r"by an estimated -?0\.0e\+00 at most", result.message)
