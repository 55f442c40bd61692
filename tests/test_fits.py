"""Sums of squares, maxima, optax's transformations, and what of these and of terms is refused by name."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import scipy.optimize
from problems import BOOK
from test_inputs import refused, unsolved

import jaxgd
from jaxgd import Ball, GradientDescent, LevenbergMarquardt, Simplex, Status, least_squares, maximize, minimize
from jaxgd.losses import mse

T = np.linspace(0, 4, 12)
HEIGHTS = 2.5 * np.exp(-0.7 * T) + 0.01 * np.cos(9 * T)
DATA = (T, HEIGHTS)
INIT = {"height": 1.0, "rate": 1.0}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def decay(p, data):
    t, y = data
    return y - p["height"] * jnp.exp(-p["rate"] * t)


def half(p, data):
    return jnp.sum(decay(p, data) ** 2) / 2


def by_scipy(**options):
    return scipy.optimize.least_squares(
        lambda x: HEIGHTS - x[0] * np.exp(-x[1] * T), [1.0, 1.0], xtol=1e-15, ftol=1e-15, gtol=1e-12, **options
    )


def pair(result):
    return [float(result.params["height"]), float(result.params["rate"])]


@DTYPES
def test_least_squares_agrees_with_scipy(dtype):
    fit, oracle = least_squares(decay, DATA, INIT, dtype=dtype).check(), by_scipy()
    assert np.allclose(pair(fit), oracle.x, rtol=2e-4 if dtype == "float32" else 1e-6)
    assert np.allclose(fit.aux, oracle.fun, atol=1e-4)
    assert np.isclose(fit.loss, np.sum(fit.aux**2) / 2, rtol=1e-5)
    assert np.isclose(fit.loss, half(fit.params, DATA), rtol=1e-3)
    assert "Levenberg-Marquardt" in fit.method


@pytest.mark.parametrize("method", ["auto", "newton", "lbfgs"])
def test_least_squares_is_half_the_sum(method):
    fit = least_squares(decay, DATA, INIT, method=method, dtype="float64").check()
    assert np.allclose(pair(fit), pair(minimize(half, DATA, INIT, dtype="float64").check()), atol=1e-5)


@pytest.mark.parametrize("bounds", [({"rate": 0.9}, None), (None, {"height": 2.0}), (0.0, 10.0)])
def test_least_squares_within_bounds(bounds):
    fit = least_squares(decay, DATA, INIT, bounds=bounds, dtype="float64").check()
    low = [0.0, 0.0] if bounds[0] == 0 else [-np.inf, 0.9 if bounds[0] else -np.inf]
    oracle = by_scipy(bounds=(low, [2.0 if isinstance(bounds[1], dict) else np.inf, np.inf]))
    assert np.allclose(pair(fit), oracle.x, atol=1e-5)


@DTYPES
@pytest.mark.parametrize("options", [{"l2": 0.5}, {"l1": 0.5}, {"fixed": {"rate": True}}], ids=["l2", "l1", "fixed"])
def test_least_squares_with_terms(options, dtype):
    fit = least_squares(decay, DATA, INIT, dtype=dtype, **options).check()
    plain = minimize(half, DATA, INIT, method="newton", dtype="float64", **options).check()
    assert np.allclose(pair(fit), pair(plain), atol=1e-3 if dtype == "float32" else 1e-6)
    # The model knows the curvature of what is added, or it would take many more.
    assert fit.evals < 30


def test_aux_of_least_squares_is_no_residual():
    """A large aux would bend the model, were it taken for residuals."""

    def both(p, data):
        return decay(p, data), {"rate": 1e4 * p["rate"] ** 2, "count": jnp.arange(3)}

    fit, plain = (least_squares(f, DATA, INIT, has_aux=f is both, dtype="float64").check() for f in (both, decay))
    assert fit.evals == plain.evals
    assert pair(fit) == pair(plain)
    assert np.allclose(fit.aux[0], plain.aux)
    assert np.isclose(fit.aux[1]["rate"], 1e4 * fit.params["rate"] ** 2)


def test_residuals_in_pieces():
    def pieces(p, data):
        whole = decay(p, data)
        return {"early": whole[:5].reshape(5, 1), "late": (whole[5:-1], whole[-1])}

    fit, plain = (least_squares(f, DATA, INIT, dtype="float64").check() for f in (pieces, decay))
    assert np.allclose(pair(fit), pair(plain), rtol=1e-9)
    assert fit.aux["early"].shape == (5, 1)
    assert np.allclose(np.concatenate(jax.tree.leaves(jax.tree.map(np.ravel, fit.aux))), plain.aux)


@DTYPES
def test_complex_residuals_and_parameters(dtype):
    centre, rows = np.array([1 + 2j, -1j]), np.array([[1, 1j], [2 - 1j, 0.5], [0.3j, 1]])
    seen = rows @ centre + np.array([0.1, -0.2j, 0.3])
    fit = least_squares(lambda z, data: data[1] - data[0] @ z, (rows, seen), np.zeros(2, complex), dtype=dtype).check()
    best, *_ = np.linalg.lstsq(rows, seen)
    assert np.allclose(fit.params, best, atol=1e-4 if dtype == "float32" else 1e-9)
    assert np.isclose(fit.loss, np.sum(np.abs(seen - rows @ best) ** 2) / 2, rtol=1e-4)
    assert np.iscomplexobj(fit.aux)


def test_least_squares_inside_jit_and_vmap():
    def end(y):
        return least_squares(decay, (T, y), INIT)

    many = jax.vmap(end)(np.stack([HEIGHTS, 2 * HEIGHTS]))
    assert np.asarray(many.converged).all()
    one = pair(least_squares(decay, DATA, INIT))
    assert np.allclose(many.params["height"], [one[0], 2 * one[0]], rtol=1e-3)
    assert np.allclose(many.params["rate"], one[1], rtol=1e-3)


def hill(x):
    return 3 - jnp.sum((x - jnp.array([2.0, 0.1])) ** 2)


@pytest.mark.parametrize(
    ("options", "params", "loss"),
    [
        ({}, [2, 0.1], 3),
        ({"bounds": (0.5, 1.0)}, [1, 0.5], 3 - 1 - 0.16),
        ({"l1": 1.0}, [1.5, 0], 3 - 0.25 - 0.01 - 1.5),
        ({"l2": 2.0}, [1, 0.05], 3 - 1 - 0.0025 - 1 - 0.0025),
        ({"fixed": [True, False]}, [0, 0.1], -1),
    ],
    ids=["plain", "bounds", "l1", "l2", "fixed"],
)
def test_maximize(options, params, loss):
    result = maximize(hill, None, np.zeros(2), dtype="float64", **options).check()
    assert np.allclose(result.params, params, atol=1e-6)
    assert np.isclose(result.loss, loss)
    slope = -2 * (result.params - np.array([2, 0.1])) - options.get("l2", 0) * result.params
    assert np.allclose(result.grad, np.where(options.get("fixed", False), 0, slope), atol=1e-6)


def masked():
    return optax.chain(optax.masked(optax.set_to_zero(), {"height": True, "rate": False}), optax.adam(0.05))


TRANSFORMATIONS = {
    "adam": lambda: optax.adam(0.05),
    "sgd with a schedule": lambda: optax.sgd(optax.cosine_decay_schedule(0.1, 5000), momentum=0.5),
    "lbfgs": optax.lbfgs,
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.05)),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_optax_fits(name):
    result = minimize(half, DATA, INIT, method=TRANSFORMATIONS[name](), dtype="float64", tol=1e-6).check()
    assert np.allclose(pair(result), by_scipy().x, atol=1e-2)
    assert ("its own evaluations are not counted" in result.method) == (name == "lbfgs")


def test_optax_masked():
    result = minimize(half, DATA, INIT, method=masked(), dtype="float64", stop=jaxgd.Stop(xtol=1e-9)).check()
    assert result.params["height"] == 1
    held = minimize(half, DATA, INIT, fixed={"height": True}, dtype="float64").params["rate"]
    assert np.isclose(result.params["rate"], held, atol=1e-3)


def test_optax_inside_vmap():
    many = jax.vmap(lambda y: minimize(mse, y, method=optax.adam(0.1), tol=1e-6))(np.stack([BOOK, BOOK + 1]))
    assert np.asarray(many.converged).all()
    assert np.allclose(many.params, [14.66, 15.66], atol=0.05)


def test_optax_with_a_data_frame():
    frame = pd.DataFrame({"t": T, "y": HEIGHTS})

    def loss(p, rows):
        return half(p, (rows[:, 0], rows[:, 1]))

    result = minimize(loss, frame, INIT, method=optax.adam(0.05), dtype="float64", tol=1e-6).check()
    assert np.allclose(pair(result), by_scipy().x, atol=1e-2)


class Empty(NamedTuple):
    pass


def needy():
    """Return a transformation that needs the curvature, which nobody gives it."""

    def update(updates, state, _=None, *, curvature, **more):
        del more
        return jax.tree.map(lambda g: -g / curvature, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: Empty(), update)


def test_a_transformation_that_lacks_an_argument_is_refused():
    refused(TypeError, ["`method`", "curvature", "`value_fn`"], lambda: minimize(mse, BOOK, method=needy()))


def fit(x):
    return jnp.sum((x - 1) ** 2)


Z, P = np.zeros(2), {"a": np.zeros(2), "b": 0.0}
NAN = float("nan")


def of(**options):
    return lambda: minimize(fit, None, Z, **options)


def tree(**options):
    return lambda: minimize(lambda p: jnp.sum(p["a"] ** 2) + p["b"] ** 2, None, P, **options)


DEEP = {"y": {"a": {"b": 0.0}, "a.b": 0.0}, "z": {"u": (0.0, 0.0), "v": 0.0}}


def deep(**options):
    return lambda: minimize(lambda p: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p)), None, DEEP, **options)


ABLE = ["'auto'", "'newton'", "'lbfgsb'", "'fista'"]
ROWS = {
    "bounds crossed": (ValueError, ["`bounds`", "params[1]", "lower 2.0", "upper 1.0", "Swap"], of(bounds=([0, 2], 1))),
    "bounds crossed below": (ValueError, ["`bounds`", "params['a'][0]"], tree(bounds=({"a": [1.0, 0]}, {"a": 0.5}))),
    "bounds nan": (ValueError, ["`bounds`", "params[0]", "nan"], of(bounds=(NAN, 1))),
    "bounds of a wrong shape": (ValueError, ["`bounds[0]`", "(3,)", "(2,)"], of(bounds=(np.zeros(3), 1))),
    "bounds of a wider shape": (ValueError, ["`bounds[1]`", "(2, 2)"], of(bounds=(None, np.ones((2, 2))))),
    "bounds of a wrong shape below": (ValueError, ["`bounds[0]['a']`"], tree(bounds=({"a": np.zeros(3)}, None))),
    "bounds of unknown names": (ValueError, ["`bounds[1]`", "'c'", "'a', 'b'"], tree(bounds=(0, {"c": 1}))),
    "bounds of a dict for an array": (ValueError, ["`bounds[0]`", "dict", "(2,)"], of(bounds=({"a": 0}, 1))),
    "bounds of an array for a dict": (ValueError, ["`bounds[0]`", "structure"], tree(bounds=(np.zeros(3), 1))),
    "bounds no pair": (ValueError, ["`bounds`", "pair", "3.0"], of(bounds=3.0)),
    "bounds of three": (ValueError, ["`bounds`", "pair"], of(bounds=(0, 1, 2))),
    "bounds of a string": (TypeError, ["`bounds[0]`", "real numbers", "'a'"], of(bounds=("a", 1))),
    "bounds of a complex": (TypeError, ["`bounds[1]`", "real numbers"], of(bounds=(0, 1j))),
    "bounds of complex params": (
        TypeError,
        ["`bounds`", "complex", "Split"],
        lambda: minimize(lambda z: jnp.abs(z) ** 2, None, 1j, bounds=(0, 1)),
    ),
    "bounds with lbfgs": (ValueError, ["`method`", "L-BFGS", "Box", *ABLE], of(bounds=(0, 1), method="lbfgs")),
    "bounds with optax": (ValueError, ["`method`", "optax", "Box", *ABLE], of(bounds=(0, 1), method=optax.adam(0.1))),
    "l1 with bfgs": (ValueError, ["`method`", "BFGS", "L1", *ABLE], of(l1=1, method="bfgs")),
    "simplex with lbfgsb": (ValueError, ["`method`", "Simplex", "'fista'"], of(term=Simplex(), method="lbfgsb")),
    "l1 negative": (ValueError, ["`l1`", "0 or more", "-1"], of(l1=-1)),
    "l1 nan": (ValueError, ["`l1`", "nan"], of(l1=NAN)),
    "l1 infinite": (ValueError, ["`l1`", "finite"], of(l1=np.inf)),
    "l1 of a wrong shape": (ValueError, ["`l1`", "(3,)", "(2,)", "one number"], of(l1=np.ones(3))),
    "l1 negative somewhere": (ValueError, ["`l1['a']`", "0 or more", "-3.0"], tree(l1={"a": [1.0, -3.0]})),
    "l1 of unknown names": (ValueError, ["`l1`", "'c'", "'a', 'b'"], tree(l1={"c": 1})),
    "l1 of a string below": (TypeError, ["`l1['b']`", "one number", "'x'"], tree(l1={"b": "x"})),
    "l1 string": (TypeError, ["`l1`", "one number", "'a'"], of(l1="a")),
    "l1 complex": (TypeError, ["`l1`", "complex"], lambda: minimize(lambda z: jnp.abs(z) ** 2, None, 1j, l1=1)),
    "l2 negative": (ValueError, ["`l2`", "0 or more", "-0.5"], of(l2=-0.5)),
    "l2 nan": (ValueError, ["`l2`", "nan"], of(l2=np.float64(NAN))),
    "l2 of a wrong shape": (ValueError, ["`l2['a']`", "(3,)", "(2,)"], tree(l2={"a": np.ones(3)})),
    "l2 nan somewhere": (ValueError, ["`l2`", "finite", "nan"], of(l2=[1, NAN])),
    "l2 of an unknown path": (ValueError, ["`l2`", "'z.vv'", "nearest path is 'z.v'"], deep(l2={"z.vv": 1})),
    "l2 of an unknown path below": (ValueError, ["`l2['z']`", "'u.2'", "nearest", "'u.1'"], deep(l2={"z": {"u.2": 1}})),
    "l2 given twice": (ValueError, ["`l2`", "'z' twice", "['z', 'z.v']"], deep(l2={"z": 1, "z.v": 0})),
    "fixed twice below": (ValueError, ["`fixed['z']`", "'u' twice"], deep(fixed={"z.u.0": True, "z.u": True})),
    "bounds by two meanings": (
        ValueError,
        ["`bounds[0]`", "'y.a.b'", "2 parts", "Nest"],
        deep(bounds=({"y.a.b": 0}, 1)),
    ),
    "l2 traced of a wrong shape": (
        ValueError,
        ["`l2`", "(3,)", "(2,)"],
        lambda: jax.jit(lambda l2: minimize(fit, None, Z, l2=l2).params)(np.ones(3)),
    ),
    "term string": (TypeError, ["`term`", "'simplex'", "Simplex()"], of(term="simplex")),
    "term class": (TypeError, ["`term`", "Simplex()"], of(term=Simplex)),
    "term with bounds": (ValueError, ["`term=Ball", "`bounds`"], of(term=Ball(), bounds=(0, 1))),
    "term with l1": (ValueError, ["`term=Simplex", "`l1`"], of(term=Simplex(), l1=1)),
    "total negative": (ValueError, ["`total`", "positive", "-1"], lambda: Simplex(-1)),
    "radius nan": (ValueError, ["`radius`", "positive", "nan"], lambda: Ball(NAN)),
    "radius string": (TypeError, ["`radius`", "one number", "'a'"], lambda: Ball("a")),
    "fixed all": (ValueError, ["`fixed`", "all 2", "nothing is left"], of(fixed=True)),
    "fixed numbers": (TypeError, ["`fixed`", "true or false"], of(fixed=np.array([0, 1]))),
    "fixed names": (ValueError, ["`fixed`", "'c'", "'a', 'b'"], tree(fixed={"c": True})),
    "fixed traced": (
        TypeError,
        ["`fixed`", "jit"],
        lambda: jax.jit(lambda mask: minimize(fit, None, Z, fixed=mask).params)(np.array([True, False])),
    ),
    "momentum of one": (ValueError, ["`momentum`", "less than 1", "1.0"], lambda: GradientDescent(0.1, 1.0)),
    "momentum negative": (ValueError, ["`momentum`", "at least 0"], lambda: GradientDescent(0.1, -0.1)),
    "momentum nan": (ValueError, ["`momentum`", "nan"], lambda: GradientDescent(0.1, NAN)),
    "momentum string": (TypeError, ["`momentum`", "'a'"], lambda: GradientDescent(0.1, "a")),
    "nesterov alone": (ValueError, ["`nesterov=True`", "0.9"], lambda: GradientDescent(0.1, nesterov=True)),
    "method unknown": (ValueError, ["`method`", "'netwon'", "nearest is 'newton'"], of(method="netwon")),
    "method for squares": (ValueError, ["Levenberg", "least_squares"], of(method=LevenbergMarquardt())),
    "maximize misspelt": (TypeError, ["maximize()", "`bound`", "`bounds`"], lambda: maximize(fit, None, Z, bound=1)),
    "least_squares misspelt": (
        TypeError,
        ["least_squares()", "`metod`", "`method`"],
        lambda: least_squares(decay, DATA, INIT, metod=1),
    ),
    "maximize of its own": (TypeError, ["maximize()", "`sign`"], lambda: maximize(fit, None, Z, sign=1)),
    "residuals of no array": (
        TypeError,
        ["`residuals`", "array of residuals", "a str", "`minimize`"],
        lambda: least_squares(lambda *_: "low", DATA, INIT),
    ),
    "residuals of nothing": (TypeError, ["`residuals`", "must return"], lambda: least_squares(lambda *_: None, BOOK)),
}


@pytest.mark.parametrize("name", ROWS)
def test_refused(name):
    kind, words, call = ROWS[name]
    refused(kind, words, call)


@pytest.mark.parametrize(
    ("bad", "options"),
    [(np.nan, {}), (np.inf, {}), (np.nan, {"bounds": (-5.0, 0.75)}), (np.nan, {"l1": 0.1}), (np.inf, {"l1": 0.1})],
)
def test_a_schedule_that_breaks_is_never_convergence(bad, options):
    method = GradientDescent(lambda count: jnp.where(count > 2, bad, 0.01))
    result = unsolved(Status.DIVERGED, fit, None, Z, method=method, **options)
    assert np.all(np.isfinite(result.params))
    assert result.loss <= 2


def test_the_warning_points_at_the_call():
    for call in (maximize, least_squares, minimize):
        loss = (lambda x: jnp.array([x, 2 * x - jnp.exp(x)])) if call is least_squares else jnp.sin
        with pytest.warns(jaxgd.NotConvergedWarning) as warned:
            call(loss, None, 0.5, stop=jaxgd.Stop(max_evals=1))
        assert warned[0].filename == __file__


def model(p, x):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def off(p, data):
    x, y = data
    return y - model(p, x)


def length(p, data):
    residuals = off(p, data)
    return residuals @ residuals


def equations(p, data):
    del data
    return jnp.sum(jnp.stack([10 * (p[1] - p[0] ** 2), 1 - p[0], p[2] - 1]) ** 2)


MGH17 = [
    0.844,
    0.908,
    0.932,
    0.936,
    0.925,
    0.908,
    0.881,
    0.85,
    0.818,
    0.784,
    0.751,
    0.718,
    0.685,
    0.658,
    0.628,
    0.603,
    0.58,
    0.558,
    0.538,
    0.522,
    0.506,
    0.49,
    0.478,
    0.467,
    0.457,
    0.448,
    0.438,
    0.431,
    0.424,
    0.42,
    0.414,
    0.411,
    0.406,
]
CURVED = {
    "mean": lambda p, d: jnp.mean(off(p, d) ** 2),
    "half": lambda p, d: jnp.sum(jnp.square(off(p, d))) / 2,
    "product": length,
    "weighted": lambda p, d: jnp.average(off(p, d) ** 2, weights=1 + d[0]),
    "no data": equations,
}
OTHERWISE = {
    "linear": lambda p, d: jnp.mean((d[1] - p[0] - p[1] * d[0] - p[2] * d[0] ** 2) ** 2),
    "two sums": lambda p, d: jnp.mean(off(p, d) ** 2) + jnp.sum(p**2),
    "a root": lambda p, d: jnp.sqrt(jnp.mean(off(p, d) ** 2)),
    "a noise": lambda p, d: jnp.mean(off(p, d) ** 2 / jnp.exp(p[2])) + p[2],
}


@pytest.mark.parametrize("name", [*CURVED, *OTHERWISE])
def test_a_sum_of_squares_of_a_curved_model_is_solved_as_one(name):
    x = np.linspace(0, 4, 40)
    y = 2.5 * np.exp(-1.3 * x) + 0.5 + 0.05 * np.cos(40 * x)
    loss = (CURVED | OTHERWISE)[name]
    fit = minimize(loss, (x, y), np.array([1.0, 0.5, 0.3])).check()
    assert ("Levenberg-Marquardt" in fit.method) == (name in CURVED)
    newton = minimize(loss, (x, y), fit.params, method="newton").check()
    assert np.isclose(fit.loss, newton.loss, rtol=1e-9, atol=1e-20)
    if name in CURVED:
        ridge = minimize(loss, (x, y), np.array([1.0, 0.5, 0.3]), l2=0.1, bounds=(-1, 3)).check()
        assert "Levenberg-Marquardt" in ridge.method
        other = minimize(loss, (x, y), ridge.params, l2=0.1, bounds=(-1, 3), method="newton").check()
        assert np.isclose(ridge.loss, other.loss, rtol=1e-9)
        up = jaxgd.maximize(lambda p, d: -loss(p, d), (x, y), np.array([1.0, 0.5, 0.3])).check()
        assert "Levenberg-Marquardt" in up.method
        assert np.isclose(up.loss, -fit.loss, rtol=1e-9, atol=1e-20)


def test_sizes_of_complex_numbers_are_no_residuals():
    """They have kinks where the numbers are 0, and two directions each."""
    matrix = np.array([[1.0, 2j], [0.5j, 1.0], [1.0, 1.0]])
    right = matrix @ np.array([1 + 1j, -2.0])
    fit = minimize(lambda z, d: jnp.sum(jnp.abs(d[0] @ z - d[1]) ** 2), (matrix, right), np.zeros(2, complex)).check()
    assert np.allclose(fit.params, [1 + 1j, -2])
    assert "Newton" in fit.method


def test_a_height_of_next_to_nothing_is_no_floor():
    """There a column of the Jacobian is 1e-100, and the Hessian knows more of that param than it."""
    x = np.linspace(0, 3, 30)
    y = 1.5 * np.exp(-1.5 * x) + 0.2 * np.cos(7 * x)

    def squares(p, data):
        return jnp.mean((data[1] - p[0] * jnp.exp(-p[1] * data[0])) ** 2)

    near = minimize(squares, (x, y), np.array([1.0, 1.0])).check()
    fit = minimize(squares, (x, y), np.array([1e-100, 0.0])).check()
    assert np.isclose(fit.loss, near.loss, rtol=1e-9)
    assert fit.evals < 60


def test_a_sum_of_squares_that_leads_nowhere_as_one_is_solved_by_newton():
    """NIST's MGH17 from its far start: J'J leads to where the exponentials have no influence."""
    x = np.arange(0, 330, 10.0)
    y = np.array(MGH17)

    def squares(b, data):
        x, y = data
        return jnp.sum((b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]) - y) ** 2)

    start = np.array([50.0, 150.0, -100.0, 1.0, 2.0])
    fit = minimize(squares, (x, y), start).check()
    assert fit.method == "trust-region Newton"
    assert fit.loss == pytest.approx(5.4648946975e-05, rel=1e-9)
    assert fit.evals > minimize(squares, (x, y), start, method="newton").evals
    with pytest.warns(jaxgd.NotConvergedWarning):
        assert minimize(squares, (x, y), start, max_evals=8).evals <= 8
