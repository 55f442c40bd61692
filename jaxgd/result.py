"""What a solve returns: it explains itself when printed."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxgd.evidence import Evidence
from jaxgd.problem import rounding
from jaxgd.stop import Status


class NotConverged(RuntimeError):  # noqa: N818 - it is a verdict, as `StopIteration` is
    """Raised by `Result.check` when a solve did not converge."""


class NotConvergedWarning(UserWarning):
    """Given once by an eager solve that did not converge."""


class Seconds(NamedTuple):
    """Wall time of a solve: tracing and compiling, and everything else."""

    compile: float
    run: float


@partial(
    jax.tree_util.register_dataclass, data_fields=["loss", "grad_norm", "stepsize", "params", "count"], meta_fields=[]
)
@dataclass(frozen=True)
class Trace:
    """What was seen on the way, a row a move, the start first.

    Inside `jit` and `vmap` the arrays keep their full length, and `count` says how many rows are filled; otherwise they
    are trimmed to it.
    """

    loss: Any  # shape (n,)
    grad_norm: Any  # shape (n,): largest absolute component
    stepsize: Any  # shape (n,): of the move that led there, 0 for the start
    params: Any  # the user's pytree, each leaf with a leading axis of length n
    count: Any

    def table(self) -> Any:
        """Return a pandas `DataFrame`, a row a move and a column for each parameter."""
        try:
            import pandas as pd  # noqa: PLC0415 - an extra
        except ImportError as error:
            msg = "A table needs pandas: pip install 'jaxgd[pandas]'."
            raise ImportError(msg) from error
        columns: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in ("loss", "grad_norm", "stepsize")}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            name = "params" + jax.tree_util.keystr(path)
            flat = np.asarray(leaf).reshape(len(leaf), -1)
            single = np.ndim(leaf) == 1
            columns |= {name if single else f"{name}[{i}]": flat[:, i] for i in range(flat.shape[1])}
        return pd.DataFrame(columns).rename_axis("move")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "loss", "grad", "residual", "aux", "trace", "counts", "evidence", "tests"],
    meta_fields=["method"],
    drop_fields=["seconds", "note"],
)
@dataclass(frozen=True)
class Result:
    """The best point found, how good it is, why the solve ended, and what it cost.

    A pytree of arrays, so it passes through `jit` and `vmap`; under `vmap` every array has a leading axis.
    """

    params: Any  # the user's own pytree
    loss: Any  # the loss there
    grad: Any  # its gradient, in the shape of params; for complex params the direction of steepest ascent
    residual: Any  # with bounds and other terms: `params - prox(params - grad)`, zero at a minimum; else None
    aux: Any  # what the loss returned beside its value, or ()
    trace: Trace | None
    counts: Any = field(repr=False)  # status, evaluations, moves, Hessian-vector products
    evidence: Any = field(repr=False)  # the numbers the verdict rests on
    tests: Any = field(repr=False)  # the `Stop` it was judged by
    method: str = ""  # what was used, and why where it was chosen
    seconds: Seconds | None = None
    note: str = ""  # what the caller should know beside the verdict

    @property
    def status(self) -> Any:
        """The `Status`; under `vmap` and `jit` an array of its numbers."""
        codes = self.counts[..., 0]
        return codes if isinstance(codes, Tracer) or np.ndim(codes) else Status(int(codes))

    @property
    def evals(self) -> Any:
        """Evaluations of the loss and its gradient."""
        return self._count(1)

    @property
    def moves(self) -> Any:
        """Accepted steps."""
        return self._count(2)

    @property
    def products(self) -> Any:
        """Products of vectors with the Hessian, or with a Jacobian; a whole one is as many as there are parameters."""
        return self._count(3)

    def _count(self, at: int) -> Any:
        counts = self.counts[..., at]
        return counts if isinstance(counts, Tracer) or np.ndim(counts) else int(counts)

    @property
    def converged(self) -> Any:
        """Whether the test asked for was met, or nothing is left that the float type can resolve."""
        if isinstance(self.status, Status):
            return self.status.converged
        return (self.status >= Status.CONVERGED) & (self.status <= Status.PRECISION_FLOOR)

    @property
    def grad_norm(self) -> Any:
        """The largest absolute component of the gradient; with bounds and other terms, of the residual."""
        lanes, slopes = np.ndim(self.counts) - 1, self.grad if self.residual is None else self.residual
        largest = [jnp.max(jnp.abs(leaf), axis=tuple(range(lanes, leaf.ndim))) for leaf in jax.tree.leaves(slopes)]
        norm = jnp.max(jnp.stack(largest), axis=0)
        return norm if isinstance(norm, Tracer) or np.ndim(norm) else float(norm)

    @property
    def message(self) -> str:
        """Why the solve ended, with the numbers, and what to do if it failed."""
        if not isinstance(self.status, Status):
            codes, counts = np.unique(np.asarray(self.status), return_counts=True)
            return ", ".join(f"{count} {Status(code).name}" for code, count in zip(codes, counts, strict=True))
        # Evidence of a float64 solve is read in float64, also where JAX has it switched off.
        with jax.enable_x64(True):
            seen = Evidence.unpack(jnp.asarray(self.evidence))
            noise = float(rounding(self.loss))
            return _SENTENCES[self.status].format(r=self, e=seen, s=self.tests, noise=noise) + self.note

    def check(self) -> "Result":
        """Return the result itself; raise `NotConverged` with the message if it did not converge."""
        if not np.all(self.converged):
            raise NotConverged(self.message)
        return self

    def __str__(self) -> str:
        """Say what was found, how good it is, why it ended, and what it cost."""
        if isinstance(self.counts, Tracer):
            return f"Result(being traced by JAX, method={self.method!r})"
        if not isinstance(self.status, Status):
            return f"{self.status.size} results: {self.message}. Method: {self.method}."
        verdict = "Converged" if self.converged else "Not converged"
        spent = (
            ""
            if self.seconds is None
            else f", {self.seconds.compile:.2g} s compiling and {self.seconds.run:.2g} s running"
        )
        return "\n".join(
            [
                f"{verdict} ({self.status.name}): {self.message}",
                f"  params     {_shown(self.params)}",
                f"  loss       {float(self.loss):.10g}, largest gradient component {self.grad_norm:.2g}",
                f"  method     {self.method}",
                f"  cost       {self.evals} evaluations, {self.moves} moves{spent}",
            ]
        )


_SENTENCES = {
    Status.RUNNING: "still running after {r.evals} evaluations.",
    Status.CONVERGED: (
        "the loss can fall by an estimated {e.left:.1e} at most, after a decrease of {e.made:.3g} since the start."
    ),
    Status.SMALL_GRADIENT: "largest gradient component {r.grad_norm:.2g} <= gtol {s.gtol:.2g}.",
    Status.SMALL_STEP: "largest change of a parameter in the last move {e.change:.3g} < xtol {s.xtol:.2g}.",
    Status.SMALL_DECREASE: "the last move lowered the loss by {e.recent[0]:.2g}, within ftol {s.ftol:.2g} of its size.",
    Status.PRECISION_FLOOR: (
        "no decrease is left that the float type can resolve; rounding hides changes of the loss below {noise:.1e}."
    ),
    Status.MAX_EVALS: (
        "stopped after {r.evals} evaluations, the limit, with the largest gradient component at {r.grad_norm:.2g}."
        " Raise it with `stop=Stop(max_evals=...)`, or ask for less with `tol`."
    ),
    Status.STUCK: (
        "no step along the gradient lowers the loss any more, though its largest component is {r.grad_norm:.2g}."
        " The loss may not be smooth here (a kink, a custom derivative), or float32 too coarse: try `dtype='float64'`."
    ),
    Status.DIVERGED: (
        "the steps led to where the loss is not finite, after {r.evals} evaluations; the best point seen is returned."
        " Use a smaller step size, or `method='auto'`, which needs none."
    ),
    Status.BAD_START: "the loss or its gradient is not finite at the start: loss {r.loss}. Pass another `init`.",
    Status.UNBOUNDED: (
        "the loss fell to {r.loss:.2g} and goes on falling as the parameters grow: it has no minimum."
        " Add what bounds it from below, such as a penalty on the parameters."
    ),
    Status.ZERO_GRADIENT: (
        "the gradient is exactly zero at the start, which a minimum, a saddle and a loss flat there have in common."
        " Pass another `init`."
    ),
    Status.INTERRUPTED: "interrupted after {r.evals} evaluations; the best point so far is returned.",
}


def _shown(tree: Any, most: int = 8) -> str:
    """Return a pytree's numbers, or its shapes where there are many."""
    leaves = jax.tree.leaves(tree)
    if sum(np.size(leaf) for leaf in leaves) <= most:
        return str(jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), tree))
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
