"""The run that chaos happens to: an ordinary training run in a process of its own, which tells what can be seen of it.

It does not know what will be done to it: nothing here kills or spares. It ends if nobody listens any more.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from veldt.errors import VeldtError
from veldt.runtime.inline import InlineRuntime
from veldt.runtime.processes import ProcessRuntime
from veldt.training import resume, train

SIGHT_SECONDS = 0.05
"""Between two sights of a run."""


class Seen(NamedTuple):
    """One worker process: who plays the part now (None: nobody), whether it is built, and what the part did in all its lives."""

    label: str
    bundle: str
    pid: int | None
    ready: bool
    commits: int
    deaths: int
    quarantined: bool
    owns: str | None
    """What is lost with the process; None: the unroll under way and nothing else."""


class Sight(NamedTuple):
    """A run at one moment: agent steps taken, and its workers."""

    step: int
    crew: tuple[Seen, ...]


class Line(NamedTuple):
    """What the run said."""

    text: str


class Ended(NamedTuple):
    """The run ended as `veldt.Result` tells."""

    stopped_by: str
    steps: int
    evaluation_mean: float | None


class Failed(NamedTuple):
    """The run could not go on, or could not start."""

    error: VeldtError


class Order(NamedTuple):
    """Which run: `folder` to resume from, or what to train."""

    system: str
    env: str
    preset: str
    values: Mapping[str, Any]
    folder: Path | None


def live(order: Order, connection: Connection) -> None:
    """The main function of the process. A Ctrl-C at the terminal is not for it: whoever listens passes it on."""
    os.setpgid(0, 0)
    with contextlib.redirect_stdout(_Lines(connection)):
        try:
            look = _Look(connection)
            if order.folder is not None:
                result = resume(order.folder, on_round=look)
            else:
                result = train(order.system, order.env, preset=order.preset, on_round=look, **order.values)
        except BrokenPipeError:  # whoever listened is gone: the run has ended, and there is nobody to tell
            return
        except VeldtError as error:
            connection.send(Failed(error))
        else:
            connection.send(Ended(result.stopped_by, result.progress.steps, result.final_mean))


class _Look:
    """Tells, now and then, what there is to see."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next = 0.0

    def __call__(self, step: int, runtime: InlineRuntime | ProcessRuntime) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SIGHT_SECONDS
        assert isinstance(runtime, ProcessRuntime)
        crew = tuple(
            Seen(
                who.label,
                who.bundle,
                who.pid,
                who.ready and who.alive,
                who.commits,
                who.budget.deaths,
                who.quarantined,
                who.owns,
            )
            for who in runtime.switchboard.crew
        )
        self._connection.send(Sight(step, crew))


class _Lines(io.TextIOBase):
    """A standard output that goes to whoever listens, line by line."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._connection.send(Line(line))
        return len(text)
