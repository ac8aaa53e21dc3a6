"""The inline runtime: every bundle of a program in this process, in one loop, in declared order.

It is not another way to run a program: it is the scheduler loop with all parts in it. So it is deterministic, and a stall is
an error. Links are the objects themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from veldt.core import Place, Saved, State, Worker
from veldt.program import Program
from veldt.runtime import scheduler


class InlineRuntime:
    """A program's parts, built and linked, and the loop that drives them."""

    def __init__(self, program: Program, *, seed: int, device: str) -> None:
        """Builds every node of `program`, those it is linked to first.

        Args:
        program: what to run.
        seed: root of all random numbers of the run.
        device: where agents compute, as torch names it.
        """
        self.parts: dict[str, Any] = {}
        torch.manual_seed(seed)
        for node in program.build_order():
            bundle = program.bundle_of(node.name)
            for replica in range(bundle.replicas):
                links = {port: self._linked(program, node.name, target, replica) for port, target in node.links.items()}
                place = Place(replica, bundle.replicas, seed, device)
                self.parts[_label(node.name, replica, bundle.replicas)] = node.make(place=place, **links)
        declared = [
            _label(node.name, replica, bundle.replicas)
            for bundle in program.bundles
            for replica in range(bundle.replicas)
            for node in bundle.nodes
        ]
        self.workers = {name: self.parts[name] for name in declared if isinstance(self.parts[name], Worker)}

    def _linked(self, program: Program, name: str, target: str, replica: int) -> Any:
        """What stands behind a link: the neighbour in the same replica, the only one, or all of them."""
        home = program.bundle_of(target)
        if home is program.bundle_of(name) or home.replicas == 1:
            return self.parts[_label(target, replica if home.replicas > 1 else 0, home.replicas)]
        return [self.parts[_label(target, other, home.replicas)] for other in range(home.replicas)]

    def run(self, after_round: Callable[[], bool]) -> None:
        """Drives all parts until `after_round`, called after each round, returns False.

        Raises:
            Stalled: no part can make progress.
        """
        scheduler.run(self.workers, after_round, scheduler.stalled)

    def state_dict(self) -> State:
        """The state of every part that has one, and of torch's random numbers."""
        states = {name: part.state_dict() for name, part in self.parts.items() if isinstance(part, Saved)}
        return {**states, "torch_random": torch.get_rng_state()}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        for name, part in self.parts.items():
            if isinstance(part, Saved):
                part.load_state_dict(state[name])
        torch.set_rng_state(state["torch_random"])

    def close(self) -> None:
        """Closes what holds resources."""
        for part in self.parts.values():
            if hasattr(part, "close"):
                part.close()


def _label(name: str, replica: int, replicas: int) -> str:
    return name if replicas == 1 else f"{name} {replica}"
