"""What results say: a sentence for each status, and how params are shown."""

from typing import Any

import jax
import numpy as np

from jaxgd.core.convergence import ROUGHLY, Evidence
from jaxgd.core.problem import rounding
from jaxgd.core.stop import Status

SENTENCES = {
    Status.RUNNING: "still running after {r.evals} evaluations.",
    Status.CONVERGED: (
        "the loss can fall by an estimated {e.predicted_remaining:.1e} at most, after a decrease of {e.decrease:.3g}"
        " since the start."
    ),
    Status.SMALL_GRADIENT: "largest gradient component {r.grad_norm:.2g} <= gtol {s.gtol:.2g}.",
    Status.SMALL_STEP: "largest change of a parameter in the last move {e.change:.3g} < xtol {s.xtol:.2g}.",
    Status.SMALL_DECREASE: "the last move lowered the loss by {e.recent[0]:.2g}, within ftol {s.ftol:.2g} of its size.",
    Status.PRECISION_FLOOR: "no step lowers the loss{hidden}.",
    Status.MAX_EVALS: (
        "stopped after {r.evals} evaluations, the limit, with the largest gradient component at {r.grad_norm:.2g}."
        " Raise it with `max_evals=...`, or ask for less with `tol`."
    ),
    Status.STUCK: (
        "no step of the method lowers the loss any more, though the gradient's largest component is {r.grad_norm:.2g}."
        " The loss may not be smooth here (a kink, a custom derivative), or a step size too short to change any"
        " param{coarse}; or try another method from `init=result.params`."
    ),
    Status.DIVERGED: (
        "the steps led to where the loss is not finite, or above that at the start, after {r.evals} evaluations; the"
        " best point seen is returned."
        " Use a smaller step size, or `method='auto'`, which needs none."
    ),
    Status.BAD_START: "{bad} not finite at the start: loss {r.loss}. Pass another `init`{range}.",
    Status.UNBOUNDED: (
        "the loss falls without end, as the parameters grow or beside a pole: it has no minimum. The best point seen,"
        " of loss {r.loss:.2g}, is returned. Add what bounds it from below: a penalty, or bounds on the parameters."
    ),
    Status.NO_INFLUENCE: (
        "the loss no longer depends on some parameters where the solve ended, as it did at the start: its lowest value"
        " may lie at infinity, or a step has led onto a plateau. Bound or penalize these parameters, or pass another"
        " `init`."
    ),
    Status.ZERO_GRADIENT: (
        "the gradient is exactly zero at the start, which a minimum, a saddle and a loss flat there have in common."
        " Pass another `init`."
    ),
    Status.OUTDONE: (
        "given up after {r.evals} evaluations: another start has a lower loss than this one can still reach, as far as"
        " its model tells."
    ),
    Status.NOISE_FLOOR: (
        "the last passes over the minibatches did not lower the loss by more than its noise, after {r.evals} of them."
    ),
    Status.MAX_PASSES: (
        "stopped after {r.evals} minibatches, the limit of passes, before nothing was left to gain."
        " Raise it with `batch_size=Batches(size=..., passes=...)`, or take other steps."
    ),
    Status.INTERRUPTED: "interrupted after {r.evals} evaluations; the best point so far is returned.",
    Status.TIME_LIMIT: (
        "the time limit was reached after {r.evals} evaluations, with the largest gradient component at"
        " {r.grad_norm:.2g}; the best point so far is returned. `resume=` carries on from here."
    ),
    Status.DIMINISHING_RETURNS: (
        "ended after {r.evals} evaluations: by their trend, all {s.max_evals} that are allowed would bring less than"
        " 1 % of the decrease so far, {e.decrease:.3g}, and no end. The best point is returned. `resume=result` goes on"
        " to twice as many; `max_evals=20_000` or `tol=1e-3` to the end that you ask for."
    ),
    Status.STOPPED: "a watcher stopped it after {r.evals} evaluations; the best point so far is returned.",
}


def wording(loss: Any, params: Any, seen: Evidence) -> dict[str, str]:
    """Return what sentences say of a loss: what is not finite, what a wider type would do, what rounding hides."""
    narrow = np.asarray(loss).dtype == np.float32
    noise = max(float(seen.noise), float(seen.doubt), float(rounding(loss)))
    hidden = (
        f", and what may be left, about {seen.model:.1e}, is hidden by rounding, which was seen to change it by"
        f" {noise:.1e}"
    )
    # One parameter alone is pinned between trials that were refused, whatever a model says.
    pinned = sum(map(np.size, jax.tree.leaves(params))) == 1 and seen.model > ROUGHLY * noise
    return {
        "hidden": ": steps to both sides have closed in on its lowest point" if pinned else hidden,
        "bad": "the gradient is" if np.isfinite(loss) else "the loss is",
        "coarse": ", or float32 too coarse: try `dtype='float64'`" if narrow else "",
        "range": ", or `dtype='float64'` if it exceeds the range of float32" if narrow and not np.isnan(loss) else "",
    }


def shown(tree: Any, most: int = 8) -> str:
    """Return a pytree's numbers, or its shapes where there are many."""
    leaves = jax.tree.leaves(tree)
    if sum(np.size(leaf) for leaf in leaves) <= most:
        return str(jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), tree))
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree)).replace("'", "")
