"""A user's loss, called once: its computation is recorded, checked, and evaluated from the record ever after."""

import functools
import inspect
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxgd.compile.work import operations
from jaxgd.core.bound_loss import Derivatives
from jaxgd.core.linear_products import Cut, Dots


@dataclass(frozen=True)
class Traced:
    """The record of a loss for one structure of parameters, data and closed-over arrays."""

    start: Any  # pytree of `jax.ShapeDtypeStruct`: the parameters it takes
    aux: Any  # likewise: what it returns beside its value, () for nothing
    jaxpr: Any
    constants: tuple[Any, ...]

    def __call__(self, params: Any, data: Any, arrays: Any) -> tuple[jax.Array, Any]:
        """Return the loss's value and aux."""
        value, *aux = jax.core.eval_jaxpr(self.jaxpr, self.constants, *jax.tree.leaves((params, data, arrays)))
        return value, jax.tree.unflatten(jax.tree.structure(self.aux), aux)

    @functools.cached_property
    def dots(self) -> Dots | None:
        """The record cut at the products of data and params, or None."""
        return Dots.of(self.jaxpr, len(jax.tree.leaves(self.start)))

    @functools.cached_property
    def operations(self) -> int:
        """How many arithmetic operations an evaluation takes, about."""
        return operations(self.jaxpr)

    def cut(self, data: Any, arrays: Any) -> Cut | None:
        """Return the loss cut at the products of data and params, or None."""
        return None if self.dots is None else Cut(self.dots, self.constants, jax.tree.leaves((data, arrays)))

    @property
    def calls_host(self) -> bool:
        """Whether it holds a function for the host, which may close over anything."""
        text = str(self.jaxpr)
        return "pure_callback" in text or "io_callback" in text

    def derivatives(self, data: Any, arrays: Any) -> Derivatives:
        """Return which of the loss's derivatives JAX has."""
        text, shapes = str(self.jaxpr), jax.tree.map(_shape, (self.start, data, arrays))

        def once(params: Any, data: Any, arrays: Any) -> Any:
            return jax.grad(lambda params: self(params, data, arrays)[0])(params)

        def twice(params: Any, data: Any, arrays: Any) -> Any:
            grad, backward = jax.vjp(lambda params: once(params, data, arrays), params)
            return backward(grad)

        if "while[" in text and not _traces(once, shapes):
            return Derivatives.FORWARD
        if "custom_vjp" not in text:
            return Derivatives.ALL
        return Derivatives.BACKWARD if _traces(twice, shapes) else Derivatives.FIRST


_NAMES_OF_DATA = {"data", "batch", "dataset", "df", "table"}  # of no params
Loss = Callable[[Any, Any, Any], Any]  # of params, data or None, and the arrays the user's loss closes over


class ReadsValuesError(TypeError):
    """A loss needs the values of what it is given, by NumPy or in an `if`, where only shapes are known."""


def check_callable(loss: Any, *, with_data: bool) -> None:
    """Refuse what cannot be called as a loss."""
    if not callable(loss):
        msg = f"`loss` must be a function of (params, data); got {loss!r}. Write def loss(params, data): ..."
        raise TypeError(msg)
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * (1 + with_data))
    except TypeError as error:
        have = "`data` was given" if with_data else "no `data` was given"
        want = "pass `data`, or write loss(params)"
        if with_data:
            want = "write loss(params, data), or pass the start by name, `init=...`"
            if getattr(loss, "__module__", "") == "jaxgd.losses":
                want = f"make it first, as losses.{name_of(loss)}(...) does"
        msg = f"`loss` {name_of(loss)}{signature} does not fit: {have}; {want}."
        raise TypeError(msg) from error
    first = next(iter(signature.parameters), "")
    if with_data and first in _NAMES_OF_DATA:
        msg = f"`loss` {name_of(loss)}{signature} takes `{first}` first; the params come first: loss(params, {first})."
        raise TypeError(msg)


def record(loss: Loss, name: str, start: Any, data: Any, arrays: Any, *, has_aux: bool) -> Traced:
    """Record the loss at parameters like `start`; raise with a remedy if it is no loss."""
    shapes = jax.tree.map(_shape, (start, data, arrays))
    outputs: list[Any] = []

    def call(start: Any, data: Any, arrays: Any) -> Any:
        try:
            out = loss(start, data, arrays)
        except Exception as error:
            given = "" if data is None else f" and `data` of {_types(data)}"
            remedy = "Pass an `init`, and data, as it takes them"
            error.add_note(f"`loss` {name} raised this for `init` of {_types(start)}{given}. {remedy}.")
            raise
        outputs.append(jax.tree.map(lambda leaf: _shape(leaf) if isinstance(leaf, jax.Array) else leaf, out))
        return out

    try:
        closed, out = jax.make_jaxpr(call, return_shape=True)(*shapes)
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ReadsValuesError(_reads_values(error, name)) from error
    except TypeError:
        # A value that is no array, such as a string among aux, is refused by JAX after the loss has returned.
        if not outputs:
            raise
        out = outputs[0]
        _check_output(out, name, has_aux=has_aux)
        msg = f"`loss` {name} returns aux that holds something else than arrays: {out[1]!r}. Return arrays only."
        raise LossError(msg) from None
    _check_output(out, name, has_aux=has_aux)
    if not _depends(closed.jaxpr, len(jax.tree.leaves(start))):
        msg = (
            f"`loss` {name} does not depend on its first argument, so there is nothing to minimize over."
            " Write loss(params, data), and compute with params."
        )
        raise LossError(msg)
    aux = out[1] if has_aux else ()
    return Traced(shapes[0], aux, closed.jaxpr, tuple(closed.consts))


def infer_start(loss: Loss, name: str, data: Any, arrays: Any, dtype: np.dtype, *, has_aux: bool) -> Traced:
    """Record the loss at a start found by trial: a scalar, else a vector as long as data's trailing dimension."""
    lengths = {leaf.shape[-1] for leaf in jax.tree.leaves(data) if leaf.ndim}
    failures: list[str] = []
    found: list[Traced] = []
    for shape in [(), *((length,) for length in sorted(lengths))]:
        start = jax.ShapeDtypeStruct(shape, dtype)
        try:
            found.append(record(loss, name, start, data, arrays, has_aux=has_aux))
        except ReadsValuesError:
            raise
        except Exception as error:
            if shape == () and isinstance(error, LossError):
                raise
            tried = f"zeros of shape {shape}" if shape else "the scalar 0"
            said = (str(error).strip().splitlines() or ["no message"])[0]
            failures.append(f"  {tried}: {type(error).__name__}: {said}")
        if shape == () and found:
            return found[0]
    if len(found) == 1:
        return found[0]
    if found:
        fit = ", ".join(str(record.start.shape) for record in found)
        msg = f"`init` is not given, and starts of several shapes fit `loss` {name}: {fit}. Pass `init`."
        raise ValueError(msg)
    msg = f"`init` is not given, and no start tried fits `loss` {name}. Pass `init`. Tried:\n" + "\n".join(failures)
    raise ValueError(msg)


class LossError(TypeError):
    """A loss runs but is no loss: it does not return one real number that depends on the parameters."""


def name_of(loss: Any) -> str:
    """Return the loss's name as messages show it."""
    return getattr(loss, "__qualname__", type(loss).__qualname__)


def _traces(function: Callable[..., Any], shapes: Any) -> bool:
    try:
        jax.eval_shape(function, *shapes)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _types(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")


def _check_output(out: Any, name: str, *, has_aux: bool) -> None:
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):  # noqa: PLR2004 - value and aux
        msg = f"`loss` {name} must return (value, aux) with `has_aux=True`; it returns {described(out)}."
        raise LossError(msg)
    value: Any = out[0] if has_aux else out
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        hint = " Pass `has_aux=True` if it returns (value, aux)." if isinstance(value, tuple) else " Return a scalar."
        hint = " Does it end without `return`?" if value is None else hint
        msg = f"`loss` {name} must return one number; it returns {described(value)}.{hint}"
        raise LossError(msg)
    if value.shape != ():
        msg = (
            f"`loss` {name} must return one number; it returns an array of shape {value.shape}."
            " Take its mean or sum; of residuals, use `jaxgd.least_squares`; for many problems, `jaxgd.minimize_many`."
        )
        raise LossError(msg)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        hint = (
            "Take its real part or absolute value"
            if jnp.issubdtype(value.dtype, jnp.complexfloating)
            else "Compute with floats"
        )
        msg = f"`loss` {name} must return a real float; it returns {value.dtype}. {hint}."
        raise LossError(msg)


def described(value: Any) -> str:
    """Return what a value is, as messages say it."""
    if hasattr(value, "shape"):
        return f"an array of shape {value.shape}"
    return (
        f"a {type(value).__name__} of length {len(value)}"
        if isinstance(value, tuple | list)
        else f"a {type(value).__name__}"
    )


def all_pairs(record: Traced) -> int:
    """Return of how many rows all pairs are subtracted, a column of data from a row of predictions for one; 0 if none.

    Where both were made a column and a row within the loss, that is meant.
    """
    jaxpr, found = record.jaxpr, len(jax.tree.leaves(record.start))
    of_params = reached(jaxpr, jaxpr.invars[:found])
    made = {id(var): equation.primitive.name for equation in jaxpr.eqns for var in equation.outvars}
    for equation in jaxpr.eqns:
        if equation.primitive.name not in {"add", "sub"}:
            continue
        sides, shape = equation.invars, equation.outvars[0].aval.shape
        rows = shape[0] if len(shape) == 2 else 0  # noqa: PLR2004 - a matrix
        meant = all(made.get(id(side)) in {"broadcast_in_dim", "reshape"} for side in sides)
        pairs = rows > 1 and {side.aval.shape for side in sides} == {(rows, 1), (1, rows)}
        if pairs and sum(id(side) in of_params for side in sides) == 1 and not meant:
            return rows
    return 0


def _depends(jaxpr: Any, count: int) -> bool:
    """Whether the first output is computed from any of the first `count` inputs."""
    return id(jaxpr.outvars[0]) in reached(jaxpr, jaxpr.invars[:count])


def reached(jaxpr: Any, inputs: Any) -> set[int]:
    """Return the ids of all variables of a record that are computed from any of these, and of these."""
    found = set(map(id, inputs))
    for equation in jaxpr.eqns:
        if any(id(var) in found for var in equation.invars):
            found |= set(map(id, equation.outvars))
    return found


def _reads_values(error: Exception, name: str) -> str:
    """Say where a loss used NumPy, or branched on a value, and what to write."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _library(frame.filename)]
    line = (own[-1].line or "") if own else ""
    where = f" in `{line}`" if line else ""
    calls = sorted(set(re.findall(r"\b(?:np|numpy)\.([\w.]+)", line)))
    if isinstance(error, jax.errors.TracerArrayConversionError):
        used = " and ".join(f"np.{call}" for call in calls) or "NumPy"
        instead = " and ".join(f"jnp.{call}" for call in calls) or "jax.numpy"
        return (
            f"`loss` {name} uses {used}{where}, which JAX cannot differentiate."
            f" Write {instead} (import jax.numpy as jnp)."
        )
    return (
        f"`loss` {name} needs the value of a traced number{where}, as `if`, `float()` and `int()` do."
        " Write jnp.where or jax.lax.cond instead."
    )


def _library(filename: str) -> bool:
    return any(part in filename for part in ("site-packages", "dist-packages")) or filename == __file__
