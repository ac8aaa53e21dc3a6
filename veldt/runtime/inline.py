"""The inline runtime: every bundle of a program in this process, in one loop, in declared order.

It is not another way to run a program: it is the scheduler loop with all parts in it. So it is deterministic, and a stall is
an error. Links are the objects themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch

from veldt.core import PrivateArena, RunMemory, Saved, State, Worker
from veldt.program import Program
from veldt.runtime import scheduler
from veldt.runtime.averaging import Together
from veldt.runtime.building import build, labelled, replicas, saved_as


class InlineRuntime:
    """A program's parts, built and linked, and the loop that drives them."""

    def __init__(self, program: Program, *, seed: int, device: str) -> None:
        """Builds every node of `program`, those it is linked to first.

        Args:
        program: what to run.
        seed: root of all random numbers of the run.
        device: where agents compute, as torch names it.
        """
        torch.manual_seed(seed)
        self._together = {bundle.name: Together(bundle.replicas) for bundle in program.bundles}
        self.parts = build(
            program, replicas(program.bundles), seed=seed, device=device, arena=PrivateArena,
            average=lambda bundle, replica: self._together[bundle].member(replica),
        )  # fmt: skip
        declared = [name for bundle, replica in replicas(program.bundles) for name in labelled(bundle, replica)]
        kept = saved_as(program, self.parts)
        self._saved_as = {own: kept[own] for own, part in self.parts.items() if isinstance(part, Saved)}
        self.workers = {name: self.parts[name] for name in declared if isinstance(self.parts[name], Worker)}

    def run(
        self,
        after_round: Callable[[], bool],
        say: Callable[[str], None] = print,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Drives all parts until `after_round`, called after each round, returns False.

        Args:
        after_round: looks at the parts.
        say: what the runtime has to tell the user: here nothing, since no part lives apart from the others.
        stopping: whether to end after this round whatever `after_round` says.

        Raises:
            Stalled: no part can make progress.
        """
        scheduler.run(self.workers, lambda: after_round() and not stopping(), scheduler.stalled)

    @contextmanager
    def snapshot(self) -> Iterator[State]:
        """The state of every part that has one, and of torch's random numbers; it stays true until the block ends."""
        states = {kept: self.parts[kept].state_dict() for kept in dict.fromkeys(self._saved_as.values())}
        averages = {bundle: together.state_dict() for bundle, together in self._together.items() if together.used}
        steps = {name: part.inserted_steps for name, part in self.parts.items() if isinstance(part, RunMemory)}
        yield {**states, "averages": averages, "inserted_steps": steps, "torch_random": torch.get_rng_state()}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `snapshot` was taken."""
        for own, kept in self._saved_as.items():
            self.parts[own].load_state_dict(
                state[kept] if own == kept else deepcopy(state[kept])
            )  # a part may keep what it is given
        for bundle, given in state["averages"].items():
            self._together[bundle].load_state_dict(given)
        torch.set_rng_state(state["torch_random"])

    def kill(self) -> int:
        """There are no other processes: 0."""
        return 0

    def close(self) -> None:
        """Closes what holds resources."""
        for part in self.parts.values():
            if hasattr(part, "close"):
                part.close()
