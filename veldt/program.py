"""The program as data: nodes, the bundles they live and die in, and the links between them.

Nothing runs until a runtime reads it. `make` is a `functools.partial` of a class and frozen settings: picklable for a new
process, and open to whoever draws or plans. A runtime calls it with `place=` (a `core.Place`) and one keyword per link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from veldt.errors import ConfigError


@dataclass(frozen=True)
class Node:
    """One part: its name, how to make it, and which nodes stand behind its ports.

    links: keyword of `make` -> name of the node it is linked to. Passing a link is drawing an edge.
    """

    name: str
    make: Callable[..., Any]
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """Nodes that live, die and restart together, in one process; `replicas` of them."""

    name: str
    nodes: tuple[Node, ...]
    replicas: int = 1


@dataclass(frozen=True)
class Program:
    """The bundles of a system, and which of its nodes have the two roles that every run asks for.

    memory: the node whose replicas count the agent steps of the run, each its own.
    parameters: the node that holds the weights; the versions of its replicas count the updates.

    Raises:
        ConfigError: two nodes share a name, a link or a role leads nowhere, or links run in a circle.
    """

    bundles: tuple[Bundle, ...]
    memory: str = "replay"
    parameters: str = "parameters"

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two nodes are called {name!r}")
        for node in self.nodes:
            for port, target in node.links.items():
                if target not in names:
                    raise ConfigError(f"port {port!r} of node {node.name!r} is linked to {target!r}; nodes: {names}")
        for role, name in (("memory", self.memory), ("parameters", self.parameters)):
            if name not in names:
                raise ConfigError(f"no node is called {name!r}, which has the role {role!r}; nodes: {names}")
        self.build_order()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in declared order."""
        return tuple(node for bundle in self.bundles for node in bundle.nodes)

    def edges(self) -> Iterator[tuple[str, str, str]]:
        """(node, port, node behind it) of every link."""
        for node in self.nodes:
            for port, target in node.links.items():
                yield node.name, port, target

    def bundle_of(self, name: str) -> Bundle:
        """The bundle that the node called `name` lives in."""
        return next(bundle for bundle in self.bundles if any(node.name == name for node in bundle.nodes))

    def build_order(self) -> tuple[Node, ...]:
        """All nodes, each after those it is linked to."""
        order: dict[str, Node] = {}
        by_name = {node.name: node for node in self.nodes}

        def visit(node: Node, path: tuple[str, ...]) -> None:
            if node.name in path:
                raise ConfigError(f"links run in a circle: {' -> '.join((*path, node.name))}")
            for target in node.links.values():
                if target not in order:
                    visit(by_name[target], (*path, node.name))
            order[node.name] = node

        for node in self.nodes:
            if node.name not in order:
                visit(node, ())
        return tuple(order.values())

    def with_bundle(self, bundle: Bundle) -> Program:
        """This program and one more bundle."""
        return replace(self, bundles=(*self.bundles, bundle))

    def into(self, name: str, *nodes: Node) -> Program:
        """This program with `nodes` behind those of the bundle called `name`."""
        return replace(self, bundles=tuple(
            replace(bundle, nodes=(*bundle.nodes, *nodes)) if bundle.name == name else bundle for bundle in self.bundles
        ))  # fmt: skip

    def relink(self, name: str, **links: str) -> Program:
        """This program with the given ports of node `name` linked anew."""

        def relinked(node: Node) -> Node:
            return replace(node, links={**node.links, **links}) if node.name == name else node

        bundles = tuple(replace(bundle, nodes=tuple(map(relinked, bundle.nodes))) for bundle in self.bundles)
        return replace(self, bundles=bundles)
