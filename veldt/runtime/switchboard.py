"""The switchboard: the home process's side of every port, and the supervisor of every worker process.

For the scheduler it is one more worker of the home process: a step takes what has arrived, hands out credit and starts who is
to be started. Only `idle` and `paused` wait, always on all channels and all deaths at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from veldt.core import Parameters, State, Worker, Writable
from veldt.errors import RunError, WorkersLost
from veldt.runtime.ports import Commit, Credit, OpenInlet, steps_of, version_of
from veldt.runtime.remote import RemoteEvaluator, RemoteMemory, RemotePart
from veldt.runtime.supervision import Supervised, in_words
from veldt.runtime.team import Team
from veldt.runtime.telling import Replaced, Stall, doings, replacements, slow_ones
from veldt.runtime.transport import Counters, Exchange, Newest
from veldt.runtime.worker import (
    Conclude,
    Concluded,
    Events,
    Failed,
    Go,
    Launch,
    Pause,
    Paused,
    Ready,
    Replay,
    Report,
    Said,
    Stop,
    TellReplay,
    raise_again,
)

LOOK_SECONDS = 0.1
"""Between two looks at restarts that are due and at workers that may be stuck."""

PUBLISH_SECONDS = 0.5
"""Between two publications if no actor gets credit: how old the weights of an evaluation may be."""

IDLE_SECONDS = 0.25
PAUSE_SECONDS = 5.0
"""A worker that does not tell its state for so long is left out of a snapshot: it may be frozen."""

STOP_SECONDS = 5.0


class Switchboard:
    """All workers of a run, from the home process's side: a `core.Worker`."""

    def __init__(
        self,
        crew: Sequence[Supervised],
        parts: Mapping[str, RemotePart],
        launch: Callable[[int], Launch],
        memories: Mapping[str, Writable],
        parameters: Mapping[str, Parameters],
        publications: Mapping[str, Newest],
        board: Counters,
        exchange: Exchange,
        teams: Mapping[str, Team],
        counts: Callable[[], tuple[int, ...]],
        *,
        lockstep: bool,
        stuck_seconds: float,
        stall_seconds: float,
    ) -> None:
        self.crew, self._parts, self._launch = crew, parts, launch
        self._memories, self._parameters = memories, parameters
        self._publications, self._board, self._exchange = publications, board, exchange
        self._teams = teams
        self._lockstep, self._stuck_seconds = lockstep, stuck_seconds
        self.say: Callable[[str], None] = print
        self.stopping: Callable[[], bool] = lambda: False
        """Whether the run is to end after this round: then nothing is waited for."""
        self._ahead = dict.fromkeys(memories, 0)
        """Credit for each memory that was given and not spent, over all workers."""
        self._stall = Stall(counts, stall_seconds)
        self.seconds = {"waiting for actors": 0.0}
        self._looked = self._published = 0.0
        self._replaced: list[Replaced] = []
        self._closed = False
        for part in parts.values():
            if isinstance(part, RemoteEvaluator):
                part.conclude = lambda stopping, part=part: self._conclude(part, stopping)  # type: ignore[misc]
            elif isinstance(part, RemoteMemory):
                part.fetch = self._fetch_replay

    # ---- the loop ----------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Takes what has arrived, gives credit; False if there was nothing to do.

        Raises:
            RunError: a worker reported an error that would come again, or no worker of a bundle with credit is left.
        """
        progress = self._pump(0.0)
        return self._give_credit() or progress

    def idle(self, workers: Mapping[str, Worker]) -> None:
        """Waits until something arrives or is due. Says who waits for what when nothing has moved for long."""
        started = time.monotonic()
        self._pump(IDLE_SECONDS)
        now = time.monotonic()
        self.seconds["waiting for actors"] += now - started
        self._stall.look(workers, self._stuck_seconds, self.say, now)

    def waiting_for(self) -> str:
        """Who writes, and why the others may not."""
        return doings(self.crew, self._memories, time.monotonic())

    def metrics(self) -> dict[str, float]:
        """Restarts so far."""
        return {"restarts": float(sum(worker.budget.deaths for worker in self.crew))}

    def _pump(self, seconds: float) -> bool:
        """Waits up to `seconds` for something to arrive and handles all that has; whether there was anything."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look(now)
        self._show_counters()
        anything, heard, ended = self._exchange.wait(seconds)
        try:
            for worker in heard:
                self._receive(worker)
            for worker in ended:
                self._bury(worker)
        finally:
            for line in replacements(self._replaced):
                self.say(line)
            self._replaced = []
        return anything

    def _show_counters(self) -> None:
        for name, memory in self._memories.items():
            self._board[steps_of(name)] = memory.inserted_steps
        for name, parameters in self._parameters.items():
            self._board[version_of(name)] = parameters.version

    def _publish(self) -> None:
        for name, publication in self._publications.items():
            weights = self._parameters[name].pull((publication.version,))
            if weights is not None:
                publication.publish(weights)

    # ---- credit ------------------------------------------------------------------------------------------------------------

    def _give_credit(self) -> bool:
        given = False
        if self._lockstep:
            self._wait_for_all()
        for worker in self.crew:
            for node, actor in list(worker.inlets):
                if self._memories[node].can_insert(actor, worker.inlets[node, actor], self._ahead[node]):
                    self._publish()
                    self._show_counters()
                    self._give_one(worker, node, actor)
                    given = True
                    while self._lockstep and worker.inlets.get((node, actor)) and not self.stopping():
                        self._pump(IDLE_SECONDS)
        return given

    def _wait_for_all(self) -> None:
        """Waits until every worker has its turn again. Were the run to go on without one that is being started again, how many
        turns that one misses would be a matter of how long the start takes; so even a run with deaths can be repeated."""
        while not all(worker.ready or worker.quarantined for worker in self.crew) and not self.stopping():
            self._pump(IDLE_SECONDS)

    def _give_one(self, worker: Supervised, node: str, actor: int) -> None:
        if not any(worker.inlets.values()):
            worker.pace.may_write(time.monotonic(), True)
        worker.inlets[node, actor] += 1
        self._ahead[node] += 1
        assert worker.channel is not None
        worker.channel.send(Credit(node, actor))

    # ---- messages ----------------------------------------------------------------------------------------------------------

    def _receive(self, worker: Supervised) -> None:
        assert worker.channel is not None
        for message in worker.channel.receive():
            self._handle(worker, message)
        if worker.channel.closed:  # its death is an event of its own
            self._exchange.hang_up(worker)

    def _handle(self, worker: Supervised, message: Any) -> None:
        if isinstance(message, Commit):
            worker.inlets[message.node, message.actor] -= 1
            self._ahead[message.node] -= 1
            worker.pace.commits += 1
            worker.pace.may_write(time.monotonic(), any(worker.inlets.values()))
            memory = self._memories[message.node]
            before = memory.inserted_steps
            memory.commit(message.actor, message.end, message.priorities)
            worker.inserted_steps += memory.inserted_steps - before
        elif isinstance(message, Events):
            self._parts[message.part].take(message)
        elif isinstance(message, Report):
            worker.report = message
            for name in message.metrics:
                self._parts[name].take(message)
        elif isinstance(message, OpenInlet):
            worker.inlets[message.node, message.actor] = 0
            worker.writes = True
        elif isinstance(message, Ready):
            worker.ready = worker.ever_ready = True
        elif isinstance(message, Said):
            self.say(f"warning: {message.text}")
        elif isinstance(message, Failed):
            worker.failed = message
        elif isinstance(message, Paused | Concluded | Replay):
            worker.reply = message

    # ---- life and death ----------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Starts who is due, replaces who is stuck, names who is slow, and publishes for those who pull without credit."""
        if now - self._published >= PUBLISH_SECONDS:
            self._published = now
            self._publish()
            for line in slow_ones(self.crew, now):
                self.say(line)
        for index, worker in enumerate(self.crew):
            if worker.starts_at is not None and now >= worker.starts_at and not worker.quarantined:
                self._start(worker, index)
            if worker.channel is not None:
                worker.channel.flush()
            if worker.alive and worker.is_stuck(self._board[f"heartbeat {index}"], self._owes(worker), self._stuck_seconds):
                stack = worker.body.dump_stack()
                where = f"; stack, innermost call first:\n{stack}" if stack else "; it did not print its stack"
                self._bury(worker, f"{worker.label} stuck for {self._stuck_seconds:g} s{where}\n{worker.label} killed")

    def _owes(self, worker: Supervised) -> bool:
        """Whether `worker` is expected to make progress. One without inlets always is: waiting counts as progress there."""
        return not worker.inlets or any(worker.inlets.values())

    def _start(self, worker: Supervised, index: int) -> None:
        self._board[f"heartbeat {index}"] = 0
        self._publish()  # what it begins with does not depend on when the last regular publication was
        try:
            worker.start(self._launch(index))
        except OSError as error:
            self._plan(worker, f"{worker.label} could not be started: {in_words(error)}", None)
            return
        self._exchange.add(worker)

    def _let_go(self, worker: Supervised) -> int:
        """Takes the last messages of a worker that is gone or to be killed; its exit code."""
        assert worker.channel is not None
        self._receive(worker)
        self._exchange.remove(worker)
        for (node, _), credit in worker.inlets.items():
            self._ahead[node] -= credit
        return worker.bury()

    def _bury(self, worker: Supervised, how: str | None = None) -> None:
        """A worker is gone, or is to go: says how, and plans its successor."""
        if not worker.alive:
            return
        code = self._let_go(worker)
        if self._closed:
            return
        failed = worker.failed
        if failed is not None and failed.kind is not None:
            raise_again(failed, worker.label)
        self._plan(worker, how or worker.describe_death(code), code)
        if worker.bundle in self._teams:
            self._dissolve(worker)

    def _dissolve(self, lost: Supervised) -> None:
        """Without one of its members a team is to be formed anew: the others, who wait for it in vain, are started again with it."""
        self._teams[lost.bundle].dissolve()
        for mate in self.crew:
            if mate.bundle == lost.bundle and mate.alive:
                self._let_go(mate)
                mate.starts_at = lost.starts_at

    def _plan(self, worker: Supervised, how: str, code: int | None) -> None:
        """Plans the successor of a worker that ended with exit `code`, or could not even be started (None).

        Raises:
            RunError: there is no hope of one, because the first was never ready, and none of its kind.
            WorkersLost: it was the last of those who write.
        """
        peers = [other for other in self.crew if other.bundle == worker.bundle]
        hopeless = code is None or code > 0  # but not a signal: that came from outside
        worker.starts_at = worker.budget.next_start(time.monotonic())
        worker.quarantined = worker.starts_at is None
        lost = all(other.quarantined for other in peers)
        if not any(other.ever_ready for other in peers) and (hopeless or lost):
            detail = worker.failed.traceback if worker.failed else "\n".join(worker.lines)
            how = how if code is None else f"{worker.label} could not be started: {how}"
            raise RunError(how + (f"\n{detail.rstrip()}" if detail else ""))
        at_home = 1 if worker.bundle in self._teams else 0
        healthy = f"{at_home + sum(other.alive for other in peers)}/{at_home + len(peers)} healthy"
        if not worker.quarantined:
            self._replaced.append(Replaced(worker, how, f"{healthy}{self._from_where(worker)}"))
            return
        self.say(f"{how}; {worker.label} {worker.budget.why}; not restarting, {healthy}")
        if worker.vital == "each" or (lost and worker.vital == "some"):
            left = sum(not other.quarantined for other in peers)
            restarts = sum(other.budget.deaths for other in peers) - (len(peers) - left)
            healthy = f"{at_home + left}/{at_home + len(peers)} {worker.bundle}s"
            raise WorkersLost(f"{healthy}; giving up after {restarts} restarts. Last: {how}")

    def _from_where(self, lost: Supervised) -> str:
        """What the team of a worker that was lost goes on from, in words: the weights of its member at home."""
        if lost.bundle not in self._teams:
            return ""
        version = min(parameters.version for parameters in self._parameters.values())
        return f"; all {self._teams[lost.bundle].size} go on together from update {version:,}"

    # ---- orders ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[dict[str, State]]:
        """The states of the parts of all workers that answer; they do nothing until the block ends."""
        asked = [worker for worker in self.crew if worker.ready]
        for worker in asked:
            self._order(worker, Pause())
        until = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < until and any(worker.alive and worker.reply is None for worker in asked):
            self._pump(LOOK_SECONDS)
        states: dict[str, State] = {}
        for worker in asked:
            if isinstance(worker.reply, Paused):
                states |= worker.reply.states
            elif worker.alive:
                self.say(f"{worker.label} did not answer within {PAUSE_SECONDS:g} s; its state is left out of the checkpoint")
        try:
            yield states
        finally:
            for worker in asked:
                if worker.channel is not None:
                    worker.channel.send(Go())

    def _fetch_replay(self, part: RemotePart) -> State:
        """The experience of a memory whose process is paused; nothing if it does not answer."""
        worker = part.worker
        if worker.alive and isinstance(worker.reply, Paused | Replay):
            self._order(worker, TellReplay(part.name))
            self._wait_for_reply(worker)
        return worker.reply.state if isinstance(worker.reply, Replay) else {}

    def _wait_for_reply(self, worker: Supervised) -> None:
        while worker.alive and worker.reply is None and not self.stopping():
            self._pump(LOOK_SECONDS)

    def _order(self, worker: Supervised, order: Any) -> None:
        worker.reply = None
        assert worker.channel is not None
        worker.channel.send(order)

    def _conclude(self, part: RemotePart, stopping: Callable[[], bool]) -> None:
        """Lets a part conclude on the newest weights; asks its successors too."""
        worker, asked = part.worker, None
        self._publish()
        while not worker.quarantined and not stopping():
            if worker.ready and asked != worker.pid:
                self._order(worker, Conclude(part.name))
                asked = worker.pid
            if isinstance(worker.reply, Concluded):
                return
            self._pump(IDLE_SECONDS)

    def kill(self) -> int:
        """Kills all workers at once; how many there were."""
        alive = [worker for worker in self.crew if worker.alive]
        for worker in alive:
            worker.body.kill()
        self._exchange.kill()
        return len(alive)

    def close(self) -> None:
        """Stops all workers; kills who does not stop."""
        if self._closed:
            return
        self._closed = True
        for worker in self.crew:
            worker.quarantined = True
            if worker.channel is not None:
                worker.channel.send(Stop())
            if not worker.ready:  # it would hear of it only when it is built
                worker.body.kill()
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and any(worker.alive for worker in self.crew):
            self._pump(LOOK_SECONDS)
        for worker in self.crew:
            if worker.alive:
                self._let_go(worker)
        self._exchange.close()
