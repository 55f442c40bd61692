"""What a loss asks of a table: columns by name, or the whole as an array."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgd.data.columns import NoColumnError, check_there

_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_OTHER = ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert")


def asked(loss: Callable[..., Any], init: Any, names: list[Any], columns: dict[str, Any]) -> tuple[str, ...] | None:
    """Return which columns a loss gets by name; None where it gets the table as an array.

    Found by calling it with shapes alone. Where it fails before its end, as it will when it is recorded, it gets what
    it has asked for; before it has asked at all, the columns that hold numbers.

    Args:
        loss: as for `minimize`.
        init: shapes of the start; None: a scalar is tried, and vectors, as `minimize` does.
        names: of all columns.
        columns: shapes of those that hold numbers.

    """
    seen, shapes = _Seen([]), ((), (len(names),), (len(names) - 1,))
    starts = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes] if init is None else [init]

    def call(params: Any, data: Any) -> Any:
        return loss(params, data)

    for start in starts:
        try:
            jax.eval_shape(call, start, _Asking(columns, tuple(names), seen))
        except _AsArrayError:
            return None
        except NoColumnError:
            raise
        except Exception:  # noqa: BLE001, S112 - see above
            continue
        break
    if seen.names:
        return tuple(dict.fromkeys(seen.names))
    return tuple(columns) if len(columns) < len(names) else None


class _AsArrayError(Exception):
    """A loss takes the table as an array."""


@dataclass(eq=False)
class _Seen:
    names: list[str]


@jax.tree_util.register_pytree_node_class
class _Asking:
    """Stands for a table in a loss, its inner functions that are jitted included, to see what it asks for."""

    def __init__(self, columns: dict[str, Any], names: tuple[Any, ...], seen: _Seen) -> None:
        self.columns, self.names, self.seen = columns, names, seen

    def tree_flatten(self) -> tuple[Any, Any]:
        return tuple(self.columns.values()), (tuple(self.columns), self.names, self.seen)

    @classmethod
    def tree_unflatten(cls, aux: Any, columns: Any) -> "_Asking":
        return cls(dict(zip(aux[0], columns, strict=True)), *aux[1:])

    def __getitem__(self, name: Any) -> Any:
        if isinstance(name, list):
            msg = f"`loss` asks for the columns {name!r} at once; it gets a dict of arrays. Write "
            raise NoColumnError(msg + "jnp.stack([data[name] for name in ...], axis=-1).")
        if not isinstance(name, str):
            raise _AsArrayError
        check_there(name, list(self.names), "`data`", "`loss` asks for")
        self.seen.names.append(name)
        # A column of text is refused when it is read.
        return self.columns[name] if name in self.columns else jnp.zeros(())

    def __contains__(self, name: Any) -> bool:
        self.seen.names.extend([name] if name in self.columns else [])
        return name in self.names

    def get(self, name: str, default: Any = None) -> Any:
        return default if name not in self.names else self[name]

    def keys(self) -> Any:
        self.seen.names.extend(self.columns)
        return self.columns.keys()

    def values(self) -> Any:
        self.keys()
        return self.columns.values()

    def items(self) -> Any:
        self.keys()
        return self.columns.items()

    def as_array(self, *_: Any) -> Any:
        raise _AsArrayError

    __getattr__ = __iter__ = __len__ = __array__ = __jax_array__ = as_array


for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), *_OTHER):
    setattr(_Asking, f"__{_name}__", _Asking.as_array)
