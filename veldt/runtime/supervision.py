"""Supervision of one worker process: it is started, watched, its last words kept, and replaced within a budget.

A death is an event, never a silence. Who dies five times in a minute is in a loop and is left alone (quarantined); so is who
dies a hundred times in all. Who makes no progress although it should is asked for its Python stack and killed. Who is much
slower than its peers is left alone, and named.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from veldt.errors import ResourceError
from veldt.runtime.channel import Channel
from veldt.runtime.worker import DUMP_SIGNAL, Connection, Failed, Launch, Report, work

DUMP_SECONDS = 1.0
"""How long a stuck worker gets to print its stack."""

KEPT_LINES = 40

READS = 16
"""Reads of a worker's output in a row, at most: one that never stops printing must not hold up the others."""

SLOW_TIMES, SLOW_SECONDS, SLOW_COMMITS = 4.0, 3.0, 10
"""Slow is who takes so many times as long for an unroll as the median of its peers, judged after so many seconds of its work and
so many unrolls of theirs."""

WORKER_DESCRIPTORS = 5
"""What a worker costs its parent: a channel, a pipe for its output, a handle on its end, two pipes of `multiprocessing`."""

SPARE_DESCRIPTORS = 64
"""For files, checkpoints, TensorBoard and whatever libraries open."""


@dataclass(frozen=True)
class RestartLimits:
    """So many deaths within so many seconds, or so many in all, and a worker is not started again.

    backoff_seconds: before the first restart; doubles with each death within `rate_seconds`, up to max_backoff_seconds.
    """

    rate_cap: int = 5
    rate_seconds: float = 60.0
    lifetime_cap: int = 100
    backoff_seconds: float = 0.1
    max_backoff_seconds: float = 10.0


RESTARTS = RestartLimits()


class RestartBudget:
    """How often and how soon a worker may be started again."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._recent: deque[float] = deque()
        self.deaths = 0

    def next_start(self, now: float) -> float | None:
        """Notes a death at `now` (seconds); when to start again, or None: never."""
        limits = self._limits
        self.deaths += 1
        self._recent.append(now)
        while now - self._recent[0] > limits.rate_seconds:
            self._recent.popleft()
        if len(self._recent) >= limits.rate_cap or self.deaths >= limits.lifetime_cap:
            return None
        return now + float(min(limits.max_backoff_seconds, limits.backoff_seconds * 2 ** (len(self._recent) - 1)))

    @property
    def why(self) -> str:
        """Why there is no further start."""
        if self.deaths >= self._limits.lifetime_cap:
            return f"failed {self.deaths}× in all"
        return f"failed {len(self._recent)}× in {self._limits.rate_seconds:g} s"


class Pace:
    """How long a worker takes for an unroll: the time in which it had leave to write, per commit."""

    def __init__(self) -> None:
        self.commits = 0
        self._seconds = 0.0
        self._since: float | None = None

    def may_write(self, now: float, may: bool) -> None:
        """It has leave to write from `now` on, or none."""
        self._seconds = self.seconds(now)
        self._since = now if may else None

    def seconds(self, now: float) -> float:
        """Seconds of leave until `now`."""
        return self._seconds + (now - self._since if self._since is not None else 0.0)

    def writing_for(self, now: float) -> float:
        """Seconds since its last commit, or since it was given leave if that is later; 0 without leave."""
        return now - self._since if self._since is not None else 0.0

    def seconds_per_unroll(self, now: float) -> float:
        """Mean so far, the one under way included."""
        return self.seconds(now) / max(1, self.commits)


def slower_than_peers(pace: Pace, peers: Sequence[Pace], now: float) -> float | None:
    """By what factor `pace` is slower than the median of its `peers`, if it is slow; else None, also while it is too early to tell."""
    if len(peers) < 2 or pace.seconds(now) < SLOW_SECONDS or median(peer.commits for peer in peers) < SLOW_COMMITS:
        return None
    usual = median(peer.seconds_per_unroll(now) for peer in peers)
    times = pace.seconds_per_unroll(now) / usual if usual > 0 else 0.0
    return times if times >= SLOW_TIMES else None


class Supervised:
    """One worker, through all the processes that play its part one after the other."""

    def __init__(self, label: str, bundle: str, limits: RestartLimits, vital: Literal["each", "some", "no"]) -> None:
        """`vital`: whether the run needs each worker of this bundle, or at least one, or none."""
        self.label, self.bundle, self.vital = label, bundle, vital
        self.contributed: Callable[[], int] = lambda: 0
        """Beside what is committed to memories at home: unrolls in a memory of its own, updates of a shard."""
        self.owns = "the unroll under way"
        """What is lost with its process."""
        self.budget = RestartBudget(limits)
        self.pace = Pace()
        self.said_slow = False
        self.writes = False
        """Whether any of its processes asked for leave to write."""
        self.starts_at: float | None = 0.0
        """When to start (`time.monotonic()`); None while it runs, and for ever if it is quarantined."""
        self.quarantined = False
        self.ever_ready = False
        self.ready = False
        """Whether its process lives and has built its parts."""
        self.failed: Failed | None = None
        self.report: Report | None = None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._partial = b""
        self.channel: Channel | None = None
        self.output = -1
        self.exit_handle = -1
        self._process: Any = None
        self.inlets: dict[tuple[str, int], int] = {}
        """Credit that was given to (memory, actor) and not spent."""
        self.reply: Any = None
        """The last answer to an order (`Paused`, `Concluded`)."""
        self._heartbeat = -1
        self._moved_at = 0.0
        self.inserted_steps = 0

    @property
    def commits(self) -> int:
        """What it has contributed, with all its processes: unrolls committed, or, of a shard, its version."""
        return self.pace.commits + self.contributed()

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return self._process.pid if self._process is not None else None

    def start(self, launch: Launch) -> None:
        """Starts a process. It never sees the signals that end the run: those are for its parent.

        Raises:
            OSError: the system refuses another process, or the descriptors that it takes; nothing is left of the attempt.
        """
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(theirs.close)
            output, their_output = os.pipe()
            undo.callback(os.close, output)
            undo.callback(os.close, their_output)
            os.set_blocking(output, False)
            process = multiprocessing.get_context("spawn").Process(
                target=work, args=(launch, Connection(theirs, their_output)), name=launch.label, daemon=True
            )
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
            process.start()
            undo.callback(_end, process)
            exit_handle = os.pidfd_open(process.pid or 0) if hasattr(os, "pidfd_open") else os.dup(process.sentinel)
            undo.pop_all()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        os.close(their_output)
        self.channel, self.output, self._process, self.exit_handle = Channel(ours), output, process, exit_handle
        self.starts_at, self.ready, self.failed, self.reply, self.report = None, False, None, None, None
        self.inlets = {}
        self._heartbeat, self._moved_at = 0, time.monotonic()

    def read_output(self) -> None:
        """Keeps the last lines that the worker wrote."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(READS):
                data = os.read(self.output, 65536)
                if not data:
                    break
                *lines, self._partial = (self._partial + data).split(b"\n")
                self.lines.extend(line.decode(errors="replace") for line in lines)

    def is_stuck(self, heartbeat: int, should_move: bool, deadline_seconds: float) -> bool:
        """Whether the worker owes progress and its heartbeat has stood still for too long.

        One that is being built owes progress too (processor time). One that is still importing does not: how long that takes
        is a matter of how many do it at once.
        """
        now = time.monotonic()
        if heartbeat != self._heartbeat or heartbeat == 0 or not (should_move or not self.ready):
            self._heartbeat, self._moved_at = heartbeat, now
        return now - self._moved_at > deadline_seconds

    def dump_stack(self) -> str:
        """The Python stack of the worker's main thread, innermost call first; empty if it does not answer."""
        self.read_output()
        self.lines.clear()
        self.signal(signal.SIGCONT)
        self.signal(DUMP_SIGNAL)
        until = time.monotonic() + DUMP_SECONDS
        while time.monotonic() < until and not any(line.startswith("  File") for line in self.lines):
            time.sleep(0.02)
            self.read_output()
        time.sleep(0.05)
        self.read_output()
        calls = [line for line in self.lines if line.startswith("  File")]
        loop = next((index for index, line in enumerate(calls) if line.endswith(" in run") and "scheduler.py" in line), None)
        return "\n".join(calls[:loop])  # what called the loop is the same in every worker

    def signal(self, number: int) -> None:
        """Sends a signal to the process, if there is one."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def wait(self, seconds: float) -> None:
        """Waits for the process to end."""
        if self._process is not None:
            self._process.join(seconds)

    def bury(self) -> int:
        """Lets go of an ended process, or kills it; its exit code, negative for a signal."""
        process = self._process
        if process.exitcode is None:
            process.kill()
            process.join()
        code = int(process.exitcode)
        self.read_output()
        process.close()
        for descriptor in (self.output, self.exit_handle):
            os.close(descriptor)
        assert self.channel is not None
        self.channel.close()
        self._process, self.channel, self.inlets, self.ready = None, None, {}, False
        self.pace.may_write(time.monotonic(), False)
        return code

    def describe_death(self, code: int) -> str:
        """How it died, in words."""
        if self.failed is not None:
            return f"{self.label}: {self.failed.text}"
        if code < 0:
            held = f": RSS {self.report.resident_bytes / 1e9:.1f} GB" if self.report else ""
            likely = f" (likely out of memory{held})" if -code == signal.SIGKILL else ""
            return f"{self.label} killed by signal {-code}{likely}"
        last = " | ".join(line for line in list(self.lines)[-3:] if line.strip())
        return f"{self.label} ended with exit code {code}" + (f"; its last lines: {last}" if last else "")


def _end(process: Any) -> None:
    process.kill()
    process.join()
    process.close()


def open_descriptors() -> int | None:
    """Descriptors that this process has open; None where the system does not say."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder))
    return None


def require_descriptors(workers: int) -> None:
    """Raises `ResourceError`, with the numbers, if this process may not open as many descriptors as `workers` workers take."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = open_descriptors()
    if here is None or limit == resource.RLIM_INFINITY:
        return
    needed = here + WORKER_DESCRIPTORS * workers + SPARE_DESCRIPTORS
    if needed > limit:
        most = max(0, (limit - here - SPARE_DESCRIPTORS) // WORKER_DESCRIPTORS)
        way = f"ulimit -n {needed}" if hard == resource.RLIM_INFINITY or needed <= hard else f"the hard limit of {hard} raised"
        raise ResourceError(
            f"{workers} processes beside this one take {needed} open files ({WORKER_DESCRIPTORS} each), but the limit is {limit}: "
            f"needs {way}, or at most {most} processes"
        )


def in_words(error: OSError) -> str:
    """Why a process could not be started, and what would help."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    ways = {
        errno.EMFILE: f" (this process may open {limit} files; ulimit -n raises that)",
        errno.EAGAIN: " (too many processes or threads of this user; ulimit -u raises that)",
        errno.ENOMEM: " (no memory for it)",
    }
    return f"{error.strerror or error}{ways.get(error.errno or 0, '')}"
