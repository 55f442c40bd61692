"""Compiled solves: one program for each loss, method and shape, found again by value."""

import copy
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.compile import fingerprint
from jaxgd.compile.executables import LIGHT, Compiled
from jaxgd.compile.loss_jaxpr import Traced
from jaxgd.compile.sum_of_squares import as_least_squares, is_curved
from jaxgd.core import implicit
from jaxgd.core.bound_loss import BoundLoss, Derivatives
from jaxgd.core.flat import Held, Layout
from jaxgd.core.lapack import one_by_one
from jaxgd.core.loop import Minibatches, Run, Track, advance, begin, learn, minibatches
from jaxgd.core.problem import Point, Problem
from jaxgd.core.protocol import Solver, Traits
from jaxgd.core.scaling import FEW
from jaxgd.core.stop import Stop
from jaxgd.core.tiles import Tiles

POOL = 6  # weight of the program of a pool of lanes


class Inputs(NamedTuple):
    """What a program takes: everything that may change without compiling again."""

    init: Any  # pytree of arrays
    data: Any
    arrays: list[Any]  # closed over by the loss and by schedules
    numbers: list[Any]  # of the method and of the stop
    terms: Any  # what is added to the loss, a `Terms` in the shape of the params, or None


class Answer(NamedTuple):
    """What a program returns."""

    params: Any
    loss: jax.Array
    grad: Any
    residual: Any  # None: it is the gradient
    aux: Any
    counts: jax.Array
    evidence: jax.Array


@dataclass(frozen=True)
class Recipe:
    """What is fixed in a program."""

    traced: Any  # a `Traced`
    functions: Any  # the loss and the schedules, as given
    method: Any  # as given; None: to be chosen
    options: Any  # structure of (method, stop)
    places: tuple[int, ...]  # which leaves of the options are functions
    choose: Callable[..., tuple[Solver, str]]  # of the method asked for, the number of parameters and the term
    sign: int
    trace: bool
    least_squares: bool
    has_aux: bool
    derivatives: Derivatives = Derivatives.ALL
    tile: int = 0  # rows of a tile, where the loss is a mean over rows; 0: it is not
    exactly: bool = False  # the tile is of so many rows, not of fewer
    rows: int = 0  # at least so many there are; 0: it is not known
    sampled: bool = False  # the method is told by a sample of rows what the curvature is

    def number(self, place: int) -> int:
        """Return which of the numbers the leaf of the options at a place is."""
        return place - sum(other < place for other in self.places)


class Program:
    """A solve, compiled for one recipe."""

    def __init__(self, recipe: Recipe, terms: Any, fixed: Any) -> None:
        """Prepare; JAX compiles each part when it is first called. `fixed`: a mask of the flat params, or None."""
        self._whole = Layout.of(recipe.traced.start)
        self._free = None if fixed is None else np.flatnonzero(~fixed)
        self.size = self._whole.size if self._free is None else self._free.size
        self.start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), recipe.traced.start)
        self.dtype = self._whole.dtype
        self._last: tuple[list[Any], list[Any]] = ([], [])
        self.recipe = recipe
        self._residuals = self._curved_residuals()
        solver, self.method = self._choose(recipe.method, terms.term if terms else None)
        self.traits = Traits.of(solver)
        own, stop = recipe.options.children()
        places = jax.tree.unflatten(stop, range(own.num_leaves, own.num_leaves + stop.num_leaves))
        # Which of the numbers limits the evaluations, and which is `tol`, if one is.
        self.limit: int = recipe.number(places.max_evals)
        self.tol: int | None = None if places.tol is None else recipe.number(places.tol)
        given = ("data", "arrays", "terms", *(() if fixed is None else ("init",)))
        solve = one_by_one(self._solve)
        self.solve = Compiled(
            implicit.differentiable(solve, self._reversible, self._of_point, given), light=self.made <= LIGHT
        )
        self.begin = self._compiled(self._begin)
        self.advance = self._compiled(self._advance)
        self.answer = self._compiled(self._answer)
        self.trace = self._compiled(self._trace)
        self.first = self._compiled(self._first)
        self.answer_from = self._compiled(self._answer_from)
        self.minibatches = self._compiled(self._minibatches, donate_argnums=1)
        self.slopes = self._compiled(self._slopes)
        self.learn = self._compiled(self._learn)
        self.lanes: dict[Hashable, Any] = {}  # the pools of many such solves, by what differs between them
        self._others: dict[Hashable, Any] = {}  # what else is asked of it, compiled

    @property
    def weight(self) -> int:
        """How much code it holds, in programs of one solve."""
        return 1 + POOL * sum(len(lanes.widths) for lanes in self.lanes.values()) + len(self._others)

    @property
    def sees_squares(self) -> bool:
        """Whether it is solved as a sum of squares, though it was not said to be one."""
        return self._residuals is not None

    @cached_property
    def work(self) -> int:
        """How many arithmetic operations an evaluation takes, about, the Hessian among them where it is computed."""
        recipe = self.recipe
        tiles = max(1, recipe.rows // recipe.tile) if recipe.tile else 1
        return recipe.traced.operations * tiles * (1 + self.size if self.traits.full_hessian else 1)

    @property
    def made(self) -> int:
        """How many numbers an evaluation makes on its way, about; with the Hessian, where the method takes it."""
        if self.recipe.tile:
            return sys.maxsize  # as many as there are rows
        made = sum(var.aval.size for equation in self.recipe.traced.jaxpr.eqns for var in equation.outvars)
        return made * (1 + self.size) if self.traits.full_hessian else made

    def _compiled(self, function: Callable[..., Any], **options: Any) -> Compiled:
        return Compiled(one_by_one(function), light=self.made <= LIGHT, **options)

    def compiled(self, function: Callable[..., Any], *fixed: Hashable) -> Any:
        """Return `function(self, *fixed, ...)` compiled, once for this program."""
        if (function, *fixed) not in self._others:
            self._others[function, *fixed] = self._compiled(partial(function, self, *fixed))
        return self._others[function, *fixed]

    @cached_property
    def of_residuals(self) -> "Program | None":
        """The program of the same loss by its residuals, where it is a sum of squares; it solves nothing."""
        recipe = self.recipe
        if recipe.least_squares:
            return self
        if recipe.derivatives in (Derivatives.BACKWARD, Derivatives.FIRST):
            return None
        record = as_least_squares(recipe.traced, recipe.sign)
        if record is None:
            return None
        other = copy.copy(self)
        other.recipe = replace(recipe, traced=record, least_squares=True, has_aux=False, sign=1)
        other.lanes, other._others, other._residuals = {}, {}, None  # noqa: SLF001 - its own kind
        return other

    def _curved_residuals(self) -> Traced | None:
        """Return the record of the residuals of a loss that is a sum of squares of a model that is curved, or None.

        Where the model is linear in few params, the Hessian of the loss tells as much.
        """
        recipe = self.recipe
        chosen = recipe.method is None and self.size <= FEW and recipe.derivatives is Derivatives.ALL
        if not chosen or recipe.least_squares or recipe.tile or recipe.sampled:
            return None
        record = as_least_squares(recipe.traced, recipe.sign, of_data=False)
        return record if record is not None and is_curved(record) else None

    def on_device(self, numbers: list[Any]) -> list[Any]:
        """Return the numbers as arrays, those of the last call if they are the same: moving one takes microseconds."""
        if not all(type(number) in (int, float) for number in numbers):
            return numbers
        last, arrays = self._last
        if last != numbers:
            arrays = [jax.device_put(number) for number in numbers]
            if any(isinstance(array, Tracer) for array in arrays):
                return numbers
            self._last = (numbers, arrays)
        return arrays

    def limit_of(self, numbers: Any) -> Any:
        """Return how many evaluations the numbers allow, without fetching those of the last call from the device."""
        last, arrays = self._last
        return (last if numbers is arrays else numbers)[self.limit]

    def _choose(self, method: Any, term: Any) -> tuple[Solver, str]:
        recipe, record = self.recipe, self.recipe.traced
        squares = recipe.least_squares or self._residuals is not None
        kind = {"least_squares": squares, "derivatives": recipe.derivatives, "sampled": recipe.sampled}
        kind |= {"linear": record.dots is not None, "rows": recipe.rows, "operations": record.operations}
        return recipe.choose(method, self.size, term, **kind)

    @property
    def free(self) -> np.ndarray:
        """Which entries of the flat params are not held still."""
        return np.arange(self.size) if self._free is None else self._free

    def layout(self, init: Any) -> Layout | Held:
        """Return how the params lie in the vector; what is held still is as in `init`."""
        return self._whole if self._free is None else Held(self._whole, self._free, self._whole.flatten(init))

    def bind(self, inputs: Inputs) -> tuple[Problem, Solver, Stop]:
        """Return what a run is of: the problem, the method and the rule to stop by."""
        recipe = self.recipe
        functions = fingerprint.rebuild(recipe.functions, iter(inputs.arrays)) if inputs.arrays else recipe.functions
        leaves = list(inputs.numbers)
        for place, function in zip(recipe.places, functions[1:], strict=True):
            leaves.insert(place, function)
        method, stop = jax.tree.unflatten(recipe.options, leaves)
        layout, terms = self.layout(inputs.init), inputs.terms
        term, ridge = terms.flatten(layout) if terms else (None, None)
        solver, _ = self._choose(method, term)

        record = self._residuals

        def bound(data: Any) -> BoundLoss:
            return BoundLoss(
                function=lambda params: recipe.traced(params, data, inputs.arrays),
                layout=layout,
                sign=recipe.sign,
                derivatives=recipe.derivatives,
                cut=recipe.traced.cut(data, inputs.arrays),
                has_aux=recipe.has_aux,
                squares=record and partial(_residuals, record, data, inputs.arrays),
            )

        problem = Problem(
            loss=Tiles(bound, recipe.tile, inputs.data, recipe.sign) if recipe.tile else bound(inputs.data),
            layout=layout,
            aux=recipe.traced.aux,
            term=term,
            ridge=ridge,
            still=self._penalty_of_held(inputs.init, terms),
        )
        return replace(problem, start=problem.project(layout.flatten(inputs.init))), solver, stop

    def _penalty_of_held(self, init: Any, terms: Any) -> Any:
        """Return what the penalties say of the params that are held still, which the vector does not hold."""
        if self._free is None or not terms:
            return None
        held, (term, ridge) = self._whole.flatten(init).at[self._free].set(0), terms.flatten(self._whole)
        penalty = 0 if term is None else term.value(held)
        return penalty if ridge is None else penalty + jnp.sum(ridge * held**2) / 2

    def _first(self, inputs: Inputs) -> jax.Array:
        """Return where the first evaluation is."""
        return self.bind(inputs)[0].start

    def _begin(self, inputs: Inputs) -> Run:
        problem, solver, _ = self.bind(inputs)
        moves = max(16, min(1000, (1 << 22) // self.size)) if self.recipe.trace else 0
        return begin(problem, solver, self._first(inputs), moves)

    def _advance(self, inputs: Inputs, run: Run, ticks: Any = None) -> Run:
        return advance(*self.bind(inputs), run, ticks)

    def _slopes(self, inputs: Inputs, params: jax.Array) -> jax.Array:
        """Return what the rows at hand say of loss and gradient, in one vector."""
        (loss, _), grad = self.bind(inputs)[0].slopes(params)
        return jnp.append(grad, loss)

    def _learn(self, inputs: Inputs, run: Run, slopes: jax.Array) -> Run:
        """Return the run told what all rows say of loss and gradient where it asked; the rows at hand are a sample."""
        problem, solver, stop = self.bind(inputs)
        slopes = slopes.astype(run.state.trial.dtype)
        return learn(problem, solver, stop, run, problem.point(run.state.trial, slopes[-1], slopes[:-1], ()))

    def _minibatches(self, inputs: Inputs, sums: Minibatches, order: jax.Array, count: jax.Array) -> Minibatches:
        """Return the sums after a step for each of the first `count` rows of `order`, numbers of the rows at hand."""
        return minibatches(lambda data: self.bind(inputs._replace(data=data))[:2], inputs.data, sums, order, count)

    def _answer(self, inputs: Inputs, run: Run) -> Answer:
        return self._of_point(inputs, run.best, run.counts, run.evidence)

    def _of_point(self, inputs: Inputs, point: Point, counts: Any = None, evidence: Any = None) -> Answer:
        layout, sign = self.layout(inputs.init), self.recipe.sign
        params, grad = layout.unflatten(point.params), layout.slopes(sign * point.grad)
        residual = layout.slopes(sign * point.residual) if inputs.terms else None
        return Answer(params, sign * point.loss, grad, residual, point.aux, counts, evidence)

    def _answer_from(self, inputs: Inputs, params: jax.Array, slopes: jax.Array, counts: Any, evidence: Any) -> Answer:
        """Return the answer where all rows say this of loss and gradient."""
        slopes = slopes.astype(params.dtype)
        point = self.bind(inputs)[0].point(params, slopes[-1], slopes[:-1], ())
        return self._of_point(inputs, point, counts, evidence)

    def _trace(self, inputs: Inputs, track: Track) -> tuple[Any, ...]:
        params = jax.vmap(self.layout(inputs.init).unflatten)(track.params)
        return self.recipe.sign * track.loss, track.grad_norm, track.stepsize, params, track.filled

    def _solve(self, inputs: Inputs) -> tuple[Answer, Track | None]:
        run = self._advance(inputs, self._begin(inputs))
        return self._answer(inputs, run), run.trace

    def _reversible(self, inputs: Inputs) -> Problem:
        """Return the problem, which JAX can differentiate."""
        if self.recipe.derivatives is Derivatives.FIRST:
            msg = (
                "the answer cannot be differentiated: that takes second derivatives of `loss`, which JAX does not have."
                " Give the backward functions of its `jax.custom_vjp` derivatives of their own."
            )
            raise TypeError(msg)
        return self.bind(inputs)[0].reversible()


def _residuals(record: Traced, data: Any, arrays: Any, params: Any) -> Any:
    """Return the residuals of a record of a least-squares loss."""
    return record(params, data, arrays)[1]


class Solution(NamedTuple):
    """What every driver returns: the answer, and what there is to say and to keep of it."""

    program: Program
    answer: Answer  # of many problems, lanes first
    trace: Any = None  # its columns, of many problems lanes first
    note: str = ""  # what the user should know
    run: Any = None  # a `Saved`, where it can be carried on
    source: Any = None  # for what is asked later: a program and its inputs, or of many problems each `Part`
    compiling: Any = (0.0, 0.0)  # seconds of tracing and compiling, in threads of its own
    slots: int | None = None  # of many: evaluations made in all slots of the pools, also in those that stood idle
    labels: Any = None  # of groups
    optima: Any = None  # of several starts


def emptied(track: Track) -> Track:
    """Return the track emptied, for the next burst."""
    return track._replace(filled=jnp.zeros_like(track.filled))
