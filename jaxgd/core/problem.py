"""What is minimized: a loss of one flat vector, and what is known of it at a point."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.flat import Held, Layout
from jaxgd.core.numerics import pack, products, safe_norm
from jaxgd.core.terms import Term, residual
from jaxgd.core.tiles import Tiles


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

    loss: Any  # the user's, before anything is added: a `BoundLoss`, or `Tiles` of it
    layout: Layout | Held
    aux: Any  # shapes and types of aux
    term: Term | None = None  # added to the loss
    ridge: Any = None  # a number or shape (p,): half of the sum of ridge * params^2 is added to the loss
    still: Any = None  # what the penalties say of params that are held still
    start: Any = None  # where a solve of it begins, shape (p,), if that is known

    @property
    def sign(self) -> int:
        """-1 where the user asked for the maximum."""
        return self.loss.sign

    def value(self, params: jax.Array) -> tuple[jax.Array, Any]:
        """Return the smooth part of the loss to minimize at the flat `params`, in their type, and aux."""
        value, aux = self.loss.total(lambda loss: loss(params))
        return self._with_penalties(value, params), aux

    def slopes(self, params: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
        """Return the user's loss and aux, and the gradient, before anything is added."""
        return self.loss.total(lambda loss: loss.value_and_grad(params))

    def reversible(self) -> "Problem":
        """Return the same problem, which JAX can differentiate in reverse mode, by its data too."""
        return replace(self, loss=replace(self.loss, reversible=True)) if isinstance(self.loss, Tiles) else self

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
        found = self.loss.total(lambda loss: loss.hvp(params)(vector))
        return found if self.ridge is None else found + self.ridge * vector

    def hessian(self, params: jax.Array) -> jax.Array:
        """Return the Hessian of the smooth part, shape `(p, p)`."""
        found = self.loss.total(lambda loss: loss.hessian(params))
        return found if self.ridge is None else found + self.ridge * jnp.eye(params.size, dtype=params.dtype)

    def gauss_newton(self, params: jax.Array, vector: jax.Array) -> jax.Array:
        """Return the Gauss-Newton Hessian of a least-squares loss, J'J, at `params` times `vector`."""
        found = self.loss.gauss_newton(params, vector)
        return found if self.ridge is None else found + self.ridge * vector

    def linearized(self, params: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the Jacobian of the residuals of a least-squares loss, shape `(n, p)`, and these, shape `(n,)`.

        The root of the ridge is the slope of one more residual a param.
        """
        jacobian, residuals = jax.jacfwd(lambda x: (self.loss.residuals(x),) * 2, has_aux=True)(params)
        if self.ridge is None:
            return jacobian, residuals
        roots = jnp.sqrt(self.ridge) * jnp.ones_like(params)
        return jnp.concatenate([jacobian, jnp.diag(roots)]), jnp.concatenate([residuals, roots * params])

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
