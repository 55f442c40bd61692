"""Watching, saving, ending and resuming: one problem, many, rows in passes, minibatches."""

import errno
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rows import LABELS, N, X, batches

import jaxgd
from jaxgd import Batches, Groups, Rows, Status, Stop, losses, minimize, minimize_many
from jaxgd.compile.cache import cache
from jaxgd.watch import Callback, Checkpoint, Progress, TimeLimit, bursts, session
from jaxgd.watch import checkpoint as files

pytestmark = pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")

CENTER = np.array([1.0, 2.0])
START = {"a": np.array([-1.2, 1.0]), "b": 0.5}
# Lanes of very different length, so that some are still on their way when the host looks in.
MANY = np.geomspace(2e-3, 1, 60), np.sin(np.arange(180.0)).reshape(60, 3)


def valley(params, center):
    x, y = params["a"] - center, params["b"]
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + (y - x[0]) ** 2


def bowl(x, data):
    curvature, center = data
    return curvature * jnp.sum((x - center) ** 2) / 2


def after(evals):
    """Return a watcher that ends the solve after so many evaluations."""
    return lambda seen: seen.evals >= evals


def after_lanes(count):
    return lambda seen: seen.lanes[0] >= count


def same(one, other):
    first, second = (jax.tree.leaves((r.params, r.loss, r.grad, r.counts, r.trace)) for r in (one, other))
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


def single(**options):
    return minimize(valley, CENTER, START, **options)


def many(**options):
    return minimize_many(
        bowl,
        MANY,
        np.zeros(3),
        in_axes=(None, 0),
        method=jaxgd.GradientDescent(1.0),
        stop=Stop(gtol=1e-7, max_evals=10**6),
        **options,
    )


def grouped(**options):
    labels = np.repeat(np.arange(60), np.arange(60) % 3 + 3)
    data, method = Groups(np.sin(np.arange(len(labels))), by=labels), jaxgd.GradientDescent(1e-3)
    return minimize_many(losses.mse, data, method=method, stop=Stop(gtol=1e-4, max_evals=10**6), **options)


def in_passes(**options):
    return minimize(losses.logistic, batches((X, LABELS)), jnp.zeros(4), **options)


def by_minibatches(**options):
    size = Batches(size=50, passes=6, validation=0.2, polish=True)
    return minimize(losses.logistic, Rows((X, LABELS)), method=optax.adam(0.01), batch_size=size, **options)


WAYS = {
    "newton": (single, after(9)),
    "lbfgs": (lambda **options: single(method="lbfgs", **options), after(9)),
    "adam": (lambda **options: single(method=optax.adam(0.1), stop=Stop(max_evals=60), **options), after(17)),
    "l1": (lambda **options: single(l1=0.5, dtype="float64", **options), after(3)),
    "trace": (lambda **options: single(trace=True, method="lbfgs", **options), after(9)),
    "lanes": (many, after_lanes(10)),
    "traced lanes": (lambda **options: many(trace=True, **options), after_lanes(10)),
    "groups": (grouped, after_lanes(10)),
    "passes": (in_passes, after(4)),
    "minibatches": (by_minibatches, after(40)),
}


@pytest.mark.usefixtures("several_lengths")
@pytest.mark.parametrize("way", WAYS)
def test_an_ended_solve_is_carried_on_bit_for_bit(way, tmp_path, monkeypatch):
    call, ended = WAYS[way]
    monkeypatch.setattr("jaxgd.lanes.scheduler.GLANCE", 1e-3)
    whole = call(watch=Checkpoint(tmp_path / "whole"))
    part = call(watch=[Checkpoint(tmp_path / "part", every=0), ended])
    assert np.any(np.asarray(part.status) == Status.STOPPED)
    for source in (tmp_path / "part", str(tmp_path / "part"), part):
        same(call(resume=source), whole)
    # What has come to its end is returned as it is.
    same(call(resume=tmp_path / "whole"), whole)


def test_a_watched_solve_is_that_of_a_compiled_loop():
    same(single(watch=[]), single())


def test_nothing_looks_in_unasked(monkeypatch):
    monkeypatch.setattr(bursts, "in_bursts", None)
    assert single().converged


def test_a_solve_that_may_last_says_so_and_can_be_ended(monkeypatch, caplog, ctrl_c):
    options = {"method": jaxgd.GradientDescent(0.5), "max_evals": 10**8, "dtype": "float64"}
    minimize(bowl, (1.0, CENTER), np.zeros(2), **options)  # compiles, and ends before there is a word to say
    monkeypatch.setattr(session, "PATIENCE", 0.5)
    assert not caplog.messages
    ctrl_c(2)
    result = minimize(bowl, (1e-5, CENTER), np.zeros(2), **options)
    assert result.status is Status.INTERRUPTED
    assert result.run is not None
    (said,) = caplog.messages
    assert "evaluations in" in said
    assert "`progress=True`" in said


@pytest.mark.parametrize("method", ["auto", "lbfgs"])
def test_looking_in_unasked_changes_nothing(method, monkeypatch):
    alone = single(method=method)
    monkeypatch.setattr(bursts, "LONG", 0)
    monkeypatch.setattr(bursts, "FIRST", 0)
    same(single(method=method), alone)
    assert jax.jit(lambda center: minimize(valley, center, START).loss)(jnp.asarray(CENTER)) < 1e-6


def test_another_stop_carries_on(tmp_path):
    path = tmp_path / "run"
    short = single(method="lbfgs", stop=Stop(max_evals=5), watch=Checkpoint(path))
    assert short.status is Status.MAX_EVALS
    whole = single(method="lbfgs")
    for source in (path, short):
        again = single(method="lbfgs", resume=source)
        same(again, whole)
    coarse = single(method="lbfgs", tol=1e-2, watch=Checkpoint(path))
    fine = single(method="lbfgs", resume=path)
    assert coarse.evals < fine.evals
    assert fine.loss <= coarse.loss


def test_progress_and_every_watcher_together(tmp_path, capsys):
    seen = []
    watchers = [Progress(), Checkpoint(tmp_path / "run"), TimeLimit(1000), Callback(seen.append)]
    result = single(watch=watchers)
    same(result, single())
    last = seen[-1]
    assert set(last.params) == {"a", "b"}
    assert (last.evals, last.moves, last.status) == (result.evals, result.moves, result.status)
    assert float(last.loss) == float(result.loss)
    assert last.grad_norm == pytest.approx(result.grad_norm)
    assert "loss=" in capsys.readouterr().err
    # Watchers serve again.
    same(single(watch=watchers), result)


def test_progress_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    result = single(progress=True)
    assert f"{result.evals} evals [" in capsys.readouterr().err
    many(progress=True)
    assert "60 of 60 problems" in capsys.readouterr().err


@pytest.mark.parametrize("solve", [minimize, minimize_many])
@pytest.mark.parametrize("watching", [{"progress": True}, {"watch": [Progress()]}])
def test_progress_says_that_it_is_compiling_while_it_does(solve, watching, capsys):
    cache.clear()
    jax.clear_caches()
    data = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    start = np.zeros(4, np.float32)
    first = solve(jaxgd.losses.mse, data, start, **watching)
    assert capsys.readouterr().err.startswith("compiling\n")
    again = solve(jaxgd.losses.mse, data, start, **watching)
    assert "compiling" not in capsys.readouterr().err
    assert min(first.seconds) > 0
    assert again.seconds.compile == 0


@pytest.mark.parametrize("way", ["newton", "lanes", "passes"])
def test_time_limit(way, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgd.lanes.scheduler.GLANCE", 1e-3)
    call, path = WAYS[way][0], tmp_path / "run"
    result = call(watch=[TimeLimit(1e-9), Checkpoint(path)])
    codes = np.asarray(result.status)
    assert np.all((codes == Status.TIME_LIMIT) | (codes <= Status.PRECISION_FLOOR))
    assert np.any(codes == Status.TIME_LIMIT)
    assert "time limit was reached" in (result if codes.ndim == 0 else result[-1]).message
    assert call(resume=path).converged if codes.ndim == 0 else np.all(call(resume=path).converged)


@pytest.mark.parametrize("way", ["newton", "lanes", "passes", "minibatches"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no such luck")])
def test_what_a_callback_raises_ends_the_solve(way, error, capsys, tmp_path, monkeypatch):
    def failing(seen):
        if seen.lanes or seen.evals > 1:
            raise error

    monkeypatch.setattr("jaxgd.lanes.scheduler.GLANCE", 1e-3)
    call, path = WAYS[way][0], tmp_path / "run"
    result = call(watch=[Callback(failing), Checkpoint(path)])
    assert np.any(np.asarray(result.status) == Status.INTERRUPTED)
    assert ("no such luck" in result.message + result.note) == isinstance(error, ValueError)
    assert ("in failing" in capsys.readouterr().err) == isinstance(error, ValueError)
    assert np.max(call(resume=path).evals) > np.max(result.evals)


@pytest.mark.parametrize("value", [True, np.True_, jnp.array(True), Status.STOPPED])
def test_what_ends_a_solve(value):
    assert single(watch=lambda _: value).status is Status.STOPPED


@pytest.mark.parametrize("value", [None, False, jnp.array(False)])
def test_what_does_not(value):
    assert single(watch=Callback(lambda _: value)).converged
    assert single(watch=Callback(lambda _: 7, every=1000)).converged


def test_a_callback_of_many(monkeypatch):
    monkeypatch.setattr("jaxgd.lanes.scheduler.GLANCE", 1e-3)
    seen = []
    result = many(watch=Callback(lambda now: seen.append((now.lanes, now.params, now.loss))))
    for (done, failed, size), params, loss in seen:
        assert size == 60
        assert failed == 0
        assert np.sum(np.isfinite(loss)) == done == np.sum(np.all(np.isfinite(params), axis=1))
    assert np.array_equal(seen[-1][1], result.params)


def test_many_starts(tmp_path):
    def waves(x):
        return jnp.sum(jnp.sin(3 * x) + 0.1 * x**2)

    options = {"init": np.zeros(2), "starts": 30, "bounds": (-5, 5), "dtype": "float64"}
    whole = minimize(waves, **options)
    minimize(waves, watch=[Checkpoint(tmp_path / "run", every=0), after_lanes(3)], **options)
    assert minimize(waves, resume=tmp_path / "run", **options).loss == pytest.approx(whole.loss, abs=1e-12)


# Resuming what cannot be resumed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.npz"
    single(method="lbfgs", watch=[Checkpoint(path), after(9)])
    return path


def steep(params, center):
    return 2 * valley(params, center)


OTHERS = {
    "data": lambda **options: minimize(valley, CENTER + 1e-6, START, method="lbfgs", **options),
    "loss": lambda **options: minimize(steep, CENTER, START, method="lbfgs", **options),
    "init": lambda **options: minimize(valley, CENTER, START | {"b": 0.25}, method="lbfgs", **options),
    "method": lambda **options: single(method="bfgs", **options),
    "options": lambda **options: single(method=jaxgd.LBFGS(memory=5), **options),
    "params": lambda **options: single(method="lbfgs", dtype="float32", **options),
    "terms": lambda **options: single(method="lbfgs", l2=0.1, **options),
    "trace": lambda **options: single(method="lbfgs", trace=True, **options),
    "lanes": lambda **options: minimize_many(valley, CENTER[None], START, in_axes=(None, 0), method="lbfgs", **options),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_problem_is_refused(what, checkpoint):
    with pytest.raises(ValueError, match=f"`resume` is of another problem.* {what} "):
        OTHERS[what](resume=checkpoint)


def test_closed_over_arrays_are_part_of_the_problem(tmp_path):
    def problem(scale):
        return lambda x: jnp.sum((x - scale) ** 4)

    path = tmp_path / "run"
    minimize(problem(jnp.ones(2)), init=np.zeros(2), watch=[Checkpoint(path), after(3)])
    assert minimize(problem(jnp.ones(2)), init=np.zeros(2), resume=path).converged
    with pytest.raises(ValueError, match="closure"):
        minimize(problem(2 * jnp.ones(2)), init=np.zeros(2), resume=path)


def test_other_rows_are_refused(tmp_path):
    path, bad = tmp_path / "run", X.copy()
    in_passes(watch=[Checkpoint(path), after(3)])
    bad[17, 2] += 10
    with pytest.raises(ValueError, match="data"):
        minimize(losses.logistic, batches((bad, LABELS)), jnp.zeros(4), resume=path)
    with pytest.raises(ValueError, match="data"):
        minimize(losses.logistic, batches((X[: N - 1], LABELS[: N - 1])), jnp.zeros(4), resume=path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short(part, checkpoint, tmp_path):
    whole, path = checkpoint.read_bytes(), tmp_path / "cut"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="no checkpoint, or it was cut short"):
        single(method="lbfgs", resume=path)


def test_a_file_with_a_flipped_bit_is_refused_or_the_same(checkpoint, tmp_path):
    whole, path, saved, refused = checkpoint.read_bytes(), tmp_path / "spoilt", files.read(checkpoint), 0
    for at in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[at] ^= 1 << at % 8
        path.write_bytes(spoilt)
        try:
            found = files.read(path)
        except ValueError as error:
            assert "no checkpoint" in str(error)  # noqa: PT017 - most are refused, not all
            refused += 1
        else:
            assert found.parts == saved.parts
            jax.tree.map(np.testing.assert_array_equal, found.arrays, saved.arrays)
    assert refused > len(whole) / 2


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="Leave `resume` out"):
        single(resume=tmp_path / "nothing")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    with pytest.raises(ValueError, match="no checkpoint"):
        single(resume=tmp_path / "other.npz")
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="no checkpoint"):
        single(resume=tmp_path / "pickle.npy")


def test_another_version(checkpoint, tmp_path):
    with np.load(checkpoint) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes()) | {"format": 99}
    np.savez(tmp_path / "new.npz", **(arrays | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}))
    with pytest.raises(ValueError, match="format 99"):
        single(method="lbfgs", resume=tmp_path / "new.npz")


@pytest.mark.parametrize("change", [lambda old: old[:-1], lambda old: old.astype(complex), lambda _: np.array(["a"])])
def test_a_file_made_by_hand(change, checkpoint, tmp_path):
    saved, path = files.read(checkpoint), tmp_path / "hand"
    for name, array in saved.arrays.items():
        if array.ndim:
            files.write(path, files.Saved(saved.parts, saved.arrays | {name: change(array)}), tmp_path / "draft")
            with pytest.raises(ValueError, match="is not as it was written"):
                single(method="lbfgs", resume=path)
    for parts in (3, None, "x", [3], [None]):
        files.write(path, files.Saved(parts, saved.arrays), tmp_path / "draft")
        with pytest.raises(ValueError, match="no checkpoint"):
            single(method="lbfgs", resume=path)


def test_results_that_hold_no_run():
    for result in (single(), single(method="lbfgs", stop=Stop(max_evals=3))):
        with pytest.raises(ValueError, match="holds no run"):
            single(resume=result)
    with pytest.raises(TypeError, match="`resume` must be"):
        single(resume=3)


def test_a_run_does_not_pass_through_jax():
    part = single(watch=after(3))
    assert part.run is not None
    assert jax.tree.map(lambda leaf: leaf, part).run is None


# Watchers that cannot be had


def test_bad_watchers(tmp_path):
    for seconds in (0, -1, np.nan, "1"):
        with pytest.raises(ValueError, match="`seconds` must be a positive number"):
            TimeLimit(seconds)
    with pytest.raises(ValueError, match="`every`"):
        Checkpoint(tmp_path / "run", every=-1)
    with pytest.raises(TypeError, match="`function`"):
        Callback(3)
    for watch in (3, "run.npz", Progress, [TimeLimit]):
        with pytest.raises(TypeError, match="`watch` must be a watcher"):
            single(watch=watch)
    with pytest.raises(TypeError, match="nearest is `watch`"):
        jaxgd.maximize(valley, CENTER, START, wacth=Progress())


def test_bad_paths(tmp_path):
    (tmp_path / "file").touch()
    for path, error in (
        (tmp_path / "none" / "run", FileNotFoundError),
        (tmp_path / "file" / "run", FileNotFoundError),
        (tmp_path, IsADirectoryError),
        ("/proc/run", OSError),
    ):
        with pytest.raises(error, match="`path` of the checkpoint"):
            single(watch=Checkpoint(path))


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    path, savez, calls = tmp_path / "run", np.savez, []

    def full(file, **arrays):
        calls.append(arrays)
        if len(calls) > 1:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(files.np, "savez", full)
    with pytest.warns(RuntimeWarning, match="was not saved: .*No space left"):
        result = single(watch=Checkpoint(path, every=0))
    assert result.converged
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    monkeypatch.undo()
    same(single(resume=path), result)


def test_nothing_watches_inside_jit():
    for call in (
        lambda y: minimize(valley, y, START, watch=TimeLimit(1)),
        lambda y: minimize(valley, y, START, watch=[]),
        lambda y: minimize_many(valley, y[None], START, in_axes=(None, 0), watch=[]),
    ):
        with pytest.raises(TypeError, match="`watch` and `resume` cannot be had inside"):
            jax.jit(lambda y, call=call: call(y).params)(CENTER)


def test_large_arrays_are_looked_at_in_pieces(monkeypatch):
    monkeypatch.setattr(files, "WHOLE", 1 << 10)
    large = np.arange(10_000.0).reshape(1000, 10)
    other = large.copy()
    other[-1, -1] = 0
    assert files.fingerprint(large) == files.fingerprint(large.copy())
    assert files.fingerprint(large) != files.fingerprint(other)
    assert files.fingerprint(large) != files.fingerprint(large.astype(np.float32))
    assert files.fingerprint(large) != files.fingerprint(large.reshape(-1))


def test_ctrl_c_ends_a_solve_that_nothing_but_an_empty_list_watches(ctrl_c):
    def descent(most):
        options = {"method": jaxgd.GradientDescent(1e-3), "stop": Stop(max_evals=most), "dtype": "float64", "watch": []}
        return minimize(bowl, (1e-5, CENTER), np.zeros(2), **options)

    descent(9)  # so that nothing is left to compile
    ctrl_c(2)
    result = descent(10**8)
    assert result.status is Status.INTERRUPTED
    assert result.run is not None
    assert result.evals > 1000
