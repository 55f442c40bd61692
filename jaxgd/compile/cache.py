"""Programs kept to be found again, and the time that compiling them took."""

import threading
from collections.abc import Hashable
from typing import Any

import jax

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

    seconds = 0.0  # spent tracing, lowering and compiling
    read = 0  # programs that JAX has found in a cache of its own on disk


clock = CompileClock()


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith("/jax/core/compile/"):
        clock.seconds += duration_secs


def _count(event: str, **_: str | int) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        clock.read += 1


jax.monitoring.register_event_duration_secs_listener(_listen)
jax.monitoring.register_event_listener(_count)
