"""What a solve returns: it explains itself when printed."""

import difflib
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.core.convergence import Evidence
from jaxgd.core.settings import own
from jaxgd.core.status_text import SENTENCES, shown, wording
from jaxgd.core.stop import Counts, Status, succeeded
from jaxgd.history import Trace, columns_of, frame

INTERNAL = {"counts", "evidence", "tests", "source"}  # fields that its properties are made from


ELSEWHERE = {  # what results have in other libraries
    "x": "the answer is `params`",
    "coef_": "the answer is `params`",
    "value": "the answer is `params`, and the loss there `loss`",
    "fun": "it is `loss`",
    "success": "it is `converged`",
    "jac": "the gradient is `grad`",
    "hess_inv": "it is `covariance()`, which knows what the loss is",
    "bse": "it is `stderr()`",
    "cov_params": "it is `covariance()`",
    "conf_int": "it is `summary()`",
    "state": "it is `status`, `evals`, `moves`",
    "stats": "it is `status`, `evals`, `moves`",
    "njev": "each of the `evals` is of loss and gradient",
    "cost": "it is `loss`",
    "redchi": "it is in `summary()`",
    **dict.fromkeys(("best_values", "x_", "beta", "theta", "argmin"), "the answer is `params`"),
    **dict.fromkeys(("fit_report", "pvalues", "tvalues"), "it is `summary()`, whose `table()` has a row a param"),
    **dict.fromkeys(("rsquared", "r2", "r_squared", "score"), "it is `summary().r_squared`"),
    **dict.fromkeys(("cov", "covar", "covariance_", "pcov"), "it is `covariance()`"),
    **dict.fromkeys(("predict", "eval", "best_fit", "fittedvalues"), "call your model with `params`"),
    **dict.fromkeys(("residuals", "resid", "residual_"), "call your model with `params`"),
    **dict.fromkeys(("n_iter_", "iterations", "iter_num", "num_steps"), "it is `moves`"),
}


class NotConverged(RuntimeError):  # noqa: N818 - it is a verdict, as `StopIteration` is
    """Raised by `Result.check` when a solve did not converge."""


class NotConvergedWarning(UserWarning):
    """Given once by an eager solve that did not converge."""


class Seconds(NamedTuple):
    """Wall time of a solve."""

    trace: float  # tracing and lowering by JAX
    compile: float  # compiling by XLA, or reading what an earlier process has compiled
    run: float  # everything else


class Optimum(NamedTuple):
    """One of the minima that several starts found."""

    loss: float
    params: Any
    starts: int  # that reached it


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "loss", "grad", "residual", "aux", "trace", "counts", "evidence", "tests"],
    meta_fields=["method"],
    drop_fields=["seconds", "note", "slots", "labels", "by", "optima", "run", "source"],
)
@dataclass(frozen=True, repr=False)
class Result:
    """The best point found, how good it is, why the solve ended, and what it cost.

    A pytree of arrays, so it passes through `jit` and `vmap`. Of many problems, by `minimize_many` or under `vmap`,
    every array has a leading axis of lanes, and `result[i]` is that of one.
    """

    params: Any  # the user's own pytree
    loss: Any  # the loss there
    grad: Any  # its gradient, in the shape of params; for complex params the direction of steepest ascent
    residual: Any  # with bounds and other terms: `params - prox(params - grad)`, zero at a minimum; else None
    aux: Any  # what the loss returned beside its value, or ()
    trace: Trace | None
    counts: Any = field(repr=False)  # `Counts`, packed
    evidence: Any = field(repr=False)  # the numbers the verdict rests on
    tests: Any = field(repr=False)  # the `Stop` it was judged by
    method: str = ""  # what was used, and why where it was chosen
    seconds: Seconds | None = None
    note: str = ""  # what the caller should know beside the verdict
    slots: int | None = None  # of many: evaluations made in all slots of the pools, also in those that stood idle
    labels: Any = None  # of groups: what each lane is called
    by: tuple[str, ...] = ()  # of groups: the columns that the labels were in
    optima: list[Optimum] | None = None  # of several starts: the distinct minima found, the lowest first
    run: Any = field(default=None, repr=False)  # of a watched solve that ended early: what `resume` carries on
    source: Any = field(default=None, repr=False, compare=False)  # the solve, for `uncertainty/request.py`

    @property
    def status(self) -> Any:
        """The `Status`; under `vmap` and `jit` an array of its numbers."""
        codes = self._count("status")
        return Status(codes) if isinstance(codes, int) else codes

    @property
    def evals(self) -> Any:
        """Evaluations of the loss and its gradient."""
        return self._count("evals")

    @property
    def moves(self) -> Any:
        """Accepted steps."""
        return self._count("moves")

    @property
    def products(self) -> Any:
        """Products of vectors with the Hessian, or with a Jacobian; a whole one is as many as there are parameters."""
        return self._count("products")

    @property
    def nfev(self) -> Any:
        """The same as `evals`."""
        return self.evals

    @property
    def nit(self) -> Any:
        """The same as `moves`."""
        return self.moves

    def _count(self, name: str) -> Any:
        counts = getattr(Counts.of(self.counts), name)
        return counts if isinstance(counts, Tracer) or np.ndim(counts) else int(counts)

    @property
    def converged(self) -> Any:
        """Whether the test asked for was met, or nothing is left that the float type can resolve."""
        return self.status.converged if isinstance(self.status, Status) else succeeded(self.status)

    @property
    def grad_norm(self) -> Any:
        """The largest absolute component of the gradient; with bounds and other terms, of the residual."""
        lanes, slopes = np.ndim(self.counts) - 1, self.grad if self.residual is None else self.residual
        largest = [jnp.max(jnp.abs(leaf), axis=tuple(range(lanes, leaf.ndim))) for leaf in jax.tree.leaves(slopes)]
        norm = jnp.max(jnp.stack(largest), axis=0)
        return norm if isinstance(norm, Tracer) or np.ndim(norm) else float(norm)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say what is called otherwise in other libraries."""
            more = f": {ELSEWHERE[name]}" if name in ELSEWHERE else ""
            msg = f"`Result` has no `{name}`{more}."
            raise AttributeError(msg)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_") and name not in INTERNAL]

    def __bool__(self) -> bool:
        """Return True: a result is there. Whether it is a success says `converged`."""
        return True

    def __len__(self) -> int:
        if np.ndim(self.counts) < 2:  # noqa: PLR2004 - lanes and counts
            msg = "This is the result of one problem: it has no lanes, and is no tuple. The answer is `params`."
            raise TypeError(msg)
        return len(self.counts)

    def __getitem__(self, lane: Any) -> "Result":
        """Return the result of one lane, or of several as a slice or an array of their numbers picks them.

        Of groups, a string or a tuple is the label of one.
        """
        size = len(self)
        if self.labels is not None and isinstance(lane, str | tuple):
            lane = self._place_of(lane)
        if isinstance(lane, int) and not -size <= lane < size:
            msg = f"lane {lane} is not there; there are {size}, from 0."
            raise IndexError(msg)
        tree = replace(self, seconds=None, slots=None, labels=None, tests=None)
        # A rule that is one for all lanes has no axis of lanes.
        own = {name: test[lane] for name, test in vars(self.tests).items() if np.ndim(test)}
        tests = replace(self.tests, **own) if own else self.tests
        labels = self.labels if self.labels is None else self.labels[lane]
        found = replace(
            jax.tree.map(lambda leaf: leaf[lane], tree), tests=tests, note=self.note, labels=labels, by=self.by
        )
        one, found = np.ndim(found.counts) == 1, replace(found, source=self.source and self.source.picked(lane))
        return replace(found, trace=found.trace.trimmed()) if found.trace is not None and one else found

    def _place_of(self, label: Any) -> int:
        """Return which lane a group is."""
        labels = self.labels.tolist()
        if label not in labels:
            near = difflib.get_close_matches(str(label), map(str, labels), 1) or [str(labels[0])]
            msg = f"no group is called {label!r}; there are {len(labels)}, such as {near[0]!r}. See `result.labels`."
            raise KeyError(msg)
        return labels.index(label)

    def table(self) -> Any:
        """Return a pandas `DataFrame`, a row a lane: status, loss, gradient, cost, and a column for each parameter."""
        size = len(self)
        columns: dict[str, Any] = {
            "status": [Status(code).name for code in np.asarray(self.status)],
            "converged": np.asarray(self.converged),
            "loss": np.asarray(self.loss),
            "grad_norm": np.asarray(self.grad_norm),
            "evals": np.asarray(self.evals),
            "moves": np.asarray(self.moves),
        }
        index = range(size) if self.labels is None else self.labels.tolist()
        names = self.source.columns if self.source else ()
        columns |= columns_of(self.params, names, columns)
        return frame(columns, index, self.by or ["lane" if self.labels is None else "group"])

    def covariance(self, kind: str | None = None, rows: Any = None) -> Any:
        """Return the covariance of the params, a frozen dataclass.

        >>> import jaxgd
        >>> result = jaxgd.minimize(jaxgd.losses.mse, [1.0, 2.0, 3.0, 6.0], dtype="float64")
        >>> covariance = result.covariance()
        >>> covariance.kind, covariance.matrix.round(3).tolist()
        ('least_squares', [[1.167]])

        What the loss is tells the kind. A weighted sum or mean of squared differences between data and a model is
        recognized, and `losses.logistic`, `softmax` and `poisson` are known to be likelihoods. For any other loss
        "sandwich" is taken, which is right for likelihoods too, in large samples.

        Below, H is the Hessian of the sum of the loss over rows, the entries of the data's leading axis. Whether the
        loss is that sum or a mean is found out from its values for single rows. `l2` counts in H alone. Params held by
        `fixed`, at a bound, or shrunk to 0 by `l1` are taken as known, with variance 0. Of many problems lanes lie
        first, NaN where they did not converge. In float32 some 3 digits hold: for 6 solve in dtype="float64". The data
        are read again: do not change them before.

        Args:
            kind: "least_squares" is s^2 (J'J)^-1, with J the Jacobian of the n residuals and s^2 their sum of squares
                over n less the rank of J. "hessian" is H^-1, for negative log-likelihoods. "sandwich" is H^-1 (sum of
                g g') H^-1 with g the gradient of a row, right also where the model is not (Huber 1967, White 1980:
                HC0). None: as the loss tells, or "hessian" where `rows` are given.
            rows: how many rows the loss is a mean over, 1 for a sum, where it cannot be found out.

        Returns:
            `matrix`, float64; `kind`; `names` of its rows; `table()`, as pandas; `undetermined`, the directions of
            which the data say nothing: variances are inf there, and a warning names them.

        Raises:
            NotConverged: of one problem whose solve did not converge.
            ValueError: without `rows`, for a loss that is neither mean nor sum; for no more residuals than params; for
                a result that came through `jit`, `vmap`, a copy or a file.

        """
        return self._asked("covariance").covariance(self, kind, rows)

    def stderr(self, kind: str | None = None, rows: Any = None) -> Any:
        """Return the roots of the variances, in the shape of the params; for complex params of both parts."""
        return self._asked("stderr").covariance(self, kind, rows).stderr(self.params)

    def summary(self, kind: str | None = None, rows: Any = None, level: float = 0.95) -> Any:
        """Return each param with its standard error, interval and t or z value, to print or have as a `table()`.

        >>> import jaxgd
        >>> print(jaxgd.minimize(jaxgd.losses.mse, [1.0, 2.0, 3.0, 6.0], dtype="float64").summary())
        Converged (CONVERGED): ...
          loss 3.5; R² 0.0000; standard errors of least squares; 4 residuals, 3 degrees of freedom
                  value      t     95 % interval
          params  3.0 ± 1.1  2.78  -0.4 to 6.4

        `kind` and `rows` are those of `covariance`, and `level` that of the interval, by Student's t where the noise is
        estimated from residuals, else by the normal distribution. Params are called by the keys of a dict, or, of one
        vector, by the columns of the table in the data. A solve that did not converge has no errors.
        """
        return self._asked("summary").summary(self, kind, rows, level)

    def _asked(self, what: str) -> Any:
        if self.source is None:
            msg = f"`{what}` needs the data, which results in `jit` and `vmap`, and copies, do not hold. Solve outside."
            raise ValueError(msg)
        return self.source

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and files hold: all but the solve's program and inputs."""
        return {**vars(self), "source": None}

    @property
    def verdict(self) -> str:
        """Whether it converged, and the message."""
        if not isinstance(self.status, Status):
            return f"{int(np.sum(self.converged))} of {len(self)} problems converged: {self.message}."
        return f"{'Converged' if self.converged else 'Not converged'} ({self.status.name}): {self.message}"

    @property
    def message(self) -> str:
        """Why the solve ended, with the numbers, and what to do if it failed."""
        if not isinstance(self.status, Status):
            codes, counts = np.unique(np.asarray(self.status), return_counts=True)
            return ", ".join(f"{count} {Status(code).name}" for code, count in zip(codes, counts, strict=True))
        # Evidence of a float64 solve is read in float64, also where JAX has it switched off.
        with own(), jax.enable_x64(True):
            seen = Evidence.unpack(jnp.asarray(self.evidence))
            words = wording(self.loss, self.params, seen)
            return SENTENCES[self.status].format(r=self, e=seen, s=self.tests, **words) + self.note

    def check(self) -> "Result":
        """Return the result itself; raise `NotConverged` with the message if it did not converge."""
        if not np.all(self.converged):
            failed = f": {'; '.join(self._failed())}" if np.ndim(self.counts) > 1 else ""
            raise NotConverged(self.message + failed)
        return self

    def _failed(self, most: int = 3) -> list[str]:
        """Return what ended the lanes that failed, one of each status first."""
        lanes = np.flatnonzero(~np.asarray(self.converged))
        _, first = np.unique(np.asarray(self.status)[lanes], return_index=True)
        shown = [*lanes[first], *np.delete(lanes, first)][:most]
        said = [
            f"lane {lane}{self._called(lane)} ({self[int(lane)].status.name}): {self[int(lane)].message}"
            for lane in map(int, shown)
        ]
        return [*said, f"and {len(lanes) - most} more, in `~result.converged`"] if len(lanes) > most else said

    def _called(self, lane: int) -> str:
        return "" if self.labels is None else f", {self.labels[lane]!r}"

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """Say what was found, how good it is, why it ended, and what it cost."""
        if isinstance(self.counts, Tracer) or isinstance(self.loss, Tracer):
            return f"Result(being traced by JAX, method={self.method!r})"
        spent = ""
        if self.seconds is not None:
            trace, compiled, run = self.seconds
            spent = f", {trace:.2g} s tracing, {compiled:.2g} s compiling and {run:.2g} s running"
        if not isinstance(self.status, Status):
            return self._of_lanes(spent)
        return "\n".join(
            [
                self.verdict,
                f"  params     {shown(self.params)}",
                f"  loss       {float(self.loss):.10g}, largest gradient component {self.grad_norm:.2g}",
                f"  method     {self.method}, in {np.asarray(self.loss).dtype}",
                f"  cost       {self.evals} evaluations, {self.moves} moves{spent}",
            ]
        )

    def _of_lanes(self, spent: str) -> str:
        evals = np.asarray(self.evals)
        useful = "" if not self.slots else f", {evals.sum() / self.slots:.0%} of those made were useful"
        lines = [
            self.verdict,
            f"  method     {self.method}, in {np.asarray(self.loss).dtype}",
            f"  cost       {evals.sum()} evaluations, {evals.mean():.1f} a lane, {evals.max()} at most{useful}{spent}",
        ]
        return "\n".join(lines + [f"  failed     {text}" for text in self._failed()])
