"""The process runtime: one process for each bundle replica, beside the home process.

Home is where the bundle is that other bundles are linked to: the learning side. It runs the scheduler loop with one more
worker in it, the *switchboard*, which takes the messages of all other processes and hands out credit; when no part can go
on, the loop waits there, on all channels and all deaths at once.

    worker processes                         home process
    actor 0   ring of rows (shared) -------> replay      <- the rows that were committed are read where they were written
              commit (channel) ------------> switchboard -> replay.commit
              <------------ credit (channel) switchboard <- replay.can_insert
              <--------- publication (shared) parameters <- learner

No lock is shared. A worker that is killed costs its unfinished unroll; its successor continues its ring.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from veldt.core import Parameters, Place, Saved, State, Worker, Writable
from veldt.errors import ConfigError
from veldt.program import Bundle, Program
from veldt.runtime import scheduler
from veldt.runtime.building import build, label, labelled
from veldt.runtime.ports import MemoryLink, ParametersLink, steps_of, version_of
from veldt.runtime.remote import RemotePart
from veldt.runtime.shared import Board, Publication, SharedArena
from veldt.runtime.supervision import RESTARTS, RestartLimits, Supervised, require_descriptors
from veldt.runtime.switchboard import Switchboard
from veldt.runtime.worker import Launch

STALL_SECONDS = 30.0


class ProcessRuntime:
    """A program's home parts, and the processes of the others."""

    def __init__(
        self,
        program: Program,
        *,
        seed: int,
        device: str,
        lockstep: bool,
        stuck_seconds: float,
        stall_seconds: float = STALL_SECONDS,
        restarts: RestartLimits = RESTARTS,
    ) -> None:
        """Builds the home bundle; processes are started by `run`.

        Args:
        program: what to run.
        seed: root of all random numbers of the run.
        device: where the home bundle computes; the others compute on the CPU.
        lockstep: actors take turns with the learner as they do inline, so that a run can be repeated bit for bit.
            They wait for one that is being started again, so that it misses no turn.
        stuck_seconds: a worker that makes no progress for so long, although it could, is killed and replaced.
        stall_seconds: if there is no step and no update for so long, the user hears who waits for what.
        restarts: how often a worker may die and be replaced.

        Raises:
            ConfigError: the program has more than one bundle that others are linked to.
            ResourceError: this process may not open the descriptors that the workers take, or memory cannot be shared.
        """
        torch.manual_seed(seed)
        self._program, self._seed = program, seed
        home = _home(program)
        self._arenas: list[SharedArena] = []
        self._home = build(program, (home,), seed=seed, device=device, arena=self._new_arena)
        self._remote = [
            (bundle, replica) for bundle in program.bundles if bundle is not home for replica in range(bundle.replicas)
        ]
        require_descriptors(len(self._remote))
        heartbeats = [f"heartbeat {index}" for index in range(len(self._remote))]
        memories = {name: part for name, part in self._home.items() if isinstance(part, Writable)}
        parameters = {name: part for name, part in self._home.items() if isinstance(part, Parameters)}
        self._board = Board([*map(steps_of, memories), *map(version_of, parameters), *heartbeats])
        self._publications = {name: _publish_first(part) for name, part in parameters.items()}
        crew = [Supervised(_worker_label(bundle, replica), bundle.name, restarts) for bundle, replica in self._remote]
        remote_parts = {
            name: RemotePart(member, name)
            for member, (bundle, replica) in zip(crew, self._remote, strict=True)
            for name in labelled(bundle, replica)
        }
        self.switchboard = Switchboard(
            crew, remote_parts, self._launch, memories, parameters, self._publications, self._board,
            lockstep=lockstep, stuck_seconds=stuck_seconds, stall_seconds=stall_seconds,
        )  # fmt: skip
        self.parts: dict[str, Any] = {**remote_parts, **self._home, "ports": self.switchboard}
        self._workers: dict[str, Worker] = {"ports": self.switchboard}
        self._workers |= {name: self._home[name] for name in labelled(home, 0) if isinstance(self._home[name], Worker)}
        self._states: dict[str, State] = {}

    def _new_arena(self) -> SharedArena:
        self._arenas.append(SharedArena())
        return self._arenas[-1]

    def _launch(self, index: int) -> Launch:
        """What worker number `index` needs to know now."""
        bundle, replica = self._remote[index]
        nodes = tuple(
            (label(node.name, replica, bundle.replicas), node) for node in self._program.build_order() if node in bundle.nodes
        )
        names = {node.name for _, node in nodes}
        targets = {target for _, node in nodes for target in node.links.values() if target not in names}
        links = {target: self._link(target, replica) for target in targets}
        # Plain bytes: given as tensors, `multiprocessing` would leave a shared memory file open for each of them.
        states = pickle.dumps({name: self._states.pop(name) for name, _ in nodes if name in self._states})
        place = Place(replica, bundle.replicas, self._seed, life=self.switchboard.crew[index].budget.deaths)
        return Launch(_worker_label(bundle, replica), nodes, place, links, self._board, f"heartbeat {index}", states)

    def _link(self, node: str, replica: int) -> MemoryLink | ParametersLink:
        part = self._home[node]
        if isinstance(part, Writable):
            return MemoryLink(node, part.ring(replica), part.end(replica))
        if isinstance(part, Parameters):
            return ParametersLink(node, self._publications[node])
        raise ConfigError(f"node {node!r} cannot be reached from another process")

    def run(
        self,
        after_round: Callable[[], bool],
        say: Callable[[str], None] = print,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts the processes and drives the home parts until `after_round`, called after each round, returns False.

        Args:
        after_round: looks at the parts.
        say: what the runtime has to tell the user: deaths, replacements, stalls.
        stopping: whether to end after this round whatever `after_round` says; asked also while a round waits for a worker.

        Raises:
            RunError: no actor is left, or a worker reported an error that would come again.
        """
        self.switchboard.say, self.switchboard.stopping = say, stopping
        scheduler.run(self._workers, lambda: after_round() and not stopping(), self.switchboard.idle)

    @contextmanager
    def snapshot(self) -> Iterator[State]:
        """The state of every part that has one. No row is written and no weight changed until the block ends."""
        with self.switchboard.paused() as remote:
            home = {name: part.state_dict() for name, part in self._home.items() if isinstance(part, Saved)}
            yield {**self._states, **remote, **home, "torch_random": torch.get_rng_state()}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `snapshot` was taken; before `run`."""
        for name, part in self._home.items():
            if isinstance(part, Saved):
                part.load_state_dict(state[name])
        torch.set_rng_state(state["torch_random"])
        self._states = {name: state[name] for name in self.parts if name in state and name not in self._home}

    def kill(self) -> int:
        """Kills all processes at once; how many there were."""
        return self.switchboard.kill()

    def close(self) -> None:
        """Ends all processes, within seconds, and closes what holds resources."""
        self.switchboard.close()
        for part in self._home.values():
            if hasattr(part, "close"):
                part.close()
        for arena in self._arenas:
            arena.close()
        for publication in self._publications.values():
            publication.close()
        self._board.close()


def _home(program: Program) -> Bundle:
    """The bundle that others are linked to; the first, if none is."""
    served = {
        program.bundle_of(target).name
        for name, _, target in program.edges()
        if program.bundle_of(target) is not program.bundle_of(name)
    }
    if len(served) > 1:
        raise ConfigError(f"bundles {', '.join(sorted(served))} are all linked to from others: only one can be at home")
    home = next((bundle for bundle in program.bundles if bundle.name in served), program.bundles[0])
    if home.replicas > 1:
        raise ConfigError(f"bundle {home.name!r} is replicated and linked to from others")
    return home


def _worker_label(bundle: Bundle, replica: int) -> str:
    return label(bundle.name, replica, bundle.replicas)


def _publish_first(part: Parameters) -> Publication:
    weights = part.pull(())
    assert weights is not None
    publication = Publication(weights.tensors)
    publication.publish(weights)
    return publication
