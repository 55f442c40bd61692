"""Arithmetic of vectors and of small matrices, in few kernels."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

T = TypeVar("T")

ONE_KERNEL = jax.__version_info__ >= (0, 11)  # XLA on CPU compiles a loop as one kernel
CLOSED = 2  # rows of a matrix whose spectrum has a closed form, at most
SMALL = 12  # rows of a matrix whose products are taken one by one, and spectrum by rotations, in the loop's kernel
SWEEPS = 15  # of these rotations over all pairs of rows, at most; they converge quadratically
SHORT = 32  # numbers in a row that XLA on CPU sums in one kernel
LONG = 4096  # from which on a row is read no more often than it must be


def pack(*rows: jax.Array) -> jax.Array:
    """Stack scalars, or vectors of one shape, as `jnp.stack` does, but in one operation.

    XLA on CPU compiles one kernel for every operand of a concatenation; a chain of selections is one in all.
    """
    shape = (len(rows), *jnp.shape(rows[0]))
    packed = jnp.broadcast_to(rows[-1], shape)
    for i, row in enumerate(rows[:-1]):
        here = np.arange(len(rows)).reshape(-1, *[1] * (len(shape) - 1)) == i
        packed = jnp.where(here, row, packed)
    return packed


def expand_to(flags: Any, leaf: Any) -> Any:
    """Return flags, one for each entry of the leaf's first axis, in the shape that goes with the leaf."""
    return flags.reshape(-1, *[1] * (leaf.ndim - 1))


def without_derivatives(tree: Any) -> Any:
    """Return a pytree without derivatives: outside of `jit` as values, also where JAX differentiates it."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf, tree)


def irregular(size: int, dtype: Any) -> jax.Array:
    """Return numbers from -1 to 1 that no problem is made of: no symmetry holds in them; shape `(size,)`."""
    return jnp.cos(1 + jnp.arange(size, dtype=dtype))


def nudge(vector: jax.Array) -> jax.Array:
    """Return a small step beside a vector."""
    return 0.01 * jnp.maximum(1, jnp.abs(vector)) * irregular(vector.size, vector.dtype)


def once(flag: jax.Array, positive: jax.Array) -> jax.Array:
    """Return `flag`, computed once; `positive` is any finite number that XLA does not know, 0 or more.

    XLA computes a flag anew in each operation that depends on it, with all that it is made from; but not a quotient.
    """
    return flag / (1 + positive) > 0


def products(rows: jax.Array, others: jax.Array) -> jax.Array:
    """Return the dot products of `rows`, shape `(k, p)`, with `others`, shape `(j, p)`, as shape `(k, j)`.

    XLA on CPU runs a short reduction in one small kernel but splits a long one in three. A product of matrices compiles
    at once and reads each row once; but it is a library call, which takes microseconds to start, and with one in it a
    loop is not compiled as one kernel, as in `in_one_kernel`. A matrix times a vector is none.
    """
    few, many = sorted((rows, others), key=len)
    if len(few) <= SMALL and rows.shape[1] <= SHORT:
        return jnp.sum(rows[:, None] * others, axis=2)
    if len(few) <= SMALL and rows.shape[1] < LONG and _fuses_loops():
        found = jnp.stack([jnp.matmul(many, row, precision="highest") for row in few])
        return found if few is rows else found.T
    return jax.lax.dot_general(rows, others, (((1,), (1,)), ((), ())), precision="highest")


def in_one_kernel(function: Callable[[T], T], carry: T) -> T:
    """Return `function(carry)`, of the structure of `carry`, computed in one kernel where XLA on CPU can.

    It compiles a loop as one kernel, if there is no library call in it. So this is a loop of one turn, of which XLA
    does not know that it is one; what does not depend on `carry` is taken out of it.
    """
    if not _fuses_loops():
        return function(carry)
    turns = jax.lax.optimization_barrier(jnp.int32(1))
    start = (jnp.int32(0), carry)
    return jax.lax.while_loop(lambda at: at[0] < turns, lambda at: (at[0] + 1, function(at[1])), start)[1]


def _fuses_loops() -> bool:
    return ONE_KERNEL and jax.default_backend() == "cpu"


def safe_norm(square: jax.Array, size: jax.Array) -> jax.Array:
    """Return the length of a vector from its square, or where that leaves the type's range, the sum of its sizes.

    The sum is too long by the root of the number of entries at most.
    """
    inside = (square > jnp.finfo(square.dtype).tiny) & (square < jnp.inf)
    return jnp.where(inside, jnp.sqrt(square), size)


def triangle(matrix: jax.Array) -> jax.Array:
    """Return R of the QR factorization of a matrix, shape `(n, p)`, but for its last row, shape `(p - 1, p)`.

    By modified Gram-Schmidt, whose R is as true as Householder's (Bjorck, BIT 7, 1967); no LAPACK in lanes.
    """
    size = matrix.shape[1]

    def peel(column: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        rest, rows = carry
        own = rest[:, column]
        length = safe_norm(jnp.sum(own**2), jnp.sum(jnp.abs(own)))
        unit = own / jnp.where(length > 0, length, 1)
        row = jnp.where(jnp.arange(size) > column, jnp.sum(unit[:, None] * rest, axis=0), 0)
        return rest - unit[:, None] * row, rows.at[column].set(row.at[column].set(length))

    blank = jnp.zeros((size - 1, size), matrix.dtype)
    return jax.lax.fori_loop(0, size - 1, peel, (matrix, blank))[1]


def spectrum(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the eigenvalues of a symmetric matrix, the lowest first, and its eigenvectors as columns."""
    # In closed form where there is one: LAPACK would be called for each lane.
    size = len(matrix)
    if size == 1:
        return matrix[0], jnp.ones_like(matrix)
    if size == CLOSED:
        return _spectrum_of_two(matrix)
    if not _by_rotations(size):
        values, vectors = jnp.linalg.eigh(matrix)
        return values, vectors

    def entries(table: jax.Array, i: jax.Array, j: jax.Array) -> tuple[jax.Array, ...]:
        return table[i, i], table[i, j], table[j, j]

    table = _rotated(matrix, entries, columns=size)
    return _ascending(jnp.diagonal(table), table[:, size:])


def singular(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the singular values, the smallest first, the right singular vectors as columns, and `matrix` times these.

    `matrix`: shape `(n, p)`, n no less than p.
    """
    rows, size = matrix.shape
    if not _by_rotations(size):
        left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
        return values[::-1], right[::-1].T, (left * values)[:, ::-1]

    def entries(table: jax.Array, i: jax.Array, j: jax.Array) -> tuple[jax.Array, ...]:
        one, other = table[i, :rows], table[j, :rows]
        return jnp.sum(one**2), jnp.sum(one * other), jnp.sum(other**2)

    table = _rotated(matrix.T, entries, columns=0)
    values, turned = _ascending(jnp.sqrt(jnp.sum(table[:, :rows] ** 2, axis=1)), table)
    return values, turned[rows:], turned[:rows]


def _by_rotations(size: int) -> bool:
    return size <= SMALL and _fuses_loops()


def _rotated(matrix: jax.Array, entries: Callable[..., tuple[jax.Array, ...]], columns: int) -> jax.Array:
    """Return the rows of a matrix, and of the identity beside it, turned in pairs until they are at right angles.

    `entries`: of the table and two numbers of rows, the two by two matrix to make diagonal. As many of the first
    `columns` are turned like the rows. Jacobi's method: Golub and Van Loan, Matrix Computations (2013), section 8.5;
    of one side, 8.6.3.
    """
    size, eps = len(matrix), jnp.finfo(matrix.dtype).eps
    pairs = jnp.asarray(np.stack(np.triu_indices(size, 1)).T, jnp.int32)
    table = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    if size == 1:
        return table
    row, column = np.arange(size)[:, None], np.arange(table.shape[1])

    def rotate(at: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        table, largest = carry
        i, j = pairs[at]
        high, off, low = entries(table, i, j)
        clear = jnp.abs(off) > eps * jnp.sqrt(jnp.abs(high)) * jnp.sqrt(jnp.abs(low))
        tangent, cosine, sine = _rotation(high, jnp.where(clear, off, 0), low)

        def turned(number: np.ndarray, one: jax.Array, other: jax.Array) -> jax.Array:
            first, second = cosine * one - sine * other, sine * one + cosine * other
            return jnp.where(number == i, first, jnp.where(number == j, second, table))

        table = turned(row, table[i], table[j])
        if columns:
            table = turned(column, table[:, i][:, None], table[:, j][:, None])
        return table, jnp.maximum(largest, jnp.abs(tangent))

    def sweep(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        sweeps, table, _ = carry
        return sweeps + 1, *jax.lax.fori_loop(0, len(pairs), rotate, (table, jnp.zeros((), table.dtype)))

    # After a sweep of turns below the root of what rounding is, none above rounding is left.
    start = (jnp.int32(0), table, jnp.ones((), table.dtype))
    return jax.lax.while_loop(lambda at: (at[0] < SWEEPS) & (at[2] > jnp.sqrt(eps)), sweep, start)[1]


def _ascending(values: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the values, the lowest first, and the rows that go with them, as columns; without a call to sort."""
    place = np.arange(len(values))
    before = (values < values[:, None]) | ~(values > values[:, None]) & (place < place[:, None])
    here = place[:, None] == jnp.sum(before, axis=1)
    return jnp.sum(jnp.where(here, values, 0), axis=1), jnp.sum(jnp.where(here[:, :, None], rows, 0), axis=1).T


def _rotation(high: jax.Array, off: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return tangent, cosine and sine of the smaller angle that makes a symmetric matrix of two rows diagonal."""
    gap = (low - high) / 2
    # In units of the largest, so that no square is inf.
    unit = jnp.maximum(jnp.abs(gap), jnp.abs(off))
    unit = jnp.where(unit > 0, unit, 1)
    long = jnp.abs(gap / unit) + jnp.sqrt((gap / unit) ** 2 + (off / unit) ** 2)
    tangent = jnp.where(off == 0, 0, jnp.where(gap < 0, -1, 1) * (off / unit) / jnp.where(long > 0, long, 1))
    cosine = jax.lax.rsqrt(1 + tangent**2)
    return tangent, cosine, tangent * cosine


def _spectrum_of_two(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the spectrum of a symmetric matrix of two rows, by one rotation."""
    (high, off), (_, low) = matrix
    tangent, cosine, sine = _rotation(high, off, low)
    first, second = high - tangent * off, low + tangent * off
    values, vectors = pack(first, second), pack(pack(cosine, sine), pack(-sine, cosine))
    swap = first > second
    return jnp.where(swap, values[::-1], values), jnp.where(swap, vectors[:, ::-1], vectors)


def combination(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the sum of `rows`, shape `(k, p)`, each times its weight, shape `(k,)`; computed as `products` are."""
    if rows.shape[1] <= SHORT:
        return jnp.sum(weights[:, None] * rows, axis=0)
    return jnp.matmul(weights, rows, precision="highest")


def small_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Return the product of two small matrices, in one kernel."""
    return jnp.sum(left[:, :, None] * right, axis=1)


def inverse(matrix: jax.Array) -> jax.Array:
    """Return the inverse of a small matrix that is symmetric and positive definite, in one kernel.

    Each row is swept in turn: Golub and Van Loan, Matrix Computations (2013), section 4.2; without pivots.
    """
    size = len(matrix)
    scale = jax.lax.rsqrt(jnp.diagonal(matrix))

    def sweep(k: int, table: jax.Array) -> jax.Array:
        here = jnp.arange(size) == k
        pivot, row = 1 / table[k, k], table[k]
        rest = table - row[:, None] * row * pivot
        rest = jnp.where(here[:, None], row * pivot, jnp.where(here, row[:, None] * pivot, rest))
        return jnp.where(here[:, None] & here, -pivot, rest)

    return -jax.lax.fori_loop(0, size, sweep, matrix * scale * scale[:, None]) * scale * scale[:, None]
