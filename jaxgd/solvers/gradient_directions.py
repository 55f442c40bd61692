"""Directions that remember no more of the curvature than numbers: conjugate gradients and scaled gradients."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgd.core.numerics import pack, products
from jaxgd.core.protocol import TOL
from jaxgd.solvers.quasi_newton_directions import Move

FADE = 0.98  # what is left after a move of the largest curvature radius seen
MARGIN = 10  # by which the decrease left is overestimated where the gradient's length goes up and down
SHORT = 0.2  # a radius s'y / y'y below this part of s's / s'y is taken


class Trail(NamedTuple):
    """What is known of the curvature along the last moves alone."""

    scale: jax.Array
    num_pairs: jax.Array
    radius: jax.Array  # largest curvature radius s's / s'y seen of late
    peak: jax.Array  # longest gradient seen
    stiff: jax.Array  # largest curvature y'y / s'y seen

    @classmethod
    def begin(cls, params: jax.Array) -> "Trail":
        zero = jnp.zeros((), params.dtype)
        return cls(scale=zero, num_pairs=zero, radius=zero, peak=zero, stiff=zero)

    def learn(self, move: Move, length: jax.Array, grad_change: jax.Array, scale: jax.Array) -> "Trail":
        """Take the move, with s's and y'y as given, where it says so; `scale` is what to assume next."""
        radius = jnp.maximum(FADE * self.radius, length / move.curvature)
        return self._replace(
            scale=jnp.where(move.take, scale, self.scale),
            num_pairs=self.num_pairs + move.take,
            radius=jnp.where(move.take, radius, self.radius),
            peak=jnp.maximum(self.peak, move.norm),
            stiff=jnp.where(move.take, jnp.maximum(self.stiff, grad_change / move.curvature), self.stiff),
        )

    def predicted_remaining(self, params: jax.Array, norm: jax.Array) -> jax.Array:
        """Return the decrease left if the curvature is nowhere less than the least seen of late.

        A gradient that rounding of the params makes up tells of none.
        """
        rounding = jnp.finfo(norm.dtype).eps * self.stiff * jnp.sqrt(jnp.sum(params**2))
        return jnp.where(self.num_pairs > 0, jnp.where(norm > rounding, self.radius * norm**2 / 2, 0), jnp.inf)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["beta"])
@dataclass(frozen=True)
class Conjugate:
    """The nonlinear conjugate gradient direction, beta d - g.

    "hager-zhang": SIAM J. Optim. 16 (2005), equation 1.3, with the truncation of SIAM J. Optim. 23 (2013), equation
    2.9, which does not depend on the units of the loss. "polak-ribiere": Nocedal and Wright (2006), equation 5.45.
    The direction is scaled so that its first trial promises the decrease of the last line (equation 3.60 there).
    """

    beta: str

    tolerance = TOL

    def begin(self, params: jax.Array) -> Trail:
        return Trail.begin(params)

    def learn(self, memory: Trail, move: Move, grad: jax.Array) -> tuple[Trail, jax.Array]:
        rows = pack(grad, move.change[1], move.direction)
        (g_g, g_y, g_d), (_, y_y, d_y), (_, _, d_d) = products(rows, rows)
        if self.beta == "hager-zhang":
            beta = jnp.maximum(g_y / d_y - 2 * (g_d / d_y) * (y_y / d_y), 0.4 * move.slope / d_d)
        else:
            beta = jnp.maximum(0, g_y / move.norm**2) / memory.scale
        slope = beta * g_d - g_g
        good = move.take & (slope <= -0.01 * g_g)
        slope, beta = jnp.where(good, slope, -g_g), jnp.where(good, beta, 0)
        s_s, squared = move.stepsize**2 * d_d, beta * (beta * d_d - 2 * g_d) + g_g
        # The same decrease as the last line's minimum gave, but no step that its curvature calls absurd.
        scale = -(move.slope / move.curvature) * (move.slope / slope) * move.stepsize**2
        known = -(slope / squared) * (s_s / move.curvature)
        memory = memory.learn(move, s_s, y_y, jnp.clip(scale, 0.1 * known, 10 * known))
        return memory, jnp.where(move.over, memory.scale * (beta * move.direction - grad), move.direction)

    def predicted_remaining(self, memory: Trail, params: jax.Array, norm: jax.Array, slope: jax.Array) -> jax.Array:
        del slope
        return memory.predicted_remaining(params, norm)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclass(frozen=True)
class Gradient:
    """The negative gradient, with the curvature radius of the last move for its length.

    Barzilai and Borwein, IMA J. Numer. Anal. 8 (1988): s's / s'y, or s'y / y'y if that is much shorter (Zhou, Gao and
    Dai, Comput. Optim. Appl. 35 (2006), ABB).
    """

    tolerance = TOL

    def begin(self, params: jax.Array) -> Trail:
        return Trail.begin(params)

    def learn(self, memory: Trail, move: Move, grad: jax.Array) -> tuple[Trail, jax.Array]:
        s_s, y_y = jnp.sum(move.change**2, axis=1)
        long, short = s_s / move.curvature, move.curvature / y_y
        clear = y_y > (4 * jnp.finfo(y_y.dtype).eps * memory.peak) ** 2
        blind = move.moved & (move.stepsize > 0) & ~(move.take & clear)
        memory = memory.learn(
            move._replace(take=move.take & clear), s_s, y_y, jnp.where(short < SHORT * long, short, long)
        )
        # Where the curvature is negative its size still tells how far to go; a step lost in rounding was too short.
        far = jnp.where(clear, jnp.sqrt(s_s / y_y), 10 * memory.scale)
        memory = memory._replace(scale=jnp.where(blind, far, memory.scale))
        return memory, -memory.scale * grad

    def predicted_remaining(self, memory: Trail, params: jax.Array, norm: jax.Array, slope: jax.Array) -> jax.Array:
        del slope
        return MARGIN * memory.predicted_remaining(params, norm)
