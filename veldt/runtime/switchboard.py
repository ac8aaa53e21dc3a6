"""The switchboard: the home process's side of every port, and the supervisor of every worker process.

For the scheduler it is one more worker of the home process: a step takes what has arrived, hands out credit and starts who is
to be started. Only `idle` and `paused` wait, always on all channels and all deaths at once.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from veldt.core import Parameters, State, Worker, Writable
from veldt.errors import RunError, WorkersLost
from veldt.runtime.ports import Commit, Credit, OpenInlet, steps_of, version_of
from veldt.runtime.remote import RemotePart
from veldt.runtime.shared import Board, Publication
from veldt.runtime.supervision import Supervised
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
    Report,
    Said,
    Stop,
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
STALL_SECONDS = 30.0


class Switchboard:
    """All workers of a run, from the home process's side: a `core.Worker`."""

    def __init__(
        self,
        crew: Sequence[Supervised],
        parts: Mapping[str, RemotePart],
        launch: Callable[[int], Launch],
        memories: Mapping[str, Writable],
        parameters: Mapping[str, Parameters],
        publications: Mapping[str, Publication],
        board: Board,
        *,
        lockstep: bool,
        stuck_seconds: float,
    ) -> None:
        self.crew, self._parts, self._launch = crew, parts, launch
        self._memories, self._parameters = memories, parameters
        self._publications, self._board = publications, board
        self._lockstep, self._stuck_seconds = lockstep, stuck_seconds
        self._selector = selectors.DefaultSelector()
        self.say: Callable[[str], None] = print
        self.seconds = {"waiting for actors": 0.0}
        self._looked = self._published = 0.0
        self._idle_since: float | None = None
        self._told_stall = 0.0
        self._closed = False
        for part in parts.values():
            part.conclude = lambda part=part: self._conclude(part)  # type: ignore[misc]

    # ---- the loop ----------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Takes what has arrived, gives credit; False if there was nothing to do.

        Raises:
            RunError: a worker reported an error that would come again, or no worker of a bundle with credit is left.
        """
        progress = self._pump(0.0)
        progress |= self._give_credit()
        if progress:
            self._idle_since = None
        return progress

    def idle(self, workers: Mapping[str, Worker]) -> None:
        """Waits until something arrives or is due. Says who waits for what when nothing has moved for long."""
        started = time.monotonic()
        if self._idle_since is None:
            self._idle_since = self._told_stall = started
        self._pump(IDLE_SECONDS)
        now = time.monotonic()
        self.seconds["waiting for actors"] += now - started
        if now - self._told_stall > STALL_SECONDS:
            self._told_stall = now
            waits = "; ".join(f"{name}: {part.waiting_for()}" for name, part in workers.items())
            self.say(f"nothing has moved for {now - self._idle_since:.0f} s. {waits}")

    def waiting_for(self) -> str:
        """Who writes, and why the others may not."""
        texts = []
        for worker in self.crew:
            if not worker.alive:
                texts.append(f"{worker.label} is " + (worker.budget.why if worker.quarantined else "being started again"))
            elif not worker.ready:
                texts.append(f"{worker.label} is starting")
            for (node, actor), credit in worker.inlets.items():
                if credit:
                    texts.append(f"{worker.label} writes")
                else:
                    texts.append(f"{worker.label} waits for {self._memories[node].waiting_for(actor)}")
        return ", ".join(texts)

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
        events = self._selector.select(seconds)
        ended = []
        for key, _ in events:
            worker, kind = key.data
            if kind == "channel":
                self._receive(worker)
            elif kind == "output":
                worker.read_output()
            else:
                ended.append(worker)
        for worker in ended:
            self._bury(worker)
        return bool(events)

    def _show_counters(self) -> None:
        for name, memory in self._memories.items():
            self._board[steps_of(name)] = memory.inserted_steps
        for name, parameters in self._parameters.items():
            self._board[version_of(name)] = parameters.version

    def _publish(self) -> None:
        for name, parameters in self._parameters.items():
            weights = parameters.pull(self._publications[name].version)
            if weights is not None:
                self._publications[name].publish(weights)

    # ---- credit ------------------------------------------------------------------------------------------------------------

    def _give_credit(self) -> bool:
        given = False
        if self._lockstep and not all(worker.ready or worker.quarantined for worker in self.crew):
            return False
        for worker in self.crew:
            for node, actor in list(worker.inlets):
                if self._may_write(node, actor, worker):
                    self._publish()
                    self._show_counters()
                    worker.inlets[node, actor] += 1
                    assert worker.channel is not None
                    worker.channel.send(Credit(node, actor))
                    given = True
                    while self._lockstep and worker.inlets.get((node, actor)):
                        self._pump(IDLE_SECONDS)
        return given

    def _may_write(self, node: str, actor: int, worker: Supervised) -> bool:
        everybody = sum(credit for other in self.crew for key, credit in other.inlets.items() if key[0] == node)
        return self._memories[node].can_insert(actor, worker.inlets[node, actor], everybody)

    # ---- messages ----------------------------------------------------------------------------------------------------------

    def _receive(self, worker: Supervised) -> None:
        assert worker.channel is not None
        for message in worker.channel.receive():
            self._handle(worker, message)
        if worker.channel.closed:  # its death is an event of its own
            with contextlib.suppress(KeyError):
                self._selector.unregister(worker.channel)

    def _handle(self, worker: Supervised, message: Any) -> None:
        if isinstance(message, Commit):
            worker.inlets[message.node, message.actor] -= 1
            worker.commits += 1
            memory = self._memories[message.node]
            before = memory.inserted_steps
            memory.commit(message.actor, message.end, message.priorities)
            worker.inserted_steps += memory.inserted_steps - before
        elif isinstance(message, Events):
            self._parts[message.part].take(message)
        elif isinstance(message, Report):
            worker.report = message
            for name in message.seconds:
                self._parts[name].take(message)
        elif isinstance(message, OpenInlet):
            worker.inlets[message.node, message.actor] = 0
        elif isinstance(message, Ready):
            worker.ready = worker.ever_ready = True
        elif isinstance(message, Said):
            self.say(f"warning: {message.text}")
        elif isinstance(message, Failed):
            worker.failed = message
        elif isinstance(message, Paused | Concluded):
            worker.reply = message

    # ---- life and death ----------------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Starts who is due, replaces who is stuck, and publishes for those who pull without credit."""
        if now - self._published >= PUBLISH_SECONDS:
            self._published = now
            self._publish()
        for index, worker in enumerate(self.crew):
            if worker.starts_at is not None and now >= worker.starts_at and not worker.quarantined:
                self._start(worker, index)
            if worker.channel is not None:
                worker.channel.flush()
            if worker.alive and worker.is_stuck(self._board[f"heartbeat {index}"], self._owes(worker), self._stuck_seconds):
                stack = worker.dump_stack()
                where = f"; stack, innermost call first:\n{stack}" if stack else "; it did not print its stack"
                self._bury(worker, f"{worker.label} stuck for {self._stuck_seconds:g} s{where}\n{worker.label} killed")

    def _owes(self, worker: Supervised) -> bool:
        """Whether `worker` is expected to make progress. One without inlets always is: waiting counts as progress there."""
        return not worker.inlets or any(worker.inlets.values())

    def _start(self, worker: Supervised, index: int) -> None:
        worker.start(self._launch(index))
        self._selector.register(worker.channel, selectors.EVENT_READ, (worker, "channel"))  # type: ignore[arg-type]
        self._selector.register(worker.output, selectors.EVENT_READ, (worker, "output"))
        self._selector.register(worker.exit_handle, selectors.EVENT_READ, (worker, "exit"))

    def _let_go(self, worker: Supervised) -> int:
        """Takes the last messages of a worker that is gone or to be killed; its exit code."""
        assert worker.channel is not None
        self._receive(worker)
        for descriptor in (worker.channel, worker.output, worker.exit_handle):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
        return worker.bury()

    def _bury(self, worker: Supervised, how: str | None = None) -> None:
        """A worker is gone, or is to go: says how, and plans its successor."""
        if not worker.alive:
            return
        code = self._let_go(worker)
        if self._closed:
            return
        how = how or worker.describe_death(code)
        failed = worker.failed
        if failed is not None and failed.kind is not None:
            raise_again(failed, worker.label)
        if not worker.ever_ready and worker.budget.deaths == 0:
            detail = failed.traceback if failed else "\n".join(worker.lines)
            raise RunError(f"{worker.label} could not be started: {how}" + (f"\n{detail.rstrip()}" if detail else ""))
        worker.starts_at = worker.budget.next_start(time.monotonic())
        worker.quarantined = worker.starts_at is None
        peers = [other for other in self.crew if other.bundle == worker.bundle]
        healthy = f"{sum(other.alive for other in peers)}/{len(peers)} healthy"
        if not worker.quarantined:
            self.say(f"{how}; replaced, {healthy}")
            return
        self.say(f"{how}; {worker.label} {worker.budget.why}; not restarting, {healthy}")
        if all(other.quarantined for other in peers) and worker.commits:
            deaths = sum(other.budget.deaths for other in peers)
            raise WorkersLost(f"0/{len(peers)} {worker.bundle}s; giving up after {deaths - len(peers)} restarts. Last: {how}")

    # ---- orders ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[dict[str, State]]:
        """The states of the parts of all workers that answer; they do nothing until the block ends."""
        asked = [worker for worker in self.crew if worker.alive and worker.ready]
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

    def _order(self, worker: Supervised, order: Any) -> None:
        worker.reply = None
        assert worker.channel is not None
        worker.channel.send(order)

    def _conclude(self, part: RemotePart) -> None:
        """Lets a part conclude on the newest weights; asks its successors too."""
        worker, asked = part.worker, None
        self._publish()
        while not worker.quarantined:
            if worker.alive and worker.ready and asked != worker.pid:
                self._order(worker, Conclude(part.name))
                asked = worker.pid
            if isinstance(worker.reply, Concluded):
                return
            self._pump(IDLE_SECONDS)

    def kill(self) -> int:
        """Kills all workers at once; how many there were."""
        alive = [worker for worker in self.crew if worker.alive]
        for worker in alive:
            worker.signal(9)
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
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and any(worker.alive for worker in self.crew):
            self._pump(LOOK_SECONDS)
        for worker in self.crew:
            if worker.alive:
                self._let_go(worker)
        self._selector.close()
