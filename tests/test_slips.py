"""Slips that other libraries let pass, or answer wrongly: each is told its cause and its cure."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import Bounds
from scipy.sparse import csr_matrix

import jaxgd
from jaxgd import Groups, Rows, least_squares, losses, maximize, minimize, minimize_many
from jaxgd.solvers.registry import named

X, Y = np.column_stack([np.ones(6), np.arange(6.0)]), np.arange(6.0)
REGRESSIONS = {
    "squared": losses.squared,
    "huber": losses.huber_regression(),
    "logistic": losses.logistic,
    "hinge": losses.hinge,
    "poisson": losses.poisson,
}


@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_column_as_y_is_no_regression_on_all_pairs_of_rows(name):
    with pytest.raises(ValueError, match=r"got \(6, 2\) and \(6, 1\)\. Pass `y\[:, 0\]`\."):
        minimize(REGRESSIONS[name], (X, (Y > 2)[:, None]))
    with pytest.raises(ValueError, match=r"got \(6, 2\) and \(6, 1\)"):
        minimize(REGRESSIONS[name], (X, (Y > 2)[:, None]), np.zeros(2))


ROWS = {  # of differences that are all pairs
    "a column of data": (lambda p, d: jnp.mean((d[1] - p[0] * jnp.exp(-p[1] * d[0])) ** 2), (Y, Y[:, None])),
    "a column of x": (lambda p, d: jnp.sum((p[0] + p[1] * d[0] - d[1]) ** 2), (Y[:, None], Y)),
    "any loss": (lambda w, d: jnp.mean(jnp.abs(d[0] @ w - d[1])), (X, Y[:, None])),
}


@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
@pytest.mark.parametrize("name", ROWS)
def test_differences_of_all_pairs_of_rows_are_warned_of(name):
    loss, data = ROWS[name]
    with pytest.warns(
        UserWarning, match=r"all pairs, shape \(6, 6\)\. For one difference a row, pass `y\[:, 0\]`"
    ) as said:
        minimize(loss, data, np.ones(2))
    assert [warning.filename for warning in said if "all pairs" in str(warning.message)] == [__file__]


@pytest.mark.filterwarnings("error:.*all pairs")
def test_all_pairs_that_are_meant_are_not_warned_of():
    def meant(p, d):
        distances = d[:, None] - d[None, :]
        return jnp.mean((distances - (p * d)[:, None] - d[None, :]) ** 2) + jnp.sum(
            (d[:, None] - (p * d)[None, :]) ** 2
        )

    minimize(meant, Y, 1.0)


SHAPES = {
    "fewer labels": ((X, Y[:4]), None, ValueError, r"must have shapes \(n, d\) and \(n,\); got \(6, 2\) and \(4,\)"),
    "one column": ((X[:, 1], Y), None, ValueError, r"Pass `X\[:, None\]`"),
    "start": ((X, Y), np.zeros(3), ValueError, r"params must have shape \(2,\), one for each column of X; got \(3,\)"),
    "start of a column": ((X, Y), np.zeros((2, 1)), ValueError, r"params must have shape \(2,\)"),
    "no pair": (X, np.zeros(2), TypeError, r"must be a pair \(X, y\)"),
    "a dict": ({"X": X, "y": Y}, np.zeros(2), TypeError, r"must be a pair \(X, y\)"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_a_regression(name):
    data, init, error, words = SHAPES[name]
    with pytest.raises(error, match=words):
        minimize(losses.squared, data, init)


def test_classes_have_a_column_of_params_each():
    data = (X, np.array([0, 1, 2, 0, 1, 2]))
    assert minimize(losses.softmax, data, np.zeros((2, 3)), l2=0.1).params.shape == (2, 3)
    with pytest.raises(ValueError, match=r"one for each column of X; got \(3,\)"):
        minimize(losses.softmax, data, np.zeros((3, 3)), l2=0.1)


SIGNS = np.where(Y > 2, 1.0, -1.0)
LABELS = {
    "logistic": (losses.logistic, SIGNS, r"from -1 to 1; `losses.logistic` takes y of 0 or 1. Labels -1 and 1 are \(y"),
    "hinge": (losses.hinge, SIGNS, "`losses.hinge` takes y of 0 or 1"),
    "integers": (losses.logistic, SIGNS.astype(int), "from -1 to 1"),
    "three": (losses.logistic, np.array([0, 1, 2, 0, 1, 2]), "from 0 to 2"),
    "classes": (losses.softmax, SIGNS.astype(int), "takes y of classes from 0 on. Number them so"),
    "counts": (losses.poisson, Y - 1, "takes y of counts, 0 or more"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_taken_for_others(name):
    loss, y, words = LABELS[name]
    start = np.zeros((2, 3)) if loss is losses.softmax else np.zeros(2)
    for data in ((X, y), (X, y.tolist()), Rows((X, y))):
        with pytest.raises(ValueError, match=words):
            minimize(loss, data, start)
    with pytest.raises(ValueError, match=words):
        minimize_many(loss, Groups((X, y), by=[0, 0, 0, 1, 1, 1]), start)


def test_shares_are_labels_and_what_is_missing_is_named_as_ever():
    assert minimize(losses.logistic, (X, np.linspace(0.1, 0.9, 6))).converged
    assert minimize(losses.logistic, (X, Y > 2), l2=0.1).converged
    with pytest.warns(UserWarning, match=r"Not finite: `data\[1\]`"):
        minimize(losses.logistic, (X, np.array([0, 1, 1, 0, 1, np.nan])))


def center(theta, y):
    return jnp.mean((y - theta) ** 2)


KEYWORDS = {
    "x0": "the start is `init`",
    "args": "what the loss gets beside the params is `data`",
    "fun": "the first argument, `loss`",
    "jac": "JAX derives it",
    "maxiter": "the limit is `max_evals`",
    "options": "each is an option of its own",
    "constraints": "Simplex",
    "gtol": r"stop=jaxgd.Stop\(gtol",
    "lr": "no step size need be given",
    "verbose": "it is `progress=True`",
    "epochs": "Batches",
    "seed": r"Batches\(seed=",
    "penalty": "`l1=` and `l2=`",
    "tole": "the nearest is `tol`",
}


@pytest.mark.parametrize("name", KEYWORDS)
@pytest.mark.parametrize("solve", [minimize, minimize_many, maximize, least_squares])
def test_options_of_other_libraries_are_answered(solve, name):
    with pytest.raises(TypeError, match=rf"{solve.__name__}\(\) has no option `{name}`.*{KEYWORDS[name]}"):
        solve(center, np.ones((2, 3)), **{name: 1})


def test_what_is_of_one_problem_alone():
    with pytest.raises(TypeError, match=r"write `minimize\(loss, data, starts=...\)` for each"):
        minimize_many(center, np.ones((2, 3)), starts=3)


FITTED = minimize(center, [1.0, 2.0, 6.0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x", "`params`"),
        ("fun", "`loss`"),
        ("success", "`converged`"),
        ("jac", "`grad`"),
        ("hess_inv", "covariance"),
        ("best_values", "`params`"),
        ("fit_report", "`summary"),
        ("pvalues", "`summary"),
        ("rsquared", r"summary\(\).r_squared"),
        ("pcov", "`covariance"),
        ("predict", "call your model"),
        ("resid", "call your model"),
        ("n_iter_", "`moves`"),
    ],
)
def test_words_of_other_results_are_answered(name, words):
    with pytest.raises(AttributeError, match=rf"`Result` has no `{name}`: .*{words}"):
        getattr(FITTED, name)
    assert not hasattr(FITTED, "nothing")
    assert (FITTED.nfev, FITTED.nit) == (FITTED.evals, FITTED.moves)


@pytest.mark.parametrize("use", [lambda: FITTED["x"], lambda: FITTED[0], lambda: print(*FITTED)])
def test_a_result_is_no_tuple(use):
    with pytest.raises(TypeError, match="The answer is `params`"):
        use()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("curve_fit", "from jaxgd.scipy import curve_fit"),
        ("root", "`least_squares` finds it"),
        ("adam", "any optimizer of optax"),
        ("LevenbergMarquart", "the nearest is LevenbergMarquardt"),
        ("nothing_like_it", r"jaxgd has no `nothing_like_it`\.$"),
    ],
)
def test_names_of_other_libraries_are_answered(name, words):
    with pytest.raises(AttributeError, match=words):
        getattr(jaxgd, name)


SLIPS = {  # what is called, the error, and what it says
    "X and y apart, with a start": (
        lambda: minimize(losses.squared, X, Y, np.zeros(2)), TypeError, "takes loss, data, init in this order"
    ),
    "a file's name": (lambda: minimize(losses.mse, "tips.csv"), TypeError, "Read the file first"),
    "a sparse matrix": (lambda: minimize(losses.squared, (csr_matrix(X), Y)), TypeError, r"Pass its `toarray\(\)`"),
    "groups": (lambda: minimize(losses.mse, Groups(Y, by=Y > 0)), TypeError, "by `jaxgd.minimize_many`"),
    "names to hold": (
        lambda: minimize(lambda p, y: jnp.mean((y - p["a"]) ** 2), Y, {"a": 0.0}, fixed=["a"]),
        TypeError, "write `fixed={'name': True}`",
    ),
    "residuals": (lambda: minimize(lambda p, y: y - p, Y, 0.0), TypeError, "of residuals, use `jaxgd.least_squares`"),
    "a factory": (lambda: minimize(losses.huber, Y), TypeError, r"make it first, as losses.huber\(...\) does"),
    "a percentage": (lambda: losses.quantile(90), ValueError, "`q` must be above 0 and below 1; got 90"),
    "a negative delta": (lambda: losses.huber(-1), ValueError, "`delta` must be above 0; got -1"),
    "of a regression": (lambda: losses.huber_regression(0), ValueError, "`delta` must be above 0; got 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_told_cause_and_cure(name):
    call, error, words = SLIPS[name]
    with pytest.raises(error, match=words):
        call()


def test_what_a_loss_raised_is_shown_with_all_it_got():
    with pytest.raises(KeyError) as raised:
        minimize(lambda p, table: jnp.mean((table["tips"] - p) ** 2), {"tip": Y}, 0.0)
    assert "`init` of float64[] and `data` of {tip: float64[6]}" in raised.value.__notes__[0]


def test_a_loss_as_residuals_is_warned_of():
    words = "`residuals` center returns one number for all of `data`. Is it a loss?"
    with pytest.warns(jaxgd.NotConvergedWarning), pytest.warns(UserWarning, match=words):
        least_squares(center, [1.0, 2.0, 6.0])
    root = least_squares(lambda x: x**2 - 2, init=1.0)
    assert float(root.params) == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("name", "same"), [("BFGS", "bfgs"), ("L-BFGS", "lbfgs"), ("L-BFGS-B", "lbfgsb"), ("Newton_CG", "newton-cg")]
)
def test_methods_are_known_however_they_are_spelt(name, same):
    assert named(name) == named(same)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("adam", r"optax.adam\(1e-2\)"),
        ("SGD", "optax.sgd"),
        ("lm", "jaxgd.least_squares"),
        ("SLSQP", "constraints are `bounds`"),
        ("Nelder-Mead", "leave `method` out"),
        ("differential_evolution", "starts=64"),
        ("newtn", "the nearest is 'newton'"),
    ],
)
def test_methods_of_other_libraries_are_answered(name, words):
    with pytest.raises(ValueError, match=rf"`method` '{name}' is unknown: .*{words}"):
        minimize(center, [1.0, 2.0], method=name)


def target(x):
    return jnp.sum((x - 3) ** 2)


THREE = Bounds([0, 0, -np.inf], [1, 2, np.inf])


@pytest.mark.parametrize("bounds", [[(0, 1), (None, 2), (0, None)], ((0, 1), (None, 2), (0, None)), THREE])
def test_bounds_as_in_scipy(bounds):
    assert minimize(target, init=np.zeros(3), bounds=bounds).params.tolist() == [1, 2, 3]


def test_bounds_of_params_by_name():
    found = minimize(lambda p: target(p["a"]) + target(p["b"]), init={"a": 0.0, "b": 0.0}, bounds={"a": (0, 1)})
    assert (found.params["a"], found.params["b"]) == (1, 3)
    with pytest.raises(ValueError, match=r"`bounds\['a'\]` must be a pair \(low, high\)"):
        minimize(target, init={"a": 0.0}, bounds={"a": 1})


def test_two_pairs_for_two_params_may_be_either():
    with pytest.raises(ValueError, match="may be a pair for each of two params, or the lower and the upper bounds"):
        minimize(target, init=np.zeros(2), bounds=[(0, 1), (0, 2)])
    # One of the two readings has no lower bound above its upper.
    assert minimize(target, init=np.zeros(2), bounds=[(0, 5), (1, 2)]).params.tolist() == [3, 2]
    assert minimize(target, init=np.zeros(2), bounds=([0, 1], [1, 2])).params.tolist() == [1, 2]
    params = minimize(lambda p: target(p[0]) + target(p[1]), init=(0.0, 0.0), bounds=((0, 1), (1, 2))).params
    assert [*map(float, params)] == [1, 2]


def test_a_start_passed_as_data_and_params_that_come_last():
    with pytest.raises(TypeError, match=r"pass the start by name, `init=...`"):
        minimize(target, np.zeros(3))
    with pytest.raises(TypeError, match=r"takes `data` first; the params come first: loss\(params, data\)"):
        minimize(lambda data, theta: center(theta, data), np.ones(3))


NUMBERS = [1.0, 2.0, 6.0]
TYPES = {
    "a list": (NUMBERS, None, np.float64),
    "NumPy": (np.array(NUMBERS), None, np.float64),
    "whole numbers": (np.array([1, 2, 6]), None, np.float64),
    "pandas": (pd.Series(NUMBERS), None, np.float64),
    "a number as start": (np.float32(NUMBERS), 0.0, np.float32),
    "narrow": (np.float32(NUMBERS), None, np.float32),
    "JAX": (jnp.array(NUMBERS), None, np.float32),
    "a start of JAX": (np.array(NUMBERS), jnp.zeros(()), np.float32),
    "a narrow start": (NUMBERS, np.float32(0), np.float32),
    "rows": (Rows(np.array(NUMBERS)), None, np.float64),
}


@pytest.mark.parametrize("name", TYPES)
def test_numbers_of_numpy_are_solved_in_float64_and_those_of_jax_as_they_are(name):
    data, init, kind = TYPES[name]
    found = minimize(center, data, init)
    assert found.params.dtype == found.loss.dtype == kind
    assert isinstance(found.params, np.ndarray | np.generic) == (kind is np.float64)
    assert f", in {np.dtype(kind)}\n" in str(found)
    assert minimize(center, data, init, dtype="float32").params.dtype == np.float32
    if not isinstance(data, Rows) and kind is np.float64:
        assert minimize_many(center, np.stack([data, data])).params.dtype == kind
        assert jax.jit(lambda: minimize(center, np.asarray(data)).params)().dtype == np.float32
