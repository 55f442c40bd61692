"""A run taken apart to be saved, and put together again."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.program import Inputs, Program
from jaxgd.watch.checkpoint import fingerprint


def about(program: Program, given: Inputs, data: Any = None) -> dict[str, Any]:
    """Return what a run is of: the loss, all it is given, and how it is solved.

    `data`: what stands for the data, where they are not all at hand.
    """
    recipe = program.recipe
    method, stop = recipe.options.children()
    tests = len(given.numbers) - stop.num_leaves
    return {
        "jax": jax.__version__,
        "loss": fingerprint([_text(recipe.traced.jaxpr), *recipe.traced.constants]),
        "closure": fingerprint(given.arrays),
        "data": fingerprint(given.data) if data is None else data,
        "init": fingerprint(given.init),
        "terms": fingerprint(given.terms),
        "method": program.method,
        "options": [_text(method), *map(_number, given.numbers[:tests])],
        "stop": [_text(stop), *map(_number, given.numbers[tests:])],
        "params": f"{program.size} of {program.dtype}",
        "trace": recipe.trace,
    }


def _text(value: Any) -> str:
    # Where functions lie in memory differs from one process to the next.
    return re.sub(r"0x[0-9a-f]+", "", str(value))


def _number(number: Any) -> Any:
    return fingerprint(number) if np.ndim(number) else float(number)


def taken_apart(name: str, tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a pytree by name and number, on the host."""
    return {f"{name}.{at}": _on_host(leaf) for at, leaf in enumerate(jax.tree.leaves(tree))}


def together(name: str, arrays: dict[str, np.ndarray], like: Any, *, exact: bool = False) -> Any:
    """Return the pytree that was taken apart; `like` has its structure, and the types of its leaves.

    Unless it is `exact`, lanes come before their axes, and the first may have another length, as a trace has.
    """
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten([_typed(arrays.get(f"{name}.{at}"), leaf, exact) for at, leaf in enumerate(leaves)])


def _on_host(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(getattr(leaf, "dtype", np.dtype(bool)), jax.dtypes.prng_key)
    # A copy: the array itself may be given away to the next burst.
    return np.array(jax.random.key_data(leaf) if is_key else leaf)


def _typed(array: np.ndarray | None, like: Any, exact: bool) -> Any:  # noqa: FBT001 - fixed by position
    if array is not None and jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    # Types that NumPy does not have itself come back without their names.
    if array is not None and array.dtype.kind == "V" and array.dtype.itemsize == like.dtype.itemsize:
        array = array.view(like.dtype)
    inner = like.shape if exact else like.shape[1:]
    if (
        array is None
        or array.dtype != like.dtype
        or array.shape[0 if exact else max(0, array.ndim - len(inner)) :] != inner
    ):
        found = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
        msg = (
            f"`resume`: where {like.dtype} of shape {like.shape} must be, {found} was saved: the file is not as it was"
            " written. Begin anew, without `resume`."
        )
        raise ValueError(msg)
    return array
