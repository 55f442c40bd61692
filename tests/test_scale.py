"""Units of the params, derivatives that JAX does not have, and what a tolerance asks of a method."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_inputs import refused

import jaxgd
from benchmarks import large
from jaxgd import NotConvergedWarning, least_squares, minimize
from jaxgd.core.bound_loss import BoundLoss
from jaxgd.core.flat import Layout
from jaxgd.core.numerics import safe_norm
from jaxgd.core.problem import Problem
from jaxgd.core.protocol import TOL_LEARNT
from jaxgd.core.scaling import FEW, balanced, equilibrated, or_slope, scale_at

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
LEARNT = pytest.mark.parametrize("method", ["lbfgs", "bfgs", "lbfgsb", "cg"])
T = np.linspace(1, 8, 20)
HEIGHTS = 240 * (1 - np.exp(-5.5e-1 * T))


def growth(p, data):
    """A model whose params differ by their units alone: by six powers of ten."""
    t, y = data
    return jnp.mean((y - p[0] * (1 - jnp.exp(-1e6 * p[1] * t))) ** 2)


@LEARNT
@DTYPES
def test_units_of_the_params_matter_little(method, dtype):
    result = minimize(growth, (T, HEIGHTS), np.array([200.0, 4e-7]), method=method, dtype=dtype).check()
    assert np.allclose(result.params, [240, 5.5e-7], rtol=1e-2 if dtype == "float32" else 1e-5)
    assert result.products == 4  # a Hessian at the start, and one at the end


@LEARNT
def test_powers_of_two_as_units_change_no_more_than_rounding(method):
    def rough(x, units):
        x = x * units
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    start = np.array([-1.2, 1.0, 0.5])
    plain = minimize(rough, np.ones(3), start, method=method, dtype="float64").check()
    for units in (np.array([2.0, 2**6, 0.5]), np.array([2**-8, 1, 2**4])):
        other = minimize(rough, units, start / units, method=method, dtype="float64").check()
        assert np.allclose(other.params * units, plain.params, atol=1e-5)


@DTYPES
def test_scale_makes_curvatures_alike(dtype):
    def scale_of(curvatures):
        start = jnp.zeros(len(curvatures), dtype)
        loss = lambda x: (jnp.sum(jnp.asarray(curvatures, dtype) * x**2) / 2, ())  # noqa: E731
        layout = Layout.of(start)
        return scale_at(Problem(BoundLoss(loss, layout), layout, ()), start)

    with jax.enable_x64(dtype == "float64"):
        curvatures = np.array([1e-30, 1e-6, 1.0, 1e6])
        assert np.allclose(curvatures / scale_of(curvatures) ** 2, 1, rtol=1e-3)
        # Nothing is known of a param of no curvature, nor of many params.
        assert scale_of([4.0, 0.0]).tolist() == [2, 1]
        assert scale_of([4.0] * (FEW + 1)).tolist() == [1] * (FEW + 1)


def test_many_equal_params_are_not_scaled_by_chance():
    def copies(x):
        return jnp.sum(100 * (x[1::2] - x[::2] ** 2) ** 2 + (1 - x[::2]) ** 2)

    for method, most in (("lbfgs", 60), ("cg", 130), ("newton-cg", 40), ("auto", 60)):
        result = minimize(copies, init=np.tile([-1.2, 1.0], 500), method=method, dtype="float64").check()
        assert np.allclose(result.params, 1, atol=1e-4)
        assert result.evals <= most
    assert result.products == 0  # of the default: each would cost as much as two evaluations


@pytest.mark.parametrize("name", ["process", "mixture"])
def test_a_hessian_is_computed_where_it_is_worth_its_cost(name):
    """Each costs as much as fourteen evaluations and more; of the same loss of few rows, less than all around it."""
    job = large.JOBS[name](0.1)
    dear = minimize(job.loss, job.data, job.start, dtype="float64").check()
    assert "BFGS (chosen: a Hessian costs many evaluations)" in dear.method
    newton = minimize(job.loss, job.data, job.start, method="newton", dtype="float64")
    assert dear.loss <= newton.loss + 1e-6
    assert dear.evals + 2 * dear.products < 0.6 * (newton.evals + 2 * newton.products)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)  # a mixture of ten rows has no minimum
        light = minimize(job.loss, jax.tree.map(lambda leaf: leaf[:10], job.data), job.start, dtype="float64", tol=0.1)
    assert "Newton (chosen: few parameters)" in light.method


def test_equilibration_survives_squares_that_overflow():
    matrix = jnp.array([[1e27, 1e20], [1e20, 1e15]], "float32")
    rows = np.asarray(balanced(matrix, equilibrated(matrix)))
    rows = np.linalg.norm(rows.astype(float), axis=1)
    assert np.allclose(rows, rows[0], rtol=1e-2)
    assert np.array_equal(equilibrated(jnp.zeros((2, 2))), [0, 0])


def test_a_hessian_that_is_not_finite_or_is_rounding():
    for bad in (np.inf, np.nan):
        assert np.array_equal(or_slope(jnp.array([[bad, bad], [bad, 1.0]]), jnp.float32(3)), [[3, 0], [0, 1]])
        assert np.array_equal(or_slope(jnp.array([[1.0, bad], [bad, 1.0]]), jnp.float32(3)), np.eye(2))
    noisy = jnp.array([[1.0, 1e-8], [-1e-8, 0.0]])
    assert np.array_equal(or_slope(noisy, jnp.float32(3)), [[1, 0], [0, 0]])
    assert np.array_equal(or_slope(jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.float32(3)), [[2, 1], [1, 2]])


def test_root_where_the_square_leaves_the_range():
    for size in (1e-30, 1.0, 1e30):
        vector = jnp.array([size, -size], "float32")
        length = safe_norm(jnp.sum(vector**2), jnp.sum(jnp.abs(vector)))
        assert size < length <= 2.001 * size
    assert safe_norm(jnp.float32(0), jnp.float32(0)) == 0


def test_a_tolerance_asks_more_where_curvature_is_learnt():
    for dtype, default in TOL_LEARNT.default.items():
        with jax.enable_x64(dtype == "float64"):
            assert TOL_LEARNT.demanded(0.0, dtype) == jnp.asarray(default, dtype)
            assert TOL_LEARNT.demanded(1e-3, dtype) < 1e-7
            # It is never asked for more than by default, unless the user asks for more himself.
            assert TOL_LEARNT.demanded(1e-12, dtype) >= jnp.asarray(default, dtype)
            assert np.isclose(TOL_LEARNT.demanded(default / 10, dtype), default / 10)


@DTYPES
@LEARNT
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_the_tolerance_asked_for_is_delivered(method, tol, dtype):
    start = np.array([200.0, 4e-7])
    result = minimize(growth, (T, HEIGHTS), start, method=method, tol=tol, dtype=dtype).check()
    with jax.enable_x64(True):
        first, last = (float(growth(jnp.asarray(x, float), (T, HEIGHTS))) for x in (start, result.params))
    assert last <= tol * first  # the lowest loss is 0


def reverse_only(function):
    """A function whose derivative the user gives, as of a library of his own: JAX has it in reverse mode alone."""
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda x: (function(x), x), lambda x, slope: (jax.vjp(function, x)[1](slope)[0],))
    return wrapped


def bowl(x):
    return jnp.sum(jnp.array([1.0, 10.0, 3.0]) * (x - 1) ** 2)


WEIGHTS = np.array([1.0, 10.0, 3.0], np.float32)


@jax.custom_vjp
def on_the_host(x):
    """A simulator outside of JAX, which reads an array that it closes over."""
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(lambda x: np.float32(np.sum(WEIGHTS * (np.asarray(x) - 1) ** 2)), shape, x)


def slopes_on_the_host(x, slope):
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    return (slope * jax.pure_callback(lambda x: 2 * WEIGHTS * (np.asarray(x) - 1), shape, x),)


on_the_host.defvjp(lambda x: (on_the_host(x), x), slopes_on_the_host)


@pytest.mark.parametrize("method", ["auto", "newton", "newton-cg", "lbfgs", "lbfgsb"])
def test_a_loss_with_a_custom_vjp(method):
    result = minimize(reverse_only(bowl), init=np.zeros(3), method=method).check()
    assert np.allclose(result.params, 1, atol=1e-4)


def test_residuals_with_a_custom_vjp():
    model = reverse_only(lambda p: p[0] * jnp.exp(-p[1] * jnp.arange(5.0)))
    y = np.asarray(2 * np.exp(-0.5 * np.arange(5.0)), np.float32)
    fit = least_squares(lambda p, y: y - model(p), y, np.ones(2)).check()
    assert np.allclose(fit.params, [2, 0.5], atol=1e-3)
    refused(
        ValueError,
        ["`method` Levenberg-Marquardt", "custom_vjp", "forward mode", "'lbfgs'"],
        lambda: least_squares(lambda p, y: y - model(p), y, np.ones(2), method=jaxgd.LevenbergMarquardt()),
    )


@pytest.mark.parametrize("method", ["auto", "lbfgs", "lbfgsb", "bfgs"])
def test_a_loss_on_the_host(method):
    result = minimize(on_the_host, init=np.zeros(3, np.float32), method=method).check()
    assert np.allclose(result.params, 1, atol=1e-4)
    assert result.products == 0


def test_a_loss_on_the_host_with_bounds():
    result = minimize(on_the_host, init=np.zeros(3, np.float32), bounds=(0, 0.5)).check()
    assert result.params.tolist() == [0.5] * 3
    assert "no second derivatives" in result.method


def test_newton_is_refused_where_there_is_no_curvature():
    refused(
        ValueError,
        ["`method` trust-region Newton", "not the second ones", "'lbfgs'"],
        lambda: minimize(on_the_host, init=np.zeros(3, np.float32), method="newton"),
    )


def test_rows_that_differ_from_their_columns_are_rounding():
    noisy = jnp.array([[1.0, 3e-16, 0], [1e-16, 2e-15, 0], [0, 0, 1e-20]])
    assert np.allclose(or_slope(noisy, 1.0), np.diag([1, 0, 1e-20]), atol=0)


@DTYPES
def test_a_param_that_nothing_depends_on_but_by_rounding_stays_near(dtype):
    def model(w, data):
        return jax.nn.logsumexp(data[0] @ w["slope"] + w["level"]) - data[1] @ w["slope"] - w["level"]

    for seed in range(3):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(7, 3))
        data = features, rng.dirichlet(np.ones(7)) @ features
        for far in (1.0, 5.0, 20.0):
            start = {"slope": far * rng.normal(size=3), "level": far}
            result = minimize(model, data, start, dtype=dtype).check()
            assert abs(result.params["level"] - far) < 5


@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
@pytest.mark.parametrize("name", ["denoising", "rosenbrock", "responses", "smoothing", "tensor", "control"])
def test_many_params_take_no_more_evaluations_than_by_scipy(name):
    job = large.JOBS[name](1 if name == "control" else 0.1)
    own, scipys = large.ours(job, "auto", 400), large.peers(job, 400)["SciPy L-BFGS-B"]()
    first, lowest = scipys.losses[0], min(own.losses + scipys.losses)
    for tau in (1e-2, 1e-4):
        counts = [way.reached(lowest + tau * (first - lowest)) for way in (own, scipys)]
        assert None not in counts
        assert counts[0] <= 1.1 * counts[1] + 2
