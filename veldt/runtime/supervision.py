"""Supervision of one worker: it is started, watched, its last words kept, and replaced within a budget.

A death is an event, never a silence. Who dies five times in a minute is in a loop and is left alone (quarantined); so is who
dies a hundred times in all. Who makes no progress although it should is asked for its Python stack and killed. Who is much
slower than its peers is left alone, and named. What a worker lives in is its *body*: a process here, or an actor of a cluster.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from veldt.errors import ResourceError
from veldt.runtime.process import WorkerProcess
from veldt.runtime.transport import Body, Line
from veldt.runtime.worker import Failed, Launch, Report

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
    """One worker, through all the lives that play its part one after the other."""

    def __init__(
        self, label: str, bundle: str, limits: RestartLimits, vital: Literal["each", "some", "no"], body: Body | None = None
    ) -> None:
        """Args:
        label: its name.
        bundle: the name of its bundle.
        limits: how often it may die.
        vital: whether the run needs each worker of this bundle, or at least one, or none.
        body: what it lives in; by default a process.
        """
        self.label, self.bundle, self.vital = label, bundle, vital
        self.body: Body = body or WorkerProcess()
        self.contributed: Callable[[], int] = lambda: 0
        """Beside what is committed to memories at home: unrolls in a memory of its own, updates of a shard."""
        self.owns: str | None = None
        """What is lost with its life; None: the unroll under way and nothing else."""
        self.budget = RestartBudget(limits)
        self.pace = Pace()
        self.said_slow = False
        self.writes = False
        """Whether any of its lives asked for leave to write."""
        self.starts_at: float | None = 0.0
        """When to start (`time.monotonic()`); None while it runs, and for ever if it is quarantined."""
        self.quarantined = False
        self.ever_ready = False
        self.ready = False
        """Whether it lives and has built its parts."""
        self.failed: Failed | None = None
        self.report: Report | None = None
        self.inlets: dict[tuple[str, int], int] = {}
        """Credit that was given to (memory, actor) and not spent."""
        self.reply: Any = None
        """The last answer to an order (`Paused`, `Concluded`)."""
        self._heartbeat = -1
        self._moved_at = 0.0
        self.inserted_steps = 0

    @property
    def commits(self) -> int:
        """What it has contributed, in all its lives: unrolls committed, or, of a shard, its version."""
        return self.pace.commits + self.contributed()

    @property
    def channel(self) -> Line | None:
        """The way to it, while it lives."""
        return self.body.channel

    @property
    def lines(self) -> deque[str]:
        """The last lines that it wrote."""
        return self.body.lines

    @property
    def alive(self) -> bool:
        """Whether it lives, or is being started."""
        return self.body.channel is not None

    @property
    def pid(self) -> int | None:
        """What tells this life from those before: a process by its pid."""
        return self.body.life

    def start(self, launch: Launch) -> None:
        """Starts a life.

        Raises:
            OSError: the system refuses; nothing is left of the attempt.
        """
        self.body.start(launch)
        self.starts_at, self.ready, self.failed, self.reply, self.report = None, False, None, None, None
        self.inlets = {}
        self._heartbeat, self._moved_at = 0, time.monotonic()

    def is_stuck(self, heartbeat: int, should_move: bool, deadline_seconds: float) -> bool:
        """Whether the worker owes progress and its heartbeat has stood still for too long.

        One that is being built owes progress too (processor time). One that is still importing does not: how long that takes
        is a matter of how many do it at once.
        """
        now = time.monotonic()
        if heartbeat != self._heartbeat or heartbeat == 0 or not (should_move or not self.ready):
            self._heartbeat, self._moved_at = heartbeat, now
        return now - self._moved_at > deadline_seconds

    def bury(self) -> int:
        """Lets go of what has ended, or ends it; its exit code, negative if it was ended from outside."""
        code = self.body.bury()
        self.inlets, self.ready = {}, False
        self.pace.may_write(time.monotonic(), False)
        return code

    def describe_death(self, code: int) -> str:
        """How it died, in words."""
        return (
            f"{self.label}: {self.failed.text}"
            if self.failed is not None
            else f"{self.label} {self.body.how(code, self.report)}"
        )


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
