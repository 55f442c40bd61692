"""SciPy's functions by our solvers: what SciPy itself returns, for the same call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy.optimize import Bounds, OptimizeWarning

import jaxgd.scipy as ours

X = np.linspace(0, 4, 30)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.05 * np.cos(40 * X)
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def by_scipy(function, *args, **options):
    """What SciPy returns, in float64."""
    with jax.enable_x64(True):
        return function(*args, **options)


def rosenbrock(x, a=1.0, b=100.0):
    return jnp.sum(b * (x[1:] - x[:-1] ** 2) ** 2 + (a - x[:-1]) ** 2)


def decay(x, height, rate, offset):
    return height * jnp.exp(-rate * x) + offset


@pytest.mark.parametrize("method", [None, "BFGS", "L-BFGS-B", "Newton-CG", "CG", "Nelder-Mead", "SLSQP", "trust-exact"])
def test_minimize(method):
    start = [1.3, 0.7, 0.8, 1.9]
    found = ours.minimize(rosenbrock, start, args=(1.0, 90.0), method=method, options={"maxiter": 2000})
    theirs = by_scipy(optimize.minimize, rosenbrock, start, args=(1.0, 90.0), method="BFGS")
    assert np.allclose(found.x, theirs.x, atol=1e-4)
    assert found.success
    assert isinstance(found.x, np.ndarray)
    assert found.x.dtype == np.float64
    assert found.fun <= theirs.fun + 1e-12
    assert set(found) >= {"x", "fun", "jac", "nfev", "njev", "nit", "success", "status", "message"}


def test_minimize_within_bounds_given_in_either_way():
    pairs = [(0, 0.5), (None, 0.1)]
    theirs = by_scipy(optimize.minimize, rosenbrock, [0.1, 0.0], bounds=pairs)
    for bounds in (pairs, Bounds([0, -np.inf], [0.5, 0.1])):
        assert np.allclose(ours.minimize(rosenbrock, [0.1, 0.0], bounds=bounds).x, theirs.x, atol=1e-5)


def test_minimize_takes_values_and_slopes_and_counts_that_are_whole_numbers():
    def both(x, n):
        return sum(x[i % 2] ** 2 for i in range(n)), "not a gradient"

    assert np.allclose(ours.minimize(both, [1.0, 2.0], args=(4,), jac=True).x, 0)


def test_minimize_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="cannot be kept"):
        ours.minimize(rosenbrock, [0, 0], constraints={"type": "eq", "fun": rosenbrock})
    with pytest.warns(OptimizeWarning, match="maxls"):
        assert not ours.minimize(rosenbrock, [-1.2, 1.0], options={"maxls": 3, "maxiter": 2}).success


def test_callbacks():
    seen = []

    def look(intermediate_result):
        seen.append(intermediate_result.fun)
        if len(seen) == 3:
            raise StopIteration

    assert not ours.minimize(rosenbrock, [-1.2, 1.0], callback=look).success
    assert len(seen) == 3
    points = []
    ours.minimize(rosenbrock, [-1.2, 1.0], callback=points.append)
    assert np.shape(points)[1:] == (2,)


@pytest.mark.parametrize("loss", ["linear", "soft_l1", "huber", "cauchy", "arctan"])
def test_least_squares(loss):
    def residuals(p, x, y):
        return decay(x, *p) - y

    # A wild value, beyond the scale.
    y = Y + np.where(np.arange(30) == 7, 1.0, 0.0)
    options = {"args": (X, y), "loss": loss, "f_scale": 0.1, "bounds": ([0, 0, -1], [5, 5, 0.4])}
    found = ours.least_squares(residuals, [1.0, 1.0, 0.0], **options)
    theirs = by_scipy(optimize.least_squares, residuals, [1.0, 1.0, 0.0], **options, ftol=1e-14, xtol=1e-14)
    assert np.allclose(found.x, theirs.x, atol=1e-4)
    assert np.allclose(found.cost, theirs.cost, rtol=1e-6)
    assert np.allclose(found.fun, theirs.fun, atol=1e-3)
    assert found.success
    assert found.jac.shape == (30, 3)
    assert found.active_mask.tolist() == theirs.active_mask.tolist()


SIGMAS = {
    "none": {},
    "relative": {"sigma": 0.01 + X / 10},
    "absolute": {"sigma": 0.01 + X / 10, "absolute_sigma": True},
    "a matrix": {"sigma": 0.1 * np.eye(30) + 0.05, "absolute_sigma": True},
    "bounds": {"bounds": (0, [5, 5, 5])},
}


@pytest.mark.parametrize("name", SIGMAS)
def test_curve_fit(name):
    params, covariance = ours.curve_fit(decay, X, Y, **SIGMAS[name])
    theirs = by_scipy(optimize.curve_fit, decay, X, Y, **SIGMAS[name])
    assert np.allclose(params, theirs[0], **EXACT)
    assert np.allclose(covariance, theirs[1], rtol=1e-4)


def test_curve_fit_of_what_the_data_do_not_determine():
    with pytest.warns(OptimizeWarning, match="could not be estimated"):
        params, covariance = ours.curve_fit(lambda x, a, b: (a + b) * x, X, X, p0=[0.4, 0.4])
    assert np.isinf(covariance).all()
    assert np.isclose(params.sum(), 1)


def test_curve_fit_says_what_is_wrong():
    with pytest.raises(ValueError, match="`ydata` holds NaN"):
        ours.curve_fit(decay, X, np.where(X > 3, np.nan, Y))
    assert np.isfinite(ours.curve_fit(decay, X, np.where(X > 3, np.nan, Y), nan_policy="omit")[0]).all()
    with pytest.raises(ValueError, match="Pass `p0`"):
        ours.curve_fit(lambda x, *p: p[0] * x, X, Y)
    with pytest.raises(ValueError, match="fewer than the 3 params"):
        ours.curve_fit(decay, X[:2], Y[:2])
    with pytest.raises(ValueError, match="`sigma` has shape"):
        ours.curve_fit(decay, X, Y, sigma=np.ones(3))
    with pytest.raises(RuntimeError, match="MAX_EVALS"):
        ours.curve_fit(decay, X, Y, maxfev=2)
    *_, info, message, flag = ours.curve_fit(decay, X, Y, full_output=True)
    assert info["fvec"].shape == (30,)
    assert message.startswith("CONVERGED")
    assert flag == 1
