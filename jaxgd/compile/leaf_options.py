"""What is given for each leaf of a pytree: by its structure, by that of its upper levels, or by name."""

import difflib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr


def spread(tree: Any, start: Any, name: str, missing: Any) -> list[tuple[str, Any, Any]]:
    """Return for each leaf of `start` its path, the value that `tree` gives it, and the leaf.

    A value stands for all that is below it in `start`; what a dict does not name is `missing`.
    """
    found: list[tuple[str, Any, Any]] = []

    def walk(value: Any, like: Any, path: str) -> None:
        value = missing if value is None else value
        if hasattr(like, "shape"):
            if isinstance(value, list | tuple):
                traced = any(isinstance(item, jax.Array) for item in value)
                value = (jnp if traced else np).asarray(value)
            elif isinstance(value, dict):
                msg = f"`{name}{path}` is a dict; the parameter there is an array of shape {like.shape}."
                raise ValueError(msg)
            found.append((path, value, like))
            return
        below, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=lambda node: node is not like)
        if isinstance(value, dict):
            parts = _by_name(value, like, [key for key, _ in below], name + path, missing)
        elif jax.tree.structure(value, is_leaf=lambda node: node is not value) == structure:
            parts = jax.tree.leaves(value, is_leaf=lambda node: node is not value)
        elif isinstance(value, list | tuple) and not isinstance(like, dict):
            if len(value) != len(below):
                msg = f"`{name}{path}` has {len(value)} parts; params have {len(below)} there."
                raise ValueError(msg)
            parts = list(value)
        elif not getattr(value, "ndim", 0):
            parts = [value] * len(below)
        else:
            msg = f"`{name}{path}` does not have the structure of params there: {jax.tree.structure(like)}."
            raise ValueError(msg)
        for part, (key, child) in zip(parts, below, strict=True):
            walk(part, child, path + keystr(key))

    walk(tree, start, "")
    return found


def _by_name(value: dict[Any, Any], like: Any, children: list[Any], where: str, missing: Any) -> list[Any]:
    """Return what a dict gives each child of `like`: a key is that of a child, or a path such as "layers.0.w"."""
    paths = [path[:i] for path, _ in jax.tree.leaves_with_path(like) for i in range(1, len(path) + 1)]
    named: dict[str, list[Any]] = {}
    for path in dict.fromkeys([*children, *paths]):
        named.setdefault(_dotted(path), []).append(path)
    direct: dict[Any, Any] = {}
    inner: dict[Any, dict[str, Any]] = {}
    for key, part in value.items():
        found = [path for path in children if getattr(path[0], "key", path) == key] or named.get(key, [])
        if len(found) != 1:
            raise ValueError(_unnamed(key, found, [_dotted(path) for path in children], list(named), where))
        child, *rest = found[0]
        if child in direct or (child in inner and not rest):
            msg = f"`{where}` gives {_dotted([child])!r} twice, by its own name and by a path, in {[*value]}. Drop one."
            raise ValueError(msg)
        if rest:
            inner.setdefault(child, {})[_dotted(rest)] = part
        else:
            direct[child] = part
    return [(direct | inner).get(child, missing) for (child,) in children]


def _dotted(path: Any) -> str:
    return keystr(tuple(path), simple=True, separator=".")


def _unnamed(key: Any, found: list[Any], children: list[str], names: list[str], where: str) -> str:
    """Return what to say of a key that is no one part of the params."""
    if found:
        return f"`{where}` names {key!r}, which is {len(found)} parts of params: {[*map(keystr, found)]}. Nest dicts."
    nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)
    near = f"; the nearest path is {nearest[0]!r}" if nearest else ""
    return f"`{where}` names {key!r}, which params do not have; they have {children}{near}."
