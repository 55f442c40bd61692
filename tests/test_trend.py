"""A long solve that fades is ended, and says so; one that converges, or is told when to stop, is not."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_watch import same

from jaxgd import GradientDescent, Status, Stop, minimize
from jaxgd.watch import bursts, trend
from jaxgd.watch.trend import Trend

LIMIT = 10_000
UNITS = st.floats(-30, 30).map(lambda power: 10.0**power)


def ended_after(loss_after, *, work=10**9, known=()):
    """Return after how many evaluations losses are ended, or None."""
    told = Trend(work, LIMIT, known)
    for evals in (1 << doublings for doublings in range(14)):
        told.note(evals, loss_after(evals))
        if told.ends(evals):
            return evals
    return None


@given(st.floats(0.7, 1.1), UNITS, st.floats(-1e3, 1e3))
def test_the_tail_of_a_power_law_is_ended_where_little_is_left(power, unit, offset):
    evals = ended_after(lambda evals: unit * (offset + evals**-power))
    assert evals is not None
    assert evals**-power - LIMIT**-power < 0.01


@given(st.floats(0.003, 10.0), UNITS)
def test_what_comes_to_its_end_before_the_limit_goes_on(rate, unit):
    # By the limit, 1e-13 of it is left at most.
    assert ended_after(lambda evals: unit * np.exp(-rate * evals)) is None


@given(st.floats(1e-6, 1.0), st.floats(0.0, 2.0), UNITS)
def test_no_more_is_left_than_is_said(rate, power, unit):
    evals = ended_after(lambda evals: unit * np.exp(-rate * evals) * evals**-power)
    assert evals is None or np.exp(-rate * evals) * evals**-power < 0.02


@given(st.floats(0.05, 0.3))
def test_what_still_brings_much_goes_on(power):
    assert ended_after(lambda evals: evals**-power) is None


@given(st.integers(0, 6), st.floats(0.7, 1.1))
def test_a_trend_is_carried_on(power_of_two, power):
    told = Trend(10**9, LIMIT)
    for evals in range(1, 2**power_of_two + 1):
        told.note(evals, evals**-power)
    assert len(told.losses) == power_of_two + 1
    assert ended_after(lambda evals: evals**-power, known=told.losses) == ended_after(lambda evals: evals**-power)


def test_a_cheap_solve_goes_on():
    assert ended_after(lambda evals: evals**-1.0, work=1000) is None


def fading(x, curvatures):
    return jnp.sum(curvatures * x**2) / 2


class AfterSome:
    """A watcher that ends the solve after its first look."""

    ticks = 67

    def __call__(self, seen):
        return seen.evals > 0


CURVATURES = np.geomspace(1e-6, 1, 60)


def solved(**options):
    return minimize(fading, CURVATURES, np.ones(60), method=GradientDescent(1.0), dtype="float64", **options)


@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
def test_diminishing_returns(monkeypatch):
    monkeypatch.setattr(bursts, "LONG", 0)
    assert solved().status is Status.MAX_EVALS
    monkeypatch.setattr(trend, "LONG", 0)
    result = solved()
    assert result.status is Status.DIMINISHING_RETURNS
    assert not result.converged
    assert "less than 1 % of the decrease" in str(result)
    same(solved(watch=[]), result)
    assert solved(max_evals=result.evals).loss == result.loss
    for asked in ({"max_evals": 2000}, {"tol": 1e-9}, {"stop": Stop(gtol=1e-9)}):
        assert solved(**asked).status is not Status.DIMINISHING_RETURNS
    # Carried on, it is asked again after twice as many.
    more = solved(resume=result)
    assert more.status is Status.DIMINISHING_RETURNS
    assert more.evals == 2 * result.evals
    part = solved(watch=AfterSome())
    assert part.status is Status.STOPPED
    same(solved(resume=part), result)
