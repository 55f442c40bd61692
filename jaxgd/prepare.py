"""From what a user passed to a compiled program and what to call it with."""

import dataclasses
import difflib
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxgd import closure, inputs, traced
from jaxgd.program import Inputs, Program, Recipe, cache, precision
from jaxgd.run import Solver
from jaxgd.solvers.descent import LBFGS
from jaxgd.stop import Stop


def prepare(
    loss: Any, data: Any, init: Any, method: Any, stop: Stop, dtype: Any, *, trace: bool, has_aux: bool, sign: int
) -> tuple[Program, Inputs]:
    """Return the program for these arguments, found or new, and what to call it with."""
    data = inputs.as_arrays(data, "data")
    if init is not None:
        init = inputs.as_start(init, inputs.float_type(data))
    if dtype is not None:
        data, init = inputs.cast((data, init), np.dtype(dtype))
    method = _named(method)
    leaves, options = jax.tree.flatten((method, stop))
    places = tuple(i for i, leaf in enumerate(leaves) if not isinstance(leaf, _NUMBERS))
    functions = (loss, *(leaves[i] for i in places))
    numbers = [leaf for leaf in leaves if isinstance(leaf, _NUMBERS)]
    like = inputs.float_type(data) if dtype is None else np.dtype(dtype)
    rest = (_signature((init, data)), like, options, places, has_aux, sign, trace, precision())
    arrays: list[Any] = []
    key: Hashable = (closure.describe(functions, arrays), rest)
    program = cache.get(key)
    if program is _READS_CLOSURE and any(isinstance(array, Tracer) for array in arrays):
        program = None  # recording it anew says what is wrong
    elif program is _READS_CLOSURE:
        key, arrays = (key, _contents(arrays)), []
        program = cache.get(key)
    if program is None:
        traced.check_callable(loss, with_data=data is not None)
        recipe = Recipe(None, functions, method, options, places, _choose, sign, trace)
        program, arrays = _new_program(rest, recipe, data, init, arrays, like, has_aux=has_aux)
    start = program.start if init is None else init
    return program, Inputs(start, data, arrays, program.on_device(numbers))


def _new_program(
    rest: Hashable, recipe: Recipe, data: Any, init: Any, arrays: list[Any], like: np.dtype, *, has_aux: bool
) -> tuple[Program, list[Any]]:
    """Record the loss and return its program, kept in the cache, with the arrays that it takes."""
    loss = recipe.functions[0]
    name = traced.name_of(loss)

    def call(params: Any, data: Any, arrays: Any) -> Any:
        function = closure.rebuild(recipe.functions, iter(arrays))[0] if arrays else loss
        return function(params) if data is None else function(params, data)

    def record(arrays: list[Any]) -> traced.Traced:
        if init is None:
            return traced.infer_start(call, name, data, arrays, like, has_aux=has_aux)
        return traced.trace(call, name, init, data, arrays, has_aux=has_aux)

    baked: list[Any] = []
    try:
        record_of = closure.changed_by(lambda: record(arrays), recipe.functions)
    except traced.ReadsValuesError:
        if not arrays or any(isinstance(array, Tracer) for array in arrays):
            raise
        # A loss that computes with the values it closes over has a program for each of them.
        record_of, baked, arrays = record([]), arrays, []
    # Described anew: a loss that counts its calls has changed what it reads.
    key = (closure.describe(recipe.functions, []), rest)
    if baked:
        cache.put(key, _READS_CLOSURE)
        key = (key, _contents(baked))
    program = Program(dataclasses.replace(recipe, traced=record_of))
    if not any(isinstance(constant, Tracer) for constant in record_of.constants):
        cache.put(key, program)
    return program, arrays


_READS_CLOSURE = object()
_NUMBERS = (int, float, np.number, np.ndarray, jax.Array)


def _contents(arrays: list[Any]) -> Hashable:
    return tuple((array.shape, np.asarray(array).tobytes()) for array in arrays)


def _signature(tree: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


_METHODS: dict[str, Callable[[], Any]] = {"auto": lambda: None, "lbfgs": LBFGS}


def _named(method: Any) -> Any:
    """Return the method, or what its name stands for; None stands for a choice still to be made."""
    if not isinstance(method, str):
        if isinstance(method, type) or not (hasattr(method, "init") and hasattr(method, "step")):
            own = method is LBFGS or (isinstance(method, type) and hasattr(method, "step"))
            remedy = f"Call it: `method={method.__name__}(...)`" if own else "Try `method='auto'`"
            msg = f"`method` must be a name or a solver with `init` and `step`; got {method!r}. {remedy}."
            raise TypeError(msg)
        return method
    if method not in _METHODS:
        nearest = difflib.get_close_matches(method.lower(), _METHODS, n=1, cutoff=0.0)[0]
        msg = f"`method` {method!r} is unknown; the nearest is {nearest!r}. Names: {', '.join(map(repr, _METHODS))}."
        raise ValueError(msg)
    return _METHODS[method]()


def _choose(method: Any, size: int) -> tuple[Solver, str]:
    """Return the solver to use for `size` parameters, and what to say of it."""
    if method is None:
        memory = min(size, 10)
        return LBFGS(memory), f"L-BFGS with memory {memory} (chosen: gradients only, no step size to set)"
    return method, getattr(method, "name", repr(method))
