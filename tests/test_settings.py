"""Settings of JAX that people have: the user's hold for the user's loss, and the library is untouched by them."""

from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgd import Groups, Rows, least_squares, minimize, minimize_many

X = np.column_stack([np.ones(30), np.cos(np.arange(30.0))])
Y = X @ [1.0, 2.0] + 0.1 * np.sin(5 * np.arange(30.0))
RIGHT = np.linalg.lstsq(X, Y)[0]
ON_DEVICE = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
ONE = jnp.ones((), jnp.float32)


def squares(w, data):
    return jnp.mean((data[1] - data[0] @ w) ** 2)


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


def test_a_trial_that_is_not_finite_is_none_of_the_user_s_errors():
    with jax.debug_nans(True):
        result = minimize(lambda x: x - jnp.log(x), init=np.array(1e-3))
    assert result.check().params == pytest.approx(1)
