"""A second look at claims that rest on a learnt curvature, on answers made by hand and on random losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgd
from jaxgd import Status, Stop
from jaxgd.compile.build import Ask, prepare
from jaxgd.core.convergence import Evidence
from jaxgd.core.stop import Counts, with_status
from jaxgd.lanes.second_look import LOOKS, PARTS, Again, Doubt, looked_again, looked_again_alone

pytestmark = pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
CLAIM = Counts(Status.CONVERGED, 40, 30, 2)


def wells(p):
    """Return a loss with a saddle at 0 and two minima, of loss 0, at 1 and -1."""
    return (p[0] ** 2 - 1) ** 2 + p[1] ** 2


def claim(params, *, method="lbfgs", said=0.0, stop=Stop()):  # noqa: B008 - frozen
    """Return a program, its inputs, and an answer at the params that claims no more than was `said` is left."""
    program, given, _ = prepare(Ask(wells, None, np.zeros(2), method=method, stop=stop))
    answer = program.solve(given)[0]
    seen = np.array(answer.evidence)
    seen[[Evidence._fields.index(name) for name in ("model", "predicted_remaining")]] = said
    params = jnp.asarray(params, "float32")
    loss, grad = jax.value_and_grad(wells)(params)
    return program, given, answer._replace(params=params, loss=loss, grad=grad, counts=CLAIM.pack(), evidence=seen)


@pytest.mark.parametrize("method", ["lbfgs", "bfgs", "cg", "lbfgsb"])
def test_a_claim_at_a_saddle_is_left_for_a_minimum(method):
    found = looked_again_alone(*claim([0.0, 1e-3], method=method))
    counts = Counts.of(found.counts)
    assert found.loss == pytest.approx(0, abs=1e-9)
    assert Status(int(counts.status)).converged
    assert counts.evals > CLAIM.evals + len(PARTS)
    # A Hessian for each look, one more at the second start.
    assert counts.products == CLAIM.products + 3 * 2


def test_a_claim_that_the_curvature_bears_out_stands():
    found = looked_again_alone(*claim([1.0, 1e-3], said=1e-6))
    assert Counts.of(found.counts) == CLAIM._replace(products=CLAIM.products + 2)
    assert found.params.tolist() == pytest.approx([1.0, 1e-3])


def test_a_claim_of_too_little_left_is_gone_on_from():
    assert looked_again_alone(*claim([1.0, 1e-3], said=1e-9)).loss < 1e-10


def test_a_method_that_computes_the_curvature_is_not_looked_at_again():
    assert Counts.of(looked_again_alone(*claim([0.0, 1e-3], method="newton")).counts) == CLAIM


def test_the_limit_of_evaluations_holds_for_all_solves_together():
    most = 40 + len(PARTS) + 2
    counts = Counts.of(looked_again_alone(*claim([0.0, 1e-3], stop=Stop(max_evals=most))).counts)
    assert counts.status == Status.MAX_EVALS
    assert counts.evals == most


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 12, 20, 40, 60])
@pytest.mark.parametrize("start", [[0.0, 0.0], [0.1, 2.0]])
def test_no_second_look_goes_beyond_the_limit(start, most):
    options = {"method": "lbfgs", "stop": Stop(max_evals=most)}
    assert jaxgd.minimize(wells, None, np.array(start), **options).evals <= most
    lanes = jaxgd.minimize_many(wells, None, np.array([start, start]), in_axes=(0, None), **options)
    assert np.max(lanes.evals) <= most


def test_a_flat_start_is_left_by_one_side_where_that_is_lower():
    calls = []

    def counted(p):
        jax.debug.callback(lambda: calls.append(1))
        return wells(p)

    result = jaxgd.minimize(counted, None, np.zeros(2), method=jaxgd.SteepestDescent()).check()
    jax.effects_barrier()
    assert result.loss < 1e-9
    one = jaxgd.minimize(wells, None, 0.01 * np.cos(1 + np.arange(2.0)), method=jaxgd.SteepestDescent())
    assert result.evals == len(calls) == one.evals + 1


def test_a_claim_refuted_again_and_again_is_none():
    program, _, answer = claim([0.0, 1e-3])
    answer, looks = jax.tree.map(lambda leaf: np.asarray(leaf)[None], answer), []

    def lower(lanes, starts, spent):
        del lanes, starts, spent
        return answer._replace(loss=np.float32([-len(looks)]))

    def doubt(lanes, found):
        looks.append(lanes)
        yes, no = np.ones(len(lanes), bool), np.zeros(len(lanes), bool)
        return Doubt(yes, no, np.full(len(lanes), 0.1), found.params, found.evidence)

    found = looked_again(Again(program, lower, doubt, 10**6), answer)
    assert Counts.of(found.counts[0]).status == Status.STUCK
    assert len(looks) == LOOKS


@pytest.mark.parametrize("method", ["lbfgs", "bfgs"])
def test_an_end_where_nothing_tells_is_left_as_a_flat_start_is(method):
    """The loss depends on the first param by as much as the square of the second, which underflows."""

    def loss(p, x):
        return jnp.mean((p[0] * (1 - jnp.exp(-(p[1] ** 2) * x)) - 1 + jnp.exp(-x)) ** 2)

    x = np.linspace(0.1, 3, 25)
    result = jaxgd.minimize(loss, x, np.array([-2.8e-106, 3.5e-183]), method=method, dtype="float64")
    assert result.loss < 1e-20 or not result.converged


def test_an_end_that_is_flat_on_both_sides_has_lost_its_influence():
    program, _, answer = claim([0.0, 1e-3])
    answer = jax.tree.map(lambda leaf: np.asarray(leaf)[None], answer)
    beside = answer._replace(counts=with_status(answer.counts, Status.ZERO_GRADIENT))

    def level(lanes, found):
        no, yes = np.zeros(len(lanes), bool), np.ones(len(lanes), bool)
        return Doubt(no, yes, np.full(len(lanes), 0.1), found.params, found.evidence)

    found = looked_again(Again(program, lambda *_: beside, level, 10**6), answer)
    assert Counts.of(found.counts[0]).status == Status.NO_INFLUENCE


def test_newton_lowers_few_claims_in_float32(monkeypatch):
    """Sums of exponentials in random units: without the second look 6 of 55 claims are lowered so."""
    # Every width is a program of its own, and so is every number of lanes that are looked at at once.
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST", {"cpu": 8, "other": 8})
    monkeypatch.setattr("jaxgd.lanes.pool.WIDEST_BLOCK", 1)
    rng, x, lanes = np.random.default_rng(0), np.linspace(0.1, 3, 20), 64
    right = rng.normal(size=(lanes, 4))
    units = 10.0 ** rng.uniform(-4, 4, (lanes, 4))

    def model(p):
        return p[0] * jnp.exp(-p[1] * x) + p[2] * jnp.exp(-p[3] * x)

    def loss(p, data):
        return jnp.mean((model(p * data[1]) - data[0]) ** 2)

    data = np.asarray(jax.vmap(model)(right)), units
    start = right * (1 + rng.normal(size=right.shape)) / units
    first = jaxgd.minimize_many(loss, data, start, in_axes=(0, 0), method="lbfgs", stop=Stop(max_evals=500))
    again = jaxgd.minimize_many(loss, data, first.params, in_axes=(0, 0))
    lower = np.asarray(first.loss - again.loss) > 1e-5 * np.asarray(first.loss) + 1e-6
    assert np.sum(first.converged) > lanes / 4
    assert np.sum(lower & first.converged) <= 0.05 * np.sum(first.converged)
