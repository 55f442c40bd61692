"""What the command line prints: results for people and as JSON, and messages in the words of the shell."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxgd.core.status_text import shown
from jaxgd.core.stop import Status
from jaxgd.result import Result
from jaxgd.uncertainty.summary import Summary

MOST = 20  # groups that are printed
OPTIONS = "columns|init|method|tol|dtype|bounds|l1|l2|resume|kind|every|by"


def at_shell(message: str) -> str:
    """Return a message in which the arguments of `minimize` are the options of the command line."""
    message = re.sub(r"`(stop=Stop\()?max_evals(=\.\.\.)?\)?`", "`--max-evals`", message)
    message = message.replace("`seconds`", "`--time-limit`")
    message = message.replace("Pass `has_aux=True` if it returns (value, aux)", "Return the value alone")
    message = re.sub(
        rf"`({OPTIONS})=(?:'(\w+)')?`", lambda found: f"`--{found[1]} {found[2] or ''}".rstrip() + "`", message
    )
    message = re.sub(rf"`({OPTIONS})`", r"`--\1`", message)
    message = re.sub(r"\b(method|dtype)='([\w-]+)'", r"--\1 \2", message)
    message = message.replace("or pass the data without `Rows`", "or add --in-memory, which reads all rows at once")
    return message.replace("`data`", "DATA").replace("`loss`", "LOSS")


def for_people(result: Result, names: Sequence[str], *, errors: bool) -> str:
    """Return what is shown of a result; `names` are those of its params, where they are known."""
    if errors:
        return at_shell(str(_summary(result, names)))
    if result.labels is not None:
        return f"{at_shell(str(result))}\n{_table(result, names)}"
    lines, params = at_shell(str(result)).splitlines(), result.params
    if names and np.shape(params) == (len(names),):
        width = max(map(len, names))
        lines[1:2] = [
            f"  {name:<{width}}  {value: .10g}" for name, value in zip(names, np.asarray(params), strict=True)
        ]
    elif sum(np.size(leaf) for leaf in jax.tree.leaves(params)) > 8:  # noqa: PLR2004 - what `shown` writes out
        lines[1] += ", all by --json"
    return "\n".join(lines)


def _table(result: Result, names: Sequence[str]) -> str:
    """Return a row a group, those that failed first."""
    order = np.argsort(np.asarray(result.converged), kind="stable")[:MOST]
    rows = [["group", "status", "loss", "evals", "params"]]
    for lane in map(int, order):
        one = result[lane]
        own = zip(names, np.asarray(one.params), strict=True) if names and np.shape(one.params) == (len(names),) else ()
        params = "  ".join(f"{name} {value:.6g}" for name, value in own) or shown(one.params)
        rows.append([str(one.labels), one.status.name, f"{float(one.loss):.6g}", str(one.evals), params])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    more = len(result) - len(order)
    return "\n".join([*lines, f"and {more} more, all by --json"] if more else lines)


def as_json(result: Result, names: Sequence[str], *, errors: bool) -> str:
    """Return one JSON object; NaN and infinity are null in it."""
    seconds = None if result.seconds is None else result.seconds._asdict()
    about: dict[str, Any] = {"method": result.method, "seconds": seconds}
    errors_of = _errors(result, names) if errors else [{}] * max(1, np.size(result.status))
    if result.labels is None:
        found = {"status": result.status.name, "converged": bool(result.converged), "message": at_shell(result.message)}
        found |= _numbers(result) | about | errors_of[0]
        return json.dumps(_plain(found), allow_nan=False)
    arrays = jax.tree.map(np.asarray, {name: getattr(result, name) for name in NUMBERS} | {"params": result.params})
    codes, groups = np.asarray(result.status), []
    for lane, label in enumerate(result.labels.tolist()):
        own = {"label": label if isinstance(label, str | int | float) else str(label)}
        status = Status(int(codes[lane]))
        own |= {"status": status.name, "converged": status.converged, **errors_of[lane]}
        groups.append(own | jax.tree.map(lambda leaf, at=lane: leaf[at], arrays))
    found = {
        "converged": bool(np.all(result.converged)),
        "message": at_shell(result.message),
        **about,
        "groups": groups,
    }
    return json.dumps(_plain(found), allow_nan=False)


def _errors(result: Result, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the summary of each problem: what is known of each param, and R²."""
    found, heads = _summary(result, names), ("value", "stderr", "low", "high")
    lanes = np.stack([np.atleast_2d(getattr(found, head)) for head in heads], axis=-1)
    told = np.broadcast_to(np.nan if found.r_squared is None else found.r_squared, len(lanes)).tolist()

    def table(lane: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"param": name, **dict(zip(heads, row, strict=True))} for name, row in zip(found.names, lane, strict=True)
        ]

    return [{"summary": table(lane), "r_squared": one} for lane, one in zip(lanes, told, strict=True)]


def _summary(result: Result, names: Sequence[str]) -> Summary:
    """Return the summary, with the params called by their columns."""
    found: Summary = result.summary()
    return replace(found, names=list(names)) if len(names) == len(found.names) else found


NUMBERS = ("loss", "grad_norm", "evals", "moves")


def _numbers(result: Result) -> dict[str, Any]:
    return {"params": result.params} | {name: getattr(result, name) for name in NUMBERS}


def _plain(value: Any) -> Any:
    """Return a pytree as JSON holds it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, complex):
        return {"real": _plain(value.real), "imag": _plain(value.imag)}
    if hasattr(value, "dtype"):
        return _plain(np.asarray(value).tolist())
    # Another pytree: a dataclass, for one.
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(value)}
