"""What the environments that step B streams in one call share: flags of the row, discounts, counted episodes.

All of them reset a finished stream at its next step by themselves, ignoring that action (next-step autoreset), and
answer it with the reset observation, reward 0 and both flags down. Subclasses say how to reset and what to save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from veldt.core import State
from veldt.data import Episode, TimeStep
from veldt.envs.replayed import check_streams, pack_episodes, unpack_episodes


class VectorEnvironments(ABC):
    """`core.Environments` over a vector environment with next-step autoreset and one array as observation."""

    def __init__(self, streams: int):
        self.streams = streams
        self._first, self._last = np.ones(streams, bool), np.zeros(streams, bool)
        self._reward, self._discount = np.zeros(streams, np.float32), np.ones(streams, np.float32)
        self._obs: np.ndarray | None = None
        self._flags_set = False  # whether any of first, last and discount was touched since they were neutral
        self._return = np.zeros(streams, np.float64)
        self._steps, self._began = 0, np.zeros(streams, np.int64)  # steps so far, and how many before each episode
        self._finished: list[Episode] = []

    @abstractmethod
    def _restart(self) -> np.ndarray:
        """Resets all streams; obs [B, ...]."""

    @abstractmethod
    def step(self, action: np.ndarray) -> TimeStep:
        """Acts with `action` [B, ...]. A stream whose row was `last` ignores it and starts its next episode."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the environments hold."""

    def reset(self) -> TimeStep:
        """Starts B episodes. Only the first reset seeds; later ones go on with the same random numbers."""
        obs = self._restart()
        self._first[:], self._last[:] = True, False
        self._return[:], self._began[:] = 0.0, self._steps
        return self._fresh_row(obs)

    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _fresh_row(self, obs: np.ndarray) -> TimeStep:
        """The row after a reset or a restore, whose flags are set: reward 0, discount 1."""
        self._obs = obs
        self._reward[:], self._discount[:] = 0.0, 1.0
        self._flags_set = True
        return TimeStep(obs, self._first, self._last, self._reward, self._discount)

    def _next_row(self, obs: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> TimeStep:
        """The row after a step, from what the vector environment answered. Most steps have no flag to set."""
        first, last, discount = self._first, self._last, self._discount
        if self._flags_set:
            first[:] = last
            discount[:] = 1.0
            self._flags_set = bool(np.count_nonzero(first))
        np.logical_or(terminated, truncated, out=last)
        self._steps += 1
        self._return += reward
        if np.count_nonzero(last):
            self._flags_set = True
            discount[terminated] = 0.0
            self._finish(last)
        if reward.dtype != np.float32:
            self._reward[:] = reward
            reward = self._reward
        self._obs = obs
        return TimeStep(obs, first, last, reward, discount)

    def _finish(self, last: np.ndarray) -> None:
        returns, began, steps = self._return, self._began, self._steps
        for stream in last.nonzero()[0].tolist():
            self._finished.append(Episode(stream, returns.item(stream), steps - began.item(stream)))
            returns[stream] = 0.0
            began[stream] = steps + 1  # the next step only resets

    def _row_state(self) -> State:
        """The current row and the counters."""
        return {
            "obs": np.copy(self._obs),  # type: ignore[arg-type]
            "first": self._first.copy(),
            "last": self._last.copy(),
            "returns": self._return.copy(),
            "lengths": self._steps - self._began,
            "finished": pack_episodes(self._finished),
        }

    def _load_row_state(self, state: State) -> TimeStep:
        check_streams(len(state["first"]), self.streams)
        self._first[:], self._last[:] = state["first"], state["last"]
        self._return[:], self._began[:] = state["returns"], self._steps - state["lengths"]
        self._finished = unpack_episodes(state["finished"])
        return self._fresh_row(np.copy(state["obs"]))


class AtariVector(VectorEnvironments):
    """Emulators that answer obs uint8 [B, 1, 84, 84] and `info["lives"]`. `life_loss` zeroes discounts, not games."""

    def __init__(self, streams: int, life_loss: bool):
        super().__init__(streams)
        self._life_loss = life_loss
        self._lives = np.zeros(streams, np.int32)

    @abstractmethod
    def _reset_emulators(self) -> tuple[np.ndarray, dict[str, Any]]: ...

    @abstractmethod
    def _step_emulators(self, action: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]: ...

    def _restart(self) -> np.ndarray:
        obs, info = self._reset_emulators()
        self._lives = np.copy(info["lives"])
        return obs[:, 0]

    def step(self, action: np.ndarray) -> TimeStep:
        """Acts with `action` int64 [B]. A stream whose row was `last` ignores it and starts its next episode."""
        obs, reward, terminated, truncated, info = self._step_emulators(action)
        row = self._next_row(obs[:, 0], reward, terminated, truncated)
        if self._life_loss:
            lost = info["lives"] < self._lives
            if np.count_nonzero(lost):  # a reset never takes lives
                self._discount[lost] = 0.0
                self._flags_set = True
            self._lives[:] = info["lives"]
        return row

    def state_dict(self) -> State | None:
        """None: emulators cannot be saved."""
        return None

    def load_state_dict(self, state: State | None) -> TimeStep:
        """Starts new episodes, whatever `state` is."""
        del state
        return self.reset()
