"""Many problems at once: lanes do not know of each other, whatever pool they are in."""

import re
import socket
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import PROBLEMS, X
from solvers import SOLVERS

import jaxgd
from jaxgd import Groups, Status, Stop, minimize, minimize_many
from jaxgd.compile import devices

RNG = np.random.default_rng(3)
STORES = RNG.normal(size=(50, 7)).astype(np.float32)


def mse(theta, y):
    return jnp.mean((y - theta) ** 2)


def line(w, data):
    x, y = data
    return jnp.mean((y - w[0] - w[1] * x) ** 2)


def ridge(w, data):
    features, y = data
    return jaxgd.losses.logistic(w, (features, y)) + 1e-2 * jnp.sum(w**2)


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def fits(count):
    """Data of logistic regressions that take from 4 to 12 evaluations each."""
    slopes = RNG.normal(size=(count, 3)) * RNG.exponential(2, size=(count, 1))
    features = RNG.normal(size=(count, 40, 3)).astype(np.float32)
    labels = (RNG.uniform(size=(count, 40)) < 1 / (1 + np.exp(-np.einsum("inp,ip->in", features, slopes)))) * 1.0
    return features, labels.astype(np.float32)


def leaves(result):
    """What must be the same: all but the cost."""
    kept = (result.params, result.loss, result.grad, result.counts, result.evidence, result.residual)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(kept)]


def same(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(leaves(one), leaves(other), strict=True))


def quiet(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        return call()


MANY = [
    pytest.param(solver, problem, id=f"{solver.name}-{problem.name}")
    for solver in SOLVERS
    for problem in PROBLEMS
    if problem.name == "line"
    and solver.fit(problem)
    and solver.name not in ("newton", "steepest", "nesterov", "schedule")
]


@pytest.mark.parametrize(("solver", "problem"), MANY)
def test_a_lane_is_what_the_problem_alone_is(solver, problem):
    x, y = problem.data
    factors = np.array([1.0, -0.5, 2.0, 0.1, 3.0])
    many = minimize_many(
        problem.loss, (x, y * factors[:, None]), problem.init, in_axes=(None, (None, 0)), method=solver.method(problem)
    )
    assert len(many) == len(factors)
    for i, factor in enumerate(factors):
        one = minimize(problem.loss, (x, y * factor), problem.init, method=solver.method(problem))
        assert many[i].converged
        assert one.converged
        for a, b in zip(jax.tree.leaves(many[i].params), jax.tree.leaves(one.params), strict=True):
            assert np.allclose(a, b, atol=2e-3 * max(1, abs(factor)))
        assert many[i].method == one.method
        assert type(many[i].status) is Status


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_curved_lanes_in_both_types(dtype):
    data = fits(40)
    many = minimize_many(ridge, data, dtype=dtype)
    assert many.params.dtype == dtype
    assert many.converged.all()
    for i in (0, 7, 39):
        one = minimize(ridge, (data[0][i], data[1][i]), dtype=dtype)
        assert np.allclose(many[i].params, one.params, atol={"float32": 1e-3, "float64": 1e-7}[dtype])
        assert many[i].loss == pytest.approx(one.loss, rel=1e-5)


def test_order_and_neighbours_change_no_bit_and_width_no_more_than_rounding(monkeypatch):
    data = fits(300)
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST", {"cpu": 16, "other": 16})
    plain = minimize_many(ridge, data)
    order = RNG.permutation(300)
    assert same(minimize_many(ridge, (data[0][order], data[1][order])), plain[order])
    monkeypatch.setattr(devices, "MOST_WORKERS", 1)
    assert same(minimize_many(ridge, data), plain)
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST", {"cpu": 64, "other": 64})
    wide = minimize_many(ridge, data)
    assert np.allclose(wide.params, plain.params, rtol=1e-5, atol=1e-6)
    assert np.allclose(wide.loss, plain.loss, rtol=1e-6)


def test_bad_lanes_change_no_bit_of_the_others(monkeypatch):
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST", {"cpu": 16, "other": 16})
    data = fits(64)
    plain = minimize_many(ridge, data)
    nowhere = tuple(np.insert(leaf, 5, np.nan, axis=0) for leaf in data)
    with pytest.warns(jaxgd.NotConvergedWarning, match="1 of 65 problems did not converge"):
        with_nan = minimize_many(ridge, nowhere)
    assert with_nan[5].status == Status.BAD_START
    assert same(with_nan[np.delete(np.arange(65), 5)], plain)


def test_a_lane_that_diverges_and_one_that_never_ends():
    def loss(x, kind):
        # Falls for ever, with ever smaller steps; or blows up; or is a parabola.
        slow, wild = jnp.sqrt(1 + x**2) * 1e-3 * jnp.cos(1e-3 * x), jnp.where(x > 1, jnp.nan, -x)
        return jnp.where(kind == 0, (x - 2) ** 2, jnp.where(kind == 1, wild, slow))

    kinds, stop = np.zeros(60), Stop(xtol=1e-6, max_evals=400)
    options = {"init": 0.5, "method": jaxgd.GradientDescent(0.3), "stop": stop}
    plain = minimize_many(loss, kinds, **options)
    kinds[[3, 40]] = 1, 2
    some = quiet(lambda: minimize_many(loss, kinds, **options))
    others = np.delete(np.arange(60), [3, 40])
    assert some[3].status == Status.DIVERGED
    assert some[40].status == Status.MAX_EVALS
    assert same(some[others], plain[others])


def test_numbers_that_differ_by_lane():
    x, y = X, X @ np.array([1.0, 2.0, -1.0, 0.5]) + 0.1
    weights = np.array([0.0, 0.1, 1.0, 10.0])
    shared = {"in_axes": (None, None), "dtype": "float64"}

    def squares(w, data):
        features, y = data
        return jnp.mean((y - features @ w) ** 2)

    # One number for each lane; one for each param, times that; a bound for each of both.
    by_leaf = weights[::-1, None] * np.array([0.0, 1.0, 1.0, 2.0])
    upper = np.array([0.1, 0.3, 5.0, 1.0])[:, None] * np.ones(4)
    for rows in ({"l1": weights, "l2": by_leaf}, {"l1": by_leaf, "l2": weights, "bounds": (-1, upper)}):
        many = minimize_many(squares, (x, y), **rows, **shared)
        for i in range(4):
            own = {name: rows[name][i] for name in ("l1", "l2")}
            own |= {"bounds": (-1, upper[i])} if "bounds" in rows else {}
            assert np.allclose(many[i].params, minimize(squares, (x, y), dtype="float64", **own).params, atol=1e-7)
    steps = np.array([0.01, 0.02, 0.03])
    stop = Stop(xtol=1e-9, max_evals=30_000)
    descent = minimize_many(squares, (x, y), method=jaxgd.GradientDescent(steps), stop=stop, **shared)
    for i, step in enumerate(steps):
        one = minimize(squares, (x, y), method=jaxgd.GradientDescent(step), stop=stop, dtype="float64")
        assert descent[i].evals == one.evals
    tols = minimize_many(squares, (x, y), method="steepest", stop=Stop(gtol=np.array([1e-1, 1e-3, 1e-5])), **shared)
    assert list(tols.evals) == sorted(set(tols.evals))
    assert tols[1].grad_norm <= 1e-3
    assert "gtol 0.001" in tols[1].message


def test_one_start_for_all_or_one_each():
    starts = RNG.normal(size=(9, 2))
    many = minimize_many(rosenbrock, init=starts, dtype="float64")
    assert np.allclose(many.params, 1, atol=1e-6)
    x, lines = np.linspace(0, 1, 6), RNG.normal(size=(9, 6))
    each = minimize_many(line, (x, lines), starts, in_axes=(0, (None, 0)))
    shared = minimize_many(line, (x, lines), np.zeros(2), in_axes=(None, (None, 0)))
    assert np.allclose(each.params, shared.params, atol=1e-3)
    # Without `in_axes` a start as long as there are problems is one for each, where the loss takes it so.
    assert np.allclose(minimize_many(mse, STORES, np.ones(50)).params, STORES.mean(1), atol=1e-5)
    last = minimize_many(line, (x, lines.T), np.zeros(2), in_axes=(None, (None, 1)))
    assert np.allclose(last.params, shared.params, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_problems(count):
    many = minimize_many(mse, STORES[:count])
    assert np.allclose(many.params, STORES[:count].mean(1), atol=1e-5)
    assert len(many) == count


def test_kinds():
    top = minimize_many(lambda x, at: -((x - at) ** 2), np.arange(4.0), kind="maximize")
    assert np.allclose(top.params, np.arange(4))
    t = np.linspace(0, 1, 12)

    def residuals(p, data):
        t, y = data
        return y - p[0] * jnp.exp(-p[1] * t)

    curves = np.array([[2.0], [3.0]]) * np.exp(-np.array([[0.5], [2.0]]) * t)
    decay = minimize_many(residuals, (t, curves), np.ones(2), in_axes=(None, (None, 0)), kind="least_squares")
    assert np.allclose(decay.params, [[2, 0.5], [3, 2]], atol=1e-3)
    assert decay.aux.shape == (2, 12)


def test_trace_by_lane():
    book = {"method": jaxgd.GradientDescent(0.2), "stop": Stop(xtol=1e-3), "trace": True, "dtype": "float64"}
    many = minimize_many(mse, STORES[:3], **book)
    for i in range(3):
        one = minimize(mse, STORES[i], **book)
        assert np.allclose(many[i].trace.params, one.trace.params, rtol=1e-12)
        assert np.allclose(many[i].trace.loss, one.trace.loss, rtol=1e-12)
        assert len(many[i].trace.table()) == one.moves + 1


def test_a_start_without_slope_is_left_as_alone():
    def loss(x, data):
        waves, tilt, curvature = data
        return waves * jnp.cos(x) + tilt * x + curvature * x**2

    tilts = np.array([0.0, 0.1, 0.0])
    many = minimize_many(loss, (np.ones(3), tilts, np.zeros(3)), np.zeros(()))
    assert np.allclose(np.cos(np.asarray(many.params))[[0, 2]], -1, atol=1e-4)
    curvatures = np.array([1.0, -1.0])
    flat = quiet(lambda: minimize_many(loss, (np.zeros(2), np.zeros(2), curvatures), np.zeros(())))
    alone = [quiet(lambda a=a: minimize(loss, (0.0, 0.0, a), 0.0)).status for a in curvatures]
    assert [flat[i].status for i in range(2)] == alone


def test_inside_jit_and_of_device_arrays():
    expected = STORES.mean(1)
    jitted = jax.jit(lambda stores: minimize_many(mse, stores).params)(STORES)
    assert np.allclose(jitted, expected, atol=1e-5)
    assert np.allclose(minimize_many(mse, jnp.asarray(STORES)).params, expected, atol=1e-5)


def test_the_result_says_what_happened():
    pd = pytest.importorskip("pandas")
    stores = STORES.copy()
    stores[4] = np.nan
    result = quiet(lambda: minimize_many(mse, pd.DataFrame(stores)))
    assert "49 of 50 problems converged" in str(result)
    assert "lane 4 (BAD_START)" in str(result)
    assert "useful" in str(result)
    with pytest.raises(jaxgd.NotConverged, match="lane 4"):
        result.check()
    table = result.table()
    assert list(table.columns[:3]) == ["status", "converged", "loss"]
    assert table.loc[4, "status"] == "BAD_START"
    assert table.loc[3, "params"] == result.params[3]
    assert 0 < result.evals.sum() <= result.slots
    with pytest.raises(IndexError, match="there are 50"):
        result[50]
    with pytest.raises(TypeError, match="one problem"):
        len(result[3])


def test_progress_is_printed(capsys):
    minimize_many(mse, STORES, progress=True)
    assert "50/50" in capsys.readouterr().err


def test_ctrl_c_returns_what_is_done(ctrl_c):
    def slow(x, rate):
        return jnp.where(rate > 0, (x - 1) ** 2, -x)

    rates = np.r_[np.ones(40), np.zeros(3)]
    options = {"init": 0.5, "method": jaxgd.GradientDescent(0.4), "stop": Stop(gtol=1e-5, max_evals=10**7)}
    minimize_many(slow, np.ones(43), **options)  # so that nothing is left to compile
    ctrl_c(4)
    result = quiet(lambda: minimize_many(slow, rates, **options))
    assert result.converged[:40].all()
    assert (result.status[40:] == Status.INTERRUPTED).all()
    assert np.isfinite(result.loss[40:]).all()


MEMBER = """
import sys
import jax, jax.numpy as jnp, numpy as np, jaxgd
port, count, rank = map(int, sys.argv[1:])
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, rank)
stores = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
result = jaxgd.minimize_many(lambda t, y: jnp.mean((y - t) ** 2), stores)
print(result.converged.all(), np.abs(result.params - stores.mean(1)).max() < 1e-6, result.params.tobytes().hex())
"""


def test_two_processes_answer_as_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    members = [
        subprocess.Popen([sys.executable, "-c", MEMBER, str(port), "2", str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [member.communicate(timeout=120)[0].splitlines()[-1] for member in members]
    assert said[0] == said[1]
    assert said[0].startswith("True True")


def test_a_loss_that_holds_lapack_is_solved():
    roots = RNG.normal(size=(30, 4, 4)).astype(np.float32)

    def loss(x, root):
        matrix = root @ root.T + (1 + x**2) * jnp.eye(4)
        return jnp.sum(jnp.linalg.eigvalsh(matrix)) + (x - 1) ** 2

    assert np.allclose(minimize_many(loss, roots).params, 0.2, atol=1e-3)


GOOD = (np.ones((4, 6)), np.ones((4, 6)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: minimize_many(line, (np.ones((4, 6)), np.ones((5, 6)))),
            ValueError,
            "`data[0]` has 4, `data[1]` has 5",
        ),
        (lambda: minimize_many(mse, np.ones((0, 3))), ValueError, "empty"),
        (lambda: minimize_many(line, (np.ones((4, 6)), 1.0)), ValueError, "`data[1]` of shape () has no axis 0"),
        (lambda: minimize_many(line, GOOD, in_axes=(None, (0, 2))), ValueError, "no axis 2"),
        (lambda: minimize_many(line, GOOD, in_axes=(None, (0, 0, 0))), ValueError, "does not have the structure"),
        (lambda: minimize_many(line, GOOD, in_axes=(None, None)), ValueError, "nothing differs by lane"),
        (lambda: minimize_many(line, GOOD, in_axes=0), ValueError, "must be a pair"),
        (lambda: minimize_many(line, GOOD, in_axes=(None, "0")), TypeError, "whole numbers"),
        (lambda: minimize_many(line, GOOD, np.zeros(2), l2=np.ones(3)), ValueError, "`l2` has shape (3,)"),
        (lambda: minimize_many(line, GOOD, np.zeros(2), l2=np.ones(3)), ValueError, "each of the 4 problems"),
        (lambda: minimize_many(line, GOOD, np.zeros(2), l2=[[0, 1]] * 3), ValueError, "`l2` has shape (3, 2)"),
        (lambda: minimize_many(line, GOOD, np.zeros(2), l1=np.array([[0, 1]] * 3 + [[0, -1]])), ValueError, "got -1"),
        (
            lambda: minimize_many(rosenbrock, None, np.zeros(2), in_axes=(None, 0), l1=np.ones(3), l2=np.ones(4)),
            ValueError,
            "`l1` has 3, `l2` has 4",
        ),
        (lambda: minimize_many(line, GOOD, l2=-np.ones(4)), ValueError, "0 or more"),
        (lambda: minimize_many(line, GOOD, kind="minimise"), ValueError, "`kind` must be one of"),
        (lambda: minimize_many(line, GOOD, stpo=1), TypeError, "nearest is `stop`"),
        (lambda: minimize_many(line, GOOD, starts=3), TypeError, "write `minimize(loss, data, starts=...)` for each"),
        (
            lambda: minimize_many(lambda w, y: jnp.sum((w - y) ** 2), np.ones((4, 4)), np.zeros(4)),
            ValueError,
            "Say which",
        ),
        (lambda: minimize(mse, STORES[0], method=jaxgd.GradientDescent(np.ones(3))), ValueError, "minimize_many"),
        (lambda: minimize(mse, STORES[0], stop=Stop(gtol=np.ones(3))), ValueError, "minimize_many"),
        (lambda: jaxgd.GradientDescent(-np.ones(3)), ValueError, "positive"),
        (lambda: minimize(mse, STORES[0], starts=0), ValueError, "1 or more"),
        (lambda: minimize_many(mse, Groups(np.ones(5), by=[1, 2])), ValueError, "one label for each row"),
        (lambda: minimize_many(mse, Groups(np.ones(2), by=[1, np.nan])), ValueError, "no label for 1 of 2"),
        (
            lambda: minimize_many(lambda t, y: jnp.sum((y - t) ** 2), Groups(np.ones(3), by=[1, 1, 2])),
            ValueError,
            "no mean",
        ),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)


def test_one_lane_that_does_not_fit(monkeypatch):
    monkeypatch.setattr("jaxgd.lanes.pool.memory_of", lambda _: 10)
    with pytest.raises(MemoryError, match="`data` of one lane"):
        minimize_many(mse, STORES)


@pytest.mark.parametrize("kind", ["minimize", "least_squares"])
def test_groups_are_what_each_alone_is(kind, request):
    """Filled up to one length; or each length is a program, of which two are those of a pair."""
    if kind == "least_squares":
        request.getfixturevalue("several_lengths")
    labels = RNG.permutation(np.repeat(["lonely", "a", "b", "c", "d"], [1, 60, 60, 50, 50]))
    features, y = RNG.normal(size=(221, 2)), RNG.normal(size=221)

    def residuals(w, data):
        features, y = data
        return y - features @ w

    def loss(w, data):
        return jnp.mean(residuals(w, data) ** 2) + 0.1 * jnp.sum(w**2)

    solve, own = (minimize, loss) if kind == "minimize" else (jaxgd.least_squares, residuals)
    many = minimize_many(own, Groups((features, y), by=labels), kind=kind, dtype="float64", l2=[1e-3, 2e-3])
    assert many.labels.tolist() == sorted(set(labels))
    for i, label in enumerate(many.labels):
        rows = labels == label
        one = solve(own, (features[rows], y[rows]), dtype="float64", l2=[1e-3, 2e-3])
        assert np.allclose(many[i].params, one.params, atol=1e-9)
        assert many[i].loss == pytest.approx(one.loss, rel=1e-12)


@pytest.mark.usefixtures("several_lengths")
def test_a_start_for_all_groups_or_one_each():
    """Also where there are as many groups as params."""
    labels, features = np.repeat([0, 1, 2], [4, 9, 30]), RNG.normal(size=(43, 3))
    data = (features, features @ np.array([1.0, -2.0, 0.5]))

    def squares(w, data):
        return jnp.mean((data[1] - data[0] @ w) ** 2)

    groups = Groups(data, by=labels)
    for init, in_axes in ((np.zeros(3), None), (np.ones(3), (None, 0)), (RNG.normal(size=(3, 3)), (0, 0))):
        many = minimize_many(squares, groups, init, in_axes=in_axes, dtype="float64")
        assert np.allclose(many.params, [1, -2, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match="each of 3 groups"):
        minimize_many(squares, groups, np.zeros((2, 3)), in_axes=(0, 0))
    with pytest.raises(ValueError, match="one start for all"):
        minimize_many(squares, groups, np.zeros(3), in_axes=(0, None))
    with pytest.raises(ValueError, match="`trace=True` cannot be had"):
        minimize_many(squares, groups, trace=True)


def test_traces_of_lanes_in_lock_step_and_of_the_best_start():
    book = {"method": jaxgd.GradientDescent(0.2), "stop": Stop(xtol=1e-3), "trace": True}
    plain = minimize_many(mse, STORES[:3], **book)
    jitted = jax.jit(lambda stores: minimize_many(mse, stores, **book).trace)(STORES[:3])
    for i in range(3):
        count = int(plain.trace.count[i])
        assert int(jitted.count[i]) == count
        assert np.allclose(jitted.params[i, :count], plain[i].trace.params, atol=1e-6)
    # As many starts as params: the weights are those of the params.
    best = minimize(rosenbrock, init=np.zeros(2), starts=2, trace=True, l2=[0.0, 1.0])
    assert np.allclose(best.params, minimize(rosenbrock, init=np.zeros(2), l2=[0.0, 1.0]).params, atol=1e-3)
    assert best.trace.loss.shape == (best.moves + 1,)
    assert best.trace.loss[-1] == best.loss


def test_starts_find_the_lowest_of_several_minima(monkeypatch):
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST", {"cpu": 8, "other": 8})

    def wavy(x):
        return jnp.sum(x**2 / 20 - jnp.cos(x)) + 2

    alone = minimize(wavy, init=np.array([7.0, 13.0]))
    result = minimize(wavy, init=np.array([7.0, 13.0]), starts=64, bounds=(-20, 20))
    assert alone.loss > 1
    assert result.loss == pytest.approx(0, abs=1e-6)
    assert result.optima[0].loss == result.loss
    losses = [optimum.loss for optimum in result.optima]
    assert losses == sorted(losses)
    reached = sum(optimum.starts for optimum in result.optima)
    assert 1 < result.optima[0].starts <= reached <= 64
    assert f"{reached} converged, to {len(losses)} different minima" in result.message
    assert minimize(wavy, init=np.array([7.0, 13.0]), starts=1).loss == pytest.approx(alone.loss)
    top = jaxgd.maximize(lambda x: -wavy(x), init=np.array([7.0, 13.0]), starts=32)
    assert top.loss == pytest.approx(0, abs=1e-6)


def test_a_pool_is_compiled_once(caplog):
    def loss(x, d):
        return (x - d) ** 2

    jax.config.update("jax_log_compiles", True)  # in all threads
    try:
        minimize_many(loss, np.arange(1.0, 25.0), 0.0, method=jaxgd.GradientDescent(0.3), tol=1e-3)
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = re.compile(r"Finished XLA compilation of jit\((called|_burst)\)")
    assert len([record for record in caplog.records if compiled.match(record.getMessage())]) == 1


def test_lanes_that_begin_on_a_plateau_end_as_single_solves_do():
    def hill(x, y):
        return jnp.minimum((x - y) ** 2, 5.0)

    y = np.array([0.0, 1, 100, 200])
    lanes = quiet(lambda: minimize_many(hill, y, 0.0))
    singles = [quiet(lambda target=target: minimize(hill, target, 0.0)) for target in y]
    assert list(lanes.status) == [one.status for one in singles]
    assert list(lanes.status[2:]) == [Status.ZERO_GRADIENT] * 2


def test_a_penalty_of_some_params_for_each_lane():
    """One number for each problem, of a param of several: it weighs them all alike."""
    X, y, weights = RNG.normal(size=(20, 3)), RNG.normal(size=20), np.geomspace(0.01, 1, 5)

    def loss(p, data):
        return jnp.mean((data[1] - p["b"] - data[0] @ p["w"]) ** 2)

    start = {"b": 0.0, "w": np.zeros(3)}
    for name in ("l1", "l2"):
        path = minimize_many(loss, (X, y), start, in_axes=(None, None), **{name: {"w": weights}})
        each = [minimize(loss, (X, y), start, **{name: {"w": weight}}) for weight in weights]
        np.testing.assert_allclose(path.params["w"], [one.params["w"] for one in each], rtol=1e-8, atol=1e-12)
        both = minimize_many(
            loss, (X[None] * np.ones((5, 1, 1)), y[None] * np.ones((5, 1))), start, **{name: {"w": weights}}
        )
        np.testing.assert_allclose(both.params["w"], path.params["w"], rtol=1e-8, atol=1e-12)
