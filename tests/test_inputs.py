"""What goes in wrong is refused by name before anything is compiled; what goes in odd works, or ends honestly."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from problems import BOOK, quadratic

import jaxgd
from jaxgd import LBFGS, GradientDescent, NotConvergedWarning, Status, Stop, minimize
from jaxgd.compile import inputs
from jaxgd.losses import logistic, mse, squared
from jaxgd.solvers.line_search import Nonmonotone, Wolfe

RNG = np.random.default_rng(3)
X = RNG.normal(size=(20, 3))
SLOPES = np.array([1.0, 2.0, 3.0])
Y = X @ SLOPES
CURVATURES = np.logspace(-3, 3, 7)
MIXED = pd.DataFrame({"bill": [1.0, 2.0], "day": ["Sun", "Sat"]})


def fit(w, data):
    return jnp.mean((data["X"] @ w - data["y"]) ** 2)


def wells(x):
    return (x**2 - 1) ** 2


def with_exp(theta, y):
    return jnp.mean(y) * np.exp(theta)


def with_if(x):
    if x > 0:
        return x**2
    return -x


def closing_over_numpy(theta):
    return jnp.sum(np.asarray(theta) ** 2)


def dated(values):
    return pd.Series(pd.to_datetime(values))


class Tensor:
    """An array of another library: all that is known of it is `__array__`."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype, copy=copy)


def refused(kind, words, call):
    """Check that the call raises with these words, notes included."""
    with pytest.raises(kind) as caught:
        call()
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    missing = [word for word in words if word not in text]
    assert not missing, text


def unsolved(status, *args, **options):
    """Return the result of a solve that must warn, and end with `status`."""
    with pytest.warns(NotConvergedWarning, match=status.name) as warned:
        result = minimize(*args, **options)
    assert result.status is status
    assert len(warned) == 1
    with pytest.raises(jaxgd.NotConverged, match=re.escape(result.message)):
        result.check()
    return result


# Each row: the error, the words it must hold, and the arguments.
LOSSES = {
    "number": (TypeError, ["`loss`", "function of (params, data)", "got 3"], (3, BOOK)),
    "none": (TypeError, ["`loss`", "function", "None"], (None, BOOK)),
    "vector": (TypeError, ["one number", "shape (5,)", "mean or sum"], (lambda t, y: y - t, BOOK)),
    "tuple": (TypeError, ["tuple of length 2", "has_aux=True"], (lambda t, y: (mse(t, y), t), BOOK)),
    "integer": (TypeError, ["real float", "int", "floats"], (lambda t, y: jnp.sum(y > t), BOOK)),
    "complex": (TypeError, ["real float", "complex", "real part"], (lambda t, y: mse(t, y) * 1j, BOOK)),
    "no return": (TypeError, ["one number", "NoneType", "return"], (lambda *_: None, BOOK)),
    "string": (TypeError, ["one number", "a str"], (lambda *_: "low", BOOK)),
    "no place for data": (TypeError, ["`data` was given", "loss(params, data)"], (lambda t: t**2, BOOK)),
    "no data": (TypeError, ["mse", "no `data` was given", "loss(params)"], (mse,)),
    "numpy": (TypeError, ["with_exp", "np.exp", "jnp.exp", "import jax.numpy"], (with_exp, BOOK)),
    "numpy with init": (TypeError, ["np.asarray", "jnp.asarray"], (closing_over_numpy, None, 1.0)),
    "if": (TypeError, ["with_if", "if x > 0", "jnp.where"], (with_if,)),
    "if with init": (TypeError, ["with_if", "if x > 0", "jnp.where"], (with_if, None, 1.0)),
    "constant": (TypeError, ["does not depend", "first argument"], (lambda *args: jnp.mean(args[1]), BOOK)),
    "python number": (TypeError, ["does not depend", "first argument"], (lambda *_: 3.0, BOOK)),
}
AUX = {
    "no pair": (["(value, aux)", "has_aux=True", "array of shape ()"], mse),
    "three": (["(value, aux)", "tuple of length 3"], lambda t, y: (mse(t, y), 1, 2)),
    "swapped": (["one number", "shape (5,)"], lambda t, y: (y - t, mse(t, y))),
    "string": (["aux", "'low'"], lambda t, y: (mse(t, y), "low")),
}
DATA = {
    "empty list": (ValueError, ["`data`", "empty", "(0,)", "at least one"], []),
    "empty array": (ValueError, ["`data`", "empty", "(0, 3)"], np.zeros((0, 3))),
    "empty dict": (ValueError, ["`data`", "no numbers", "{}"], {}),
    "ragged": (ValueError, ["`data`", "equal lengths"], [[1.0, 2.0], [3.0]]),
    "ragged leaf": (ValueError, ["data['X']", "equal lengths"], {"X": [[1.0, 2.0], [3.0]]}),
    "two lists": (ValueError, ["`data`", "tuple or a dict"], [X.tolist(), Y.tolist()]),
    "strings": (TypeError, ["`data`", "<U1", "Encode"], ["a", "b"]),
    "string": (TypeError, ["`data`", "str", "only numbers"], "abc"),
    "objects": (TypeError, ["data['y'][1]", "object"], {"y": (1.0, np.array([{}, None]))}),
    "missing": (TypeError, ["`data`", "object"], [1.0, None]),
    "dates": (TypeError, ["`data`", "datetime64"], dated(["2020-01-01"])),
    "column": (TypeError, ["data['day']", "Encode or drop"], MIXED),
    "column of a leaf": (TypeError, ["data['X']['day']", "Encode or drop"], {"X": MIXED}),
    "category": (TypeError, ["`data`", "object"], pd.Series(["a", "b"], dtype="category")),
    "generator": (TypeError, ["`data`", "generator", "list"], (float(i) for i in range(3))),
    "set": (TypeError, ["`data`", "set", "list"], {1.0, 2.0}),
}
STARTS = {
    "boolean": (TypeError, ["`init`", "boolean", "floats"], (mse, BOOK, True)),
    "boolean leaf": (TypeError, ["init['a']", "boolean"], (mse, BOOK, {"a": [True]})),
    "string": (TypeError, ["`init`", "only numbers"], (mse, BOOK, "zero")),
    "no leaf": (ValueError, ["`init`", "{}", "at least one"], (mse, BOOK, {})),
    "empty": (ValueError, ["`init`", "[]", "at least one"], (mse, BOOK, [])),
    "shape": (TypeError, ["(3,)", "`init`", "[4]", "Pass an `init`"], (fit, {"X": X, "y": Y}, np.zeros(4))),
    "structure": (TypeError, ["string index", "`init`", "[2]"], (lambda p: p["a"] ** 2, None, np.zeros(2))),
    "none fits": (ValueError, ["Pass `init`", "scalar 0", "shape (5,)"], (lambda p, y: mse(p["a"], y), BOOK)),
    "several fit": (
        ValueError,
        ["several shapes", "(3,), (4,)", "Pass `init`"],
        (lambda p, d: jnp.sum((p[:1] - d[0]) ** 2) + jnp.sum(p[0] * d[1]), (np.zeros(3), np.zeros((2, 4)))),
    ),
}
OPTIONS = {
    "tol zero": (ValueError, ["`tol`", "positive", "got 0"], lambda: {"tol": 0}),
    "tol negative": (ValueError, ["`tol`", "positive", "-1.0"], lambda: {"tol": -1.0}),
    "tol nan": (ValueError, ["`tol`", "positive", "nan"], lambda: {"tol": float("nan")}),
    "tol string": (TypeError, ["`tol`", "'1e-3'", "number"], lambda: {"tol": "1e-3"}),
    "two rules": (ValueError, ["`tol=0.001`", "`stop=", "both", "Stop(tol="], lambda: {"tol": 1e-3, "stop": Stop()}),
    "stop number": (TypeError, ["`stop`", "jaxgd.Stop", "0.001", "tol=0.001"], lambda: {"stop": 1e-3}),
    "stop dict": (TypeError, ["`stop`", "jaxgd.Stop", "{'tol': 1}"], lambda: {"stop": {"tol": 1}}),
    "stop class": (TypeError, ["`stop`", "jaxgd.Stop"], lambda: {"stop": Stop}),
    "no evals": (ValueError, ["`max_evals`", "at least 1", "got 0"], lambda: {"stop": Stop(max_evals=0)}),
    "half an eval": (ValueError, ["`max_evals`", "at least 1", "0.5"], lambda: {"stop": Stop(max_evals=0.5)}),
    "string evals": (TypeError, ["`max_evals`", "'10'"], lambda: {"stop": Stop(max_evals="10")}),
    "string gtol": (TypeError, ["`gtol`", "'a'"], lambda: {"stop": Stop(gtol="a")}),
    "misspelt": (ValueError, ["`method`", "'lbgfs'", "nearest is 'lbfgs'"], lambda: {"method": "lbgfs"}),
    "of scipy": (ValueError, ["`method`", "'SLSQP'", "constraints are"], lambda: {"method": "SLSQP"}),
    "optax": (TypeError, ["`method`", "adam", "init", "step", "'auto'"], lambda: {"method": optax.adam}),
    "class": (TypeError, ["`method`", "GradientDescent", "GradientDescent("], lambda: {"method": GradientDescent}),
    "function": (TypeError, ["`method`", "LBFGS", "LBFGS("], lambda: {"method": LBFGS}),
    "none": (TypeError, ["`method`", "None", "'auto'"], lambda: {"method": None}),
    "memory": (ValueError, ["`memory`", "positive integer", "0"], lambda: {"method": LBFGS(0)}),
    "beta": (ValueError, ["`beta`", "'hager-zhang' or", "'fr'"], lambda: {"method": jaxgd.ConjugateGradient("fr")}),
    "half": (ValueError, ["`dtype`", "'float32' or 'float64'", "'float16'"], lambda: {"dtype": "float16"}),
    "no dtype": (ValueError, ["`dtype`", "'float32' or 'float64'", "'float65'"], lambda: {"dtype": "float65"}),
    "dtype list": (ValueError, ["`dtype`", "'float32' or 'float64'", "[1]"], lambda: {"dtype": [1]}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss(name):
    kind, words, args = LOSSES[name]
    refused(kind, ["`loss`", *words], lambda: minimize(*args))


@pytest.mark.parametrize("name", AUX)
@pytest.mark.parametrize("init", [None, 0.0])
def test_no_aux(name, init):
    words, loss = AUX[name]
    refused(TypeError, ["`loss`", *words], lambda: minimize(loss, BOOK, init, has_aux=True))


@pytest.mark.parametrize("name", DATA)
def test_no_data(name):
    kind, words, data = DATA[name]
    refused(kind, words, lambda: minimize(mse, data))


@pytest.mark.parametrize("name", STARTS)
def test_no_start(name):
    kind, words, args = STARTS[name]
    refused(kind, words, lambda: minimize(*args))


@pytest.mark.parametrize("name", OPTIONS)
def test_no_option(name):
    kind, words, make = OPTIONS[name]
    refused(kind, words, lambda: minimize(mse, BOOK, **make()))


@pytest.mark.parametrize("size", [0, 0.0, -1.0, float("nan"), float("inf"), np.float64(0), np.zeros(()), jnp.zeros(())])
def test_no_step_size(size):
    refused(ValueError, ["`stepsize`", "positive and finite"], lambda: GradientDescent(size))


@pytest.mark.parametrize("size", ["a", None, np.array([0.1, 0.2])])
def test_no_step_size_at_all(size):
    refused((TypeError, ValueError), ["`stepsize`"], lambda: minimize(mse, BOOK, method=GradientDescent(size)))


@pytest.mark.parametrize("args", [LOSSES["vector"][2], DATA["ragged"][2:], STARTS["none fits"][2]])
def test_nothing_is_compiled_for_what_is_refused(args, monkeypatch):
    """The record of the loss is all that is made: no program."""
    monkeypatch.setattr("jaxgd.compile.build.Program", None)
    with pytest.raises((TypeError, ValueError), match=r"must return one number|equal lengths|Pass `init`"):
        minimize(*(args if callable(args[0]) else (mse, *args)))


@pytest.mark.parametrize(
    ("data", "init", "leaf"),
    [
        ({"X": X, "y": np.where(Y < 0, np.nan, Y)}, None, "data['y']"),
        ({"X": np.where(X < 0, np.inf, X), "y": Y}, np.zeros(3), "data['X']"),
        ({"X": X, "y": Y}, np.array([0, np.nan, 0]), "`init`"),
    ],
)
def test_not_finite(data, init, leaf):
    assert leaf in unsolved(Status.BAD_START, fit, data, init).message


def test_not_finite_leaf_of_init():
    result = unsolved(Status.BAD_START, lambda p: p["a"] ** 2 + p["b"] ** 2, init={"a": np.inf, "b": 1.0})
    assert "init['a']" in result.message
    assert "init['b']" not in result.message


def test_finite_inputs_are_not_blamed():
    result = unsolved(Status.BAD_START, jnp.log, init=0.0)
    assert "Not finite" not in result.message
    assert "Pass another `init`" in result.message


VALUES = {
    "list": BOOK.tolist(),
    "jax": jnp.asarray(BOOK),
    "series": pd.Series(BOOK, index=list("abcde")),
    "nullable": pd.Series(BOOK, dtype="Float64"),
    "tensor": Tensor(BOOK),
    "rows": BOOK[:, None].tolist(),
    "numpy scalars": list(BOOK),
    "float32": BOOK.astype(np.float32),
    "column": pd.DataFrame({"tip": BOOK}),
}


@pytest.mark.parametrize("name", VALUES)
def test_data_of_any_make(name):
    assert np.isclose(minimize(mse, VALUES[name]).check().params, BOOK.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [np.asarray, jnp.asarray, np.ndarray.tolist, pd.DataFrame, Tensor],
    ids=["numpy", "jax", "list", "pandas", "tensor"],
)
@pytest.mark.parametrize("pair", [tuple, dict, list])
def test_data_of_two_parts(make, pair):
    y = pd.Series(Y) if make is pd.DataFrame else make(Y)
    if pair is dict:
        result = minimize(fit, {"X": make(X), "y": y})
    elif pair is list and make is np.ndarray.tolist:
        pytest.skip("a list of lists is one array")
    else:
        result = minimize(squared, pair((make(X), y)))
    assert np.allclose(result.check().params, SLOPES, atol=1e-4)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("init", [None, 0])
def test_data_in_half_precision(kind, init):
    result = minimize(mse, jnp.asarray(BOOK, kind), init)
    assert result.check().params.dtype == jnp.float32
    assert np.isclose(result.params, BOOK.mean(), rtol=1e-2)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_start_in_half_precision(kind):
    assert np.isclose(minimize(mse, BOOK, jnp.zeros((), kind)).check().params, BOOK.mean(), rtol=1e-2)


def test_data_frame_of_several_types():
    frame = pd.DataFrame({"tip": [1.0, 2.0, 4.0], "smoker": [True, False, True], "size": [2, 3, 4]})
    minimum = minimize(lambda w, X: jnp.mean((X - w) ** 2), frame, np.zeros(3)).check().params
    assert np.allclose(minimum, [7 / 3, 2 / 3, 3], rtol=1e-4)


@pytest.mark.parametrize("data", [[1, 2, 3], [True, False], 3, range(5), np.array([1, 2], np.uint8)])
def test_data_without_floats(data):
    assert np.isclose(minimize(mse, data).check().params, np.mean(data))


@pytest.mark.parametrize("init", [0, np.int8(0), [0, 0], {"a": {"b": 0}, "c": [0.0, np.zeros(2)]}, pd.Series([0, 0])])
def test_start_of_any_make(init):
    result = minimize(lambda p: sum(jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(p)), init=init).check()
    leaves = jax.tree.leaves(result.params)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) and np.allclose(leaf, 1, atol=1e-4) for leaf in leaves)
    if isinstance(init, dict):
        assert jax.tree.structure(result.params) == jax.tree.structure(init)


@dataclasses.dataclass
class Model:
    y: Any

    def loss(self, theta):
        return mse(theta, self.y)


class Called:
    def __init__(self, y):
        self.y = y

    def __call__(self, theta):
        return mse(theta, self.y)


def jitted(y):
    return jax.jit(lambda theta: mse(theta, y))


MAKERS = {
    "lambda": lambda y: lambda theta: mse(theta, y),
    "method": lambda y: Model(y).loss,
    "instance": Called,
    "partial": lambda y: functools.partial(mse, y=y),
    "jitted": jitted,
    "partial of jitted": lambda y: functools.partial(jax.jit(mse), y=y),
    "cached": lambda y: functools.lru_cache(lambda theta: mse(theta, y)),
    "default": lambda y: lambda theta, y=y: mse(theta, y),
    "list": lambda y: lambda theta, z=list(y): mse(theta, jnp.array(z)),
    "dict": lambda y: lambda theta, z={"y": y}: mse(theta, z["y"]),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_loss_of_any_make(name, kind):
    for shift in (0, 1):  # the second must not see the first one's array
        loss = MAKERS[name](kind(BOOK + shift))
        assert np.isclose(minimize(loss).check().params, BOOK.mean() + shift, rtol=1e-5)


def test_jitted_loss_with_data():
    assert np.isclose(minimize(jax.jit(mse), BOOK).check().params, BOOK.mean(), rtol=1e-5)


VALUES_NOW = np.array([1.0, 2.0, 3.0])
LABELS = np.array([0, 1, 1, 2])
CENTRE = 2.0


def to_values(theta):
    return jnp.mean((VALUES_NOW - theta) ** 2)


def to_labels(theta):
    return sum((theta - float(label)) ** 2 for label in np.unique(LABELS))


def to_centre(theta):
    return (theta - CENTRE) ** 2


@pytest.mark.parametrize(
    ("loss", "name", "values"),
    [
        (to_values, "VALUES_NOW", [np.array([1.0, 3.0]), np.array([1.0, 3.0, 8.0]), jnp.array([5.0, 7.0])]),
        (to_labels, "LABELS", [np.array([0, 1, 1, 2]), np.array([5, 6, 7, 7])]),
        (to_centre, "CENTRE", [2.0, 7.0, -1]),
    ],
)
def test_a_global_set_anew_is_seen(monkeypatch, loss, name, values):
    for value in values:
        monkeypatch.setitem(globals(), name, value)
        assert np.isclose(minimize(loss).check().params, np.mean(np.unique(value)), rtol=1e-5)


@pytest.mark.parametrize("unique", [False, True])
def test_an_array_changed_in_place_is_seen(unique):
    held = np.array([1.0, 2.0, 2.0, 6.0])

    def loss(theta):
        return jnp.mean(((np.unique(held) if unique else held) - theta) ** 2)

    for _ in range(2):
        assert np.isclose(minimize(loss).check().params, np.mean(np.unique(held) if unique else held), rtol=1e-5)
        held[0] = 4.0


@pytest.mark.parametrize(
    "names", [np.array(["a", "b"]), np.array(["a", None, BOOK], object), np.array(["NaT"], "M8[s]")]
)
def test_arrays_that_jax_does_not_have_may_be_closed_over(names):
    held = {"names": names, "y": BOOK}

    def loss(theta):
        return mse(theta, held["y"]) * len(held["names"])

    assert np.isclose(minimize(loss).check().params, BOOK.mean(), rtol=1e-5)
    held["names"] = names.copy()
    result = minimize(loss)
    assert np.isclose(result.params, BOOK.mean(), rtol=1e-5)
    assert result.seconds.compile == 0


def test_what_jax_may_remember_is_never_the_users_own_object():
    """JAX 0.12 may take an array of float64 that it has seen in one setting for what it was there in the other."""
    wide = np.array(0.0)
    for on in (False, True):
        with jax.enable_x64(on):
            own = inputs.as_jax_has_them({"a": wide})["a"]
        assert own is not wide
        assert own.dtype == (np.float64 if on else np.float32)
        assert np.shares_memory(own, wide) == on


def test_values_that_are_traced_cannot_be_read():
    def solve(held):
        return minimize(lambda theta: jnp.sum((np.unique(held) - theta) ** 2)).params

    refused(TypeError, ["`loss`", "np.unique", "jnp.unique"], lambda: jax.jit(solve)(BOOK))


def test_inside_jit_and_vmap():
    def solve(y):
        return minimize(mse, y)

    def closed(y):
        return minimize(lambda theta: mse(theta, y)).params

    both = np.stack([BOOK, BOOK + 1])
    assert np.isclose(jax.jit(closed)(BOOK), BOOK.mean())
    assert np.isclose(jax.jit(solve)(BOOK).check().params, BOOK.mean())
    assert np.allclose(jax.vmap(closed)(both), both.mean(1))
    lanes = jax.vmap(solve)(both)
    assert np.allclose(lanes.check().params, both.mean(1))
    assert "2 CONVERGED" in str(lanes)


@pytest.mark.parametrize("transform", [jax.jit, lambda solve: lambda y: jax.vmap(solve)(y[None])])
@pytest.mark.parametrize("option", ["trace", "progress"])
def test_options_inside_jit_and_vmap(transform, option):
    result = transform(lambda y: minimize(mse, y, **{option: True}))(BOOK)
    assert np.isclose(result.params, BOOK.mean())
    if option == "trace":
        assert np.all(result.trace.count == np.asarray(result.moves) + 1)


@pytest.mark.parametrize(
    ("loss", "init"),
    [
        (jnp.sum, np.zeros(3)),
        (jnp.sum, np.zeros(1)),
        (lambda x: x**3, None),
        (lambda x: x**3, -1.0),
        (lambda x: -(x**2), 1.0),
        (lambda x: -jnp.exp(x), 1.0),
        (lambda x: jnp.exp(-x) - x, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unbounded(loss, init, dtype):
    result = unsolved(Status.UNBOUNDED, loss, None, init, dtype=dtype)
    assert "no minimum" in result.message
    assert "penalty" in result.message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
def test_no_minimum_is_never_converged(dtype):
    """The status depends on where the curvature underflows."""
    assert not minimize(lambda x: -jnp.log(x), init=50.0, dtype=dtype).converged


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_not_a_number_on_part_of_the_space(dtype):
    result = minimize(lambda x: x - jnp.log(x), init=50.0, dtype=dtype).check()
    assert np.isclose(result.params, 1, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1.5, 5.0, 1e30])
def test_steps_that_diverge(size, dtype):
    result = unsolved(Status.DIVERGED, mse, BOOK, method=GradientDescent(size), dtype=dtype)
    assert result.params == 0
    assert np.isclose(result.loss, np.mean(BOOK**2))
    assert "smaller step size" in result.message
    assert "method='auto'" in result.message


@pytest.mark.parametrize("size", [1e-9, 1e-7, lambda count: 0.1 * 0.5**count], ids=["1e-9", "1e-7", "vanishing"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
def test_steps_too_small_are_not_convergence(size, dtype):
    assert not minimize(mse, BOOK, method=GradientDescent(size), dtype=dtype).converged


@pytest.mark.parametrize("init", [None, 3.0])
def test_one_evaluation(init):
    result = unsolved(Status.MAX_EVALS, mse, BOOK, init, stop=Stop(max_evals=1))
    assert (result.params, result.evals, result.moves) == (init or 0, 1, 0)
    assert np.isclose(result.loss, np.mean((BOOK - (init or 0)) ** 2))
    assert "max_evals" in result.message


@pytest.mark.parametrize(
    ("loss", "data", "method"),
    [
        (mse, BOOK, "auto"),
        (squared, (X, Y), "auto"),
        (logistic, (X, (Y + RNG.normal(size=20) * 3 > 0) * 1.0), "auto"),
        (mse, BOOK, GradientDescent(0.2)),
        (logistic, (X, (Y + RNG.normal(size=20) * 3 > 0) * 1.0), GradientDescent(0.2)),
    ],
)
def test_tol_out_of_reach_ends_at_the_floor(loss, data, method):
    """Also where the loss falls to 0, so that its own size says nothing of rounding."""
    result = minimize(loss, data, method=method, tol=1e-30, dtype="float32")
    assert result.status in (Status.PRECISION_FLOOR, Status.CONVERGED)


@pytest.mark.parametrize(
    ("scale", "shift", "dtype", "atol"),
    [
        (1, 0, "float32", 0.03),
        (1e-8, 0, "float32", 0.03),
        (1e8, 0, "float32", 0.03),
        (1, 0, "float64", 1e-3),
        (1e-8, 0, "float64", 1e-3),
        (1e8, 0, "float64", 1e-3),
        (1, 1e6, "float64", 1e-3),
    ],
)
def test_scaled_and_shifted_losses(scale, shift, dtype, atol):
    """Curvatures from 1e-3 to 1e3; the default `tol` allows errors of 0.01 in float32, and 1e-4 in float64."""
    scale, shift = np.array(scale, dtype), np.array(shift, dtype)  # no part of the program
    result = minimize(lambda x, c: scale * quadratic(x, c) + shift, CURVATURES, np.zeros(7), dtype=dtype).check()
    assert np.allclose(result.params, 1, rtol=0, atol=atol)


@pytest.mark.parametrize("factor", [1e-25, 1e25, 1e30])
def test_losses_whose_squared_gradient_leaves_the_range_of_float32(factor):
    factor = np.array(factor, "float32")  # no part of the program
    result = minimize(lambda t, y: factor * mse(t, y), BOOK, dtype="float32").check()
    assert np.isclose(result.params, BOOK.mean(), rtol=1e-3)


@pytest.mark.parametrize("method", ["lbfgs", GradientDescent(0.05)], ids=["lbfgs", "gradient"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_start_at_a_maximum(method, dtype):
    result = minimize(wells, init=0.0, method=method, dtype=dtype).check()
    assert np.isclose(abs(result.params), 1, atol=1e-3)
    assert "exactly zero at the start" in result.message


def test_start_at_a_saddle():
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, init=np.zeros(2)).check()
    assert np.allclose(abs(result.params), [0, np.sqrt(0.5)], atol=1e-3)


def test_start_at_a_maximum_inside_jit_and_vmap():
    """Nobody can look again there: the status says so, unless the method sees the curvature."""
    starts = np.array([-2.0, 0.0, 2.0])
    assert jax.jit(lambda x: minimize(wells, init=x, method="lbfgs").status)(0.0) == Status.ZERO_GRADIENT
    lanes = jax.vmap(lambda x: minimize(wells, init=x, method="lbfgs"))(starts)
    assert lanes.converged.tolist() == [True, False, True]
    lanes = jax.vmap(lambda x: minimize(wells, init=x, method="newton"))(starts)
    assert lanes.converged.all()
    assert np.allclose(abs(lanes.params), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("loss", "data", "init"),
    [(mse, np.zeros(5), None), (mse, BOOK, BOOK.mean()), (quadratic, CURVATURES, np.ones(7)), (wells, None, 1.0)],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_start_at_the_minimum(loss, data, init, dtype):
    result = minimize(loss, data, init, dtype=dtype).check()
    assert np.allclose(result.params, 0 if init is None else init, rtol=1e-6, atol=0)


def endless(x):
    """A sum whose number of terms hangs on x: JAX has no reverse mode for its loop."""
    return jax.lax.while_loop(lambda at: at[1] < 3 + 0 * x, lambda at: (at[0] + (x - 2) ** 2, at[1] + 1), (0 * x, 0.0))[
        0
    ]


@pytest.mark.parametrize("method", ["auto", "lbfgs"])
def test_a_loss_without_reverse_mode_goes_forward(method):
    result = jaxgd.minimize(lambda w: endless(w[0]) + (w[1] - 1) ** 2, init=jnp.zeros(2), method=method)
    assert result.converged
    assert np.allclose(result.params, [2, 1], atol=1e-3)


@pytest.mark.parametrize("products", [False, True])
def test_residuals_without_reverse_mode_go_forward(products):
    method = jaxgd.LevenbergMarquardt(products=products)
    result = jaxgd.least_squares(lambda w: jnp.stack([endless(w[0]) - 3, w[1] - 1]), init=jnp.zeros(2), method=method)
    assert result.loss < 1e-9
    assert np.allclose(result.params, [1, 1], atol=1e-4)
    moved = jax.jacfwd(lambda a: jaxgd.minimize(lambda w: endless(w) + (w - a) ** 2, init=0.0).params)(2.0)
    assert moved == pytest.approx(0.25)


def test_one_residual_is_a_vector_of_one():
    assert float(jaxgd.least_squares(lambda x: x - 3.0, init=1.0).params) == 3
    assert float(jaxgd.least_squares(lambda x, a: 2 * x - a, 3.0).params) == pytest.approx(1.5)


def test_a_result_is_true():
    one = jaxgd.minimize(lambda x: (x - 1) ** 2)
    many = jaxgd.minimize_many(lambda x, a: (x - a) ** 2, np.arange(2.0))
    assert one
    assert many
    assert many[0]


@pytest.mark.parametrize(
    ("search", "name", "value"),
    [
        *((Wolfe, "curvature", value) for value in (2, 1.0, 1e-5, -1, "a", True, np.nan)),
        *((Wolfe, "sufficient", value) for value in (0, -1, 2, np.nan)),
        *((Wolfe, "growth", value) for value in (1, 0.5, np.inf)),
        *((kind, "max_trials", value) for value in (0, 1.5, True) for kind in (Wolfe, Nonmonotone)),
        *((Nonmonotone, "sufficient", value) for value in (0, 1)),
        (Nonmonotone, "window", 0),
    ],
)
def test_a_search_refuses_what_finds_no_step(search, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*; got {value!r}"):
        search(**{name: value})
