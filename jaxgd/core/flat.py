"""A pytree of parameters as one flat real vector, and back."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Layout:
    """How a pytree of float or complex arrays lies in one real vector.

    Leaves follow each other in the pytree's order, each in C order; a complex leaf lies as its real
    parts followed by its imaginary parts.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(cls, tree: Any) -> "Layout":
        """Return the layout of a pytree of arrays or of `jax.ShapeDtypeStruct`."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(treedef, tuple(leaf.shape for leaf in leaves), tuple(leaf.dtype for leaf in leaves))

    @property
    def dtype(self) -> np.dtype:
        """The vector's type: wide enough for every leaf, float32 at least."""
        return jnp.finfo(jnp.result_type(jnp.float32, *self.dtypes)).dtype

    @property
    def size(self) -> int:
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        parts = (2 if np.issubdtype(dtype, np.complexfloating) else 1 for dtype in self.dtypes)
        return [part * int(np.prod(shape)) for part, shape in zip(parts, self.shapes, strict=True)]

    def flatten(self, tree: Any) -> jax.Array:
        """Return the vector of shape `(size,)` that holds `tree`."""
        parts: list[jax.Array] = []
        for leaf in map(jnp.asarray, self.treedef.flatten_up_to(tree)):
            pair = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
            parts += [part.astype(self.dtype).ravel() for part in pair]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

    def unflatten(self, vector: jax.Array) -> Any:
        """Return the pytree that `vector` of shape `(size,)` holds, in the leaves' own types."""
        parts = jnp.split(vector, np.cumsum(self._sizes)[:-1]) if len(self.shapes) > 1 else [vector]
        leaves: list[jax.Array] = []
        for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True):
            if np.issubdtype(dtype, np.complexfloating):
                real, imag = part.reshape(2, *shape)
                leaves.append(jax.lax.complex(real, imag).astype(dtype))
            else:
                leaves.append(part.reshape(shape).astype(dtype))
        return jax.tree.unflatten(self.treedef, leaves)

    def slopes(self, vector: jax.Array) -> Any:
        return self.unflatten(vector)

    def blocks(self, leaf: int, own: jax.Array) -> jax.Array:
        """Return an array with a block for each number of a leaf, with zeros for the numbers of the others."""
        before, after = sum(self._sizes[:leaf]), sum(self._sizes[leaf + 1 :])
        return jnp.pad(own, [(before, after), *[(0, 0)] * (own.ndim - 1)]) if before or after else own


@dataclass(frozen=True)
class Held:
    """A layout of which some entries stay as they are: the vector holds the others."""

    layout: Layout
    free: np.ndarray  # indices of the entries that the vector holds
    rest: Any  # vector of the whole layout: the entries that stay

    def flatten(self, tree: Any) -> jax.Array:
        return self.layout.flatten(tree)[self.free]

    def unflatten(self, vector: jax.Array) -> Any:
        return self.layout.unflatten(self.rest.at[self.free].set(vector))

    def slopes(self, vector: jax.Array) -> Any:
        """Return the pytree with the free entries from `vector`, and zeros elsewhere."""
        return self.layout.unflatten(jnp.zeros_like(self.rest).at[self.free].set(vector))

    def blocks(self, leaf: int, own: jax.Array) -> jax.Array:
        """Return an array with a block for each number of a leaf, for the free entries."""
        return self.layout.blocks(leaf, own)[self.free]

    @property
    def dtype(self) -> np.dtype:
        return self.layout.dtype
