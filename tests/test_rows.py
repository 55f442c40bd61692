"""Means over rows: whatever way the rows come, by tiles or in passes, the answer is that of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from rows import CASES, LABELS, NOISY, RNG, STARTS, WAYS, N, X, given, in_passes, mapped, network, parquet

import jaxgd
from jaxgd import Rows, losses, maximize, minimize
from jaxgd.compile import cache
from jaxgd.compile.row_mean import weighted
from jaxgd.core.bound_loss import BoundLoss
from jaxgd.core.flat import Layout
from jaxgd.core.linear_products import Cut
from jaxgd.core.problem import Problem
from jaxgd.core.tiles import Span, Tiles, rows_of_tile

DATA = (X, LABELS)
LOOSE = {"float32": 2e-3, "float64": 1e-6}


@pytest.fixture
def passes(monkeypatch):
    in_passes(monkeypatch)


def flat(tree):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


def solve(case, data, dtype=None, **options):
    call = maximize if case.mirrored else minimize
    return call(case.loss, data, case.init, dtype=dtype, **case.options, **options)


WHOLE = {}


def whole(name):
    """Solve without rows, in float64, once."""
    if name not in WHOLE:
        WHOLE[name] = solve(CASES[name], CASES[name].data, "float64").check()
    return WHOLE[name]


def agrees(result, name, dtype):
    """Check the answer against that of the whole, and the loss and gradient against the loss itself."""
    case, reference = CASES[name], whole(name)
    assert result.converged, result.message
    assert jax.tree.structure(result.params) == jax.tree.structure(reference.params)
    assert np.allclose(flat(result.params), flat(reference.params), rtol=0, atol=LOOSE[dtype])
    assert result.loss == pytest.approx(float(reference.loss), rel={"float32": 2e-6, "float64": 1e-12}[dtype])
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), result.params)
        slopes = flat(jax.grad(case.loss)(params, case.data)) + case.options.get("l2", 0) * flat(params)
    free = ~case.options.get("fixed", np.zeros(slopes.size, bool))
    assert np.allclose(flat(result.grad)[free], slopes[free], rtol=0, atol={"float32": 2e-6, "float64": 1e-14}[dtype])


@pytest.mark.parametrize("name", ["logistic", "huber", "network", "location", "bounds", "fixed"])
def test_by_tiles(name, monkeypatch):
    monkeypatch.setattr("jaxgd.rows.build.rows_of_tile", lambda *_: 64)
    result = solve(CASES[name], Rows(CASES[name].data), "float64")
    assert "sample" not in result.method
    agrees(result, name, "float64")


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("name", ["logistic", "network", "bounds"])
def test_in_passes_where_a_sample_tells_too_little(name, monkeypatch):
    monkeypatch.setattr("jaxgd.solvers.registry.PER_PARAM", 1 << 20)
    cache.cache.clear()  # what is chosen is no part of a program's key
    result = solve(CASES[name], Rows(CASES[name].data), "float64")
    cache.cache.clear()
    assert "L-BFGS" in result.method
    agrees(result, name, "float64")


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("name", CASES)
def test_in_passes(name):
    result = solve(CASES[name], Rows(CASES[name].data), "float64")
    assert "sample" in result.method
    agrees(result, name, "float64")


@pytest.mark.parametrize("name", ["logistic", "location"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", LOOSE)
@pytest.mark.usefixtures("passes")
def test_by_any_way(name, way, dtype, tmp_path):
    agrees(solve(CASES[name], WAYS[way](CASES[name].data, tmp_path), dtype), name, dtype)


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("method", ["newton", "lbfgs", jaxgd.GradientDescent(1.0)], ids=["newton", "lbfgs", "gradient"])
def test_by_any_method(method):
    result = minimize(losses.logistic, Rows(DATA), method=method).check()
    assert np.allclose(result.params, whole("logistic").params, atol=1e-2)


def problems(loss, data, start, weights, tile, bounds):
    """The problem of a mean over some rows by tiles, and the same as a whole."""
    layout, call = Layout.of(start), weighted(loss)
    low, high = bounds
    kept = np.arange(len(data[1]))[low:high]
    own = np.ones(len(data[1])) if weights is None else weights
    total = np.sum(own)
    span = Span(data, weights, np.int32(low), np.int32(high), jnp.asarray(total))

    def bound(part):
        return BoundLoss(lambda params: (call(params, part), ()), layout)

    part = (jax.tree.map(lambda leaf: leaf[kept], data), own[kept] / total)
    return Problem(Tiles(bound, tile, span), layout, ()), Problem(bound(part), layout, ())


@jax.enable_x64(True)
@settings(max_examples=6, deadline=None, derandomize=True)
@drawn(st.data(), st.integers(1, 70), st.booleans())
def test_tiles_of_any_size_sum_to_the_whole(data, rows, of_weights):
    tile = data.draw(st.integers(1, rows))
    low, high = sorted((data.draw(st.integers(0, rows)), data.draw(st.integers(0, rows))))
    weights = RNG.integers(0, 3, rows) + 0.5 if of_weights else None
    by_tiles, plain = problems(network, (X[:rows], NOISY[:rows]), STARTS, weights, tile, (low, high))
    params, along = RNG.normal(size=(2, 15))

    @jax.jit
    def known(params, along):
        return [
            (problem.slopes(params), problem.hvp(params, along), problem.hessian(params), problem.value(params))
            for problem in (by_tiles, plain)
        ]

    one, other = map(flat, known(params, along))
    assert np.allclose(one, other, rtol=1e-12, atol=1e-13)


def test_a_hessian_cut_at_products_sums_to_the_whole():
    """The program of a logistic regression has such a cut; its tiles have it too."""
    with jax.enable_x64(True):
        from jaxgd.compile.build import Ask  # noqa: PLC0415
        from jaxgd.rows.build import prepare_rows  # noqa: PLC0415

        program, given, _ = prepare_rows(Ask(losses.logistic, method="newton", dtype="float64"), Rows(DATA))
        problem = program.bind(given)[0]
        assert isinstance(problem.loss.bind(problem.loss._tile(jnp.int32(0))).cut, Cut)  # noqa: SLF001
        params = jnp.asarray(RNG.normal(size=4))
        expected = jax.hessian(losses.logistic)(params, DATA)
        assert np.allclose(problem.hessian(params), expected, atol=1e-14)


def test_a_tile_is_a_power_of_two_but_no_more_than_there_is(monkeypatch):
    assert rows_of_tile(1000, 10**9) == 1024
    assert rows_of_tile(80, 10**9) == 2048
    assert rows_of_tile(80, 100) == 100
    assert rows_of_tile(10**9, 10**9) == 128
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert rows_of_tile(80, 10**9) > 10**6


COUNTED = RNG.integers(0, 4, N)
REPEATED = tuple(np.repeat(leaf, COUNTED, axis=0) for leaf in DATA)


@pytest.mark.parametrize("way", ["tiles", "passes", "mapped", "parquet"])
def test_weights_are_repeated_rows(way, tmp_path, monkeypatch):
    if way != "tiles":
        in_passes(monkeypatch)
    weights = COUNTED.astype(np.float64)
    ways = {"mapped": mapped, "parquet": parquet}
    rows = ways[way](DATA, tmp_path, weights) if way in ways else Rows(DATA, weights)
    result = minimize(losses.logistic, rows, dtype="float64").check()
    repeated = minimize(losses.logistic, REPEATED, dtype="float64").check()
    assert np.allclose(result.params, repeated.params, rtol=0, atol=1e-8)
    assert result.loss == pytest.approx(float(repeated.loss), rel=1e-12)
    assert np.allclose(minimize(losses.logistic, rows).params, repeated.params, atol=1e-3)


@pytest.mark.parametrize("led", [False, True])
def test_a_row_of_weight_0_does_not_count(led, monkeypatch):
    if led:
        in_passes(monkeypatch)
    weights = np.r_[np.ones(700), np.zeros(N - 700)].astype(np.float64)
    result = minimize(losses.logistic, Rows((X, np.where(weights, LABELS, 1 - LABELS)), weights), dtype="float64")
    few = minimize(losses.logistic, (X[:700], LABELS[:700]), dtype="float64")
    assert np.allclose(result.params, few.params, atol=1e-8)


@pytest.mark.parametrize("weights", [np.full(N, 3), np.ones(N, bool), [0.5] * N, jnp.ones(N)])
def test_equal_weights_of_any_make_change_nothing(weights):
    result = minimize(losses.logistic, Rows(DATA, weights), dtype="float64")
    assert np.allclose(result.params, whole("logistic").params, atol=1e-8)


def test_inside_jit_and_vmap():
    def solve(data, weights):
        return minimize(losses.logistic, Rows(data, weights))

    weights = np.ones(N, np.float32)
    alone = minimize(losses.logistic, Rows(DATA))
    jitted = jax.jit(solve)(DATA, weights)
    assert jitted.converged
    assert np.allclose(jitted.params, alone.params, atol=1e-5)
    lanes = jax.vmap(lambda y: minimize(losses.logistic, Rows((X, y))))(np.stack([LABELS, 1 - LABELS]))
    assert lanes.converged.all()
    assert np.allclose(lanes.params, np.stack([alone.params, -alone.params]), atol=1e-4)


@pytest.mark.usefixtures("passes")
@pytest.mark.parametrize("traced", ["init", "closed over", "nothing"])
def test_passes_led_from_the_host_are_none_inside_jit(traced):
    def solve(number):
        init = number + np.zeros(4) if traced == "init" else np.zeros(4)
        loss = (lambda w, d: losses.logistic(w + number, d)) if traced == "closed over" else losses.logistic
        return minimize(loss, Rows(DATA), init)

    jitted = jax.jit(solve)(0.0)
    assert jitted.converged
    assert np.allclose(jitted.params, whole("logistic").params, atol=1e-3)


@pytest.mark.parametrize("way", ["tiles", "given", "batches", "files"])
def test_new_data_of_the_same_shape_compile_nothing(way, tmp_path, monkeypatch):
    if way != "tiles":
        in_passes(monkeypatch)
    spent = []
    for labels in (LABELS, 1 - LABELS, LABELS):
        before = cache.clock.spent
        minimize(losses.logistic, WAYS.get(way, given)((X, labels), tmp_path))
        spent.append(cache.clock.spent - before)
    assert not np.any(spent[1:])


def test_more_rows_compile_nothing_in_a_stream(tmp_path, passes):
    del passes
    for rows in (900, 800, 850):
        before = cache.clock.spent
        minimize(losses.logistic, WAYS["batches"]((X[:rows], LABELS[:rows]), tmp_path))
    assert np.array_equal(cache.clock.spent, before)


def test_the_number_of_rows():
    assert len(Rows(DATA)) == N
    with pytest.raises(TypeError, match="once they are read"):
        len(Rows.open(lambda: iter([DATA])))
