"""A run whose home process is an actor of the cluster: the process that was started here only watches, shows, and starts it again.

    this process              actor `Life` (the learner's CPUs and GPUs)            actors of the workers
    watch  --- stop ------->  live(life): scheduler loop, switchboard, run folder <-> ...
           <-- lines, progress
           <-- what came of it, or the news of its death: another life, which goes on from the last checkpoint

What dies with a life, its workers too, Ray ends. Where there is no room for the next one, it waits for it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from veldt.errors import RunError, VeldtError, WorkersLost
from veldt.runtime.cluster_start import ORDERS, WORDS, Cluster
from veldt.runtime.supervision import RESTARTS, RestartBudget

WORDS_SECONDS = 0.5
"""Between two looks at the progress of a life."""

WAIT_SECONDS = 0.1
"""Signals are handled between two waits: two that come within one wait count as one."""

WAITING_SECONDS = 30.0
"""After so long without room on the cluster one says so, again and again."""

HEAD_SECONDS = 60.0
"""A life that is silent for so long after the head of the cluster went is lost too: it has had time for its checkpoint."""


class Place(NamedTuple):
    """Where a life is: the id and the address of its node, and its process."""

    node: str
    address: str
    process: int


class Words(NamedTuple):
    """What a life has to say: lines, the newest progress, and where it is."""

    lines: list[str]
    progress: Any
    where: Place


class Outcome(NamedTuple):
    """What came of a life: a result, or the error that ended it; and its last words."""

    result: Any
    error: Exception | None
    words: Words


class Life:
    """One life of a run's home process. To `live` it is a display, and what says when to stop."""

    def __init__(self, live: Callable[[Life], Any]) -> None:
        import ray

        self._live = live
        node, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        self._where = Place(str(node), str(address), os.getpid())
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._progress: Any = None
        self._caught: list[str] = []
        self._over = False

    # ---- for whoever lives ---------------------------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """A line for the user."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def update(self, progress: Any) -> None:
        """The present state."""
        with self._changed:
            self._progress = progress

    def close(self) -> None:
        """The screen is elsewhere."""

    @contextmanager
    def stops(self, stop_at_once: Callable[[], str]) -> Iterator[list[str]]:
        """The names of the signals that the watching process caught. Of the second, this process hears nothing: it is killed."""
        yield self._caught

    # ---- for whoever watches -------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Lives."""
        result, error = None, None
        try:
            result = self._live(self)
        except VeldtError as failed:
            error = failed
        except BaseException as failed:
            error = RunError(f"{type(failed).__name__}: {failed}\n{traceback.format_exc().rstrip()}")
        with self._changed:
            self._over = True
            self._changed.notify_all()
            return Outcome(result, error, self._take())

    def fetch(self) -> Words:
        """What there is to say: lines as soon as there are any, progress after a while."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines) or self._over, WORDS_SECONDS)
            return self._take()

    def stop(self, signal: str) -> None:
        """The watching process caught `signal`."""
        self._caught.append(signal)

    def _take(self) -> Words:
        lines, self._lines = self._lines, []
        return Words(lines, self._progress, self._where)


class Watch:
    """Watches one life after the other, until one comes to its end."""

    def __init__(
        self, cluster: Cluster, say: Callable[[str], None], update: Callable[[Any], None], stuck_seconds: float
    ) -> None:
        """Args:
        cluster: where lives are placed.
        say, update: show the user what a life says, and its progress.
        stuck_seconds: a life that does not answer for so long is killed.
        """
        self._cluster, self._say, self._update, self._stuck_seconds = cluster, say, update, stuck_seconds
        self._stuck = False
        self._budget = RestartBudget(RESTARTS)
        self.where: Place | None = None
        """Where the present life is, once it is there."""
        self.actor: Any = None

    def run(self, live: Callable[[int], Callable[[Life], Any]], caught: list[str]) -> Any:
        """The result of the first life that is not cut short. Life number n is `live(n)`; `caught`: signals, as they come.

        Raises:
            VeldtError: the one that ended a life.
            RunError: lives were cut short too often.
        """
        number = 0
        while True:
            outcome = self._watch(live(number), caught)
            if isinstance(outcome, Outcome):
                if outcome.error is not None:
                    raise outcome.error
                return outcome.result
            how = self._how(outcome)
            again = self._budget.next_start(time.monotonic())
            if again is None or caught:
                raise RunError(f"{how}; {self._budget.why if again is None else 'the run was to end'}: not started again")
            self._say(f"{how}; started again, to go on from its last checkpoint")
            time.sleep(max(0.0, again - time.monotonic()))
            number += 1

    def _watch(self, live: Callable[[Life], Any], caught: list[str]) -> Outcome | Exception:
        """What came of one life, or the news of its death."""
        import ray

        self._place(live)
        running, asked, told = self.actor.run.remote(), self._ask(), False
        heard = looked = said = time.monotonic()
        while True:
            ready, _ = ray.wait([running, asked] if asked is not None else [running], timeout=WAIT_SECONDS)
            now = time.monotonic()
            if caught and not told:
                told = True
                self.actor.stop.options(concurrency_group=ORDERS).remote(caught[0])
            if asked in ready:
                heard, asked = now, self._hear(asked)
            if running in ready:
                try:
                    outcome: Outcome = ray.get(running)
                except ray.exceptions.RayError as error:
                    return error  # type: ignore[no-any-return]
                self._show(outcome.words)
                return outcome
            if now - looked >= WORDS_SECONDS:
                looked = now
                gone = self._cluster.head_gone() if now - heard > WORDS_SECONDS * 4 else None
                if gone is not None and now - heard > HEAD_SECONDS:
                    raise WorkersLost(gone)
            if self.where is not None and now - heard > self._stuck_seconds and not self._stuck:
                self._stuck = True
                self._cluster.kill_process(self.where.node, self.where.process)
            if self.where is None and now - said > WAITING_SECONDS:
                said = now
                self._say("the learner waits for room on the cluster")

    def _place(self, live: Callable[[Life], Any]) -> None:
        self.actor, self.where, self._stuck = self._cluster.place_home(live), None, False

    def _ask(self) -> Any:
        return self.actor.fetch.options(concurrency_group=WORDS).remote()

    def _hear(self, asked: Any) -> Any:
        """Shows an answer; the next question, or None if there will be no answer: its death is news of its own."""
        import ray

        try:
            self._show(ray.get(asked))
        except ray.exceptions.RayError:
            return None
        return self._ask()

    def _show(self, words: Words) -> None:
        self.where = words.where
        for line in words.lines:
            self._say(line)
        if words.progress is not None:
            self._update(words.progress)

    def _how(self, error: Exception) -> str:
        """How a life was cut short, in words."""
        if self.where is None:
            return f"learner ended while it was being started: {error}"
        if self._cluster.lost(self.where.node):
            return f"node {self.where.address} lost with the learner"
        if self._stuck:
            return f"learner on node {self.where.address} did not answer for {self._stuck_seconds:g} s and was killed"
        return f"learner on node {self.where.address} was killed (likely out of memory)"

    def kill(self) -> None:
        """Ends the present life and all its workers at once."""
        import ray

        if self.actor is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self.actor)
        self._cluster.kill()
