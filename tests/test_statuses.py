"""Every status, by every driver that can end with it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgd
from jaxgd import Batches, GradientDescent, Rows, Status, Stop, minimize, minimize_many, watch
from jaxgd.compile.build import Ask
from jaxgd.lanes.many import read_lanes, solve_lanes
from jaxgd.watch import bursts, trend

pytestmark = pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
Y = np.array([1.0, 2.0, 3.0, 6.0], "float32")
FADING = np.geomspace(1e-6, 1, 60)


def mse(p, y):
    return jnp.mean((y - p) ** 2)


def kink(p, y):
    return jnp.mean(jnp.abs(p[0] - 1) + 3 * jnp.abs(p[1] - p[0]) + 0 * y)


def plateau(p, y):
    return jnp.mean(jnp.exp(-p) + 0 * y)


def line(p, y):
    return jnp.mean(-p * y)


def root(p, y):
    return jnp.mean(jnp.sqrt(p) * y)


def flat(p, y):
    return jnp.mean(0 * p + y)


def fading(p, y):
    return FADING @ p**2 / 2 + jnp.mean(0 * y)


def interrupt(_):
    raise KeyboardInterrupt


def alone(loss, init, **options):
    return minimize(loss, Y, init, **options).status


def watched(loss, init, **options):
    return minimize(loss, Y, init, **{"watch": []} | options).status


def compiled(loss, init, **options):
    return jax.jit(lambda y: minimize(loss, y, init, **options).status)(Y)


def lanes(loss, init, **options):
    statuses = minimize_many(loss, np.stack([Y, 2 * Y]), init, **options).status
    assert statuses[0] == statuses[1]
    return statuses[0]


def starts(loss, init, **options):
    return minimize(loss, Y, init, starts=2, **options).status


def passes(loss, init, **options):
    return minimize(loss, Rows(np.tile(Y, 10)), init, **options).status


def minibatches(loss, init, **options):
    options = {"method": optax.sgd(0.01), "batch_size": Batches(size=10, patience=2, passes=200)} | options
    return minimize(loss, Rows(np.tile(Y, 10)), init, **options).status


SOLVES = (alone, watched, compiled, lanes, starts, passes)
WATCHED = (watched, lanes, starts, passes)
ENDLESS = Stop(max_evals=10**9)
TABLE = [
    (Status.CONVERGED, SOLVES, mse, 0.0, {}),
    (Status.SMALL_GRADIENT, (*SOLVES, minibatches), mse, 0.0, {"stop": Stop(gtol=100.0)}),
    (Status.SMALL_STEP, SOLVES, mse, 0.0, {"stop": Stop(xtol=100.0)}),
    (Status.SMALL_DECREASE, SOLVES, mse, 0.0, {"stop": Stop(ftol=100.0)}),
    (Status.PRECISION_FLOOR, SOLVES[:-1], lambda p, y: jnp.abs(p - 1) + 0 * y[0], 5.0, {}),
    (Status.MAX_EVALS, (*SOLVES, minibatches), mse, 0.0, {"stop": Stop(max_evals=1)}),
    (Status.STUCK, SOLVES, kink, np.array([3.0, 5.0]), {"method": "lbfgs"}),
    (Status.DIVERGED, SOLVES, mse, 0.0, {"method": GradientDescent(1.2)}),
    (Status.DIVERGED, (minibatches,), mse, 0.0, {"method": optax.sgd(1.2)}),
    (Status.BAD_START, (*SOLVES, minibatches), root, -1.0, {}),
    (Status.UNBOUNDED, SOLVES, line, 0.0, {}),
    (Status.ZERO_GRADIENT, SOLVES, flat, 0.0, {}),
    (Status.NO_INFLUENCE, SOLVES, plateau, 0.0, {}),
    (Status.NOISE_FLOOR, (minibatches,), mse, 0.0, {}),
    (Status.DIMINISHING_RETURNS, (alone, watched, passes), fading, np.ones(60), {"method": GradientDescent(1.0)}),
    (Status.MAX_PASSES, (minibatches,), mse, 0.0, {"batch_size": Batches(size=10, passes=1)}),
    *(
        row
        for status, watcher in (
            (Status.INTERRUPTED, watch.Callback(interrupt)),
            (Status.TIME_LIMIT, watch.TimeLimit(1e-9)),
            (Status.STOPPED, watch.Callback(lambda _: True)),
        )
        for row in (
            (status, WATCHED, mse, 0.0, {"watch": watcher, "method": GradientDescent(1e-7), "stop": ENDLESS}),
            (status, (minibatches,), mse, 0.0, {"watch": watcher}),
        )
    ),
]
ROWS = [
    pytest.param(status, driver, loss, init, options, id=f"{status.name}-{driver.__name__}")
    for status, drivers, loss, init, options in TABLE
    for driver in drivers
]


@pytest.mark.parametrize(("status", "driver", "loss", "init", "options"), ROWS)
def test_a_status_is_reached(status, driver, loss, init, options, monkeypatch):
    if status is Status.DIMINISHING_RETURNS:  # as if it took minutes
        monkeypatch.setattr(bursts, "LONG", 0)
        monkeypatch.setattr(trend, "LONG", 0)
    assert Status(int(driver(loss, init, **options))) is status


def test_a_start_that_cannot_win_is_outdone():
    def wells(p, y):
        return jnp.mean((p**2 - 1) ** 2 * (1 + 100 * (p < 0)) + jnp.where(p < 0, 50 + p**4 / 1e3, 0) + 0 * y)

    ask = Ask(wells, Y, np.array([1.1, -40.0]), method=jaxgd.SteepestDescent())
    program, batch, _ = read_lanes(ask, (0, None))
    found = solve_lanes(program, batch, rivals=True, twice=False)
    assert Status.OUTDONE in found.answer.counts[:, 0]


def test_every_status_is_in_the_table():
    assert {status for status, *_ in TABLE} == {*Status} - {Status.RUNNING, Status.OUTDONE}
