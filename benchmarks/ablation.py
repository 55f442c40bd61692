"""The verdict without one of its predicates, to see what each brings."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from jaxgd.compile.cache import cache
from jaxgd.core import convergence, stop

# What each predicate says where it is left out.
ABLATIONS: dict[str, Callable[..., Any]] = {
    "noise_seen": lambda *_: 0.0,
    "trend": lambda *_: 0.0,
    "as_shrunk": lambda *_: 0.0,
    "resting": lambda *_: np.False_,
    "pinned": lambda *_: np.False_,
    "refuted": lambda *_: np.False_,
    "on_a_ray": lambda *_: np.False_,
    "flat_ahead": lambda *_: np.False_,
    "on_a_kink": lambda *_: np.False_,
}


@contextlib.contextmanager
def left_out(predicate: str | None) -> Iterator[None]:
    """Judge without a predicate of `jaxgd.core.convergence` in the meantime."""
    if predicate is None:
        yield
        return
    with contextlib.ExitStack() as patches:
        for module in (convergence, stop):
            if hasattr(module, predicate):
                patches.enter_context(mock.patch.object(module, predicate, ABLATIONS[predicate]))
        cache.clear()
        try:
            yield
        finally:
            cache.clear()
