"""The Ray transport: workers are actors of a Ray cluster, which places them, notices what dies, and moves what they send.

The home process is an actor too (`cluster_life`), or whoever made the transport. Everything else is as with processes: the same program,
the same loop, the same switchboard and supervision. What differs is here and in `cluster_ports` (how rows and weights travel),
`cluster_shards` (how gradients and slices do), `cluster_batches` (and batches for other learners), `cluster_home` and `cluster_worker` (the two ends). Ray is imported when it is asked for,
and never before.

    worker actors                              home process
    actor 0   private ring of rows
              commit + its rows (object) ----> switchboard -> its columns of the replay -> replay.commit
              <---------- credit (call)        switchboard <- replay.can_insert
              <-- weights (object, once per version) <------- parameters <- learner
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from veldt.core import Arena, OwnedShard, PrivateArena, Room, Shard, Writable
from veldt.data import Weights
from veldt.errors import ConfigError
from veldt.program import Bundle
from veldt.runtime.cluster_batches import CalledBell, HandedBatches
from veldt.runtime.cluster_ports import WeightsLink, room_at_home, rows_link
from veldt.runtime.cluster_shards import CalledDock
from veldt.runtime.cluster_start import Cluster, ClusterOptions, address_here, connect
from veldt.runtime.placement import Placement, class_of, is_team, samples
from veldt.runtime.shared import Layout
from veldt.runtime.team import Team
from veldt.runtime.transport import Body, Counters, Exchange, Link, Newest

GRACE_SECONDS = 60.0
"""That a machine is lost may take home half a minute to hear. So long a learner whose circle broke waits to be ended, see `team`."""


class Actors:
    """Actors of a Ray cluster: a `Transport`."""

    def __init__(self, options: ClusterOptions) -> None:
        self.arena: Callable[[], Arena] = PrivateArena
        self._options = options
        self._cluster: Cluster | None = None
        self._parts: dict[str, Any] = {}
        self._notices: dict[str, Any] = {}
        self._board: Any = None
        self._rooms: dict[tuple[str, int], Room] = {}
        self._docks: dict[str, CalledDock] = {}

    def prepare(self, placement: Placement) -> None:
        """Connects to the cluster, or starts one here, as `join` does."""
        self.join(placement)

    def join(self, placement: Placement) -> Cluster:
        """The cluster, or one that is started here, with room for the program.

        Raises:
            ConfigError: Ray is missing, there is no cluster at that address, or it has other versions.
            ResourceError: the workers do not fit the cluster.
        """
        _refuse_what_needs_shared_memory(placement)
        gpus = self._options.mate.get("GPU", 0.0)
        if placement.teams() and 0 < gpus < 1:
            raise ConfigError(
                f"several learners need a GPU each to average on, got learner_gpus {gpus:g}; use 1, or --learners 1"
            )
        workers = [bundle.name for bundle, _ in placement.workers if not is_team(bundle)]
        self._cluster = connect(self._options, workers, len(placement.workers) - len(workers))
        return self._cluster

    def board(self, counters: list[str], heartbeats: list[str]) -> Counters:
        """Counters, which travel with every order."""
        from veldt.runtime.cluster_home import HomeBoard

        self._board = HomeBoard(counters, heartbeats, self._notices)
        return self._board  # type: ignore[no-any-return]

    def publish(self, node: str, weights: Weights) -> Newest:
        """An object of the cluster for each version."""
        from veldt.runtime.cluster_home import ReferencedWeights

        newest = ReferencedWeights(node, Layout(weights.tensors), self._notices)
        newest.publish(weights)
        return newest

    def link(self, node: str, part: Any, replica: int, newest: Any) -> Link:
        """Rows that travel, or weights."""
        self._parts[node] = part
        if isinstance(part, Writable):
            return rows_link(node, part, replica)
        if newest is not None:
            return WeightsLink(node, newest.layout)
        raise ConfigError(f"node {node!r} cannot be reached from another machine; use --runtime inline or processes")

    def dock(self, name: str, shard: OwnedShard, join: Callable[[Sequence[Shard]], Any], users: int) -> CalledDock:
        """Calls to the shard's actor."""
        self._docks[name] = CalledDock(name, shard, join)
        return self._docks[name]

    def team(self, size: int, device: str) -> Team:
        """One between machines, each of whose members has the GPUs that Ray gave it, under the same names."""
        assert self._cluster is not None
        neighbours = self._cluster.share(size)
        return Team([device] * size, neighbours=neighbours, here=address_here, bell=CalledBell, grace_seconds=GRACE_SECONDS)

    def batches(self, node: str, memory: Any) -> HandedBatches:
        """Calls to the learner's actor."""
        return HandedBatches(node, memory)

    def body(self, bundle: Bundle) -> Body:
        """An actor. A learner beside that at home takes what that one does."""
        from veldt.runtime.cluster_home import ActorBody

        assert self._cluster is not None
        takes = self._options.mate if is_team(bundle) else self._options.each
        return ActorBody(self._cluster, takes, self._board, self._room, self._docks)

    def exchange(self, bells: Sequence[CalledBell]) -> Exchange:
        """What comes back from all actors."""
        from veldt.runtime.cluster_home import ActorEvents

        assert self._cluster is not None
        return ActorEvents(self._cluster, bells)

    def _room(self, node: str, actor: int) -> Room:
        """Where rows of `actor` belong in memory `node`."""
        if (node, actor) not in self._rooms:
            self._rooms[node, actor] = room_at_home(self._parts[node], actor)
        return self._rooms[node, actor]


def _refuse_what_needs_shared_memory(placement: Placement) -> None:
    """Raises `ConfigError` for a program with weights that learners change in place."""
    shared = [node.name for bundle, _ in placement.home for node in bundle.nodes if hasattr(class_of(node), "of")]
    apart = sorted({bundle.name for bundle, _ in placement.workers if samples(bundle)})
    if shared:
        raise ConfigError(
            f"{', '.join(shared)} of this system are memory that {', '.join(apart)} change in place: machines cannot share it; "
            f"use --runtime processes or inline, or put a parameter server in its place with --shards"
        )
