"""What stands between the home process and its workers, as protocols: what they live in, how they are heard, how rows and weights travel.

There are two transports: `process` with `shared` memory, for processes of this machine, and `cluster`, for actors of a Ray cluster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from veldt.core import Arena, OwnedShard, Shard, State
from veldt.data import Batch, Weights
from veldt.program import Bundle

if TYPE_CHECKING:
    from veldt.runtime.placement import Placement
    from veldt.runtime.supervision import Supervised
    from veldt.runtime.team import Team
    from veldt.runtime.worker import Launch, Report


Send = Callable[[Any], None]
"""Sends a message to the other end."""


class Rung(Protocol):
    """A bell: wakes one process, wherever it is rung."""

    def ring(self) -> None:
        """Never waits."""

    def silence(self) -> None:
        """Until the next ring. By who is rung."""

    def close(self) -> None:
        """Lets go of what it holds."""


class Line(Protocol):
    """One end of the messages between home and a worker."""

    closed: bool

    def send(self, message: Any) -> None:
        """Sends, without waiting."""

    def flush(self) -> object:
        """Sends what was kept back, if anything was."""

    def receive(self) -> Iterator[Any]:
        """The messages that have arrived."""

    def wait(self, seconds: float, *others: Any) -> bool:
        """Waits until something has arrived here or at one of `others`, or the other end is gone; False if the time ran out before."""


class Body(Protocol):
    """What a worker lives in: a process beside this one, or an actor of a cluster. One after the other, each a life."""

    lines: deque[str]
    """The last lines that it wrote."""

    life: int | None
    """What tells this life from those before; None between two. Of a process, its pid."""

    starting: str
    """What it does, in words, while it has not built its parts."""

    lost_node: str | None
    """The address of the machine that its last life was lost with, if it was."""

    @property
    def channel(self) -> Line | None:
        """The way to it, while it lives."""

    def start(self, launch: Launch) -> None:
        """Begins a life. Raises `OSError` if the system refuses; nothing is left of the attempt."""

    def dump_stack(self) -> str:
        """The Python stack of what it does, innermost call first; empty if it does not answer."""

    def kill(self) -> None:
        """Ends the life at once, if there is one."""

    def bury(self) -> int:
        """Lets go of what has ended, or ends it; its exit code, negative if it was ended from outside."""

    def how(self, code: int, report: Report | None) -> str:
        """How it ended with exit `code`, in words behind its name; `report`: its last."""


class Exchange(Protocol):
    """What the home process waits on: all workers at once."""

    def add(self, worker: Supervised) -> None:
        """Listens to `worker`, which has just been started."""

    def hang_up(self, worker: Supervised) -> None:
        """Expects no more messages of `worker`; its end is an event of its own."""

    def remove(self, worker: Supervised) -> None:
        """Listens to `worker` no more."""

    def wait(self, seconds: float) -> tuple[bool, list[Supervised], list[Supervised]]:
        """Waits up to `seconds`: whether anything was there, who sent messages, and who has ended."""

    def kill(self) -> None:
        """This process ends at once: what it started beside the workers must not outlive it."""

    def close(self) -> None:
        """Lets go of what it waits with."""


class Newest(Protocol):
    """Where the newest weights are put for those who follow them."""

    @property
    def version(self) -> int:
        """The version published last; -1 before the first."""

    def publish(self, weights: Weights) -> None:
        """Makes `weights` the version that readers get."""


class Counters(Protocol):
    """Named counters that the home process writes and workers read, and heartbeats the other way."""

    def __getitem__(self, name: str) -> int: ...

    def __setitem__(self, name: str, value: int) -> None: ...


class Link(Protocol):
    """A link that leaves a bundle, as a worker is sent it."""

    def open(self, board: Counters, send: Send) -> Any:
        """The port: what has the protocol of the part behind the link."""


class Served(Protocol):
    """The side of a shard's own process of what stands between it and its users."""

    def restored(self, into: Mapping[str, torch.Tensor]) -> int | None:
        """Copies what the shard's predecessor kept last `into` tensors; its version. None if there was none."""

    def publish(self, version: int, slice_: torch.Tensor) -> None:
        """What users get from now on."""

    def keep(self, version: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps what a successor of the shard begins with."""

    def letters(self) -> list[tuple[int, torch.Tensor, int]]:
        """(user, gradient, version it is based on) of all gradients that have arrived."""

    def free(self, user: int) -> None:
        """The gradient of `user` has been read."""


class Dock(Protocol):
    """What stands between a shard in a worker and those who use it, as home has it, and sends it to both."""

    join: Callable[[Sequence[Shard]], Any]

    def wakes(self, user: int | None) -> Sequence[Rung]:
        """What rings for user number `user`, or with None for the shard."""

    def port(self, user: int, board: Counters) -> Shard:
        """The shard, as user number `user` sees it."""

    def served(self) -> Any:
        """What the shard's process gets: its `open(board, send)` gives a `Served`."""

    def restore(self, state: State) -> None:
        """What the shard of a resumed run begins with, for those who read it before its process is there."""

    def close(self) -> None:
        """Lets go of what it holds."""


class Batches(Protocol):
    """What stands between a memory at home and one learner elsewhere: home fills it, the learner takes, and gives back what it took."""

    filled: Rung
    """Wakes the learner."""

    freed: Rung
    """Wakes home."""

    def has_room(self) -> bool:
        """Whether another batch can be put in. At home."""

    def put(self, batch: Batch[Any]) -> None:
        """Copies `batch` to where the learner finds it. At home, where there is room."""

    def has_batch(self) -> bool:
        """Whether there is a batch to take."""

    def take(self) -> Batch[Any]:
        """The oldest batch, until the next call, which gives it back. For the learner."""

    def give_back(self) -> None:
        """The batch that was taken last, by this process or one before it, is done with."""

    def close(self) -> None:
        """Lets go of what it holds."""


class Transport(Protocol):
    """A way to have workers."""

    arena: Callable[[], Arena]
    """Makes what a part of the home process has its memory from."""

    def prepare(self, placement: Placement) -> None:
        """Refuses, before anything is built, what it cannot carry."""

    def board(self, counters: list[str], heartbeats: list[str]) -> Counters:
        """Counters of the home process, and those that the workers set."""

    def publish(self, node: str, weights: Weights) -> Newest:
        """Makes `weights` those that followers of parameters `node` begin with."""

    def link(self, node: str, part: Any, replica: int, newest: Newest | None) -> Link:
        """The way to `part` of the home process for replica number `replica` of a bundle; with `newest`, to parameters."""

    def dock(self, name: str, shard: OwnedShard, join: Callable[[Sequence[Shard]], Any], users: int) -> Dock:
        """What stands around the shard called `name`, which is like `shard`, for `users` who may push."""

    def team(self, size: int, device: str) -> Team:
        """A team of `size`, of which the first computes on `device` at home."""

    def batches(self, node: str, memory: Any) -> Batches:
        """What stands between memory `node` at home and one learner in a worker."""

    def body(self, bundle: Bundle) -> Body:
        """What one worker, a replica of `bundle`, is to live in."""

    def exchange(self, bells: Sequence[Any]) -> Exchange:
        """What the home process waits on, and beside the workers `bells`, which came from this transport."""
