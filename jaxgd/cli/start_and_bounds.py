"""What options of the command line say in numbers: the start, bounds, weights of penalties."""

import argparse
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgd.cli.data import Opened
from jaxgd.cli.loss import Loaded
from jaxgd.rows.rows import Rows


def start(text: str | None) -> Any:
    """Return the start: a number, JSON, or what a file holds; of what `--json` has printed the params."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() in (".npy", ".npz"):
        return _numpy(path)
    is_file = path.suffix.lower() == ".json"
    try:
        found = json.loads(path.read_text() if is_file else text)
    except (OSError, ValueError) as error:
        what = f"cannot be read: {error}" if is_file else "is no number, no JSON, and no .json, .npy or .npz file"
        raise ValueError(f"--init {text!r} {what}. Write 0.5, '[0, 0]' or '{{\"w\": [0, 0]}}'.") from error
    if isinstance(found, dict) and {"params", "converged"} <= found.keys():
        found = found["params"]
    if found is None or isinstance(found, str | bool):
        raise ValueError(f"--init {text!r} holds no numbers. Write 0.5, '[0, 0]' or '{{\"w\": [0, 0]}}'.")
    return found


def _numpy(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"--init {str(path)!r} cannot be read: {error}. Write it with numpy.save or savez.") from error


def fitting(init: Any, loss: Loaded, data: Opened) -> Any:
    """Return the start; refuse one that a ready-made regression cannot take, and find that of `softmax` from y."""
    if loss.ready is None or not loss.ready.regression:
        return init
    streamed, classes = isinstance(data.data, Rows), loss.name == "softmax"
    X, y = data.at_hand
    if init is None:
        return np.zeros((X.shape[1], int(np.max(y)) + 1)) if classes and not streamed else None
    shape = () if isinstance(init, dict) else np.shape(init)
    if shape[:1] != (X.shape[1],) or len(shape) != 1 + classes:
        what = f"{X.shape[1]} rows of one number a class" if classes else f"one number for each of {X.shape[1]} columns"
        names = f": {', '.join(data.names)}" if data.names else ""
        raise ValueError(f"--init must hold {what}{names}; it has shape {shape}. Leave it out to begin at zeros.")
    return init


def bounds(text: str | None) -> Any:
    """Return the pair of bounds; one that is empty is None."""
    if text is None:
        return None
    try:
        low, high = (float(side) if side.strip() else None for side in text.split(","))
    except ValueError as error:
        raise ValueError(f"--bounds {text!r} must be LOW,HIGH, two numbers, one of them empty for none.") from error
    return low, high


def penalties(asked: argparse.Namespace, loss: Loaded, names: Sequence[str], init: Any) -> dict[str, Any]:
    """Return the weights that are asked for; of a ready-made loss, the intercept has none."""
    given = {name: getattr(asked, name) for name in ("l1", "l2") if getattr(asked, name) is not None}
    if loss.ready is None or not asked.intercept:
        return given
    shape = (len(names),) if init is None else np.shape(init)
    weighs = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) > 0
    return {name: np.where(np.broadcast_to(weighs, shape), weight, 0.0) for name, weight in given.items()}
