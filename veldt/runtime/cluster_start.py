"""Getting a Ray cluster: the one at RAY_ADDRESS, or one on this machine for as long as the run lasts. What cannot work is refused here."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import signal
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from veldt.errors import ConfigError, ResourceError, UserError

ORDERS, WORDS = "orders", "words"
"""The threads of an actor, by name, that take orders and hand out what there is to say."""

CONNECT_SECONDS = 30.0
"""How long the head of a cluster may take to answer at all."""

PROBE_SECONDS = 30.0
"""How long machines may take to say what versions they have."""

LOCAL_STORE_BYTES = 500_000_000
"""Room for objects of a Ray that was started here; what is on its way is bounded by credit."""

SHARD_THREADS = 4
"""So many gradients, and so many who read, a shard takes at once; the others wait in Ray's queue, one of each user."""

HEAD_FAILURES = 3
"""So many looks at the head in a row must fail before it is given up."""


@dataclass(frozen=True)
class ClusterOptions:
    """What workers and learner take of the cluster, and how many must fit before a run begins.

    cpus: of each worker. resources: custom ones of each worker, by name.
    home: what the home process takes, by name, and so does each learner beside that at home; None: home is not on the cluster, and the
        other learners take what workers do.
    least: so many workers of each bundle, at most all there are, must fit; None: all. The others join as the cluster grows. Of learners
        all must fit.
    """

    cpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    least: int | None = None
    home: Mapping[str, float] | None = None

    @property
    def mate(self) -> Mapping[str, float]:
        """What a learner beside that at home takes."""
        return self.each if self.home is None else self.home

    @property
    def each(self) -> dict[str, float]:
        """What one worker takes."""
        return {"CPU": self.cpus, **self.resources}


class Versions(NamedTuple):
    """What must be the same everywhere."""

    veldt: str
    python: str
    torch: str

    @classmethod
    def here(cls) -> Versions:
        """Those of this process."""
        return cls(version("veldt"), platform.python_version(), version("torch"))

    def __str__(self) -> str:
        return f"veldt {self.veldt} / Python {self.python} / torch {self.torch}"


class Cluster:
    """A Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, options: ClusterOptions, *, owned: bool, here: bool) -> None:
        """Args:
        ray: the module.
        options: what workers take.
        owned: whether this object connected to it, and is to let it go.
        here: whether it was started here, for this run.
        """
        from veldt.runtime.batches import ROOMS
        from veldt.runtime.cluster_batches import HANDED
        from veldt.runtime.cluster_shards import PUSHES, READS
        from veldt.runtime.cluster_worker import Replica

        self._ray, self._options, self._owned = ray, options, owned
        self._address = str(ray.get_runtime_context().gcs_address)
        self._here, self._failures = here, 0
        self._lost: set[str] = set()
        threads = {ORDERS: 1, WORDS: 1, PUSHES: SHARD_THREADS, READS: SHARD_THREADS, HANDED: ROOMS}
        self._replica = ray.remote(max_restarts=0, concurrency_groups=threads)(Replica)

    def place(self, launch: Any, versions: Any, takes: Mapping[str, float]) -> Any:
        """A new actor, which begins its life as soon as the cluster has room for what it takes; spread over the machines."""
        return self._replica.options(**_asked(takes), scheduling_strategy="SPREAD").remote(launch, versions)

    def share(self, learners: int) -> int:
        """How many of so many learners live on one machine, if they are spread over all that have room for one."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return math.ceil(learners / max(1, sum(_fit(node, self._options.mate, 1) for node in nodes)))

    def place_home(self, live: Any) -> Any:
        """A new actor for the home process: on the machine of this process if it fits there, else on any where it does."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from veldt.runtime.cluster_life import Life

        near = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=True)
        actor = self._ray.remote(max_restarts=0, concurrency_groups={ORDERS: 1, WORDS: 1})(Life)
        return actor.options(**_asked(self._options.mate), scheduling_strategy=near).remote(live)

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


def _asked(takes: Mapping[str, float]) -> dict[str, Any]:
    """What an actor takes, as Ray is asked for it."""
    custom = {name: amount for name, amount in takes.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": takes.get("CPU", 0.0), "num_gpus": takes.get("GPU", 0.0), "resources": custom or None}


def address_here() -> str:
    """At which address other machines of the cluster reach this one."""
    import ray

    return str(ray.util.get_node_ip_address())


def connect(options: ClusterOptions, workers: Sequence[str], learners: int) -> Cluster:
    """The cluster at RAY_ADDRESS, the one that this process is connected to, or a new one on this machine.

    Args:
    options: what each worker takes.
    workers: the bundle of each worker that is not a learner beside that at home.
    learners: how many those are.

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
        _start_here(ray, options, len(workers), learners)
    elif owned and address is not None:
        _connect_to(ray, address)
    try:
        if ray.get_runtime_context().get_actor_id() is None:  # else whoever started this actor has looked
            nodes = [node for node in ray.nodes() if node["Alive"]]
            _require_versions(ray, nodes)
            _require_room({node["NodeID"]: node["Resources"] for node in nodes}, options, workers, learners)
        return Cluster(ray, options, owned=owned, here=owned and address is None)
    except UserError:
        if owned:
            ray.shutdown()
        raise


def _quiet() -> dict[str, Any]:
    """Ray's own lines would tear the display; what workers print is in its log folder."""
    return {"log_to_driver": False, "configure_logging": False, "logging_level": logging.ERROR}


def _start_here(ray: Any, options: ClusterOptions, workers: int, learners: int) -> None:
    """As with processes, more workers than cores are slow and not wrong."""
    learners += options.home is not None
    cpus = max(os.cpu_count() or 1, math.ceil(workers * options.cpus + learners * options.mate.get("CPU", 0.0)))
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


def _require_versions(ray: Any, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raises `ConfigError` if another machine of the cluster has other versions than this process, or none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def there() -> tuple[str, ...]:  # sent as it is: a machine without Veldt can answer too
        import platform
        from importlib.metadata import PackageNotFoundError, version

        found = [platform.python_version()]
        for package in ("veldt", "torch"):
            try:
                found.append(version(package))
            except PackageNotFoundError:
                found.append("none")
        return found[1], found[0], found[2]

    here, me = Versions.here(), ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != me]
    probe = ray.remote(num_cpus=0, max_retries=0)(there)
    asked = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in others
    ]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=PROBE_SECONDS)
    for node, answer in zip(others, asked, strict=True):
        try:
            found = Versions(*ray.get(answer, timeout=0))
        except ray.exceptions.RayError:  # slow, or on its way out: whoever is placed there is asked again
            continue
        if found != here:
            raise ConfigError(
                f"node {node['NodeManagerAddress']} runs {found}; this one runs {here}: install the same on all nodes"
            )


def _fit(node: Mapping[str, float], each: Mapping[str, float], most: int) -> int:
    """How many of what takes `each` fit on `node`, at most `most`."""
    return min((int(node.get(name, 0.0) / amount + 1e-9) for name, amount in each.items() if amount > 0), default=most)


def _require_room(
    nodes: Mapping[str, Mapping[str, float]], options: ClusterOptions, workers: Sequence[str], learners: int
) -> None:
    """Raises `ResourceError`, with the numbers, if learners and workers do not fit on `nodes`, or fewer than a run may begin with."""
    each, mate = ({name: amount for name, amount in takes.items() if amount > 0} for takes in (options.each, options.mate))
    counts, most = Counter(workers), len(workers)
    needed = sum(count if options.least is None else min(count, options.least) for count in counts.values())
    learners += options.home is not None
    fit = {0: 0}  # of workers, by how many learners are placed, on the nodes so far
    for node in nodes.values():
        here = {}
        for more in range(min(_fit(node, mate, learners), learners) + 1):
            left = {kind: node.get(kind, 0.0) - more * mate.get(kind, 0.0) for kind in node}
            here[more] = min(_fit(left, each, most), most)
        fit = {
            placed: max(fit[placed - more] + count for more, count in here.items() if placed - more in fit)
            for placed in range(min(learners, max(fit) + max(here)) + 1)
        }
    if max(fit) < learners:
        raise ResourceError(_no_room_for_learners(nodes, mate, learners, max(fit)))
    if fit[learners] >= needed:
        return
    there = ", ".join(f"{sum(node.get(name, 0.0) for node in nodes.values()):g} {name}" for name in each)
    kinds = ", ".join(f"{count} {bundle}" for bundle, count in counts.items())
    beside = f" beside the learner, which takes {_amounts(mate)}" if learners == 1 and mate else ""
    beside = f" beside {learners} learners, each of which takes {_amounts(mate)}" if learners > 1 and mate else beside
    raise ResourceError(
        f"the cluster has room for {fit[learners]} of {needed} workers ({kinds}), each of which takes {_amounts(each)}{beside}; "
        f"it has {there} on {len(nodes)} nodes: use fewer actors, a smaller --actor-cpus, more nodes, "
        f"or --min-actors to begin with those that fit"
    )


def _no_room_for_learners(nodes: Mapping[str, Mapping[str, float]], mate: Mapping[str, float], learners: int, fit: int) -> str:
    there = "; ".join(sorted(", ".join(f"{node.get(name, 0.0):g} {name}" for name in mate) for node in nodes.values()))
    which = (
        f"the learner takes {_amounts(mate)}, and none of the {len(nodes)} nodes has that ({there}): use"
        if learners == 1
        else f"{learners} learners take {_amounts(mate)} each, and the {len(nodes)} nodes have room for {fit} ({there}): use fewer, or"
    )
    return f"{which} a smaller --learner-cpus or --learner-gpus, or add a node"


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


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
