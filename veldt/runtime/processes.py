"""The process runtime: one process for each bundle replica, beside the home process.

Home is where the bundle is that other bundles are linked to, mostly the learning side (`veldt.runtime.placement`). It runs the
scheduler loop with one more worker in it, the *switchboard*, which takes the messages of all other processes and hands out credit; when no part can go
on, the loop waits there, on all channels and all deaths at once.

    worker processes                         home process
    actor 0   ring of rows (shared) -------> replay      <- the rows that were committed are read where they were written
              commit (channel) ------------> switchboard -> replay.commit
              <------------ credit (channel) switchboard <- replay.can_insert
              <--------- publication (shared) parameters <- learner

Where a bundle has a learner and a memory of its own (A3C, Gorila), its worker runs the whole loop: weights and gradients go
through memory that is shared on purpose, or through the docks of shards (`veldt.runtime.docks`), counters through the board.

No lock is shared. A worker that is killed costs its unfinished unroll; its successor continues its ring. One with a memory of
its own costs that memory.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch

from veldt.core import Arena, Parameters, Place, Saved, Shareable, State, Worker, Writable
from veldt.data import Weights
from veldt.errors import ConfigError
from veldt.program import Bundle, Node, Program
from veldt.runtime import scheduler
from veldt.runtime.batches import BatchLink, BatchServer
from veldt.runtime.building import build, is_alike, label, labelled, replicas_of
from veldt.runtime.local import Processes
from veldt.runtime.placement import Placement, class_of, is_shard, is_team, sampled
from veldt.runtime.ports import CountLink, ShardsLink, most_of, steps_of, version_of
from veldt.runtime.remote import RemoteActor, RemoteEvaluator, RemoteMemory, RemotePart, RemoteShard
from veldt.runtime.supervision import RESTARTS, RestartLimits, Supervised
from veldt.runtime.switchboard import Switchboard
from veldt.runtime.team import Team
from veldt.runtime.transport import Batches, Dock, Link, Newest, Rung, Transport
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
        transport: Transport | None = None,
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
        transport: what the workers live in; by default processes of this machine.

        Raises:
            ConfigError: a part needs more of one in another process than a link can carry, or `lockstep` a learner at home.
            ResourceError: this process may not open the descriptors that the workers take, or memory cannot be shared.
        """
        torch.manual_seed(seed)
        self._program, self._seed = program, seed
        self._placement = placement = Placement.of(program)
        if lockstep and not placement.learns_at_home:
            raise ConfigError("lockstep needs the learner in the home process; to repeat this run, use --runtime inline")
        self._transport: Transport = transport or Processes()
        self._transport.prepare(placement)
        self._docks = self._make_docks()
        self._teams = self._make_teams(device)
        self._arenas: list[Arena] = []
        heartbeats = [f"heartbeat {index}" for index in range(len(placement.workers))]
        self._board = self._transport.board(self._counters(), heartbeats)
        crew = self._crew(restarts)
        self._remote = self._remote_parts(crew)
        self._home = self._build(device)
        memories = {name: part for name, part in self._home.items() if isinstance(part, Writable)}
        self._batches = self._make_batch_docks()
        parameters = {name: part for name, part in self._home.items() if isinstance(part, Parameters)}
        self._publications = self._publish(parameters)
        self.switchboard = Switchboard(
            crew, self._remote, self._launch, memories, parameters, self._publications, self._board,
            self._transport.exchange(self._bells()), self._teams, self._progress,
            lockstep=lockstep, stuck_seconds=stuck_seconds, stall_seconds=stall_seconds,
        )  # fmt: skip
        self.parts: dict[str, Any] = {**self._remote, **self._home, "ports": self.switchboard}
        if self._batches:
            self.parts["batches"] = BatchServer([(self._home[memory], dock) for (_, memory), dock in self._batches.items()])
        order = [name for name in ("ports", "batches") if name in self.parts] + placement.home_labels()
        self._workers: dict[str, Worker] = {name: self.parts[name] for name in order if isinstance(self.parts[name], Worker)}
        self._states: dict[str, State] = {}

    def _crew(self, restarts: RestartLimits) -> list[Supervised]:
        return [
            Supervised(_worker_label(*one), one[0].name, restarts, _vital(one[0]), self._transport.body(one[0]))
            for one in self._placement.workers
        ]

    def _build(self, device: str) -> dict[str, Any]:
        """The parts of the home process."""
        try:
            return build(
                self._program, self._placement.home, seed=self._seed, device=device, arena=self._new_arena,
                average=lambda bundle, replica: self._teams[bundle].home,
                outside=self._remote,
            )  # fmt: skip
        except BaseException:
            self._transport.exchange(()).close()
            raise

    def _new_arena(self) -> Arena:
        self._arenas.append(self._transport.arena())
        return self._arenas[-1]

    def _counters(self) -> list[str]:
        """What the board counts, beside heartbeats."""
        placement = self._placement
        home = placement.home_labels()
        remote = [name for bundle, replica in placement.workers for name, node in _parts_of(bundle, replica) if _counts(node)]
        return [*map(steps_of, home + remote), *map(most_of, remote), *map(version_of, [*home, *self._docks])]

    def _make_docks(self) -> dict[str, Dock]:
        """A dock for each shard, by label. Its users are all workers, and home. The shard that is built for it is not the one that runs."""
        workers = self._placement.workers
        docks = {}
        for bundle, replica in workers:
            for name, node in _parts_of(bundle, replica):
                if is_shard(node):
                    shard = node.make(place=Place(replica, bundle.replicas, self._seed))
                    docks[name] = self._transport.dock(name, shard, class_of(node).join, len(workers) + 1)
        return docks

    def _make_teams(self, device: str) -> dict[str, Team]:
        """The teams, by bundle. Threads for torch are shared among the members on one machine: the slowest holds up all."""
        teams = {bundle.name: self._transport.team(bundle.replicas, device) for bundle in self._placement.teams()}
        for team in teams.values():
            torch.set_num_threads(max(1, torch.get_num_threads() // team.neighbours))
        return teams

    def _make_batch_docks(self) -> dict[tuple[int, str], Batches]:
        """A dock for each worker of a team and each memory that it samples, by its number and the memory's label."""
        return {
            (index, name): self._transport.batches(name, self._home[name])
            for index, (bundle, _) in enumerate(self._placement.workers)
            if is_team(bundle)
            for target in sampled(bundle)
            for name in replicas_of(self._program, target)
        }

    def _publish(self, parameters: Mapping[str, Parameters]) -> dict[str, Newest]:
        """Where followers in workers find the weights, by the label of the parameters at home; not those that share them anyway."""
        return {
            name: self._transport.publish(name, _all_weights(part))
            for name, part in parameters.items()
            if not isinstance(part, Shareable)
        }

    def _bells(self) -> list[Rung]:
        """Those that the home process hears."""
        home = len(self._placement.workers)
        shards = [bell for dock in self._docks.values() for bell in dock.wakes(home)]
        return [*shards, *(team.bells[0] for team in self._teams.values()), *(one.freed for one in self._batches.values())]

    def _remote_parts(self, crew: list[Supervised]) -> dict[str, RemotePart]:
        return {
            name: self._remote_part(worker, name, node, bundle, replica)
            for worker, (bundle, replica) in zip(crew, self._placement.workers, strict=True)
            for name, node in _parts_of(bundle, replica)
        }

    def _remote_part(self, worker: Supervised, name: str, node: Node, bundle: Bundle, replica: int) -> RemotePart:
        """The part called `name`, which `node` makes in the process of `worker`, as it is seen from here."""
        if name in self._docks:
            shard = RemoteShard(worker, name, self._docks[name].port(len(self._placement.workers), self._board))
            worker.contributed, worker.owns = (lambda: shard.version), "updates since its last snapshot"
            return shard
        if _counts(node):
            memory = RemoteMemory(worker, name, self._board)
            worker.contributed, worker.owns = (lambda: memory.unrolls), "the memory that lived with it"
            return memory
        if hasattr(class_of(node), "pop_evaluations"):
            return RemoteEvaluator(worker, name)
        if is_alike(class_of(node)):
            first = label(node.name, 0, bundle.replicas)
            worker.contributed, worker.owns = (lambda: int(self._home[first].version)), "the batches it had"
        if not hasattr(class_of(node), "pop_episodes"):
            return RemotePart(worker, name)
        own = [memory for memory, other in _parts_of(bundle, replica) if _counts(other)]
        return RemoteActor(worker, name, (lambda: self._board[steps_of(own[0])]) if own else (lambda: worker.inserted_steps))

    def _progress(self) -> tuple[int, ...]:
        """Steps of all memories and versions of all parameters: if they stand still, nothing moves."""
        parts = [*self._remote.values(), *self._home.values()]
        steps = [part.inserted_steps for part in parts if hasattr(part, "inserted_steps")]
        return (*steps, *(part.version for part in parts if hasattr(part, "version")))

    def _launch(self, index: int) -> Launch:
        """What worker number `index` needs to know now."""
        bundle, replica = self._placement.workers[index]
        mine = _parts_of(bundle, replica)
        order = [node.name for node in self._program.build_order()]
        nodes = tuple(sorted(mine, key=lambda one: order.index(one[1].name)))
        own = {node.name for _, node in nodes}
        targets = {target for _, node in nodes for target in node.links.values() if target not in own}
        links = {target: self._link(target, replica, index) for target in targets}
        users = [name for target in targets for name in replicas_of(self._program, target) if name in self._docks]
        served = [name for name, _ in nodes if name in self._docks]
        rings = [(name, index) for name in users] + [(name, None) for name in served]
        bells = [bell for name, user in rings for bell in self._docks[name].wakes(user)]
        docks = {name: self._docks[name].served() for name in served}
        memories = [part for name, _ in nodes if isinstance(part := self._remote[name], RemoteMemory)]
        past = sum(memory.inserted_steps for memory in memories if memory.name not in self._states)
        # Plain bytes: given as tensors, `multiprocessing` would leave a shared memory file open for each of them.
        begun = {name: self._states.pop(name) for name, _ in nodes if name in self._states}
        for name, node in nodes:
            if is_alike(class_of(node)):
                begun[name] = self._home[label(node.name, 0, bundle.replicas)].state_dict()
        states = pickle.dumps(begun)
        replays = pickle.dumps({part.name: part.replay for part in memories if part.replay is not None or part.refills})
        for memory in memories:
            memory.replay, memory.refills = None, False
        life = self.switchboard.crew[index].budget.deaths
        place, threads = Place(replica, bundle.replicas, self._seed, life=life, past_steps=past), 1
        if bundle.name in self._teams:
            invitation, threads = self._teams[bundle.name].invite(replica), torch.get_num_threads()
            place = dataclasses.replace(place, device=invitation.device, average=invitation)
            bells += [invitation.bell, *(link.dock.filled for link in links.values() if isinstance(link, BatchLink))]
        name = _worker_label(bundle, replica)
        heartbeat = f"heartbeat {index}"
        return Launch(name, nodes, place, links, tuple(bells), docks, self._board, heartbeat, states, replays, threads)

    def _link(self, node: str, replica: int, index: int) -> Link:
        """The way to `node` for parts of worker number `index`, which are replica number `replica` of theirs."""
        labels = replicas_of(self._program, node)
        if labels[0] in self._docks:
            return ShardsLink(tuple(self._docks[name] for name in labels), index)
        if labels[0] not in self._home:
            return CountLink(tuple(labels))
        if (index, labels[0]) in self._batches:
            return BatchLink(labels[0], self._batches[index, labels[0]])
        return self._transport.link(labels[0], self._home[labels[0]], replica, self._publications.get(labels[0]))

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
            steps = {name: part.inserted_steps for name, part in self._remote.items() if isinstance(part, RemoteMemory)}
            copies = [name for one in self._placement.workers for name, node in _parts_of(*one) if is_alike(class_of(node))]
            apart = {name: state for name, state in {**self._states, **remote}.items() if name not in copies}
            yield {**apart, **home, "averages": {}, "inserted_steps": steps, "torch_random": torch.get_rng_state()}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `snapshot` was taken; before `run`."""
        for name, part in self._home.items():
            if isinstance(part, Saved):
                part.load_state_dict(state[name])
        torch.set_rng_state(state["torch_random"])
        self._states = {name: state[name] for name in self._remote if name in state}
        for name, steps in state["inserted_steps"].items():
            self._board[steps_of(name)] = steps
        for name, dock in self._docks.items():
            if name in state:
                dock.restore(state[name])

    def kill(self) -> int:
        """Kills all processes at once; how many there were."""
        return self.switchboard.kill()

    def close(self) -> None:
        """Ends all processes, within seconds, and closes what holds resources."""
        self.switchboard.close()
        publications = self._publications.values()
        docks = (*self._docks.values(), *self._batches.values(), *self._teams.values())
        for held in (*self._home.values(), *self._arenas, *publications, *docks, self._board):
            if hasattr(held, "close"):
                held.close()


def _parts_of(bundle: Bundle, replica: int) -> list[tuple[str, Node]]:
    """The label and node of each part of one replica, in declared order."""
    return list(zip(labelled(bundle, replica), bundle.nodes, strict=True))


def _counts(node: Node) -> bool:
    """Whether `node` makes memories, which count steps."""
    return hasattr(class_of(node), "inserted_steps")


def _vital(bundle: Bundle) -> Literal["each", "some", "no"]:
    """Without a slice of the weights there is no run, none without actors, and no update without all of a team."""
    if any(map(is_shard, bundle.nodes)) or is_team(bundle):
        return "each"
    return "some" if any(hasattr(class_of(node), "pop_episodes") for node in bundle.nodes) else "no"


def _worker_label(bundle: Bundle, replica: int) -> str:
    return label(bundle.name, replica, bundle.replicas)


def _all_weights(part: Parameters) -> Weights:
    weights = part.pull(())
    assert weights is not None
    return weights
