"""A corridor that ends in a fork; which way to turn is shown at its beginning only: `veldt.envs.t_maze:t_maze`, or of 20 or 50 steps.

The T-maze of Bakker 2002, walked by itself as in bsuite's memory length (Osband et al. 2020), so that it asks for memory and
not for exploration. The mean return is the share of right turns; who cannot remember guesses: 0.5.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class TMaze(gymnasium.Env[np.ndarray, Any]):
    """Observations float32 [3]: the way to turn (-1 left, 1 right; 0 once the start is left), at the start, at the fork.

    Actions: 0 left, 1 right; only the one at the fork counts. Reward 1 for the right turn, 0 for all else.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)
    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, steps: int) -> None:
        """`steps`: of an episode, the turn included."""
        self._steps = steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """At the start, with a new way to turn."""
        super().reset(seed=seed)
        self._walked, self._right = 0, int(self.np_random.integers(2))
        return self._see(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Walks on, or turns at the fork."""
        self._walked += 1
        turned = self._walked == self._steps
        return self._see(), float(turned and action == self._right), turned, False, {}

    def _see(self) -> np.ndarray:
        at_start, at_fork = self._walked == 0, self._walked >= self._steps - 1
        return np.array([2 * self._right - 1 if at_start else 0, at_start, at_fork], np.float32)


def t_maze() -> TMaze:
    """Of 10 steps."""
    return TMaze(10)


def t_maze_20() -> TMaze:
    """Of 20 steps."""
    return TMaze(20)


def t_maze_50() -> TMaze:
    """Of 50 steps."""
    return TMaze(50)
