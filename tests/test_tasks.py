"""The pages of docs/tasks/: what they compute is what the field's own programs compute, errors too."""

import doctest
import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import statsmodels.api as sm
from jax.flatten_util import ravel_pytree
from scipy import optimize

import jaxgd

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
PAGES = Path(__file__).parent.parent / "docs" / "tasks"
CLOSE = 1e-6  # relative, of params and of standard errors


@cache
def page(name):
    """Run the code of a page as it stands, hold what it prints to what it says, and return what it has defined."""
    text = (PAGES / f"{name}.md").read_text()
    examples = doctest.DocTestParser().get_doctest(text, {}, name, f"{name}.md", 0)
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not runner.run(examples, out=said.append, clear_globs=False).failed, "".join(said)
    return examples.globs


def agree(found, params, errors=None):
    """Compare a result, or params and errors by themselves, with those of a reference."""
    values, own = (found.params, found.stderr()) if hasattr(found, "stderr") else found
    for what, mine, peer in (("params", values, params), ("errors", own, errors)):
        if peer is not None:
            found, expected = (np.concatenate([*map(np.ravel, jax.tree.leaves(tree))]) for tree in (mine, peer))
            print(f"{what}: largest relative difference {np.max(np.abs(found / expected - 1)):.1e}")
            np.testing.assert_allclose(found, expected, rtol=CLOSE, err_msg=what)


def test_every_page_is_compared():
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in PAGES.glob("*.md")} <= tests


def test_line():
    got = page("line")
    peer = sm.OLS(got["flats"]["price"], sm.add_constant(got["flats"]["area"])).fit()
    agree(got["fit"], peer.params, peer.bse)
    low, high = peer.conf_int().to_numpy().T
    np.testing.assert_allclose(got["fit"].summary().table()[["low", "high"]], np.column_stack([low, high]), rtol=CLOSE)
    robust = sm.OLS(got["flats"]["price"], sm.add_constant(got["flats"]["area"])).fit(cov_type="HC0")
    agree((got["fit"].params, got["fit"].stderr("sandwich")), robust.params, robust.bse)


def test_logistic():
    got = page("logistic")
    peer = sm.Logit(got["known"]["lived"], got["X"]).fit(disp=0, tol=1e-12)
    agree(got["fit"], peer.params, peer.bse)
    robust = sm.Logit(got["known"]["lived"], got["X"]).fit(disp=0, tol=1e-12, cov_type="HC0")
    agree((got["fit"].params, got["fit"].stderr("sandwich")), robust.params, robust.bse)


def test_what_logistic_says_of_wrong_data():
    got = page("logistic")
    people, logistic = got["people"], jaxgd.losses.logistic
    with pytest.warns(jaxgd.NotConvergedWarning, match=r"BAD_START.*Not finite: `data\[0\]`"):
        jaxgd.minimize(logistic, (people[["age"]], people["lived"]))
    with pytest.warns(jaxgd.NotConvergedWarning, match=r"NO_INFLUENCE.*infinity"):
        jaxgd.minimize(logistic, (got["X"], got["X"]["port_Cork"]))
    every = got["X"].assign(port_Brest=1 - got["X"]["port_Cork"] - got["X"]["port_Dover"])
    assert "The data do not determine" in str(jaxgd.minimize(logistic, (every, got["known"]["lived"])).summary())


def test_oscillation():
    got = page("oscillation")

    def model(t, *params):
        return np.asarray(got["model"](dict(zip(sorted(got["start"]), params, strict=True)), t))

    limits = {"damping": (0, np.inf), "height": (0, np.inf), "omega": (1, 6), "phase": (-np.inf, np.inf)}
    with jax.enable_x64(True):
        params, covariance = optimize.curve_fit(
            model,
            got["t"],
            got["y"],
            p0=[0.1, 1.0, 2.5, 0.0],
            bounds=np.transpose(list(limits.values())),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            x_scale="jac",
            jac="3-point",
        )
    # SciPy's own differences leave about 1e-10 in its Jacobian.
    agree(got["fit"], params, np.sqrt(np.diag(covariance)))
    agree(got["found"], params, np.sqrt(np.diag(covariance)))
    assert got["lost"].loss > 10 * got["fit"].loss
    assert got["upper"].get_legend().get_texts()[-1].get_text() == "1.96 standard errors"


def test_oscillation_as_lmfit():
    lmfit = pytest.importorskip("lmfit")
    got = page("oscillation")
    params = lmfit.Parameters()
    for name, start, low in (("damping", 0.1, 0), ("height", 1, 0), ("omega", 2.5, 1), ("phase", 0, -np.inf)):
        params.add(name, value=start, min=low, max=6 if name == "omega" else np.inf)
    t, y = got["t"], got["y"]

    def residuals(p):
        return y - p["height"] * np.exp(-p["damping"] * t) * np.cos(p["omega"] * t + p["phase"])

    peer = lmfit.minimize(residuals, params, xtol=1e-14, ftol=1e-14)
    found = [(each.value, each.stderr) for each in peer.params.values()]
    values, errors = got["fit"].params, got["fit"].stderr()
    np.testing.assert_allclose(list(values.values()), [value for value, _ in found], rtol=CLOSE)
    # lmfit takes its errors from forward differences, of some four digits.
    np.testing.assert_allclose(list(errors.values()), [error for _, error in found], rtol=1e-3)


def test_gamma():
    got = page("gamma")
    X, cost, fit = got["X"], got["cost"], got["fit"]
    model = sm.GLM(cost, X, family=sm.families.Gamma(sm.families.links.Log()))
    robust = model.fit(tol=1e-14, method="newton", cov_type="HC0")
    agree(fit, robust.params, robust.bse)
    observed = model.fit(tol=1e-14, method="newton")
    agree((fit.params, got["errors"]), observed.params, observed.bse)
    assert got["dispersion"] == pytest.approx(observed.scale, rel=CLOSE)
    # The default of statsmodels has the expected curvature, X'X, in place of the observed.
    expected = model.fit(tol=1e-14).bse
    assert 0.02 < np.max(np.abs(got["errors"] / expected - 1)) < 0.04
    by_hand = np.sqrt(got["dispersion"] * np.diag(np.linalg.inv(X.T @ X)))
    np.testing.assert_allclose(expected, by_hand, rtol=CLOSE)


def test_decays():
    got = page("decays")
    fits, errors = got["fits"], got["fits"].stderr()
    assert fits.converged.all()
    lanes = np.random.default_rng(0).choice(20_000, 50, replace=False)

    def model(t, height, rate):
        return height * np.exp(-rate * t)

    def slopes(t, height, rate):
        return np.column_stack([np.exp(-rate * t), -height * t * np.exp(-rate * t)])

    options = {"p0": [1, 1], "jac": slopes, "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "method": "trf"}
    found = [optimize.curve_fit(model, got["t"], got["signal"][lane], **options) for lane in lanes]
    own = [{name: tree[name][lanes] for name in ("height", "rate")} for tree in (fits.params, errors)]
    params = np.array([params for params, _ in found])
    agree(own, params.T, np.sqrt([np.diag(covariance) for _, covariance in found]).T)


def test_groups():
    got = page("groups")
    for name, table in got["meals"].groupby("place"):
        peer = sm.OLS(table["tip"], sm.add_constant(table["bill"])).fit()
        agree(got["fits"][name], peer.params, peer.bse)
        low_high = got["table"].loc[name, ["low", "high"]]
        np.testing.assert_allclose(low_high, peer.conf_int(), rtol=CLOSE)


def test_network():
    """Nobody knows the lowest minimum of a network: SciPy ends no lower from the same start, nor goes on from ours."""
    got = page("network")
    options = {"maxiter": 20_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-9}
    with jax.enable_x64(True):
        start, rebuilt = ravel_pytree(got["start"])

        def total(flat):
            return got["loss"](rebuilt(flat), got["train"]) + 3e-3 / 2 * jnp.sum(flat**2)

        both = jax.jit(jax.value_and_grad(total))
        ends = [np.asarray(ravel_pytree(result.params)[0]) for result in (got["fit"], got["adam"])]
        peers = [
            optimize.minimize(both, begun, jac=True, method="L-BFGS-B", options=options).fun
            for begun in (np.asarray(start), *ends)
        ]
    print("losses", got["fit"].loss, got["adam"].loss, peers)
    for result, onward in zip((got["fit"], got["adam"]), peers[1:], strict=True):
        assert result.loss < peers[0] * (1 + CLOSE)
        assert result.loss == pytest.approx(onward, rel=CLOSE)
    assert got["right"] > 0.98


def test_ridge():
    got = page("ridge")
    (X, y), path = got["train"], got["path"]
    errors, n = path.stderr(), len(y)
    Z = np.column_stack([np.ones(n), X])
    for lane, penalty in enumerate(got["penalties"]):
        inverse = np.linalg.inv(Z.T @ Z + n / 2 * penalty * np.diag([0.0] + [1.0] * 6))
        w = inverse @ Z.T @ y
        variance = np.sum((y - Z @ w) ** 2) / (n - 7)
        own = [[tree["base"][lane], *tree["slopes"][lane]] for tree in (path.params, errors)]
        agree(own, w, np.sqrt(variance * np.diag(inverse)))


def test_ridge_as_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    got = page("ridge")
    (X, y), chosen = got["train"], got["chosen"]
    peer = linear_model.Ridge(alpha=len(y) / 2 * got["penalties"][chosen], solver="cholesky").fit(X, y)
    agree((got["path"][chosen].params, None), [peer.intercept_, peer.coef_])
    shrunk = jaxgd.minimize_many(
        got["loss"], got["train"], got["start"], in_axes=(None, None), l1={"slopes": got["penalties"]}
    )
    # scikit-learn halves the mean square.
    lasso = linear_model.Lasso(alpha=got["penalties"][chosen] / 2, tol=1e-12, max_iter=10**6).fit(X, y)
    slopes = shrunk.params["slopes"][chosen]
    assert ((slopes == 0) == (lasso.coef_ == 0)).all()
    np.testing.assert_allclose(slopes, lasso.coef_, rtol=CLOSE)


def test_huber():
    got = page("huber")
    X, y = np.column_stack([np.ones(80), got["area"]]), got["price"]
    peer = optimize.least_squares(
        lambda w: y - X @ w, np.zeros(2), lambda _: -X, loss="huber", f_scale=40, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    command = "jaxgd huber_regression:40 flats.csv --columns area:price --intercept --summary --json"
    from_shell = json.loads(got["shell"](command))
    assert from_shell["loss"] == pytest.approx(peer.cost / 80, rel=CLOSE)
    # The M-estimator's errors (Huber 1967), from what its loss is within and beyond the size.
    residuals = y - X @ peer.x
    inverse = np.linalg.inv(X.T @ (X * (np.abs(residuals) <= 40)[:, None]))
    clipped = X * np.clip(residuals, -40, 40)[:, None]
    found = [[each[name] for each in from_shell["summary"]] for name in ("value", "stderr")]
    agree(found, peer.x, np.sqrt(np.diag(inverse @ clipped.T @ clipped @ inverse)))


def test_resume():
    got = page("resume")
    whole, broken = got["whole"], got["broken"]
    assert all(whole[name].tobytes() == broken[name].tobytes() for name in ("params", "errors", "evals"))
    assert whole["first"] == 1 < broken["first"]
    print("carried on at", broken["first"], "of", whole["evals"])
    draw = np.random.default_rng(10)
    X = draw.normal(size=(10_000, 200)) * np.geomspace(1, 0.01, 200)
    peer = sm.GLM(draw.poisson(np.exp(0.5 * X[:, 0])), X, family=sm.families.Poisson()).fit(tol=1e-12)
    # Many of the params are 0 but for their error, which is what a difference is measured by. L-BFGS ends where
    # rounding of the loss hides the rest, near the root of a double's digits.
    away = np.max(np.abs(whole["params"] - peer.params) / peer.bse)
    print(f"params: largest difference {away:.1e} standard errors")
    print(f"errors: largest relative difference {np.max(np.abs(whole['errors'] / peer.bse - 1)):.1e}")
    assert away < 1e-4
    np.testing.assert_allclose(whole["errors"], peer.bse, rtol=CLOSE)
