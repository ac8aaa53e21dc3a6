"""The life of a worker on a Ray cluster: an actor that builds one replica of a bundle and runs the scheduler loop.

Three threads: the loop's (`run`), one that takes orders (`post`), and one that hands out what the worker has to say (`fetch`, a call that
home always has under way: it comes back when there is something, or after a while with the heartbeat alone).
Ray ends the actor with the job it belongs to.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

from veldt.errors import ConfigError
from veldt.runtime.batches import BatchLink
from veldt.runtime.cluster_batches import CalledBell
from veldt.runtime.cluster_ports import Bulletin
from veldt.runtime.cluster_start import Versions
from veldt.runtime.worker import REPORT_SECONDS, Failed, Launch, live


class Told(NamedTuple):
    """What a worker answers: messages, and what it counts, its heartbeat above all."""

    messages: list[Any]
    counted: dict[str, int]


class Where(NamedTuple):
    """From a worker, the first message: where it is."""

    node: str
    address: str
    pid: int


class _Line:
    """The worker's end: a `Line` whose other side is taken and given by Ray's threads."""

    closed = False

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._incoming: list[Any] = []
        self._early: dict[int, list[Any]] = {}
        self._next = 0
        self._outgoing: list[Any] = []
        self._over = self._woken = False

    def send(self, message: Any) -> None:
        """Keeps it until home fetches it."""
        with self._changed:
            self._outgoing.append(message)
            self._changed.notify_all()

    def flush(self) -> bool:
        """There is nothing to do."""
        return True

    def receive(self) -> Iterator[Any]:
        """The orders that have arrived."""
        with self._changed:
            arrived, self._incoming = self._incoming, []
        yield from arrived

    def wait(self, seconds: float, *others: Any) -> bool:
        """Waits until an order has arrived, or somebody woke the loop."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._incoming) or self._woken, seconds)
            self._woken = False
            return bool(self._incoming)

    def wake(self) -> None:
        """The loop should look at its parts again."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def put(self, number: int, orders: list[Any]) -> None:
        """Orders from home, the `number`-th post, in the order in which they were sent."""
        with self._changed:
            self._early[number] = orders
            while self._next in self._early:
                self._incoming += self._early.pop(self._next)
                self._next += 1
            self._changed.notify_all()

    def take(self, seconds: float) -> list[Any]:
        """What there is to say; waits up to `seconds` for something, but not once the worker is done."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._outgoing) or self._over, seconds)
            said, self._outgoing = self._outgoing, []
            return said

    def end(self) -> None:
        """There will be no more to say."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class Replica:
    """One replica of a bundle, in a Ray actor."""

    def __init__(self, launch: Launch, versions: Versions) -> None:
        self._launch, self._versions, self._line = launch, versions, _Line()
        self._thread = 0
        assert isinstance(launch.board, Bulletin)
        self._board = launch.board
        self._board[launch.heartbeat] = 0
        self._board.wake = self._line.wake
        for bell in launch.bells:
            assert isinstance(bell, CalledBell)
            bell.wake = self._line.wake
        self._batches: dict[str, Any] = {link.node: link.dock for link in launch.links.values() if isinstance(link, BatchLink)}

    def run(self) -> list[Any]:
        """Builds the parts and runs their loop to its end; the last messages."""
        import ray

        context = ray.get_runtime_context()
        self._thread = threading.get_ident()
        threading.current_thread().name = self._launch.label
        address = str(ray.util.get_node_ip_address())
        self._line.send(Where(context.get_node_id(), address, os.getpid()))
        here = Versions.here()
        if here != self._versions:
            text = f"node {address} runs {here}; the run began on {self._versions}: install the same on all nodes"
            self._line.send(Failed(ConfigError.__name__, text, ""))
        else:
            live(self._launch, self._line, _never)
        self._line.end()
        return self._line.take(0.0)

    def post(self, number: int, orders: list[Any], bulletin: Bulletin) -> None:
        """Takes orders, and what home has to tell everybody."""
        self._board.take(bulletin)
        self._line.put(number, orders)

    def fetch(self) -> Told:
        """What there is to say, as soon as there is something."""
        return Told(self._line.take(REPORT_SECONDS), dict(self._board.counted))

    def push(self, shard: str, user: int, gradient: Any, based_on: int) -> int:
        """Takes a gradient for `shard`, as soon as the last of `user` is applied: see `ServedDock.receive`."""
        return int(self._launch.docks[shard].receive(user, gradient, based_on))

    def read(self, shard: str, held: int) -> Any:
        """The newest slice of `shard`, unless it is version `held`."""
        return self._launch.docks[shard].newer(held)

    def hand(self, memory: str, number: int, batch: Any) -> None:
        """Takes a batch of `memory`: see `HandedBatches.receive`."""
        self._batches[memory].receive(number, batch)

    def stack(self) -> str:
        """The Python stack of the loop's thread, innermost call first."""
        frame = sys._current_frames().get(self._thread)
        calls = [
            f'  File "{call.filename}", line {call.lineno} in {call.name}' for call in traceback.extract_stack(frame)[::-1]
        ]
        loop = next((index for index, line in enumerate(calls) if line.endswith(" in run") and "scheduler.py" in line), None)
        return "\n".join(calls[:loop])


def _never(seconds: float) -> bool:
    time.sleep(seconds)
    return False
