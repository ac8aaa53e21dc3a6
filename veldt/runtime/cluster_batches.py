"""Batches for learners on other machines, and the bells of a cluster: who waits there is woken by calls, not by descriptors.

    home                                              actor of one learner
    memory.sample() -> BatchServer --call: a batch--> HandedBatches -> BatchPort -> learner
                       <-- answer, once it is given back

A batch travels once, as the argument of a call, and the call comes back when the learner is done with it. So many calls are under way as
a dock on one machine has rooms, and a learner is one batch ahead here too. Those that were handed to a learner that dies are lost with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from veldt.data import Batch
from veldt.runtime.batches import ROOMS, Form

HANDED = "handed"
"""The threads of a learner's actor, by name, that take batches; one for each room."""


class CalledBell:
    """A bell between threads of one process, whichever it was sent to: a `Rung`. Who waits there says what ringing does."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = _nobody

    def ring(self) -> None:
        """Wakes who waits."""
        self.wake()

    def silence(self) -> None:
        """Who was woken has heard it once."""

    def close(self) -> None:
        """There is nothing to give back."""

    def __getstate__(self) -> dict[str, Any]:
        return {"wake": _nobody}


def _nobody() -> None:
    """Nobody waits."""


class HandedBatches:
    """What stands between memory `node` at home and one learner in an actor: `Batches`."""

    def __init__(self, node: str, memory: Any) -> None:
        self.node, self._form = node, Form(memory.example())
        self.filled: Any = CalledBell()
        self.freed: Any = CalledBell()
        self._learner: Any = None
        self._handed = 0
        self._under_way: set[int] = set()

    # ---- at home -------------------------------------------------------------------------------------------------------------

    def serve(self, actor: Any) -> None:
        """The learner lives in `actor` from now on, or with None nowhere."""
        self._learner, self._under_way = actor, set()

    def has_room(self) -> bool:
        """Whether the learner lives, and has given back enough of what it was handed."""
        return self._learner is not None and len(self._under_way) < ROOMS

    def put(self, batch: Batch[Any]) -> None:
        """Hands the learner a copy of `batch`."""
        number, under_way = self._handed, self._under_way
        self._handed += 1
        under_way.add(number)
        packed = self._form.layout.pack(self._form.leaves(batch))
        call = self._learner.hand.options(concurrency_group=HANDED).remote(self.node, number, packed)

        def given_back(done: Any) -> None:
            if done.exception() is None:  # else the learner is lost, and gets no more until there is another
                under_way.discard(number)
                self.freed.ring()

        call.future().add_done_callback(given_back)

    # ---- in the learner's actor: Ray's threads call `receive`, the loop's thread the others ----------------------------------

    def _open(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[int, np.ndarray] = {}
        self._taken: int | None = None
        self._buffer = torch.zeros(self._form.layout.nbytes, dtype=torch.uint8)
        self._leaves = self._form.layout.views(self._buffer)

    def receive(self, number: int, packed: np.ndarray) -> None:
        """Takes the batch that was handed as the `number`-th; waits until it is given back."""
        with self._changed:
            self._waiting[number] = packed
            self.filled.ring()
            self._changed.wait_for(lambda: number not in self._waiting and number != self._taken)

    def has_batch(self) -> bool:
        """Whether there is a batch to take."""
        with self._changed:
            return bool(self._waiting)

    def take(self) -> Batch[Any]:
        """The batch that was handed first, until the next call. For the learner."""
        self.give_back()
        with self._changed:
            self._taken = min(self._waiting)
            packed = self._waiting.pop(self._taken)
        np.copyto(self._buffer.numpy(), packed)
        return self._form.batch(self._leaves)

    def give_back(self) -> None:
        """The batch that was taken last is done with."""
        with self._changed:
            self._taken = None
            self._changed.notify_all()

    def close(self) -> None:
        """There is nothing to give back."""

    def __getstate__(self) -> dict[str, Any]:
        return {"node": self.node, "_form": self._form, "filled": self.filled, "freed": self.freed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
