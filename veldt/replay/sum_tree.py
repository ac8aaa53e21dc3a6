"""A sum tree: draws an index with probability proportional to its value, and changes values, thousands at once.

Two levels: the values in rows of `width`, and the sum of each row. Drawing scans the running sum of all rows, then the
running sums inside the rows found: two vectorised searches, where a binary tree over a million values needs twenty. The
width balances the two scans. Everything is float64; sums are recomputed from the values below them, never corrected by
differences, so they do not drift. A value of 0 is never drawn, and a value that is negative or not finite is refused.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from veldt.core import State


class SumTree:
    """`size` values >= 0, all 0 at first."""

    def __init__(self, size: int) -> None:
        # At 512 draws a scan of `size / width` sums costs about as much as one of 512 rows of this width.
        self._width = 2 ** max(3, round(math.log2(size / 1024) / 2))
        rows = -(-size // self._width)
        self.size = size
        self._table = np.zeros((rows, self._width))
        self._values = self._table.reshape(-1)
        self._sums = np.zeros(rows)
        self._running_sums = torch.zeros(rows + 1, dtype=torch.float64)  # with a 0 before the first
        # Room for K rows and the running sums inside them, for as many indices as ever came at once.
        self._rows = np.empty((0, self._width))
        self._running = torch.empty(0, self._width, dtype=torch.float64)
        self._beyond = np.empty((0, self._width), bool)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._values[indices]
        return found

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self._scan()[-1])

    def set(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Sets `values` [K] at `indices` [K]; where an index comes twice, the later value stays.

        Raises:
            ValueError: a value is negative, NaN or infinite.
        """
        refuse_unfit(indices, values)
        self._values[indices] = values
        rows = indices // self._width
        self._sums[rows] = torch.from_numpy(self._gather(rows)).sum(1).numpy()

    def draw(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The index of each of `points` [K] in [0, 1): the first whose running sum exceeds that share of the total.

        Also the share of the total that each drawn value is, [K]. The total must not be 0.
        """
        sums = self._scan()
        total = sums[-1]
        # A product can reach the sum it must stay below by a rounding, and would then find a value of 0.
        targets = np.minimum(points * total, np.nextafter(total, 0.0))
        rows = sums[1:].searchsorted(targets, side="right")
        values = torch.from_numpy(self._gather(rows))
        running = torch.cumsum(values, 1, out=self._running[: len(rows)]).numpy()
        within = np.minimum(targets - sums.take(rows), np.nextafter(running[:, -1], 0.0))
        # argmax finds the first True: on so short rows that is twice as fast as a binary search.
        beyond = np.greater(running, within[:, None], out=self._beyond[: len(rows)])
        indices = rows * self._width + beyond.argmax(1)
        return indices, self._values.take(indices) / total

    def _scan(self) -> np.ndarray:
        """The running sums of the rows, [rows + 1], from 0 to the total."""
        torch.cumsum(torch.from_numpy(self._sums), 0, out=self._running_sums[1:])
        return self._running_sums.numpy()

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """The values of `rows` [K]: [K, width], valid until the next call."""
        if len(rows) > len(self._rows):
            self._rows = np.empty((len(rows), self._width))
            self._running = torch.empty(len(rows), self._width, dtype=torch.float64)
            self._beyond = np.empty((len(rows), self._width), bool)
        return self._table.take(rows, axis=0, out=self._rows[: len(rows)], mode="clip")

    def state_dict(self) -> State:
        """Values and sums: sums added up in another order could differ in the last bit."""
        return {"values": self._values, "sums": self._sums}

    def load_state_dict(self, state: State) -> None:
        """The values and sums of `state_dict`."""
        self._values[:] = state["values"]
        self._sums[:] = state["sums"]


def refuse_unfit(items: np.ndarray, values: np.ndarray) -> None:
    """Raises `ValueError` unless all `values` [K] are finite and >= 0; it names the first of `items` [K] whose value is not."""
    # min and max are NaN if any value is, and then compare false.
    if len(values) and not (values.min() >= 0.0 and values.max() < np.inf):
        bad = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
        raise ValueError(f"a priority must be finite and >= 0, got {values[bad]} for item {int(items[bad])}")
