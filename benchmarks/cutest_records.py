"""What solvers made of CUTEst problems: ours as run and judged, the peers' as `data/cutest.json` has it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

TAUS = (1e-3, 1e-6, 1e-9)
FALSE, MISSED = 1e-3, 1e-6  # gains of a polish


@dataclass(frozen=True)
class Record:
    """What a solver made of a problem."""

    kind: str
    name: str
    dtype: str
    solver: str
    f0: float
    f_best: float
    n: int
    f: float = math.inf  # at the point returned, in float64
    lowest: float = math.nan  # loss after the polish
    violation: float = 0.0  # how far the point is outside the bounds
    claimed: bool = False
    status: str = ""
    evals: int = 0
    products: int = 0
    moves: int = 0
    compile: float = math.nan
    run: float = math.nan
    error: str = ""

    def solved(self, tau: float) -> bool:
        """Whether the loss is as low as tau asks, at a point inside the bounds."""
        return self.violation == 0 and self.f <= self.f_best + tau * (self.f0 - self.f_best)

    @property
    def gain(self) -> float:
        """What the polish gained, relative to the decrease made; inf where there is no point to polish."""
        gained, made = self.f - self.lowest, self.f0 - self.lowest
        if not math.isfinite(gained):
            return math.inf
        return gained / made if made > 0 else 0.0

    def descended(self, tau: float) -> bool:
        """Whether the polish gains less than tau."""
        return self.gain < tau

    @property
    def false_claim(self) -> bool:
        """Whether success was claimed far from a minimum; of a point that could not be judged nothing is said."""
        return self.claimed and not self.error and not self.gain <= FALSE

    @property
    def missed(self) -> bool:
        """Whether no success was claimed at a minimum."""
        return not self.claimed and self.gain < MISSED


def peers(known: dict[str, Any], kind: str, dtype: str) -> list[Record]:
    """Return the records of the peers, as the file has them."""
    return [
        Record(
            kind=kind,
            name=name,
            dtype=dtype,
            solver=solver,
            **{key: about[key] for key in ("f0", "f_best", "n")},
            f=math.inf if found["f"] is None or math.isnan(found["f"]) else found["f"],
            claimed=bool(found["claimed"]),
            evals=found["evaluations"] or 0,
        )
        for name, about in known[kind].items()
        for solver, types in about["peers"].items()
        if (found := types.get(dtype))
    ]


def by_solver(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each solver."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.solver, []).append(record)
    return groups
