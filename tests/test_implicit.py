"""Derivatives of the answer: beside finite differences, an unrolled loop, closed forms, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from solvers import SOLVERS

import jaxgd
from jaxgd import Stop
from jaxgd.compile.cache import cache
from jaxgd.core import implicit

RNG = np.random.default_rng(3)
X = RNG.normal(size=(30, 4))
Y = (RNG.uniform(size=30) < 1 / (1 + np.exp(-X @ [1.0, -0.5, 0.3, 0.0]))).astype(float)
DATA = (X, Y)
STEP = 0.5
HELD = np.array([False, True, False, False])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def logistic(w, data):
    X, y = data
    z = X @ w
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z) + 0.05 * jnp.sum(w**4)


def solution(given, **options):
    options |= {name: given[name] for name in ("l1", "l2", "init") if name in given}
    if "init" in given:
        options["fixed"] = HELD
    if "upper" in given:
        options["bounds"] = (given["lower"], given["upper"])
    if "total" in given:
        options["term"] = jaxgd.Simplex(given["total"])
    if "radius" in given:
        options["term"] = jaxgd.Ball(given["radius"])
    return jaxgd.minimize(logistic, given["data"], **options).params


def unrolled(given):
    """The params by proximal gradient steps until nothing changes."""

    def step(_, w):
        slope = jax.grad(logistic)(w, given["data"]) + given.get("l2", 0) * w
        w = w - STEP * jnp.where(HELD & ("init" in given), 0, slope)
        if "l1" in given:
            w = jnp.sign(w) * jnp.maximum(jnp.abs(w) - STEP * given["l1"], 0)
        if "upper" in given:
            w = jnp.minimum(jnp.maximum(w, given["lower"]), given["upper"])
        if "radius" in given:
            w = w * given["radius"] / jnp.maximum(given["radius"], jnp.linalg.norm(w))
        if "total" in given:
            # All of the shares are positive in this problem, so that the nearest point is a shift.
            w = w - (jnp.sum(w) - given["total"]) / w.size
        return w

    return jax.lax.fori_loop(0, 1500, step, given.get("init", jnp.zeros(4)))


def differences(solve, given, along, h=2e-3):
    """The derivative by central differences, extrapolated."""

    def central(h):
        low, high = (solve(jax.tree.map(lambda at, to, s=s: at + s * to, given, along)) for s in (-h, h))
        return (high - low) / (2 * h)

    return (4 * central(h / 2) - central(h)) / 3


def dot(one, other):
    return sum(np.sum(a * b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def close(found, expected, digits=6):
    return np.allclose(found, expected, rtol=0, atol=10.0**-digits * np.max(np.abs(expected)))


# What is given beside the data, and how many params lie on a bound or are exactly zero.
TERMS = {
    "none": ({}, 0),
    "l2": ({"l2": 0.1}, 0),
    "fixed": ({"init": np.array([0.0, 0.3, 0.0, 0.0])}, 0),
    "bounds": ({"lower": np.array([-0.1, -3.0, -3.0, 0.3]), "upper": 0.5}, 2),
    "l1": ({"l1": 0.1}, 3),
    "l1 and bounds": ({"l1": 0.1, "lower": -3.0, "upper": 0.1}, 3),
    "simplex": ({"total": 5.0}, 0),
    "ball": ({"radius": 0.4}, 0),
}


@pytest.mark.parametrize("name", TERMS)
def test_every_term_in_both_modes(name):
    """Along a random direction of everything given at once."""
    own, active = TERMS[name]
    given = jax.tree.map(jnp.asarray, {"data": (X, Y)} | own)
    along = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), given)
    params, derivative = jax.linearize(solution, given)
    moved = derivative(along)
    on = [np.isclose(params, given.get(end, np.inf), atol=1e-9) for end in ("lower", "upper")]
    assert np.sum(on[0] | on[1] | (params == 0)) == active
    loop = jax.jvp(unrolled, (given,), (along,))
    assert close(params, loop[0], 8)
    assert close(moved, loop[1])
    assert close(moved, differences(solution, given, along))
    weights = jnp.array([1.0, -2.0, 0.5, 3.0])
    (back,) = jax.linear_transpose(derivative, given)(weights)
    assert dot(back, along) == pytest.approx(float(weights @ moved), rel=1e-9)


def test_simplex_with_shares_of_zero():
    target = jnp.array([0.9, 0.7, -0.5, -3.0])

    def shares(target):
        return jaxgd.minimize(
            lambda w, a: jnp.sum((w - a) ** 2 * (1 + w)), target, jnp.zeros(4), term=jaxgd.Simplex()
        ).params

    assert np.sum(np.asarray(shares(target)) == 0) == 2
    forward, back = jax.jacfwd(shares)(target), jax.jacrev(shares)(target)
    assert np.allclose(forward, back, atol=1e-12)
    apart = np.stack([differences(shares, target, e, 1e-3) for e in np.eye(4)], axis=1)
    assert close(forward, apart)
    assert np.all(np.asarray(forward)[2:] == 0)


def test_inside_a_ball():
    def nearest(a):
        return jaxgd.minimize(lambda w, a: jnp.sum((w - a) ** 2), a, jnp.ones(2), term=jaxgd.Ball()).params

    # At the origin the length of the params has no slope.
    for a in (jnp.zeros(2), jnp.array([0.3, 0.4])):
        assert np.allclose(jax.jacrev(nearest)(a), np.eye(2))


FEW = ("auto", "lbfgs", "bfgs", "cg", "newton-cg", "fista", "bb", "steepest", "nesterov", "gradient")
METHODS = {entry.name: entry.method for entry in SOLVERS if entry.name in FEW}
METHODS |= {"lbfgsb": lambda _: "lbfgsb", "sampled": lambda _: "newton-sampled", "adam": lambda _: optax.adam(0.02)}


class Curved:
    curvature = 2.0  # what the table's fixed steps are made for


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name):
    """Beside Newton's iteration, unrolled."""
    found = jax.grad(lambda data: jaxgd.minimize(logistic, data, method=METHODS[name](Curved)).params[0])(DATA)
    expected = by_newton()
    assert close(found[0], expected[0])
    assert close(found[1], expected[1])


@functools.cache
def by_newton():
    """The gradient of the first param, of Newton's iteration."""

    def first(data):
        def step(_, w):
            return w - jnp.linalg.solve(jax.hessian(logistic)(w, data), jax.grad(logistic)(w, data))

        return jax.lax.fori_loop(0, 8, step, jnp.zeros(4))[0]

    return jax.jit(jax.grad(first))(DATA)


def test_second_derivatives():
    def root(a):
        return jaxgd.minimize(lambda w, a: w**4 / 4 - a * w, a, 1.0).params

    # It is the cube root.
    expected = -2 / 9 * 2.0 ** (-5 / 3)
    assert float(jax.hessian(root)(2.0)) == pytest.approx(expected, rel=1e-8)
    assert float(jax.jit(jax.grad(jax.grad(root)))(2.0)) == pytest.approx(expected, rel=1e-8)


PLAIN = jaxgd.GradientDescent(0.02)  # it compiles fastest


def quartic(w, a):
    return jnp.sum((w - a) ** 2) / 2 + jnp.sum(w) ** 4


def of_quartic(a, **options):
    return jaxgd.minimize(quartic, a, jnp.zeros(2), method=PLAIN, **options).params


def jacobian_of_quartic(a):
    w = of_quartic(a)
    return np.linalg.inv(np.eye(2) + 12 * np.sum(w) ** 2 * np.ones((2, 2)))


POINTS = np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, 0.3]])


def test_transforms_in_any_order():
    expected = np.stack([jacobian_of_quartic(a) for a in POINTS])
    assert np.allclose(jax.jit(jax.vmap(jax.jacfwd(jax.jit(of_quartic))))(POINTS), expected)
    back = jax.grad(lambda points: jnp.sum(jax.vmap(of_quartic)(points)[:, 0]))(POINTS)
    assert np.allclose(back, expected[:, 0])
    for transform in (lambda f: f, jax.jit):
        found = transform(jax.grad(lambda a: of_quartic(a, trace=True, progress=True)[0]))(POINTS[0])
        assert np.allclose(found, expected[0, 0])


def test_lanes():
    def of_lanes(points, l2):
        many = jaxgd.minimize_many(quartic, points, jnp.zeros(2), in_axes=(None, 0), l2=l2, method=PLAIN)
        return many.params[:, 0]

    weights = jnp.array([0.0, 0.5, 1.0])
    back = jax.jacrev(of_lanes, (0, 1))(POINTS, weights)
    for i, (a, l2) in enumerate(zip(POINTS, weights, strict=True)):
        own = jax.grad(lambda a, l2: of_quartic(a, l2=l2)[0], (0, 1))(a, l2)
        assert np.allclose(back[0][i, i], own[0])
        assert np.allclose(back[1][i, i], own[1])
        assert np.sum(np.asarray(back[0])[i] != 0) == 2
    forward = jax.jvp(of_lanes, (POINTS, weights), (jnp.ones((3, 2)), jnp.ones(3)))[1]
    assert np.allclose(forward, [np.sum(back[0][i]) + np.sum(back[1][i]) for i in range(3)])


def known(result):
    return result.params, result.loss, result.grad, result.residual, result.aux


def test_maximum_and_what_is_known_there():
    def best(a):
        return jaxgd.maximize(lambda w, a: (-quartic(w, a), w * a), a, jnp.zeros(2), has_aux=True, bounds=(-1, 1.0))

    a = jnp.array([4.0, 0.5])
    moved = jax.jacrev(lambda a: known(best(a)))(a)
    result = best(a)
    params, loss, grad, residual, aux = moved
    assert np.allclose(loss, result.params - a)
    assert np.allclose(residual, 0, atol=1e-9)
    assert np.allclose(aux, np.diag(result.params) + a[:, None] * params)
    apart = np.stack([differences(lambda a: best(a).params, a, e) for e in np.eye(2)], axis=1)
    assert close(params, apart)
    apart = np.stack([differences(lambda a: best(a).grad, a, e) for e in np.eye(2)], axis=1)
    assert close(grad, apart)


def test_active_bounds_go_with_themselves_alone():
    def boxed(a, upper):
        return jaxgd.minimize(quartic, a, jnp.zeros(2), bounds=(-9, upper), method=PLAIN).params

    by_data, by_bound = jax.jacrev(boxed, (0, 1))(jnp.array([3.0, 0.1]), jnp.array([0.2, 5.0]))
    assert np.allclose(by_data[0], 0)
    assert np.allclose(by_bound[0], [1, 0])
    assert by_data[1, 1] > 0
    assert by_bound[1, 0] < 0
    assert np.allclose(by_bound[:, 1], 0)


def test_least_squares():
    def fit(data):
        X, y = data
        return jaxgd.least_squares(lambda w, data: data[1] - data[0] @ jnp.sinh(w), (X, y), jnp.zeros(4)).params

    def closed(data):
        return jnp.arcsinh(jnp.linalg.lstsq(*data)[0])

    data = (jnp.asarray(X), jnp.asarray(Y))
    for found, expected in zip(jax.jacrev(fit)(data), jax.jacfwd(closed)(data), strict=True):
        assert close(found, expected)


def test_complex_params():
    def root(a):
        return jaxgd.minimize(lambda z, a: jnp.abs(z**2 - a) ** 2, a, 1 + 1j).params

    a = jnp.asarray(3 + 2j)
    moved = jax.jvp(root, (a,), (1j + 0 * a,))[1]
    assert np.allclose(moved, 1j / (2 * np.sqrt(3 + 2j)))
    assert np.allclose(jax.grad(lambda a: root(a).real)(a), 1 / (2 * np.sqrt(3 + 2j)))


@pytest.mark.filterwarnings("error")
def test_float32():
    with jax.enable_x64(False):
        found = jax.jacrev(of_quartic)(jnp.asarray(POINTS[0], jnp.float32))
    assert found.dtype == jnp.float32
    assert close(found, jacobian_of_quartic(POINTS[0]), 5)


def test_not_converged_is_nan():
    def short(a):
        return jaxgd.minimize(quartic, a, jnp.zeros(2), method=PLAIN, stop=Stop(max_evals=2))

    with pytest.warns(jaxgd.NotConvergedWarning, match="2 evaluations"):
        assert np.isnan(jax.grad(lambda a: short(a).params[0])(POINTS[0])).all()
    with pytest.warns(jaxgd.NotConvergedWarning, match="2 evaluations"):
        assert np.isnan(jax.grad(lambda a: short(a).loss)(POINTS[0])).all()
    assert np.isnan(jax.jit(jax.jacfwd(lambda a: short(a).loss))(POINTS[0])).all()
    # One lane of several.
    points = np.where([[False], [True], [False]], np.nan, POINTS)
    many = jax.vmap(jax.grad(lambda a: of_quartic(a)[0]))(points)
    assert np.isnan(many).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("dense", [True, False])
def test_singular_is_nan(dense, monkeypatch):
    cache.clear()
    monkeypatch.setattr(implicit, "DENSE", 1000 if dense else 0)

    def flat(a):
        return jaxgd.minimize(lambda w, a: (w[0] + 2 * w[1] - a) ** 4 + (w[0] + 2 * w[1] - a) ** 2, a, jnp.zeros(2))

    assert np.isnan(jax.jacfwd(lambda a: flat(a).params)(1.0)).all()
    # The lowest loss moves all the same.
    assert float(jax.grad(lambda a: flat(a).loss)(1.0)) == pytest.approx(0, abs=1e-9)


def test_by_products_as_by_the_matrix(monkeypatch):
    def corner(a, l1):
        return jaxgd.minimize(quartic, a, jnp.zeros(3), l1=l1, bounds=(-9, 0.2), method=PLAIN).params[0]

    at = jnp.array([1.5, -0.02, 4.0]), 0.1
    expected = jax.grad(corner, (0, 1))(*at)
    cache.clear()
    monkeypatch.setattr(implicit, "DENSE", 2)
    found = jax.grad(corner, (0, 1))(*at)
    assert np.all(np.asarray(expected[0]) != 0) == np.all(np.asarray(found[0]) != 0)
    assert np.allclose(found[0], expected[0], atol=1e-9)
    assert np.allclose(found[1], expected[1], atol=1e-9)
    with pytest.raises(ValueError, match=r"`term` Ball .* 3 parameters .* 2 .*bounds"):
        jax.grad(lambda a: jaxgd.minimize(quartic, a, jnp.zeros(3), term=jaxgd.Ball(2.0), method=PLAIN).params[0])(
            at[0]
        )


def test_rows():
    def mean(w, data):
        a, b = data
        return jnp.mean(a * (w - b) ** 2) + w**2

    def of(data):
        return jaxgd.minimize(mean, jaxgd.Rows(data), 0.0, method=jaxgd.GradientDescent(0.2)).params

    data = tuple(1 + RNG.uniform(size=(2, 3001)))
    a, b = data
    found, expected = jax.grad(of)(data), jax.grad(lambda data: data[0] @ data[1] / jnp.sum(data[0] + 1))(data)
    assert np.allclose(found[0], expected[0], rtol=1e-8, atol=1e-12)
    assert np.allclose(found[1], expected[1], rtol=1e-8, atol=1e-12)
    assert float(jax.jvp(of, (data,), (data,))[1]) == pytest.approx(float(expected[0] @ a + expected[1] @ b))


class Held:
    """What no key can be made of."""

    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a

    def __call__(self, w):
        return quartic(w, self.a)


def test_what_a_loss_closes_over():
    expected = jacobian_of_quartic(POINTS[0])
    found = jax.jit(
        jax.jacrev(lambda a: jaxgd.minimize(lambda w: quartic(w, a), init=jnp.zeros(2), method=PLAIN).params)
    )(POINTS[0])
    assert np.allclose(found, expected)
    for transform in (lambda f: f, jax.jit):
        found = transform(jax.jacfwd(lambda a: jaxgd.minimize(Held(a), init=jnp.zeros(2), method=PLAIN).params))(
            POINTS[0]
        )
        assert np.allclose(found, expected)


def test_start_and_numbers_do_not_matter():
    def of(init, tol, step):
        method = jaxgd.GradientDescent(step)
        return jaxgd.minimize(lambda w: jnp.sum((w - 2) ** 2), init=init, method=method, tol=tol).params

    assert all(np.all(part == 0) for part in jax.jacrev(of, (0, 1, 2))(jnp.zeros(2), 1e-9, 0.2))


def test_start_without_slope():
    """A minimum where the solve begins has derivatives; a saddle is left, as ever."""

    def of(loss, a):
        return jax.grad(lambda a: jaxgd.minimize(loss, a, method=jaxgd.GradientDescent(0.05)).params)(a)

    assert float(of(lambda w, a: (w - a) ** 2 * (2 + w), 0.0)) == pytest.approx(1)
    assert abs(float(of(lambda w, a: (w**2 - a) ** 2, 1.0))) == pytest.approx(0.5)


@jax.custom_vjp
def square(w):
    return w**2


@jax.custom_vjp
def slope(w):
    return 2 * w


square.defvjp(lambda w: (square(w), w), lambda w, out: (out * slope(w),))
slope.defvjp(lambda w: (slope(w), w), lambda _, out: (out * 2,))


def test_a_loss_with_reverse_mode_alone():
    def of(a):
        return jaxgd.minimize(lambda w, a: square(w - a) + w**2, a, 1.0).params

    assert float(jax.grad(of)(2.0)) == pytest.approx(0.5)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jacfwd(of)(2.0)


def test_a_loss_without_second_derivatives():
    @jax.custom_vjp
    def host(w):
        return jax.pure_callback(np.square, jax.ShapeDtypeStruct((), float), w)

    double = jax.ShapeDtypeStruct((), float)
    host.defvjp(lambda w: (host(w), w), lambda w, out: (out * jax.pure_callback(lambda w: 2 * w, double, w),))
    with pytest.raises(TypeError, match="second derivatives of `loss`"):
        jax.grad(lambda a: jaxgd.minimize(lambda w, a: host(w - a), a, 1.0).params)(2.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda y: jaxgd.minimize_many(jaxgd.losses.mse, jaxgd.Groups(y, by=[0, 0, 1])).params[0],
        lambda y: jaxgd.minimize(jaxgd.losses.mse, y, starts=3).params,
    ],
)
def test_what_the_host_looks_at_has_none(call):
    with pytest.raises(TypeError, match="cannot be had inside"):
        jax.grad(call)(jnp.arange(3.0))
