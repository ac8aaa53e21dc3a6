"""Building the parts of bundles in one process: names of replicas, and what stands behind each link."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from veldt.core import Arena, Average, Place
from veldt.program import Bundle, Program


def label(name: str, replica: int, replicas: int) -> str:
    """The name of one replica of a node or bundle: `actor 3`, or just `learner` if it is the only one."""
    return name if replicas == 1 else f"{name} {replica}"


def replicas_of(program: Program, node: str) -> list[str]:
    """The labels of all replicas of the node called `node`."""
    replicas = program.bundle_of(node).replicas
    return [label(node, replica, replicas) for replica in range(replicas)]


def labelled(bundle: Bundle, replica: int) -> list[str]:
    """The labels of one replica's nodes, in declared order."""
    return [label(node.name, replica, bundle.replicas) for node in bundle.nodes]


def joined(parts: Sequence[Any]) -> Any:
    """What a link to all replicas of a node leads to: what their class joins them into, if it does; the first, if there is but one or
    they are alike; else all."""
    if hasattr(parts[0], "join"):
        return parts[0].join(parts)
    return parts[0] if len(parts) == 1 or is_alike(parts[0]) else list(parts)


def is_alike(part: Any) -> bool:
    """Whether all replicas of a part, or of a class of parts, hold the same at all times."""
    return bool(getattr(part, "alike", False))


def saved_as(program: Program, parts: Mapping[str, Any]) -> dict[str, str]:
    """Under which label the state of each of `parts` is kept: replicas that are alike have one, that of the first."""
    labels = {}
    for bundle, replica in replicas(program.bundles):
        for own, first in zip(labelled(bundle, replica), labelled(bundle, 0), strict=True):
            if own in parts:
                labels[own] = first if is_alike(parts[own]) else own
    return labels


def replicas(bundles: Sequence[Bundle]) -> list[tuple[Bundle, int]]:
    """All replicas of `bundles`, in declared order."""
    return [(bundle, number) for bundle in bundles for number in range(bundle.replicas)]


def build(
    program: Program,
    here: Sequence[tuple[Bundle, int]],
    *,
    seed: int,
    device: str,
    arena: Callable[[], Arena],
    average: Callable[[str, int], Average],
    outside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All parts of the replicas of bundles that are `here`, by label, each built after those it is linked to.

    average: makes, for a replica of the bundle called so, what it averages with its siblings.

    A link leads to the neighbour in the same replica, or to all replicas there are, as `joined` has them. Those of parts that
    are not built here are taken from `outside`, by label.
    """
    parts: dict[str, Any] = {}

    def behind(bundle: Bundle, target: str, replica: int) -> Any:
        if program.bundle_of(target) is bundle:
            return parts[label(target, replica, bundle.replicas)]
        everything = {**(outside or {}), **parts}
        return joined([everything[name] for name in replicas_of(program, target)])

    for node in program.build_order():
        bundle = program.bundle_of(node.name)
        for replica in [number for one, number in here if one is bundle]:
            links = {port: behind(bundle, target, replica) for port, target in node.links.items()}
            place = Place(replica, bundle.replicas, seed, device, arena=arena, average=partial(average, bundle.name, replica))
            parts[label(node.name, replica, bundle.replicas)] = node.make(place=place, **links)
    return parts
