"""Each predicate of a verdict, on evidence made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgd.core import convergence
from jaxgd.core.convergence import MANY, PATIENCE, WINDOW, Evidence, Facts
from jaxgd.core.problem import Point

EPS = float(jnp.finfo("float32").eps)
PARAMS, GRAD = np.array([1.0, 2.0]), np.array([0.1, 0.0])


def point(loss=1.0, *, params=PARAMS, grad=GRAD):
    """Return a point without a term."""
    vectors = jnp.asarray(np.stack([params, grad]), "float32")
    size, blur = np.sum(np.abs(grad)), np.sum(np.abs(params * grad))
    scalars = jnp.asarray([loss, np.linalg.norm(grad), size, blur, np.sum(np.abs(params))], "float32")
    return Point(vectors, scalars, ())


def seen(**fields):
    """Return evidence of a solve that has come from 2 to 1 in quiet, but for what is given."""
    calm = dict.fromkeys(Evidence._fields, 0.0) | {"first": 2.0, "decrease": 1.0, "lately": 0.5}
    return Evidence(**calm | {"recent": (jnp.inf,) * (2 * WINDOW)} | fields)


def facts(**fields):
    """Return what a step showed that led nowhere, but for what is given."""
    here = point()
    still = dict.fromkeys(Facts._fields, 0.0) | {"before": here, "point": here, "trial": here, "best": here}
    still |= {
        "moved": np.False_,
        "full_hessian": False,
        "bare": True,
        "stuck": np.False_,
        "saddle": np.False_,
        "lost": np.False_,
    }
    return Facts(**still | {"ahead": None, "largest": None, "change": None} | fields)


def test_a_change_beyond_what_the_slopes_allow_is_rounding():
    assert convergence.noise_seen(facts(slope_decrease=0.1, slopes=0.3), jnp.float32(0.3)) == 0
    assert convergence.noise_seen(facts(slope_decrease=0.1, slopes=0.3), jnp.float32(0.7)) == pytest.approx(0.6)
    assert convergence.noise_seen(facts(slope_decrease=0.1, slopes=0.3), jnp.float32(jnp.inf)) == 0


def test_the_trend_is_a_geometric_series():
    halving = tuple(0.5**k for k in range(5, -1, -1))  # newest first
    rest = sum(0.5**k for k in range(6, 60))
    assert convergence.trend(halving) == pytest.approx(rest)
    assert convergence.trend((1.0,) * (2 * WINDOW)) == jnp.inf
    assert convergence.trend((jnp.inf,) * (2 * WINDOW)) == jnp.inf


def test_on_a_parabola_what_is_left_falls_with_the_square_of_the_slope():
    assert convergence.as_shrunk(seen(lately=8.0, max_grad_norm=2.0), 0.5) == 0.5
    assert convergence.as_shrunk(seen(lately=8.0, max_grad_norm=0.0), 0.5) == 2.0


def test_a_floor_takes_patience_or_a_search_that_is_stuck():
    waited, left = seen(stalled_evals=PATIENCE, predicted_remaining=EPS / 4, model=EPS / 4), {"exact_curvature": True}
    assert convergence.at_floor(waited, facts(), **left)
    assert not convergence.at_floor(waited._replace(stalled_evals=PATIENCE - 1), facts(), **left)
    assert convergence.at_floor(waited._replace(stalled_evals=0), facts(stuck=np.True_), **left)
    assert not convergence.at_floor(waited, facts(before=point(1.1)), **left)
    assert not convergence.at_floor(waited._replace(predicted_remaining=0.1, model=0.1), facts(stuck=np.True_), **left)


def test_nothing_is_known_of_a_floor_where_the_model_has_no_minimum():
    stuck = facts(stuck=np.True_)
    assert not convergence.at_floor(seen(predicted_remaining=jnp.inf, model=jnp.inf), stuck, exact_curvature=True)


def test_one_param_is_pinned_by_refused_trials():
    stuck = facts(stuck=np.True_, norm=jnp.float32(1))
    assert convergence.pinned(seen(stalled_evals=2.0), stuck, 1)
    assert not convergence.pinned(seen(stalled_evals=2.0), stuck, 2)
    assert not convergence.pinned(seen(stalled_evals=1.0), stuck, 1)
    assert not convergence.pinned(seen(stalled_evals=2.0), stuck._replace(norm=jnp.float32(1e34)), 1)


def test_a_test_step_refutes_a_claim_that_it_beats():
    assert convergence.refuted(seen(), jnp.float32(1e-6), facts(trial=point(0.9)))
    assert not convergence.refuted(seen(), jnp.float32(1.0), facts(trial=point(0.9)))
    assert not convergence.refuted(seen(), jnp.float32(0.0), facts(trial=point(1 - EPS)))


def test_a_test_step_that_overshoots_tells_the_minimum_along_it():
    # The loss 1 + 50 (x - 0.02)^2 over a step from 0 to 0.1: its slopes are -2 and 8, and it falls by 0.02 on the way.
    over = facts(trial=point(1.3), slope=jnp.float32(-0.2), trapezoid=jnp.float32(-0.3))
    assert convergence.refuted(seen(), jnp.float32(1e-3), over)
    assert not convergence.refuted(seen(), jnp.float32(0.01), over)
    assert not convergence.refuted(seen(), jnp.float32(1e-3), over._replace(bare=False))
    # Of a concave loss the slopes tell no minimum.
    assert not convergence.refuted(seen(), jnp.float32(1e-3), over._replace(trapezoid=jnp.float32(0.3)))


def test_slopes_of_a_kink_do_not_tell_how_the_loss_changed():
    kink = facts(trial=point(1.1), trapezoid=jnp.float32(-0.02), slope=jnp.float32(-0.06))  # the slope after it is 0.1
    assert convergence.on_a_kink(seen(), kink)
    assert convergence.on_a_kink(seen(), kink._replace(trapezoid=jnp.float32(-0.08), slope=jnp.float32(0.06)))
    parabola = facts(trial=point(1.02), trapezoid=jnp.float32(-0.02), slope=jnp.float32(-0.06))
    assert not convergence.on_a_kink(seen(), parabola)
    quartic = facts(trial=point(1.1), trapezoid=jnp.float32(-0.2), slope=jnp.float32(-1e-4))
    assert not convergence.on_a_kink(seen(), quartic)
    assert not convergence.on_a_kink(seen(), kink._replace(bare=False))


def test_moves_that_do_not_shrink_are_on_a_ray():
    even = seen(lowered=float(MANY), last=1.0, path=float(MANY))
    assert convergence.on_a_ray(even, facts())
    assert not convergence.on_a_ray(even._replace(last=0.1), facts())
    assert not convergence.on_a_ray(even._replace(lowered=MANY - 1.0), facts())
    assert not convergence.on_a_ray(even, facts(ahead=0.1))


def test_a_loss_no_higher_and_flat_far_ahead_has_no_minimum_on_the_way():
    assert convergence.flat_ahead(seen(), facts(trial=point(1.0)))
    assert convergence.flat_ahead(seen(), facts(trial=point(0.5), slope=0.2, trapezoid=-0.1))
    assert not convergence.flat_ahead(seen(), facts(trial=point(1.1)))
    assert not convergence.flat_ahead(seen(), facts(trial=point(0.5), slope=0.1))  # the slope there is -0.1
    assert not convergence.flat_ahead(seen(), facts(trial=point(jnp.nan)))


def test_what_a_model_does_not_tell_is_not_taken_from_before():
    here = {
        "moves": jnp.int32(3),
        "slope_decrease": jnp.float32(0),
        "slopes": jnp.float32(1),
        "predicted_remaining": jnp.float32(jnp.inf),
    }
    for moved in (False, True):
        after = convergence.weigh(
            seen(predicted_remaining=1e-9, model=1e-9),
            facts(moved=np.bool_(moved), **here),
            None,
            0.01,
            exact_curvature=True,
        )
        assert after.predicted_remaining == after.model == jnp.inf
        assert not convergence.at_floor(after, facts(stuck=np.True_), exact_curvature=True)
