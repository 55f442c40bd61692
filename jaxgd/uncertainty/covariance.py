"""The covariance of an answer: curvature turned into standard errors, and what the data do not determine."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgd.history import frame

MOST = 6  # params that the words for a direction name
FAINT = 0.01  # parts of a direction that its words leave out


class WeakDirection(NamedTuple):
    """A way to change the params that changes nothing in the loss, as far as its type can tell."""

    words: str  # "0.71 a - 0.71 b"
    vector: np.ndarray  # of length 1, shape (p,)


@dataclass(frozen=True)
class Covariance:
    """The covariance of all params, as the flat vector holds them; of many problems lanes first.

    NumPy arrays take it as the matrix it is, and `table()` shows it by names.
    """

    matrix: np.ndarray  # float64, shape (p, p) or (lanes, p, p)
    kind: str  # "least_squares", "hessian" or "sandwich"
    names: list[str]  # of the params; a complex one has a real and an imaginary part
    undetermined: Any  # list of the `WeakDirection`s the data do not determine; of many problems a list for each
    labels: Any = None  # of groups: what each lane is called
    count: Any = None  # of rows, or of residuals, where it is known; of many problems shape (lanes,)
    dof: Any = None  # degrees of freedom: residuals less the rank of their Jacobian; None where there are none
    held: Any = None  # which params are fixed, on a bound, or zeros of `l1`; shape (p,) or (lanes, p)
    r_squared: Any = None  # 1 less the squared residuals over the squares about the mean; None where they are none

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.matrix, dtype, copy=copy)

    def table(self) -> Any:
        """Return a pandas `DataFrame` with the names along both axes; of many problems by lane, or group, and name."""
        if self.matrix.ndim == 2:  # noqa: PLR2004 - a matrix
            return frame(dict(zip(self.names, self.matrix.T, strict=True)), self.names)
        lanes, size = self.matrix.shape[:2]
        what = "lane" if self.labels is None else "group"
        index = np.arange(lanes) if self.labels is None else self.labels
        columns = dict(zip(self.names, self.matrix.reshape(-1, size).T, strict=True))
        return frame({what: np.repeat(index, size), "param": self.names * lanes, **columns}).set_index([what, "param"])

    def stderr(self, params: Any) -> Any:
        """Return the roots of the variances, in the shape of the params."""
        roots = np.sqrt(np.diagonal(self.matrix, axis1=-2, axis2=-1))
        leaves, structure = jax.tree.flatten(params)
        parts, at = [], 0
        for leaf in leaves:
            count = int(np.prod(leaf.shape[roots.ndim - 1 :]))
            part = roots[..., at : at + count].reshape(leaf.shape)
            if np.iscomplexobj(leaf):
                part = part + 1j * roots[..., at + count : at + 2 * count].reshape(leaf.shape)
            at += count * (1 + np.iscomplexobj(leaf))
            parts.append(part[()])
        return structure.unflatten(parts)


class Found(NamedTuple):
    """Covariances of the params that are not held still, lanes first, or inverses of Hessians."""

    matrix: np.ndarray  # shape (lanes, p, p)
    loose: np.ndarray  # shape (lanes, p): which params lie in a direction that is not determined
    directions: list[np.ndarray]  # of each lane, shape (k, p): those directions
    rank: np.ndarray  # shape (lanes,): how many directions of what is not held are determined


def covariances(
    hessian: np.ndarray,
    outer: np.ndarray,
    squares: np.ndarray,
    held: np.ndarray,
    size: np.ndarray,
    rows: np.ndarray,
    eps: float,
    kind: str,
    *,
    squared: bool,
    root: bool,
) -> Found:
    """Return the covariances, from the `Moments` of each lane and what its Hessian is a mean over.

    With H the Hessian of the sum over n rows and g those of their gradients: H^-1 by kind "hessian", and
    H^-1 (sum of g g') H^-1 by "sandwich" (Huber 1967; White, Econometrica 48, 1980). Least squares (`squared`) have
    J'J for H, and the variance of the noise, the sum of squares over n less the rank, as a factor. With `root` R is
    given, not R'R = H.
    """
    fine: np.ndarray = np.all(np.isfinite(hessian), axis=(1, 2))
    hessian = np.where(fine[:, None, None], hessian, np.eye(held.shape[1]))
    spare = rows - np.sum(~held, axis=1) if squared else rows
    own = np.sum(hessian**2, axis=1) if root else np.diagonal(hessian, axis1=1, axis2=2)
    with np.errstate(all="ignore"):
        # Were all other params known, the error would be this. A param that may change by more than its size over `eps`
        # changes less than rounding does: whether a column is small depends on what its param is, not on its units.
        scale = (squares if squared else 1) / np.maximum(spare, 1)
        alone = scale[:, None] / own
        if kind == "sandwich":
            alone = np.diagonal(outer, axis1=1, axis2=2) / own**2 / (1 if squared else rows[:, None] ** 2)
        faint = ~held & (alone * eps**2 >= size**2)
    found = inverse(hessian, held, eps, root=root, faint=faint)
    spare = rows - found.rank if squared else rows
    enough = spare > 0
    if kind == "sandwich":
        matrix, scale = found.matrix @ outer @ found.matrix, 1.0 if squared else 1 / rows**2
    else:
        matrix, scale = found.matrix, squares / np.where(enough, spare, 1) if squared else 1 / rows
    matrix = matrix * np.where(fine & enough, scale, np.nan)[:, None, None]
    matrix[found.loose[:, :, None] | found.loose[:, None, :]] = np.nan
    lanes, params = np.nonzero(found.loose & np.expand_dims(fine & enough, 1))
    matrix[lanes, params, params] = np.inf
    return found._replace(matrix=matrix)


def inverse(hessian: np.ndarray, held: np.ndarray, eps: float, *, root: bool, faint: np.ndarray) -> Found:
    """Return the inverse of symmetric matrices, or with `root` that of R'R; what is held is 0.

    The units of the params do not matter: the diagonal is scaled to ones. An eigenvalue that rounding may have made,
    `p * eps` of the largest and less, stands for a direction that is not determined; of R, a singular value. What is
    `faint` is taken as 0.
    """
    hessian, size = np.where(faint[:, None, :], 0, np.array(hessian, np.float64)), held.shape[1]
    if root:
        scale = _reciprocal(np.linalg.norm(hessian, axis=1))
        _, values, vectors = np.linalg.svd(hessian * scale[:, None, :])
        vectors, roots = np.swapaxes(vectors, 1, 2), values
    else:
        hessian[(held | faint)[:, :, None] | held[:, None, :]] = 0
        hessian[:, range(size), range(size)] += held
        scale = _reciprocal(np.sqrt(np.maximum(np.diagonal(hessian, axis1=1, axis2=2), 0)))
        values, vectors = np.linalg.eigh(hessian * scale[:, :, None] * scale[:, None, :])
        roots = np.sqrt(np.maximum(values, 0))
    small = values <= size * eps * np.max(np.abs(values), axis=1, keepdims=True)
    half = vectors * np.where(small, 0, _reciprocal(roots))[:, None, :] * scale[:, :, None]
    half = half * ~held[:, :, None]
    loose = np.linalg.norm(vectors * small[:, None, :], axis=2) > np.sqrt(size * eps)
    flat = [np.zeros((0, size))] * len(held)
    for lane in np.flatnonzero(small.any(axis=1)):
        rows = _simplest(vectors[lane][:, small[lane]].T, np.sqrt(size * eps)) * scale[lane]
        flat[lane] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rank = np.sum(~small, axis=1) - np.sum(held, axis=1)
    return Found(half @ np.swapaxes(half, 1, 2), loose & ~held, flat, rank)


def _reciprocal(numbers: np.ndarray) -> np.ndarray:
    """Return one over each number that is not 0, and 1 over those that are."""
    return 1 / np.where(numbers > 0, numbers, 1)


def _simplest(rows: np.ndarray, faint: float) -> np.ndarray:
    """Return rows that span the same space with as many zeros as elimination makes."""
    rows, done = rows.copy(), np.zeros(len(rows), bool)
    for _ in rows:
        sizes = np.abs(rows) * ~done[:, None]
        at, pivot = np.unravel_index(np.argmax(sizes), rows.shape)
        rows[at] /= rows[at, pivot]
        others = np.arange(len(rows)) != at
        rows[others] -= rows[others][:, [pivot]] * rows[at]
        done[at] = True
    return np.where(np.abs(rows) > faint, rows, 0)


def direction(vector: np.ndarray, names: list[str]) -> WeakDirection:
    """Return a direction with its words, its first part positive."""
    named = np.flatnonzero(np.abs(vector) > FAINT * np.max(np.abs(vector)))
    vector = vector * np.sign(vector[named[0]])
    words = "".join(
        f" {'-' if vector[i] < 0 else '+'} " + (f"{abs(vector[i]):.2g} " if abs(vector[i]) < 1 else "") + names[i]
        for i in named[:MOST]
    )
    return WeakDirection(words[3:] + (" + ..." if len(named) > MOST else ""), vector)
