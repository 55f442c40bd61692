"""Products of data and params, cut out of a loss: its Hessian then costs one product of matrices less.

A loss of z = Xw has the Hessian [I X'] G [I; X], with G that of the loss as a function of both w and z. What the
directions do to z is X itself, and need not be computed as a product of X with the identity.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp


@dataclass(frozen=True)
class Dots:
    """The record of a loss without its products of data and params."""

    rest: Any  # jaxpr that takes the products after its other inputs
    factors: Any  # jaxpr that returns the data in each product
    places: tuple[tuple[int, int], ...]  # of each product: which leaf of the params, along which axis of the data

    @classmethod
    def of(cls, jaxpr: Any, params: int) -> "Dots | None":
        """Return the record cut so, or None where there is nothing to cut; the first `params` inputs are the params."""
        own = {id(var): leaf for leaf, var in enumerate(jaxpr.invars[:params])}
        reached, cut, equations = set(own), [], []
        for equation in jaxpr.eqns:
            of_params = [id(var) in reached for var in equation.invars]
            found = _product(equation, own, of_params)
            (cut if found else equations).append((equation, found))
            if any(of_params):
                reached |= {id(var) for var in equation.outvars}
        if not cut:
            return None
        invars = [*jaxpr.invars, *(equation.outvars[0] for equation, _ in cut)]
        names = jaxpr.debug_info.with_unknown_names()
        rest = jaxpr.replace(eqns=[equation for equation, _ in equations], invars=invars, debug_info=names)
        factors = jaxpr.replace(outvars=[data for _, (data, _) in cut], debug_info=names)
        return cls(rest, factors, tuple(place for _, (_, place) in cut))


def _product(equation: Any, own: dict[int, int], of_params: list[bool]) -> tuple[Any, tuple[int, int]] | None:
    """Return the data, the leaf and the axis of a product of data with a real vector of params."""
    if equation.primitive.name != "dot_general" or sum(of_params) != 1:
        return None
    (contracted, batch), side = equation.params["dimension_numbers"], of_params.index(True)
    vector, data = equation.invars[side], equation.invars[1 - side]
    real = jnp.issubdtype(vector.aval.dtype, jnp.floating) and vector.aval.dtype == data.aval.dtype
    if id(vector) not in own or vector.aval.ndim != 1 or batch[0] or not contracted[0] or not real:
        return None
    return data, (own[id(vector)], contracted[1 - side][0])


@dataclass(frozen=True)
class Cut:
    """A loss with its data bound, cut at its products."""

    dots: Dots
    constants: tuple[Any, ...]
    inputs: list[Any]  # leaves of the data and the arrays

    def factors(self, params: Any) -> list[jax.Array]:
        """Return the data in each product, the axis of the params first."""
        found = jax.core.eval_jaxpr(self.dots.factors, self.constants, *jax.tree.leaves(params), *self.inputs)
        return [jnp.moveaxis(data, axis, 0) for data, (_, axis) in zip(found, self.dots.places, strict=True)]

    def products(self, params: Any, factors: list[jax.Array]) -> list[jax.Array]:
        """Return the products of params and data, each of the shape of the data's other axes."""
        leaves, places = jax.tree.leaves(params), zip(factors, self.dots.places, strict=True)
        return [jnp.tensordot(leaves[leaf], data, 1, precision="highest") for data, (leaf, _) in places]

    def __call__(self, params: Any, products: list[jax.Array]) -> jax.Array:
        return jax.core.eval_jaxpr(self.dots.rest, self.constants, *jax.tree.leaves(params), *self.inputs, *products)[0]
