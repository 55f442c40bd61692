"""Whether a long solve still earns its evaluations, by the trend of the loss over doublings of their number."""

from typing import Any

import numpy as np

LONG = 1 << 37  # operations before which a solve goes on however slow: a minute or two
FIRST = 128  # evaluations before which no trend is trusted
LITTLE = 1e-2  # of the decrease since the start: what all further evaluations must bring
SETTLED = 1e-5  # likewise: what the last doubling brings where an end is near


class Trend:
    """The lowest loss after 1, 2, 4, 8... evaluations."""

    def __init__(self, work: int, limit: int, losses: Any = ()) -> None:
        """Judge a solve whose evaluation takes so much `work`, up to a `limit` of them, 0 to go on in any case.

        `losses`: those of a run that is carried on.
        """
        self._least, self._limit = max(FIRST, LONG // work), limit
        self._losses = [float(loss) for loss in losses]

    @property
    def losses(self) -> np.ndarray:
        """An array of shape `(n,)`, to be saved."""
        return np.array(self._losses)

    def ticks(self, evals: int) -> int:
        """Return how many evaluations there are to the next power of two."""
        return (1 << evals.bit_length()) - evals

    def note(self, evals: int, loss: float) -> None:
        """Note the lowest loss after so many evaluations."""
        self._losses += [loss] * (evals.bit_length() - len(self._losses))

    def ends(self, evals: int) -> bool:
        """Return whether evaluations after these would bring little, and no end; asked at powers of two.

        On the tail of a power law each doubling brings the same part of the one before; where a method converges, the
        logarithm of that part doubles too.
        """
        asked = self._least <= evals < self._limit and evals.bit_count() == 1
        return asked and self._fades(int(np.ceil(np.log2(self._limit / evals))))

    def _fades(self, doublings: int) -> bool:
        decrease = self._losses[0] - self._losses[-1]
        earlier, before, gain = -np.diff(self._losses[-4:])
        if not 0 < gain < before < earlier:
            return False
        part, last = np.log(gain / before), np.log(before / earlier)
        growth, coming = max(1.0, part / last), 0.0
        for _ in range(doublings):
            gain *= np.exp(part)
            coming += gain
            part *= growth
        return bool(gain > SETTLED * decrease and coming < LITTLE * decrease)
