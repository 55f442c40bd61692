"""LAPACK called for one matrix at a time, on CPU.

jaxlib before 0.11.2 gives the matrices of one call to threads of XLA, and waits for them in another of these. Where all
wait, none goes on, ever. A call for one matrix never waits. So each call becomes one of `lapack_p`, which JAX
differentiates and batches as the call that it stands for, and which is a loop over the matrices where it is compiled
for CPU.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive
from jax.interpreters import ad, batching, mlir

P = ParamSpec("P")
T = TypeVar("T")

# What calls LAPACK, and the axes of its first argument that are one matrix.
_OF_A_MATRIX = (
    *("cholesky", "eig", "eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu", "ormqr", "qr", "schur"),
    *("svd", "triangular_solve", "tridiagonal"),
)
_CALLS = dict.fromkeys(_OF_A_MATRIX, 2) | {"tridiagonal_solve": 1}

NEEDED = jax.__version_info__ < (0, 11, 2)
lapack_p = Primitive("one_by_one")
lapack_p.multiple_results = True


class Call(NamedTuple):
    """What JAX calls LAPACK by."""

    primitive: Any
    params: tuple[tuple[str, Any], ...]

    def __call__(self, *args: Any) -> list[Any]:
        """Return what it returns for all matrices at once."""
        found = self.primitive.bind(*args, **dict(self.params))
        return found if self.primitive.multiple_results else [found]


def one_by_one(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function of pytrees of arrays, in which LAPACK is called for one matrix at a time where it must be."""
    if not NEEDED:
        return function

    def called(*args: P.args, **_: P.kwargs) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        found = jax.core.eval_jaxpr(_split(closed.jaxpr), closed.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return called


def _split(part: Any) -> Any:
    """Return a jaxpr with the calls of LAPACK in it replaced, at any depth; what is none as it is."""
    if isinstance(part, ClosedJaxpr):
        return part.replace(jaxpr=_split(part.jaxpr))
    return part.replace(eqns=[_replaced(equation) for equation in part.eqns]) if isinstance(part, Jaxpr) else part


def _replaced(equation: Any) -> Any:
    if equation.primitive.name in _CALLS:
        call = Call(equation.primitive, tuple(equation.params.items()))
        return equation.replace(primitive=lapack_p, params={"call": call})
    parts = jax.tree.map(_split, equation.params, is_leaf=lambda part: isinstance(part, ClosedJaxpr | Jaxpr))
    return equation.replace(params=parts)


def _each(*args: Any, call: Call) -> list[Any]:
    """Return what the call returns, by a call for each matrix."""
    lead = args[0].shape[: args[0].ndim - _CALLS[call.primitive.name]]
    if math.prod(lead) == 1:
        return call(*args)
    rows = [arg.reshape(-1, *arg.shape[len(lead) :]) for arg in args]
    found = jax.lax.map(lambda row: call(*row), rows)
    return [leaf.reshape(*lead, *leaf.shape[1:]) for leaf in found]


def _of_some(call: Call, args: Any, places: list[int]) -> Callable[..., list[Any]]:
    """Return the call as a function of the arguments in these places."""

    def of(*moving: Any) -> list[Any]:
        own = dict(zip(places, moving, strict=True))
        return call(*(own.get(i, arg) for i, arg in enumerate(args)))

    return of


def _pushed(primals: Any, tangents: Any, *, call: Call) -> Any:
    """Return the outputs and their tangents."""
    places = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]

    def push(primals: Any, along: Any) -> Any:
        found, moved = jax.jvp(_of_some(call, primals, places), [primals[i] for i in places], along)
        return found, [leaf for leaf in moved if leaf.dtype != jax.dtypes.float0]

    found, moved = one_by_one(push)(primals, [tangents[i] for i in places])
    left = iter(moved)
    zero: Any = ad.Zero
    return found, [next(left) if jnp.issubdtype(x.dtype, jnp.inexact) else zero.from_primal_value(x) for x in found]


def _pulled(cotangents: Any, *args: Any, call: Call) -> Any:
    """Return the cotangents of the arguments that the call is linear in."""
    places = [i for i, arg in enumerate(args) if ad.is_undefined_primal(arg)]
    fixed = [None if i in places else arg for i, arg in enumerate(args)]

    def pull(cotangents: Any, fixed: Any) -> Any:
        return jax.linear_transpose(_of_some(call, fixed, places), *(args[i].aval for i in places))(cotangents)

    found = iter(one_by_one(pull)([ad.instantiate_zeros(leaf) for leaf in cotangents], fixed))
    return [next(found) if i in places else None for i in range(len(args))]


def _batched(args: Any, axes: Any, *, call: Call) -> Any:
    """Return the outputs of several calls, the axis of these first; what they have in common stays common."""
    found = one_by_one(jax.vmap(call, in_axes=tuple(axes)))(*args)
    return found, [0] * len(found)


def _at_once(*args: Any, call: Call) -> list[Any]:
    """Return what the call returns for values, compiled also where the user has turned that off."""
    with jax.disable_jit(disable=False):
        return jax.jit(partial(lapack_p.bind, call=call))(*args)


lapack_p.def_abstract_eval(lambda *args, call: jax.make_jaxpr(call)(*args).out_avals)
lapack_p.def_impl(_at_once)
ad.primitive_jvps[lapack_p] = _pushed
ad.primitive_transposes[lapack_p] = _pulled
batching.primitive_batchers[lapack_p] = _batched
mlir.register_lowering(lapack_p, mlir.lower_fun(lambda *args, call: call(*args), multiple_results=True))
mlir.register_lowering(lapack_p, mlir.lower_fun(_each, multiple_results=True), platform="cpu")
