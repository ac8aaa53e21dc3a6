"""What an agent sees when frames are stacked: the last k frames, oldest first, zeros before an episode's first frame.

The same rule rebuilds stacks from replay (`veldt.replay.views`); a test holds the two together.
"""

from __future__ import annotations

import numpy as np

from veldt.data import EnvSpec, TimeStep, Tree


class FrameStack:
    """The observations of B streams as an agent sees them: `EnvSpec.seen`, updated row by row."""

    def __init__(self, env: EnvSpec, streams: int) -> None:
        self._frames = env.seen.zeros(streams) if env.frame_stack > 1 else None

    def see(self, step: TimeStep) -> Tree:
        """The newest row, stacked: a tree of [B, ...]. The array is this object's, valid until the next call."""
        frames = self._frames
        if frames is None:
            return step.obs
        if step.first.any():
            frames[step.first] = 0
        frames[:, :-1] = frames[:, 1:]
        frames[:, -1] = step.obs
        return frames

    def state_dict(self) -> np.ndarray | None:
        """The stacked frames."""
        return self._frames

    def load(self, state: np.ndarray | None, step: TimeStep) -> Tree:
        """The frames of `state_dict`, taken at row `step`: what the agent sees there."""
        if self._frames is None:
            return step.obs
        self._frames[:] = state
        return self._frames
