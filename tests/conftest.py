"""The tables stand beside the tests."""

import sys
from pathlib import Path

import jax
import pytest

from jaxgd.cache import cache

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def _room_for_code():
    """Forget what a module compiled: a process has room for the code of some hundreds of programs."""
    yield
    cache.clear()
    jax.clear_caches()
