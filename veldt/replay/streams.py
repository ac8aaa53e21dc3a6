"""Streams: where experience lives. Each step is stored once, by one writer, in memory allocated before the run.

S streams share one ring of `rows` rows. A row of a stream is a *slot*; the step written at absolute row r of stream s
has the *key* `r * S + s`, which never names another step, and stands in slot `key % (rows * S)`. The next row of the
same stream is `key + S`. An actor with B environments owns B neighbouring columns and writes nothing else.

Small fields (rewards, flags, actions, vector observations) are packed into one record per step, so that reading a step
touches one cache line; large fields (frames) are arrays of their own.

Recurrent states, which an actor carries along and only some rows need, stand beside the rows, in rings of their own: where, a
row's number says (`core.StateSchedule`).

What a row means is the business of `veldt.data`; which rows may be read, of the table. This file only stores and gathers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch

from veldt.core import Arena, PrivateArena, Room, State, StateSchedule
from veldt.data import ArraySpec, Tree, tree_from_items, tree_items, tree_leaves, tree_map
from veldt.errors import ResourceError

PACKED_BYTES = 256
"""A leaf of at most so many bytes is packed into the step's record."""


@dataclass(frozen=True)
class Carried:
    """The recurrent state of one stream, a tree of `ArraySpec` (None: there is none), and before which rows it is kept."""

    spec: Tree
    schedule: StateSchedule

    @property
    def nbytes(self) -> int:
        """Bytes of one state for each offset."""
        each: int = sum(leaf.nbytes for leaf in tree_leaves(self.spec))
        return len(self.schedule.offsets) * each


NOTHING = Carried(None, StateSchedule(1))


def step_bytes(spec: dict[str, Tree], carried: Carried = NOTHING) -> int:
    """Bytes that one step of `spec` takes in a stream, padding and its share of a recurrent state included."""
    record, large = _layout(spec)
    return record.itemsize + sum(leaf.nbytes for leaf in large.values()) + -(-carried.nbytes // carried.schedule.spacing_rows)


def available_bytes() -> int | None:
    """Memory that this machine can still give, in bytes; None where it does not say."""
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def require_memory(spec: dict[str, Tree], steps: int, carried: Carried = NOTHING) -> None:
    """Raises `ResourceError`, with the numbers, if this machine has less memory than streams of `steps` steps need."""
    each, free = step_bytes(spec, carried), available_bytes()
    needed = steps * each
    if free is not None and needed > free:
        raise ResourceError(
            f"replay of {steps:,} steps needs {needed / 1e9:.1f} GB "
            f"({each:,} bytes a step); {free / 1e9:.1f} GB are free: "
            f"at most {int(0.9 * free / each):,} steps fit"
        )


def _layout(spec: dict[str, Tree]) -> tuple[np.dtype[np.void], dict[str, ArraySpec]]:
    """The record of the small leaves and, by path, the large ones."""
    leaves = dict(tree_items(spec))
    large = {path: leaf for path, leaf in leaves.items() if leaf.nbytes > PACKED_BYTES}
    # The widest items first: no padding between them.
    small = sorted(
        ((path, leaf) for path, leaf in leaves.items() if path not in large),
        key=lambda item: -np.dtype(item[1].dtype).itemsize,
    )
    fields = np.dtype([(path, leaf.dtype, leaf.shape) for path, leaf in small], align=True)
    padded = -(-fields.itemsize // 8) * 8
    assert fields.names is not None
    layout: Any = {
        "names": list(fields.names),
        "formats": [fields[name] for name in fields.names],
        "offsets": [fields.fields[name][1] for name in fields.names],  # type: ignore[index]
        "itemsize": padded,
    }
    return np.dtype(layout, align=True), large


@dataclass(frozen=True)
class StreamsOf:
    """A way to columns [start, stop) of streams, which can be sent to another process: a `core.Ring`.

    recent_rows: so many of the newest rows are written or looked at by their writer.
    """

    spec: dict[str, Tree]
    rows: int
    columns: int
    start: int
    stop: int
    arena: Arena
    recent_rows: int
    carried: Carried = NOTHING

    def open(self) -> Room:
        """The columns' room, in the memory of the arena."""
        return Streams(self.spec, self.rows, self.columns, self.arena, self.carried).room_of(self.start, self.stop)

    def apart(self) -> StreamsOf:
        """See `core.Ring`."""
        columns, rows = self.stop - self.start, min(self.rows, self.recent_rows)
        return replace(self, rows=rows, columns=columns, start=0, stop=columns, arena=PrivateArena())


class Streams:
    """A ring of `rows` rows of `columns` streams of steps as `spec` describes them."""

    def __init__(self, spec: dict[str, Tree], rows: int, columns: int, arena: Arena, carried: Carried = NOTHING) -> None:
        """Args:
        spec: what one step holds, a tree of `ArraySpec` by field name (`EnvSpec.step_spec`).
        rows: steps of each stream that the ring holds.
        columns: how many streams there are.
        arena: gives the memory; streams of the same shape on a copy of the arena are the same streams.
        carried: the recurrent states kept beside the rows.
        """
        self.spec, self.rows, self.columns, self.carried = spec, rows, columns, carried
        self.slots = rows * columns
        self._state_slots = carried.schedule.slots(rows)
        record, large = _layout(spec)
        self.nbytes = self.slots * step_bytes(spec) + self._state_slots * columns * carried.nbytes
        self.records: np.ndarray = arena.allocate(self.slots * record.itemsize).view(record)
        # Gathered as whole words: the same bytes, at several times the speed of a structured copy.
        self._record_words = self.records.view(np.int64).reshape(self.slots, -1)
        self.large: dict[str, np.ndarray] = {}
        self._large_tensors: dict[str, torch.Tensor] = {}
        for path, leaf in large.items():
            array = arena.allocate(self.slots * leaf.nbytes).view(leaf.dtype).reshape(self.slots, *leaf.shape)
            self.large[path] = array
            self._large_tensors[path] = torch.from_numpy(array.reshape(self.slots, -1))
        self._states: dict[str, np.ndarray] = {}
        shape = len(carried.schedule.offsets), self._state_slots * columns
        for path, leaf in tree_items(carried.spec):
            memory = arena.allocate(prod(shape) * leaf.nbytes) if shape[0] else np.empty(0, np.uint8)
            self._states[path] = memory.view(leaf.dtype).reshape(*shape, *leaf.shape)

    def room_of(self, start: int, stop: int) -> Room:
        """Columns [start, stop), for their writer."""
        states = {
            path: array.reshape(len(array), self._state_slots, self.columns, *array.shape[2:])[:, :, start:stop]
            for path, array in self._states.items()
        }
        carried = tree_from_items(self.carried.spec, states)
        return Room(self.columns_of(start, stop), carried, self.carried.schedule)

    def columns_of(self, start: int, stop: int) -> dict[str, Tree]:
        """The fields of columns [start, stop), for their writer: a tree of arrays [rows, stop - start, ...]."""
        fields = self.large | {name: self.records[name] for name in self.records.dtype.names or ()}
        columns = {
            path: array.reshape(self.rows, self.columns, *array.shape[1:])[:, start:stop] for path, array in fields.items()
        }
        return dict(tree_from_items(self.spec, columns))

    def empty_records(self, *shape: int) -> np.ndarray:
        """Room for gathered records: a structured array of that shape."""
        return np.empty(shape, self.records.dtype)

    def gather_records(self, slots: np.ndarray, out: np.ndarray) -> None:
        """Copies the records of `slots`, taken modulo the ring, into `out` (from `empty_records`, of the same shape)."""
        self._record_words.take(slots, axis=0, out=out.view(np.int64).reshape(*slots.shape, -1), mode="wrap")

    def gather_large(self, path: str, slots: np.ndarray, out: torch.Tensor) -> None:
        """Copies the large field at `path` of `slots` [K], modulo the ring, into `out` [K, ...]; torch uses its threads."""
        source = self._large_tensors[path]
        torch.index_select(source, 0, torch.from_numpy(slots % self.slots), out=out.view(len(slots), -1))

    def empty_states(self, count: int) -> Tree:
        """Room for the gathered states of `count` items: a tree of tensors [count, ...]."""
        return tree_map(lambda leaf: torch.from_numpy(leaf.empty(count)), self.carried.spec)

    def gather_states(self, keys: np.ndarray, out: Tree, offset: int) -> None:
        """Copies the states from before the rows of `keys` [K] into `out` (from `empty_states`).

        offset: which of the schedule's. Where none is kept, what comes means nothing.
        """
        if self.carried.spec is None:
            return
        schedule = self.carried.schedule
        row, column = np.divmod(keys, self.columns)
        slots = row // schedule.spacing_rows % self._state_slots * self.columns + column
        for source, room in zip(self._states.values(), tree_leaves(out), strict=True):
            source[schedule.offsets.index(offset)].take(slots, axis=0, out=room.numpy(), mode="clip")

    def state_dict(self, written_rows: int) -> State:
        """The ring's bytes, only as far as it was ever written (`written_rows` rows)."""
        used_rows = min(written_rows, self.rows) * self.columns
        arrays: dict[str, Any] = {path: array[:used_rows] for path, array in self.large.items()}
        used = min(self.carried.schedule.slots(written_rows), self._state_slots) * self.columns
        states: dict[str, Any] = {path: array[:, :used] for path, array in self._states.items()}
        return {"records": self._record_words[:used_rows], "large": arrays, "states": states}

    def load_state_dict(self, state: State) -> None:
        """Writes the bytes of `state_dict` back."""
        self._record_words[: len(state["records"])] = state["records"]
        for path, array in state["large"].items():
            self.large[path][: len(array)] = array
        for path, array in state["states"].items():
            self._states[path][:, : array.shape[1]] = array
