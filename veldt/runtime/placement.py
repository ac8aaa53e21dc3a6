"""Placement: which bundles of a program live in the home process, which in workers, and how links between them are carried.

A bundle that others are linked to is at home if there is one of it, and with it whoever samples its memory. Of replicas whose
weights are alike only the first is at home: it stands for all, and the others, a *team* with it, are handed batches. Shards have
processes of their own, and so have all other replicas. What no link can carry is refused here, before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from veldt.errors import ConfigError
from veldt.program import Bundle, Node, Program
from veldt.runtime.building import is_alike, labelled, replicas


def class_of(node: Node) -> Any:
    """What `node` makes."""
    return node.make.func if isinstance(node.make, partial) else node.make


def uses_of(node: Node) -> Mapping[str, str]:
    """What the node's class does through its links, where that matters: `samples` or `counts` (steps)."""
    return getattr(class_of(node), "uses", {})


def is_shard(node: Node) -> bool:
    """Whether the node's replicas are joined by whoever is linked to them."""
    return hasattr(class_of(node), "join")


@dataclass(frozen=True)
class Placement:
    """home: the (bundle, replica) of what lives in the home process. workers: those of each other process."""

    home: tuple[tuple[Bundle, int], ...]
    workers: tuple[tuple[Bundle, int], ...]

    @staticmethod
    def of(program: Program) -> Placement:
        """The placement of `program`.

        Raises:
            ConfigError: a part needs more of one in another process than a link can carry.
        """
        sharded = [bundle for bundle in program.bundles if any(map(is_shard, bundle.nodes))]
        served = [bundle for bundle in program.bundles if bundle not in sharded and _is_served(program, bundle)]
        home = [bundle for bundle in served if bundle.replicas == 1]
        if not served and not sharded:
            home = [program.bundles[0]]
        for bundle in program.bundles:
            if bundle not in home and any(program.bundle_of(target) in home for target in sampled(bundle)):
                home.append(bundle)
        near = [
            (bundle, number)
            for bundle, number in replicas(program.bundles)
            if bundle in home and (number == 0 or not is_team(bundle))
        ]
        workers = tuple(one for one in replicas(program.bundles) if one not in near)
        placed = Placement(tuple(near), workers)
        placed._check(program)
        return placed

    def _check(self, program: Program) -> None:
        home = [bundle for bundle, _ in self.home]
        for bundle in program.bundles:
            for node in bundle.nodes:
                for port, target in node.links.items():
                    there = program.bundle_of(target)
                    near = there is bundle or (bundle in home and there in home)
                    shared = there in home or any(is_shard(other) for other in there.nodes if other.name == target)
                    use = uses_of(node).get(port, "")
                    if not near and (use == "samples" or (use != "counts" and not shared)):
                        raise ConfigError(
                            f"{node.name!r} needs {target!r} in its own process, but it lives in others; use --runtime inline"
                        )

    @property
    def learns_at_home(self) -> bool:
        """Whether all that samples is in the home process."""
        return not any(samples(bundle) for bundle, _ in self.workers)

    def home_labels(self) -> list[str]:
        """The labels of the parts at home, in declared order."""
        return [name for bundle, replica in self.home for name in labelled(bundle, replica)]

    def teams(self) -> list[Bundle]:
        """The bundles of which the first replica is at home and the others are workers."""
        return [bundle for bundle, _ in self.home if is_team(bundle)]


def _is_served(program: Program, bundle: Bundle) -> bool:
    return any(
        program.bundle_of(target) is bundle and program.bundle_of(name) is not bundle for name, _, target in program.edges()
    )


def samples(bundle: Bundle) -> bool:
    """Whether a part of `bundle` learns from a memory."""
    return bool(sampled(bundle))


def is_team(bundle: Bundle) -> bool:
    """Whether the bundle has replicas that hold the same weights at all times, which change in all of them at once."""
    return bundle.replicas > 1 and any(is_alike(class_of(node)) for node in bundle.nodes)


def sampled(bundle: Bundle) -> list[str]:
    """The nodes that parts of `bundle` sample."""
    return [node.links[port] for node in bundle.nodes for port, use in uses_of(node).items() if use == "samples"]
