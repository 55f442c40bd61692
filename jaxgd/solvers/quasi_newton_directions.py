"""Directions of descent: what is remembered of the moves made, and where to go next."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.core.numerics import combination, pack, products
from jaxgd.core.protocol import TOL_LEARNT, Tolerance
from jaxgd.solvers.line_search import Line


class Move(NamedTuple):
    """What the last trial says of the line it lies on."""

    change: jax.Array  # shape (2, p): of params and of gradient since the line's start
    curvature: jax.Array  # s'y: the product of the two
    moved: jax.Array  # the trial was accepted
    take: jax.Array  # and its curvature is positive
    over: jax.Array  # the line is: its trial was accepted, or it has no answer
    direction: jax.Array  # of the line
    stepsize: jax.Array  # of the trial
    slope: jax.Array  # at the line's start
    norm: jax.Array  # of the gradient there

    @classmethod
    def along(
        cls, state: Any, line: Line, change: jax.Array, slope: jax.Array, *, moved: jax.Array, over: jax.Array
    ) -> "Move":
        """Return what a trial says that lies as far along the line from `state` as `change` tells, with this slope."""
        curvature = line.stepsize * (slope - line.slope)
        take = moved & (curvature > 0)
        return cls(
            change=change,
            curvature=curvature,
            moved=moved,
            take=take,
            over=over,
            direction=state.direction,
            stepsize=line.stepsize,
            slope=line.slope,
            norm=state.norm,
        )


class Direction(Protocol):
    """Where to go from a point; the first trial of each line is at step size 1.

    A memory is a `NamedTuple` with `scale`, the curvature radius assumed where nothing is known (0: none yet), and
    `num_pairs`, the moves learnt from since the last reset, of the params' type; the descent sets that to 0 where a
    line failed: the rest is then forgotten.
    """

    @property
    def tolerance(self) -> Tolerance: ...

    def begin(self, params: jax.Array) -> Any:
        """Return an empty memory."""
        ...

    def learn(self, memory: Any, move: Move, grad: jax.Array) -> tuple[Any, jax.Array]:
        """Take the move where it says so; return the memory and the direction where the gradient is `grad`."""
        ...

    def predicted_remaining(self, memory: Any, params: jax.Array, norm: jax.Array, slope: jax.Array) -> jax.Array:
        """Return the decrease estimated to be left, by params, the gradient's length and the slope of the next line.

        It is infinite while nothing is known.
        """
        ...


class PairMemory(NamedTuple):
    """What `LimitedMemoryInverse` knows of the curvature. s, y: change of params and of gradient in a move, s'y = 1."""

    pairs: jax.Array  # shape (2m, p): s and y of each pair, one under the other
    small: jax.Array  # shape (2, m, m): inverse of R, the upper triangle of SY' in order of age; and YY'
    scale: jax.Array  # gamma
    num_pairs: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["size"])
@dataclass(frozen=True)
class LimitedMemoryInverse:
    """The limited-memory BFGS direction in its compact form.

    Byrd, Nocedal and Schnabel, Math. Programming 63 (1994), theorem 2.2: with q = R^-1 S g,
    H g = gamma g + S' R^-T (D q + gamma (YY' q - Y g)) - gamma Y' q. Here pairs are scaled so that D = I, and R^-1 is
    kept instead of R: a new pair appends the column -R^-1 S y, and the oldest leaves as the first row and
    column, in whatever slots they lie.
    """

    size: int = 10

    tolerance = TOL_LEARNT

    def begin(self, params: jax.Array) -> PairMemory:
        zero = jnp.zeros((), params.dtype)
        pairs = jnp.zeros((2 * self.size, params.size), params.dtype)
        # A NumPy constant needs no operation to be filled.
        return PairMemory(pairs, jnp.asarray(np.zeros((2, self.size, self.size), params.dtype)), zero, zero)

    def learn(self, memory: PairMemory, move: Move, grad: jax.Array) -> tuple[PairMemory, jax.Array]:
        slot, take = memory.num_pairs.astype(jnp.int32) % self.size, move.take
        pair = jnp.where(take, _scaled(move), jax.lax.dynamic_slice_in_dim(memory.pairs, 2 * slot, 2))
        pairs = jax.lax.dynamic_update_slice_in_dim(memory.pairs, pair, 2 * slot, 0)
        s_y, s_g, y_y, y_g = products(pairs, pack(pair[1], grad)).reshape(self.size, 4).T

        new = jnp.arange(self.size) == slot
        known = memory.num_pairs > 0
        trailing = jnp.where(known & ~(new[:, None] | new[None, :]), memory.small[0], 0)
        column = jnp.where(new, 1, -_times(trailing, s_y))
        inverse = jnp.where(new[None, :], column[:, None], trailing)
        gram = jnp.where(new[None, :], y_y[:, None], jnp.where(new[:, None], y_y[None, :], memory.small[1]))
        small = jnp.where(take, pack(inverse, gram), jnp.where(known, memory.small, 0))
        scale = jnp.where(take, 1 / y_y[slot], memory.scale)

        q = _times(small[0], s_g)
        a = _times(small[0].T, q + scale * (_times(small[1], q) - y_g))
        weights = pack(a, -scale * q).T.reshape(-1)
        return PairMemory(pairs, small, scale, memory.num_pairs + take), -scale * grad - combination(weights, pairs)

    def predicted_remaining(
        self, memory: PairMemory, params: jax.Array, norm: jax.Array, slope: jax.Array
    ) -> jax.Array:
        """Return half of grad' H grad."""
        del params, norm
        return jnp.where(memory.num_pairs > 0, -slope / 2, jnp.inf)


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Multiply as a reduction, which XLA fuses; for the few numbers of a memory."""
    return jnp.sum(matrix * vector, axis=1)


def _scaled(move: Move) -> jax.Array:
    """Return the move's change scaled so that s'y = 1; zero where it is not to be taken."""
    norm = jax.lax.rsqrt(jnp.where(move.take, move.curvature, 1))
    return jnp.where(move.take, norm * move.change, 0)


class Inverse(NamedTuple):
    """What `DenseInverse` knows of the curvature."""

    inverse: jax.Array  # shape (p, p): H
    scale: jax.Array
    num_pairs: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclass(frozen=True)
class DenseInverse:
    """The BFGS direction, with the inverse Hessian H as a matrix.

    Nocedal and Wright, Numerical Optimization (2006), equations 6.17 and 6.20. Pairs are scaled so that s'y = 1: with
    u = H y, the next H is H + (1 + y'u) ss' - us' - su'. The first p moves scale H up as Al-Baali does, J. Optim.
    Theory Appl. 77 (1993): without it a first scale too small for flat directions is long remembered.
    """

    tolerance = TOL_LEARNT

    def begin(self, params: jax.Array) -> Inverse:
        zero = jnp.zeros((), params.dtype)
        return Inverse(jnp.asarray(np.zeros((params.size, params.size), params.dtype)), zero, zero)

    def learn(self, memory: Inverse, move: Move, grad: jax.Array) -> tuple[Inverse, jax.Array]:
        s, y = _scaled(move)
        scale = jnp.where(move.take, 1 / jnp.sum(y * y), memory.scale)
        index = np.arange(s.size)
        unknown = jnp.where(index[:, None] == index, scale, 0)
        # s'Bs / s'y: while most of H is a guess, what the move shows too short is lengthened.
        more = jnp.maximum(1, -(move.stepsize**2) * move.slope / move.curvature)
        more = jnp.where(move.take & (memory.num_pairs < s.size), more, 1)
        inverse = jnp.where(memory.num_pairs > 0, more * memory.inverse, unknown)
        u, v = products(pack(y, grad), inverse)
        (s_g, _), (u_g, y_u) = products(pack(s, u), pack(grad, y))
        along = (1 + y_u) * s - u
        inverse = inverse + along[:, None] * s - s[:, None] * u
        return Inverse(inverse, scale, memory.num_pairs + move.take), s * u_g - along * s_g - v

    def predicted_remaining(self, memory: Inverse, params: jax.Array, norm: jax.Array, slope: jax.Array) -> jax.Array:
        """Return half of grad' H grad."""
        del params, norm
        return jnp.where(memory.num_pairs > 0, -slope / 2, jnp.inf)
