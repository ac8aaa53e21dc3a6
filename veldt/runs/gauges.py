"""Gauges: how fast the parts of a run are, and what their processes spend their time on.

The monitor reads them twice a second. All they know is what parts tell anyway: seconds by activity, steps, counters.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from veldt.core import RunMemory
from veldt.runs.progress import ActorNow, MemoryNow, Times

HOME = "home"
MARKS = 20
"""Readings that `recent` looks back."""


class Mark(NamedTuple):
    """One reading: when, how far, seconds by process and activity, steps by actor."""

    at: float
    steps: int
    updates: int
    spent: dict[str, dict[str, float]]
    acted: dict[str, int]


class Gauges:
    """Readings of the last seconds, and the first one since learning began."""

    def __init__(self, parts: Mapping[str, Any], actors: Sequence[str], memories: Sequence[RunMemory]) -> None:
        """Args:
        parts: all parts of the run, by name. One with a `process` is not in this one.
        actors: those of `parts` that act.
        memories: those that actors write to.
        """
        self._parts, self._actors, self._memories = parts, actors, memories
        self._marks: deque[Mark] = deque(maxlen=MARKS)
        self._first: Mark | None = None

    def read(self, steps: int, updates: int) -> None:
        """Takes a reading."""
        spent: dict[str, dict[str, float]] = {}
        for part in self._parts.values():
            process = spent.setdefault(getattr(part, "process", HOME), {})
            for name, seconds in getattr(part, "seconds", {}).items():
                process[name] = process.get(name, 0.0) + seconds
        acted = {name: self._parts[name].steps for name in self._actors}
        mark = Mark(time.perf_counter(), steps, updates, spent, acted)
        self._marks.append(mark)
        if updates and self._first is None:
            self._first = mark

    @property
    def several_processes(self) -> bool:
        """Whether there is more than this one."""
        return any(hasattr(part, "process") for part in self._parts.values())

    def speeds(self) -> tuple[float, float]:
        """Steps and updates per second, of the last seconds."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        then, now = self._marks[0], self._marks[-1]
        return (now.steps - then.steps) / (now.at - then.at), (now.updates - then.updates) / (now.at - then.at)

    def recent(self) -> Times:
        """Times of the last seconds; once learning has begun, none of those before."""
        if not self._marks:
            return Times()
        then = self._marks[0]
        if self._first is not None and then.at < self._first.at:
            then = self._first
        return _times(then, self._marks[-1])

    def learning(self) -> Times:
        """Times since learning began."""
        return _times(self._first, self._marks[-1]) if self._first else Times()

    def actors(self) -> tuple[ActorNow, ...]:
        """All actors."""
        found = []
        for name in self._actors:
            part, speed = self._parts[name], 0.0
            if len(self._marks) > 1:
                then, now = self._marks[0], self._marks[-1]
                speed = (now.acted[name] - then.acted[name]) / (now.at - then.at)
            found.append(ActorNow(name, speed, getattr(part, "restarts", None), part.lag_updates))
        return tuple(found)

    def memories(self) -> tuple[MemoryNow, ...]:
        """All memories."""
        return tuple(
            MemoryNow(
                min(memory.inserted_steps, memory.capacity_steps),
                memory.capacity_steps,
                memory.samples_per_insert,
                memory.samples_per_insert_asked,
            )
            for memory in self._memories
        )


def _times(then: Mark, now: Mark) -> Times:
    seconds = now.at - then.at
    if seconds <= 0:
        return Times()
    spent = {process: since(then.spent.get(process, {}), here) for process, here in now.spent.items()}
    home = {name: spent_here / seconds for name, spent_here in spent.pop(HOME, {}).items()}
    home["other"] = max(0.0, 1.0 - sum(home.values()))  # messages, metrics, checkpoints
    acting = [_shares(here) for here in spent.values() if here.get("environment")]
    names = dict.fromkeys(name for here in acting for name in here)
    return Times(home, {name: sum(here.get(name, 0.0) for here in acting) / len(acting) for name in names})


def since(then: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Seconds spent between two readings of a process; if it is another process by now, those of the new one."""
    if sum(now.values()) < sum(then.values()):
        then = {}
    return {name: seconds - then.get(name, 0.0) for name, seconds in now.items()}


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    total = sum(seconds.values())
    return {name: spent / total for name, spent in seconds.items()}
