"""What there is to say of a failure, beside its status."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgd.compile import inputs
from jaxgd.compile.frames import column_names
from jaxgd.compile.program import Answer, Inputs, Program
from jaxgd.core.bound_loss import Derivatives
from jaxgd.core.convergence import AHEAD, Evidence
from jaxgd.core.numerics import pack, without_derivatives
from jaxgd.core.scaling import scaling_of, without_influence
from jaxgd.core.stop import Counts, Status
from jaxgd.core.tiles import Span
from jaxgd.history import names_of


def explained(program: Program, given: Inputs, answer: Answer, asked: Any) -> str:
    """Return what else there is to say of a failure at the start, or of params without influence.

    `asked`: the data as they were passed, of which a table has names.
    """
    status = Counts.of(np.asarray(answer.counts)).status
    given, columns = without_derivatives(given), column_names(asked)
    if status == Status.BAD_START:
        data = given.data
        found = (
            inputs.not_finite_rows(data.rows) if isinstance(data, Span) else inputs.not_finite(data, "data", columns)
        )
        return where_not_finite(given, found, answer)
    return _where_to(program, given, answer, columns) if status == Status.NO_INFLUENCE else ""


def _where_to(program: Program, given: Inputs, answer: Answer, columns: list[str]) -> str:
    """Say which params have lost their influence, or along which the solve ran on, where few and curvatures known."""
    if not scaling_of(program.size) or program.recipe.derivatives is Derivatives.FIRST:
        return ""
    layout, roots = program.layout(given.init), program.compiled(_curvatures)
    names, term = np.array(names_of(answer.params, columns))[program.free], program.bind(given)[0].term
    (before, start), (after, end) = ((roots(given, at), layout.flatten(at)) for at in (given.init, answer.params))
    ends = pack(end, layout.flatten(answer.grad))
    gone = np.asarray(without_influence(after, before, ends, jnp.asarray(answer.loss), term))
    if gone.any():
        return f" Without influence: {', '.join(names[gone])}."
    ways = np.asarray(program.compiled(_free_alone)(given, answer))
    if not ways.any():
        moves = np.asarray(before * jnp.abs(end - start))
        ways = moves >= moves.max() / 10
    return f" On the way to infinity: {', '.join(names[ways])}."


def _free_alone(program: Program, given: Inputs, answer: Answer) -> jax.Array:
    """Return which params may go on alone, `AHEAD` times as far as they have come, and the loss is hardly higher."""
    problem, sign = program.bind(given)[0], program.recipe.sign
    end, seen = problem.layout.flatten(answer.params), Evidence.unpack(jnp.asarray(answer.evidence))
    ways = AHEAD * (end - problem.start)
    losses = jax.lax.map(lambda way: problem.value(problem.project(end + way))[0], jnp.diag(ways))
    hardly = jnp.sqrt(jnp.finfo(end.dtype).eps) * (seen.decrease + jnp.abs(answer.loss))
    return (ways != 0) & (losses - sign * answer.loss <= hardly)


def _curvatures(program: Program, given: Inputs, params: Any) -> jax.Array:
    """Return the roots of the curvatures along the params at a place, shape `(p,)`."""
    flat = program.layout(given.init).flatten(params)
    return jnp.sqrt(jnp.abs(jnp.diagonal(program.bind(given)[0].hessian(flat))))


def where_not_finite(given: Inputs, data: list[str], answer: Answer) -> str:
    """Say which inputs are not finite, of the start and of what was found in the data; or else, which slopes alone."""
    found = inputs.not_finite(given.init, "init") + data
    if found:
        return f" Not finite: {', '.join(found)}; drop or fill what is missing."
    slopes = inputs.not_finite(answer.grad, "init") if np.isfinite(answer.loss) else []
    return f" Not finite: the gradient by {', '.join(slopes)}." if slopes else ""
