"""The home side of a Ray cluster's workers: each lives in an actor; what comes back from all of them stands in one queue.

Home calls an actor to give it orders, and always has one call under way that comes back with what the actor has to say. A call
that comes back with an error is the news of a death. Ray does not start an actor again by itself: a successor begins where the ring at
home ends, which only home knows.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray import exceptions

from veldt.core import Room
from veldt.data import Weights
from veldt.errors import WorkersLost
from veldt.runtime.batches import BatchLink
from veldt.runtime.cluster_batches import CalledBell, HandedBatches
from veldt.runtime.cluster_ports import Bulletin, Notice, RowsCommit, put_rows
from veldt.runtime.cluster_shards import CalledDock, Serving, Snapshot
from veldt.runtime.cluster_start import ORDERS, WORDS, Cluster, Versions
from veldt.runtime.cluster_worker import Told, Where
from veldt.runtime.process import DUMP_SECONDS, KEPT_LINES
from veldt.runtime.shared import Layout
from veldt.runtime.supervision import Supervised
from veldt.runtime.worker import Launch, Report

BULLETIN_SECONDS = 0.5
"""Between two posts that carry nothing but counters."""

LAST_WORDS_SECONDS = 2.0
"""How long the last messages of a worker that has ended may be on their way."""

HEAD_SECONDS = 2.0
"""Between two looks at the head of the cluster."""

WAITING = "waits for room on the cluster"

KILLED = -9
"""The exit code of an actor that was ended from outside, as far as one can know."""


class HomeBoard:
    """Counters of the home process and where its weights are, and heartbeats. `Counters`."""

    def __init__(self, counters: list[str], heartbeats: list[str], newest: dict[str, Notice]) -> None:
        self._values, self._heartbeats = dict.fromkeys(counters, 0), dict.fromkeys(heartbeats, 0)
        self.newest = newest

    def __getitem__(self, name: str) -> int:
        return self._values[name] if name in self._values else self._heartbeats[name]

    def __setitem__(self, name: str, value: int) -> None:
        (self._values if name in self._values else self._heartbeats)[name] = value

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker, it arrives as the bulletin of this moment."""
        return Bulletin, (dict(self._values), dict(self.newest))


class ReferencedWeights:
    """The newest weights as an object of the cluster: put there once for each version."""

    def __init__(self, node: str, layout: Layout, newest: dict[str, Notice]) -> None:
        self._node, self._newest, self.layout = node, newest, layout

    @property
    def version(self) -> int:
        """The version published last; -1 before the first."""
        return self._newest[self._node].version if self._node in self._newest else -1

    def publish(self, weights: Weights) -> None:
        """Makes `weights` the version that followers get. The one before goes when nobody has its reference."""
        self._newest[self._node] = Notice(weights.version, ray.put(self.layout.pack(weights.tensors)))


class HomeLine:
    """The home end of the messages to and from one actor: a `Line`."""

    def __init__(
        self, actor: Any, board: HomeBoard, room: Callable[[str, int], Room], docks: Mapping[str, CalledDock], life: int
    ) -> None:
        self._actor, self._board, self._room, self._docks, self._life = actor, board, room, docks, life
        self._posts, self._posted = 0, 0.0
        self._arrived: list[Any] = []
        self.where: Where | None = None
        self.closed = False

    def send(self, message: Any) -> None:
        """Posts an order, with the counters as they are now."""
        self._post([message])

    def flush(self) -> None:
        """Posts the counters alone, now and then: evaluators go by them."""
        if time.monotonic() - self._posted >= BULLETIN_SECONDS:
            self._post([])

    def _post(self, orders: list[Any]) -> None:
        self._posted = time.monotonic()
        self._actor.post.options(concurrency_group=ORDERS).remote(self._posts, orders, self._board)
        self._posts += 1

    def take(self, told: Told) -> None:
        """What the actor said."""
        self._arrived += told.messages
        for name, value in told.counted.items():
            self._board[name] = value

    def end(self, last: list[Any]) -> None:
        """What it said at its end."""
        self._arrived += last

    def receive(self) -> Iterator[Any]:
        """The messages that have arrived. Rows are where they belong before their commit is handed on."""
        arrived, self._arrived = self._arrived, []
        for message in arrived:
            if isinstance(message, RowsCommit):
                put_rows(self._room(message.commit.node, message.commit.actor), message.rows)
                yield message.commit
            elif isinstance(message, Where):
                self.where = message
            elif isinstance(message, Serving):
                self._board.newest[message.node] = Notice(self._life, self._actor)
            elif isinstance(message, Snapshot):
                self._docks[message.node].take(message)
            else:
                yield message

    def wait(self, seconds: float, *others: Any) -> bool:
        """The home process waits for all workers at once instead."""
        return bool(self._arrived)


class ActorBody:
    """One actor after the other: a `Body`."""

    def __init__(
        self,
        cluster: Cluster,
        takes: Mapping[str, float],
        board: HomeBoard,
        room: Callable[[str, int], Room],
        docks: Mapping[str, CalledDock],
    ) -> None:
        """Args:
        cluster: where actors are placed.
        takes: what it takes of the cluster, by name.
        board: counters for it, and its own, among them its heartbeat.
        room: where rows of (memory, actor) belong.
        docks: of the shards, by label.
        """
        self._cluster, self._takes, self._board, self._room, self._docks = cluster, takes, board, room, docks
        self._handed: list[HandedBatches] = []
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.channel: HomeLine | None = None
        self.actor: Any = None
        self.running: Any = None
        """What `Replica.run` will give."""
        self._lives = 0
        self.life: int | None = None
        self.starting = WAITING
        self._where: Where | None = None
        self.lost_node: str | None = None
        self._error: BaseException | None = None
        self._over = False

    def start(self, launch: Launch) -> None:
        """Asks the cluster for an actor. It lives as soon as there is room for it."""
        self.actor = self._cluster.place(launch, Versions.here(), self._takes)
        self._lives, self._error, self._over = self._lives + 1, None, False
        self.channel = HomeLine(self.actor, self._board, self._room, self._docks, self._lives)
        self.running = self.actor.run.remote()
        self._serve([link.dock for link in launch.links.values() if isinstance(link, BatchLink)])
        self.life, self.starting = self._lives, WAITING

    def _serve(self, docks: Sequence[Any]) -> None:
        """Has batches of `docks` handed to it, and of no others."""
        for dock in self._handed:
            dock.serve(None)
        self._handed = list(docks)
        for dock in docks:
            dock.serve(self.actor)

    def fetch(self) -> Any:
        """Asks what it has to say."""
        return self.actor.fetch.options(concurrency_group=WORDS).remote()

    def ended(self, error: BaseException | None) -> None:
        """It is over, by itself or by `error`."""
        self._over, self._error = True, error

    def dump_stack(self) -> str:
        """The Python stack of what it does, innermost call first; empty if it does not answer."""
        asked = self.actor.stack.options(concurrency_group=ORDERS).remote()
        with contextlib.suppress(exceptions.RayError):
            return str(ray.get(asked, timeout=DUMP_SECONDS))
        return ""

    def kill(self) -> None:
        """Kills the actor, if there is one."""
        if self.actor is not None:
            with contextlib.suppress(exceptions.RayError):
                ray.kill(self.actor)

    def bury(self) -> int:
        """Lets go of the actor, and ends it if it lives; 0 if it came to its end, 1 if it could not be built, else `KILLED`."""
        assert self.channel is not None
        self._serve([])
        self.kill()
        self._where, self.lost_node = self.channel.where, None
        if not self._over and self._where is not None:
            self._cluster.kill_process(self._where.node, self._where.pid)
        self.actor, self.running, self.channel, self.life = None, None, None, None
        if self._over and self._error is None:
            return 0
        return 1 if _hopeless(self._error) else KILLED

    def how(self, code: int, report: Report | None) -> str:
        """How it ended, in words behind its name."""
        error = self._error
        if error is None:
            return "came to an end" if code == 0 else "killed"
        if _hopeless(error):
            return f"could not be started on the cluster: {_first_line(error)}"
        if self._where is None:
            return f"ended while it was being started: {_first_line(error)}"
        if self._cluster.lost(self._where.node):
            self.lost_node = self._where.address
            return f"lost with node {self._where.address}"
        held = f": RSS {report.resident_bytes / 1e9:.1f} GB" if report else ""
        return f"on node {self._where.address} was killed (likely out of memory{held})"


def _hopeless(error: BaseException | None) -> bool:
    """Whether a successor would fare no better."""
    if isinstance(error, exceptions.RayActorError):
        return bool(error.actor_init_failed)
    return isinstance(error, exceptions.RayTaskError | exceptions.ActorUnschedulableError | exceptions.RuntimeEnvSetupError)


def _first_line(error: BaseException) -> str:
    """The end of a traceback, or the message itself."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if "Traceback" in str(error) else lines[0]


class ActorEvents:
    """Waits for what comes back from all actors at once: an `Exchange`."""

    def __init__(self, cluster: Cluster, bells: Sequence[CalledBell]) -> None:
        """`bells`: wake whoever waits here."""
        self._cluster = cluster
        self._events: queue.SimpleQueue[tuple[HomeLine | None, str, Any]] = queue.SimpleQueue()
        for bell in bells:
            bell.wake = self._wake
        self._workers: dict[int, Supervised] = {}
        self._pending: dict[int, Any] = {}
        self._looked = time.monotonic()

    def add(self, worker: Supervised) -> None:
        """Listens to `worker`, which has just been started."""
        body, line = _body(worker), _body(worker).channel
        assert line is not None
        self._workers[id(line)] = worker
        body.running.future().add_done_callback(lambda future: self._events.put((line, "end", future)))
        self._ask(body, line)

    def _wake(self) -> None:
        self._events.put((None, "bell", None))

    def _ask(self, body: ActorBody, line: HomeLine) -> None:
        pending = self._pending[id(line)] = body.fetch().future()
        pending.add_done_callback(lambda future: self._events.put((line, "words", future)))

    def hang_up(self, worker: Supervised) -> None:
        """An actor is silent only when it is gone."""

    def remove(self, worker: Supervised) -> None:
        """Listens to `worker` no more."""
        line = worker.body.channel
        self._workers.pop(id(line), None)
        self._pending.pop(id(line), None)

    def wait(self, seconds: float) -> tuple[bool, list[Supervised], list[Supervised]]:
        """Waits up to `seconds`: whether anything was there, who sent messages, and who has ended.

        Raises:
            WorkersLost: the head of the cluster is gone, and all workers with it.
        """
        self._look_at_head()
        heard: list[Supervised] = []
        ended: list[Supervised] = []
        anything = False
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
            while True:
                anything |= self._note(*event, heard, ended)
                event = self._events.get_nowait()
        return anything, heard, ended

    def _note(self, line: HomeLine | None, kind: str, future: Any, heard: list[Supervised], ended: list[Supervised]) -> bool:
        """Whether it was more than a sign of life."""
        if line is None:
            return True
        worker = self._workers.get(id(line))
        if worker is None or worker.body.channel is not line or worker in ended:
            return False
        error = future.exception()
        if error is None and kind == "words":
            told = future.result()
            line.take(told)
            _body(worker).starting = "is starting"
            self._ask(_body(worker), line)
            if told.messages:
                heard.append(worker)
            return bool(told.messages)
        if error is None:
            with contextlib.suppress(Exception):  # what it said before its end may come in behind the news of it
                if self._pending[id(line)] is not None:
                    line.take(self._pending[id(line)].result(LAST_WORDS_SECONDS))
            line.end(future.result())
        _body(worker).ended(error)
        ended.append(worker)
        if error is not None and line.where is not None and self._cluster.lost(line.where.node):
            self._end_all_on(line.where.node, error, ended)
        return True

    def _end_all_on(self, node: str, error: BaseException, ended: list[Supervised]) -> None:
        """Who was on a machine that is lost is lost too, whether Ray has noticed or not."""
        for worker in self._workers.values():
            body = _body(worker)
            if worker not in ended and body.channel is not None and body.channel.where and body.channel.where.node == node:
                body.ended(error)
                ended.append(worker)

    def _look_at_head(self) -> None:
        if time.monotonic() - self._looked >= HEAD_SECONDS:
            gone = self._cluster.head_gone()
            self._looked = time.monotonic()
            if gone is not None:
                raise WorkersLost(gone)

    def kill(self) -> None:
        """Kills a cluster that was started for this run."""
        self._cluster.kill()

    def close(self) -> None:
        """Lets go of the cluster."""
        self._cluster.close()


def _body(worker: Supervised) -> ActorBody:
    assert isinstance(worker.body, ActorBody)
    return worker.body
