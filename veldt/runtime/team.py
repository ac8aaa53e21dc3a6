"""A team: the replicas of a bundle that average vectors over processes, by all-reduces of torch.distributed (gloo; NCCL on GPUs).

Member 0 is in the home process, the others in workers, on this machine or others. Parts never wait, so each member has a thread that
does. A *circle* is the team from the time when all members are there until one is lost. Then its connections are of no use: the home process, which hears
of every death, ends all other workers of the team too, whatever they wait for, and a new circle is formed with their successors. These begin with the
state of member 0 at home, which lost nothing: what it had given and not taken back goes into the new circle's first round.

A store, where the members of one circle find each other, listens in the home process as long as the circle lasts. Where it listens, and
each member for the others, the transport says: on the loopback if all are processes of one machine, else at the address of each machine.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from veldt.errors import ConfigError
from veldt.runtime.shared import Bell
from veldt.runtime.transport import Rung

JOIN_SECONDS = 60.0
"""For members that are all there to connect."""

ROUND_TIME = timedelta(days=7)
"""For a round: learners may wait for actors as long as they like. A death ends it at once, and the supervisor notices who is stuck."""

GRACE_SECONDS = 10.0
"""A worker whose circle broke waits so long to be ended by the home process, which knows why; then it gives up itself."""

END_SECONDS = 5.0
LOOK_SECONDS = 0.02


class Circle:
    """One member's side of one circle, from before all are there: a thread, which does all waiting."""

    def __init__(
        self, store: Callable[[], Any], rank: int, size: int, device: str, host: str, ring: Callable[[], None]
    ) -> None:
        """Args:
        store: makes the member's way to the store; called in the thread.
        rank, size: which member of how many this is.
        device: where vectors are.
        host: the address at which the other members reach this one.
        ring: wakes whoever may want to `take`.
        """
        self._store, self._rank, self._size, self._device = store, rank, size, torch.device(device)
        self._host, self._ring = host, ring
        self.mean: torch.Tensor | None = None
        """That of the last round, until it is taken."""
        self.broken: str | None = None
        """Why there are no more rounds."""
        self.broken_at = 0.0
        self._given: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        self._left = threading.Event()
        self._group: Any = None
        self._thread = threading.Thread(target=self._run, name="average", daemon=True)
        self._thread.start()

    def give(self, vector: torch.Tensor) -> None:
        """Takes part in the next round; `vector` stays as it is."""
        self._given.put(vector)

    def leave(self) -> None:
        """No more rounds. What the thread waits for ends with the connections to the others."""
        self._left.set()
        self._given.put(None)
        group = self._group
        if group is not None and self._device.type == "cuda":  # NCCL does not notice lost connections by itself
            group.abort()

    def end(self) -> None:
        """Waits for the thread of a circle that was left: it ends with the other members. The library must not be in it when this process exits."""
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        try:
            self._group = self._join()
            while self._group is not None and (vector := self._given.get()) is not None:
                self.mean = self._average(vector)
                self._ring()
        except Exception as error:
            self.broken, self.broken_at = f"{type(error).__name__}: {error}", time.monotonic()
        self._group = None  # closes the connections: the others notice, and so do those who wait for them

    def _join(self) -> Any:
        """The process group, once all members are there; None if this one has left before."""
        store = self._store()
        store.set(str(self._rank), "here")
        while not store.check([str(rank) for rank in range(self._size)]):
            if self._left.wait(LOOK_SECONDS):
                return None
        if self._device.type == "cuda":
            return distributed.ProcessGroupNCCL(store, self._rank, self._size, distributed.ProcessGroupNCCL.Options())
        options = distributed.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [distributed.ProcessGroupGloo.create_device(hostname=self._host)]
        options._timeout, options._threads = timedelta(seconds=JOIN_SECONDS), 1
        return distributed.ProcessGroupGloo(store, self._rank, self._size, options)

    def _average(self, vector: torch.Tensor) -> torch.Tensor:
        mean = vector.clone()
        options = distributed.AllreduceOptions()
        options.timeout = ROUND_TIME  # it sums unless told otherwise
        self._group.allreduce([mean], options).wait()
        mean /= self._size
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return mean


class Member:
    """One member's `core.Average`, through all circles that it is in."""

    def __init__(self, circle: Circle | None, grace_seconds: float | None) -> None:
        """`grace_seconds`: how long a circle may be broken; None: somebody will end it, and have this member join the next."""
        self._circle, self._grace_seconds = circle, grace_seconds
        self._given: torch.Tensor | None = None

    @property
    def pending(self) -> bool:
        """See `core.Average`."""
        return self._given is not None

    def give(self, vector: torch.Tensor) -> None:
        """See `core.Average`."""
        self._given = vector
        if self._circle is not None:
            self._circle.give(vector)

    def take(self) -> torch.Tensor | None:
        """See `core.Average`.

        Raises:
            RuntimeError: the circle is broken, and nobody came to end this process.
        """
        circle = self._circle
        if circle is None:
            return None
        grace = self._grace_seconds
        if circle.broken and grace is not None and time.monotonic() - circle.broken_at > grace:
            raise RuntimeError(f"the average with the other replicas broke down ({circle.broken})")
        mean, circle.mean = circle.mean, None
        if mean is not None:
            self._given = None
        return mean

    def join(self, circle: Circle) -> None:
        """Joins a circle, with what was given and not taken."""
        self._circle = circle
        if self._given is not None:
            circle.give(self._given)

    def leave(self) -> Circle | None:
        """Leaves the circle; which it was. A mean that was not taken is forgotten: who follows the lost members begins where this one is."""
        circle, self._circle = self._circle, None
        if circle is not None:
            circle.leave()
        return circle


@dataclass(frozen=True)
class Invitation:
    """Into a circle whose store listens at `host` and `port`, for a worker that is being started: makes its `core.Average`.

    here: says, where it is called, at which address the others reach that machine. grace_seconds: see `Member`.
    """

    host: str
    port: int
    rank: int
    size: int
    device: str
    bell: Rung
    here: Callable[[], str]
    grace_seconds: float

    def __call__(self) -> Member:
        """Joins, without waiting for the others."""
        circle = Circle(self._store, self.rank, self.size, self.device, self.here(), self.bell.ring)
        return Member(circle, self.grace_seconds)

    def _store(self) -> Any:
        return TCPStore(self.host, self.port, is_master=False, wait_for_workers=False, timeout=ROUND_TIME)


def loopback() -> str:
    """The address of this machine for itself."""
    return "127.0.0.1"


class Team:
    """A team, from the home process's side."""

    def __init__(
        self,
        devices: Sequence[str],
        *,
        neighbours: int | None = None,
        here: Callable[[], str] = loopback,
        bell: Callable[[], Rung] = Bell,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Args:
        devices: where each member computes.
        neighbours: so many members share the cores of one machine; by default all.
        here: says, where it is called, at which address the other members reach that machine; it can be sent to a worker.
        bell: makes what wakes one member; it can be sent to a worker.
        grace_seconds: of the members in workers, see `Member`.
        """
        self.size, self.devices, self.neighbours = len(devices), devices, neighbours or len(devices)
        self.home = Member(None, grace_seconds=None)
        """The average of member 0."""
        self.bells = [bell() for _ in devices]
        self._here, self._host, self._grace_seconds = here, here(), grace_seconds
        self._port: int | None = None

    def invite(self, rank: int) -> Invitation:
        """Into the circle under way, or the next."""
        if self._port is None:
            self._form()
        assert self._port is not None
        return Invitation(
            self._host, self._port, rank, self.size, self.devices[rank], self.bells[rank], self._here, self._grace_seconds
        )

    def _form(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        ears = socket.create_server((self._host, 0), family=family, backlog=128)
        self._port = int(ears.getsockname()[1])
        store = TCPStore(
            self._host, self._port, is_master=True, wait_for_workers=False, master_listen_fd=ears.detach(), timeout=ROUND_TIME
        )
        self.home.join(Circle(lambda: store, 0, self.size, self.devices[0], self._host, self.bells[0].ring))

    def dissolve(self) -> None:
        """Ends the circle under way; all other members are lost or will be ended. The next invitation is to another."""
        self.home.leave()
        self._port = None

    def close(self) -> None:
        """Ends the circle for good, after all other members, and gives descriptors back."""
        circle = self.home.leave()
        if circle is not None:
            circle.end()
        for bell in self.bells:
            bell.close()


def devices_of(device: str, size: int) -> list[str]:
    """Where the members compute: all on the CPU, or each on a GPU of its own, from `device` on.

    Raises:
        ConfigError: there are not so many GPUs.
    """
    first = torch.device(device)
    if first.type != "cuda":
        return [device] * size
    begin, found = first.index or 0, torch.cuda.device_count()
    if begin + size > found:
        raise ConfigError(
            f"{size} learners need {size} GPUs from {first.type}:{begin} on, found {found}; use fewer learners, or --device cpu"
        )
    return [f"cuda:{begin + number}" for number in range(size)]
