"""What is minimized: a loss of one flat vector, and what is known of it at a point."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.flat import Held, Layout, pack, products, safe_norm
from jaxgd.core.linear_products import Cut
from jaxgd.core.terms import Term, residual
from jaxgd.core.tiles import Tiles


class Derivatives(Enum):
    """Which derivatives of a loss JAX has: fewer where it holds a `jax.custom_vjp`, or a loop of unknown length."""

    ALL = "all"
    FORWARD = "not those in reverse mode"
    BACKWARD = "not those of its parts, in forward mode"
    FIRST = "not the second ones"


class Point(NamedTuple):
    """A place and what is known there, packed so that XLA copies it in two operations."""

    vectors: Any  # shape (2, p): params, grad; with a term (3, p): and residual
    scalars: jax.Array  # shape (5,): loss, norm, residual_abs_sum, that of |residual * params|, params_abs_sum
    aux: Any  # what the loss returned beside its value, or ()

    @property
    def params(self) -> jax.Array:
        return self.vectors[0]

    @property
    def grad(self) -> jax.Array:
        """The gradient of the smooth part."""
        return self.vectors[1]

    @property
    def residual(self) -> jax.Array:
        """What is zero at a minimum, `x - prox(x - grad)`, shape `(p,)`; the gradient where there is no term."""
        return self.vectors[-1]

    @property
    def loss(self) -> jax.Array:
        """The loss and all that is added to it; infinite before the first evaluation."""
        return self.scalars[0]

    @property
    def evaluated(self) -> jax.Array:
        """Whether the loss is known here; a point where it is not finite is no place to stand."""
        return jnp.isfinite(self.loss)

    @property
    def finite(self) -> jax.Array:
        """Whether the loss and every slope are."""
        return jnp.isfinite(self.loss) & jnp.isfinite(self.norm)

    @property
    def norm(self) -> jax.Array:
        """The Euclidean length of the residual."""
        return self.scalars[1]

    @property
    def residual_abs_sum(self) -> jax.Array:
        """The sum of the absolute components of the residual, which is 0 only where all of them are."""
        return self.scalars[2]

    @property
    def param_rounding(self) -> jax.Array:
        """What rounding of the params alone does to the loss."""
        return jnp.finfo(self.scalars.dtype).eps * self.scalars[3]

    @property
    def params_abs_sum(self) -> jax.Array:
        return self.scalars[4]


@dataclass(frozen=True)
class Problem:
    """A loss with its data bound, as a function of one flat vector."""

    loss: Callable[[Any], tuple[jax.Array, Any]]  # of the user's pytree of parameters; returns value and aux
    layout: Layout | Held
    aux: Any  # shapes and types of aux
    sign: int = 1  # -1: the user asked for the maximum
    term: Term | None = None  # added to the loss
    ridge: Any = None  # a number or shape (p,): half of the sum of ridge * params^2 is added to the loss
    backward: bool = False  # the gradient can be differentiated in reverse mode alone
    forward: bool = False  # the loss can be differentiated in forward mode alone
    has_aux: bool = False  # the aux of a least-squares loss is a pair, of its residuals and the user's own
    cut: Cut | None = None  # the loss, cut at the products of data and params
    still: Any = None  # what the penalties say of params that are held still
    tiles: Tiles | None = None  # the loss is a sum over these, and `loss` and `cut` are not given

    def value(self, params: jax.Array) -> tuple[jax.Array, Any]:
        """Return the loss to minimize at the flat `params`, in their type, and aux."""
        value, aux = self._sum(lambda part: part.bare(params))
        return self._with_penalties(value, params), aux

    def bare(self, params: jax.Array) -> tuple[jax.Array, Any]:
        """Return the user's loss, with the sign it is minimized by, and aux."""
        value, aux = self.loss(self.layout.unflatten(params))
        return self.sign * value.astype(params.dtype), aux

    def slopes(self, params: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
        """Return the user's loss and aux, and the gradient, before anything is added."""
        return self._sum(lambda part: part._slopes(params))  # noqa: SLF001 - a part is of this class

    def _slopes(self, params: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
        if not self.forward:
            return jax.value_and_grad(self.bare, has_aux=True)(params)

        def twice(params: jax.Array) -> Any:
            out = self.bare(params)
            return out[0], out

        grad, out = jax.jacfwd(twice, has_aux=True)(params)
        return out, grad

    def _sum(self, of: Callable[["Problem"], Any]) -> Any:
        """Return the sum of what `of` returns of each tile."""
        if self.tiles is None:
            return of(self)
        return self.tiles.total(lambda loss, cut: of(replace(self, loss=loss, cut=cut, tiles=None, ridge=None)))

    def reversible(self) -> "Problem":
        """Return the same problem, which JAX can differentiate in reverse mode, by its data too."""
        return self if self.tiles is None else replace(self, tiles=replace(self.tiles, reversible=True))

    def _with_penalties(self, value: jax.Array, params: jax.Array) -> jax.Array:
        value = value if self.still is None else value + self.still
        return value if self.ridge is None else value + jnp.sum(self.ridge * params**2) / 2

    def evaluate(self, params: jax.Array) -> Point:
        """Evaluate loss and gradient at the flat `params`."""
        (loss, aux), grad = self.slopes(params)
        return self.point(params, loss, grad, aux)

    def point(self, params: jax.Array, loss: jax.Array, grad: jax.Array, aux: Any) -> Point:
        """Return the point with this loss and gradient, before anything is added to them."""
        loss = self._with_penalties(loss, params)
        loss = loss if self.term is None else loss + self.term.value(params)
        return self.at(params, loss, grad if self.ridge is None else grad + self.ridge * params, aux)

    def at(self, params: jax.Array, loss: jax.Array, grad: jax.Array, aux: Any) -> Point:
        """Return the point with this loss, all of it, and this gradient of the smooth part."""
        term = self.term
        vectors = pack(params, grad) if term is None else pack(params, grad, residual(term, params, grad))
        sizes = jnp.abs(vectors)
        (param_rounding, params_abs_sum), *_, (square, size) = products(sizes, pack(sizes[-1], jnp.ones_like(params)))
        return Point(vectors, pack(loss, safe_norm(square, size), size, param_rounding, params_abs_sum), aux)

    def prox(self, params: jax.Array, stepsize: Any) -> jax.Array:
        """Return the prox of the term, times the step size, at `params`."""
        return params if self.term is None else self.term.prox(params, stepsize)

    def project(self, params: jax.Array) -> jax.Array:
        """Return the nearest params that the term allows."""
        return params if self.term is None else self.term.project(params)

    def hvp(self, params: jax.Array, vector: jax.Array) -> jax.Array:
        """Return the Hessian of the smooth part at `params` times `vector`."""
        found = self._sum(lambda part: part._curvature(params)(vector))  # noqa: SLF001 - a part is of this class
        return found if self.ridge is None else found + self.ridge * vector

    def gauss_newton(self, params: jax.Array, vector: jax.Array) -> jax.Array:
        """Return the Gauss-Newton Hessian of a least-squares loss, J'J, at `params` times `vector`."""
        along = jax.jvp(self._residuals, (params,), (vector,))[1]
        if self.forward:
            found = jnp.matmul(jax.jacfwd(self._residuals)(params).T, along, precision="highest")
        else:
            found = jax.vjp(self._residuals, params)[1](along)[0]
        return found if self.ridge is None else found + self.ridge * vector

    def hessian(self, params: jax.Array) -> jax.Array:
        """Return the Hessian of the smooth part, shape `(p, p)`."""
        eye = jnp.eye(params.size, dtype=params.dtype)
        found = self._sum(lambda part: part._hessian(params, eye))  # noqa: SLF001
        return found if self.ridge is None else found + self.ridge * eye

    def _hessian(self, params: jax.Array, eye: jax.Array) -> jax.Array:
        """Return the Hessian of the bare loss."""
        if self.cut is None or self.backward or self.forward:
            return jax.vmap(self._curvature(params))(eye)
        tree, cut = self.layout.unflatten(params), self.cut
        factors = cut.factors(tree)
        rows = [self.layout.rows(leaf, data) for data, (leaf, _) in zip(factors, cut.dots.places, strict=True)]

        def value(params: jax.Array, products: list[jax.Array]) -> jax.Array:
            return self.sign * cut(self.layout.unflatten(params), products).astype(params.dtype)

        slopes = jax.grad(value, (0, 1))
        at = (params, cut.products(tree, factors))
        found, turned = jax.vmap(lambda *along: jax.jvp(slopes, at, along)[1])(eye, rows)
        for grad_change, row in zip(turned, rows, strict=True):
            along = tuple(range(1, row.ndim))
            found = found + jnp.tensordot(grad_change, row, (along, along), precision="highest")
        return found

    def _curvature(self, params: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """Return the product of the Hessian of the bare loss at `params` with a vector, as a function of the vector."""
        grad = (jax.jacfwd if self.forward else jax.grad)(lambda x: self.bare(x)[0])
        if self.backward:
            return lambda vector: jax.vjp(grad, params)[1](vector)[0]
        return lambda vector: jax.jvp(grad, (params,), (vector,))[1]

    def linearized(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the Jacobian of the residuals of a least-squares loss, shape `(n, p)`, and these, shape `(n,)`.

        The root of the ridge is the slope of one more residual a param.
        """
        jacobian, residuals = jax.jacfwd(lambda x: (self._residuals(x),) * 2, has_aux=True)(params)
        if self.ridge is None:
            return jacobian, residuals
        roots = jnp.sqrt(self.ridge) * jnp.ones_like(params)
        return jnp.concatenate([jacobian, jnp.diag(roots)]), jnp.concatenate([residuals, roots * params])

    def _residuals(self, params: jax.Array) -> jax.Array:
        aux = self.bare(params)[1]
        return as_vector(aux[0] if self.has_aux else aux, params.dtype)

    def unevaluated(self, params: jax.Array) -> Point:
        """Return a point at `params` that is not evaluated yet."""
        aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.aux)
        scalars, zeros = jnp.array([jnp.inf, 0, 0, 0, 0], params.dtype), jnp.zeros_like(params)
        return Point(pack(params, zeros, *(() if self.term is None else (zeros,))), scalars, aux)


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    """Select between two pytrees of one structure, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def rounding(loss: Any) -> Any:
    """Return the changes of a loss of this size that rounding hides."""
    return 4 * jnp.finfo(loss.dtype).eps * abs(loss)


def as_vector(tree: Any, dtype: Any) -> jax.Array:
    """Return all numbers of a pytree of arrays in one real vector; a complex array is its real and imaginary parts."""
    parts = [
        part for leaf in jax.tree.leaves(tree) for part in (leaf.real, *([leaf.imag] if jnp.iscomplexobj(leaf) else []))
    ]
    return jnp.concatenate([part.astype(dtype).ravel() for part in parts])
