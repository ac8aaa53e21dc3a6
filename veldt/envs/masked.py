"""Classic problems of which a part is hidden, so that who plays them needs a memory: `veldt.envs.masked:masked_cartpole`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from veldt.envs.families import Env


class Masked(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Shows only some entries of a vector observation."""

    def __init__(self, env: Env, shown: tuple[int, ...]) -> None:
        """`shown`: the entries that are left, by number."""
        super().__init__(env)
        whole, self._shown = env.observation_space, list(shown)
        assert isinstance(whole, spaces.Box)
        self.observation_space = spaces.Box(whole.low[self._shown], whole.high[self._shown], dtype=whole.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The entries that are shown, copied."""
        return observation[self._shown]


def masked_cartpole() -> Env:
    """CartPole-v1 without its velocities: the position of the cart and the angle of the pole are left."""
    return Masked(gymnasium.make("CartPole-v1", render_mode="rgb_array", disable_env_checker=True), shown=(0, 2))
