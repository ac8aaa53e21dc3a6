"""Views: what an item of a table is, and how it is read from the streams.

`Transitions` folds n steps into one at reading time. `Unrolls` reads T consecutive steps and the bootstrap row; for `Sequences`,
which overlap and have a prefix, see `veldt.replay.sequences`. A view says which rows start items (`starts`), how many rows later
an item is whole (`window_steps`), and reads a batch of them.
Last action and reward are rebuilt here: they never cross an episode's start (`veldt.parts.sight` does the same for actors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from veldt.core import StateSchedule
from veldt.data import STEP_FIELDS, Transition, Unroll, tree_map
from veldt.errors import ConfigError
from veldt.replay.kernels import fold_n_step
from veldt.replay.streams import Streams
from veldt.replay.windows import Window


class Reader(Protocol):
    """Reads items of one view from streams, into buffers of its own."""

    def read(self, *keys: np.ndarray) -> Any:
        """The items of `keys`, an array for each of the streams; those of the first come first. The tensors are valid until the next call."""


class View(Protocol):
    """The settings of a view."""

    @property
    def window_steps(self) -> int:
        """Steps an item spans: an item that starts at row r is whole when row r + window_steps has been seen."""

    @property
    def spread_steps(self) -> int:
        """Of so many neighbouring rows of a stream, one starts an item at least."""

    @property
    def states(self) -> StateSchedule:
        """Where recurrent states are needed, if agents have any."""

    def history_steps(self, frame_stack: int) -> int:
        """Rows before an item that are read too, where so many frames are stacked."""

    def starts(self, rows: np.ndarray, ring: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which of the absolute rows `rows` [R >= 1], neighbours, start items: bool [R, B].

        ring: the fields first and last, and if `states` count by episodes EPISODE_STEP, [ring_rows, B]. Rows up to
            `rows[-1] + window_steps - 1` are whole.
        """

    def reader(self, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> Reader:
        """A reader of batches of `batch_size` items, each in one of `sources`, streams of the same spec."""


@dataclass(frozen=True)
class Transitions:
    """Every step that is not an episode's end, with what followed within `n_steps`, folded by `discount`.

    reward_clip: rewards are clipped to [-reward_clip, reward_clip] before they are summed; None leaves them.
    """

    n_steps: int
    discount: float
    reward_clip: float | None = None

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ConfigError(f"n_steps must be >= 1, got {self.n_steps}")
        if not 0 <= self.discount <= 1:
            raise ConfigError(f"discount must lie in [0, 1], got {self.discount:g}")

    @property
    def window_steps(self) -> int:
        """As many as are folded."""
        return self.n_steps

    @property
    def spread_steps(self) -> int:
        """One of two neighbours may end an episode."""
        return 2

    @property
    def states(self) -> StateSchedule:
        """Before every row, of which each may start a transition."""
        return StateSchedule(1)

    def history_steps(self, frame_stack: int) -> int:
        """What is stacked."""
        return frame_stack - 1

    def starts(self, rows: np.ndarray, ring: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every step with an action that counted."""
        last = ring["last"]
        acted: np.ndarray = ~last[rows % len(last)]
        return acted

    def reader(self, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> Reader:
        """A reader of `Transition`s."""
        return _TransitionReader(self, sources, frame_stack, batch_size)


@dataclass(frozen=True)
class Unrolls:
    """`steps` consecutive steps of a stream and the row after them, one after the other without overlap."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"unroll steps must be >= 1, got {self.steps}")

    @property
    def window_steps(self) -> int:
        """All of an unroll."""
        return self.steps

    @property
    def spread_steps(self) -> int:
        """Every so many rows one starts."""
        return self.steps

    @property
    def states(self) -> StateSchedule:
        """Before every unroll."""
        return StateSchedule(self.steps)

    def history_steps(self, frame_stack: int) -> int:
        """One for the last action and reward, or what is stacked."""
        return max(1, frame_stack - 1)

    def starts(self, rows: np.ndarray, ring: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every `steps`-th row of every stream."""
        return np.broadcast_to((rows % self.steps == 0)[:, None], (len(rows), ring["last"].shape[1]))

    def reader(self, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> Reader:
        """A reader of `Unroll`s."""
        return _UnrollReader(self, sources, frame_stack, batch_size)


class _TransitionReader:
    def __init__(self, view: Transitions, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> None:
        self._view = view
        self._window = Window(sources, frame_stack, view.n_steps, batch_size, history=0)
        self._clip = np.inf if view.reward_clip is None else view.reward_clip

    def read(self, *keys: np.ndarray) -> Transition:
        view, steps = self._view, self._window.load(keys)
        reward, discount, length = fold_n_step(
            steps["reward"][:-1], steps["discount"][:-1], steps["last"][1:], view.discount, self._clip
        )
        seen = self._window.observe(2 if view.n_steps == 1 else np.stack([np.zeros_like(length), length]))
        return Transition(
            obs=tree_map(lambda leaf: leaf[0], seen),
            action=torch.from_numpy(steps["action"][0]),
            reward=torch.from_numpy(reward),
            discount=torch.from_numpy(discount),
            next_obs=tree_map(lambda leaf: leaf[1], seen),
        )


class _UnrollReader:
    def __init__(self, view: Unrolls, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> None:
        self._rows = view.steps + 1
        self._window = Window(sources, frame_stack, view.steps, batch_size, history=1)
        spec = {name: leaf for name, leaf in sources[0].spec.items() if name != "obs"}
        self._fields = {name: leaf.empty(self._rows, batch_size) for name, leaf in spec.items()}
        self._last_action = spec["action"].empty(self._rows, batch_size)
        self._last_reward = spec["reward"].empty(self._rows, batch_size)
        self._mask = np.empty((view.steps, batch_size), np.float32)
        self._state = sources[0].empty_states(batch_size)

    def read(self, *keys: np.ndarray) -> Unroll:
        window, fields = self._window, self._fields
        window.load(keys)
        for name, room in fields.items():
            window.copy(name, room)
        first = fields["first"]
        for name, room in (("action", self._last_action), ("reward", self._last_reward)):
            window.copy(name, room, begin=-1)
            room[first] = 0
        self._mask[:] = ~fields["last"][:-1]
        window.gather_states(0, self._state, offset=0)
        tensors = {name: torch.from_numpy(room) for name, room in fields.items()}
        return Unroll(
            obs=window.observe(self._rows),
            last_action=torch.from_numpy(self._last_action),
            last_reward=torch.from_numpy(self._last_reward),
            mask=torch.from_numpy(self._mask),
            extras={name: tensor for name, tensor in tensors.items() if name not in STEP_FIELDS},
            state=self._state,
            **{name: tensors[name] for name in STEP_FIELDS if name != "obs"},
        )
