"""What is compiled, how, and how often: once for all processes of a user, and never wrongly found again."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxgd
from benchmarks.kernels import kernels
from jaxgd.compile import disk, executables
from jaxgd.compile.build import Ask, prepare
from jaxgd.compile.cache import cache
from jaxgd.compile.executables import LIGHT, Compiled, quick_options
from jaxgd.core.numerics import ONE_KERNEL

DATA = np.array([12.1, 12.8, 14.9, 16.3, 17.2], np.float32)


def mse(theta, y):
    return jnp.mean((y - theta) ** 2)


def cosh(theta, y):
    return jnp.mean(jnp.cosh(y - theta) + jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]) * theta**2)


def other_constant(theta, y):
    return jnp.mean(jnp.cosh(y - theta) + jnp.array([1.0, 2.0, 3.5, 4.0, 5.0]) * theta**2)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep programs in a folder of the test, however short their compiling, and none of JAX's own."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    monkeypatch.setattr(disk.config, "cache", tmp_path / "kept")
    monkeypatch.setattr(disk, "WORTH", 0)
    anew()
    yield tmp_path / "kept"
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()
    anew()


@pytest.fixture
def options(monkeypatch):
    """The options of each program that is compiled."""
    for lanes in (False, True):
        quick_options(lanes=lanes)
    found, compile_ = [], jax.stages.Lowered.compile

    def compiling(lowered, compiler_options=None):
        found.append(compiler_options)
        return compile_(lowered, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiling)
    return found


def anew():
    """Forget what this process has compiled, as a new one would not know it."""
    cache.clear()
    jax.clear_caches()


def decay(b, data):
    x, y = data
    return b[0] * jnp.exp(-b[1] * x) + b[2] - y


# No method may come to have more: where XLA makes one kernel of what is done with an evaluation, and where not.
KERNELS = {"gd": (8, 39), "bfgs": (11, 64), "lbfgs": (12, 65), "auto": (9, 90), "lbfgsb": (16, 125)}
FEWEST = 15  # of few params, where the loop is one of them


@pytest.mark.parametrize("name", KERNELS)
def test_no_method_has_more_kernels(name):
    X = np.random.default_rng(0).normal(size=(200, 50)).astype(np.float32)
    method = jaxgd.GradientDescent(0.5) if name == "gd" else name
    program, given, _ = prepare(Ask(jaxgd.losses.logistic, (X, X[:, 0] > 0), np.zeros(50, np.float32), method))
    assert kernels(program.solve.executable(given)) <= KERNELS[name][0 if ONE_KERNEL else 1]


@pytest.mark.skipif(not ONE_KERNEL, reason="this version of XLA does not compile a loop as one kernel")
@pytest.mark.parametrize("options", [{}, {"bounds": (-1, 1)}, {"l1": 0.1}, {"least_squares": True}])
def test_a_solve_of_few_params_is_one_kernel_and_what_begins_and_ends_it(options):
    X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    ask = Ask(jaxgd.losses.logistic, (X, X[:, 0] > 0), np.zeros(8, np.float32), **options)
    if "least_squares" in options:
        ask = ask._replace(loss=decay, data=X.T[:2], init=np.ones(3, np.float32))
    program, given, _ = prepare(ask)
    assert kernels(program.solve.executable(given)) <= FEWEST


@pytest.mark.parametrize("method", ["auto", "lbfgs"])
def test_the_next_process_compiles_nothing_and_finds_the_same_bits(kept, options, method):
    first = jaxgd.minimize(mse, DATA, method=method)
    assert options
    assert len(list(kept.iterdir())) == len(options)
    options.clear()
    anew()
    second = jaxgd.minimize(mse, DATA, method=method)
    assert not options
    for name in ("params", "loss", "grad", "counts"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.usefixtures("kept")
def test_lanes_are_found_again_too(options):
    data = DATA + np.arange(6, dtype=np.float32)[:, None]
    first = jaxgd.minimize_many(mse, data)
    options.clear()
    anew()
    second = jaxgd.minimize_many(mse, data)
    assert not options
    assert np.array_equal(first.params, second.params)


def test_a_process_started_anew_reads_what_another_has_kept(tmp_path):
    code = (
        "import sys, jax, jax.numpy as jnp, jaxgd; from jaxgd.compile import disk, executables\n"
        "disk.WORTH, _ = 0, executables.quick_options(lanes=False)\n"
        "found, compile_ = [], jax.stages.Lowered.compile\n"
        "jax.stages.Lowered.compile = lambda *args, **named: found.append(1) or compile_(*args, **named)\n"
        "print(float(jaxgd.minimize(lambda x: jnp.sum((x - 3) ** 4 + x), init=jnp.zeros(2)).loss), bool(found))"
    )
    settings = {"JAXGD_CACHE": str(tmp_path), "PYTHONPATH": str(Path(jaxgd.__file__).parents[1])}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [run.split()[1] for run in runs] == ["True", "False"]
    assert runs[0].split()[0] == runs[1].split()[0]


def test_other_constants_make_another_program(kept):
    first = jaxgd.minimize(cosh, DATA)
    anew()
    assert abs(jaxgd.minimize(other_constant, DATA).loss - first.loss) > 1e-3
    assert len({path.name for path in kept.iterdir()}) > 1


@pytest.mark.usefixtures("kept")
def test_programs_that_use_other_arguments_are_told_apart():
    one, two = np.float32(1), np.float32(2)
    for _ in range(2):
        first, second = (Compiled(of, light=True) for of in (lambda a, b: 3 * a, lambda a, b: 3 * b))  # noqa: ARG005
        assert (float(first(one, two)), float(second(one, two))) == (3, 6)


@pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: content[:99] + b"?" + content[100:]])
def test_a_damaged_program_is_compiled_anew(kept, options, harm):
    first = jaxgd.minimize(mse, DATA)
    count = len(options)
    for path in kept.iterdir():
        path.write_bytes(harm(path.read_bytes()))
    anew()
    assert jaxgd.minimize(mse, DATA).params == first.params
    assert len(options) == 2 * count
    anew()
    jaxgd.minimize(mse, DATA)
    assert len(options) == 2 * count  # what was damaged was kept anew


def test_what_jax_has_read_itself_is_not_written_again(kept, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    first = jaxgd.minimize(mse, DATA)
    # JAX uses its cache until it is reset.
    jax.config.update("jax_compilation_cache_dir", None)
    for _ in range(3):
        for path in kept.glob("*"):
            path.unlink()
        anew()
        assert jaxgd.minimize(mse, DATA).params == first.params
    assert not list(kept.glob("*"))


def test_what_was_read_but_does_not_run_is_compiled(kept, options, monkeypatch):
    first = jaxgd.minimize(mse, DATA)
    options.clear()
    anew()

    def broken(*_):
        raise jax.errors.JaxRuntimeError("NOT_FOUND: Function fusion.3 not found")

    monkeypatch.setattr(disk, "read", lambda *_: broken)
    assert jaxgd.minimize(mse, DATA).params == first.params
    assert options
    assert list(kept.iterdir())


@pytest.mark.parametrize("off", ["config", "environment", "JAX's own"])
def test_nothing_is_kept_where_the_user_has_turned_it_off(kept, monkeypatch, tmp_path, off):
    if off == "config":
        monkeypatch.setattr(jaxgd.config, "cache", False)
    elif off == "environment":
        monkeypatch.setattr(jaxgd.config, "cache", None)
        monkeypatch.setenv("JAXGD_CACHE", "0")
    else:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    assert disk.folder() is None
    assert jaxgd.minimize(mse, DATA).converged
    assert not kept.exists()


def test_the_usual_folder_is_the_users_own(kept, monkeypatch):
    monkeypatch.setattr(jaxgd.config, "cache", None)
    monkeypatch.delenv("JAXGD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    monkeypatch.setattr(sys, "platform", "linux")
    assert disk.folder() == kept / "jaxgd"
    monkeypatch.setenv("JAXGD_CACHE", str(kept / "own"))
    assert disk.folder() == kept / "own"


def test_a_folder_that_cannot_be_written_to_is_no_error(kept):
    kept.write_text("a file stands where the folder should")
    assert jaxgd.minimize(mse, DATA).converged


def test_what_was_not_used_for_longest_leaves_first(kept, monkeypatch):
    jaxgd.minimize(mse, DATA)
    old = {path.name for path in kept.iterdir()}
    monkeypatch.setattr(disk, "MOST", max(path.stat().st_size for path in kept.iterdir()) * 2)
    for path in kept.iterdir():
        os.utime(path, (1, 1))
    anew()
    jaxgd.minimize(cosh, DATA)
    left = {path.name for path in kept.iterdir()}
    assert left - old
    assert sum(path.stat().st_size for path in kept.iterdir()) <= disk.MOST


@pytest.mark.usefixtures("kept")
def test_a_program_that_calls_the_host_is_compiled_each_time():
    def called(theta, y):
        shift = jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct((), "float32"), y[0])
        return (theta - jax.lax.stop_gradient(shift)) ** 2

    assert np.isclose(jaxgd.minimize(called, DATA).params, DATA[0])


def test_light_losses_are_compiled_quickly_and_heavy_ones_well(options):
    anew()
    jaxgd.minimize(cosh, DATA, method="bb")
    assert all(given == quick_options(lanes=False) for given in options)
    options.clear()
    jaxgd.minimize(mse, np.zeros(LIGHT, np.float32), method="bb", init=1.0)
    assert {} in options
    assert "xla_backend_optimization_level" in quick_options(lanes=False)
    options.clear()
    jaxgd.minimize_many(cosh, DATA, method="bb")
    assert quick_options(lanes=True) in options
    assert "xla_backend_optimization_level" not in quick_options(lanes=True)


def test_a_function_is_compiled_once_for_each_shape(options):
    double = Compiled(lambda x: 2 * x, light=True)
    for size in (2, 3, 2, 3, 3):
        assert np.array_equal(double(np.ones(size, np.float32)), 2 * np.ones(size))
    assert len(options) == 2


def test_threads_compile_what_they_share_once(options):
    function, found = Compiled(lambda x: jnp.sin(x) + 1, light=True), []
    threads = [threading.Thread(target=lambda: found.append(float(function(np.float32(1))))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(options) == 1


def test_jax_sees_through_what_is_compiled():
    function = Compiled(lambda x: jnp.sin(x) * 2, light=True)
    one = jnp.float32(1)
    assert np.isclose(function(one), 2 * np.sin(1))
    assert np.isclose(jax.jit(lambda x: function(x) + 1)(one), 2 * np.sin(1) + 1)
    assert np.isclose(jax.grad(function)(one), 2 * np.cos(1))
    assert np.allclose(jax.vmap(function)(jnp.ones(3)), 2 * np.sin(1))
    with jax.disable_jit():
        assert np.isclose(function(one), 2 * np.sin(1))
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        function(jnp.float32(np.inf))


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    known = {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(executables, "QUICK", {"xla_no_such_option": True, **known})
    quick_options.cache_clear()
    try:
        assert quick_options(lanes=False) == known
    finally:
        quick_options.cache_clear()
