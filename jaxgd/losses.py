"""Ready-made losses, as a user would write them: `loss(params, data) -> scalar`, a mean over the data.

Estimates of one number take `data` of any shape: `mse`, `mae`, `huber`, `quantile`. The others are regressions and take
`data = (X, y)` with `X` of shape `(n, d)`, `y` of shape `(n,)` and params of shape `(d,)`; other shapes are an error.
Add a column of ones to `X` for an intercept.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Loss = Callable[[Any, Any], jax.Array]


def mse(theta: Any, y: Any) -> jax.Array:
    """Mean squared error; its minimizer is the mean."""
    return jnp.mean((y - theta) ** 2)


def mae(theta: Any, y: Any) -> jax.Array:
    """Mean absolute error; its minimizer is the median."""
    return jnp.mean(jnp.abs(y - theta))


def huber(delta: float = 1.0) -> Loss:
    """Return the mean Huber loss: squared within `delta` > 0 of the data, absolute beyond (Huber 1964)."""
    _check_between("delta", delta, np.inf)

    def loss(theta: Any, y: Any) -> jax.Array:
        return jnp.mean(_huber(y - theta, delta))

    return loss


def quantile(q: float) -> Loss:
    """Return the mean pinball loss; its minimizer is the quantile of level `q`, between 0 and 1."""
    _check_between("q", q, 1)

    def loss(theta: Any, y: Any) -> jax.Array:
        return jnp.mean(jnp.maximum(q * (y - theta), (q - 1) * (y - theta)))

    return loss


def squared(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Half the mean squared residual of a linear regression."""
    X, y = _regression(w, data)
    return jnp.mean((y - jnp.matmul(X, w)) ** 2) / 2


def huber_regression(delta: float = 1.0) -> Loss:
    """Return the mean Huber loss of a linear regression's residuals, `delta` > 0."""
    _check_between("delta", delta, np.inf)

    def loss(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
        X, y = _regression(w, data)
        return jnp.mean(_huber(y - jnp.matmul(X, w), delta))

    return loss


def logistic(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean negative log-likelihood of a logistic regression; `y` is 0 or 1."""
    X, y = _regression(w, data)
    z = jnp.matmul(X, w)
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z)


def softmax(W: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean cross entropy of a multinomial regression; `W` has shape `(d, k)`, `y` holds classes 0 to k - 1."""
    X, y = _regression(W[..., 0], data)
    scores = jnp.matmul(X, W)
    own = jnp.take_along_axis(scores, y[:, None].astype(int), axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - own)


def hinge(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean squared hinge loss; `y` is 0 or 1."""
    X, y = _regression(w, data)
    return jnp.mean(jnp.maximum(0, 1 - (2 * y - 1) * jnp.matmul(X, w)) ** 2)


def poisson(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean negative log-likelihood of a Poisson regression with log link, up to a constant; `y` counts."""
    X, y = _regression(w, data)
    z = jnp.matmul(X, w)
    return jnp.mean(jnp.exp(z) - y * z)


def _regression(w: Any, data: Any) -> tuple[Any, Any]:
    """Return X and y; refuse shapes that do not fit, of which some would broadcast to all pairs of rows."""
    if not (isinstance(data, tuple | list) and len(data) == 2):  # noqa: PLR2004 - X and y
        msg = "`data` of a regression must be a pair (X, y), of shapes (n, d) and (n,). Pass (X, y)."
        raise TypeError(msg)
    X, y = data
    rows, labels, params = np.shape(X), np.shape(y), np.shape(w)
    if len(rows) != 2 or labels != rows[:1]:  # noqa: PLR2004 - rows and columns
        remedy = " Pass `y[:, 0]`." if labels == (*rows[:1], 1) else " Pass `X[:, None]`." if len(rows) == 1 else ""
        msg = f"`data` = (X, y) must have shapes (n, d) and (n,); got {rows} and {labels}.{remedy}"
        raise ValueError(msg)
    if params != rows[1:]:
        msg = (
            f"params must have shape {rows[1:]}, one for each column of X; got {params}. Pass another `init`, or none."
        )
        raise ValueError(msg)
    return X, y


def _check_between(name: str, value: Any, upper: float) -> None:
    """Refuse a number that makes the loss fall without end; one that JAX traces cannot be looked at."""
    if not isinstance(value, Tracer) and not 0 < value < upper:
        msg = f"`{name}` must be above 0{'' if upper == np.inf else f' and below {upper:g}'}; got {value!r}."
        raise ValueError(msg)


def _huber(residual: jax.Array, delta: float) -> jax.Array:
    size = jnp.abs(residual)
    # The book's form: half the square inside, a line of slope delta outside.
    return jnp.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))


LABELS = (  # the lowest and the highest y that ready-made losses take, and the cure for others
    (logistic, 0, 1, "0 or 1. Labels -1 and 1 are (y + 1) / 2"),
    (hinge, 0, 1, "0 or 1. Labels -1 and 1 are (y + 1) / 2"),
    (softmax, 0, np.inf, "classes from 0 on. Number them so: np.unique(y, return_inverse=True)[1]"),
    (poisson, 0, np.inf, "counts, 0 or more"),
)
LIKELIHOODS = (logistic, softmax, poisson)  # negative log-likelihoods as they stand, so that curvature tells errors
