"""Slips that other libraries let pass, or answer wrongly: each is told its cause and its cure."""

import numpy as np
import pytest

from jaxgd import Groups, Rows, losses, minimize, minimize_many

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
