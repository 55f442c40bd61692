"""Functions compiled by XLA: quickly where they are light, and found again on disk by the next process."""

import threading
import time
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state

from jaxgd.compile import disk
from jaxgd.compile.cache import clock

# Numbers that an evaluation makes at most for kernels that are compiled quickly: so few take no longer than the loop
# around them, which such kernels do not slow. Of many, they may take twice as long.
LIGHT = 1 << 16
# XLA's former emitter of kernels, where it has one still; and LLVM's passes but for the dear ones, which lanes need:
# without them the bits of a lane depend on the slot that it is in.
QUICK_LANES = {"xla_cpu_use_fusion_emitters": False}
QUICK = {**QUICK_LANES, "xla_backend_optimization_level": 1}
_TOP = get_opaque_trace_state()


class Compiled:
    """A function of pytrees of arrays, compiled for each of their shapes and types.

    Where JAX traces the call, or is set to look into it, it is what `jax.jit` makes of the function.
    """

    def __init__(self, function: Callable[..., Any], *, light: bool, lanes: bool = False, **options: Any) -> None:
        """Prepare; `light` says that kernels may be compiled quickly, `options` are those of `jax.jit`.

        `lanes`: it computes with many problems at once, whose bits must not depend on their places.
        """
        # All arguments are the program's, also those it does not use: by their places it is told apart on disk.
        self._jitted = jax.jit(function, keep_unused=True, **options)
        self._light, self._lanes, self._donates = light, lanes, "donate_argnums" in options
        self._last: tuple[Any, Any] = (None, None)  # the default device, and the executable last used there
        self._found: dict[Hashable, Any] = {}
        self._lock = threading.Lock()  # so that what several threads need is compiled once

    def __call__(self, *args: Any) -> Any:
        config: Any = jax.config
        looked_into = config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs
        if looked_into or is_traced():
            return self._jitted(*args)
        device, last = self._last
        if device is config.jax_default_device and last is not None:
            try:
                return last(*args)
            except (TypeError, ValueError):  # of other shapes or types, or on other devices
                pass
        found, unproven = self._found_for(args)
        if not unproven or self._donates:
            return found(*args)
        try:
            return jax.block_until_ready(found(*args))
        except jax.errors.JaxRuntimeError:  # what was read cannot run here, whatever its key says
            return self._found_for(args, anew=True)[0](*args)

    def executable(self, *args: Any) -> Any:
        """Return what runs for such arguments on the default device, compiled or read."""
        return self._found_for(args)[0]

    def _found_for(self, args: tuple[Any, ...], *, anew: bool = False) -> tuple[Any, bool]:
        """Return it, and whether it was read and has not run yet; compiled `anew` on demand."""
        config: Any = jax.config
        device, (leaves, structure) = config.jax_default_device, jax.tree.flatten(args)
        key, unproven = (device, structure, *map(_kind, leaves)), False
        with self._lock:
            if anew or key not in self._found:
                clock.announce()
                options = quick_options(lanes=self._lanes) if self._light else {}
                lowered = self._jitted.trace(*args).lower()
                self._found[key], unproven = compiled_or_read(lowered, options, anew=anew)
            found = self._found[key]
        self._last = device, found
        return found, unproven


def is_traced() -> bool:
    """Return whether JAX traces what calls this."""
    return get_opaque_trace_state() != _TOP


def _kind(leaf: Any) -> Hashable:
    """Return what an executable is compiled for, of an argument."""
    if isinstance(leaf, jax.Array):
        return leaf.shape, leaf.dtype, leaf.weak_type, leaf.sharding, leaf.committed
    return np.shape(leaf), np.result_type(leaf), type(leaf)


def compiled_or_read(lowered: Any, options: dict[str, Any], *, anew: bool = False) -> tuple[Any, bool]:
    """Return the executable of a lowered function, and whether it is one that an earlier process has kept on disk."""
    began, kept = time.perf_counter(), disk.folder()
    path = kept and kept / disk.key_of(lowered, options)
    if path and not anew and (found := disk.read(path, lowered)):
        clock.compile += time.perf_counter() - began
        return found, True
    began, read = time.perf_counter(), clock.read
    executable = lowered.compile(compiler_options=options)
    # What JAX itself has read cannot be written again: its kernels are lost on the way.
    if path and clock.read == read and time.perf_counter() - began > disk.WORTH:
        disk.keep(path, executable)
    return executable, False


@cache
def quick_options(*, lanes: bool) -> dict[str, Any]:
    """Return those of the options to compile quickly with that this version of XLA has; none but on CPU."""
    found, wanted = {}, QUICK_LANES if lanes else QUICK
    for name, value in wanted.items() if jax.default_backend() == "cpu" else ():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError:
            continue
        found[name] = value
    return found
