"""Streams: where experience lives. Each step is stored once, by one writer, in memory allocated before the run.

S streams share one ring of `rows` rows. A row of a stream is a *slot*; the step written at absolute row r of stream s
has the *key* `r * S + s`, which never names another step, and stands in slot `key % (rows * S)`. The next row of the
same stream is `key + S`. An actor with B environments owns B neighbouring columns and writes nothing else.

Small fields (rewards, flags, actions, vector observations) are packed into one record per step, so that reading a step
touches one cache line; large fields (frames) are arrays of their own.

What a row means is the business of `veldt.data`; which rows may be read, of the table. This file only stores and gathers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from veldt.core import Arena, State
from veldt.data import ArraySpec, Tree, tree_from_items, tree_items
from veldt.errors import ResourceError

PACKED_BYTES = 256
"""A leaf of at most so many bytes is packed into the step's record."""


def step_bytes(spec: dict[str, Tree]) -> int:
    """Bytes that one step of `spec` takes in a stream, padding included."""
    record, large = _layout(spec)
    return record.itemsize + sum(leaf.nbytes for leaf in large.values())


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


def require_memory(spec: dict[str, Tree], steps: int) -> None:
    """Raises `ResourceError`, with the numbers, if this machine has less memory than streams of `steps` steps need."""
    needed, free = steps * step_bytes(spec), available_bytes()
    if free is not None and needed > free:
        raise ResourceError(
            f"replay of {steps:,} steps needs {needed / 1e9:.1f} GB "
            f"({step_bytes(spec):,} bytes a step); {free / 1e9:.1f} GB are free: "
            f"at most {int(0.9 * free / step_bytes(spec)):,} steps fit"
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
    """A way to columns [start, stop) of streams, which can be sent to another process: a `core.Ring`."""

    spec: dict[str, Tree]
    rows: int
    columns: int
    start: int
    stop: int
    arena: Arena

    def open(self) -> dict[str, Tree]:
        """The fields of the columns, in the memory of the arena."""
        return Streams(self.spec, self.rows, self.columns, self.arena).columns_of(self.start, self.stop)


class Streams:
    """A ring of `rows` rows of `columns` streams of steps as `spec` describes them."""

    def __init__(self, spec: dict[str, Tree], rows: int, columns: int, arena: Arena) -> None:
        """Args:
        spec: what one step holds, a tree of `ArraySpec` by field name (`EnvSpec.step_spec`).
        rows: steps of each stream that the ring holds.
        columns: how many streams there are.
        arena: gives the memory; streams of the same shape on a copy of the arena are the same streams.
        """
        self.spec, self.rows, self.columns = spec, rows, columns
        self.slots = rows * columns
        record, large = _layout(spec)
        self.nbytes = self.slots * step_bytes(spec)
        self.records: np.ndarray = arena.allocate(self.slots * record.itemsize).view(record)
        # Gathered as whole words: the same bytes, at several times the speed of a structured copy.
        self._record_words = self.records.view(np.int64).reshape(self.slots, -1)
        self.large: dict[str, np.ndarray] = {}
        self._large_tensors: dict[str, torch.Tensor] = {}
        for path, leaf in large.items():
            array = arena.allocate(self.slots * leaf.nbytes).view(leaf.dtype).reshape(self.slots, *leaf.shape)
            self.large[path] = array
            self._large_tensors[path] = torch.from_numpy(array.reshape(self.slots, -1))

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

    def state_dict(self, written_rows: int) -> State:
        """The ring's bytes, only as far as it was ever written (`written_rows` rows)."""
        used = min(written_rows, self.rows) * self.columns
        arrays: dict[str, Any] = {path: array[:used] for path, array in self.large.items()}
        return {"records": self._record_words[:used], "large": arrays}

    def load_state_dict(self, state: State) -> None:
        """Writes the bytes of `state_dict` back."""
        self._record_words[: len(state["records"])] = state["records"]
        for path, array in state["large"].items():
            self.large[path][: len(array)] = array
