"""SciPy's `minimize`, `least_squares` and `curve_fit`, their signatures and results, by the solvers of this package.

Change the import of a script and write its functions in `jax.numpy`. Derivatives that are passed are not used: JAX has
them. All is computed in float64.

>>> import jax.numpy as jnp
>>> from jaxgd.scipy import curve_fit, minimize
>>> result = minimize(lambda x, a: (1 - x[0]) ** 2 + a * (x[1] - x[0] ** 2) ** 2, [-1.2, 1.0], args=(100,))
>>> result.x.round(6).tolist(), result.success
([1.0, 1.0], True)
>>> x = jnp.arange(5.0)
>>> params, covariance = curve_fit(lambda x, a, b: a + b * x, x, [1.1, 2.9, 5.2, 6.8, 9.0])
>>> params.round(2).tolist(), covariance.diagonal().round(4).tolist()
([1.06, 1.97], [0.0182, 0.003])
"""

from jaxgd.scipy.curves import curve_fit, least_squares
from jaxgd.scipy.scalar import minimize

__all__ = ["curve_fit", "least_squares", "minimize"]
