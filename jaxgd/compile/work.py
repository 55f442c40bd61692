"""How much work a loss is, by its record."""

from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

TURNS = 10  # that a loop of unknown length is taken to make
CUBIC = {"cholesky", "lu", "qr", "eig", "eigh", "svd", "schur", "triangular_solve", "householder_product"}


def operations(jaxpr: Any) -> int:
    """Return the arithmetic operations of a record, about: a multiplication and its addition count as one."""
    return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: Any) -> int:
    parts = jax.tree.leaves(equation.params, is_leaf=_is_record)
    inner = [operations(getattr(part, "jaxpr", part)) for part in parts if _is_record(part)]
    made, name = sum(var.aval.size for var in equation.outvars), equation.primitive.name
    taken = [np.shape(var.aval) for var in equation.invars]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "while":
        return TURNS * sum(inner)
    if name == "cond":
        return max(inner)
    if inner:
        return sum(inner)
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return made * int(np.prod([taken[0][axis] for axis in contracted]))
    if name == "conv_general_dilated":
        features = equation.params["dimension_numbers"].rhs_spec[0]
        return made * int(np.prod(taken[1])) // max(1, taken[1][features])
    if name in CUBIC:
        return made * taken[0][-1]
    return made


def _is_record(part: Any) -> bool:
    return isinstance(part, ClosedJaxpr | Jaxpr)
