"""Getting a Ray cluster: the one at RAY_ADDRESS, or one on this machine for as long as the run lasts. What cannot work is refused here."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veldt.errors import ConfigError, ResourceError, UserError

CONNECT_SECONDS = 30.0
"""How long the head of a cluster may take to answer at all."""

LOCAL_STORE_BYTES = 500_000_000
"""Room for objects of a Ray that was started here; what is on its way is bounded by credit."""

SHARD_THREADS = 4
"""So many gradients, and so many who read, a shard takes at once; the others wait in Ray's queue, one of each user."""

HEAD_FAILURES = 3
"""So many looks at the head in a row must fail before it is given up."""


@dataclass(frozen=True)
class ClusterOptions:
    """What each worker takes of the cluster, and how many must fit before a run begins.

    cpus: of each worker. resources: custom ones of each worker, by name.
    least: so many workers of each bundle, at most all there are, must fit; None: all. The others join as the cluster grows.
    """

    cpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    least: int | None = None

    @property
    def each(self) -> dict[str, float]:
        """What one worker takes."""
        return {"CPU": self.cpus, **self.resources}


class Cluster:
    """A Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, options: ClusterOptions, *, owned: bool, here: bool) -> None:
        """Args:
        ray: the module.
        options: what workers take.
        owned: whether this object connected to it, and is to let it go.
        here: whether it was started here, for this run.
        """
        from veldt.runtime.cluster_shards import PUSHES, READS
        from veldt.runtime.cluster_worker import ORDERS, WORDS, Replica

        self._ray, self._options, self._owned = ray, options, owned
        self._address = str(ray.get_runtime_context().gcs_address)
        self._here, self._failures = here, 0
        self._lost: set[str] = set()
        threads = {ORDERS: 1, WORDS: 1, PUSHES: SHARD_THREADS, READS: SHARD_THREADS}
        self._replica = ray.remote(max_restarts=0, concurrency_groups=threads)(Replica)

    def place(self, launch: Any, versions: Any) -> Any:
        """A new actor, which begins its life as soon as the cluster has room for it; spread over the machines."""
        resources = dict(self._options.resources)
        placed = self._replica.options(num_cpus=self._options.cpus, resources=resources or None, scheduling_strategy="SPREAD")
        return placed.remote(launch, versions)

    def head_gone(self) -> str | None:
        """What to say if the head has not answered several times in a row."""
        self._failures = 0 if _refusal(self._address, 1.0) is None else self._failures + 1
        if self._failures < HEAD_FAILURES:
            return None
        return f"the Ray head at {self._address} is gone, and the cluster with it"

    def kill_process(self, node: str, process: int) -> None:
        """Has a process on the machine with that id killed. Ray does the same to an actor that does not answer, after most of a minute."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        self._ray.remote(num_cpus=0, max_retries=0)(_kill).options(scheduling_strategy=there).remote(process)

    def lost(self, node: str) -> bool:
        """Whether the machine with that id has left the cluster. Asked of the machine itself: the head hears of it only after a while."""
        if node not in self._lost:
            alive = (entry for entry in self._ray.nodes() if entry["NodeID"] == node and entry["Alive"])
            if any(_refusal(f"{entry['NodeManagerAddress']}:{entry['NodeManagerPort']}", 1.0) is None for entry in alive):
                return False
            self._lost.add(node)
        return True

    def kill(self) -> None:
        """Kills a cluster that was started here. Ray would end it too, but for some of its processes only after a minute."""
        for process in _descendants(os.getpid()) if self._here else ():
            _kill(process)

    def close(self) -> None:
        """Lets go of the cluster: nothing of this run is left on it."""
        if self._owned:
            self._ray.shutdown()


def connect(options: ClusterOptions, workers: Sequence[str]) -> Cluster:
    """The cluster at RAY_ADDRESS, the one that this process is connected to, or a new one on this machine.

    Args:
    options: what each worker takes.
    workers: the bundle of each worker.

    Raises:
        ConfigError: Ray is missing, nothing answers at the address, or what answers has other versions.
        ResourceError: not enough workers fit, now or with the nodes there are.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--runtime ray needs Ray: pip install 'veldt[ray]'") from error
    address = os.environ.get("RAY_ADDRESS") or None
    owned = not ray.is_initialized()
    if owned and address is None:
        _start_here(ray, options, len(workers))
    elif owned and address is not None:
        _connect_to(ray, address)
    try:
        _require_room([node["Resources"] for node in ray.nodes() if node["Alive"]], options, workers)
        return Cluster(ray, options, owned=owned, here=owned and address is None)
    except UserError:
        if owned:
            ray.shutdown()
        raise


def _quiet() -> dict[str, Any]:
    """Ray's own lines would tear the display; what workers print is in its log folder."""
    return {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}


def _start_here(ray: Any, options: ClusterOptions, workers: int) -> None:
    """As with processes, more workers than cores are slow and not wrong."""
    cpus = max(os.cpu_count() or 1, math.ceil(workers * options.cpus))
    resources = {name: workers * amount for name, amount in options.resources.items()}
    ray.init(address="local", num_cpus=cpus, resources=resources or None, include_dashboard=False,
             object_store_memory=LOCAL_STORE_BYTES, **_quiet())  # fmt: skip


def _connect_to(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise ConfigError(
            f"RAY_ADDRESS is {address}, a Ray Client: start the run on a machine of the cluster instead, "
            f"for example with: ray job submit -- veldt train ..."
        )
    if address not in ("auto", "local"):
        refusal = _refusal(address, CONNECT_SECONDS)
        if refusal is not None:
            raise ConfigError(f"no Ray head at {address} ({refusal}); RAY_ADDRESS must be HOST:PORT of one that runs, or unset")
    try:
        ray.init(address=address, **_quiet())
    except (ConnectionError, RuntimeError, ValueError) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        cause = str(error.__cause__ or error)
        if "ersion mismatch" in cause:
            raise ConfigError(f"{cause.strip()}: install the versions of the cluster at {address} here") from error
        raise ConfigError(f"no Ray head at {address}: {cause.strip()}") from error


def _refusal(address: str, seconds: float) -> str | None:
    """Why nothing can be reached at `address` (host:port); None if something answers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return "not of the form HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except (OSError, OverflowError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    return None


def _require_room(nodes: Sequence[Mapping[str, float]], options: ClusterOptions, workers: Sequence[str]) -> None:
    """Raises `ResourceError`, with the numbers, if fewer workers fit on `nodes` than a run may begin with."""
    each = {name: amount for name, amount in options.each.items() if amount > 0}
    fit = sum(
        min((int(node.get(name, 0.0) / amount + 1e-9) for name, amount in each.items()), default=len(workers)) for node in nodes
    )
    counts = Counter(workers)
    needed = sum(count if options.least is None else min(count, options.least) for count in counts.values())
    if fit >= needed:
        return
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
    there = ", ".join(f"{sum(node.get(name, 0.0) for node in nodes):g} {name}" for name in each)
    kinds = ", ".join(f"{count} {bundle}" for bundle, count in counts.items())
    raise ResourceError(
        f"the cluster has room for {fit} of {needed} workers ({kinds}), each of which takes {wanted}; "
        f"it has {there} on {len(nodes)} nodes: use fewer actors, a smaller --actor-cpus, more nodes, "
        f"or --min-actors to begin with those that fit"
    )


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    """All processes that `process` started, and those that they started; none where the system does not say."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = list(parents.get(process, ()))
    for child in found:
        found += parents.get(child, ())
    return found
