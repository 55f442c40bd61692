"""LAPACK in a loss: whatever it calls, in whatever lanes and on however few threads, the solve comes back."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.linalg import cho_factor, cho_solve, expm, solve_triangular

from jaxgd import Stop, minimize, minimize_many
from jaxgd.core.lapack import NEEDED, one_by_one

RNG = np.random.default_rng(2)
SIZE, LANES = 5, 64
SLOPES, SIDE = RNG.normal(size=(SIZE, SIZE)) / 4, RNG.normal(size=SIZE)

# Each of a matrix whose symmetric part is positive.
CALLS = {
    "cholesky": lambda a: jnp.sum(jnp.linalg.cholesky(a + a.T) ** 2),
    "cho_solve": lambda a: SIDE @ cho_solve(cho_factor(a + a.T), SIDE),
    "solve": lambda a: jnp.sum(jnp.linalg.solve(a, SIDE) ** 2),
    "solve_triangular": lambda a: jnp.sum(solve_triangular(a, SIDE) ** 2),
    "inv": lambda a: jnp.sum(jnp.linalg.inv(a) ** 2),
    "det": lambda a: jnp.log(jnp.linalg.det(a)),
    "slogdet": lambda a: jnp.linalg.slogdet(a)[1],
    "qr": lambda a: jnp.sum(jnp.abs(jnp.diagonal(jnp.linalg.qr(a)[1]))),
    "svd": lambda a: jnp.sum(jnp.linalg.svd(a)[1]),
    "eigh": lambda a: jnp.linalg.eigh(a + a.T)[0][0],
    "lstsq": lambda a: jnp.sum(jnp.linalg.lstsq(a[:, :3], SIDE)[0] ** 2),
    "pinv": lambda a: jnp.sum(jnp.linalg.pinv(a[:, :3]) ** 2),
    "expm": lambda a: jnp.sum(expm(a / 8)),
    "stack": lambda a: jnp.sum(jnp.linalg.slogdet(jnp.stack([a, a.T, 2 * a]))[1]),
}


def loss(x, center, names=tuple(CALLS)):
    """A bowl around (center, -1), bent a little by every call."""
    matrix = (4 + x[0] ** 2) * jnp.eye(SIZE) + jnp.diag(jnp.arange(SIZE)) / 2 + jnp.sin(x[1]) * SLOPES
    bowl = jnp.sum((x - jnp.array([1.0, 0.0]) * center + jnp.array([0.0, 1.0])) ** 2)
    return bowl + 1e-3 * sum(CALLS[name](matrix) for name in names)


PLACES = RNG.uniform(size=(40, 5))
HEIGHTS = np.sin(6 * PLACES[:, 0]) + 0.1 * RNG.normal(size=(LANES, 40))


def surprise(theta, heights):
    """The negative log-likelihood of a Gaussian process; a matrix of this size makes several threads busy at once."""
    apart = jnp.sum((PLACES[:, None] - PLACES) ** 2, -1) * jnp.exp(-2 * theta[0])
    lower = jnp.linalg.cholesky(jnp.exp(-apart / 2) + (jnp.exp(2 * theta[1]) + 1e-8) * jnp.eye(40))
    return heights @ cho_solve((lower, True), heights) / 2 + jnp.sum(jnp.log(jnp.diagonal(lower)))


def come_back():
    """Solve in pools and in the lanes of `vmap`."""
    start, options = np.array([0.0, -1.0]), {"bounds": (-5, 5), "stop": Stop(tol=1e-6)}
    with jax.enable_x64(True):
        many = minimize_many(surprise, HEIGHTS, start, in_axes=(None, 0), **options)
        assert many.converged.all()
        lanes = jax.vmap(lambda heights: minimize(surprise, heights, start, **options).loss)(HEIGHTS[:8])
        assert np.allclose(lanes, many.loss[:8], rtol=1e-4)


def test_in_lanes_it_is_what_it_is_alone():
    places, step = RNG.uniform(-1, 1, size=(3, 2)), 1e-5
    with jax.enable_x64(True):
        slopes = jax.jit(one_by_one(jax.vmap(jax.grad(loss), (0, None))))(places, 0.5)
        for place, slope in zip(places, slopes, strict=True):
            ends = [[loss(place + side * step * axis, 0.5) for side in (1, -1)] for axis in np.eye(2)]
            assert np.allclose(slope, [(up - down) / (2 * step) for up, down in ends], rtol=1e-6, atol=1e-8)


@pytest.mark.skipif(not NEEDED, reason="this jaxlib calls LAPACK for several matrices without waiting")
@pytest.mark.parametrize("name", CALLS)
def test_no_call_is_for_several_matrices(name):
    """Neither in a loss nor in its derivatives, whatever they are batched by."""

    def bent(x):
        return jax.hessian(lambda x: loss(x, 0.0, (name,)))(x)

    text = jax.jit(one_by_one(jax.vmap(bent))).lower(np.ones((3, 2), np.float32)).as_text()
    called = re.findall(r"custom_call @lapack\w+\(.*: \(tensor<((?:\d+x)+)", text)
    assert called
    assert all(shape.count("x") <= 2 for shape in called)


# By this count XLA makes its threads.
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_lanes_come_back_on_so_many_threads(threads):
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"NPROC": str(threads), "OPENBLAS_NUM_THREADS": "1"},
        timeout=150,
        check=False,
        cwd=Path.cwd(),
    )
    assert done.returncode == 0


if __name__ == "__main__":
    come_back()
