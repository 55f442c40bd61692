"""LOSS of the command line: a ready-made loss by its name, or a function from a file."""

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd import losses


class Ready(NamedTuple):
    """A ready-made loss: the data it takes; its number, by name, default, and what it must be below; what it fits."""

    regression: bool
    number: str = ""
    default: float | None = None
    below: float = float("inf")
    mean: Callable[[Any], Any] | None = None  # of y, told by X w


class Loaded(NamedTuple):
    """A loss, and what is known of it where it is ready-made."""

    function: Callable[..., Any]
    name: str
    ready: Ready | None = None


READY = {
    "mse": Ready(regression=False),
    "mae": Ready(regression=False),
    "huber": Ready(regression=False, number="delta", default=1.0),
    "quantile": Ready(regression=False, number="q", below=1.0),
    "squared": Ready(regression=True, mean=lambda linear: linear),
    "huber_regression": Ready(regression=True, number="delta", default=1.0, mean=lambda linear: linear),
    "logistic": Ready(regression=True, mean=jax.nn.sigmoid),
    "softmax": Ready(regression=True),
    "hinge": Ready(regression=True),
    "poisson": Ready(regression=True, mean=jnp.exp),
}


class OwnError(Exception):
    """What the user's own code raised, which is the cause; the message says where, and `hint` what it may be about."""

    hint = ""


def written(*, regression: bool) -> str:
    """Return the ready-made losses of one kind as they are written."""
    return ", ".join(
        f"{name}:{ready.number.upper()}" if ready.number and ready.default is None
        else f"{name}[:{ready.number.upper()}]" if ready.number else name
        for name, ready in READY.items()
        if ready.regression == regression
    )  # fmt: skip


def loaded(text: str) -> Loaded:
    """Return the loss that LOSS names."""
    file, colon, function = text.rpartition(":")
    if colon and (file.endswith(".py") or "/" in file):
        return Loaded(_of_file(Path(file), function), text)
    name, colon, number = text.partition(":")
    if name not in READY:
        if text.endswith(".py"):
            raise ValueError(
                f"LOSS {text!r} names a file and no function. Write {text}:loss, with the function's name."
            )
        nearest = difflib.get_close_matches(name.lower(), READY, n=1, cutoff=0.0)[0]
        msg = f"there is no ready-made LOSS {name!r}; the nearest is {nearest!r}. All: {', '.join(READY)}."
        raise ValueError(f"{msg} For a function of your own write file.py:function.")
    ready, make = READY[name], getattr(losses, name)
    if not ready.number:
        if colon:
            raise ValueError(f"LOSS {text!r}: {name} takes no number. Write {name}.")
        return Loaded(make, text, ready)
    return Loaded(make(_number(text, number, ready)), text, ready)


def _number(text: str, number: str, ready: Ready) -> float:
    if not number and ready.default is not None:
        return ready.default
    name, between = text.partition(":")[0], f"above 0 and below {ready.below:g}" if ready.below == 1 else "above 0"
    example = 0.9 if ready.below == 1 else 1.5
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value < ready.below:
        got = f"got {number!r}" if number else "none is given"
        raise ValueError(f"LOSS {text!r}: {ready.number} must be a number {between}; {got}. Write {name}:{example}.")
    return value


def _of_file(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise FileNotFoundError(f"LOSS: there is no file {str(path)!r}.")
    module = _imported(path)
    found = getattr(module, name, None)
    if found is None:
        there = [key for key, value in vars(module).items() if _is_own(value, module)]
        near = difflib.get_close_matches(name, there, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else f" It has: {', '.join(there)}." if there else ""
        raise ValueError(f"LOSS: {path} has no function {name!r}.{guess}")
    if not callable(found) or isinstance(found, type):
        raise TypeError(
            f"LOSS: {name!r} in {path} is no function; it has type {type(found).__name__}. Name a function."
        )
    return found


def _is_own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _imported(path: Path) -> ModuleType:
    """Import a file by its path, under a name of its own; its folder is where its imports are found first."""
    name = "_loss_of_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"LOSS: {str(path)!r} is no Python file. Write file.py:function.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        with _found_first(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        raise OwnError(f"LOSS: {path} fails on import") from error
    return module


@contextmanager
def _found_first(folder: Path) -> Generator[None]:
    """Look for modules in the folder first; leave no compiled files there, as Python leaves none of a script."""
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = written
