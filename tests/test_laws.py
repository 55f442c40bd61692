"""Laws that hold for every solver on every problem, in float32 and float64."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS, value
from solvers import FIRST_PAIRS, PAIRS

import jaxgd
from jaxgd import Status, Stop
from jaxgd.compile import executables
from jaxgd.compile.cache import cache
from jaxgd.compile.inputs import cast
from jaxgd.core.bound_loss import BoundLoss
from jaxgd.core.flat import Layout
from jaxgd.core.loop import advance, begin
from jaxgd.core.problem import Problem, rounding
from jaxgd.solvers.registry import choose_method, named

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
EVERY = pytest.mark.parametrize(("solver", "problem"), PAIRS)
SOME = pytest.mark.parametrize(("solver", "problem"), FIRST_PAIRS)


def solve(solver, problem, dtype, loss=None, data=None, init=None, **options):
    data = problem.data if data is None else data
    init = problem.init if init is None else init
    return jaxgd.minimize(loss or problem.loss, data, init, method=solver.method(problem), dtype=dtype, **options)


def as_vector(tree):
    return np.concatenate([np.atleast_1d(np.asarray(leaf, complex)).ravel() for leaf in jax.tree.leaves(tree)])


def precision(dtype):
    return {"float32": 2e-3, "float64": 1e-5}[dtype]


def quiet(call):
    """Return what `call` returns, without the warning of a solve that was cut short on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        return call()


@DTYPES
@EVERY
def test_converges_to_the_minimum_and_says_what_is_true(solver, problem, dtype):
    result = solve(solver, problem, dtype)
    assert result.converged
    check_minimum(result, problem, dtype)
    check_consistency_and_descent(result, problem, dtype)


@functools.cache
def slopes_of(name, dtype):
    """Return the layout of a problem's params, and loss and gradient at a vector, compiled once for all solvers."""
    problem = next(problem for problem in PROBLEMS if problem.name == name)
    with jax.enable_x64(dtype == "float64"):
        layout = Layout.of(cast(jax.tree.map(np.asarray, problem.init), np.dtype(dtype)))
    return layout, jax.jit(jax.value_and_grad(lambda vector: value(problem, layout.unflatten(vector))))


def check_minimum(result, problem, dtype):
    """Honesty: converged implies that SciPy, in float64, finds nothing lower from there."""
    layout, both = slopes_of(problem.name, "float64")
    with jax.enable_x64(True):
        here, first = layout.flatten(result.params), layout.flatten(problem.init)
        polished = scipy.optimize.minimize(both, np.asarray(here), jac=True, method="BFGS", options={"gtol": 1e-12})
        made = both(first)[0] - polished.fun
        # Within what was asked for, or within what rounding hides.
        allowed = {"float32": 1e-6, "float64": 1e-9}[dtype] * made + rounding(np.asarray(result.loss, dtype))
        assert both(here)[0] - polished.fun <= allowed
        if problem.minimizer is not None:
            assert np.allclose(as_vector(result.params), as_vector(problem.minimizer), rtol=0, atol=precision(dtype))


def check_consistency_and_descent(result, problem, dtype):
    layout, both = slopes_of(problem.name, dtype)
    with jax.enable_x64(dtype == "float64"):
        loss, grad, reported = map(np.asarray, (*both(layout.flatten(result.params)), layout.flatten(result.grad)))
        start = float(both(layout.flatten(problem.init))[0])
    eps = jnp.finfo(dtype).eps
    # Rounding of the params moves a loss near 0 by the square root of its size.
    assert abs(result.loss - loss) <= 20 * eps * max(abs(loss), 1e-3 * start)
    assert np.allclose(reported, grad, rtol=1e-2, atol=200 * eps)
    assert result.grad_norm == pytest.approx(max(np.abs(leaf).max() for leaf in jax.tree.leaves(result.grad)))
    assert result.loss <= start
    assert jax.tree.structure(result.params) == jax.tree.structure(problem.init)


@SOME
def test_calls_are_counted_and_the_best_point_is_returned(solver, problem):
    """Evaluations and products equal the calls that a counter saw; a Hessian is one call, of a product a param."""
    calls, seen = [], []

    def watched(params, data):
        loss = problem.loss(params, data)
        jax.debug.callback(lambda: calls.append(1))
        jax.debug.callback(lambda loss: seen.append(float(loss)), loss)
        return loss

    result = solve(solver, problem, None, loss=watched, stop=Stop(tol=1e-6))
    jax.effects_barrier()
    size = as_vector(problem.init).size
    # Conjugate gradients take one product at a time, after a Hessian for the scale.
    hessians, single = (1, result.products - size) if solver.name == "newton-cg" else (result.products / size, 0)
    assert result.evals + hessians + single == len(calls)
    assert 0 < result.moves < result.evals
    for most in (1, 2, 3, 5, 9):
        calls.clear()  # what a loss reads is part of its program's key
        seen.clear()
        stop = Stop(tol=1e-6, max_evals=most)
        result = quiet(lambda stop=stop: solve(solver, problem, None, loss=watched, stop=stop))
        jax.effects_barrier()
        assert result.evals <= most
        assert float(result.loss) <= min(seen) * (1 + 1e-6)


@DTYPES
@SOME
def test_resume_is_bit_identical(solver, problem, dtype):
    """Any split of a run into bursts gives the same run."""
    method, _ = choose_method(named(solver.method(problem)), 1)

    def setup():
        layout = Layout.of(cast(jax.tree.map(np.asarray, problem.init), np.dtype(dtype)))
        loss = BoundLoss(lambda params: (value(problem, params), ()), layout)
        return Problem(loss, layout, ()), method, Stop(tol=1e-6)

    def start():
        own, *_ = setup()
        return begin(own, method, own.layout.flatten(problem.init))

    begun, burst = jax.jit(start), jax.jit(lambda run, ticks: advance(*setup(), run, ticks))

    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    def check(splits):
        with jax.enable_x64(dtype == "float64"):
            run = begun()
            for ticks in splits:
                run = burst(run, ticks)
            whole = burst(begun(), sum(splits))
            pairs = zip(*map(jax.tree.leaves, (run, whole)), strict=True)
            assert all(np.array_equal(one, other, equal_nan=True) for one, other in pairs)

    check()


@DTYPES
@pytest.mark.parametrize(("solver", "problem"), [pair for pair in PAIRS if pair.values[1].name == "quadratic"])
def test_pytree_of_parameters_changes_nothing(solver, problem, dtype):
    whole = solve(solver, problem, dtype)

    def split(params, data):
        return problem.loss(jnp.concatenate([params["a"][0], params["b"].ravel()]), data)

    size = problem.init.size - 1
    parts = solve(solver, problem, dtype, loss=split, init={"b": np.zeros((1, size)), "a": [np.zeros(1)]})
    assert parts.converged == whole.converged
    joined = np.concatenate([parts.params["a"][0], parts.params["b"].ravel()])
    assert np.allclose(joined, whole.params, atol=precision(dtype))
    assert parts.params["b"].shape == (1, size)


@DTYPES
@pytest.mark.parametrize("problem", [PROBLEMS[i] for i in (1, 5, 7)], ids=lambda problem: problem.name)
@pytest.mark.parametrize("change", ["x 1e8", "x 1e-8", "+ 1e4", "params x 100", "params / 100"])
def test_scale_changes_neither_verdict_nor_answer(problem, change, dtype):
    *_, sign, amount = change.split()
    number = float(amount) if sign != "/" else 1 / float(amount)
    of_params = change.startswith("params")
    # Arrays, so that all changes have one program.
    factor = np.asarray(number if of_params else 1.0)
    times = np.asarray(1.0 if of_params or sign == "+" else number)
    plus = np.asarray(number if sign == "+" else 0.0)

    def changed(params, *data):
        return problem.loss(jax.tree.map(lambda leaf: leaf / factor, params), *data) * times + plus

    result = jaxgd.minimize(changed, problem.data, jax.tree.map(lambda leaf: leaf * factor, problem.init), dtype=dtype)
    plain = jaxgd.minimize(problem.loss, problem.data, problem.init, dtype=dtype)
    assert result.converged
    # A constant of 1e4 costs float32 about half of its digits; the gradient still has them.
    loose = 20 if change == "+ 1e4" else 5
    assert np.allclose(
        as_vector(result.params) / factor, as_vector(plain.params), rtol=0, atol=loose * precision(dtype)
    )


@SOME
def test_rows_repeated_or_permuted_change_nothing(solver, problem):
    order = np.random.default_rng(0).permutation(len(jax.tree.leaves(problem.data)[0]))
    plain = solve(solver, problem, "float64")
    for rows in (order, np.repeat(order, 3)):
        result = solve(solver, problem, "float64", data=jax.tree.map(lambda leaf, rows=rows: leaf[rows], problem.data))
        assert np.allclose(as_vector(result.params), as_vector(plain.params), atol=1e-5)
        assert result.converged


@SOME
def test_jit_and_vmap(solver, problem, monkeypatch):
    # Kernels that are compiled quickly round otherwise, and a user's own `jit` compiles none so.
    cache.clear()
    monkeypatch.setattr(executables, "quick_options", lambda **_: {})
    method, alone = solver.method(problem), solve(solver, problem, "float32")
    jitted = jax.jit(lambda data: jaxgd.minimize(problem.loss, data, problem.init, method=method))(problem.data)
    assert jitted.converged
    assert jitted.evals == alone.evals
    assert np.allclose(as_vector(jitted.params), as_vector(alone.params), atol=1e-4)

    # Lanes that end at different times do not disturb each other.
    lanes = jax.tree.map(lambda leaf: np.stack([leaf, leaf[::-1] * 0.5, leaf * 0.9]), problem.data)
    many = jax.vmap(lambda data: jaxgd.minimize(problem.loss, data, problem.init, method=method))(lanes)
    assert np.asarray(many.converged).all()
    for i in range(3):
        data = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        one = jaxgd.minimize(problem.loss, data, problem.init, method=method, dtype="float32")
        assert np.allclose(
            as_vector(jax.tree.map(lambda leaf, i=i: leaf[i], many.params)), as_vector(one.params), atol=2e-3
        )


def test_a_lane_of_nan_changes_no_other():
    data = np.stack([BOOK, BOOK * np.nan, BOOK + 1])
    many = jax.vmap(lambda y: jaxgd.minimize(jaxgd.losses.mse, y))(data)
    assert np.asarray(many.status).tolist() == [Status.CONVERGED, Status.BAD_START, Status.CONVERGED]
    assert np.allclose(np.asarray(many.params)[[0, 2]], [14.66, 15.66], atol=1e-4)
    assert "1 BAD_START" in many.message
    with pytest.raises(jaxgd.NotConverged):
        many.check()


BOOK = PROBLEMS[0].data
