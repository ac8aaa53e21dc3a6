"""Supervision of one worker process: it is started, watched, its last words kept, and replaced within a budget.

A death is an event, never a silence. Who dies five times in a minute is in a loop and is left alone (quarantined); so is who
dies a hundred times in all. Who makes no progress although it should is asked for its Python stack and killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections import deque
from typing import Any

from veldt.runtime.channel import Channel
from veldt.runtime.worker import DUMP_SIGNAL, Connection, Failed, Launch, Report, work

RATE_CAP, RATE_SECONDS, LIFETIME_CAP = 5, 60.0, 100
"""So many deaths within so many seconds, or so many in all, and a worker is not started again."""

BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 10.0
"""Before the first restart; doubles with each death within `RATE_SECONDS`."""

DUMP_SECONDS = 1.0
"""How long a stuck worker gets to print its stack."""

KEPT_LINES = 40


class RestartBudget:
    """How often and how soon a worker may be started again."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self.deaths = 0

    def next_start(self, now: float) -> float | None:
        """Notes a death at `now` (seconds); when to start again, or None: never."""
        self.deaths += 1
        self._recent.append(now)
        while now - self._recent[0] > RATE_SECONDS:
            self._recent.popleft()
        if len(self._recent) >= RATE_CAP or self.deaths >= LIFETIME_CAP:
            return None
        return now + float(min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (len(self._recent) - 1)))

    @property
    def why(self) -> str:
        """Why there is no further start."""
        if self.deaths >= LIFETIME_CAP:
            return f"failed {self.deaths}× in all"
        return f"failed {len(self._recent)}× in {RATE_SECONDS:g} s"


class Supervised:
    """One worker, through all the processes that play its part one after the other."""

    def __init__(self, label: str, bundle: str) -> None:
        self.label, self.bundle = label, bundle
        self.budget = RestartBudget()
        self.starts_at: float | None = 0.0
        """When to start (`time.monotonic()`); None while it runs, and for ever if it is quarantined."""
        self.quarantined = False
        self.ever_ready = False
        self.ready = False
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
        self.commits = self.inserted_steps = 0

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return self._process.pid if self._process is not None else None

    def start(self, launch: Launch) -> None:
        """Starts a process. It never sees the signals that end the run: those are for its parent."""
        ours, theirs = socket.socketpair()
        output, their_output = os.pipe()
        os.set_blocking(output, False)
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(launch, Connection(theirs, their_output)), name=launch.label, daemon=True
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            os.close(their_output)
        self.channel, self.output, self._process = Channel(ours), output, process
        self.exit_handle = os.pidfd_open(process.pid or 0) if hasattr(os, "pidfd_open") else os.dup(process.sentinel)
        self.starts_at, self.ready, self.failed, self.reply, self.report = None, False, None, None, None
        self.inlets = {}
        self._heartbeat, self._moved_at = -1, time.monotonic()

    def read_output(self) -> None:
        """Keeps the last lines that the worker wrote."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.output, 65536):
                *lines, self._partial = (self._partial + data).split(b"\n")
                self.lines.extend(line.decode(errors="replace") for line in lines)

    def is_stuck(self, heartbeat: int, should_move: bool, deadline_seconds: float) -> bool:
        """Whether the worker owes progress and its heartbeat has stood still for too long."""
        now = time.monotonic()
        if heartbeat != self._heartbeat or not should_move or not self.ready:
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
        self._process, self.channel, self.inlets = None, None, {}
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
