"""A quadratic model whose Hessian is a matrix, minimized within a distance by its spectrum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jaxgd.core import numerics
from jaxgd.core.lapack import one_by_one
from jaxgd.core.numerics import CLOSED, expand_to, pack, products
from jaxgd.core.problem import Point, rounding
from jaxgd.core.scaling import NOISY
from jaxgd.solvers.subproblem import Step, inward, limits

BLOCK = 32  # lanes whose spectra are found together
FLAT = 4  # times what rounding hides, that a slope must bring to be followed where there is no curvature
ROUNDS = 16  # of Newton's method for the multiplier; it converges quadratically

spectrum = one_by_one(numerics.spectrum)
singular = one_by_one(numerics.singular)


class Dense(NamedTuple):
    """A model whose Hessian is a matrix."""

    grad: jax.Array
    scale: jax.Array
    hessian: jax.Array  # shape (p, p), scaled
    # Of a sum of squares, shape (p, p + 1): R and Q'r, with R'R = H and R'Q'r = g, scaled; NaN where H is another.
    triangle: jax.Array | None = None
    params: Any = 0  # where it is made
    hidden: Any = 0  # changes of the loss that rounding hides

    @classmethod
    def around(cls, point: Point, scale: jax.Array, hessian: jax.Array, triangle: jax.Array | None = None) -> "Dense":
        return cls(point.grad, scale, hessian, triangle, point.params, rounding(point.loss))

    def matvec(self, steps: jax.Array) -> jax.Array:
        return self.scale * products(self.scale * steps, self.hessian)

    def minimize_within(self, grad: jax.Array, free: jax.Array, radius: jax.Array) -> Step:
        # What is held, or what nothing depends on, has a curvature of 1 and no slope, so that it stays.
        free = free * ((grad != 0) | jnp.any(self.hessian != 0, axis=0))
        matrix = jnp.where(free[:, None] * free > 0, self.hessian, jnp.eye(free.size, dtype=grad.dtype))
        size = _Size(jnp.broadcast_to(self.scale * self.params, grad.shape), jnp.asarray(self.hidden, grad.dtype))
        if self.triangle is None or not len(self.triangle):
            step = _minimized(matrix, free * grad / self.scale, radius, size)
        else:
            # What the slopes are beside those of the triangle, where the step so far has changed them.
            rows = self.triangle * jnp.append(free, 1)
            beyond = free * (grad - self.grad) / self.scale
            step = _minimized(matrix, free * grad / self.scale, radius, size, rows, beyond)
        unknown = jnp.maximum(step.unknown - jnp.sum(1 - free), 0)
        return step._replace(
            move=free * step.move / self.scale, newton=free * step.newton / self.scale, unknown=unknown
        )

    def across(self, normal: jax.Array, curvature: Any) -> "Dense":
        """Return the model on the face; along the normal its curvature is that of the scale."""
        inner, normal = self.scale * inward(normal, self.scale), normal / self.scale
        shifted = self.hessian + curvature * jnp.diag(self.scale**-2)
        turned = jnp.matmul(shifted, inner, precision="highest")
        square = jnp.sum(inner * turned) + jnp.sum(inner**2)
        mixed = normal[:, None] * (turned - square / 2 * normal)
        return self._replace(hessian=shifted - mixed - mixed.T, triangle=None)


class _Size(NamedTuple):
    """How large what a model is made of is."""

    params: jax.Array  # scaled
    hidden: jax.Array  # changes of the loss that rounding hides


@custom_vmap
def _minimized(matrix: jax.Array, slopes: jax.Array, radius: jax.Array, size: _Size, *squares: jax.Array) -> Step:
    """Return the minimizer of slopes's + s'matrix s / 2 over |s| <= radius.

    Conn, Gould and Toint, Trust-Region Methods (2000), section 7.3; Newton's method for the multiplier is their
    algorithm 7.3.1.
    """
    return _by_spectrum(_spectrum(matrix, slopes, *squares), radius, size)


class _Spectrum(NamedTuple):
    """A model in the basis of its eigenvectors."""

    curvatures: jax.Array  # the lowest first
    basis: jax.Array  # shape (p, p): eigenvectors as columns
    slopes: jax.Array  # along these
    noise: jax.Array  # curvatures below this are rounding of the largest
    unknown: jax.Array  # as in `Step`, of a sum of squares: directions in which columns depend on each other


def _spectrum(matrix: jax.Array, slopes: jax.Array, *squares: jax.Array) -> _Spectrum:
    """Return the spectrum of a model; of a sum of squares, to all digits of the Jacobian, which its square has not."""
    eps, tiny, size = jnp.finfo(slopes.dtype).eps, jnp.finfo(slopes.dtype).tiny, slopes.size

    def found(curvatures: jax.Array, basis: jax.Array, along: jax.Array, part: Any) -> _Spectrum:
        largest = jnp.max(jnp.abs(curvatures))
        unknown = jnp.full_like(largest, jnp.nan)
        noise = jnp.maximum(part * largest, tiny)
        return _Spectrum(curvatures=curvatures, basis=basis, slopes=along, noise=noise, unknown=unknown)

    def plain() -> _Spectrum:
        curvatures, basis = spectrum(matrix)
        return found(curvatures, basis, jnp.matmul(slopes, basis, precision="highest"), eps * size)

    if not squares:
        return plain()
    rows, beyond = squares

    def of_squares() -> _Spectrum:
        values, basis, turned = singular(rows[:, :-1])
        along = jnp.matmul(rows[:, -1], turned, precision="highest") + jnp.matmul(beyond, basis, precision="highest")
        # Where columns depend on each other, what is left of one is rounding, and so is its slope.
        known = values > NOISY * eps * size * values[-1]
        model = found(jnp.where(known, values, 0) ** 2, basis, jnp.where(known, along, 0), (eps * size) ** 2)
        return model._replace(unknown=jnp.sum(1 - known.astype(along.dtype)))

    return jax.lax.cond(jnp.all(jnp.isfinite(rows)), of_squares, plain)


def _by_spectrum(model: _Spectrum, radius: jax.Array, size: _Size) -> Step:
    curvatures, basis, slopes, noise, unknown = model
    eps, largest = jnp.finfo(slopes.dtype).eps, jnp.max(jnp.abs(curvatures))
    # Where the curvature is rounding, so is a slope that brings next to nothing: it would lead to and fro.
    brings = slopes**2 / (2 * noise)
    farther = jnp.abs(slopes * jnp.matmul(size.params, basis, precision="highest"))  # by all the size of the params
    hidden = (brings <= FLAT * size.hidden) & (farther <= NOISY * size.hidden)
    slopes = jnp.where((jnp.abs(curvatures) <= noise) & hidden, 0, slopes)
    newton = slopes / jnp.maximum(jnp.abs(curvatures), noise)
    far = _length(slopes / jnp.maximum(jnp.abs(curvatures), jnp.sqrt(eps) * largest))
    curved = (far > 0) & (largest > 0)
    radius = jnp.where(limits(radius), radius, jnp.where(curved, far, 1))
    lowest = curvatures[0]
    least = jnp.maximum(0, noise - lowest)

    def improve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        multiplier, below = bracket
        # In units of the radius, so that squares do not overflow.
        parts = slopes / (radius * (curvatures + multiplier))
        square = jnp.sum(parts**2)
        rate = square / jnp.sum(parts**2 / (curvatures + multiplier))
        below = jnp.where(square > 1, jnp.maximum(below, multiplier), below)
        better = multiplier + rate * (jnp.sqrt(square) - 1)
        return jnp.where(square > 0, jnp.maximum(better, jnp.sqrt(below) * jnp.sqrt(multiplier)), multiplier), below

    # Above the answer at first; after one round Newton's method stays on its other side.
    most = least + _length(slopes / radius)
    multiplier, _ = jax.lax.fori_loop(0, ROUNDS, improve, (most, least))
    along = -slopes / (curvatures + multiplier)
    # The hard case: what is missing to the radius is filled up along the most negative curvature.
    missing = jnp.maximum(radius**2 - jnp.sum(along**2), 0)
    down = jnp.where(along[0] < 0, -1, 1) * jnp.sqrt(along[0] ** 2 + missing)
    negative = lowest < -NOISY * noise
    along = along.at[0].set(jnp.where(negative, down, along[0]))
    left = jnp.where(negative, jnp.inf, jnp.sum(slopes * newton) / 2)
    predicted = -jnp.sum(along * (slopes + curvatures * along / 2))
    newton = jnp.where(jnp.abs(curvatures) > noise, -newton, 0)
    move, newton = products(pack(along, newton), basis)
    return Step(
        move=move,
        predicted_reduction=predicted,
        predicted_remaining=left,
        radius=radius,
        products=jnp.zeros((), jnp.int32),
        newton=newton,
        unknown=unknown,
    )


def _length(vector: jax.Array) -> jax.Array:
    """Return the length of a vector, whose square may leave the range."""
    return numerics.safe_norm(jnp.sum(vector**2), jnp.sum(jnp.abs(vector)))


@_minimized.def_vmap
def _of_lanes(lanes: int, batched: list[Any], *args: Any) -> tuple[Step, Any]:
    """Solve by elimination where the minimum of the model is near, as it mostly is, and by the spectrum elsewhere."""
    full = jax.tree.map(
        lambda arg, own: arg if own else jnp.broadcast_to(arg, (lanes, *arg.shape)), list(args), batched
    )
    matrices, slopes, radii, _, *squares = full
    step, sure = _by_elimination(matrices, slopes, radii)
    step = step if squares else step._replace(unknown=step.unknown + jnp.nan)
    step = jax.lax.platform_dependent(step, sure, *full, cpu=_by_blocks, default=_together)
    return step, jax.tree.map(lambda _: True, step)


def _by_blocks(
    step: Step, sure: jax.Array, matrices: jax.Array, slopes: jax.Array, radii: jax.Array, sizes: _Size, *squares: Any
) -> Step:
    """Solve by the spectrum where the step is not sure, some lanes at a time.

    A spectrum costs as much as several evaluations of a small loss: no more are found than are asked for.
    """
    lanes, size = slopes.shape

    def onwards(carry: tuple[jax.Array, Step]) -> tuple[jax.Array, Step]:
        unsure, step = carry
        block = jnp.nonzero(unsure, size=min(BLOCK, lanes), fill_value=lanes)[0]
        leaves = (radii, sizes, matrices, slopes, *squares)
        radius, large, *own = jax.tree.map(lambda leaf: leaf.at[block].get(mode="clip"), leaves)

        def find(at: jax.Array, found: _Spectrum) -> _Spectrum:
            return jax.tree.map(lambda rows, row: rows.at[at].set(row), found, _spectrum(*(leaf[at] for leaf in own)))

        row, number = jnp.zeros_like(own[1]), jnp.zeros_like(radius)
        blank = _Spectrum(curvatures=row, basis=jnp.zeros_like(own[0]), slopes=row, noise=number, unknown=number)
        count = jnp.minimum(jnp.sum(unsure), len(block))
        closed = size <= CLOSED and not squares
        spectra = jax.vmap(_spectrum)(*own) if closed else jax.lax.fori_loop(0, count, find, blank)
        solved = jax.vmap(_by_spectrum)(spectra, radius, large)
        step = jax.tree.map(lambda rows, new: rows.at[block].set(new, mode="drop"), step, solved)
        return unsure.at[block].set(False, mode="drop"), step

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), onwards, (~sure, step))[1]


def _together(
    step: Step, sure: jax.Array, matrices: jax.Array, slopes: jax.Array, radii: jax.Array, sizes: _Size, *squares: Any
) -> Step:
    """Solve by the spectrum, all lanes if any is not sure."""

    def again() -> Step:
        other = jax.vmap(_by_spectrum)(jax.vmap(_spectrum)(matrices, slopes, *squares), radii, sizes)
        return jax.tree.map(lambda a, b: jnp.where(expand_to(sure, a), a, b), step, other)

    return jax.lax.cond(jnp.all(sure), lambda: step, again)


def _by_elimination(matrices: jax.Array, slopes: jax.Array, radii: jax.Array) -> tuple[Step, jax.Array]:
    """Return Newton's steps, shape `(lanes, p)`, and whether they are the minimizers, without doubt."""
    size, eps = slopes.shape[1], jnp.finfo(slopes.dtype).eps
    # Lanes last, so that a vector instruction serves several.
    table = jnp.concatenate([jnp.transpose(matrices, (1, 2, 0)), -slopes.T[:, None]], axis=1)
    largest = jnp.max(jnp.abs(table[:, :-1]), axis=(0, 1))

    def eliminate(row: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        table, lowest = carry
        pivot = table[row, row]
        scaled = table[row] / pivot
        rest = table - table[:, row][:, None] * scaled
        own = (jnp.arange(size) == row)[:, None, None]
        return jnp.where(own, scaled, rest), jnp.minimum(lowest, pivot)

    table, lowest = jax.lax.fori_loop(0, size, eliminate, (table, largest))
    moves = table[:, -1].T
    length = jnp.sqrt(jnp.sum(moves**2, axis=1))
    left = -jnp.sum(moves * slopes, axis=1) / 2
    limited = limits(radii)
    clear = lowest > jnp.where(limited, 4 * size * eps, jnp.sqrt(eps)) * largest
    sure = clear & jnp.isfinite(length) & (~limited | (length <= radii)) & (largest > 0)
    radii = jnp.where(limited, radii, jnp.where(length > 0, length, 1))
    step = Step(
        move=moves,
        predicted_reduction=left,
        predicted_remaining=left,
        radius=radii,
        products=jnp.zeros(len(radii), jnp.int32),
        newton=moves,
        unknown=jnp.zeros_like(radii),
    )
    return step, sure
