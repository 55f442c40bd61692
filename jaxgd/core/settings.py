"""Settings of JAX: what this library computes under its own, and a user's loss is recorded under the user's."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import jax

# Under others the library would trip over itself: it mixes types and ranks as NumPy does, moves data, tries where a
# loss is not finite, and is nothing but compiled loops.
OWN: dict[str, tuple[Any, Callable[[Any], AbstractContextManager[Any]]]] = {
    "jax_numpy_dtype_promotion": ("standard", jax.numpy_dtype_promotion),
    "jax_numpy_rank_promotion": ("allow", jax.numpy_rank_promotion),
    "jax_debug_nans": (False, jax.debug_nans),
    "jax_debug_infs": (False, jax.debug_infs),
    "jax_disable_jit": (False, jax.disable_jit),
}
GUARDS = [f"jax_transfer_guard_{way}" for way in ("host_to_device", "device_to_device", "device_to_host")]
OF_RECORDS = ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")  # what a loss is recorded under
_NOTHING = nullcontext()
_user = threading.local()


def own() -> AbstractContextManager[Any]:
    """Return the context in which the library computes; those that hold by default are not set again."""
    config: Any = jax.config
    others = {name: now for name, (value, _) in OWN.items() if (now := getattr(config, name)) != value}
    guarded = any(getattr(config, name) not in (None, "allow") for name in GUARDS)
    if not others and not guarded:
        return _NOTHING
    stack = ExitStack()
    before = getattr(_user, "settings", {})
    _user.settings = before | {name: others[name] for name in OF_RECORDS if name in others}
    stack.callback(setattr, _user, "settings", before)
    for name in others:
        value, context = OWN[name]
        stack.enter_context(context(value))
    if guarded:
        stack.enter_context(jax.transfer_guard("allow"))
    return stack


def of_user() -> AbstractContextManager[Any]:
    """Return the context in which a user's loss is recorded."""
    theirs = getattr(_user, "settings", {})
    if not theirs:
        return _NOTHING
    stack = ExitStack()
    for name, value in theirs.items():
        stack.enter_context(OWN[name][1](value))
    return stack


def recorded_under() -> tuple[Any, ...]:
    """Return the settings of JAX that change what a loss's record says."""
    config: Any = jax.config
    theirs = getattr(_user, "settings", {})
    promotions = (theirs.get(name) or getattr(config, name) for name in OF_RECORDS)
    return (config.jax_enable_x64, config.jax_default_matmul_precision, *promotions)


def of_thread() -> list[Callable[[], Any]]:
    """Return contexts that bring this thread's settings to another."""
    config: Any = jax.config
    wide, precision = config.jax_enable_x64, config.jax_default_matmul_precision
    return [lambda: jax.enable_x64(wide), lambda: jax.default_matmul_precision(precision), own]
