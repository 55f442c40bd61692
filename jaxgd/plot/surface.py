"""A loss as pictures see it: in float64, at many places at once, and its minimum."""

import difflib
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.api import minimize
from jaxgd.compile.build import Ask, prepare
from jaxgd.compile.inputs import refuse_traced
from jaxgd.compile.loss_jaxpr import name_of
from jaxgd.compile.program import Inputs, Program
from jaxgd.dispatch import with_columns
from jaxgd.history import names_of
from jaxgd.lanes.groups import Groups
from jaxgd.result import NotConvergedWarning, Result
from jaxgd.rows.rows import Rows

OPTIONS = ("has_aux", "bounds", "l1", "l2", "term", "fixed")  # those of `minimize` that say what the loss is
SHOWN = 6  # names of params in a message
ROOM = 1 << 20  # numbers of data that are evaluated with at a time


@dataclass(frozen=True)
class Surface:
    """A loss of one param or two; the points are those of the flat vector of params."""

    ask: Ask
    options: dict[str, Any]
    program: Program
    given: Inputs
    names: list[str] = field(default_factory=list)

    def at(self, points: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return losses, shape `(n,)`, and slopes, shape `(n, p)`, at points of shape `(n, p)`.

        NaN where the loss is not finite, and where bounds or the term do not let it be evaluated.
        """
        together = None if self.program.recipe.traced.calls_host else max(1, min(256, ROOM // self.numbers))
        with jax.enable_x64(True):
            found = self.program.compiled(_evaluated, together)(self.given, jnp.asarray(points, float))
        losses, slopes = (np.asarray(part, float) for part in found)
        fine = np.isfinite(losses)
        return np.where(fine, losses, np.nan), np.where(fine[:, None], slopes, np.nan)

    @property
    def numbers(self) -> int:
        """How many numbers the data hold, 1 at least."""
        return max(1, sum(np.size(leaf) for leaf in jax.tree.leaves(self.given.data)))

    def one(self, *point: float) -> tuple[float, np.ndarray]:
        """Return the loss at a point, and its slopes."""
        losses, slopes = self.at([point])
        return float(losses[0]), slopes[0]

    def hessian(self, point: Any) -> np.ndarray:
        """Return the second derivatives at a point, of the smooth part; NaN where JAX has none."""
        with jax.enable_x64(True):
            try:
                return np.asarray(self.program.compiled(_bent)(self.given, jnp.asarray(point, float)), float)
            except (TypeError, ValueError, NotImplementedError):
                return np.full((self.program.size, self.program.size), np.nan)

    def flat(self, params: Any) -> np.ndarray:
        """Return params as a point."""
        with jax.enable_x64(True):
            return np.asarray(self.program.layout(self.given.init).flatten(params), float)

    def rows(self, params: Any) -> np.ndarray:
        """Return params with a leading axis of n as points, shape `(n, p)`."""
        with jax.enable_x64(True):
            return np.asarray(jax.vmap(self.program.layout(self.given.init).flatten)(params), float)

    @cached_property
    def lowest(self) -> Result:
        """What `minimize` finds, whether or not it converged."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            ask = self.ask
            return minimize(ask.loss, ask.data, ask.init, dtype="float64", trace=True, **self.options)

    @property
    def minimum(self) -> tuple[np.ndarray, float] | None:
        """The point and the loss there, or None where no minimum was found."""
        found = self.lowest
        return (self.flat(found.params), float(found.loss)) if found.converged else None


def _evaluated(program: Program, together: int | None, given: Inputs, points: Any) -> Any:
    problem = program.bind(given)[0]

    def total(point: Any) -> Any:
        value = problem.value(point)[0]
        return value if problem.term is None else value + problem.term.value(point)

    def one(point: Any) -> Any:
        point = point.astype(program.dtype)
        nearest = problem.project(point)
        outside = jnp.any(jnp.abs(nearest - point) > 1e-9 * (1 + jnp.abs(point)))
        loss, slopes = jax.value_and_grad(total)(nearest)
        return jnp.where(outside, jnp.nan, loss), slopes

    return jax.lax.map(one, points, batch_size=together)


def _bent(program: Program, given: Inputs, point: Any) -> Any:
    return program.bind(given)[0].hessian(point.astype(program.dtype))


def surface(loss: Any, data: Any, init: Any, options: dict[str, Any], size: int, picture: str, start: str) -> Surface:
    """Return the loss as a surface over `size` params; `start` is what the picture calls the argument `init`."""
    for name in options:
        if name not in OPTIONS:
            nearest = difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.0)[0]
            msg = f"`{picture}` has no option `{name}`; the nearest is `{nearest}`. All: {sorted(OPTIONS)}."
            raise TypeError(msg)
    if isinstance(data, Rows | Groups):
        msg = (
            f"`data` is `{type(data).__name__}`, and `{picture}` evaluates the loss at hundreds of places. Pass arrays,"
            " such as a sample of the rows, or those of one group."
        )
        raise TypeError(msg)
    if isinstance(loss, Result):
        msg = f"`loss` is a `Result`; `{picture}` draws a loss, a function of (params, data). Pass loss and data."
        raise TypeError(msg)
    refuse_traced((data, init), f"`{picture}`")
    _check_start(loss, init, size if options.get("fixed") is None else None, picture, start)
    asked = with_columns(Ask(loss, data, init, dtype="float64", trace=True, **options))
    with jax.enable_x64(True):
        try:
            init = _in_shape(asked._replace(init=None), init)
            program, given, _ = prepare(asked._replace(init=init))
        except (TypeError, ValueError) as error:
            if "`init" not in str(error):
                raise
            raise type(error)(str(error).replace("`init", f"`{start}")) from error
    names = ["theta" if name == "params" else name for name in names_of(given.init)]
    if program.size != size:
        raise ValueError(_unfit(loss, [names[i] for i in program.free], size, picture))
    return Surface(asked._replace(init=init), options, program, given, [names[i] for i in program.free])


def _check_start(loss: Any, init: Any, size: int | None, picture: str, start: str) -> None:
    """Refuse a start that holds no finite numbers, or more than the picture has room for."""
    held = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(init):
        try:
            numbers = np.asarray(leaf)
        except ValueError:
            numbers = np.array(None)
        where = start + jax.tree_util.keystr(path)
        if numbers.dtype.kind not in "iufc" and not jnp.issubdtype(numbers.dtype, jnp.floating):
            msg = f"`{where}` must be a number, or an array of numbers, in the shape that the loss takes; got {leaf!r}."
            raise TypeError(msg)
        if not np.isfinite(numbers).all():
            msg = f"`{where}` must be finite; got {leaf}."
            raise ValueError(msg)
        held += numbers.size * (2 if np.iscomplexobj(numbers) else 1)
    if size is not None and held > size:
        name = name_of(loss)
        msg = f"`{start}` holds {held} numbers, and `{picture}` draws a loss, here {name}, of {_params(size)}."
        raise ValueError(f"{msg} {_remedy(held)}")


def _params(count: int) -> str:
    return "1 param" if count == 1 else f"{count} params"


def _remedy(count: int) -> str:
    fits = {1: "`plot.curve`", 2: "`plot.contour`"}.get(count, "`plot.profile(result, params=[...])`")
    return f"Use {fits} here, or hold the others still with `fixed=`."


def _in_shape(ask: Ask, init: Any) -> Any:
    """Return a start that is one number in the shape that the loss takes, where that can be found out."""
    if init is None or np.ndim(init) or np.iscomplexobj(init) or jax.tree.structure(init) != jax.tree.structure(0):
        return init
    try:
        start = prepare(ask)[0].start
    except Exception:  # noqa: BLE001 - the loss may still take the number as it is
        return init
    return jax.tree.map(lambda leaf: np.full(leaf.shape, init, leaf.dtype), start)


def _unfit(loss: Any, names: list[str], size: int, picture: str) -> str:
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return (
        f"`{picture}` draws a loss of {_params(size)}; `loss` {name_of(loss)} has {len(names)}: {shown}."
        f" {_remedy(len(names))}"
    )
