"""A loss that is a weighted sum of squared differences between data and a model, recognized by its record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxgd.compile.fingerprint import hashable
from jaxgd.compile.loss_jaxpr import Traced, reached

# Of these primitives the outcome is linear in any one of their operands; in a quotient in the first.
RESHAPING = {
    *("reshape", "broadcast_in_dim", "convert_element_type", "squeeze", "transpose", "copy", "neg"),
    *("slice", "dynamic_slice", "gather", "rev", "pad", "select_n"),
}
LINEAR = RESHAPING | {"add", "sub", "mul", "div", "reduce_sum", "dot_general"}
CALLS = {"jit", "pjit", "closed_call"}  # as versions of JAX call a function that is compiled by itself


def as_least_squares(record: Traced, sign: int, *, of_data: bool = True) -> Traced | None:
    """Return the record of a least-squares loss, half a sum of squares with the residuals as aux; or None.

    The loss has to be linear in the squares S of residuals r, with weights that know no params. If they must be
    `of_data`, r is a difference of data and something else. With W the derivative of the loss by S, it is half the sum
    of squares of sqrt(2 W) r, up to a constant.
    """
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in record.jaxpr.invars]
    closed = jax.make_jaxpr(lambda *inputs: _inlined(record.jaxpr, record.constants, inputs))(*shapes)
    jaxpr, params = closed.jaxpr, len(jax.tree.leaves(record.start))
    found = _Reader.of(jaxpr, params).square(of_data=of_data)
    if found is None:
        return None
    square, root, other = found
    squares = square.outvars[0]
    names = jaxpr.debug_info.with_unknown_names()
    upto = jaxpr.replace(outvars=[root], debug_info=names)
    after, between = (
        jaxpr.replace(
            eqns=[equation for equation in jaxpr.eqns if var not in equation.outvars],
            invars=[*jaxpr.invars, var],
            outvars=[outcome],
            debug_info=names,
        )
        for var, outcome in ((squares, jaxpr.outvars[0]), (root, other))
    )

    def call(*inputs: Any) -> tuple[jax.Array, jax.Array]:
        (residuals,) = jax.core.eval_jaxpr(upto, closed.consts, *inputs)
        at = jnp.ones(squares.aval.shape, squares.aval.dtype)  # not 0, where a root has no derivative
        weights = jax.grad(lambda at: jax.core.eval_jaxpr(after, closed.consts, *inputs, at)[0])(at)
        if square.primitive.name == "dot_general":
            axes = square.params["dimension_numbers"][0][0]
            weights = jnp.expand_dims(weights, axes)
        if other is not root:
            one = jnp.ones_like(residuals)
            weights = (
                weights * jax.jvp(lambda r: jax.core.eval_jaxpr(between, closed.consts, *inputs, r)[0], [one], [one])[1]
            )
        residuals = jnp.sqrt(2 * sign * weights) * residuals
        return jnp.sum(residuals**2) / 2, residuals

    made, (_, aux) = jax.make_jaxpr(call, return_shape=True)(*shapes)
    return Traced(record.start, aux, made.jaxpr, tuple(made.consts))


def of_observations(record: Traced, residuals: Any) -> Traced | None:
    """Return the record of a least-squares loss with [w, w y] as aux, where its residuals are w (y - f); or None.

    With d the difference in which y stands, w is the derivative of the residuals by d, and w y the one along y. Where y
    is no one array of data, w is given alone. `residuals`: their shapes, of which but one axis may be longer than 1: of
    a table of them what is alike is not told.
    """
    leaves = jax.tree.leaves(residuals)
    if len(leaves) != 1 or sum(length > 1 for length in leaves[0].shape) > 1:
        return None
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in record.jaxpr.invars]
    closed = jax.make_jaxpr(lambda *inputs: _inlined(record.jaxpr, record.constants, inputs))(*shapes)
    jaxpr = closed.jaxpr
    reader = _Reader.of(jaxpr, len(jax.tree.leaves(record.start)))
    found = reader.observations(jaxpr.outvars[1])
    if found is None:
        return None
    told = reader.is_one_array(found[1])
    difference, names = found[0].outvars[0], jaxpr.debug_info.with_unknown_names()
    upto = jaxpr.replace(outvars=[jaxpr.outvars[0], difference, found[1]], debug_info=names)
    others = [equation for equation in jaxpr.eqns if equation is not found[0]]
    invars, outvars = [*jaxpr.invars, difference], [jaxpr.outvars[1]]
    after = jaxpr.replace(eqns=others, invars=invars, outvars=outvars, debug_info=names)

    def call(*inputs: Any) -> tuple[Any, list[Any]]:
        loss, at, y = jax.core.eval_jaxpr(upto, closed.consts, *inputs)
        slopes = jax.linearize(lambda d: jax.core.eval_jaxpr(after, closed.consts, *inputs, d)[0], at)[1]
        return loss, [slopes(jnp.ones_like(at)), *([slopes(y)] if told else [])]

    made, (_, aux) = jax.make_jaxpr(call, return_shape=True)(*shapes)
    return Traced(record.start, aux, made.jaxpr, tuple(made.consts))


def is_curved(record: Traced) -> bool:
    """Return whether the residuals of a least-squares loss are not linear in the params."""
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in record.jaxpr.invars]
    count = len(jax.tree.leaves(record.start))

    def slopes(params: Any, along: Any, rest: Any) -> Any:
        residuals = lambda *params: jax.core.eval_jaxpr(record.jaxpr, record.constants, *params, *rest)[1:]  # noqa: E731
        return jax.jvp(residuals, params, along)[1]

    params = tuple(shapes[:count])
    found = jax.make_jaxpr(slopes)(params, params, shapes[count:]).jaxpr
    of_params = reached(found, found.invars[:count])
    return any(id(var) in of_params for var in found.outvars)


def _inlined(jaxpr: Any, constants: Any, inputs: Any) -> list[Any]:
    """Evaluate a record with the functions it calls evaluated in their places."""
    known: dict[int, Any] = dict(zip(map(id, (*jaxpr.constvars, *jaxpr.invars)), (*constants, *inputs), strict=True))
    seen: dict[Any, list[Any]] = {}

    def value(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else known[id(var)]

    for equation in jaxpr.eqns:
        if equation.primitive.name in CALLS:
            called = equation.params["jaxpr" if "jaxpr" in equation.params else "call_jaxpr"]
            made = _inlined(called.jaxpr, called.consts, list(map(value, equation.invars)))
        else:
            own = list(dict.fromkeys(var for var in equation.invars if not isinstance(var, Literal)))
            names = jaxpr.debug_info.with_unknown_names()
            alone = jaxpr.replace(constvars=[], invars=own, eqns=[equation], outvars=equation.outvars, debug_info=names)
            key = _key(equation, value)
            made = seen[key] if key in seen else jax.core.eval_jaxpr(alone, (), *map(value, own))
            seen |= {} if key is None else {key: made}
        known |= dict(zip(map(id, equation.outvars), made, strict=True))
    return list(map(value, jaxpr.outvars))


def _key(equation: Any, value: Callable[[Any], Any]) -> Any:
    """Return what tells an equation from others that make something else; None where it cannot be told."""
    operands = [
        (str(var.aval), str(var.val)) if isinstance(var, Literal) else id(value(var)) for var in equation.invars
    ]
    key = (equation.primitive, *equation.params.items(), *operands)
    return key if hashable(key) else None


@dataclass(frozen=True)
class _Reader:
    """A record, read from its outcome backwards."""

    outcome: Any
    makers: dict[int, Any]  # the equation that makes each number
    of_params: set[int]  # what depends on the params
    of_data: set[int]  # what depends on anything else

    @classmethod
    def of(cls, jaxpr: Any, params: int) -> "_Reader":
        own, others = jaxpr.invars[:params], (*jaxpr.constvars, *jaxpr.invars[params:])
        makers = {id(var): equation for equation in jaxpr.eqns for var in equation.outvars}
        return cls(jaxpr.outvars[0], makers, reached(jaxpr, own), reached(jaxpr, others))

    def square(self, *, of_data: bool) -> tuple[Any, Any, Any] | None:
        """Return the equation that makes the squares in which the outcome is linear, with its `product`; or None."""
        var = self.outcome
        while (equation := self.makers.get(id(var))) is not None:
            if (product := self.product(equation)) is None:
                var = self._linear_in(equation, LINEAR)
            elif (made := self.makers.get(id(product[0]))) is not None and made.primitive.name == "sqrt":
                var = made.invars[0]
            else:
                fits = self.observations(product[0]) is not None if of_data else self._is_smooth(product[0])
                return (equation, *product) if fits else None
        return None

    def product(self, equation: Any) -> tuple[Any, Any] | None:
        """Return a number and itself, or itself times what knows no params, whose product an equation makes; or None.

        Of arrays it may make the sum of the products.
        """
        name, operands = equation.primitive.name, equation.invars
        if name in {"square", "integer_pow", "pow"}:
            power = 2 if name == "square" else equation.params.get("y", getattr(operands[-1], "val", 0))
            return (operands[0], operands[0]) if np.ndim(power) == 0 and power == 2 else None  # noqa: PLR2004 - a square
        if name == "dot_general":
            contracted, batch = equation.params["dimension_numbers"]
            leading = tuple(range(len(batch[0])))
            sums = contracted[0] == contracted[1] and batch[0] == batch[1] == leading
            if not sums or equation.outvars[0].aval.ndim != len(leading):
                return None
        elif name != "mul":
            return None
        pairs = (operands, operands[::-1])
        return next(((var, other) for var, other in pairs if self._is_multiple(other, var)), None)

    def _is_multiple(self, var: Any, other: Any) -> bool:
        """Whether a number is another one that depends on the params, times what does not."""
        while var is not other:
            equation = self.makers.get(id(var))
            if equation is None or (var := self._linear_in(equation, {"mul", "div", "neg"})) is None:
                return False
        return id(other) in self.of_params

    def _is_smooth(self, var: Any) -> bool:
        """Whether a number is real, and not the size of one that is complex, which has a kink where that is 0."""
        equation = self.makers.get(id(var))
        own = var if equation is None or equation.primitive.name != "abs" else equation.invars[0]
        return jnp.issubdtype(own.aval.dtype, jnp.floating)

    def observations(self, var: Any) -> tuple[Any, Any] | None:
        """Return the equation where data and what depends on the params make a number, up to a factor, and these data.

        They are added or subtracted there; None where the number is made otherwise.
        """
        equation = self.makers.get(id(var))
        if equation is None or not jnp.issubdtype(var.aval.dtype, jnp.floating):
            return None
        if equation.primitive.name in {"add", "sub"}:
            for term in equation.invars:
                if id(term) not in self.of_params and id(term) in self.of_data:
                    return equation, term
            found = [self.observations(term) for term in equation.invars if id(term) in self.of_params]
            return next((each for each in found if each is not None), None)
        return self.observations(self._linear_in(equation, RESHAPING | {"mul", "div", "abs"}))

    def is_one_array(self, var: Any) -> bool:
        """Whether data are made of no several arrays: of y / s or y - z, what was observed is not told."""
        equation = self.makers.get(id(var))
        if equation is None:
            return True
        arrays = {
            id(other): other for other in equation.invars if not isinstance(other, Literal) and other.aval.size > 1
        }
        return len(arrays) < 2 and all(map(self.is_one_array, arrays.values()))  # noqa: PLR2004 - several

    def _linear_in(self, equation: Any, names: set[str]) -> Any:
        """Return the one operand that depends on the params, where the outcome is linear in it; else None."""
        own = [var for var in equation.invars if id(var) in self.of_params]
        # Not an index or a condition.
        fits = equation.primitive.name in names and len(own) == 1 and jnp.issubdtype(own[0].aval.dtype, jnp.floating)
        return own[0] if fits and (equation.primitive.name != "div" or own[0] is equation.invars[0]) else None
