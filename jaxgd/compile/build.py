"""From what a user passed to a compiled program and what to call it with."""

import dataclasses
import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from jaxgd.compile import fingerprint, inputs, loss_jaxpr, penalties
from jaxgd.compile.cache import cache
from jaxgd.compile.program import Inputs, Program, Recipe
from jaxgd.compile.row_mean import by_tiles, of_length, row_bytes
from jaxgd.core.bound_loss import as_vector
from jaxgd.core.settings import of_user, recorded_under
from jaxgd.core.stop import DEFAULT, Stop
from jaxgd.core.tiles import rows_of_tile
from jaxgd.solvers.registry import choose_method, named


class Ask(NamedTuple):
    """What a user asks for, as passed to the front door."""

    loss: Callable[..., Any]
    data: Any = None
    init: Any = None
    method: Any = "auto"
    stop: Stop = DEFAULT
    dtype: Any = None
    trace: bool = False
    has_aux: bool = False
    bounds: Any = None
    l1: Any = None
    l2: Any = None
    term: Any = None
    fixed: Any = None
    batch_size: Any = None
    sign: int = 1
    least_squares: bool = False


def prepare(ask: Ask) -> tuple[Program, Inputs, str]:
    """Return the program for what was asked, found or new, what to call it with, and what the user should know."""
    return find(ask, *in_types(ask, *as_given(ask)))


def as_given(ask: Ask) -> tuple[Any, Any]:
    """Return data and start as arrays, in the types in which they were given."""
    data, init = inputs.as_arrays(ask.data, "data"), ask.init
    return data, init if init is None else inputs.as_start(init, inputs.float_type(data))


def in_types(ask: Ask, data: Any, init: Any) -> tuple[Any, Any]:
    """Return arrays in the types in which they are computed with."""
    return inputs.in_type((data, init), ask.dtype)


def find(
    ask: Ask,
    data: Any,
    init: Any,
    lanes: int | None = None,
    *,
    most: int = 0,
    exactly: bool = False,
    rows: int = 0,
    sampled: bool = False,
) -> tuple[Program, Inputs, str]:
    """Return the program for these arrays, found or new, what to call it with, and what the user should know.

    With `lanes`, the arrays are those of one lane, and the bounds and weights may be of all. With `most`, the loss is a
    mean over the rows of `data`, evaluated by tiles of as many as a cache holds and `most` at most, or `exactly` so
    many, and `rows` of them are there; where it is `sampled`, a step has but a sample at hand.
    """
    method = named(ask.method)
    leaves, options = jax.tree.flatten((method, ask.stop))
    places = tuple(i for i, leaf in enumerate(leaves) if not isinstance(leaf, _NUMBERS))
    functions = (ask.loss, *(leaves[i] for i in places))
    numbers = numbers_of(leaves)
    if any(getattr(number, "ndim", 0) for number in numbers):
        _refuse_arrays(method, ask.stop)
    like = inputs.float_type(data) if ask.dtype is None else np.dtype(ask.dtype)
    flags = (ask.sign, ask.trace, ask.least_squares, ask.has_aux)
    shapes = data if not most else jax.tree.map(lambda leaf: of_length(leaf, 1), data)
    # What is added to the loss is read with the start at hand, which may have to be inferred; it has its shape then.
    absent = tuple(part is None for part in (ask.bounds, ask.l1, ask.l2))
    extra = absent, jax.tree.structure(ask.term), _by_value(ask.fixed)
    rest = (
        _signature((init, shapes)),
        like,
        options,
        places,
        flags,
        extra,
        recorded_under(),
        most,
        exactly,
        rows,
        sampled,
    )
    arrays: list[Any] = []
    key: Hashable = (fingerprint.describe(functions, arrays), rest)
    arrays = inputs.as_jax_has_them(arrays)
    program = cache.get(key)
    if program is _READS_CLOSURE and any(isinstance(array, Tracer) for array in arrays):
        program = None  # recording it anew says what is wrong
    elif program is _READS_CLOSURE:
        key, arrays = (key, _contents(arrays)), []
        program = cache.get(key)
    if program is None:
        loss_jaxpr.check_callable(ask.loss, with_data=data is not None)
        recipe = Recipe(None, functions, method, options, places, choose_method, *flags)
        recipe = dataclasses.replace(recipe, tile=most, exactly=exactly, rows=rows, sampled=sampled)
        program, arrays = _new_program(rest, recipe, ask, data, init, arrays, like, lanes)
    start = program.start if init is None else init
    terms, note = penalties.as_terms(ask.bounds, ask.l1, ask.l2, ask.term, start, ask.fixed, lanes)
    if init is None:
        start, note = penalties.started(start, terms), ""  # moved on its own account
    note += ask.stop.unresolved(program.dtype)
    return program, Inputs(start, data, arrays, program.on_device(numbers), terms), note


def _new_program(
    rest: Hashable,
    recipe: Recipe,
    ask: Ask,
    data: Any,
    init: Any,
    arrays: list[Any],
    like: np.dtype,
    lanes: int | None,
) -> tuple[Program, list[Any]]:
    """Record the loss and return its program, kept in the cache, with the arrays that it takes."""
    name = loss_jaxpr.name_of(ask.loss)

    def call(params: Any, data: Any, arrays: Any) -> Any:
        function = fingerprint.rebuild(recipe.functions, iter(arrays))[0] if arrays else ask.loss
        with of_user():
            out = function(params) if data is None else function(params, data)
        return half_square(out, name, has_aux=ask.has_aux) if ask.least_squares else out

    def record(arrays: list[Any]) -> loss_jaxpr.Traced:
        has_aux = ask.has_aux or ask.least_squares
        if init is None:
            return loss_jaxpr.infer_start(call, name, data, arrays, like, has_aux=has_aux)
        return loss_jaxpr.record(call, name, init, data, arrays, has_aux=has_aux)

    baked = list[Any]()
    try:
        record_of = record(arrays)
        _warn_of(record_of, ask, name, data)
    except loss_jaxpr.ReadsValuesError:
        if not arrays or any(isinstance(array, Tracer) for array in arrays):
            raise
        record_of = None
    if record_of is None or (arrays and record_of.calls_host):
        # A loss that computes with the values it closes over, here or on the host, has a program for each of them.
        record_of, baked, arrays = record([]), arrays, []
    # Described anew: a loss that counts its calls has changed what it reads.
    key = (fingerprint.describe(recipe.functions, []), rest)
    if baked:
        cache.put(key, _READS_CLOSURE)
        key = (key, _contents(baked))
    terms, _ = penalties.as_terms(ask.bounds, ask.l1, ask.l2, ask.term, record_of.start, lanes=lanes)
    fixed = penalties.as_mask(ask.fixed, record_of.start)
    if recipe.tile:
        tile = recipe.tile if recipe.exactly else rows_of_tile(row_bytes(record_of, data), recipe.tile)
        record_of, data = by_tiles(call, name, record_of.start, data, arrays, tile)
        recipe = dataclasses.replace(recipe, tile=tile)
    record_of, late = _loosened(record_of)
    recipe = dataclasses.replace(recipe, traced=record_of, derivatives=record_of.derivatives(data, [*arrays, *late]))
    program = Program(recipe, terms, fixed)
    if not late:
        cache.put(key, program)
    return program, [*arrays, *late]


def _loosened(record: loss_jaxpr.Traced) -> tuple[loss_jaxpr.Traced, list[Any]]:
    """Return the record with the constants that JAX traces as its last inputs, and these: so they have derivatives."""
    pairs = list(zip(record.jaxpr.constvars, record.constants, strict=True))
    late = [pair for pair in pairs if isinstance(pair[1], Tracer)]
    if not late:
        return record, []
    concrete = [pair for pair in pairs if not isinstance(pair[1], Tracer)]
    invars = [*record.jaxpr.invars, *(var for var, _ in late)]
    names = record.jaxpr.debug_info.with_unknown_names()
    jaxpr = record.jaxpr.replace(constvars=[var for var, _ in concrete], invars=invars, debug_info=names)
    constants = tuple(constant for _, constant in concrete)
    return dataclasses.replace(record, jaxpr=jaxpr, constants=constants), [constant for _, constant in late]


def half_square(out: Any, name: str, *, has_aux: bool) -> tuple[jax.Array, Any]:
    """Return half of the sum of squares of residuals, and the residuals as aux, with the user's own where there is."""
    residuals, aux = out if has_aux else (out, ())
    leaves = jax.tree.leaves(residuals)
    if not leaves or not all(hasattr(leaf, "dtype") for leaf in leaves):
        msg = (
            f"`residuals` {name} must return an array of residuals, one for each observation; it returns"
            f" {loss_jaxpr.described(residuals)}. Return y - model(params, x), and leave the sum of squares to"
            " `least_squares`; for a loss that is one number, use `minimize`."
        )
        raise loss_jaxpr.LossError(msg)
    vector = as_vector(residuals, jax.numpy.result_type(np.float32, *(leaf.real.dtype for leaf in leaves)))
    return (vector @ vector) / 2, (residuals, aux) if has_aux else residuals


def _warn_of(record: loss_jaxpr.Traced, ask: Ask, name: str, data: Any) -> None:
    """Warn of what is a loss but hardly the one that was meant."""
    if rows := loss_jaxpr.all_pairs(record):
        msg = (
            f"`loss` {name} subtracts shapes ({rows}, 1) and ({rows},): that is all pairs, shape ({rows}, {rows})."
            " For one difference a row, pass `y[:, 0]`."
        )
        warnings.warn(msg, stacklevel=10)
    residuals = jax.tree.leaves(record.aux[0] if ask.has_aux else record.aux) if ask.least_squares else []
    rows = max([0, *(leaf.shape[0] for leaf in jax.tree.leaves(data) if np.ndim(leaf))])
    if ask.least_squares and sum(leaf.size for leaf in residuals) == 1 < rows:
        msg = (
            f"`residuals` {name} returns one number for all of `data`. Is it a loss? Then use `minimize`; for"
            " `least_squares` return y - model(params, x), one residual for each observation."
        )
        warnings.warn(msg, stacklevel=10)


def _refuse_arrays(*options: Any) -> None:
    """Say which option holds an array where one number belongs."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(options):
        if getattr(leaf, "ndim", 0):
            name = jax.tree_util.keystr(path[1:]).lstrip(".")
            msg = (
                f"`{name}` must be one number; got an array of shape {leaf.shape}. One number for each of many problems"
                " is for `jaxgd.minimize_many`."
            )
            raise ValueError(msg)


def numbers_of(options: Any) -> list[Any]:
    """Return the numbers among the leaves of a method and a stop; the other leaves are functions."""
    return [leaf for leaf in jax.tree.leaves(options) if isinstance(leaf, _NUMBERS)]


_READS_CLOSURE = object()
_NUMBERS = (int, float, np.number, np.ndarray, jax.Array)


def _contents(arrays: list[Any]) -> Hashable:
    return tuple((array.shape, np.asarray(array).tobytes()) for array in arrays)


def _by_value(fixed: Any) -> Hashable:
    if fixed is None:
        return None
    leaves, structure = jax.tree.flatten(fixed)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        msg = "`fixed` says how many parameters there are, so its values must be known: no argument of `jit` or `vmap`."
        raise TypeError(msg)
    arrays = [np.asarray(leaf) for leaf in leaves]
    return structure, tuple((array.shape, array.dtype, array.tobytes()) for array in arrays)


def _signature(tree: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
