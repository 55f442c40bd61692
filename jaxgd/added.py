"""What users ask for beside a loss: bounds, penalties, constraints, and parameters held still."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.terms import L1, Box, Terms


def as_terms(
    bounds: Any, l1: Any, l2: Any, term: Any, start: Any, fixed: Any = None, lanes: int | None = None
) -> tuple[Terms | None, str]:
    """Return what is added to the loss, or None, and what the user should know; `start` gives the shape of params.

    With `lanes`, a weight of shape `(lanes,)` and a bound with `lanes` before the shape of its parameter stand for
    numbers that differ by lane.
    """
    if bounds is None and l1 is None and l2 is None and term is None:
        return None, ""
    ridge = None if l2 is None else _weight(l2, "l2", lanes)
    box, note = (None, "") if bounds is None else _as_box(bounds, start, fixed, lanes)
    if term is not None:
        if isinstance(term, type) or not (hasattr(term, "prox") and hasattr(term, "inside")):
            msg = f"`term` must be one of jaxgd's terms, such as `jaxgd.Simplex()`; got {term!r}."
            raise TypeError(msg)
        if bounds is not None or l1 is not None:
            msg = f"`term={term!r}` cannot be joined with `bounds` or `l1`: the prox of their sum is unknown."
            raise ValueError(msg)
    elif l1 is not None:
        _check_real(start)
        term = L1(_weight(l1, "l1", lanes), box)
    else:
        term = box
    return Terms(term, ridge), note


def by_lane(terms: Terms, start: Any) -> list[bool]:
    """Return for each leaf of the terms whether it differs by lane: it has an axis more than one lane's has."""
    ends = [leaf.ndim for leaf in jax.tree.leaves(start)] * 2
    box = terms.term if isinstance(terms.term, Box) else getattr(terms.term, "box", None)
    alone = [0] * (len(jax.tree.leaves(terms.term)) - (len(ends) if box else 0)) + (ends if box else [])
    leaves = jax.tree.leaves(terms)
    return [np.ndim(leaf) > dims for leaf, dims in zip(leaves, [*alone, 0][: len(leaves)], strict=True)]


def as_mask(fixed: Any, start: Any) -> np.ndarray | None:
    """Return which entries of the flat params are held still, or None for none."""
    if fixed is None:
        return None
    spread = _spread(fixed, start, "fixed", missing=False)
    parts: list[np.ndarray] = []
    for path, leaf, like in spread:
        mask = np.asarray(leaf)
        if mask.dtype != bool:
            msg = f"`fixed{path}` must be true or false, or an array of these; got {leaf!r}."
            raise TypeError(msg)
        part = np.broadcast_to(mask, like.shape).ravel()
        parts += [part] * (2 if jnp.issubdtype(like.dtype, jnp.complexfloating) else 1)
    mask = np.concatenate(parts)
    if mask.all():
        msg = f"`fixed` holds all {mask.size} parameters still, so nothing is left to minimize over."
        raise ValueError(msg)
    return mask


def _weight(value: Any, name: str, lanes: int | None) -> Any:
    if isinstance(value, Tracer):
        return value
    if lanes is not None and np.shape(value) == (lanes,):
        for weight in (np.min(value), np.max(value)):
            _weight(weight, name, None)
        return np.asarray(value)
    if np.ndim(value) or not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        msg = f"`{name}` must be one number; got {value!r}."
        raise TypeError(msg)
    if not 0 <= value < float("inf"):
        msg = f"`{name}` must be 0 or more, and finite; got {value!r}. A negative penalty has no minimum."
        raise ValueError(msg)
    return float(value)


def _check_real(start: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(start):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            where = jax.tree_util.keystr(path)
            msg = f"`l1` cannot shrink the complex parameter params{where}. Split it into real and imaginary parts."
            raise TypeError(msg)


def _as_box(bounds: Any, start: Any, fixed: Any, lanes: int | None) -> tuple[Box, str]:
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):  # noqa: PLR2004 - lower and upper
        msg = f"`bounds` must be a pair (lower, upper), each a number or in the shape of params; got {bounds!r}."
        raise ValueError(msg)
    ends: list[list[Any]] = []
    for end, name, default in zip(bounds, ("bounds[0]", "bounds[1]"), (-np.inf, np.inf), strict=True):
        ends.append([_bound(*given, name, default, lanes) for given in _spread(end, start, name, default)])
    structure, leaves = jax.tree.structure(start), jax.tree.leaves_with_path(start)
    still = _spread(False if fixed is None else fixed, start, "fixed", missing=False)
    outside = 0
    for lower, upper, (path, leaf), (_, held, _) in zip(*ends, leaves, still, strict=True):
        if isinstance(lower, Tracer) or isinstance(upper, Tracer):
            continue
        below, above = np.broadcast_arrays(lower, upper)
        crossed = np.argwhere(~(below <= above))
        if len(crossed):
            at = tuple(map(int, crossed[0]))
            where = jax.tree_util.keystr(path) + (str(list(at)) if at else "")
            msg = (
                f"`bounds` cross at params{where}: lower {below[at]} is above upper"
                f" {above[at]}. Swap them, or use -inf and inf where there is no bound."
            )
            raise ValueError(msg)
        if lanes is None and not isinstance(leaf, Tracer | jax.ShapeDtypeStruct):
            outside += int(np.sum(((np.asarray(leaf) < lower) | (np.asarray(leaf) > upper)) & ~np.asarray(held)))
    note = f" {outside} of the start's numbers lay outside the bounds and were moved inside." if outside else ""
    return Box(structure.unflatten(ends[0]), structure.unflatten(ends[1])), note


def _bound(path: str, leaf: Any, like: Any, name: str, missing: float, lanes: int | None) -> Any:
    """Return one bound as an array in the shape and type of its parameter, after the lanes if it differs by lane."""
    by_lane = lanes is not None and np.ndim(leaf) == len(like.shape) + 1 and len(leaf) == lanes
    shape: tuple[Any, ...] = (lanes, *like.shape) if by_lane else like.shape
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        msg = f"`bounds` cannot order the complex parameter params{path}. Split it into real and imaginary parts."
        raise TypeError(msg)
    if np.shape(leaf) != shape and np.ndim(leaf):
        try:
            fits = np.broadcast_shapes(np.shape(leaf), shape) == shape
        except ValueError:
            fits = False
        if not fits:
            msg = (
                f"`{name}{path}` has shape {np.shape(leaf)}; the parameter there has shape {like.shape}."
                " Pass one number, or an array of that shape."
            )
            raise ValueError(msg)
    if isinstance(leaf, Tracer | jax.Array):
        return jnp.broadcast_to(leaf, shape).astype(jax.dtypes.canonicalize_dtype(like.dtype))
    if np.asarray(leaf).dtype == object:
        leaf = np.array([missing if item is None else item for item in np.ravel(leaf)]).reshape(np.shape(leaf))
    if np.asarray(leaf).dtype.kind not in "biuf":
        msg = f"`{name}{path}` must be real numbers, or None where there is no bound; got {leaf!r}."
        raise TypeError(msg)
    return np.broadcast_to(np.asarray(leaf, like.dtype), shape)


def _spread(tree: Any, start: Any, name: str, missing: Any) -> list[tuple[str, Any, Any]]:
    """Return for each leaf of `start` its path, the value that `tree` gives it, and the leaf.

    A value stands for all that is below it in `start`; what a dict does not name is `missing`.
    """
    found: list[tuple[str, Any, Any]] = []

    def walk(value: Any, like: Any, path: str) -> None:
        value = missing if value is None else value
        if hasattr(like, "shape"):
            if isinstance(value, list | tuple):
                value = np.asarray(value)
            elif isinstance(value, dict):
                msg = f"`{name}{path}` is a dict; the parameter there is an array of shape {like.shape}."
                raise ValueError(msg)
            found.append((path, value, like))
            return
        below, _ = jax.tree_util.tree_flatten_with_path(like, is_leaf=lambda node: node is not like)
        items = [(jax.tree_util.keystr(key), getattr(key[0], "key", None), child) for key, child in below]
        if isinstance(value, dict) and isinstance(like, dict):
            unknown = sorted(map(str, set(value) - set(like)))
            if unknown:
                msg = f"`{name}{path}` names {unknown}, which params do not have; they have {sorted(map(str, like))}."
                raise ValueError(msg)
            parts = [value.get(key, missing) for _, key, _ in items]
        elif isinstance(value, list | tuple) and not isinstance(like, dict):
            if len(value) != len(items):
                msg = f"`{name}{path}` has {len(value)} parts; params have {len(items)} there."
                raise ValueError(msg)
            parts = list(value)
        elif not getattr(value, "ndim", 0):
            parts = [value] * len(items)
        else:
            msg = f"`{name}{path}` does not have the structure of params there: {jax.tree.structure(like)}."
            raise ValueError(msg)
        for part, (key, _, child) in zip(parts, items, strict=True):
            walk(part, child, path + key)

    walk(tree, start, "")
    return found
