"""A worker in a process of its own beside the home process: how it is started, heard, asked for its stack, and ended.

All of it is descriptors: a channel, a pipe for what it prints, a handle on its end. `Descriptors` waits on those of all at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from veldt.runtime.channel import Channel
from veldt.runtime.shared import Bell
from veldt.runtime.worker import DUMP_SIGNAL, Connection, Launch, Report, work

if TYPE_CHECKING:
    from veldt.runtime.supervision import Supervised

DUMP_SECONDS = 1.0
"""How long a stuck worker gets to print its stack."""

KEPT_LINES = 40

READS = 16
"""Reads of a worker's output in a row, at most: one that never stops printing must not hold up the others."""


class WorkerProcess:
    """One process after the other: a `Body` (see `supervision`)."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._partial = b""
        self.channel: Channel | None = None
        self.output = self.exit_handle = -1
        self._process: Any = None
        self.life: int | None = None
        self.starting = "is starting"
        self.lost_node: str | None = None

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
        self.life = process.pid

    def read_output(self) -> None:
        """Keeps the last lines that it wrote."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(READS):
                data = os.read(self.output, 65536)
                if not data:
                    break
                *lines, self._partial = (self._partial + data).split(b"\n")
                self.lines.extend(line.decode(errors="replace") for line in lines)

    def dump_stack(self) -> str:
        """The Python stack of its main thread, innermost call first; empty if it does not answer."""
        self.read_output()
        self.lines.clear()
        self._signal(signal.SIGCONT)
        self._signal(DUMP_SIGNAL)
        until = time.monotonic() + DUMP_SECONDS
        while time.monotonic() < until and not any(line.startswith("  File") for line in self.lines):
            time.sleep(0.02)
            self.read_output()
        time.sleep(0.05)
        self.read_output()
        calls = [line for line in self.lines if line.startswith("  File")]
        loop = next((index for index, line in enumerate(calls) if line.endswith(" in run") and "scheduler.py" in line), None)
        return "\n".join(calls[:loop])  # what called the loop is the same in every worker

    def kill(self) -> None:
        """Kills the process, if there is one."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

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
        self._process, self.channel, self.life = None, None, None
        return code

    def how(self, code: int, report: Report | None) -> str:
        """How it ended, in words behind its name."""
        if code < 0:
            held = f": RSS {report.resident_bytes / 1e9:.1f} GB" if report else ""
            likely = f" (likely out of memory{held})" if -code == signal.SIGKILL else ""
            return f"killed by signal {-code}{likely}"
        last = " | ".join(line for line in list(self.lines)[-3:] if line.strip())
        return f"ended with exit code {code}" + (f"; its last lines: {last}" if last else "")


def _end(process: Any) -> None:
    process.kill()
    process.join()
    process.close()


class Descriptors:
    """Waits for messages, output and the end of all worker processes at once: an `Exchange` (see `switchboard`)."""

    def __init__(self, bells: Sequence[Bell]) -> None:
        self._selector = selectors.DefaultSelector()
        for bell in bells:
            self._selector.register(bell, selectors.EVENT_READ, (bell, "bell"))

    def add(self, worker: Supervised) -> None:
        """Listens to `worker`, which has just been started."""
        body = worker.body
        assert isinstance(body, WorkerProcess)
        assert body.channel is not None
        self._selector.register(body.channel, selectors.EVENT_READ, (worker, "channel"))
        self._selector.register(body.output, selectors.EVENT_READ, (worker, "output"))
        self._selector.register(body.exit_handle, selectors.EVENT_READ, (worker, "exit"))

    def hang_up(self, worker: Supervised) -> None:
        """Expects no more messages of `worker`; its end is an event of its own."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(worker.body.channel)  # type: ignore[arg-type]

    def remove(self, worker: Supervised) -> None:
        """Listens to `worker` no more."""
        body = worker.body
        assert isinstance(body, WorkerProcess)
        for descriptor in (body.channel, body.output, body.exit_handle):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> tuple[bool, list[Supervised], list[Supervised]]:
        """Waits up to `seconds`: whether anything was there, who sent messages, and who has ended."""
        events = self._selector.select(seconds)
        heard, ended = [], []
        for key, _ in events:
            worker, kind = key.data
            if kind == "channel":
                heard.append(worker)
            elif kind == "output":
                worker.body.read_output()
            elif kind == "bell":
                worker.silence()
            else:
                ended.append(worker)
        return bool(events), heard, ended

    def kill(self) -> None:
        """There is nothing but workers."""

    def close(self) -> None:
        """Lets go of what it waits with."""
        self._selector.close()
