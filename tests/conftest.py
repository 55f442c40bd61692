"""The tables stand beside the tests."""

import _thread
import itertools
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import jax
import pytest

from jaxgd.compile.cache import cache
from jaxgd.lanes import groups

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config):
    """Compile once what several modules, workers and processes compile; those started from here see the same folder."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="jaxgd-compiled-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


MAPPINGS = Path("/proc/self/maps")  # on Linux
MOST = 40_000  # of the 65,530 that a process may have; a solve's code takes some 400, without which XLA aborts
finished = itertools.count(1)


def _forget():
    cache.clear()
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _room_for_code():
    """Forget what a module compiled: a process has room for the code of some hundreds of programs."""
    yield
    _forget()


@pytest.fixture(autouse=True)
def _room_in_a_long_module():
    """Forget what was compiled where it is more than a process has room for; looked at now and then."""
    yield
    if next(finished) % 8 == 0 and MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST:
        _forget()


@pytest.fixture
def several_lengths(monkeypatch):
    """Fill groups up to the fewest rows, however many programs that takes."""
    monkeypatch.setattr(groups, "PROGRAM", 1)


@pytest.fixture
def ctrl_c():
    """Return a function that interrupts the test in so many seconds, also where pytest is run with SIGINT ignored."""
    before, timers = signal.signal(signal.SIGINT, signal.default_int_handler), []

    def interrupt_in(seconds):
        timers.append(threading.Timer(seconds, _thread.interrupt_main))
        timers[-1].start()

    yield interrupt_in
    for timer in timers:
        timer.cancel()
    signal.signal(signal.SIGINT, before)
