"""What users ask for beside a loss: bounds, penalties, constraints, and parameters held still."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.tree_util import keystr

from jaxgd.compile.leaf_options import spread
from jaxgd.core.terms import L1, Box, Terms, Weights, box_of


def as_pair(bounds: Any, init: Any) -> Any:
    """Return bounds as a pair (lower, upper), from that, SciPy's `Bounds`, a list of pairs, or a dict of pairs."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return bounds.lb, bounds.ub
    if isinstance(bounds, dict):
        for name, pair in bounds.items():
            if not (isinstance(pair, tuple | list) and len(pair) == 2):  # noqa: PLR2004 - lower and upper
                msg = f"`bounds[{name!r}]` must be a pair (low, high), None for no bound; got {pair!r}."
                raise ValueError(msg)
        return ({name: pair[0] for name, pair in bounds.items()}, {name: pair[1] for name, pair in bounds.items()})
    if not (isinstance(bounds, tuple | list) and bounds and all(map(_is_pair, bounds))):
        return bounds
    lower, upper = ([pair[end] for pair in bounds] for end in (0, 1))
    if len(bounds) != 2:  # noqa: PLR2004 - lower and upper
        return lower, upper
    if isinstance(init, tuple) or np.ndim(init) != 1 or np.size(init) != len(bounds):
        return bounds
    crossed = any(low is not None and high is not None and low > high for low, high in zip(*bounds, strict=True))
    if crossed:
        return lower, upper
    low, high = bounds
    msg = (
        f"`bounds={bounds!r}` may be a pair for each of two params, or the lower and the upper bounds. Write"
        f" `bounds=(np.array({list(low)}), np.array({list(high)}))` for lower and upper, or"
        f" `bounds=(np.array({lower}), np.array({upper}))` for a pair each."
    )
    raise ValueError(msg)


def _is_pair(item: Any) -> bool:
    """Whether it is (low, high) of one number: a tuple, as lists and arrays are bounds of several."""
    return isinstance(item, tuple) and len(item) == 2 and all(np.ndim(end) == 0 for end in item)  # noqa: PLR2004


def as_terms(
    bounds: Any, l1: Any, l2: Any, term: Any, start: Any, fixed: Any = None, lanes: int | None = None
) -> tuple[Terms | None, str]:
    """Return what is added to the loss, or None, and what the user should know; `start` gives the shape of params.

    With `lanes`, an array of shape `(lanes,)` is a weight for each lane, also of one leaf whose parameter has another
    shape, and a bound or weight with `lanes` before the shape of its parameter stands for numbers that differ by lane.
    """
    if bounds is None and l1 is None and l2 is None and term is None:
        return None, ""
    ridge = None if l2 is None else _weights(l2, "l2", start, lanes)
    box, note = (None, "") if bounds is None else _as_box(bounds, start, fixed, lanes)
    if term is not None:
        if isinstance(term, type) or not all(hasattr(term, name) for name in ("value", "prox", "project")):
            msg = (
                f"`term` must be one of jaxgd's terms, such as `jaxgd.Simplex()`, or have `value`, `prox` and"
                f" `project`; got {term!r}."
            )
            raise TypeError(msg)
        if any(leaf is term for leaf in jax.tree.leaves(term)):
            msg = (
                f"`term` must be a pytree; got {term!r}. Decorate its class by `jax.tree_util.register_static`, or by"
                " `register_dataclass` where it holds numbers."
            )
            raise TypeError(msg)
        if bounds is not None or l1 is not None:
            msg = f"`term={term!r}` cannot be joined with `bounds` or `l1`: the prox of their sum is unknown."
            raise ValueError(msg)
    elif l1 is not None:
        term = L1(_weights(l1, "l1", start, lanes), box)
    else:
        term = box
    return Terms(term, ridge), note


def started(start: Any, terms: Terms | None) -> Any:
    """Return an inferred start inside the bounds: as it is where it lies between them, else in their middle.

    Beyond a single bound by 1, or by more where rounding would hide that; of lanes, within the bounds of all.
    """
    box = terms and box_of(terms.term)
    if not box:
        return start

    def moved(leaf: Any, lower: Any, upper: Any) -> Any:
        xp: Any = jnp if isinstance(lower, Tracer) or isinstance(upper, Tracer) else np
        lanes = tuple(range(np.ndim(lower) - leaf.ndim)), tuple(range(np.ndim(upper) - leaf.ndim))
        lower, upper = xp.max(lower, axis=lanes[0]), xp.min(upper, axis=lanes[1])
        root = float(jnp.finfo(leaf.dtype).eps) ** 0.5
        with np.errstate(all="ignore"):
            beyond = [end + side * xp.maximum(1, root * xp.abs(end)) for end, side in ((lower, 1), (upper, -1))]
            middle = xp.where(xp.isfinite(lower) & xp.isfinite(upper), lower / 2 + upper / 2, beyond[0])
        middle = xp.where(xp.isfinite(lower), middle, beyond[1])
        stays = ((lower < leaf) & (leaf < upper)) | (lower > upper)
        return xp.where(stays, leaf, middle).astype(leaf.dtype)

    return jax.tree.map(moved, start, box.lower, box.upper)


def by_lane(terms: Terms, start: Any) -> list[bool]:
    """Return for each leaf of the terms whether it differs by lane: it has an axis more than one lane's has."""
    dims, found = [leaf.ndim for leaf in jax.tree.leaves(start)], []
    for part in jax.tree.leaves(terms, is_leaf=lambda node: isinstance(node, Box | Weights)):
        leaves = jax.tree.leaves(part)
        alone = dims * (len(leaves) // len(dims)) if isinstance(part, Box | Weights) else [0]
        found += [np.ndim(leaf) > own for leaf, own in zip(leaves, alone, strict=True)]
    return found


def as_mask(fixed: Any, start: Any) -> np.ndarray | None:
    """Return which entries of the flat params are held still, or None for none."""
    if fixed is None:
        return None
    parts: list[np.ndarray] = []
    for path, leaf, like in spread(fixed, start, "fixed", missing=False):
        mask = np.asarray(leaf)
        if mask.dtype != bool:
            remedy = "To hold a param by its name write `fixed={'name': True}`"
            msg = f"`fixed{path}` must be true or false, or an array of these; got {leaf!r}. {remedy}."
            raise TypeError(msg)
        part = np.broadcast_to(mask, like.shape).ravel()
        parts += [part] * (2 if jnp.issubdtype(like.dtype, jnp.complexfloating) else 1)
    mask = np.concatenate(parts)
    if mask.all():
        msg = f"`fixed` holds all {mask.size} parameters still, so nothing is left to minimize over."
        raise ValueError(msg)
    return mask


def is_row(weight: Any) -> bool:
    """Whether a weight is numbers in a row, which may be one for each lane."""
    numbers = isinstance(weight, list) and all(isinstance(item, int | float | np.number) for item in weight)
    return numbers or (isinstance(weight, np.ndarray | jax.Array) and weight.ndim == 1)


def rows(weights: dict[str, Any], init: Any) -> dict[str, int]:
    """Return how many numbers the weights have that are no weights of a param's entries: one for each lane."""
    found = {name: len(weight) for name, weight in weights.items() if is_row(weight)}
    for name, weight in weights.items() if init is not None else ():
        leaves = () if weight is None or is_row(weight) else spread(weight, init, name, missing=0)
        own = [(path, leaf) for path, leaf, like in leaves if is_row(leaf) and np.shape(leaf) != np.shape(like)[-1:]]
        found |= {name + path: len(leaf) for path, leaf in own}
    return found


def for_all(weight: Any) -> Any:
    """Return a weight as one that is never taken as one number for each lane."""
    return tuple(weight) if is_row(weight) else weight


def _weights(value: Any, name: str, start: Any, lanes: int | None) -> Any:
    """Return a weight as a number, or one for each lane, or one for each number of the params."""
    if lanes is not None and is_row(value) and len(value) == lanes:
        number: Any = value if isinstance(value, jax.Array) else np.asarray(value)
    elif jax.tree_util.all_leaves([value]) and not np.ndim(value):
        number = value
    else:
        parts = [_weight(*given, name, lanes) for given in spread(value, start, name, missing=0)]
        return Weights(jax.tree.structure(start).unflatten(parts))
    _check_weight(number, name)
    for path, like in jax.tree.leaves_with_path(start) if name == "l1" else []:
        _check_shrinks(number, keystr(path), like)
    return number if isinstance(number, Tracer) or np.ndim(number) else float(number)


def _weight(path: str, leaf: Any, like: Any, name: str, lanes: int | None) -> Any:
    """Return one weight as an array in the shape of its parameter, as `Weights` hold it."""
    _check_weight(leaf, name + path)
    if name == "l1":
        _check_shrinks(leaf, path, like)
    part = _in_shape(path, leaf, like, name, lanes)
    return part * (1 + 1j) if jnp.issubdtype(like.dtype, jnp.complexfloating) else part


def _check_shrinks(weight: Any, path: str, like: Any) -> None:
    if isinstance(weight, Tracer) or np.any(weight):
        _check_real("`l1` cannot shrink", path, like)


def _check_real(refusal: str, path: str, like: Any) -> None:
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        msg = f"{refusal} the complex parameter params{path}. Split it into real and imaginary parts."
        raise TypeError(msg)


def _check_weight(value: Any, name: str) -> None:
    if isinstance(value, Tracer):
        return
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "biuf" and not jnp.issubdtype(numbers.dtype, jnp.floating):
        msg = f"`{name}` must be one number, or an array in the shape of its parameter; got {value!r}."
        raise TypeError(msg)
    wrong = numbers[~((numbers >= 0) & (numbers < np.inf))]
    if wrong.size:
        msg = f"`{name}` must be 0 or more, and finite; got {wrong[0]}. A negative penalty has no minimum."
        raise ValueError(msg)


def _as_box(bounds: Any, start: Any, fixed: Any, lanes: int | None) -> tuple[Box, str]:
    if not (isinstance(bounds, tuple | list) and len(bounds) == 2):  # noqa: PLR2004 - lower and upper
        msg = f"`bounds` must be a pair (lower, upper), each a number or in the shape of params; got {bounds!r}."
        raise ValueError(msg)
    ends: list[list[Any]] = []
    for end, name, default in zip(bounds, ("bounds[0]", "bounds[1]"), (-np.inf, np.inf), strict=True):
        ends.append([_bound(*given, name, default, lanes) for given in spread(end, start, name, default)])
    structure, leaves = jax.tree.structure(start), jax.tree.leaves_with_path(start)
    still = spread(False if fixed is None else fixed, start, "fixed", missing=False)
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
    _check_real("`bounds` cannot order", path, like)
    if not isinstance(leaf, jax.Array):
        if np.asarray(leaf).dtype == object:
            leaf = np.array([missing if item is None else item for item in np.ravel(leaf)]).reshape(np.shape(leaf))
        if np.asarray(leaf).dtype.kind not in "biuf":
            msg = f"`{name}{path}` must be real numbers, or None where there is no bound; got {leaf!r}."
            raise TypeError(msg)
    return _in_shape(path, leaf, like, name, lanes)


def _in_shape(path: str, leaf: Any, like: Any, name: str, lanes: int | None) -> Any:
    """Return real numbers in the shape and type of their parameter, after the lanes if they differ by lane."""
    by_lane = lanes is not None and np.ndim(leaf) == len(like.shape) + 1 and len(leaf) == lanes
    shape: tuple[Any, ...] = (lanes, *like.shape) if by_lane else like.shape
    if np.shape(leaf) != shape and np.ndim(leaf):
        # As NumPy does, but for an axis of 1: more likely that was meant for params of another length.
        fits = np.ndim(leaf) <= len(shape) and np.shape(leaf) == shape[len(shape) - np.ndim(leaf) :]
        if not fits and lanes is not None and np.shape(leaf) == (lanes,):
            shape, leaf = (lanes, *like.shape), jnp.reshape(leaf, (lanes, *[1] * len(like.shape)))
        elif not fits:
            each = "" if lanes is None else f", or one of these for each of the {lanes} problems"
            msg = (
                f"`{name}{path}` has shape {np.shape(leaf)}; the parameter there has shape {like.shape}."
                f" Pass one number, or an array of that shape{each}."
            )
            raise ValueError(msg)
    dtype = jnp.finfo(like.dtype).dtype
    if isinstance(leaf, jax.Array):
        return jnp.broadcast_to(leaf, shape).astype(jax.dtypes.canonicalize_dtype(dtype))
    return np.broadcast_to(np.asarray(leaf, dtype), shape)
