"""Pieces of lanes, each against what it stands for."""

from dataclasses import replace
from functools import partial
from itertools import combinations
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxgd
from jaxgd.compile.cache import Cache, cache
from jaxgd.compile.devices import may_block
from jaxgd.compile.loss_jaxpr import record
from jaxgd.compile.penalties import as_terms
from jaxgd.compile.work import operations
from jaxgd.core import numerics
from jaxgd.core.bound_loss import BoundLoss
from jaxgd.core.flat import Layout
from jaxgd.core.numerics import SMALL, in_one_kernel, inverse, singular, spectrum
from jaxgd.lanes import groups
from jaxgd.solvers.subproblem_exact import Dense

RNG = np.random.default_rng(5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.floats(-1e12, 1e12, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-100),
        min_size=3,
        max_size=3,
    )
)
def test_spectrum_of_two(entries):
    high, off, low = entries
    matrix = np.array([[high, off], [off, low]])
    with jax.enable_x64(True):
        values, vectors = map(np.asarray, spectrum(jnp.asarray(matrix)))
    size = np.abs(matrix).max()
    assert np.allclose(values, np.linalg.eigvalsh(matrix), atol=1e-14 * size, rtol=0)
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-14 * size, rtol=0)
    assert np.allclose(vectors.T @ vectors, np.eye(2), atol=1e-14)


by_rotations = jax.jit(lambda matrix: (*spectrum(matrix), *singular(matrix)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 3, SMALL])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), digits=st.floats(0, 30), alike=st.integers(0, 3))
def test_rotations_find_a_spectrum_and_singular_values(size, dtype, monkeypatch, seed, digits, alike):
    """As true as LAPACK: curvatures of all sizes, alike, zero and of both signs; columns that depend on each other."""
    monkeypatch.setattr(numerics, "_fuses_loops", lambda: True)
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(size, size)))[0]
    sizes = random.normal(size=size) * 10.0 ** -random.uniform(0, digits, size)
    sizes[:alike] = sizes[0] * (alike < size)
    sizes[-1] = 1  # as scaled, so that squares stay within the range
    matrix = ((basis * sizes) @ basis.T).astype(dtype)
    matrix = (matrix + matrix.T) / 2
    near = {"atol": 30 * np.finfo(dtype).eps * np.linalg.norm(matrix.astype(float), 2), "rtol": 0}
    right = {"atol": 30 * np.finfo(dtype).eps}
    with jax.enable_x64(dtype is np.float64):
        values, vectors, lengths, turned, columns = map(np.asarray, by_rotations(matrix))
    assert np.all(np.diff(values) >= 0)
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, matrix, **near)
    assert np.allclose(values, np.linalg.eigvalsh(matrix.astype(float)), **near)
    assert np.allclose(vectors.T @ vectors, np.eye(size), **right)
    assert np.allclose(lengths, np.linalg.svd(matrix.astype(float), compute_uv=False)[::-1], **near)
    assert np.allclose(turned.T @ turned, np.eye(size), **right)
    assert np.allclose(matrix @ turned, columns, **near)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 20), units=st.floats(0, 6), digits=st.floats(0, 4))
def test_inverse_of_a_small_matrix_in_any_units(dtype, seed, size, units, digits):
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(size, size)))[0]
    matrix = (basis * 10.0 ** -random.uniform(0, digits, size)) @ basis.T
    unit = 10.0 ** random.uniform(-units, units, size)
    with jax.enable_x64(dtype is np.float64):
        found = np.asarray(inverse(jnp.asarray(unit * matrix * unit[:, None], dtype)), float)
    rounding = 30 * np.finfo(dtype).eps * np.linalg.cond(matrix)
    exact = np.linalg.inv(matrix)
    assert np.allclose(unit * found * unit[:, None], exact, rtol=0, atol=rounding * np.linalg.norm(exact, 2))


def body(x, y):
    return jnp.tanh(x) * y, None


OPERATIONS = {
    "a sum": (lambda x: jnp.sum(x * x), 40),
    "a product of matrices": (lambda x: jnp.sum(x[:, None] * x @ x[:, None]), 40**2 * 2),
    "a factorization": (lambda x: jnp.linalg.cholesky(jnp.diag(x))[0, 0], 40**3),
    "a loop": (lambda x: jnp.sum(jax.lax.scan(body, x, jnp.ones(1000))[0]), 1000 * 80),
    "a loop of unknown length": (lambda x: jax.lax.while_loop(lambda x: x[0] > 1, lambda x: x / 2, x)[0], 10 * 40),
    "a choice": (lambda x: jax.lax.cond(x[0] > 0, lambda: x[0], lambda: jnp.sum(x @ jnp.ones((40, 40)))), 2 * 40**2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_a_record(name):
    function, about = OPERATIONS[name]
    found = operations(jax.make_jaxpr(function)(jnp.ones(40)).jaxpr)
    assert about / 2 <= found <= 2 * about


def test_rotations_of_what_is_no_number_end(monkeypatch):
    monkeypatch.setattr(numerics, "_fuses_loops", lambda: True)
    assert np.isnan(spectrum(jnp.full((4, 4), jnp.nan))[0]).all()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_steps_of_lanes_are_those_of_each_alone(size):
    """Convex and not, inside the radius, on it, and with none yet."""
    lanes = 90
    roots = RNG.normal(size=(lanes, size, size))
    hessians = np.einsum("bij,bkj->bik", roots, roots) - RNG.uniform(0, 2, (lanes, 1, 1)) * np.eye(size)
    grads, radii = RNG.normal(size=(lanes, size)), np.exp(RNG.normal(size=lanes))
    radii[::3] = np.inf
    free = np.ones(size)

    def within(hessian, grad, radius):
        return Dense(grad, jnp.full(size, 1.5), hessian / 1.5**2).minimize_within(grad, free, radius)

    with jax.enable_x64(True):
        together = jax.jit(jax.vmap(within))(hessians, grads, radii)
        alone = jax.jit(within)
        for lane in range(lanes):
            one = alone(hessians[lane], grads[lane], radii[lane])
            for got, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
                assert np.allclose(got[lane], wanted, rtol=1e-9, atol=1e-9, equal_nan=True)


def several(params, data):
    features, others, y = data
    z = features @ params["w"] + params["b"]
    bent = jnp.einsum("i,ijk->jk", params["v"], others)
    return (
        jnp.mean(jnp.logaddexp(0.0, z) - y * z) + jnp.sum(bent**4) + (jnp.vdot(y[:3], params["w"]) * params["b"]) ** 2
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_hessian_cut_at_the_products_is_the_hessian(sign):
    with jax.enable_x64(True):
        params = {"b": jnp.asarray(0.3), "v": jnp.asarray([0.5, -0.2]), "w": jnp.asarray([0.1, 0.2, -0.4])}
        data = (RNG.normal(size=(20, 3)), RNG.normal(size=(2, 3, 2)), RNG.normal(size=20))
        recorded = record(lambda p, d, _: several(p, d), "several", params, data, [], has_aux=False)
        cut = recorded.cut(data, [])
        assert cut is not None
        assert len(cut.dots.places) == 3
        layout = Layout.of(params)
        plain = BoundLoss(lambda p: (several(p, data), ()), layout, sign)
        vector = layout.flatten(params)
        one, other = plain.hessian(vector), replace(plain, cut=cut).hessian(vector)
        assert np.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_a_hessian_is_cut_where_params_are_held():
    data = (RNG.normal(size=(20, 3)), RNG.normal(size=(2, 3, 2)), RNG.normal(size=20))
    init = {"b": 0.3, "v": np.array([0.5, -0.2]), "w": np.zeros(3)}
    fixed = {"w": [True, False, False]}
    newton = jaxgd.minimize(several, data, init, fixed=fixed, l2=1.0, dtype="float64", method="newton")
    other = jaxgd.minimize(several, data, init, fixed=fixed, l2=1.0, dtype="float64", method="bfgs")
    assert newton.params["w"][0] == 0
    assert newton.loss == pytest.approx(other.loss, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.sampled_from([1, 30, 300, groups.PROGRAM]))
def test_lengths_of_groups_cost_the_least(counts, program):
    """The rows that are computed with, and a number of rows for each program."""
    *others, longest = sorted(set(counts))

    def cost(sizes):
        return len(sizes) * program + sum(min(size for size in sizes if size >= count) for count in counts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "PROGRAM", program)
        found = groups.lengths(np.array(counts))
    assert found == sorted({*found, longest})
    options = [[*some, longest] for k in range(len(others) + 1) for some in combinations(others, k)]
    assert cost(found) == min(map(cost, options))


def test_groups_have_a_program_for_each_length_that_pays():
    assert groups.lengths(np.arange(10, 500)) == [499]
    assert groups.lengths(np.array([10] * 10_000 + [500])) == [10, 500]


def test_what_may_block():
    assert may_block(jax.make_jaxpr(jnp.fft.fft)(np.ones(3)))
    assert may_block(jax.make_jaxpr(jax.jit(lambda x: jax.pure_callback(np.sin, x, x)))(np.ones(3)))
    assert not may_block(jax.make_jaxpr(jax.jit(jnp.linalg.cholesky))(np.eye(3)))
    assert not may_block(jax.make_jaxpr(lambda x: jnp.exp(x @ x).sum())(np.eye(3)))


def test_numbers_by_lane_are_told_apart():
    start = {"a": np.zeros(2), "b": np.zeros(())}
    terms, _ = as_terms((-1, {"b": np.arange(3.0), "a": np.ones(2)}), None, np.ones(3), None, start, lanes=3)
    assert terms.term.upper["b"].shape == (3,)
    assert terms.term.upper["a"].shape == (2,)
    assert terms.ridge.shape == (3,)


def test_a_program_made_under_vmap_is_called_again():
    def tilted(w, data):
        features, y = data
        return jnp.mean((y - features @ w) ** 2)

    data = (RNG.normal(size=(3, 10, 2)).astype(np.float32), RNG.normal(size=(3, 10)).astype(np.float32))
    for tol in (1e-3, 1e-5):
        solved = jax.jit(jax.vmap(lambda x, y, tol=tol: jaxgd.minimize(tilted, (x, y), tol=tol).params))(*data)
    assert np.allclose(solved[0], np.linalg.lstsq(data[0][0], data[1][0])[0], atol=1e-3)


def test_programs_are_forgotten_by_weight():
    class Weighing:
        def __init__(self, weight):
            self.weight = weight

    kept = Cache(10)
    for key in range(20):
        kept.put(key, Weighing(1))
    assert [key for key in range(20) if kept.get(key)] == list(range(10, 20))
    kept.get(19).weight = 5
    kept.trim()
    assert [key for key in range(20) if kept.get(key)] == list(range(14, 20))
    kept.put(20, Weighing(100))
    assert [key for key in range(21) if kept.get(key)] == [20]


def test_the_program_that_was_not_asked_for_the_longest_is_forgotten():
    kept = Cache(3)
    for key in "abc":
        kept.put(key, SimpleNamespace(weight=1))
    kept.get("a")
    kept.put("d", SimpleNamespace(weight=1))
    assert [key for key in "abcd" if kept.get(key)] == ["a", "c", "d"]


def test_a_loss_that_counts_its_calls_is_traced_once():
    calls = []

    def counted(t, y):
        calls.append(1)
        return jnp.mean((y - t) ** 2)

    first = jaxgd.minimize(counted, np.arange(3.0))
    traced = len(calls)
    assert jaxgd.minimize(counted, np.arange(1.0, 4.0)).params == first.params + 1
    assert len(calls) == traced


def test_a_program_weighs_more_with_its_pools():
    stores = RNG.normal(size=(9, 4)).astype(np.float32)
    jaxgd.minimize_many(lambda t, y: jnp.mean((y - t) ** 2) + 0.123 * t**2, stores)
    assert max(getattr(program, "weight", 0) for program in cache._programs.values()) > 1  # noqa: SLF001


def test_the_package_and_a_result_show_what_is_public():
    shown = dir(jaxgd.minimize(jaxgd.losses.mse, [1.0, 2.0]))
    assert {"params", "loss", "message", "stderr", "check"} <= {*shown}
    assert not {"counts", "evidence", "tests", "source"} & {*shown}
    assert not [name for name in [*shown, *dir(jaxgd)] if name.startswith("_") and name != "__version__"]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap], ids=["plain", "jit", "vmap"])
def test_one_kernel_does_what_the_function_does_once(transform):
    def double(pair):
        return 2 * pair[0] + pair[1], pair[1] - 1

    pair = jnp.arange(3.0), jnp.ones(3)
    for found, wanted in zip(transform(partial(in_one_kernel, double))(pair), double(pair), strict=True):
        assert np.array_equal(found, wanted)
