"""Slow definitions of what replay does: a list instead of a sum tree, episodes as lists instead of streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tests.oracles.returns import n_step_window


class NaiveTree:
    """Values in a list; sums from left to right, with as many digits as Python's fractions of `math.fsum` give."""

    def __init__(self, size: int) -> None:
        self.values = [0.0] * size

    def set(self, indices, values) -> None:
        for index, value in zip(indices, values, strict=True):
            self.values[int(index)] = float(value)

    def may_draw(self, index: int, point: float, tolerance: float = 1e-12) -> bool:
        """Whether `index` holds that share of the total, up to a rounding, and is not 0."""
        total = sum(self.values)
        low, high = sum(self.values[:index]), sum(self.values[: index + 1])
        slack = tolerance * total
        return self.values[index] > 0 and low - slack <= point * total <= high + slack


class Row(NamedTuple):
    """One row of a stream, as an actor writes it; `discount` 0 without an end is a lost life."""

    obs: np.ndarray
    first: bool
    last: bool
    action: int
    reward: float
    discount: float


@dataclass
class Episodes:
    """The episodes of one stream: each a list of rows, of which only the newest may be unfinished."""

    episodes: list[list[Row]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def append(self, row: int, step: Row) -> None:
        if step.first:
            self.episodes.append([])
            self.starts.append(row)
        self.episodes[-1].append(step)

    def at(self, row: int) -> tuple[list[Row], int]:
        """The episode that `row` belongs to, and which of its rows it is."""
        place = max(i for i, start in enumerate(self.starts) if start <= row)
        return self.episodes[place], row - self.starts[place]

    def seen(self, row: int, stack: int) -> np.ndarray:
        """What the agent saw: the last `stack` frames of the episode, zeros before its first."""
        episode, now = self.at(row)
        if stack == 1:
            return episode[now].obs
        zeros = np.zeros_like(episode[now].obs)
        return np.stack([episode[now - back].obs if now >= back else zeros for back in range(stack - 1, -1, -1)])

    def transition(self, row: int, n: int, gamma: float, clip: float | None, stack: int) -> dict[str, Any]:
        """The n-step accumulator for the window that starts at `row`."""
        episode, now = self.at(row)
        rest = episode[now:-1] if episode[-1].last else episode[now:]
        rest = rest[:n]
        reward = [step.reward if clip is None else min(max(step.reward, -clip), clip) for step in rest]
        discount = [step.discount for step in rest]
        ends = [step.discount == 0 or episode[now + k + 1].last for k, step in enumerate(rest)]
        total, factor, k = n_step_window(reward, discount, ends, gamma, n)
        return {
            "obs": self.seen(row, stack),
            "action": episode[now].action,
            "reward": total,
            "discount": factor,
            "next_obs": self.seen(row + k, stack),
        }
