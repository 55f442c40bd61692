"""Each test problem proves itself: its stated minimum, and that it is no quadratic unless it says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import PROBLEMS, value

from jaxgd.core.flat import Layout

IDS = [problem.name for problem in PROBLEMS]


def flat(problem):
    layout = Layout.of(jax.tree.map(jnp.asarray, problem.init))
    return layout, lambda vector: value(problem, layout.unflatten(vector))


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.minimizer is not None], ids=lambda p: p.name)
def test_stated_minimum_is_stationary(problem):
    with jax.enable_x64(True):
        layout, loss = flat(problem)
        at = layout.flatten(problem.minimizer)
        assert np.abs(jax.grad(loss)(at)).max() < 1e-7
        assert np.linalg.eigvalsh(jax.hessian(loss)(at)).min() > 0
        if problem.lowest is not None:
            assert loss(at) == pytest.approx(problem.lowest, abs=1e-12)


@pytest.mark.parametrize("problem", PROBLEMS, ids=IDS)
def test_curvature_is_what_it_says(problem):
    with jax.enable_x64(True):
        layout, loss = flat(problem)
        start = layout.flatten(problem.init)
        one, other = (jax.hessian(loss)(start + move) for move in (0.1, 15.0))
        assert np.allclose(one, other, rtol=1e-9) == problem.quadratic
        if problem.curvature is not None:
            assert np.linalg.eigvalsh(jax.hessian(loss)(start)).max() <= problem.curvature
