"""Where pools run: the devices of workers, and their memory."""

import os
import re
from typing import Any

import jax
import numpy as np

MOST_WORKERS = 16
_BLOCKING = r"= (fft|\w+_callback)\b"


def may_block(jaxpr: Any) -> bool:
    """Whether a loss holds what may wait for ever where two programs run at once on CPU.

    FFT and host functions wait in a thread of XLA for others of its threads, which may all wait so; LAPACK does not,
    called as `lapack.one_by_one` does.
    """
    return bool(re.search(_BLOCKING, str(jaxpr)))


def places(*, alone: bool) -> list[Any]:
    """Return the device of each worker: on CPU one worker a core, elsewhere two, of which one is always computing.

    `alone`: on CPU one program must not run beside another.
    """
    devices = jax.local_devices()
    preferred = jax.config.jax_default_device  # type: ignore[attr-defined]
    if preferred is not None:
        devices = [preferred] if not isinstance(preferred, str) else jax.local_devices(backend=preferred)[:1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = max(1, cores // len(devices)) if devices[0].platform == "cpu" else 2
    if alone and devices[0].platform == "cpu":
        return devices[:1]
    return (devices * each)[: max(len(devices), MOST_WORKERS)]


_used: set[int] = set()  # the processes that have computed, of this one and those it was forked from


def refuse_forked() -> None:
    """Refuse to compute in a process that was forked from one that has: it would wait for threads it does not have."""
    if _used - {os.getpid()}:
        msg = (
            "this process was forked from one in which jaxgd has computed, and JAX would wait for ever in it. Start"
            " processes by `multiprocessing.get_context('spawn')`, or fork them before the first solve."
        )
        raise RuntimeError(msg)
    _used.add(os.getpid())


def of_all_processes(tree: Any) -> Any:
    """Return arrays of all processes on each of them, the processes first."""
    from jax.experimental import multihost_utils  # noqa: PLC0415 - for several processes alone

    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree))


def memory_of(device: Any) -> int:
    """Return the bytes of memory of a device."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 33
