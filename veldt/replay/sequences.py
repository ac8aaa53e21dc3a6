"""Sequences: overlapping stretches of episodes, each with a prefix that warms up a recurrent state. R2D2's view of a table.

Of an episode of L steps, sequence k holds the steps [k p, min(k p + length, L)), p = length - overlap, and is the last one if
k p + length >= L. Its prefix is [max(0, k p - burn_in), k p): empty for k = 0. So every step of every episode is in one sequence at
least (in one or two, if overlap <= p), the first ones too, and no sequence crosses into another episode. The row that follows
the last step serves to bootstrap. Source: Kapturowski et al. 2019 (R2D2), section 2.3, which is silent on both ends of an episode.

    episode, L = 150      0         40         80         120       150
    length 80             [- - - - - k = 0 - - ]
    overlap 40            (burn in )[- - - - - k = 1 - - - )
    burn_in 40                      (burn in  )[- - - k = 2 - - - - -]

An item is named by the first row behind its prefix. Which rows those are, the rows say themselves: each carries its number in its
episode. Recurrent states are kept where a prefix may begin, counted from the episode's beginning, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from veldt.core import StateSchedule
from veldt.data import EPISODE_STEP, STEP_FIELDS, Tree, Unroll, tree_leaves
from veldt.errors import ConfigError
from veldt.replay.streams import Streams
from veldt.replay.windows import Window


@dataclass(frozen=True)
class Sequences:
    """The view.

    length_steps: steps of a sequence that are learned from, at most.
    overlap_steps: how many of them the next sequence has too.
    burn_in_steps: steps of the prefix, at most.
    state: what stands before the prefix: the state that the actor had there, or zeros.
    marks: keep the states that the actor had at the first and the last step of full sequences too, to be compared.
    """

    length_steps: int
    overlap_steps: int
    burn_in_steps: int
    state: Literal["stored", "zero"] = "stored"
    marks: bool = False

    def __post_init__(self) -> None:
        if self.length_steps < 1:
            raise ConfigError(f"sequence length must be >= 1 step, got {self.length_steps}")
        if not 0 <= self.overlap_steps < self.length_steps:
            raise ConfigError(f"overlap {self.overlap_steps} must be >= 0 and < sequence length {self.length_steps}")
        if self.burn_in_steps < 0:
            raise ConfigError(f"burn_in must be >= 0 steps, got {self.burn_in_steps}")

    @property
    def period_steps(self) -> int:
        """Steps of an episode between two sequences' beginnings."""
        return self.length_steps - self.overlap_steps

    @property
    def prefix_offset(self) -> int:
        """Where prefixes begin, modulo the period."""
        return -self.burn_in_steps % self.period_steps

    @property
    def last_offset(self) -> int:
        """Where the last steps of full sequences stand, modulo the period."""
        return (self.length_steps - 1) % self.period_steps

    @property
    def window_steps(self) -> int:
        """The steps learned from; whether an episode ends among them is known when they are over."""
        return self.length_steps

    @property
    def spread_steps(self) -> int:
        """A sequence that is cut short begins at most so many rows before the next episode's first."""
        return self.length_steps + 1

    @property
    def states(self) -> StateSchedule:
        """Where prefixes begin, and where marks are."""
        offsets = {self.prefix_offset} if self.state == "stored" else set()
        if self.marks:
            offsets |= {0, self.last_offset}
        return StateSchedule(self.period_steps, tuple(sorted(offsets)), of_episodes=True)

    def history_steps(self, frame_stack: int) -> int:
        """The prefix, and before it the last action and reward, or what is stacked."""
        return self.burn_in_steps + max(1, frame_stack - 1)

    def starts(self, rows: np.ndarray, ring: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows k p of episodes, unless an earlier sequence already holds all that follows.

        A run that was resumed without its replay has rows whose prefix is lost: they start none.
        """

        def look(name: str, at: np.ndarray) -> np.ndarray:
            field = ring[name]
            found: np.ndarray = field[at % len(field)]
            return found

        period, overlap, number = self.period_steps, self.overlap_steps, look(EPISODE_STEP, rows)
        # How many void rows stand before each row of [first of rows - period, last of rows + overlap + 1].
        around = look("last", np.arange(rows[0] - period, rows[-1] + overlap + 1))
        void = np.concatenate([np.zeros((1, *around.shape[1:]), np.int64), around.cumsum(axis=0)])
        own = np.arange(len(rows)) + period
        goes_on = void[own + overlap + 1] == void[own]
        cut_before = void[own] > void[own - period]  # steps were made void in the midst of an episode
        back = np.minimum(number, self.burn_in_steps + 1)
        before, columns = rows[:, None] - back, np.arange(number.shape[1])
        at = before % len(ring["first"])
        whole = (ring[EPISODE_STEP][at, columns] == number - back) & ((number > back) | ring["first"][at, columns])
        begins = (number % period == 0) & ~look("last", rows)
        starts: np.ndarray = begins & whole & ((number == 0) | goes_on | cut_before)
        return starts

    def reader(self, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> SequenceReader:
        """A reader of `Unroll`s with prefixes."""
        return SequenceReader(self, sources, frame_stack, batch_size)


class SequenceReader:
    """Reads sequences side by side, their first steps in one row, and only as many rows as the longest of a batch needs."""

    def __init__(self, view: Sequences, sources: Sequence[Streams], frame_stack: int, batch_size: int) -> None:
        self._view, streams = view, sources[0]
        burn_in, rows = view.burn_in_steps, view.burn_in_steps + view.length_steps + 1
        self._window = Window(sources, frame_stack, rows - 1, batch_size, history=1)
        self._leads = [burn_in * each.columns for each in sources]
        spec = {name: leaf for name, leaf in streams.spec.items() if name not in ("obs", EPISODE_STEP)}
        self._fields = {name: leaf.empty(rows, batch_size) for name, leaf in spec.items()}
        self._last_action = spec["action"].empty(rows, batch_size)
        self._last_reward = spec["reward"].empty(rows, batch_size)
        self._mask = np.empty((rows, batch_size), np.float32)
        self._prefix = np.empty((burn_in, batch_size), np.float32)
        self._state = streams.empty_states(batch_size)
        self._marks: Any = None
        if view.marks:
            self._marks = {name: {"state": streams.empty_states(batch_size)} for name in ("first", "last")}

    def read(self, *keys: np.ndarray) -> Unroll:
        """The sequences of `keys`, an array for each of the sources."""
        burn_in, window = self._view.burn_in_steps, self._window
        records = window.load([own - lead for own, lead in zip(keys, self._leads, strict=True)])
        number = records[EPISODE_STEP][burn_in]
        prefix = np.minimum(number, burn_in)
        over = records["last"][burn_in:-1]
        length = np.where(over.any(axis=0), over.argmax(axis=0), self._view.length_steps)
        before = int(prefix.max())  # rows of the longest prefix, and of the longest sequence
        rows = before + int(length.max()) + 1
        begin = burn_in - before
        at = np.arange(rows)[:, None]
        real = (at >= before - prefix) & (at <= before + length)
        first = (at == before - prefix) & (number == prefix)
        fields = {name: room[:rows] for name, room in self._fields.items()}
        for name, room in fields.items():
            window.copy(name, room, begin)
        fields["first"][:] = first
        last_action, last_reward = self._last_action[:rows], self._last_reward[:rows]
        for name, room in (("action", last_action), ("reward", last_reward)):
            window.copy(name, room, begin - 1)
            room[first | ~real] = 0
        self._prefix[:before] = (real & (at < before))[:before]
        self._mask[: rows - 1] = (at >= before)[:-1] & (at < before + length)[:-1]
        tensors = {name: torch.from_numpy(room) for name, room in fields.items()}
        return Unroll(
            obs=window.observe_episode(begin, rows, burn_in - number),
            last_action=torch.from_numpy(last_action),
            last_reward=torch.from_numpy(last_reward),
            mask=torch.from_numpy(self._mask[: rows - 1]),
            extras={name: tensor for name, tensor in tensors.items() if name not in STEP_FIELDS},
            state=self._initial(burn_in - prefix, number == prefix),
            prefix=torch.from_numpy(self._prefix[:before]),
            marks=self._marked(number, length),
            **{name: tensors[name] for name in STEP_FIELDS if name != "obs"},
        )

    def _initial(self, rows: np.ndarray, begins_episode: np.ndarray) -> Tree:
        """The states before `rows` [K] of the window: the actor's where one has acted, or zeros."""
        if self._view.state == "stored":
            self._window.gather_states(rows, self._state, self._view.prefix_offset)
        for leaf in tree_leaves(self._state):
            leaf.numpy()[begins_episode if self._view.state == "stored" else ...] = 0
        return self._state

    def _marked(self, number: np.ndarray, length: np.ndarray) -> Tree:
        """The states that the actor had before the first step of each sequence, and before the last step of each full one."""
        if self._marks is None:
            return None
        view, marks, window = self._view, self._marks, self._window
        first, last = view.burn_in_steps, view.burn_in_steps + view.length_steps - 1
        window.gather_states(first, marks["first"]["state"], 0)
        window.gather_states(last, marks["last"]["state"], view.last_offset)
        kept, full = window.carries_states(), length == view.length_steps
        marks["first"]["known"] = torch.from_numpy(kept & (number > 0))  # at an episode's first step nothing was kept
        marks["last"]["known"] = torch.from_numpy(kept & full & (number + length > 1))
        return marks
