"""Programs kept to be found again, and the time that compiling them took."""

import threading
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

# Programs kept, by weight; the least recently used leaves first. On Linux a process has room for the code of some 400,
# beyond which XLA aborts: each kernel takes of 65,530 mappings.
MOST = 256


class Cache:
    """Programs by key, the least recently used first."""

    def __init__(self, most: int) -> None:
        """Keep programs of a weight of `most` in all."""
        self._most = most
        self._programs: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """Return what is kept under `key`, or None."""
        with self._lock:
            program = self._programs.pop(key, None)
            if program is not None:
                self._programs[key] = program
        return program

    def put(self, key: Hashable, program: Any) -> None:
        with self._lock:
            self._programs[key] = program
        self.trim()

    def trim(self) -> None:
        """Forget programs where all together weigh too much; a program gains weight by its pools."""
        with self._lock:
            weights = {key: getattr(program, "weight", 0) for key, program in self._programs.items()}
            total = sum(weights.values())
            for key in list(weights)[:-1]:
                if total <= self._most:
                    break
                del self._programs[key]
                total -= weights[key]

    def clear(self) -> None:
        with self._lock:
            self._programs.clear()


cache = Cache(MOST)


class CompileClock(threading.local):
    """What JAX reports of compiling in this thread."""

    trace = 0.0  # seconds spent tracing and lowering
    compile = 0.0  # seconds spent compiling, or reading what was compiled
    read = 0  # programs that JAX has found in a cache of its own on disk
    announce: Callable[[], Any] = bool  # called before anything is traced, lowered and compiled

    @property
    def spent(self) -> np.ndarray:
        """The seconds, shape `(2,)`."""
        return np.array([self.trace, self.compile])

    @contextmanager
    def announcing(self, announce: Callable[[], Any]) -> Generator[None]:
        """Call `announce` in the meantime."""
        before, self.announce = self.announce, announce
        try:
            yield
        finally:
            self.announce = before


clock = CompileClock()


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        clock.compile += duration_secs
    elif event.startswith("/jax/core/compile/"):
        clock.trace += duration_secs


def _count(event: str, **_: str | int) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        clock.read += 1


jax.monitoring.register_event_duration_secs_listener(_listen)
jax.monitoring.register_event_listener(_count)
