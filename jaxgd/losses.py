"""Ready-made losses, as a user would write them: `loss(params, data) -> scalar`, a mean over the data.

Estimates of one number take `data` of any shape: `mse`, `mae`, `huber`, `quantile`. The others are regressions and take
`data = (X, y)` with `X` of shape `(n, d)`, `y` of shape `(n,)` and params of shape `(d,)`. Add a column of ones to `X`
for an intercept.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Loss = Callable[[Any, Any], jax.Array]


def mse(theta: Any, y: Any) -> jax.Array:
    """Mean squared error; its minimizer is the mean."""
    return jnp.mean((y - theta) ** 2)


def mae(theta: Any, y: Any) -> jax.Array:
    """Mean absolute error; its minimizer is the median."""
    return jnp.mean(jnp.abs(y - theta))


def huber(delta: float = 1.0) -> Loss:
    """Return the mean Huber loss: squared within `delta` of the data, absolute beyond (Huber 1964)."""

    def loss(theta: Any, y: Any) -> jax.Array:
        return jnp.mean(_huber(y - theta, delta))

    return loss


def quantile(q: float) -> Loss:
    """Return the mean pinball loss; its minimizer is the quantile of level `q`, between 0 and 1."""

    def loss(theta: Any, y: Any) -> jax.Array:
        return jnp.mean(jnp.maximum(q * (y - theta), (q - 1) * (y - theta)))

    return loss


def squared(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Half the mean squared residual of a linear regression."""
    X, y = data
    return jnp.mean((y - jnp.matmul(X, w)) ** 2) / 2


def huber_regression(delta: float = 1.0) -> Loss:
    """Return the mean Huber loss of a linear regression's residuals."""

    def loss(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
        X, y = data
        return jnp.mean(_huber(y - jnp.matmul(X, w), delta))

    return loss


def logistic(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean negative log-likelihood of a logistic regression; `y` is 0 or 1."""
    X, y = data
    z = jnp.matmul(X, w)
    return jnp.mean(jnp.logaddexp(0.0, z) - y * z)


def softmax(W: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean cross entropy of a multinomial regression; `W` has shape `(d, k)`, `y` holds classes 0 to k - 1."""
    X, y = data
    scores = jnp.matmul(X, W)
    own = jnp.take_along_axis(scores, y[:, None].astype(int), axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - own)


def hinge(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean squared hinge loss; `y` is 0 or 1."""
    X, y = data
    return jnp.mean(jnp.maximum(0, 1 - (2 * y - 1) * jnp.matmul(X, w)) ** 2)


def poisson(w: jax.Array, data: tuple[Any, Any]) -> jax.Array:
    """Mean negative log-likelihood of a Poisson regression with log link, up to a constant; `y` counts."""
    X, y = data
    z = jnp.matmul(X, w)
    return jnp.mean(jnp.exp(z) - y * z)


def _huber(residual: jax.Array, delta: float) -> jax.Array:
    size = jnp.abs(residual)
    # The book's form: half the square inside, a line of slope delta outside.
    return jnp.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))


LIKELIHOODS = (logistic, softmax, poisson)  # negative log-likelihoods as they stand, so that curvature tells errors
