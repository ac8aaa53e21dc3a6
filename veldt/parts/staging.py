"""Staging: batches on their way to a GPU, copied through pinned memory on a stream of their own while the last update computes.

The learner asks for the next batch as soon as it has handed its update to the GPU, and finds it there when it is done.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch

from veldt.data import Batch, tree_leaves, tree_map


class Staging:
    """A way to the CUDA device `device`. Holds one batch at a time, and as much pinned memory as one batch needs."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._pinned: dict[tuple[str, int], torch.Tensor] = {}
        self._staged: Batch[Any] | None = None

    @property
    def full(self) -> bool:
        """Whether a batch is on its way, or there."""
        return self._staged is not None

    def put(self, batch: Batch[Any]) -> None:
        """Starts to copy `batch`; its own tensors are free again when this returns."""
        self._copied.synchronize()  # the pinned memory may still be the source of the last copy
        with torch.cuda.stream(self._stream):
            moved = {field.name: self._moved(field.name, getattr(batch.data, field.name)) for field in fields(batch.data)}
            weights = self._moved("importance weights", batch.weights)
            self._copied.record(self._stream)
        self._staged = Batch(replace(batch.data, **moved), weights, batch.keys)

    def _moved(self, name: str, tree: Any) -> Any:
        """`tree` on the device, through pinned memory that is used again for each batch."""
        number = iter(range(len(tree_leaves(tree))))

        def move(leaf: torch.Tensor) -> torch.Tensor:
            place = name, next(number)
            room = self._pinned.get(place)
            if room is None or room.shape != leaf.shape:
                room = self._pinned[place] = torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=True)
            return room.copy_(leaf).to(self._device, non_blocking=True)

        return tree_map(move, tree)

    def take(self) -> Batch[Any]:
        """The batch that was put; what is computed with it waits for the copy, the caller does not."""
        batch, self._staged = self._staged, None
        assert batch is not None
        current = torch.cuda.current_stream(self._device)
        current.wait_event(self._copied)
        for field in fields(batch.data):
            for leaf in tree_leaves(getattr(batch.data, field.name)):
                leaf.record_stream(current)
        batch.weights.record_stream(current)
        return batch
