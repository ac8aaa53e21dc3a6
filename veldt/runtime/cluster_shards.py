"""Shards of the parameters on a cluster: whoever uses one calls its actor, and gets answers that are references or small.

    users                                               actor of the shard
    CalledShard of learner 0 --call: gradient--------> ServedDock -> ShardServer -> shard.push
                             <--- version, once applied
    all of them              --call: newer than mine?-> the slice as it was published last
    home        <------------- Serving, Snapshot (now and then; a successor begins with it)

A user has one gradient under way, so nothing queues without bound. While a shard is gone, those who read go on with what they have, and
those who push wait for its successor. Versions are known from answers to pushes, and from home to those who never push.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from veldt.core import OwnedShard, Shard, State
from veldt.runtime.cluster_ports import Notice
from veldt.runtime.ports import version_of
from veldt.runtime.transport import Counters, Send

PUSHES, READS = "pushes", "reads"
"""The threads of a shard's actor, by name, that take gradients and answer who reads."""

READ_SECONDS = 2.0
"""How long an answer may take before one goes on with what one has."""


class Serving(NamedTuple):
    """To the home process: the shard called `node` answers from now on."""

    node: str


class Snapshot(NamedTuple):
    """To the home process: a version of the shard called `node`, and all its tensors as arrays."""

    node: str
    version: int
    arrays: dict[str, np.ndarray]


class CalledDock:
    """What is known at home, and sent to users, of a shard in an actor: a `Dock`."""

    def __init__(self, name: str, shard: OwnedShard, join: Callable[[Sequence[Shard]], Any]) -> None:
        self.name, self.join = name, join
        self.size, self.layout, self.max_gradient_norm = shard.size, shard.layout, shard.max_gradient_norm
        self.kept = Snapshot(name, shard.version, _arrays({"slice": shard.tensors["slice"]}))
        """The newest slice that is known at home; of a user, as it was when that was started."""
        self._snapshot: Snapshot | None = None

    def wakes(self, user: int | None) -> tuple[()]:
        """Nobody: answers wake who asked."""
        return ()

    def port(self, user: int, board: Counters) -> CalledShard:
        """The shard, as user number `user` sees it."""
        return CalledShard(self, user, board)

    def served(self) -> ServedDock:
        """The side of the shard's process."""
        return ServedDock(self.name, self._snapshot)

    def take(self, snapshot: Snapshot) -> None:
        """A successor of the shard would begin with `snapshot`."""
        self.kept = self._snapshot = snapshot

    def restore(self, state: State) -> None:
        """What the shard of a resumed run begins with, for those who read it before it is there."""
        self.kept = Snapshot(self.name, int(state["version"]), _arrays({"slice": state["tensors"]["slice"]}))

    def close(self) -> None:
        """There is nothing to give back."""

    def __getstate__(self) -> dict[str, Any]:
        slice_only = self.kept._replace(arrays={"slice": self.kept.arrays["slice"]})
        return {**self.__dict__, "kept": slice_only, "_snapshot": None}


class CalledShard:
    """A shard in an actor of the cluster, as user number `user` sees it: a `core.Shard`."""

    device = "cpu"

    def __init__(self, dock: CalledDock, user: int, board: Any) -> None:
        """`board`: of a worker its `Bulletin`, at home the `HomeBoard`; it says where the shard is."""
        self.size, self.layout, self.max_gradient_norm, self.join = dock.size, dock.layout, dock.max_gradient_norm, dock.join
        self._dock, self._user, self._board = dock, user, board
        self._have: Snapshot = dock.kept
        self._answered = 0
        self._actor: Any = None
        self._lost = False
        self._under_way: Any = None

    def _find(self) -> Any:
        """The actor of the shard's present life; None before its first, or while it is gone."""
        notice: Notice | None = self._board.newest.get(self._dock.name)
        if notice is not None and notice.reference != self._actor:
            self._actor, self._lost, self._answered = notice.reference, False, 0
        return None if self._lost else self._actor

    @property
    def version(self) -> int:
        """The newest version that was heard of."""
        heard: int = self._board[version_of(self._dock.name)]
        return max(self._answered, heard)

    def read(self, into: torch.Tensor) -> int:
        """Copies the newest slice that can be had `into` a vector [size]; its version."""
        import ray

        actor, found = self._find(), None
        if actor is not None:
            try:
                asked = actor.read.options(concurrency_group=READS).remote(self._dock.name, self._have.version)
                found = ray.get(asked, timeout=READ_SECONDS)
                if found is not None:
                    self._have = found
                self._answered = self._have.version
            except ray.exceptions.GetTimeoutError:
                pass
            except ray.exceptions.RayError:
                self._lost = True
        if self._find() is None:
            self._have = max(self._have, self._dock.kept, key=lambda known: known.version)
        np.copyto(into.numpy(), self._have.arrays["slice"])
        return self._have.version

    def can_push(self) -> bool:
        """Whether the shard is there and has applied the last gradient of this user."""
        import ray

        if self._under_way is not None:
            if not ray.wait([self._under_way], timeout=0)[0]:
                return False
            done, self._under_way = self._under_way, None
            try:
                self._answered = ray.get(done)
            except ray.exceptions.RayError:
                self._lost = True
        return self._find() is not None

    def push(self, gradient: torch.Tensor, based_on: int) -> None:
        """Sends a gradient [size]. What becomes of it, only the shard knows."""
        call = self._find().push.options(concurrency_group=PUSHES)
        self._under_way = call.remote(self._dock.name, self._user, gradient.numpy(), based_on)
        self._under_way.future().add_done_callback(lambda done: self._board.wake())


class ServedDock:
    """The side of the shard's own process. Ray's threads call `receive` and `newer`, the loop's thread the others."""

    def __init__(self, name: str, snapshot: Snapshot | None) -> None:
        self.name, self._snapshot = name, snapshot

    def open(self, board: Any, send: Send) -> ServedDock:
        """Itself, with the way home; before anything else."""
        self._board, self._send = board, send
        self._changed = threading.Condition()
        self._letters: dict[int, tuple[torch.Tensor, int]] = {}
        self._read: set[int] = set()
        self._published: Snapshot | None = None
        return self

    def restored(self, into: Mapping[str, torch.Tensor]) -> int | None:
        """Copies what the shard's predecessor kept last `into` tensors; its version. None if there was none."""
        if self._snapshot is None:
            return None
        for name, array in self._snapshot.arrays.items():
            into[name].copy_(torch.from_numpy(np.array(array)))
        return self._snapshot.version

    def publish(self, version: int, slice_: torch.Tensor) -> None:
        """What users get from now on. Those whose gradients were read hear of it."""
        published = Snapshot(self.name, version, _arrays({"slice": slice_}))
        first = self._published is None
        with self._changed:
            self._published = published
            for user in self._read:
                del self._letters[user]
            self._read.clear()
            self._changed.notify_all()
        self._board[version_of(self.name)] = version
        if first:
            self._send(Serving(self.name))

    def keep(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Sends home what a successor begins with."""
        self._send(Snapshot(self.name, version, _arrays(tensors)))

    def letters(self) -> list[tuple[int, torch.Tensor, int]]:
        """(user, gradient, version it is based on) of all that have arrived."""
        with self._changed:
            return [(user, *letter) for user, letter in self._letters.items()]

    def free(self, user: int) -> None:
        """The gradient of `user` has been read; it hears of it when the outcome is published."""
        self._read.add(user)

    def receive(self, user: int, gradient: np.ndarray, based_on: int) -> int:
        """Takes a gradient and waits until it is applied or dropped; the version published then."""
        with self._changed:
            letter = self._letters[user] = torch.from_numpy(np.array(gradient)), based_on
            self._board.wake()
            self._changed.wait_for(lambda: self._letters.get(user) is not letter)
            assert self._published is not None
            return self._published.version

    def newer(self, held: int) -> Snapshot | None:
        """The slice published last, unless it is version `held`."""
        assert self._published is not None
        return self._published if self._published.version != held else None


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Copies, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in tensors.items()}
