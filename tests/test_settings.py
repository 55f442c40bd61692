"""Settings of JAX that people have: the user's hold for the user's loss, and the library is untouched by them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgd import Groups, Rows, Status, least_squares, minimize, minimize_many

RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(30), np.cos(np.arange(30.0))])
Y = X @ [1.0, 2.0] + 0.1 * np.sin(5 * np.arange(30.0))
RIGHT = np.linalg.lstsq(X, Y)[0]
ON_DEVICE = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
ONE = jnp.ones((), jnp.float32)


def squares(w, data):
    return jnp.mean((data[1] - data[0] @ w) ** 2)


def center(theta, y):
    return jnp.mean((y - theta) ** 2)


def derivative(scale):
    return minimize(squares, (ON_DEVICE[0], ON_DEVICE[1] * scale)).params


WAYS = {
    "numpy": lambda: minimize(squares, (X, Y)).params,
    "device": lambda: minimize(squares, ON_DEVICE).params,
    "L-BFGS": lambda: minimize(squares, (X, Y), method="lbfgs").params,
    "Newton-CG": lambda: minimize(squares, (X, Y), method="newton-cg").params,
    "optax": lambda: minimize(squares, (X, Y), method=optax.sgd(0.3)).params,
    "bounds": lambda: minimize(squares, (X, Y), bounds=(0, 5)).params,
    "residuals": lambda: least_squares(lambda w, data: data[1] - data[0] @ w, (X, Y), np.zeros(2)).params,
    "rows": lambda: minimize(squares, Rows((X, Y))).params,
    "minibatches": lambda: minimize(squares, Rows((X, Y)), method=optax.sgd(0.3), batch_size=30).params,
    "starts": lambda: minimize(squares, (X, Y), starts=3).params,
    "many": lambda: minimize_many(squares, (np.stack([X, X]), np.stack([Y, Y]))).params[1],
    "groups": lambda: minimize_many(squares, Groups((X, Y), by=np.zeros(30, int))).params[0],
    "traced": lambda: minimize(squares, (X, Y), trace=True).params,
    "jit": lambda: jax.jit(derivative)(ONE),
    "reverse": lambda: jax.jacrev(derivative)(ONE),
}


@pytest.fixture
def strict():
    """Set all at once that could make the library stumble."""
    with ExitStack() as stack:
        for setting in (
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
            jax.debug_nans(True),
            jax.debug_infs(True),
            jax.checking_leaks(),
            jax.disable_jit(),
        ):
            stack.enter_context(setting)
        yield


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("way", WAYS)
def test_strict_settings_change_nothing(way):
    assert np.allclose(np.asarray(WAYS[way]()), RIGHT, atol=1e-3)


@pytest.mark.parametrize("way", ["numpy", "device", "rows", "many", "jit"])
def test_moving_data_is_the_library_s_own_affair(way):
    WAYS[way]()
    with jax.transfer_guard("disallow"):
        found = WAYS[way]()
    assert np.allclose(np.asarray(found), RIGHT, atol=1e-3)


@pytest.mark.usefixtures("strict")
def test_what_is_known_of_a_result():
    result = minimize(squares, (X, Y))
    assert "least squares" in str(result.summary())
    assert "Converged" in str(result)
    assert result.stderr("sandwich").shape == (2,)


@pytest.mark.usefixtures("strict")
def test_a_loss_is_held_to_the_settings_of_its_user():
    with pytest.raises(ValueError, match="rank_promotion"):
        minimize(lambda w, data: jnp.mean((data[1][:, None] - data[0] @ w) ** 2), (X, Y), np.zeros(2))
    with pytest.raises(ValueError, match="strict"):
        minimize(lambda w, data: jnp.sum((w - data.astype(jnp.float32)) ** 2), Y, np.zeros(30))


def test_threads_solve_at_once():
    data = [RNG.normal(size=40) for _ in range(32)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda y: float(minimize(center, y).params), data))
    np.testing.assert_allclose(found, [y.mean() for y in data], atol=1e-12)


PROCESSES = """
import multiprocessing, sys
import numpy as np, jax.numpy as jnp, jaxgd
def mse(theta, y):
    return jnp.mean((y - theta) ** 2)
def solve(y):
    return float(jaxgd.minimize(mse, np.array([y, y + 2])).params)
if __name__ == "__main__":
    used = sys.argv[2] == "used" and solve(0.0)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map_async(solve, [1.0, 2.0, 3.0]).get(60))
"""


@pytest.mark.parametrize(("how", "parent"), [("spawn", "used"), ("fork", "fresh"), ("fork", "used")])
def test_processes_solve_or_say_why_not(tmp_path, how, parent):
    """A process forked from one that has computed would wait for threads of JAX that it does not have."""
    script = tmp_path / "solve.py"
    script.write_text(PROCESSES)
    ran = subprocess.run(
        [sys.executable, script, how, parent], capture_output=True, text=True, check=False, timeout=120
    )
    if (how, parent) == ("fork", "used"):
        assert "RuntimeError: this process was forked" in ran.stderr
        assert "get_context('spawn')" in ran.stderr
    else:
        assert ran.stdout == "[2.0, 3.0, 4.0]\n", ran.stderr


TYPES = {
    "float16": np.float16,
    "bfloat16": jnp.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "int32": np.int32,
    "bool": bool,
}


@pytest.mark.parametrize("wide", [False, True], ids=["", "x64"])
@pytest.mark.parametrize("of", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("name", TYPES)
def test_data_of_any_type(name, of, wide):
    """Half precision is solved in float32, numbers of NumPy without a fraction in float64, all else as it comes."""
    with jax.enable_x64(wide):
        data = X.astype(TYPES[name]), Y.astype(TYPES[name])
        right = np.linalg.lstsq(*(part.astype(float) for part in data))[0]
        result = minimize(squares, tuple(map(of.asarray, data)))
        double = name in {"float64", "int32", "bool"} and (of is np or wide)
        assert result.params.dtype == (np.float64 if double else np.float32)
        assert result.status is Status.CONVERGED
        np.testing.assert_allclose(result.params, right, atol=1e-12 if double else 1e-6)
        halves = np.zeros(2, np.float16)
        np.testing.assert_allclose(minimize(squares, tuple(map(of.asarray, data)), halves).params, right, atol=1e-6)


def test_a_trial_that_is_not_finite_is_none_of_the_user_s_errors():
    with jax.debug_nans(True):
        result = minimize(lambda x: x - jnp.log(x), init=np.array(1e-3))
    assert result.check().params == pytest.approx(1)
