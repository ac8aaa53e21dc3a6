"""The life of one worker process: it builds one replica of a bundle, runs the scheduler loop, and ends with its parent.

It takes orders from the home process (credit, pause, conclude, stop) between two rounds of its loop, and sends what happened:
commits, finished episodes and evaluations, reports of its counters. What it prints goes to the home process too, so that
the last lines of a worker that died can be shown.

It never outlives its parent: the kernel kills it (Linux), or a thread that watches the parent does. A SIGINT or SIGTERM is the
parent's business.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, NamedTuple, NoReturn

import torch

from veldt.core import Place, RunMemory, Saved, State, Worker
from veldt.errors import VeldtError
from veldt.program import Node
from veldt.runtime import scheduler
from veldt.runtime.channel import Channel
from veldt.runtime.docks import ShardServer
from veldt.runtime.ports import Credit, MemoryPort, most_of, steps_of
from veldt.runtime.transport import Counters, Line, Link, Rung

REPORT_SECONDS = 0.5
"""Between two reports of a worker, and between two looks of its watching thread."""

IDLE_SECONDS = 0.05
"""How long a worker that nobody owes an answer waits before it looks at the counters again."""

DUMP_SIGNAL = signal.SIGUSR1
"""Makes a worker print its Python stack, even while it is stuck in native code."""


class Ready(NamedTuple):
    """From a worker: its parts are built."""


class Events(NamedTuple):
    """From a worker: episodes and evaluations that `part` finished."""

    part: str
    episodes: list[Any]
    evaluations: list[Any]


class Report(NamedTuple):
    """From a worker: seconds spent and metrics of its parts, of its memories (steps of a commit, steps kept, samples per insert, and
    what was asked for), and the bytes that the process holds."""

    seconds: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, float]]
    memories: dict[str, tuple[int, int, float | None, float | None]]
    resident_bytes: int


class Said(NamedTuple):
    """From a worker: a warning."""

    text: str


class Failed(NamedTuple):
    """From a worker, the last message: the error that ended it. `kind` names a class of `veldt.errors`, if it is one."""

    kind: str | None
    text: str
    traceback: str


class Paused(NamedTuple):
    """From a worker: it waits for `Go`; the states of its parts."""

    states: dict[str, State]


class Replay(NamedTuple):
    """From a paused worker: the experience in one of its memories."""

    state: State


class Concluded(NamedTuple):
    """From a worker: `part` has concluded; its events came before."""

    part: str


class Pause(NamedTuple):
    """To a worker: tell your state, and wait."""


class TellReplay(NamedTuple):
    """To a paused worker: tell the experience in memory `part`."""

    part: str


class Go(NamedTuple):
    """To a paused worker."""


class Conclude(NamedTuple):
    """To a worker: call `conclude()` of `part`. The next order ends it early."""

    part: str


class Stop(NamedTuple):
    """To a worker: end."""


@dataclass(frozen=True)
class Launch:
    """What a worker needs to know.

    nodes: in build order, by label. links: those that leave its bundle, by the node they lead to. bells: wake it up. docks: of the shards among its parts, by label. states, replays: pickled, by label, what parts go on from; a replay
    that is None is filled anew. threads: for torch.
    """

    label: str
    nodes: tuple[tuple[str, Node], ...]
    place: Place
    links: Mapping[str, Link]
    bells: tuple[Rung, ...]
    docks: Mapping[str, Any]
    board: Counters
    heartbeat: str
    states: bytes
    replays: bytes
    threads: int = 1


class Connection:
    """What ties a worker to its parent: one end of the channel, and where to print. Its descriptors are duplicated when it is
    pickled, which is only possible while a process is being started."""

    def __init__(self, end: socket.socket, output: int) -> None:
        self.end, self.output, self.parent = end.fileno(), output, os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"end": reduction.DupFd(self.end), "output": reduction.DupFd(self.output), "parent": self.parent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.end, self.output, self.parent = state["end"].detach(), state["output"].detach(), state["parent"]


def work(launch: Launch, connection: Connection) -> None:
    """The main function of a worker process."""
    _settle(connection.parent, connection.output)
    channel = Channel(socket.socket(fileno=connection.end))
    parent = multiprocessing.parent_process()
    assert parent is not None
    status = live(launch, channel, lambda seconds: bool(multiprocessing.connection.wait([parent.sentinel], seconds)))
    channel.send_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # nothing is left to tidy, and libraries' exit handlers may hang


def live(launch: Launch, channel: Line, orphaned: Callable[[float], bool]) -> int:
    """Builds the parts of a worker and runs its loop until told to stop: 0; or tells of the error that ended it: 1.

    orphaned: waits up to so many seconds for the end of the home process; whether it has ended.
    """
    try:
        torch.set_num_threads(launch.threads)
        Work(launch, channel, orphaned).run()
        return 0
    except BaseException as error:
        kind = type(error).__name__ if isinstance(error, VeldtError) else None
        channel.send(Failed(kind, f"{error}" if kind else f"{type(error).__name__}: {error}", traceback.format_exc()))
        return 1


def _settle(parent: int, output: int) -> None:
    """Ends with the parent, prints where the parent reads.

    SIGINT and SIGTERM, blocked until now, are passed over by handlers: what environments start in turn gets them as usual.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    faulthandler.register(DUMP_SIGNAL, all_threads=False)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


class Work:
    """The parts of a worker and its loop."""

    def __init__(self, launch: Launch, channel: Line, orphaned: Callable[[float], bool]) -> None:
        self._launch, self._channel, self._board, self._orphaned = launch, channel, launch.board, orphaned
        warnings.showwarning = self._show_warning  # type: ignore[assignment]
        self._ports = {
            node: link.open(self._board, channel.send) for node, link in launch.links.items() if hasattr(link, "ring")
        }
        self._workers: dict[str, Worker] = {}
        self._waited, self._thread = 0.0, threading.get_ident()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        self._inlets = {node: port.inlets for node, port in self._ports.items() if isinstance(port, MemoryPort)}
        self.parts = self._build()
        self._memories: dict[str, Any] = {name: part for name, part in self.parts.items() if isinstance(part, RunMemory)}
        # What died with the processes before this one was inserted too.
        self._past = {name: self._board[steps_of(name)] - part.inserted_steps for name, part in self._memories.items()}
        self._workers = {name: part for name, part in self.parts.items() if isinstance(part, Worker)}
        self._workers |= {
            name: ShardServer(self.parts[name], dock.open(self._board, channel.send)) for name, dock in launch.docks.items()
        }
        self._count()
        self._reported = time.perf_counter()
        self._stopping = self._obeyed = False
        self._concluding: str | None = None

    def _build(self) -> dict[str, Any]:
        """All parts, by label, as they were left."""
        launch = self._launch
        built: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        for label, node in launch.nodes:
            behind = {port: built[target] if target in built else self._behind(target) for port, target in node.links.items()}
            built[node.name] = parts[label] = node.make(place=launch.place, **behind)
        for label, state in pickle.loads(launch.states).items():
            parts[label].load_state_dict(state)
        for label, replay in pickle.loads(launch.replays).items():
            parts[label].refill() if replay is None else parts[label].load_replay_state_dict(replay)
        return parts

    def _behind(self, target: str) -> Any:
        """A port to `target` in another process. Of a memory there is one; of what weights are pulled into, one for each part."""
        return (
            self._ports[target] if target in self._ports else self._launch.links[target].open(self._board, self._channel.send)
        )

    def _count(self) -> None:
        """Tells how many steps were inserted here, and learns how many may be."""
        for name, memory in self._memories.items():
            self._board[steps_of(name)] = self._past[name] + memory.inserted_steps
            memory.most_steps = self._board[most_of(name)] - self._past[name]

    def run(self) -> None:
        """The scheduler loop, until told to stop."""
        self._channel.send(Ready())
        scheduler.run(self._workers, self._after_round, self._idle)
        for part in self.parts.values():
            if hasattr(part, "close"):
                part.close()

    def _watch(self) -> None:
        """Shows that the parts move, and that the parent lives. A thread: the parts may be busy for long."""
        while True:
            self._board[self._launch.heartbeat] = self._heartbeat()
            if self._orphaned(REPORT_SECONDS / 2):
                os._exit(1)

    def _heartbeat(self) -> int:
        """A number above 0 that changes as long as the parts move.

        While they are being built, what moves is the processor time of the thread that builds them.
        """
        spent = (
            sum(sum(part.seconds.values()) for part in self._workers.values()) if self._workers else _cpu_seconds(self._thread)
        )
        return 1 + int((spent + self._waited) * 1e6)

    def _after_round(self) -> bool:
        self._count()
        self._obeyed = False
        for message in self._channel.receive():
            self._obey(message)
            self._obeyed = True
        if self._concluding is not None and not self._stopping:
            self._conclude(self._concluding)
        self._tell()
        if self._channel.closed:
            os._exit(1)
        return not self._stopping

    def _obey(self, message: Any) -> None:
        if isinstance(message, Credit):
            self._inlets[message.node][message.actor].credit += 1
        elif isinstance(message, Pause):
            self._pause()
        elif isinstance(message, TellReplay):
            self._channel.send(Replay(self.parts[message.part].replay_state_dict()))
        elif isinstance(message, Conclude):
            self._concluding = message.part
        elif isinstance(message, Stop):
            self._stopping = True

    def _conclude(self, part: str) -> None:
        """Until it is done or another order arrives: it may be to stop, or to tell the state for a checkpoint before that."""
        self._concluding = None
        self.parts[part].conclude(lambda: self._channel.wait(0.0))
        if not self._channel.wait(0.0):
            self._tell()
            self._channel.send(Concluded(part))

    def _pause(self) -> None:
        """Tells the state, then does nothing until it may go on. That counts as waiting: however long it is, nobody is stuck."""
        self._tell()
        self._channel.send(Paused({name: part.state_dict() for name, part in self.parts.items() if isinstance(part, Saved)}))
        going = False
        while not (going or self._stopping or self._channel.closed):
            started = time.perf_counter()
            self._channel.wait(REPORT_SECONDS)
            self._waited += time.perf_counter() - started
            for message in self._channel.receive():
                going |= isinstance(message, Go)
                self._obey(message)

    def _tell(self) -> None:
        """Sends what happened."""
        for name, part in self._workers.items():
            episodes = part.pop_episodes() if hasattr(part, "pop_episodes") else []
            evaluations = part.pop_evaluations() if hasattr(part, "pop_evaluations") else []
            if episodes or evaluations:
                self._channel.send(Events(name, episodes, evaluations))
        now = time.perf_counter()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            seconds = {name: dict(worker.seconds) for name, worker in self._workers.items()}
            seconds[next(iter(seconds))]["waiting"] = self._waited
            told = {**self._workers, **self._memories}
            metrics = {name: part.metrics() for name, part in told.items()}
            memories = {
                name: (part.insert_steps, part.capacity_steps, part.samples_per_insert, part.samples_per_insert_asked)
                for name, part in self._memories.items()
            }
            self._channel.send(Report(seconds, metrics, memories, resident_bytes()))
        self._channel.flush()

    def _idle(self, workers: Mapping[str, Worker]) -> None:
        if self._obeyed:  # after the parts had their turn: they may be able to go on now
            return
        bells = self._launch.bells
        started = time.perf_counter()
        self._channel.wait(REPORT_SECONDS if bells or any(self._inlets.values()) else IDLE_SECONDS, *bells)
        for bell in bells:
            bell.silence()
        self._waited += time.perf_counter() - started

    def _show_warning(self, message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        self._channel.send(Said(f"{self._launch.label}/{message}"))


def _cpu_seconds(thread: int) -> float:
    """Processor time of a thread of this process; where the system does not say, the time, which always moves."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.monotonic()


def resident_bytes(process: int | str = "self") -> int:
    """Memory that a process holds; 0 where the system does not say."""
    try:
        with open(f"/proc/{process}/statm") as fields:
            return int(fields.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def raise_again(failed: Failed, label: str) -> NoReturn:
    """Raises the error that ended worker `label` in this process."""
    import veldt.errors

    cls = getattr(veldt.errors, failed.kind or "", veldt.errors.RunError)
    raise cls(f"{label}: {failed.text}")
