"""The main job on real data that ships with the package, as `python -m jaxgd` runs it.

How much do restaurant guests tip, in percent of the bill? 244 bills of one waiter (Bryant and Smith, Practical Data
Analysis, 1995), estimated by the mean, the median, and the minimizer of the Huber loss, which lies between them.
"""

import csv
from importlib import resources

import numpy as np

import jaxgd


def tips() -> np.ndarray:
    """Return the tips in percent of the bill, shape `(244,)`."""
    with resources.files("jaxgd").joinpath("cli/tips.csv").open() as file:
        return np.array([100 * float(row["tip"]) / float(row["total_bill"]) for row in csv.DictReader(file)])


def main() -> None:
    """Fit, showing progress, the result, and the three estimates side by side."""
    percent = tips()
    print(f"Tips in percent of the bill, {percent.size} restaurant bills. Minimizing the Huber loss:\n")
    result = jaxgd.minimize(jaxgd.losses.huber(1.0), percent, dtype="float64", progress=True)
    print(f"\n{result}\n")
    for name, value in (("mean", percent.mean()), ("Huber", result.params), ("median", np.median(percent))):
        print(f"{name:>8} {float(value):9.6f} %")
    result.check()
