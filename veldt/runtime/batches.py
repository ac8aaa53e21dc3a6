"""Batches for learners in processes of their own, drawn where the memory is. Here memory that both sides see, and bells; between
machines `cluster_batches`.

    home                                    dock of one learner                 process of the learner
    memory.sample() -> BatchServer --copy-> room 0 | room 1 ------- in place -> BatchPort -> learner
                       <------------------- bell: a room is free

Of two rooms one is learned from while the other is filled: a learner is one batch ahead, and never waits for a copy. Each of three
counters has one writer: batches written (home), taken and given back (the learner). Who vanishes has lost the batch it had.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from veldt.core import Memory
from veldt.data import Batch, tree_from_items, tree_items, tree_map
from veldt.runtime.shared import Bell, Layout, SharedArena
from veldt.runtime.transport import Batches, Counters, Rung, Send

ROOMS = 2
"""Batches that were drawn for a learner and not given back, at most."""

WRITTEN, TAKEN, RETURNED = 0, 1, 2
"""Counters of a dock."""


class Form:
    """What all batches of one memory have in common: a batch as named tensors, and back."""

    def __init__(self, example: Batch[Any]) -> None:
        self._kind, self._shape = type(example.data), tree_map(lambda leaf: 0, _tree(example))
        self.layout = Layout(self.leaves(example))

    def leaves(self, batch: Batch[Any]) -> dict[str, torch.Tensor]:
        """All that `batch` holds, by path."""
        return dict(tree_items(_tree(batch)))

    def batch(self, leaves: Mapping[str, torch.Tensor]) -> Batch[Any]:
        """The batch of `leaves`, in their memory."""
        tree = tree_from_items(self._shape, leaves)
        return Batch(self._kind(**tree["data"]), tree["weights"], tree["keys"].numpy())


def _tree(batch: Batch[Any]) -> dict[str, Any]:
    data = {one.name: getattr(batch.data, one.name) for one in fields(batch.data)}
    return {"data": data, "weights": batch.weights, "keys": torch.from_numpy(batch.keys)}


class BatchDock:
    """The shared memory between a memory at home and one learner, made before its process starts: `Batches`."""

    def __init__(self, memory: Any) -> None:
        example = memory.example()
        self._form = Form(example)
        self._layout = self._form.layout
        self._arena = SharedArena()
        self.filled: Rung = Bell()
        self.freed: Rung = Bell()
        self._open()

    def _open(self) -> None:
        self._counts = self._arena.allocate(24).view(np.int64)
        self._rooms = [self._layout.views(torch.from_numpy(self._arena.allocate(self._layout.nbytes))) for _ in range(ROOMS)]

    def has_room(self) -> bool:
        """Whether another batch can be put in."""
        return bool(self._counts[WRITTEN] - self._counts[RETURNED] < ROOMS)

    def put(self, batch: Batch[Any]) -> None:
        """Copies `batch` into a room that is free. For the home process."""
        room, leaves = self._rooms[self._counts[WRITTEN] % ROOMS], self._form.leaves(batch)
        torch._foreach_copy_(list(room.values()), [leaves[name] for name in room])
        self._counts[WRITTEN] += 1
        self.filled.ring()

    def has_batch(self) -> bool:
        """Whether there is a batch to take."""
        return bool(self._counts[WRITTEN] > self._counts[TAKEN])

    def take(self) -> Batch[Any]:
        """The oldest batch, in place, until the next call. For the learner."""
        self.give_back()
        room = self._rooms[self._counts[TAKEN] % ROOMS]
        self._counts[TAKEN] += 1
        return self._form.batch(room)

    def give_back(self) -> None:
        """The batch that was taken last, by this process or one before it, is done with."""
        if self._counts[RETURNED] < self._counts[TAKEN]:
            self._counts[RETURNED] = self._counts[TAKEN]
            self.freed.ring()

    def close(self) -> None:
        """Gives the descriptors back."""
        for resource in (self._arena, self.filled, self.freed):
            resource.close()

    def __getstate__(self) -> dict[str, Any]:
        opened = ("_counts", "_rooms")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


@dataclass(frozen=True)
class BatchLink:
    """What a learner in a new process needs to know of the memory `node` at home that it samples."""

    node: str
    dock: Batches

    def open(self, board: Counters, send: Send) -> BatchPort:
        """The port."""
        return BatchPort(self.node, self.dock)


class BatchPort:
    """A memory at home, as a learner in another process sees it: what `core.Memory` has for who samples."""

    def __init__(self, node: str, dock: Batches) -> None:
        self._node, self._dock = node, dock
        dock.give_back()

    def can_sample(self) -> bool:
        """Whether a batch has been drawn for this learner."""
        return self._dock.has_batch()

    def sample(self) -> Batch[Any]:
        """The batch that was drawn first."""
        return self._dock.take()

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """Refused: priorities do not travel to the home process."""
        raise NotImplementedError("only learners in the home process give items new priorities")

    def waiting_for(self, actor: int | None = None) -> str:
        """A batch."""
        return f"{self._node}: a batch, drawn in the home process"


class BatchServer:
    """Draws batches at home for all learners that live elsewhere: a `core.Worker`."""

    def __init__(self, docks: Sequence[tuple[Memory, Batches]]) -> None:
        """`docks`: each with the memory behind it."""
        self._docks = docks
        self.seconds = {"sampling replay": 0.0}

    def step(self) -> bool:
        """A batch for each learner that has room for one, as long as there are any; False if none could be drawn."""
        started, drawn = time.perf_counter(), False
        for memory, dock in self._docks:
            if dock.has_room() and memory.can_sample():
                dock.put(memory.sample())
                drawn = True
        if drawn:
            self.seconds["sampling replay"] += time.perf_counter() - started
        return drawn

    def waiting_for(self) -> str:
        """What the memories lack, or that all learners have what they need."""
        short = [memory for memory, dock in self._docks if dock.has_room()]
        return short[0].waiting_for() if short else "learners to take the batches drawn for them"

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}
