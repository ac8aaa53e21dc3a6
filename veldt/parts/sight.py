"""What an agent is shown row by row: stacked frames, the episode's start, the last action and reward.

Frames are the last k, oldest first, zeros before an episode's first frame; last action and reward are 0 at an episode's start.
The same rules rebuild both from replay (`veldt.replay.views`); tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from veldt.core import State
from veldt.data import EnvSpec, Seen, TimeStep, Tree, tree_map


class Sight:
    """What an agent is shown of B streams, updated row by row."""

    def __init__(self, env: EnvSpec, streams: int) -> None:
        self._frames = env.seen.zeros(streams) if env.frame_stack > 1 else None
        self._no_action, self._no_reward = env.action.array.zeros(streams), np.zeros(streams, np.float32)
        self._last_action, self._last_reward = self._no_action, self._no_reward

    def see(self, step: TimeStep, action: np.ndarray | None = None) -> Seen:
        """The newest row, to which `action` [B, ...] led, or None: a reset. The arrays are this object's or `step`'s."""
        reward = step.reward
        if action is None:
            action, reward = self._no_action, self._no_reward
        elif np.count_nonzero(step.first):
            action, reward = action.copy(), reward.copy()
            action[step.first], reward[step.first] = 0, 0
        self._last_action, self._last_reward = action, reward
        return Seen(self._stacked(step), step.first, action, reward)

    def _stacked(self, step: TimeStep) -> Tree:
        frames = self._frames
        if frames is None:
            return step.obs
        if step.first.any():
            frames[step.first] = 0
        frames[:, :-1] = frames[:, 1:]
        frames[:, -1] = step.obs
        return frames

    def recall(self, rows: Mapping[str, Tree], row: int) -> Seen:
        """What the agent saw at absolute row `row` of a ring of `rows` (`core.Room`)."""
        ring = len(rows["first"])
        at, before = row % ring, (row - 1) % ring
        first = rows["first"][at].copy()
        last_action, last_reward = rows["action"][before].copy(), rows["reward"][before].copy()
        last_action[first], last_reward[first] = 0, 0
        self._last_action, self._last_reward = last_action, last_reward
        if self._frames is None:
            return Seen(tree_map(lambda leaf: leaf[at].copy(), rows["obs"]), first, last_action, last_reward)
        self._frames[:] = 0
        for back in range(self._frames.shape[1] - 1, -1, -1):
            at = (row - back) % ring
            self._stacked(TimeStep(rows["obs"][at], rows["first"][at], rows["last"][at], self._no_reward, self._no_reward))
        return Seen(self._frames, first, last_action, last_reward)

    def state_dict(self) -> State:
        """The stacked frames, the last action and reward."""
        return {"frames": self._frames, "last_action": self._last_action.copy(), "last_reward": self._last_reward.copy()}

    def load(self, state: State, step: TimeStep) -> Seen:
        """The sight of `state_dict`, taken at row `step`: what the agent sees there."""
        self._last_action, self._last_reward = state["last_action"], state["last_reward"]
        if self._frames is not None:
            self._frames[:] = state["frames"]
        return Seen(step.obs if self._frames is None else self._frames, step.first, self._last_action, self._last_reward)
