"""A sum tree: draws an index with probability proportional to its value, and changes values, thousands at once.

Three levels with a fan-out of 32: values, sums of 32 values, sums of 32 sums. Drawing and changing are a handful of
vectorised operations per level, where a binary tree over a million values needs twenty levels. Everything is float64;
sums are recomputed from what is below them, never corrected by differences, so they do not drift. A value of 0 is never
drawn, and a value that is negative or not finite is refused.
"""

from __future__ import annotations

import numpy as np
import torch

from veldt.core import State

FANOUT = 32


class SumTree:
    """`size` values >= 0, all 0 at first."""

    def __init__(self, size: int) -> None:
        groups = -(-size // FANOUT**2)
        self.size = size
        self._values = np.zeros((groups * FANOUT, FANOUT))
        self._sums = np.zeros((groups, FANOUT))
        self._tops = np.zeros(groups)
        self._flat_values = self._values.reshape(-1)
        self._flat_sums = self._sums.reshape(-1)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._flat_values[indices]

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self._tops.cumsum()[-1])

    def set(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Sets `values` [K] at `indices` [K]; where an index comes twice, the later value stays.

        Raises:
            ValueError: a value is negative, NaN or infinite.
        """
        # min and max are NaN if any value is, and then compare false.
        if len(values) and not (values.min() >= 0.0 and values.max() < np.inf):
            bad = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
            raise ValueError(f"a priority must be finite and >= 0, got {values[bad]} for item {int(indices[bad])}")
        self._flat_values[indices] = values
        rows = indices // FANOUT
        self._flat_sums[rows] = _row_sums(self._values, rows)
        groups = rows // FANOUT
        self._tops[groups] = _row_sums(self._sums, groups)

    def find(self, targets: np.ndarray) -> np.ndarray:
        """The index i of each target [K] in [0, total): the first whose running sum of values exceeds the target."""
        running = self._tops.cumsum()
        groups = np.minimum(running.searchsorted(targets, side="right"), len(running) - 1)
        within = targets - (running[groups] - self._tops[groups])
        rows = groups * FANOUT + _descend(self._sums, groups, within)
        return rows * FANOUT + _descend(self._values, rows, within)

    def state_dict(self) -> State:
        """All levels: sums added up in another order could differ in the last bit."""
        return {"values": self._values, "sums": self._sums, "tops": self._tops}

    def load_state_dict(self, state: State) -> None:
        """The values and sums of `state_dict`."""
        self._values[:] = state["values"]
        self._sums[:] = state["sums"]
        self._tops[:] = state["tops"]


def _row_sums(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The sums of rows [K] of `table` [N, FANOUT]."""
    return torch.from_numpy(table.take(rows, axis=0, mode="clip")).sum(1).numpy()  # type: ignore[no-any-return]


def _descend(table: np.ndarray, rows: np.ndarray, within: np.ndarray) -> np.ndarray:
    """The child of each row that its target falls into; `within` [K] becomes the remainder inside that child."""
    running = torch.from_numpy(table.take(rows, axis=0, mode="clip")).cumsum(1)
    sums = running.numpy()
    # A target can reach the row's sum by a rounding: keep it inside, so that a child of value 0 is never taken.
    np.clip(within, 0.0, np.nextafter(sums[:, -1], 0.0), out=within)
    children: np.ndarray = torch.searchsorted(running, torch.from_numpy(within)[:, None], right=True).numpy()[:, 0]
    before = np.where(children > 0, sums.reshape(-1)[np.arange(len(rows)) * FANOUT + np.maximum(children, 1) - 1], 0.0)
    within -= before
    return children
