"""What a function is: its code and everything it reads, so that equal functions need compiling once.

`jax.jit` knows a function by identity. A fresh lambda of the same code is then compiled again, and a global changed
since goes unseen. Here a function is known by value: its code, and recursively what it closes over, its defaults, and
the globals it reads. Arrays among these are not part of the value; they become arguments.
"""

import dataclasses
import dis
import functools
import inspect
import sysconfig
import types
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), type(...), range, slice})
_FIXED = (types.ModuleType, type, types.BuiltinFunctionType, np.dtype, np.generic, np.ufunc)
_WRAPPERS = (type(jax.jit(len)), type(functools.lru_cache(len)))  # they change what a call costs, not its value
_KINDS = "OSTUMm"  # NumPy's codes of types that JAX has no arrays of
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def describe(value: Any, arrays: list[Any], seen: dict[int, int] | None = None) -> Hashable:
    """Return a key equal for equal values, and append the arrays found on the way to `arrays`.

    What cannot be understood and may change unseen gets a key equal to nothing else.
    """
    kind = type(value)
    if kind in _ATOMS:
        return (kind, value)
    if isinstance(value, _FIXED):
        return value
    if _is_array(value):
        arrays.append(value)
        return (np.ndarray, value.shape, value.dtype)
    seen = {} if seen is None else seen
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    parts = _parts(value)
    if parts is None:
        return (kind, value) if hashable(value) else object()
    fixed, children = parts
    return (kind, fixed, *[describe(child, arrays, seen) for child in children])


def rebuild(value: Any, arrays: Iterator[Any], seen: set[int] | None = None) -> Any:
    """Return `value` with its arrays replaced, in the order in which `describe` found them."""
    if type(value) in _ATOMS or isinstance(value, _FIXED):
        return value
    if _is_array(value):
        return next(arrays)
    seen = set() if seen is None else seen
    if id(value) in seen:
        return value
    seen.add(id(value))
    parts = _parts(value)
    if parts is None:
        return value
    children = [rebuild(child, arrays, seen) for child in parts[1]]
    unchanged = all(new is old for new, old in zip(children, parts[1], strict=True))
    return value if unchanged else _assemble(value, parts[0], children)


def _parts(value: Any) -> tuple[Hashable, list[Any]] | None:
    """Return what is fixed in a value and the values it holds; None for a value that is one piece."""
    match value:
        case types.FunctionType():
            names = _read(value)
            held = [value.__globals__[name] for name in names]
            if value.__closure__ or value.__defaults__ or value.__kwdefaults__:
                cells = [cell.cell_contents for cell in _cells(value)]
                held = [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *held]
            return (value.__code__, names, None if names else value.__module__), held
        case types.MethodType():
            return None, [value.__func__, value.__self__]
        case _ if isinstance(value, _WRAPPERS):
            return "wrapper", [inspect.unwrap(value)]
        case functools.partial():
            return tuple(value.keywords), [value.func, *value.args, *value.keywords.values()]
        case dict():
            return tuple(value) if all(map(hashable, value)) else object(), list(value.values())
        case list() | tuple():
            return len(value), list(value)
        case set() | frozenset():
            return frozenset(value), []
        case np.ndarray():
            of_objects = value.dtype.kind == "O"
            return (value.shape, of_objects or value.tobytes(), value.dtype), list(value.flat) if of_objects else []
        case _ if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return tuple(names), [getattr(value, name) for name in names]
        case _ if type(value).__hash__ is object.__hash__ and hasattr(value, "__dict__"):
            return tuple(vars(value)), list(vars(value).values())
        case _:
            return None


def _assemble(value: Any, fixed: Any, children: list[Any]) -> Any:
    """Return a copy of `value` that holds `children`."""
    match value:
        case types.FunctionType():
            return _function(value, fixed[1], iter(children))
        case types.MethodType():
            return types.MethodType(*children)
        case _ if isinstance(value, _WRAPPERS):
            return children[0]
        case functools.partial():
            count = 1 + len(value.args)
            return functools.partial(*children[:count], **dict(zip(fixed, children[count:], strict=True)))
        case dict():
            return type(value)(zip(fixed, children, strict=True))
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*children)
        case list() | tuple():
            return type(value)(children)
        case np.ndarray():
            copy = np.empty(len(children), object)
            for place, child in enumerate(children):
                copy[place] = child
            return copy.reshape(fixed[0])
        case _:
            copy = object.__new__(type(value))
            vars(copy).update(vars(value))
            vars(copy).update(zip(fixed, children, strict=True))
            return copy


def _function(value: types.FunctionType, names: tuple[str, ...], children: Iterator[Any]) -> types.FunctionType:
    read = {id(cell) for cell in _cells(value)}
    cells = tuple(types.CellType(next(children)) if id(cell) in read else cell for cell in value.__closure__ or ())
    defaults = tuple(next(children) for _ in value.__defaults__ or ())
    kwdefaults = {name: next(children) for name in value.__kwdefaults__ or {}}
    namespace = {**value.__globals__, **{name: next(children) for name in names}}
    copy = types.FunctionType(value.__code__, namespace, value.__name__, defaults or None, cells or None)
    copy.__kwdefaults__ = kwdefaults or None
    copy.__qualname__, copy.__module__ = value.__qualname__, value.__module__
    return copy


def _read(function: types.FunctionType) -> tuple[str, ...]:
    """Return the globals a function reads; none for installed code, which does not change under us."""
    names = _global_names(function.__code__)
    return tuple(name for name in names if name in function.__globals__)


def _cells(function: types.FunctionType) -> list[types.CellType]:
    """Return the cells a function reads and does not write."""
    cells = function.__closure__ or ()
    written = _names(function.__code__, "STORE_DEREF") if cells else ()
    named = zip(function.__code__.co_freevars, cells, strict=True)
    return [cell for name, cell in named if name not in written and _filled(cell)]


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    if code.co_filename.startswith(_INSTALLED):
        return ()
    written = _names(code, "STORE_GLOBAL")
    return tuple(sorted(name for name in _names(code, "LOAD_GLOBAL", "LOAD_NAME") if name not in written))


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType, *operations: str) -> frozenset[str]:
    """Return the names on which a code, or one within it, does any of the operations."""
    names = {op.argval for op in dis.get_instructions(code) if op.opname in operations}
    inner = [_names(constant, *operations) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(names.union(*inner))


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _is_array(value: Any) -> bool:
    """Return whether JAX can take it as an argument."""
    return isinstance(value, jax.Array) or (isinstance(value, np.ndarray) and value.dtype.kind not in _KINDS)


def hashable(value: Any) -> bool:
    """Return whether a value can be looked up."""
    try:
        hash(value)
    except TypeError:
        return False
    return True
