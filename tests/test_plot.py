"""Pictures: what is drawn is what was computed; and the page, in a browser."""

import html
import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxgd
from jaxgd import GradientDescent, Stop, losses, plot

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

BOOK = [12.1, 12.8, 14.9, 16.3, 17.2]
MEAN = float(np.mean(BOOK))
X = np.column_stack([np.ones(6), np.arange(6.0)])
Y = np.array([1.0, 3.1, 4.9, 7.2, 8.8, 11.1])
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def mse(theta):
    return np.mean((np.array(BOOK) - theta) ** 2)


def slope(theta):
    return 2 * (theta - MEAN)


def logarithm(theta):
    return theta * jnp.log(theta)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def line():
    """A line through six points, its moves seen."""
    return jaxgd.minimize(losses.squared, (X, Y), dtype="float64", trace=True, method="lbfgs")


@pytest.fixture(scope="module")
def lanes():
    """Ten thousand problems, some of which fail."""
    y = np.random.default_rng(0).normal(size=(10_000, 3))
    y[::1000, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
        return jaxgd.minimize_many(losses.mse, y, trace=True, dtype="float64", method=GradientDescent(0.4))


def drawn(ax, label):
    """The points of the line whose label begins so."""
    return next(np.array(line.get_xydata()) for line in ax.lines if line.get_label().startswith(label))


def said(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_curve():
    ax = plot.curve(losses.mse, BOOK, 12.0)
    thetas, values = drawn(ax, "loss").T
    assert values == pytest.approx([mse(theta) for theta in thetas])
    assert drawn(ax, "theta = 12")[0] == pytest.approx([12, mse(12)])
    assert drawn(ax, "minimum")[0] == pytest.approx([MEAN, mse(MEAN)])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("theta", "loss")
    assert np.mean(ax.get_xlim()) == pytest.approx(MEAN)
    assert ax.get_xlim()[0] < 12
    assert plot.curve(losses.mse, BOOK, ax=ax) is ax


def test_a_column_of_a_table():
    ax = plot.curve(lambda theta, bills: losses.mse(theta, bills["tip"]), pd.DataFrame({"tip": BOOK, "day": "Sun"}))
    assert drawn(ax, "minimum")[0] == pytest.approx([MEAN, mse(MEAN)])


def test_tangent_points_downhill():
    ax = plot.tangent(losses.mse, BOOK, 17)
    (left, low), (right, high) = drawn(ax, "tangent")
    assert (high - low) / (right - left) == pytest.approx(slope(17))
    assert "downhill to the left" in said(ax)[-1]
    arrow = ax.texts[0]
    assert arrow.xy[0] < arrow.xyann[0] == 17
    # Nothing but loss and data: theta is chosen, left of the minimum.
    assert "downhill to the right" in said(plot.tangent(losses.mse, BOOK))[-1]


def test_step():
    ax = plot.step(losses.mse, BOOK, 12, 0.3)
    new = 12 - 0.3 * slope(12)
    assert drawn(ax, "old theta")[0] == pytest.approx([12, mse(12)])
    assert drawn(ax, "new theta")[0] == pytest.approx([new, mse(new)])
    assert f"{new - 12:+.3g}" in said(ax)[-1]


def test_descent_is_the_textbooks():
    book = jaxgd.minimize(losses.mse, BOOK, 12.0, method=GradientDescent(0.3), stop=Stop(xtol=1e-3), trace=True)
    ax = plot.descent(losses.mse, BOOK, 12, 0.3, moves=5)
    steps = drawn(ax, "theta after 0 to 5 moves")
    assert steps[:, 0] == pytest.approx(book.trace.params[:6], rel=1e-6)
    lengths = np.abs(np.diff(plot.descent(losses.mse, BOOK).lines[2].get_xdata()))
    assert np.all(np.diff(lengths) < 0)
    assert "diverges" in " ".join(said(plot.descent(losses.mse, BOOK, 14, 1.3, moves=20)))


def test_a_loss_that_is_not_finite_everywhere_has_a_gap():
    ax = plot.curve(logarithm, None, 1.0, window=(-1, 3))
    thetas, values = drawn(ax, "loss").T
    assert np.isnan(values[thetas < 0]).all()
    assert np.isfinite(values[thetas > 0.01]).all()
    bounded = plot.curve(losses.mse, BOOK, bounds=(13, None), window=(12, 18))
    thetas, values = drawn(bounded, "loss").T
    assert np.isnan(values[thetas < 13]).all()


def test_contour(line):
    ax = plot.contour(losses.squared, (X, Y), {"L-BFGS": line})
    path = drawn(ax, "L-BFGS")
    assert path == pytest.approx(line.trace.params)
    assert said(ax) == [f"L-BFGS: {line.moves} moves, converged", "start", "end"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("params[0]", "params[1]")
    assert len(ax.collections) == 2
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert np.all((path >= [left, low]) & (path <= [right, high]))
    # What came through jit holds its arrays at full length.
    jitted = jax.jit(lambda y: jaxgd.minimize(losses.squared, (X, y), trace=True, method="lbfgs"))(jnp.asarray(Y))
    assert drawn(plot.contour(losses.squared, (X, Y), jitted), "L-BFGS")[-1] == pytest.approx(line.params, rel=1e-3)


def test_trace(line):
    short = jaxgd.minimize(losses.squared, (X, Y), dtype="float64", trace=True)
    axes = plot.trace({"long": line, "short": short})
    assert [ax.get_yscale() for ax in axes] == ["log"] * 3
    assert [ax.get_ylabel() for ax in axes] == ["loss above the lowest seen", "largest gradient component", "step size"]
    grads = drawn(axes[1], "long")[:, 1]
    assert grads[grads > 0] == pytest.approx(line.trace.grad_norm[line.trace.grad_norm > 0])
    least = min(line.trace.loss.min(), short.trace.loss.min())
    assert drawn(axes[0], "long")[0, 1] == pytest.approx(line.trace.loss[0] - least)
    one = plt.subplots()[1]
    assert plot.trace([line, short], "loss", ax=one) is one
    assert said(one) == ["1: L-BFGS with memory 10", "2: trust-region Newton"]


def test_lanes(lanes):
    ax = plot.evals(lanes)
    assert sum(bar.get_height() for bar in ax.patches) == 10_000
    ax = plot.statuses(lanes)
    assert sum(bar.get_width() for bar in ax.patches) == 10_000
    assert "BAD_START" in [tick.get_text() for tick in ax.get_yticklabels()]
    ax = plot.worst(lanes, 3)
    assert [text.split(":")[0] for text in said(ax)] == ["lane 0", "lane 1000", "lane 2000"]


def straight(params, x):
    return params[0] + params[1] * x


def test_data_with_the_curve_and_its_band(line):
    x = X[:, 1]
    upper, lower = plot.fit(line, x, Y, straight, width=2)
    data, curve = upper.lines
    assert np.array_equal(data.get_xydata(), np.column_stack([x, Y]))
    assert np.allclose(curve.get_ydata(), straight(line.params, curve.get_xdata()))
    assert np.allclose(lower.lines[0].get_ydata(), Y - straight(line.params, x))
    # The textbook's standard error of a line, in its middle.
    (band,) = upper.collections
    edges = band.get_paths()[0].vertices
    near = edges[np.argmin(np.abs(edges[:, 0] - 2.5)), 0]
    middle = edges[edges[:, 0] == near, 1]
    noise = np.sqrt(np.sum((Y - straight(line.params, x)) ** 2) / 4)
    assert np.isclose(np.ptp(middle) / 2, 2 * noise / np.sqrt(6), rtol=0.02)
    given = plt.subplots(2)[1]
    assert plot.fit(line, x, Y, straight, ax=given)[0] is given[0]


def test_data_of_many_problems_the_best_and_the_worst():
    x, offsets = np.arange(5.0), np.arange(8.0)
    y = offsets[:, None] + x + np.arange(8)[:, None] / 10 * np.array([1, -1, 0, -1, 1])

    def loss(params, data):
        return jnp.mean((data[1] - straight(params, data[0])) ** 2)

    many = jaxgd.minimize_many(loss, (x, y), np.zeros(2), in_axes=(None, (None, 0)))
    found = plot.fit(many, x, y, straight, count=4)
    assert [axis.get_title().split(":")[0] for axis in found] == ["lane 0", "lane 1", "lane 6", "lane 7"]
    assert np.array_equal(found[3].lines[0].get_ydata(), y[7])
    assert np.allclose(found[3].lines[1].get_ydata()[[0, -1]], straight(many.params[7], x)[[0, -1]])


def test_a_model_that_does_not_fit_is_refused(line):
    x = X[:, 1]
    with pytest.raises(ValueError, match=r"`model` returns shape \(\) for x of shape \(6,\)"):
        plot.fit(line, x, Y, lambda params, _: params[0])
    with pytest.raises(IndexError) as caught:
        plot.fit(line, x, Y, lambda params, x: straight(params, x[:, 1]))
    assert "called as model(result.params, x)" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match=r"have shapes \(6, 2\) and \(6,\)"):
        plot.fit(line, X, Y, straight)
    with pytest.raises(TypeError, match="`y` must be an array of numbers"):
        plot.fit(line, x, list("abcdef"), straight)
    with pytest.warns(jaxgd.NotConvergedWarning):
        early = jaxgd.minimize(losses.squared, (X, Y), max_evals=1)
    assert not plot.fit(early, x, Y, straight)[0].collections


def test_profile(line):
    axes = plot.profile(line, points=7)
    errors = line.stderr()
    for i, ax in enumerate(axes):
        places, values = drawn(ax, "profile").T
        # Of squares the profile is the parabola, and lowest at the answer.
        assert values == pytest.approx(drawn(ax, "parabola")[:, 1])
        assert places[np.argmin(values)] == pytest.approx(line.params[i])
        assert places[-1] - places[3] == pytest.approx(3 * errors[i])
        assert values[3] == pytest.approx(line.loss)
        noise = np.sum((Y - X @ line.params) ** 2) / (len(Y) - 2)
        assert values[5] - values[3] == pytest.approx(2 * noise / len(Y))
        assert f"$\\pm$ {errors[i]:.3g}" in said(ax)[0]
    assert [ax.get_xlabel() for ax in axes] == ["params[0]", "params[1]"]


def test_a_profile_keeps_penalties_and_what_is_held(lanes):
    fit = jaxgd.minimize(losses.squared, (X, Y), np.array([0.9, 0.0]), dtype="float64", fixed=[True, False], l2=0.5)
    (ax,) = plot.profile(fit, points=5)
    places, values = drawn(ax, "profile").T
    exact = [np.mean((Y - X @ [0.9, w]) ** 2) / 2 + 0.25 * (0.9**2 + w**2) for w in places]
    assert values == pytest.approx(exact)
    y = np.random.default_rng(0).normal(size=(10_000, 3))[1]
    (ax,) = plot.profile(lanes[1], "params", points=5)
    assert drawn(ax, "profile")[:, 1] == pytest.approx([np.mean((y - w) ** 2) for w in drawn(ax, "profile")[:, 0]])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plot.curve(losses.squared, (X, Y)), ValueError, "`curve` draws a loss of 1 param"),
        (lambda: plot.contour(losses.mse, BOOK), ValueError, "`contour` draws a loss of 2 params"),
        (lambda: plot.curve(losses.mse, BOOK, "12"), TypeError, "`theta` must be a number"),
        (lambda: plot.curve(losses.mse, BOOK, True), TypeError, "`theta` must be a number"),
        (lambda: plot.curve(losses.mse, BOOK, np.nan), ValueError, "`theta` must be finite"),
        (lambda: plot.curve(losses.mse, BOOK, [1.0, 2.0]), ValueError, "`theta` holds 2 numbers"),
        (lambda: plot.curve(losses.mse, BOOK, 12, window=(13, 16)), ValueError, "outside `window"),
        (lambda: plot.curve(losses.mse, BOOK, window=(3, 1)), ValueError, "low below high"),
        (lambda: plot.curve(logarithm, window=(-3, -1)), ValueError, "finite nowhere"),
        (lambda: plot.curve(logarithm, None, -1.0), ValueError, "not finite there"),
        (lambda: plot.curve(lambda theta: theta), ValueError, "Give `window="),
        (lambda: plot.curve(losses.mse, BOOK, l3=1), TypeError, "no option `l3`; the nearest is `l2`"),
        (lambda: plot.curve(losses.mse, jaxgd.Rows(np.array(BOOK))), TypeError, "`data` is `Rows`"),
        (lambda: plot.curve(losses.mse, BOOK, ax=[1, 2]), TypeError, "`ax` must be matplotlib Axes"),
        (lambda: plot.step(losses.mse, BOOK, 12, -1), ValueError, "`stepsize`.* must be positive"),
        (lambda: plot.step(logarithm, None, 1.0, 5.0), ValueError, "loss is not finite"),
        (lambda: plot.descent(losses.mse, BOOK, moves=0), ValueError, "`moves`.* from 1 to 100"),
        (lambda: plot.trace([]), ValueError, "`results` must be 1 to 6"),
        (lambda: plot.trace(3), TypeError, "`results` must be a `Result`"),
        (lambda: plot.contour(losses.squared, (X, Y), window=(1, 2)), TypeError, r"`window\[0\]` must be a pair"),
        (lambda: plot.explore(losses.squared, (X, Y)), ValueError, "`explore` draws a loss of 1 param"),
        (lambda: plot.explore(losses.mse, BOOK, xtol=0), ValueError, "`xtol`.* must be positive"),
        (lambda: plot.Page("").save("/nowhere/page.html"), FileNotFoundError, "cannot be written"),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_results_that_are_refused(line, lanes, monkeypatch):
    blind = jaxgd.minimize(losses.squared, (X, Y), dtype="float64")
    for call, words in (
        (lambda: plot.trace(blind), "Solve with `trace=True`"),
        (lambda: plot.trace(lanes), "10000 problems"),
        (lambda: plot.evals(line), "Use `plot.trace`"),
        (lambda: plot.worst(lanes, 7), "from 1 to 6"),
        (lambda: plot.trace(line, "steps"), "`of` must be one of"),
        (lambda: plot.trace(line, ax=plt.subplots()[1]), "`ax` has 1 Axes for 3"),
        (lambda: plot.profile(line, "c"), "`params` names 'c'"),
        (lambda: plot.contour(losses.squared, (X, Y), lanes[1]), "`results` hold params of shapes"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="being traced"):
        jax.jit(plot.trace)(line)
    monkeypatch.setattr("jaxgd.plot.profiles.MOST", 1)
    with pytest.raises(ValueError, match=r"2 of 2 have .* a figure takes 1 to 1.*`params=\[0, 1\]`"):
        plot.profile(line)


def test_matplotlib_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxgd\[plot\]'"):
        plot.curve(losses.mse, BOOK)


def test_page_stands_alone_and_escapes_names(tmp_path):
    def loss(theta, y):
        return jnp.mean((y - theta["</script><b>"]) ** 2)

    page = plot.explore(loss, BOOK, {"</script><b>": 12.0}, 0.2)
    assert page.html.count("</script>") == 1
    told = json.loads(page.html.split("const told = ")[1].split(";\n")[0])
    assert told["name"] == "</script><b>"
    assert (told["theta"], told["stepsize"], told["minimum"][0]) == pytest.approx((12, 0.2, MEAN))
    frame = page._repr_html_()  # what a notebook calls
    assert html.unescape(frame.split('srcdoc="')[1].split('"')[0]) == page.html
    assert page.save(tmp_path / "page.html").read_text(encoding="utf-8") == page.html
    assert len(repr(page)) < 100


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_page_in_a_browser(tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    path = plot.explore(losses.mse, BOOK, 12.0, 0.3).save(tmp_path / "page.html")
    seen, asked = [], []
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda message: seen.append(message.text))
        tab.on("pageerror", lambda error: seen.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        # The moves are those of the library.
        book = jaxgd.minimize(losses.mse, BOOK, 12.0, method=GradientDescent(0.3), stop=Stop(xtol=1e-3))
        assert f"Converged: {book.moves} moves" in tab.text_content("#said")
        assert tab.locator("#points circle").count() == book.moves + 1

        def drawn_after(slider, keys):
            before = tab.get_attribute("#path", "d")
            tab.focus(slider)
            for key in keys:
                tab.keyboard.press(key)
            after = tab.get_attribute("#path", "d")
            assert after != before
            return after

        drawn_after("#start", ["End"])
        drawn_after("#stepsize", ["Home"])
        drawn_after("#stepsize", ["End"])
        assert "Diverges" in tab.text_content("#said")
        drawn_after("#stepsize", ["Home"])
        assert drawn_after("#moves", ["Home"]).count("L") == 0
        tab.click("#one")
        assert tab.get_attribute("#path", "d").count("L") == 1
        assert [tab.get_by_label(name, exact=True).count() for name in ("step size", "start", "moves")] == [1, 1, 1]
        browser.close()
    assert (seen, asked) == ([], [path.as_uri()])
