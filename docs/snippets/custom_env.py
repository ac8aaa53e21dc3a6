"""An environment of your own: anything that keeps Gymnasium's contract, named as `package.module:callable`."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

import veldt


class Corridor(gymnasium.Env):
    """Walk right to the door of a corridor of `length` cells; each step costs a little."""

    def __init__(self, length: int = 8) -> None:
        self.length = length
        self.observation_space = Box(0.0, 1.0, (2,), np.float32)
        self.action_space = Discrete(2)

    def _see(self) -> np.ndarray:
        return np.array([self.cell / self.length, self.steps / 50], np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.cell, self.steps = int(self.np_random.integers(0, self.length // 2)), 0
        return self._see(), {}

    def step(self, action):
        self.steps += 1
        self.cell = max(0, self.cell + (1 if action == 1 else -1))
        arrived = self.cell >= self.length
        return self._see(), 1.0 if arrived else -0.01, arrived, self.steps >= 50, {}


if __name__ == "__main__":
    report = veldt.check_env(Corridor, steps=200)
    print(report)
    assert report.ok
