"""A sum tree: draws an index with probability proportional to its value, and changes values, thousands at once.

Everything is float64; sums are recomputed from the two below them, never corrected by differences, so they do not drift
and follow from the values alone. A value of 0 is never drawn, and a value that is negative or not finite is refused.
"""

from __future__ import annotations

import numpy as np

from veldt.core import State
from veldt.replay.kernels import draw, first_unfit, put


class SumTree:
    """`size` values >= 0, all 0 at first."""

    def __init__(self, size: int) -> None:
        leaves = 1 << (size - 1).bit_length()
        self.size = size
        self._nodes = np.zeros(2 * leaves)  # in the order that veldt.replay.kernels describes
        self._values = self._nodes[leaves : leaves + size]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._values[indices]
        return found

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self._nodes[1])

    def set(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Sets `values` [K] at `indices` [K]; where an index comes twice, the later value stays.

        Raises:
            ValueError: a value is negative, NaN or infinite.
        """
        refuse_unfit(indices, values)
        put(self._nodes, indices, values)

    def draw(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The index of each of `points` [K] in [0, 1): the first whose running sum exceeds that share of the total.

        Also the share of the total that each drawn value is, [K]. The total must not be 0.
        """
        return draw(self._nodes, points)

    def state_dict(self) -> State:
        """The values: the sums follow from them, to the last bit."""
        return {"values": self._values}

    def load_state_dict(self, state: State) -> None:
        """The values of `state_dict`."""
        self.set(np.arange(self.size), state["values"])


def refuse_unfit(items: np.ndarray, values: np.ndarray) -> None:
    """Raises `ValueError` unless all `values` [K] are finite and >= 0; it names the first of `items` [K] whose value is not."""
    bad = first_unfit(values)
    if bad >= 0:
        raise ValueError(f"a priority must be finite and >= 0, got {values[bad]} for item {int(items[bad])}")
