"""The textbook's numbers, digit for digit, and the main job on real data."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxgd
from jaxgd import GradientDescent, Stop
from jaxgd.cli.example import tips

BOOK = [12.1, 12.8, 14.9, 16.3, 17.2]
RULE = Stop(xtol=1e-3)
THETAS = "0.00 5.86 9.38 11.49 12.76 13.52 13.98 14.25 14.41 14.51 14.57 14.61 14.63 14.64 14.65 14.65 14.66 14.66"
LOSSES = "218.76 81.21 31.70 13.87 7.45 5.14 4.31 4.01 3.90 3.86 3.85 3.85 3.84 3.84 3.84 3.84 3.84 3.84"


def minimize(loss, data, alpha, init=0.0, **options):
    method = GradientDescent(alpha)
    return jaxgd.minimize(loss, data, init, method=method, stop=RULE, dtype="float64", **options)


def test_mse_with_a_fixed_step():
    result = minimize(jaxgd.losses.mse, BOOK, 0.2)
    assert (result.moves, result.evals, float(result.params)) == (18, 19, 14.658511131035242)
    assert result.status is jaxgd.Status.SMALL_STEP
    assert result.converged


def test_each_move_from_twelve():
    result = minimize(jaxgd.losses.mse, BOOK, 0.3, 12.0, trace=True)
    theta, thetas = 12.0, []
    for _ in range(4):
        theta = theta - 0.3 * -2 * np.mean(np.array(BOOK) - theta)
        thetas.append(theta)
    assert np.array_equal(np.round(result.trace.params[1:5], 3), np.round(thetas, 3))
    assert np.round(result.trace.params[1:5], 2).tolist() == [13.6, 14.23, 14.49, 14.59]
    assert result.trace.stepsize[1:].tolist() == [0.3] * result.moves


def test_huber_on_tips_with_a_fixed_step():
    result = minimize(jaxgd.losses.huber(1.0), tips(), 0.2)
    assert (result.moves, float(result.params)) == (189, 15.506849531471964)


def test_progress_prints_the_lines_of_the_book(capsys):
    minimize(jaxgd.losses.mse, BOOK, 0.2, progress=True)
    lines = [f"theta: {theta} | loss: {loss}" for theta, loss in zip(THETAS.split(), LOSSES.split(), strict=True)]
    assert capsys.readouterr().out.splitlines() == lines


def test_progress_of_several_parameters(capsys):
    result = jaxgd.minimize(lambda x: ((x - 3) ** 2).sum(), init=np.zeros(3), progress=True)
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{result.evals} evals" in last
    assert f"loss={result.loss:.8g} " in last
    assert "CONVERGED" in last


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 6), ("float64", 9)])
def test_nothing_but_loss_and_data(dtype, digits):
    for loss, data, answer in (
        (jaxgd.losses.mse, BOOK, 14.66),
        (jaxgd.losses.huber(1.0), tips(), 15.530633813965784),
    ):
        result = jaxgd.minimize(loss, data, dtype=dtype)
        assert float(result.params) == pytest.approx(answer, abs=2 * 10.0**-digits)
        assert result.converged
        assert result.params.dtype == dtype


def test_a_schedule_is_a_function_of_the_step_number():
    result = minimize(jaxgd.losses.mse, BOOK, lambda step: 0.3 * 0.9**step, trace=True)
    assert result.trace.stepsize.tolist() == pytest.approx([0, *(0.3 * 0.9 ** np.arange(result.moves))])
    theta = 0.0
    for step in range(result.moves):
        theta -= 0.3 * 0.9**step * -2 * np.mean(np.array(BOOK) - theta)
    assert float(result.params) == pytest.approx(theta, rel=1e-12)


def test_an_optax_schedule_and_a_step_size_of_its_own_for_each_lane():
    optax = pytest.importorskip("optax")
    result = minimize(jaxgd.losses.mse, BOOK, optax.exponential_decay(0.3, 10, 0.9))
    assert result.converged
    sizes = np.array([0.1, 0.2, 0.4], np.float32)
    y = np.asarray(BOOK, np.float32)
    many = jax.vmap(lambda size: jaxgd.minimize(jaxgd.losses.mse, y, method=GradientDescent(size), stop=RULE))(sizes)
    alone = [jaxgd.minimize(jaxgd.losses.mse, y, method=GradientDescent(float(size)), stop=RULE) for size in sizes]
    assert np.asarray(many.moves).tolist() == [result.moves for result in alone]


def test_the_main_job_runs_on_real_data():
    done = subprocess.run([sys.executable, "-m", "jaxgd"], capture_output=True, text=True, check=True)
    assert "theta: 0.00 | loss: 15.58" in done.stdout
    assert [line.split() for line in done.stdout.splitlines()[-3:]] == [
        ["mean", "16.080258", "%"],
        ["Huber", "15.530634", "%"],
        ["median", "15.476977", "%"],
    ]
