"""Views: what an item of a table is, and how it is read from the streams.

`Transitions` folds n steps into one at reading time. `Unrolls` reads T consecutive steps and the bootstrap row. A view says
which rows start items (`starts`), how many rows later an item is whole (`window_steps`), and reads a batch of them.
Frame stacks are rebuilt here: they never cross an episode's start, and frames before it are zeros. So are the last action and
reward, which do not cross it either (`veldt.parts.sight` does the same for actors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from veldt.data import STEP_FIELDS, Transition, Tree, Unroll, tree_from_items, tree_items, tree_map
from veldt.errors import ConfigError
from veldt.replay.kernels import fold_n_step
from veldt.replay.streams import Streams


class Reader(Protocol):
    """Reads items of one view from one set of streams, into buffers of its own."""

    def read(self, keys: np.ndarray) -> Any:
        """The items of `keys` [K]. The tensors are valid until the next call."""


class View(Protocol):
    """The settings of a view."""

    @property
    def window_steps(self) -> int:
        """Steps an item spans: an item that starts at row r is whole when row r + window_steps has been seen."""

    @property
    def history_steps(self) -> int:
        """Rows before an item that are read too, whatever is stacked."""

    @property
    def state_period_steps(self) -> int:
        """Where recurrent states are needed: before every so many rows of each stream."""

    def starts(self, row: int, last: np.ndarray) -> np.ndarray:
        """Which of the rows from absolute row `row` on start items: bool [R, B], from the flags `last` [R, B]."""

    def reader(self, streams: Streams, frame_stack: int, batch_size: int) -> Reader:
        """A reader of batches of `batch_size` items."""


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
    def history_steps(self) -> int:
        """None."""
        return 0

    @property
    def state_period_steps(self) -> int:
        """Before every row, of which each may start a transition."""
        return 1

    def starts(self, row: int, last: np.ndarray) -> np.ndarray:
        """Every step with an action that counted."""
        return ~last

    def reader(self, streams: Streams, frame_stack: int, batch_size: int) -> Reader:
        """A reader of `Transition`s."""
        return _TransitionReader(self, streams, frame_stack, batch_size)


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
    def history_steps(self) -> int:
        """One, for the last action and reward."""
        return 1

    @property
    def state_period_steps(self) -> int:
        """Before every unroll."""
        return self.steps

    def starts(self, row: int, last: np.ndarray) -> np.ndarray:
        """Every `steps`-th row of every stream."""
        rows = np.arange(row, row + len(last))
        return np.broadcast_to((rows % self.steps == 0)[:, None], last.shape)

    def reader(self, streams: Streams, frame_stack: int, batch_size: int) -> Reader:
        """A reader of `Unroll`s."""
        return _UnrollReader(self, streams, frame_stack, batch_size)


class _Window:
    """The rows around K items: their records, and the observations at chosen rows with their stacks rebuilt."""

    def __init__(self, streams: Streams, frame_stack: int, steps: int, count: int, history: int) -> None:
        self.streams, self.stack, self.count = streams, frame_stack, count
        self.history = max(history, frame_stack - 1)  # rows before the item: its first stack reaches back to them
        self._offsets = np.arange(-self.history, steps + 1)[:, None] * streams.columns
        self._records = streams.empty_records(len(self._offsets), count)
        self._words = self._records.view(np.int64).reshape(self._records.size, -1)
        self._items = np.arange(count)
        self._back = np.arange(frame_stack - 1, -1, -1)
        self._rooms: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    def load(self, keys: np.ndarray) -> np.ndarray:
        """Gathers the records around `keys` [K]; those of the items' own rows, [steps + 1, K]."""
        self._slots = keys % self.streams.slots
        self.streams.gather_records(self._slots + self._offsets, self._records)
        return self._records[self.history :]

    def copy(self, name: str, out: np.ndarray, begin: int = 0) -> None:
        """Copies the field `name` of the items' rows from `begin` on (-1: the one before) into `out` [R, K, ...]."""
        if name in self.streams.large:
            slots = self._slots + (begin + np.arange(len(out)))[:, None] * self.streams.columns
            self.streams.gather_large(name, slots.reshape(-1), torch.from_numpy(out).flatten(0, 1))
        else:
            np.copyto(out, self._records[name][self.history + begin :][: len(out)])

    def observe(self, rows: int | np.ndarray) -> Tree:
        """What the agent saw at the first `rows` rows of the items, or at rows [R, K] of each: a tree of [R, K, ...]."""
        spec = {"obs": self.streams.spec["obs"]}
        paths = [path for path, _ in tree_items(spec)]
        found = {path: self._large(path, rows) if path in self.streams.large else self._small(path, rows) for path in paths}
        return tree_from_items(spec, found)["obs"]

    def _small(self, path: str, rows: int | np.ndarray) -> torch.Tensor:
        if self.stack == 1 and isinstance(rows, int):
            return torch.from_numpy(self._records[path][self.history :][:rows])
        at = self.history + self._each(rows)
        if self.stack == 1:
            return torch.from_numpy(self._picked(at, self._items)[path])
        stacked = self._picked(at[:, :, None] - self._back, self._items[:, None])[path]
        stacked[self._missing(rows)] = 0
        return torch.from_numpy(stacked)

    def _picked(self, at: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The records at rows `at` of `items`, copied as whole words."""
        words = self._words.take(at * self.count + items, axis=0, mode="clip")
        records: np.ndarray = words.view(self._records.dtype)[..., 0]
        return records

    def _large(self, path: str, rows: int | np.ndarray) -> torch.Tensor:
        columns = self.streams.columns
        if self.stack == 1:
            at = self._each(rows)
            room = self._room(path, at.shape)
            self.streams.gather_large(path, (self._slots + at * columns).reshape(-1), room.flatten(0, 1))
            return room
        if isinstance(rows, int) and not self._records["first"][self.history + 1 :][: rows - 1].any():
            return self._overlapping(path, rows)
        at = self._each(rows)
        room = self._room(path, (*at.shape, self.stack))
        slots = self._slots[:, None] + (at[:, :, None] - self._back) * columns
        self.streams.gather_large(path, slots.reshape(-1), room.flatten(0, 2))
        missing = self._missing(rows)
        if missing.any():
            room.numpy()[missing] = 0
        return room

    def _overlapping(self, path: str, rows: int) -> torch.Tensor:
        """The stacks of `rows` rows among which no episode starts: they share their frames, each gathered once."""
        room = self._room(path, (self.count, self.stack - 1 + rows))
        slots = self._slots[:, None] + np.arange(1 - self.stack, rows) * self.streams.columns
        self.streams.gather_large(path, slots.reshape(-1), room.flatten(0, 1))
        missing = self._missing(1)[0]
        if missing.any():
            room.numpy()[:, : self.stack][missing] = 0
        frames = list(range(2, room.ndim))
        return room.unfold(1, self.stack, 1).permute(1, 0, -1, *frames)

    def _each(self, rows: int | np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.arange(rows)[:, None], (rows, self.count)) if isinstance(rows, int) else rows

    def _room(self, path: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory for frames, `[*shape, ...]`, the same at every call."""
        if (path, shape) not in self._rooms:
            source = self.streams.large[path]
            self._rooms[path, shape] = torch.from_numpy(np.empty((*shape, *source.shape[1:]), source.dtype))
        return self._rooms[path, shape]

    def _missing(self, rows: int | np.ndarray) -> np.ndarray:
        """Which frames [R, K, stack] of the stacks at `rows` lie before their episode's start."""
        first = self._records["first"]
        own = len(first) - self.history
        missing = np.zeros((own, self.count, self.stack), bool)
        started = np.zeros((own, self.count), bool)
        for back in range(1, self.stack):
            started |= first[self.history - back + 1 :][:own]
            missing[:, :, -1 - back] = started
        return missing[:rows] if isinstance(rows, int) else missing[rows, self._items]


class _TransitionReader:
    def __init__(self, view: Transitions, streams: Streams, frame_stack: int, batch_size: int) -> None:
        self._view = view
        self._window = _Window(streams, frame_stack, view.n_steps, batch_size, view.history_steps)
        self._clip = np.inf if view.reward_clip is None else view.reward_clip

    def read(self, keys: np.ndarray) -> Transition:
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
    def __init__(self, view: Unrolls, streams: Streams, frame_stack: int, batch_size: int) -> None:
        self._rows, self._streams = view.steps + 1, streams
        self._window = _Window(streams, frame_stack, view.steps, batch_size, view.history_steps)
        spec = {name: leaf for name, leaf in streams.spec.items() if name != "obs"}
        self._fields = {name: leaf.empty(self._rows, batch_size) for name, leaf in spec.items()}
        self._last_action = spec["action"].empty(self._rows, batch_size)
        self._last_reward = spec["reward"].empty(self._rows, batch_size)
        self._mask = np.empty((view.steps, batch_size), np.float32)
        self._state = streams.empty_states(batch_size)

    def read(self, keys: np.ndarray) -> Unroll:
        window, fields = self._window, self._fields
        window.load(keys)
        for name, room in fields.items():
            window.copy(name, room)
        first = fields["first"]
        for name, room in (("action", self._last_action), ("reward", self._last_reward)):
            window.copy(name, room, begin=-1)
            room[first] = 0
        self._mask[:] = ~fields["last"][:-1]
        self._streams.gather_states(keys, self._state)
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
