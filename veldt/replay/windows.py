"""Windows: the rows around items of a table, gathered from the streams for the views.

Frame stacks are rebuilt here: they never cross an episode's start, and frames before it are zeros. The items of one window may
live in several streams of the same spec, such as an agent's and those of demonstrations: each set of streams fills its own part of
the same arrays, so that a mixed batch is copied no more often than another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from veldt.data import Tree, tree_from_items, tree_items, tree_leaves, tree_map
from veldt.replay.streams import Streams


class Part(NamedTuple):
    """Neighbouring items of a window that live in the same streams: where, their keys and slots, and which items they are."""

    streams: Streams
    keys: np.ndarray
    slots: np.ndarray
    items: slice


class Window:
    """The rows around K items: their records, and the observations at chosen rows with their stacks rebuilt."""

    def __init__(self, sources: Sequence[Streams], frame_stack: int, steps: int, count: int, history: int) -> None:
        self.sources, self.stack, self.count = sources, frame_stack, count
        self._spec, self._large_fields = sources[0].spec, sources[0].large
        self.history = max(history, frame_stack - 1)  # rows before the item: its first stack reaches back to them
        offsets = np.arange(-self.history, steps + 1)[:, None]
        self._offsets = [offsets * streams.columns for streams in sources]
        self._records = sources[0].empty_records(len(offsets), count)
        self._words = self._records.view(np.int64).reshape(self._records.size, -1)
        self._items = np.arange(count)
        self._back = np.arange(frame_stack - 1, -1, -1)
        self._rooms: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}

    def load(self, keys: Sequence[np.ndarray]) -> np.ndarray:
        """Gathers the records around `keys`, an array for each of the sources, K in all; those of the items' own rows, [steps + 1, K]."""
        self._parts: list[Part] = []
        start = 0
        for streams, offsets, own in zip(self.sources, self._offsets, keys, strict=True):
            if len(own):
                part = Part(streams, own, own % streams.slots, slice(start, start + len(own)))
                room = self._records if len(own) == self.count else self._records[:, part.items]
                streams.gather_records(part.slots + offsets, room)
                self._parts.append(part)
                start += len(own)
        return self._records[self.history :]

    def copy(self, name: str, out: np.ndarray, begin: int = 0) -> None:
        """Copies the field `name` of the items' rows from `begin` on (-1: the one before) into `out` [R, K, ...]."""
        if name in self._large_fields:
            self._gather(name, (begin + np.arange(len(out)))[:, None], torch.from_numpy(out), axis=1)
        else:
            np.copyto(out, self._records[name][self.history + begin :][: len(out)])

    def _gather(self, path: str, rows: np.ndarray, out: torch.Tensor, axis: int) -> None:
        """Copies the large field at `path` of each item's `rows` into `out`; items are axis `axis` of both, or `rows` has 1 there."""
        shape = tuple(-1 if dimension == axis else 1 for dimension in range(rows.ndim))
        for streams, _, slots, items in self._parts:
            if len(slots) == self.count:
                streams.gather_large(
                    path, (slots.reshape(shape) + rows * streams.columns).reshape(-1), out.flatten(0, rows.ndim - 1)
                )
                return
            mine = (slice(None),) * axis + (items,)
            at = slots.reshape(shape) + (rows[mine] if rows.shape[axis] > 1 else rows) * streams.columns
            part = out[mine]
            room = part if part.is_contiguous() else torch.empty(part.shape, dtype=part.dtype)
            streams.gather_large(path, at.reshape(-1), room.flatten(0, rows.ndim - 1))
            if room is not part:
                part.copy_(room)

    def gather_states(self, rows: int | np.ndarray, out: Tree, offset: int) -> None:
        """Copies the states from before `rows` of the items (a row for all, or [K]) into `out` [K, ...]; zeros where none are carried.

        offset: which of the schedule's, see `Streams.gather_states`.
        """
        if out is None:
            return
        rows = np.broadcast_to(rows, self.count)
        for streams, keys, _, items in self._parts:
            mine = tree_map(lambda leaf, items=items: leaf[items], out)
            if streams.carried.spec is None:
                for leaf in tree_leaves(mine):
                    leaf.zero_()
            streams.gather_states(keys + rows[items] * streams.columns, mine, offset)

    def carries_states(self) -> np.ndarray:
        """Which items live in streams that recurrent states stand beside: bool [K]."""
        carries = np.zeros(self.count, bool)
        for streams, _, _, items in self._parts:
            carries[items] = streams.carried.spec is not None
        return carries

    def observe(self, rows: int | np.ndarray) -> Tree:
        """What the agent saw at the first `rows` rows of the items, or at rows [R, K] of each: a tree of [R, K, ...]."""
        spec = {"obs": self._spec["obs"]}
        paths = [path for path, _ in tree_items(spec)]
        found = {path: self._large(path, rows) if path in self._large_fields else self._small(path, rows) for path in paths}
        return tree_from_items(spec, found)["obs"]

    def observe_episode(self, begin: int, rows: int, start: np.ndarray) -> Tree:
        """What the agent saw at rows [begin, begin + rows) of items of one episode each: a tree of [rows, K, ...].

        start: the row [K] that starts the item's episode, before its rows or among them; earlier frames are zeros.
        """
        spec = {"obs": self._spec["obs"]}
        return tree_from_items(spec, {path: self._frames(path, begin, rows, start) for path, _ in tree_items(spec)})["obs"]

    def _frames(self, path: str, begin: int, rows: int, start: np.ndarray) -> torch.Tensor:
        """The frames that the stacks of rows [begin, begin + rows) share, each gathered once, as stacks."""
        count, earliest = self.stack - 1 + rows, begin - self.stack + 1
        missing = earliest + np.arange(count) < start[:, None]
        if path in self._large_fields:
            room = self._room(path, (self.count, count))
            self._gather(path, (earliest + np.arange(count))[None], room, axis=0)
            frames = room.transpose(0, 1)
        else:
            frames = torch.from_numpy(self._records[path][self.history + earliest :][:count])
        if missing.any():
            frames.numpy()[missing.T] = 0
        if self.stack == 1:
            return frames
        return frames.unfold(0, self.stack, 1).movedim(-1, 2)

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
        if self.stack == 1:
            at = self._each(rows)
            room = self._room(path, at.shape)
            self._gather(path, at, room, axis=1)
            return room
        if isinstance(rows, int) and not self._records["first"][self.history + 1 :][: rows - 1].any():
            return self._overlapping(path, rows)
        at = self._each(rows)
        room = self._room(path, (*at.shape, self.stack))
        self._gather(path, at[:, :, None] - self._back, room, axis=1)
        missing = self._missing(rows)
        if missing.any():
            room.numpy()[missing] = 0
        return room

    def _overlapping(self, path: str, rows: int) -> torch.Tensor:
        """The stacks of `rows` rows among which no episode starts: they share their frames, each gathered once."""
        room = self._room(path, (self.count, self.stack - 1 + rows))
        self._gather(path, np.arange(1 - self.stack, rows)[None], room, axis=0)
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
            source = self._large_fields[path]
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
