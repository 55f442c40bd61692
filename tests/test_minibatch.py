"""Descent by minibatches: the same seed is the same descent, and what is reported is of all rows."""

import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rows import LABELS, N, X, batches, files, in_passes

import jaxgd
from jaxgd import Batches, GradientDescent, NotConvergedWarning, Rows, Status, losses, minimize

DATA = (X, LABELS)
ADAM = optax.adam(1e-2)
FINE = GradientDescent(0.3)
BEST = float(minimize(losses.logistic, DATA, dtype="float64").loss)


def descend(rows=None, method=FINE, init=None, dtype=None, size=50, **options):
    rows = Rows(DATA) if rows is None else rows
    return minimize(losses.logistic, rows, init, method=method, dtype=dtype, batch_size=Batches(size=size, **options))


def consistent(result, weights=None):
    """Check that loss and gradient are those over all rows, and no worse than at the start."""
    params = jnp.asarray(result.params)
    loss = losses.logistic(params, DATA)
    if weights is not None:
        loss = np.average(
            [losses.logistic(params, (X[i : i + 1], LABELS[i : i + 1])) for i in range(N)], weights=weights
        )
    assert result.loss == pytest.approx(float(loss), rel=2e-6)
    assert result.loss <= np.log(2) + 1e-6


def test_the_seed_is_all_that_chance_has():
    one, same, other = (descend(seed=seed, passes=30).params.tolist() for seed in (1, 1, 2))
    assert one == same != other
    assert (
        minimize(losses.logistic, Rows(DATA), method=FINE, batch_size=50).params.tolist() == descend().params.tolist()
    )


@pytest.mark.parametrize("method", [FINE, ADAM], ids=["gradient", "adam"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_in_noise_near_the_minimum(method, dtype):
    result = descend(method=method, dtype=dtype)
    assert result.status is Status.NOISE_FLOOR
    assert result.converged
    assert result.loss <= BEST + 0.01
    assert "noise" in result.message
    assert result.evals % (N // 50) == 0
    consistent(result)


SCALES = 10.0 ** np.linspace(0, 2.5, 8)
BADLY = np.random.default_rng(3).gamma(2.0, size=(1000, 8))
SCALED = (BADLY * SCALES, BADLY @ np.arange(-4.0, 4.0) + np.random.default_rng(4).normal(size=1000))
SLOW = GradientDescent(2e-7)


def squared(size=50, method=SLOW, stop=None, tol=None, **options):
    size = Batches(size=size, **options)
    rows = Rows(SCALED)
    return minimize(losses.squared, rows, method=method, batch_size=size, stop=stop, tol=tol, dtype="float64")


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_steps_that_are_too_short_are_not_noise(validation):
    with pytest.warns(NotConvergedWarning, match=r"MAX_PASSES.*`polish=True`"):
        result = squared(validation=validation, passes=60)
    lowest = minimize(losses.squared, SCALED, dtype="float64").loss
    assert result.loss > 2 * lowest


@pytest.mark.parametrize("passes", [2, 60])
def test_polish_follows_whatever_ended_the_passes(passes):
    result = squared(polish=True, passes=passes)
    assert result.converged
    assert result.loss == pytest.approx(minimize(losses.squared, SCALED, dtype="float64").loss, rel=1e-10)


def test_tests_are_obeyed_between_passes():
    small = squared(method=optax.sgd(1e-6), stop=jaxgd.Stop(gtol=3e3), passes=20)
    assert small.status is Status.SMALL_GRADIENT
    assert small.grad_norm <= 3e3
    assert small.evals < 20 * N // 50
    lowest, start = BEST, np.log(2)
    asked = minimize(losses.logistic, Rows(DATA), method=GradientDescent(0.01), batch_size=50, tol=0.2)
    assert asked.status is Status.CONVERGED
    assert BEST < asked.loss <= lowest + 0.2 * (start - lowest)
    assert "can fall by an estimated" in asked.message
    assert minimize(losses.logistic, Rows(DATA), method=FINE, batch_size=50, stop=jaxgd.Stop(gtol=9.0)).evals == 0


@pytest.mark.parametrize("most", [1, 7, 20, 33])
def test_so_many_minibatches_and_no_more(most):
    with pytest.warns(NotConvergedWarning, match="MAX_EVALS"):
        part = minimize(
            losses.logistic, Rows(DATA), method=ADAM, batch_size=50, stop=jaxgd.Stop(max_evals=most), watch=[]
        )
    assert part.evals == most
    consistent(part)
    with pytest.warns(NotConvergedWarning, match="MAX_EVALS"):
        polished = minimize(
            losses.logistic,
            Rows(DATA),
            method=ADAM,
            batch_size=Batches(size=50, polish=True, passes=1),
            stop=jaxgd.Stop(max_evals=21),
        )
    assert polished.evals == 21
    # What was cut is carried on as if it had not been.
    whole = descend(method=ADAM)
    more = minimize(losses.logistic, Rows(DATA), method=ADAM, batch_size=50, resume=part)
    assert more.evals == whole.evals
    assert more.params.tolist() == whole.params.tolist()


def test_few_passes_warn():
    with pytest.warns(NotConvergedWarning, match="MAX_PASSES") as warned:
        result = descend(passes=2)
    assert len(warned) == 1
    assert result.evals == 2 * N // 50
    assert "passes=..." in result.message
    consistent(result)


@pytest.mark.parametrize("size", [1e3, 1e30, 3e38])
def test_huge_steps_diverge_and_the_best_is_returned(size):
    with pytest.warns(NotConvergedWarning, match="DIVERGED"):
        result = descend(method=GradientDescent(size))
    assert np.isfinite(result.loss)
    consistent(result)


def test_steps_that_do_harm_return_the_start():
    start = np.asarray(minimize(losses.logistic, DATA).params)
    with pytest.warns(NotConvergedWarning, match=r"DIVERGED.* above that at the start"):
        result = descend(method=GradientDescent(50.0), init=start, passes=7, patience=3)
    assert result.loss <= float(losses.logistic(jnp.asarray(start), DATA)) * (1 + 1e-6)
    assert np.array_equal(result.params, start)
    assert descend(method=GradientDescent(0.05), init=start).status is Status.NOISE_FLOOR


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_polish_reaches_the_answer_of_all_rows(dtype, monkeypatch):
    in_passes(monkeypatch)
    result = descend(dtype=dtype, polish=True)
    expected = minimize(losses.logistic, DATA, dtype="float64")
    assert result.converged
    assert result.status is not Status.NOISE_FLOOR
    assert np.allclose(result.params, expected.params, atol={"float32": 1e-3, "float64": 1e-7}[dtype])
    assert result.message.endswith("It ended with passes over all rows.")


def test_rows_held_out_tell_when_to_stop():
    result = descend(validation=0.2)
    assert result.status is Status.NOISE_FLOOR
    assert result.loss <= BEST + 0.02
    consistent(result)  # over all rows, also those held out
    with pytest.raises(ValueError, match="holds out no row of so few"):
        minimize(losses.logistic, Rows((X[:9], LABELS[:9])), method=FINE, batch_size=Batches(size=3, validation=1e-9))


def test_streams_and_memory_agree(tmp_path):
    memory = descend(passes=40)
    for rows in (batches(DATA), files(DATA, tmp_path)):
        # All rows fit one chunk: the order is the same.
        read = descend(rows, passes=40)
        assert np.allclose(read.params, memory.params, atol=1e-5)
        assert read.evals == memory.evals
        consistent(read)


def test_chunks_smaller_than_the_data(monkeypatch, tmp_path):
    monkeypatch.setattr("jaxgd.rows.shuffle.CHUNK", 1 << 13)
    for rows in (batches(DATA), files(DATA, tmp_path)):
        result = descend(rows, validation=0.1)
        assert result.loss <= BEST + 0.02
        consistent(result)


def test_weights():
    weights = np.arange(N) % 3.0
    result = descend(Rows(DATA, weights))
    consistent(result, weights)
    whole = minimize(losses.logistic, Rows(DATA, weights))
    assert result.loss <= float(whole.loss) + 0.01
    doubled = descend(Rows(DATA, np.full(N, 2.0)))
    assert np.allclose(doubled.params, descend().params, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 999, 1000])
@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
def test_any_size_up_to_all_rows(size):
    result = descend(size=size, passes=10, method=GradientDescent(0.02 if size < 50 else 2.0))
    assert result.evals % -(-N // size) == 0
    assert result.loss <= BEST + 0.02
    consistent(result)


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_a_penalized_loss_never_ends_above_the_start(step):
    best = minimize(losses.logistic, DATA, l2=0.5, dtype="float64")
    method = jaxgd.GradientDescent(step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        result = minimize(
            losses.logistic, Rows(DATA), best.params, method=method, l2=0.5, batch_size=10, dtype="float64"
        )
    assert result.loss <= best.loss + 1e-15
    assert np.allclose(result.params, best.params)


def test_penalties_are_kept():
    result = minimize(losses.logistic, Rows(DATA), method=FINE, l2=0.5, batch_size=50)
    whole = minimize(losses.logistic, DATA, l2=0.5)
    assert result.loss == pytest.approx(float(whole.loss), abs=5e-3)


def test_the_maximum_is_sought():
    result = jaxgd.maximize(
        lambda w, data: -losses.logistic(w, data), Rows(DATA), method=FINE, batch_size=Batches(size=50)
    )
    assert -np.log(2) <= result.loss <= -BEST + 1e-6


def test_progress(capsys):
    with pytest.warns(NotConvergedWarning):
        minimize(losses.logistic, Rows(DATA), method=FINE, batch_size=Batches(size=50, passes=3), progress=True)
    assert "pass=3 loss=" in capsys.readouterr().err


def test_a_row_that_is_not_finite():
    bad = np.array(X)
    bad[77] = np.nan
    with pytest.warns(NotConvergedWarning, match=r"row 77 of `data\[0\]`"):
        assert descend(Rows((bad, LABELS))).status is Status.BAD_START


WRONG = {
    **{
        name: (
            f"`{name}=0.1` cannot be had with `batch_size`",
            lambda name=name: squared(stop=jaxgd.Stop(**{name: 0.1})),
        )
        for name in ("xtol", "ftol")
    },
    "tol of rows held out": ("`tol=0.1` cannot be had with", lambda: squared(tol=0.1, validation=0.2)),
    "no rows": ("pass `jaxgd.Rows", lambda: minimize(losses.logistic, DATA, method=FINE, batch_size=50)),
    "auto": ("is for optax transformations", lambda: minimize(losses.logistic, Rows(DATA), batch_size=50)),
    "lbfgs": ("got method='lbfgs'", lambda: minimize(losses.logistic, Rows(DATA), method="lbfgs", batch_size=50)),
    "a search": ("without a search|evaluates the loss itself", lambda: descend(method=optax.lbfgs())),
    "too large": ("no more than the 1000 rows there are; got 1001", lambda: descend(size=1001)),
    "trace": (
        "`trace=True` cannot",
        lambda: minimize(losses.logistic, Rows(DATA), method=FINE, batch_size=9, trace=True),
    ),
    "starts": ("takes no `batch_size`", lambda: minimize(losses.logistic, DATA, starts=2, batch_size=9)),
    **{
        f"size {size}": ("`batch_size` must be a positive integer", lambda size=size: Batches(size=size))
        for size in (0, -1, 2.5, True, "a", None)
    },
    "plain size": (
        "`batch_size` must be a positive",
        lambda: minimize(losses.mse, Rows(LABELS), method=FINE, batch_size=0),
    ),
    "passes": ("`passes` must be a positive integer", lambda: Batches(size=1, passes=0)),
    "patience": ("`patience` must be a positive integer", lambda: Batches(size=1, patience=1.5)),
    "seed": ("`seed` must be an integer, 0 or more", lambda: Batches(size=1, seed=-1)),
    **{
        f"validation {part}": ("`validation` must be a part", lambda part=part: Batches(size=1, validation=part))
        for part in (1, 1.0, -0.1, np.nan, "a")
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name):
    words, call = WRONG[name]
    with pytest.raises(ValueError, match=words):
        call()
