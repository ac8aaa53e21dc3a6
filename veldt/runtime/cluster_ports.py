"""Ports between machines: rows travel with their commits, weights as one object per version, counters with every order.

A worker writes its unrolls into a private ring of the layout that its columns have at home; a commit carries the new rows, which
the home process copies to where they belong before anybody hears of them. Row `end`, of which only the beginning is known, is
sent again with the next commit. So home holds, at any moment, what an actor wrote up to its last commit, as if it had written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from veldt.core import Ring, Room
from veldt.data import Versions, Weights, tree_leaves
from veldt.runtime.ports import Commit, FollowedParameters, MemoryLink, MemoryPort
from veldt.runtime.shared import Layout
from veldt.runtime.transport import Counters, Send


class Rows(NamedTuple):
    """Rows of one actor on their way: `fields` are arrays [R, B, ...] of rows first, first + 1, ...; `states` [offsets, K, B, ...]
    are those of the schedule's slots first_state, first_state + 1, ..., counted through and not modulo the ring."""

    first: int
    fields: list[np.ndarray]
    first_state: int
    states: list[np.ndarray]


class RowsCommit(NamedTuple):
    """To the home process: a `Commit` and the rows that it is about."""

    commit: Commit
    rows: Rows


def take_rows(room: Room, start: int, stop: int) -> Rows:
    """A copy of rows [start, stop) of `room`, and of the states that stand before them."""
    wanted, spacing = np.arange(start, stop), room.schedule.spacing_rows
    slots = np.arange(start // spacing, (stop - 1) // spacing + 1)
    fields = [leaf[wanted % len(leaf)] for leaf in _fields(room)]
    states = [leaf[:, slots % leaf.shape[1]] for leaf in tree_leaves(room.states) if len(leaf)]
    return Rows(start, fields, int(slots[0]), states)


def put_rows(room: Room, rows: Rows) -> None:
    """Writes `rows` where they belong in `room`."""
    for leaf, values in zip(_fields(room), rows.fields, strict=True):
        leaf[np.arange(rows.first, rows.first + len(values)) % len(leaf)] = values
    for leaf, values in zip([leaf for leaf in tree_leaves(room.states) if len(leaf)], rows.states, strict=True):
        leaf[:, np.arange(rows.first_state, rows.first_state + values.shape[1]) % leaf.shape[1]] = values


def _fields(room: Room) -> Iterator[np.ndarray]:
    for name in sorted(room.rows):
        yield from tree_leaves(room.rows[name])


class _PrivateRing:
    """The ring of an actor away from home: opened, it holds the newest rows that home has. A `core.Ring`."""

    def __init__(self, ring: Ring, recent: Rows | None) -> None:
        self._ring, self._recent, self.rows = ring, recent, ring.rows
        self.room: Room | None = None

    def open(self) -> Room:
        """The room, private."""
        self.room = self._ring.open()
        if self._recent is not None:
            put_rows(self.room, self._recent)
        return self.room

    def apart(self) -> Ring:
        """Itself."""
        return self


@dataclass(frozen=True)
class RowsLink:
    """What a worker needs to know of a memory at home.

    ring: private room for its rows. end: rows that were committed. recent: the newest of them, and row `end`; None: there are none.
    """

    node: str
    ring: Ring
    end: int
    recent: Rows | None

    def open(self, board: Counters, send: Send) -> MemoryPort:
        """The port, whose commits take their rows along."""
        ring, sent = _PrivateRing(self.ring, self.recent), self.end

        def send_rows(message: Any) -> None:
            nonlocal sent
            if isinstance(message, Commit):
                assert ring.room is not None
                rows = take_rows(ring.room, sent, message.end + 1)
                sent = message.end
                message = RowsCommit(message, rows)
            send(message)

        return MemoryPort(MemoryLink(self.node, ring, self.end), board, send_rows)


def rows_link(node: str, memory: Any, actor: int) -> RowsLink:
    """The link to `memory`, a `core.Memory` that is `Writable`, for `actor`."""
    ring, end = memory.ring(actor).apart(), memory.end(actor)
    recent = take_rows(room_at_home(memory, actor), max(0, end + 1 - ring.rows), end + 1) if end else None
    return RowsLink(node, ring, end, recent)


def room_at_home(memory: Any, actor: int) -> Room:
    """Where the rows of `actor` belong."""
    inlet = memory.inlet(actor)
    return Room(inlet.rows, inlet.states, inlet.schedule)


class Notice(NamedTuple):
    """A version of the weights, and the reference to the object that holds them; or a life of a shard, and its actor."""

    version: int
    reference: Any


class Bulletin:
    """What a worker was last told: counters of the home process, and where the newest weights and the shards are; and what it counts
    itself, which home is told in turn. `Counters`."""

    def __init__(self, values: Mapping[str, int], newest: Mapping[str, Notice]) -> None:
        self._values, self.newest = dict(values), dict(newest)
        self.counted: dict[str, int] = {}
        self.wake: Callable[[], None] = lambda: None
        """Makes the worker's loop look again. Set by whoever lets it wait."""

    def take(self, bulletin: Bulletin) -> None:
        """Newer news from home."""
        self._values |= bulletin._values
        self.newest |= bulletin.newest

    def __getitem__(self, name: str) -> int:
        return self.counted[name] if name in self.counted else self._values[name]

    def __setitem__(self, name: str, value: int) -> None:
        self.counted[name] = value


@dataclass(frozen=True)
class WeightsLink:
    """What a worker needs to know of parameters at home."""

    node: str
    layout: Layout

    def open(self, board: Counters, send: Send) -> WeightsPort:
        """The port."""
        assert isinstance(board, Bulletin)
        return WeightsPort(self, board)


class WeightsPort(FollowedParameters):
    """Parameters at home, in objects of the cluster."""

    def __init__(self, link: WeightsLink, board: Bulletin) -> None:
        super().__init__(link.node, board)
        self._newest = board.newest
        self._buffer = torch.zeros(link.layout.nbytes, dtype=torch.uint8)
        self._tensors = link.layout.views(self._buffer)

    def pull(self, held: Versions) -> Weights | None:
        """The version published last, in tensors that stay the same. Only now does it travel, once to each machine."""
        import ray

        notice = self._newest[self._node]
        if held == (notice.version,):
            return None
        np.copyto(self._buffer.numpy(), ray.get(notice.reference))
        return Weights((notice.version,), self._tensors)
