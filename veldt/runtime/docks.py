"""Docks: what stands between a shard in a process of its own and those who use it. Memory that all of them see, and bells.

    users                                   dock of one shard                     process of the shard
    ShardPort of learner 0 --gradient-----> mailbox 0 --+
    ShardPort of learner 1 --gradient-----> mailbox 1 --+----- in place -------> ShardServer -> shard.push
    all of them <-------- newest slice ---- publication <----------------------- after each round of letters
                                            snapshot <-------------------------- now and then; a successor begins with it

A mailbox has one writer. It is free, being written, or full; only its user fills it and only the shard frees it, so neither locks
and neither waits. Who vanishes while writing has sent nothing. A shard that vanishes loses what it did since its snapshot.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from veldt.core import OwnedShard, Shard, State
from veldt.data import Weights
from veldt.runtime.shared import Bell, Publication, SharedArena
from veldt.runtime.transport import Counters, Send, Served

FREE, WRITING, FULL = 0, 1, 2
"""States of a mailbox."""

SNAPSHOT_SECONDS = 1.0
"""Between two snapshots of a shard: so much of its work is lost with it, at most."""


class Dock:
    """The shared memory around one shard, made at home before any process starts, for `users` who may push."""

    def __init__(self, shard: OwnedShard, join: Callable[[Sequence[Shard]], Any], users: int) -> None:
        self.size, self.layout, self.max_gradient_norm, self.join = shard.size, shard.layout, shard.max_gradient_norm, join
        self._dtype, self._users = shard.tensors["slice"].dtype, users
        self.published = Publication({"slice": shard.tensors["slice"]})
        self.snapshot = Publication(shard.tensors)
        self._arena = SharedArena()
        self.bell, self.bells = Bell(), [Bell() for _ in range(users)]
        self._open()
        self.publish(shard.version, shard.tensors["slice"])

    def _open(self) -> None:
        self._header = self._arena.allocate(16 * self._users).view(np.int64).reshape(self._users, 2)  # state, based on version
        letters = torch.from_numpy(self._arena.allocate(self._users * self.size * self._dtype.itemsize))
        self._letters = letters.view(self._dtype).view(self._users, self.size)

    def wakes(self, user: int | None) -> tuple[Bell, ...]:
        """What rings for user number `user`, or with None for the shard."""
        return (self.bell if user is None else self.bells[user],)

    def port(self, user: int, board: Counters) -> ShardPort:
        """The shard, as user number `user` sees it."""
        return ShardPort(self, user)

    def served(self) -> Dock:
        """The side of the shard's process: the same memory."""
        return self

    def open(self, board: Counters, send: Send) -> Dock:
        """There is nothing to tell home."""
        return self

    def publish(self, version: int, slice_: torch.Tensor) -> None:
        """What users get from now on."""
        self.published.publish(Weights((version,), {"slice": slice_}))

    def keep(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps what a successor of the shard begins with."""
        self.snapshot.publish(Weights((version,), dict(tensors)))

    def restored(self, into: Mapping[str, torch.Tensor]) -> int | None:
        """Copies what the shard's predecessor kept last `into` tensors; its version. None if there was none."""
        return self.snapshot.read(dict(into)) if self.snapshot.version >= 0 else None

    def is_free(self, user: int) -> bool:
        """Whether the mailbox of `user` takes a gradient."""
        return bool(self._header[user, 0] == FREE)

    def clear(self, user: int) -> None:
        """A successor of `user` finds what its predecessor had begun to write."""
        if self._header[user, 0] == WRITING:
            self._header[user, 0] = FREE

    def send(self, user: int, gradient: torch.Tensor, based_on: int) -> None:
        """Fills the mailbox of `user`, which is free."""
        self._header[user] = WRITING, based_on
        self._letters[user].copy_(gradient)
        self._header[user, 0] = FULL
        self.bell.ring()

    def letters(self) -> list[tuple[int, torch.Tensor, int]]:
        """(user, gradient in place, version it is based on) of all full mailboxes."""
        full = np.flatnonzero(self._header[:, 0] == FULL)
        return [(int(user), self._letters[user], int(self._header[user, 1])) for user in full]

    def free(self, user: int) -> None:
        """The letter of `user` has been read."""
        self._header[user, 0] = FREE
        self.bells[user].ring()

    def restore(self, state: State) -> None:
        """What the shard of a resumed run begins with, for those who read it before its process is there."""
        self.publish(int(state["version"]), state["tensors"]["slice"])

    def close(self) -> None:
        """Gives the memory's descriptors back."""
        for resource in (self.published, self.snapshot, self._arena, self.bell, *self.bells):
            resource.close()  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        opened = ("_header", "_letters")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class ShardPort:
    """A shard in another process, as user number `user` sees it: a `core.Shard`."""

    device = "cpu"

    def __init__(self, dock: Dock, user: int) -> None:
        self._dock, self._user = dock, user
        self.size, self.layout, self.max_gradient_norm, self.join = dock.size, dock.layout, dock.max_gradient_norm, dock.join
        dock.clear(user)

    @property
    def version(self) -> int:
        """The version published last."""
        return self._dock.published.version

    def read(self, into: torch.Tensor) -> int:
        """Copies the slice published last `into` a vector [size]; its version."""
        return self._dock.published.read({"slice": into})

    def can_push(self) -> bool:
        """Whether the shard has read the last gradient of this user."""
        return self._dock.is_free(self._user)

    def push(self, gradient: torch.Tensor, based_on: int) -> None:
        """Puts a gradient [size] into the mailbox. What becomes of it, only the shard knows."""
        self._dock.send(self._user, gradient, based_on)


class ShardServer:
    """A shard in its own process: applies what is in its mailboxes, publishes the outcome. A `core.Worker`."""

    def __init__(self, shard: Any, dock: Served) -> None:
        self._shard, self._dock = shard, dock
        self.seconds = {"applying gradients": 0.0, "publishing": 0.0}
        self._kept_at = 0.0
        self._restored = dock.restored(shard.tensors)
        if self._restored is not None:
            shard.version = self._restored
        self._publish()

    def _publish(self) -> None:
        self._dock.publish(self._shard.version, self._shard.tensors["slice"])
        if time.monotonic() - self._kept_at >= SNAPSHOT_SECONDS:
            self._dock.keep(self._shard.version, self._shard.tensors)
            self._kept_at = time.monotonic()

    def step(self) -> bool:
        """Applies all gradients that have arrived; False if none has."""
        started = time.perf_counter()
        letters = self._dock.letters()
        if not letters:
            return False
        before = self._shard.version
        for user, gradient, based_on in letters:
            self._shard.push(gradient, based_on)
            self._dock.free(user)
        applied = time.perf_counter()
        self._publish()
        self._tell_restored(before)
        self.seconds["applying gradients"] += applied - started
        self.seconds["publishing"] += time.perf_counter() - applied
        return True

    def _tell_restored(self, before: int) -> None:
        """Once gradients of the restored versions come in, those of lost versions do no longer: says how many there were."""
        if self._restored is not None and self._shard.version > before:
            rejected = self._shard.rejected_gradients
            warnings.warn(f"restored at version {self._restored:,}; {rejected:,} late pushes rejected", stacklevel=2)
            self._restored = None

    def waiting_for(self) -> str:
        """A gradient."""
        return f"shard at version {self._shard.version:,}: a gradient from any learner"

    def metrics(self) -> dict[str, float]:
        """Those of the shard."""
        return dict(self._shard.metrics())
