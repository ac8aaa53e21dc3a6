"""The transport of one machine: workers are processes, which share memory with the home process and wake each other by bells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from veldt.core import Arena, OwnedShard, Shard, Shareable, Writable
from veldt.data import Weights
from veldt.errors import ConfigError
from veldt.program import Bundle
from veldt.runtime.batches import BatchDock
from veldt.runtime.docks import Dock
from veldt.runtime.placement import Placement
from veldt.runtime.ports import MemoryLink, ParametersLink, SharedLink
from veldt.runtime.process import Descriptors, WorkerProcess
from veldt.runtime.shared import Board, Publication, SharedArena
from veldt.runtime.supervision import require_descriptors
from veldt.runtime.team import Team, devices_of
from veldt.runtime.transport import Body, Link


class Processes:
    """Processes of this machine, which share memory with the home process: a `Transport`."""

    def __init__(self) -> None:
        self.arena: Callable[[], Arena] = SharedArena

    def prepare(self, placement: Placement) -> None:
        """Raises `ResourceError` if this process may not open the descriptors that the workers take."""
        require_descriptors(len(placement.workers))

    def board(self, counters: list[str], heartbeats: list[str]) -> Board:
        """A row of counters that all see."""
        return Board([*counters, *heartbeats])

    def publish(self, node: str, weights: Weights) -> Publication:
        """Two buffers that all see."""
        publication = Publication(weights.tensors)
        publication.publish(weights)
        return publication

    def link(self, node: str, part: Any, replica: int, newest: Any) -> Link:
        """A ring of rows, a part that is shared as a whole, or the publication."""
        if isinstance(part, Writable):
            return MemoryLink(node, part.ring(replica), part.end(replica))
        if isinstance(part, Shareable):
            return SharedLink(part, replica)
        if newest is not None:
            return ParametersLink(node, newest)
        raise ConfigError(f"node {node!r} cannot be reached from another process")

    def dock(self, name: str, shard: OwnedShard, join: Callable[[Sequence[Shard]], Any], users: int) -> Dock:
        """Mailboxes and publications in memory that all see."""
        return Dock(shard, join, users)

    def team(self, size: int, device: str) -> Team:
        """One on this machine's loopback."""
        return Team(devices_of(device, size))

    def batches(self, node: str, memory: Any) -> BatchDock:
        """Rooms in memory that both see."""
        return BatchDock(memory)

    def body(self, bundle: Bundle) -> Body:
        """A process."""
        return WorkerProcess()

    def exchange(self, bells: Sequence[Any]) -> Descriptors:
        """All their descriptors."""
        return Descriptors(bells)
