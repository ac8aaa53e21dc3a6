"""What an agent sees when frames are stacked: the last k frames, oldest first, zeros before an episode's first frame.

The same rule rebuilds stacks from replay (`veldt.replay.views`); a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from veldt.data import EnvSpec, TimeStep, Tree, tree_map


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

    def recall(self, rows: Mapping[str, Tree], row: int) -> Tree:
        """What the agent saw at absolute row `row` of a ring of `rows` (`core.Inlet.rows`), frames and all."""
        ring = len(rows["first"])
        if self._frames is None:
            return tree_map(lambda leaf: leaf[row % ring].copy(), rows["obs"])
        self._frames[:] = 0
        for back in range(self._frames.shape[1] - 1, -1, -1):
            at = (row - back) % ring
            blank = np.zeros(len(rows["first"][at]))
            self.see(TimeStep(rows["obs"][at], rows["first"][at], rows["last"][at], blank, blank))
        return self._frames

    def state_dict(self) -> np.ndarray | None:
        """The stacked frames."""
        return self._frames

    def load(self, state: np.ndarray | None, step: TimeStep) -> Tree:
        """The frames of `state_dict`, taken at row `step`: what the agent sees there."""
        if self._frames is None:
            return step.obs
        self._frames[:] = state
        return self._frames
