"""NIST's nonlinear regressions (StRD), from both published starts: digits agreed with the certified parameters."""

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxgd
from benchmarks.timing import header, table

FOLDER = Path(__file__).parent / "data" / "nist"
MOST = 11  # digits of the certified values
WANTED = {"least_squares": 9, "minimize": 6}  # digits


def peaks(b: Any, x: Any) -> Any:
    return b[0] * jnp.exp(-b[1] * x) + sum(b[i] * jnp.exp(-(((x - b[i + 1]) / b[i + 2]) ** 2)) for i in (2, 5))


def decays(b: Any, x: Any) -> Any:
    return sum(b[i] * jnp.exp(-b[i + 1] * x) for i in (0, 2, 4))


def growth(b: Any, x: Any) -> Any:
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


MODELS: dict[str, Callable[[Any, Any], Any]] = {
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Chwirut1": growth,
    "Chwirut2": growth,
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "Eckerle4": lambda b, x: b[0] / b[1] * jnp.exp(-(((x - b[2]) / b[1]) ** 2) / 2),
    "Gauss1": peaks,
    "Gauss2": peaks,
    "Gauss3": peaks,
    "Lanczos1": decays,
    "Lanczos2": decays,
    "Lanczos3": decays,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda b, x: b[0] * jnp.exp(b[1] / (x + b[2])),
    "MGH17": lambda b, x: b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4]),
    "Misra1a": lambda b, x: b[0] * (1 - jnp.exp(-b[1] * x)),
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda b, x: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda b, x: b[0] * b[1] * x / (1 + b[1] * x),
    "Rat42": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)),
    "Rat43": lambda b, x: b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Thurber": lambda b, x: (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3),
}


class Regression(NamedTuple):
    """One data set as published."""

    starts: np.ndarray  # shape (2, p)
    certified: np.ndarray  # shape (p,)
    x: np.ndarray  # shape (n,)
    y: np.ndarray  # shape (n,)


def read(path: Path) -> Regression:
    """Read a data set from NIST's file."""
    text = path.read_text()
    number = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
    rows = re.findall(rf"^\s*b\d+ =\s+({number})\s+({number})\s+({number})\s+{number}", text, re.MULTILINE)
    first, last = map(int, re.findall(r"Data\s+\(lines\s+(\d+)\s+to\s+(\d+)\)", text)[-1])
    values = np.array([line.split() for line in text.splitlines()[first - 1 : last]], float)
    one, two, certified = np.array(rows, float).T
    return Regression(np.stack([one, two]), certified, values[:, 1], values[:, 0])


def digits(params: Any, certified: np.ndarray) -> float:
    """Return the digits on which all parameters agree."""
    worst = np.max(np.abs(np.asarray(params) - certified) / np.abs(certified))
    return MOST if worst <= 0 else float(np.clip(-math.log10(worst), 0, MOST))


def fits(model: Callable[[Any, Any], Any], problem: Regression, start: np.ndarray) -> dict[str, jaxgd.Result]:
    """Return what both ways to fit find, with nothing set but the type."""

    def residuals(b: Any, data: Any) -> Any:
        x, y = data
        return y - model(b, x)

    def loss(b: Any, data: Any) -> Any:
        return jnp.sum(residuals(b, data) ** 2)

    data = (problem.x, problem.y)
    return {
        "least_squares": jaxgd.least_squares(residuals, data, start, dtype="float64"),
        "minimize": jaxgd.minimize(loss, data, start, dtype="float64"),
    }


def main() -> None:
    """Fit every data set that lies in the folder, from both starts."""
    print(header("benchmarks.nist"))
    warnings.simplefilter("ignore", jaxgd.NotConvergedWarning)
    rows: list[list[object]] = []
    reached = dict.fromkeys(WANTED, 0)
    paths = sorted(FOLDER.glob("*.dat"))
    for path in paths:
        problem = read(path)
        found = [fits(MODELS[path.stem], problem, start) for start in problem.starts]
        row: list[object] = [path.stem, problem.certified.size]
        for name, wanted in WANTED.items():
            results = [pair[name] for pair in found]
            agreed = [digits(result.params, problem.certified) for result in results]
            reached[name] += min(agreed) >= wanted
            row += [f"{agreed[0]:.1f}, {agreed[1]:.1f}", f"{results[0].evals}, {results[1].evals}"]
            row += [", ".join(result.status.name for result in results)]
        rows.append(row)
    columns = [f"{name}: {what}" for name in WANTED for what in ("digits", "evaluations", "status")]
    table("NIST StRD, float64, from start 1 and 2", ["data", "p", *columns], rows)
    for name, wanted in WANTED.items():
        print(f"{name}: at least {wanted} digits from both starts on {reached[name]} of {len(paths)} data sets")


if __name__ == "__main__":
    main()
