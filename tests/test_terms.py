"""Bounds, penalties, constraints, parameters held still, and sums of squares, against independent oracles."""

import dataclasses
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from problems import rosenbrock

import jaxgd
from jaxgd.core.terms import L1, Box, residual

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 5)) * [1.0, 3.0, 0.5, 1.0, 1.0]
Y = X @ [1.0, -0.5, 0.0, 0.0, 2.0] + 0.3 * RNG.normal(size=60)
LOWER, UPPER = np.array([-0.5, -1, 0.1, -np.inf, -1]), np.array([0.5, np.inf, 1, np.inf, 1.5])
BOXED = pytest.mark.parametrize("method", ["newton", "newton-cg", "lbfgsb", "fista"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
CLOSE = {"float32": 2e-4, "float64": 1e-6}


def mean_square(w, data):
    X, y = data
    return jnp.mean((y - X @ w) ** 2) / 2


def slope(w):
    return X.T @ (X @ np.asarray(w, float) - Y) / len(Y)


def fit(**options):
    return jaxgd.minimize(mean_square, (X, Y), np.zeros(5), **options)


@BOXED
@DTYPES
def test_bounds_hold_exactly_and_the_answer_is_that_of_scipy(method, dtype):
    result = fit(bounds=(LOWER, UPPER), method=method, dtype=dtype)
    oracle = scipy.optimize.lsq_linear(X, Y, (LOWER, UPPER), tol=1e-14).x
    assert result.converged
    assert np.allclose(result.params, oracle, atol=CLOSE[dtype])
    at_bound = (np.abs(oracle - LOWER) < 1e-8) | (np.abs(oracle - UPPER) < 1e-8)
    assert at_bound.any()
    found = np.asarray(result.params)[at_bound]
    assert np.all((found == LOWER.astype(dtype)[at_bound]) | (found == UPPER.astype(dtype)[at_bound]))
    assert result.grad_norm < 1e-3 < np.abs(np.asarray(result.grad)).max()


@BOXED
def test_nothing_is_evaluated_outside(method):
    seen = []

    def watched(x):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return rosenbrock(x)

    result = jaxgd.minimize(watched, None, np.array([-1.2, 1.0]), bounds=([-2, -2], [0.5, 2]), method=method)
    jax.effects_barrier()
    assert np.allclose(result.params, [0.5, 0.25], atol=1e-3)
    assert np.max(np.stack(seen), axis=0)[0] <= 0.5


@pytest.mark.parametrize("start", [1.5, 1500.0, 1e6])
@DTYPES
def test_a_pole_at_a_bound_does_not_send_a_learnt_model_back_and_forth(start, dtype):
    result = jaxgd.minimize(lambda x: x + 1 / x, None, start, bounds=(1e-12, None), method="lbfgsb", dtype=dtype)
    assert result.converged
    assert result.evals < 200
    assert float(result.params) == pytest.approx(1, rel=1e-3 if dtype == "float32" else 1e-6)


def test_bounds_may_be_numbers_trees_and_partial():
    def loss(p):
        return (p["a"] - 3) ** 2 + jnp.sum((p["b"] + 1) ** 2)

    init = {"a": 0.0, "b": np.zeros(2)}
    for bounds in [(0, 2), ({"a": 0, "b": 0}, {"a": 2}), ({"b": [0, 0]}, {"a": 2, "b": np.inf}), ({"b": 0.0}, 2)]:
        result = jaxgd.minimize(loss, None, init, bounds=bounds)
        assert float(result.params["a"]) == 2
        assert np.array_equal(result.params["b"], [0, 0])
    plain, infinite = jaxgd.minimize(loss, None, init), jaxgd.minimize(loss, None, init, bounds=(None, np.inf))
    assert np.allclose(plain.params["b"], infinite.params["b"], atol=1e-5)


def test_a_start_outside_is_moved_in_and_said():
    result = jaxgd.minimize(rosenbrock, None, np.array([3.0, -3.0]), bounds=(-2, 2))
    assert result.converged
    assert "2 of the start's numbers lay outside the bounds" in result.message


@BOXED
@DTYPES
def test_l1_meets_its_conditions_with_exact_zeros(method, dtype):
    weight = 0.2
    w = np.asarray(fit(l1=weight, method=method, dtype=dtype).params)
    zero = w == 0
    assert zero.sum() == 2
    assert np.all(np.abs(slope(w)[zero]) <= weight)
    assert np.allclose(slope(w)[~zero], -weight * np.sign(w[~zero]), atol=20 * CLOSE[dtype])


def test_penalties_agree_with_those_written_by_hand():
    def by_hand(w, data):
        return mean_square(w, data) + 0.15 * jnp.sum(w**2)

    ridge = fit(l2=0.3, dtype="float64")
    assert np.allclose(ridge.params, jaxgd.minimize(by_hand, (X, Y), dtype="float64").params, atol=1e-6)
    both = np.asarray(fit(l1=0.2, l2=0.3, bounds=(0, None), dtype="float64").params)
    free, total = both > 0, slope(both) + 0.3 * both
    assert np.allclose(total[free], -0.2, atol=1e-6)
    assert np.all(total[~free] >= -0.2)
    upwards = jaxgd.maximize(lambda w, data: -mean_square(w, data), (X, Y), np.zeros(5), l2=0.3, dtype="float64")
    assert np.allclose(upwards.params, ridge.params, atol=1e-6)


@DTYPES
def test_constraints_on_all_params_agree_with_slsqp(dtype):
    simplex = fit(term=jaxgd.Simplex(2.0), dtype=dtype)
    oracle = scipy.optimize.minimize(
        lambda w: np.mean((Y - X @ w) ** 2) / 2,
        np.full(5, 0.4),
        jac=slope,
        bounds=[(0, None)] * 5,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 2, "jac": lambda _: np.ones(5)},
        tol=1e-12,
    )
    assert np.allclose(simplex.params, oracle.x, atol=10 * CLOSE[dtype])
    assert float(np.sum(np.asarray(simplex.params, float))) == pytest.approx(2, abs=1e-6)
    ball = np.asarray(fit(term=jaxgd.Ball(1.5), dtype=dtype).params, float)
    assert np.linalg.norm(ball) == pytest.approx(1.5, rel=1e-5)
    # On the sphere the slope points straight out.
    assert np.allclose(slope(ball) * (ball @ ball), (slope(ball) @ ball) * ball, atol=50 * CLOSE[dtype])


VECTORS = hnp.arrays(float, 4, elements=st.floats(-5, 5))
TERMS = [Box(np.full(4, -1.0), np.array([1, 0, np.inf, 2.0])), L1(0.7), jaxgd.Simplex(1.5), jaxgd.Ball(2.0)]


@pytest.mark.parametrize("term", TERMS, ids=lambda term: type(term).__name__)
def test_prox_is_the_minimizer_it_is_said_to_be(term):
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(VECTORS, VECTORS, st.floats(0.1, 3))
    def check(x, other, stepsize):
        with jax.enable_x64(True):
            prox = np.asarray(term.prox(jnp.asarray(x), stepsize))
            other = np.asarray(term.project(jnp.asarray(other)))

            def cost(at):
                return stepsize * float(term.value(jnp.asarray(at))) + np.sum((at - x) ** 2) / 2

            assert cost(prox) <= cost(other) + 1e-9
            assert cost(prox) <= cost(prox + 0.01 * (other - prox)) + 1e-9
            assert np.allclose(np.asarray(term.project(jnp.asarray(prox))), prox, atol=1e-12)

    check()


@pytest.mark.parametrize("size", [3, 200, 2000])
def test_shares_sum_to_the_total_however_many_and_stay(size):
    """What is off by less than rounding of one share would be off by thousands of these, all together."""
    random = np.random.default_rng(size)
    for off in (0, 1e-6, 1e-5, 1e-3, 1.0):
        shares = random.dirichlet(np.ones(size)) + off * random.normal(size=size) / size + off / size
        once = jaxgd.Simplex().prox(jnp.asarray(shares, jnp.float32))
        assert abs(np.sum(np.asarray(once, float)) - 1) < 8 * np.finfo(np.float32).eps
        assert np.array_equal(jaxgd.Simplex().prox(once), once)


SLOPED = [*TERMS, L1(0.7, Box(np.full(4, -0.5), np.full(4, 1.0))), L1(0.0)]


@pytest.mark.parametrize("term", SLOPED, ids=lambda term: type(term).__name__)
def test_residual_is_the_plain_difference_but_for_rounding(term):
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(VECTORS, VECTORS, st.integers(-3, 3))
    def check(x, slope, size):
        with jax.enable_x64(True):
            x, grad = term.project(jnp.asarray(x)), 10.0**size * jnp.asarray(slope)
            plain = x - term.prox(x - grad, 1)
            assert np.allclose(residual(term, x, grad), plain, rtol=1e-9, atol=1e-12)

    check()


@DTYPES
def test_slopes_below_the_rounding_of_their_params_are_seen(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, one = jnp.array([0.75, 0.25, 0.0], dtype), jnp.array([1.0, -1.0, 0.5], dtype)
        ball = jaxgd.Ball(1.0).project(4 * x)
        for small in (1e-10, 1e-30):
            for term in (Box(-jnp.ones(3), jnp.ones(3)), L1(0.0), jaxgd.Ball(1.0)):
                assert np.array_equal(residual(term, x, small * one), small * one)
            assert np.allclose(residual(jaxgd.Simplex(), x, small * one) / small, [1, -1, 0])
            along = np.asarray(residual(jaxgd.Ball(1.0), ball, small * (jnp.array([1.0, -3.0, 0.0], dtype) - 9 * ball)))
            assert np.allclose(along / small, [1, -3, 0], atol=1e-5)
            assert np.allclose(residual(jaxgd.Ball(1.0), ball, -small * ball) / small, 0, atol=1e-5)


@partial(jax.tree_util.register_dataclass, data_fields=["total"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Rounded(jaxgd.Simplex):
    """A term that a user has written: no `residual`."""

    residual = None


def counted(rate, counts):
    return jnp.mean(rate - counts * jnp.log(rate))


COUNTS = np.array([1.0e9, 1.1e9, 0.9e9])
IDLE = {"bounds": {"bounds": (0, None)}, "l1": {"l1": 0.0}, "ball": {"term": jaxgd.Ball(1e12)}}


@pytest.mark.parametrize("method", ["auto", "newton-cg", "lbfgsb", "fista"])
@pytest.mark.parametrize("idle", IDLE)
@DTYPES
@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
def test_a_constraint_that_is_idle_changes_nothing(idle, method, dtype):
    if idle == "ball" and method not in ("auto", "fista"):
        pytest.skip("keeps no ball")
    result = jaxgd.minimize(counted, COUNTS, 5e8, method=method, dtype=dtype, **IDLE[idle])
    assert result.converged
    assert float(result.params) == pytest.approx(1e9, rel=1e-3 if dtype == "float32" else 1e-5)
    pair = jaxgd.minimize(rosenbrock, None, np.array([-1.2, 1.0]), method=method, dtype=dtype, **IDLE[idle])
    assert np.allclose(pair.params, 1, atol=0.02)
    # FISTA gets there and says STUCK: a success that is missed.
    assert pair.converged or method == "fista"


def test_a_term_without_a_residual_of_its_own_takes_the_difference():
    plain, own = (fit(term=term(2.0), method="fista", dtype="float64") for term in (jaxgd.Simplex, Rounded))
    assert plain.converged
    assert own.converged
    assert np.allclose(plain.params, own.params, atol=1e-6)


DONORS = np.random.default_rng(1)
SERIES = np.linspace(8000, 17000, 20)[:, None] * DONORS.uniform(0.8, 1.2, 8) + 50 * DONORS.normal(size=(20, 8))
TARGET = SERIES @ np.array([0.5, 0.3, 0.2, 0, 0, 0, 0, 0]) + 30 * DONORS.normal(size=20)
SHARES = SERIES / np.sqrt(10), TARGET / np.sqrt(10)


def misfit(w, data):
    return data[1] - data[0] @ w


def half_square(w, data):
    return jnp.sum(misfit(w, data) ** 2) / 2


def mixture(w, densities):
    return -jnp.mean(jnp.log(densities @ w))


@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
@DTYPES
@pytest.mark.parametrize("size", [8, 120])
def test_shares_of_a_mixture_are_found_on_the_face_as_soon_as_by_softmax(size, dtype):
    densities = np.random.default_rng(size).gamma(1.0, size=(500, size))
    found = jaxgd.minimize(mixture, densities, np.full(size, 1 / size), term=jaxgd.Simplex(), dtype=dtype)
    assert found.converged
    free = jaxgd.minimize(lambda z, data: mixture(jax.nn.softmax(z), data), densities, np.zeros(size), dtype=dtype)
    assert found.evals <= free.evals
    with jax.enable_x64(True):
        shares = np.asarray(found.params, float), jax.nn.softmax(np.asarray(free.params, float))
        lowest, other = (float(mixture(jnp.asarray(w), densities)) for w in shares)
    assert lowest <= other + 4 * np.finfo(dtype).eps


@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
@DTYPES
def test_shares_of_series_that_go_together_are_found_in_few_evaluations(dtype):
    """Against non-negative least squares, with the sum as a row of great weight."""
    A, y = np.vstack([SHARES[0], np.full(8, 1e7)]), np.append(SHARES[1], 1e7)
    lowest = float(half_square(scipy.optimize.nnls(A, y)[0], SHARES))
    for result in (
        jaxgd.minimize(half_square, SHARES, term=jaxgd.Simplex(), dtype=dtype),
        jaxgd.least_squares(misfit, SHARES, term=jaxgd.Simplex(), dtype=dtype),
    ):
        # In float32 it may end some 6e-6 above the lowest, which differs by machine, if it says that it failed.
        found = float(half_square(np.asarray(result.params, float), SHARES))
        assert result.converged or (dtype == "float32" and found > lowest * (1 + 1e-6))
        assert result.evals < 60
        assert found == pytest.approx(lowest, rel=1e-3 if dtype == "float32" else 1e-9)


CORNERS = {
    "vertex": (jaxgd.Simplex(), [3.0, 1.0, -1.0], [1, 0, 0]),
    "edge": (jaxgd.Simplex(), [0.7, 0.6, -1.0], [0.55, 0.45, 0]),
    "inside the simplex": (jaxgd.Simplex(6.0), [3.0, 2.0, 2.5], [2.5, 1.5, 2.0]),
    "where it starts": (jaxgd.Simplex(3.0), [1.0, 1.0, 1.0], [1, 1, 1]),
    "ball not touched": (jaxgd.Ball(2.0), [0.5, 0.3, -0.4], [0.5, 0.3, -0.4]),
    "ball touched": (jaxgd.Ball(0.5), [3.0, 0.0, -4.0], [0.3, 0, -0.4]),
    "ball just touched": (jaxgd.Ball(5.0), [3.0, 0.0, -4.0], [3.0, 0, -4.0]),
}


@DTYPES
@pytest.mark.parametrize("corner", CORNERS)
def test_newton_finds_every_kind_of_corner(corner, dtype):
    term, near, answer = CORNERS[corner]
    result = jaxgd.minimize(lambda w, to: jnp.sum((w - to) ** 2), np.array(near), np.ones(3), term=term, dtype=dtype)
    assert result.converged
    assert "Newton" in result.method
    assert result.evals < 20
    assert np.allclose(result.params, answer, atol=1e-5)
    if isinstance(term, jaxgd.Simplex):
        assert np.array_equal(np.asarray(result.params) == 0, np.array(answer) == 0)


ROWS = np.random.default_rng(5).normal(size=(12, 4))


def wavy(w, data):
    X, y, bend = data
    return jnp.mean((X @ w - y) ** 2) + bend * jnp.sum(jnp.cos(2 * w))


@pytest.mark.parametrize("kind", [jaxgd.Simplex, jaxgd.Ball])
def test_newton_on_a_constraint_finds_what_slsqp_cannot_lower(kind):
    slopes = jax.grad(wavy)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(VECTORS, hnp.arrays(float, 4, elements=st.floats(-2, 2)), st.floats(-1, 1.5), st.sampled_from([0, 0.3]))
    def check(x, units, total, bend):
        data, total = (ROWS * 10**units, ROWS @ x, bend), 10**total
        result = jaxgd.minimize(wavy, data, np.ones(4), term=kind(total), method="newton", dtype="float64")
        assert result.converged
        constraint = {"type": "eq", "fun": lambda w: w.sum() - total}
        if kind is jaxgd.Ball:
            constraint = {"type": "ineq", "fun": lambda w: total**2 - w @ w}
        with jax.enable_x64(True):
            oracle = scipy.optimize.minimize(
                lambda w: float(wavy(w, data)),
                np.asarray(result.params),
                jac=lambda w: np.asarray(slopes(w, data)),
                bounds=[(0 if kind is jaxgd.Simplex else -np.inf, np.inf)] * 4,
                constraints=constraint,
                tol=1e-15,
            )
        # From there; a way down to another minimum would be longer.
        assert float(result.loss) <= oracle.fun + 1e-9 * (1 + abs(oracle.fun))

    check()


@pytest.mark.parametrize("term", [jaxgd.Simplex(2.0), jaxgd.Ball(1.5)], ids=["simplex", "ball"])
def test_lanes_on_a_constraint_are_those_alone(term):
    ys = np.stack([Y, Y + 1, -Y, X[:, 0]])
    many = jaxgd.minimize_many(mean_square, (np.stack([X] * 4), ys), np.zeros(5), term=term, dtype="float64")
    mapped = jax.vmap(lambda y: jaxgd.minimize(mean_square, (X, y), np.zeros(5), term=term).params)(jnp.asarray(ys))
    for i, y in enumerate(ys):
        alone = jaxgd.minimize(mean_square, (X, y), np.zeros(5), term=term, dtype="float64")
        assert alone.converged
        assert np.allclose(many.params[i], alone.params, atol=1e-7)
        assert np.allclose(mapped[i], alone.params, atol=1e-3)


def test_what_is_fixed_stays():
    start = np.array([0.7, 0.0, 0.0, -0.3, 0.0])
    held = np.array([True, False, False, True, False])
    result = jaxgd.minimize(mean_square, (X, Y), start, fixed=held, dtype="float64")
    rest = np.linalg.lstsq(X[:, ~held], Y - X[:, held] @ start[held])[0]
    assert np.array_equal(np.asarray(result.params)[held], start[held])
    assert np.allclose(np.asarray(result.params)[~held], rest, atol=1e-6)
    assert np.all(np.asarray(result.grad)[held] == 0)
    named = jaxgd.minimize(
        lambda p: (p["a"] - 1) ** 2 + abs(p["z"] - 2) ** 2 + p["a"] * p["b"],
        None,
        {"a": 0.0, "b": 0.5, "z": 0j},
        fixed={"b": True},
        bounds=None,
    )
    assert float(named.params["b"]) == 0.5
    assert float(named.params["a"]) == pytest.approx(0.75, abs=1e-4)
    assert complex(named.params["z"]) == pytest.approx(2, abs=1e-3)


def test_many_parameters_take_products_instead_of_a_matrix():
    def chain(x):
        return jnp.sum((x[1:] - x[:-1]) ** 2) + (x[0] - 1) ** 2 + 0.01 * jnp.sum(x**4)

    result = jaxgd.minimize(chain, None, np.zeros(200), bounds=(None, 0.8))
    assert result.converged
    assert "conjugate gradients (chosen: many parameters)" in result.method
    assert float(np.max(np.asarray(result.params))) <= np.float32(0.8)
    for method in ("newton", "bfgs"):
        with pytest.raises(ValueError, match=r"`method`.*Hessian of 100000 parameters.*GB.*'newton-cg'"):
            jaxgd.minimize(lambda x: jnp.sum(x**2), None, np.ones(100_000), method=method)


def test_bounds_and_weights_may_be_traced():
    boxes = jax.vmap(lambda upper: fit(bounds=(None, upper)).params)(jnp.array([0.3, 0.9]))
    weights = jax.jit(jax.vmap(lambda weight: fit(l1=weight).params))(jnp.array([0.1, 0.5]))
    for i, (upper, weight) in enumerate([(0.3, 0.1), (0.9, 0.5)]):
        assert np.allclose(boxes[i], fit(bounds=(None, upper)).params, atol=1e-3)
        assert np.allclose(weights[i], fit(l1=weight).params, atol=1e-3)


INTERCEPT = {"layers": [{"w": np.zeros(5), "b": 0.0}]}
SHIFTED = (X, Y + 3)


def affine(params, data):
    (layer,) = params["layers"]
    return mean_square(layer["w"], (data[0], data[1] - layer["b"]))


def affine_residuals(params, data):
    (layer,) = params["layers"]
    return (data[1] - layer["b"] - data[0] @ layer["w"]) / np.sqrt(len(Y))


RIDGES = np.array([0.0, 0.1, 0.2, 0.3, 10.0])
SPELLINGS = [
    {"layers.0.w": RIDGES},
    {"layers": [{"w": RIDGES, "b": 0}]},
    {"layers": [{"w": RIDGES.tolist()}]},
    {"layers": {"0": {"w": RIDGES, "b": None}}},
    {"layers.0": {"w": jnp.array(RIDGES)}},
]


@pytest.mark.parametrize("method", ["newton", "newton-cg", "lbfgs", "fista", "least_squares"])
def test_a_ridge_by_leaf_leaves_the_intercept_alone(method):
    """Against the normal equations."""
    A = np.column_stack([X, np.ones(60)])
    oracle = np.linalg.solve(A.T @ A / 60 + np.diag([*RIDGES, 0]), A.T @ SHIFTED[1] / 60)
    for l2 in SPELLINGS[: 1 if method != "newton" else None]:
        if method == "least_squares":
            result = jaxgd.least_squares(affine_residuals, SHIFTED, INTERCEPT, l2=l2, dtype="float64")
        else:
            result = jaxgd.minimize(affine, SHIFTED, INTERCEPT, l2=l2, method=method, dtype="float64", tol=1e-12)
        (layer,) = result.check().params["layers"]
        assert np.allclose([*layer["w"], layer["b"]], oracle, atol=2e-6)
        plain = float(affine(result.params, SHIFTED))
        assert float(result.loss) == pytest.approx(plain + np.sum(RIDGES * layer["w"] ** 2) / 2)


@BOXED
def test_l1_by_leaf_meets_its_conditions_and_leaves_the_intercept_alone(method):
    weights = np.array([0.0, 0.5, 0.2, 0.2, 0.2])
    result = jaxgd.minimize(affine, SHIFTED, INTERCEPT, l1={"layers.0.w": weights}, method=method, dtype="float64")
    (layer,) = result.check().params["layers"]
    w, b = np.asarray(layer["w"]), float(layer["b"])
    slopes = X.T @ (X @ w + b - SHIFTED[1]) / 60
    assert (w == 0).sum() == 2
    assert np.all(np.abs(slopes)[w == 0] <= weights[w == 0])
    assert np.allclose(slopes[w != 0], -(weights * np.sign(w))[w != 0], atol=1e-5)
    assert np.mean(X @ w + b - SHIFTED[1]) == pytest.approx(0, abs=1e-5)


def test_penalties_by_leaf_count_what_is_fixed_in_lanes_in_rows_and_upwards():
    start, held = np.array([0.7, 0.0, 0.0, -0.3, 0.0]), np.array([True, False, False, True, False])
    weights = {"l1": np.array([0.2, 0.1, 0.0, 0.3, 0.1]), "l2": RIDGES}
    options = {"fixed": held, **weights, "dtype": "float64"}

    def total(w):
        return np.mean((Y - X @ w) ** 2) / 2 + np.sum(weights["l1"] * abs(w) + RIDGES * w**2 / 2)

    one = jaxgd.minimize(mean_square, (X, Y), start, **options)
    rows = jaxgd.minimize(mean_square, jaxgd.Rows((X, Y)), start, **options)
    many = jaxgd.minimize_many(mean_square, (X[None], Y[None]), start, **options)
    top = jaxgd.maximize(lambda w, data: -mean_square(w, data), (X, Y), start, **options)
    for result, sign in ((one, 1), (rows, 1), (many[0], 1), (top, -1)):
        assert np.allclose(result.params, one.params, atol=1e-6)
        assert sign * float(result.loss) == pytest.approx(total(np.asarray(result.params)), rel=1e-9)
    assert np.array_equal(np.asarray(one.params)[held], start[held])


def test_a_ridge_by_leaf_of_complex_params_and_no_l1():
    def loss(p):
        return jnp.sum(jnp.abs(p["z"] - 1 - 2j) ** 2) + (p["a"] - 1) ** 2

    init = {"z": np.zeros(2, complex), "a": 0.0}
    result = jaxgd.minimize(loss, None, init, l2={"z": [2.0, 0]}, l1={"a": 0.5}, dtype="float64")
    assert np.allclose(result.params["z"], [0.5 + 1j, 1 + 2j], atol=1e-6)
    assert float(result.params["a"]) == pytest.approx(0.75, abs=1e-6)
    with pytest.raises(TypeError, match=r"`l1` cannot shrink the complex parameter params\['z'\]"):
        jaxgd.minimize(loss, None, init, l1={"z": [0, 1.0]})


def test_options_by_leaf_may_be_traced_and_named_in_any_pytree():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Model:
        slope: object
        at: object

    def loss(model):
        return jnp.sum((model.slope - 2) ** 2) + (model.at["b"] - 3) ** 2

    init = Model(np.zeros(2), {"b": 0.0})
    ridges = jnp.array([[0.0, 2.0], [2.0, 6.0]])
    lanes = jax.vmap(lambda l2: jaxgd.minimize(loss, None, init, l2={"slope": l2}).params)(ridges)
    assert np.allclose(lanes.slope, [[2, 1], [1, 0.5]], atol=1e-3)
    assert np.allclose(lanes.at["b"], 3, atol=1e-3)
    for upper in ({"slope": [1, 5], "at.b": 2}, Model([1, 5], 2), Model([1, 5], {"b": 2})):
        result = jaxgd.minimize(loss, None, init, bounds=(None, upper))
        assert np.allclose([*result.params.slope, result.params.at["b"]], [1, 2, 2], atol=1e-4)
    held = jaxgd.minimize(loss, None, init, fixed={"at.b": True}, l2=Model(2.0, 0)).params
    assert np.allclose([*held.slope, held.at["b"]], [1, 1, 0], atol=1e-4)
    # A key of the dict itself comes before a path.
    dotted = jaxgd.minimize(
        lambda p: (p["a.b"] - 1) ** 2 + (p["a"]["b"] - 1) ** 2, None, {"a.b": 0.0, "a": {"b": 0.0}}, l2={"a.b": 2.0}
    )
    assert np.allclose([dotted.params["a.b"], dotted.params["a"]["b"]], [0.5, 1], atol=1e-3)


@jax.tree_util.register_static
class Capped:
    """Params of at most a half: a term of a user's own, of which no method knows more than the prox."""

    def value(self, params):
        return 0 * params[0]

    def prox(self, params, stepsize):
        del stepsize
        return jnp.minimum(params, 0.5)

    def project(self, params):
        return jnp.minimum(params, 0.5)


def of_capped(method="auto"):
    return jaxgd.minimize(lambda w: jnp.sum((w - 1) ** 2), init=jnp.zeros(2), term=Capped(), method=method)


@pytest.mark.parametrize("method", ["auto", "fista", jaxgd.GradientDescent(0.1)])
def test_a_term_of_ones_own_is_kept_by_methods_that_need_its_prox_alone(method):
    result = of_capped(method)
    assert result.converged
    assert result.params.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("method", ["newton", "lbfgs", "lbfgsb"])
def test_a_term_of_ones_own_is_refused_by_others(method):
    with pytest.raises(ValueError, match=r"cannot keep Capped\. Methods that can: 'auto', 'fista'"):
        of_capped(method)


def test_a_term_that_is_no_pytree_is_refused():
    class Own(Capped):
        pass

    with pytest.raises(TypeError, match=r"`term` must be a pytree; got .*register_static"):
        jaxgd.minimize(lambda w: jnp.sum(w**2), init=jnp.zeros(2), term=Own())


STARTS = {
    (1e-12, None): 1,
    (None, -1e-3): -1.001,
    (0, None): 1,
    (2, 4): 3,
    (-1, 2): 0,
    (-np.inf, 3): 0,
    (5, 5): 5,
    (1e20, None): 1e20 * (1 + 2**-11.5),
}


@pytest.mark.parametrize("bounds", STARTS)
def test_an_inferred_start_is_inside_the_bounds(bounds):
    once = jaxgd.Stop(max_evals=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        result = jaxgd.minimize(lambda x: x + 1 / (x + 7), bounds=bounds, stop=once, dtype="float32")
        given = jaxgd.minimize(lambda x: x + 1 / (x + 7), init=-9.0, bounds=bounds, stop=once, dtype="float32")
    assert float(result.params) == pytest.approx(STARTS[bounds], rel=1e-6)
    assert "moved inside" not in result.message
    nearest = np.clip(-9.0, *(None if end is None else np.float32(end) for end in bounds))
    assert float(given.params) == pytest.approx(nearest, rel=1e-6)


def test_a_pole_at_a_bound_is_no_start():
    result = jaxgd.minimize(lambda x: x + 1 / x, bounds=(1e-12, None))
    assert result.converged
    assert float(result.params) == pytest.approx(1)
    many = jaxgd.minimize_many(
        lambda x, a: x + a / x, np.array([1.0, 4.0]), bounds=(np.array([1e-9, 1e-3]), None), dtype="float64"
    )
    assert many.converged.all()
    assert many.params == pytest.approx([1, 2])


def test_a_bound_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"`bounds\[0\]` has shape \(1,\); the parameter there has shape \(2,\)"):
        jaxgd.minimize(lambda w: jnp.sum(w**2), init=jnp.ones(2), bounds=(jnp.zeros(1), None))
