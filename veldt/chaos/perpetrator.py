"""Does to a live run what the schedule says, and watches it recover.

The run is in a process of its own (`watched`). From outside, one sees what it tells, its run folder and /proc, and one can
send signals. What is done to one part is a generator here: it does something, and yields while there is nothing to do but wait.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from veldt.chaos import traces
from veldt.chaos.outcome import ChaosReport, Outcome
from veldt.chaos.schedule import RUN, Fault, make_schedule
from veldt.chaos.watched import Ended, Failed, Line, Order, Seen, Sight, live
from veldt.errors import UserError
from veldt.request import Request
from veldt.runs.folder import RunFolder
from veldt.runs.metrics import EVAL_RETURN, Series, read
from veldt.runtime.supervision import RESTARTS

TICK_SECONDS = 0.02
FREEZE_SECONDS = 2.0
STARVE_SECONDS = 3.0
STARVE_CYCLE_SECONDS, STARVE_RUN_SECONDS = 0.2, 0.02
"""A starved part runs for this share of each cycle and is stopped for the rest."""

GONE_SECONDS = 5.0
"""Within so long all processes of a run whose main process was killed must be gone."""

GRACE_SECONDS = 15.0
"""What an interrupted run gets to save and end."""

EVALUATION_LOOK_SECONDS = 0.5
DEATHS_KEPT = RESTARTS.rate_cap - 2
"""No part is killed more often than this within `RESTARTS.rate_seconds`: it would be quarantined, as it should be."""

Deed = Generator[None, None, None]


class Perpetrator:
    """One run, what is done to it, and what became of it."""

    def __init__(self, request: Request, order: Order, events: int, score: float | None, say: Callable[[str], None]) -> None:
        """Args:
        request: the run as it will be, checked.
        order: the same, as it is sent to the run's process.
        events: how many faults.
        score: mean return that an evaluation after the last fault must reach; None: none.
        say: prints a line.
        """
        self._request, self._order, self._events, self._say = request, order, events, say
        self._folder = request.folder
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._pending: list[Fault] | None = None
        self._open: dict[str, Deed] = {}
        self._kills: dict[str, list[float]] = {}
        self._sight: Sight | None = None
        self._evaluations_looked, self._evaluations = 0.0, 0
        self._restarts_before = 0
        self._over = False
        self.report = ChaosReport(
            request.system.name, request.env_name, str(self._folder), request.run.seed, score
        )  # fmt: skip

    def run(self) -> ChaosReport:
        """Starts the run, does it all, and waits for the end.

        Raises:
            UserError: the run refused to start.
        """
        began, shared_before = time.monotonic(), traces.shared_memory()
        self._start(self._order)
        try:
            while not self._over:
                self._pump()
                self._advance()
        except KeyboardInterrupt:
            self._interrupt()
        finally:
            self._connection.close()
            self._process.join(GRACE_SECONDS)
            self.report.processes_left = self._await_gone(GONE_SECONDS)
            for pid in self.report.processes_left:
                _send(pid, signal.SIGKILL)
        report = self.report
        report.seconds, report.shared_memory_left = time.monotonic() - began, traces.abandoned(shared_before)
        report.restarts = self._restarts_before + self._restarts()
        report.not_done = self._pending or []
        last = max((outcome.step for outcome in report.outcomes), default=0)
        series = self._read_evaluations()
        if series is not None:
            report.evaluation_means = [
                float(mean) for step, mean in zip(series.steps, series.values, strict=True) if step > last
            ]
        return report

    # ---- the run ---------------------------------------------------------------------------------------------------------

    def _start(self, order: Order) -> None:
        context = multiprocessing.get_context("spawn")
        multiprocessing.resource_tracker.ensure_running()  # ours, so without the mark
        self._connection, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=live, args=(order, theirs), name="run")
        os.environ[traces.MARK] = self._mark
        try:
            self._process.start()
        finally:
            del os.environ[traces.MARK]
            theirs.close()
        self._sight = None
        self.report.descriptors_before = self.report.descriptors_after = None

    def _pump(self) -> None:
        """Takes what the run tells; waits a tick if it tells nothing."""
        try:
            waiting = self._connection.poll(TICK_SECONDS)
            while waiting:
                self._take(self._connection.recv())
                waiting = self._connection.poll()
        except EOFError:
            self._process.join(GRACE_SECONDS)
            self._over = True
            if self.report.ended is None and self.report.error is None:
                self.report.error = f"its main process ended with exit code {self._process.exitcode}"

    def _take(self, message: Any) -> None:
        if isinstance(message, Sight):
            self._sight = message
            self.report.steps = message.step
            if self._pending is None:
                self._plan(message)
            self._count_descriptors()
        elif isinstance(message, Line):
            self._say(message.text)
        elif isinstance(message, Ended):
            self.report.ended, self.report.steps = message.stopped_by, message.steps
        elif isinstance(message, Failed):
            if self._pending is None and isinstance(message.error, UserError):
                raise message.error
            self.report.error = "\n".join([str(message.error), *getattr(message.error, "__notes__", ())])

    def _plan(self, sight: Sight) -> None:
        """Makes the schedule, now that the run's parts are known: those of the actors' bundle write, the others do not."""
        evaluators = [who.label for who in sight.crew if who.bundle == "evaluation"]
        actors = [who.label for who in sight.crew if who.bundle != "evaluation"]
        run = self._request.run
        self._pending = list(make_schedule(actors, evaluators, run.steps, self._events, run.seed))
        for fault in self._pending:
            self._say(f"chaos: planned from step {fault.step:,}: {fault.target} {fault.words}")

    def _interrupt(self) -> None:
        """Ctrl-C: the run saves and ends, as it would alone. It has a process group of its own, so this is its only signal."""
        self.report.interrupted = True
        self._open.clear()
        for who in self._sight.crew if self._sight else ():
            _send(who.pid, signal.SIGCONT)
        _send(self._process.pid, signal.SIGINT)
        until = time.monotonic() + GRACE_SECONDS
        while not self._over and time.monotonic() < until:
            self._pump()

    # ---- deeds -----------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        for target, deed in list(self._open.items()):
            if next(deed, "done") == "done":
                del self._open[target]
        if self._pending and self._may(self._pending[0]):
            fault = self._pending.pop(0)
            assert self._sight is not None
            outcome = Outcome(fault, self._sight.step)
            self.report.outcomes.append(outcome)
            self._open[fault.target] = self._deed(outcome)

    def _may(self, fault: Fault) -> bool:
        """Whether it is time for `fault`, and what it is done to is there and well."""
        if self._sight is None or self._sight.step < fault.step or self._over or RUN in self._open:
            return False
        if fault.target == RUN:
            wanted = 2 if fault.kind == "damage" else 1
            return not self._open and self._settled() and len(self._checkpoints()) >= wanted
        now = time.monotonic()
        recent = [at for at in self._kills.get(fault.target, ()) if now - at < RESTARTS.rate_seconds]
        return fault.target not in self._open and self._seen(fault.target).ready and len(recent) < DEATHS_KEPT

    def _deed(self, outcome: Outcome) -> Deed:
        fault = outcome.fault
        self._say(f"chaos: step {outcome.step:,}: {fault.target} {fault.words}")
        if fault.target == RUN:
            yield from self._kill_run(outcome)
        elif fault.kind in ("freeze", "starve"):
            yield from self._slow(outcome)
        else:
            yield from self._remove(outcome)
        if outcome.recovered_seconds is not None:
            self._say(f"chaos: {fault.target} has recovered after {outcome.recovered_seconds:.1f} s")

    def _remove(self, outcome: Outcome) -> Deed:
        """Kills a worker, or freezes it until it is replaced; waits until its successor contributes."""
        label, kind = outcome.fault.target, outcome.fault.kind
        victim, began = self._seen(label), time.monotonic()
        self._kills.setdefault(label, []).append(began)
        _send(victim.pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        yield from self._until_contributing(outcome, began, gone=victim.pid)
        outcome.lost = f"{self._unfinished(victim)}; restart {self._seen(label).deaths}"
        if kind == "hang":
            outcome.lost += f"; {self._request.run.stuck_seconds:g} s of it until it counted as stuck"

    def _slow(self, outcome: Outcome) -> Deed:
        """Stops a worker for a while, or again and again; waits until it contributes after that."""
        victim, starving = self._seen(outcome.fault.target), outcome.fault.kind == "starve"
        before, began = self._commits(), time.monotonic()
        until = began + (STARVE_SECONDS if starving else FREEZE_SECONDS)
        while (now := time.monotonic()) < until:
            running = starving and (now - began) % STARVE_CYCLE_SECONDS < STARVE_RUN_SECONDS
            _send(victim.pid, signal.SIGCONT if running else signal.SIGSTOP)
            yield
        _send(victim.pid, signal.SIGCONT)
        after = self._commits()
        own = after[victim.label] - before[victim.label]
        others = sum(after.values()) - sum(before.values()) - own
        outcome.lost = f"nothing; in {until - began:g} s it wrote {own} unrolls, the others {others}"
        yield from self._until_contributing(outcome, until, gone=None)
        deaths = self._seen(victim.label).deaths - victim.deaths
        if deaths:
            outcome.problem = f"it was replaced {deaths}× though it had only been stopped for a while"

    def _until_contributing(self, outcome: Outcome, began: float, gone: int | None) -> Deed:
        """Waits until a process other than `gone` plays the part and adds to what it did before."""
        start: int | None = None
        while True:
            who = self._seen(outcome.fault.target)
            if who.quarantined:
                outcome.problem = "it was not started again"
                return
            if who.ready and who.pid not in (None, gone):
                count = self._contributions(who)
                start = count if start is None else start
                if count > start:
                    outcome.recovered_seconds = time.monotonic() - began
                    return
            yield

    def _kill_run(self, outcome: Outcome) -> Deed:
        """Kills the main process, sees that all others go, resumes from the last checkpoint that is whole."""
        began = time.monotonic()
        self._process.kill()
        with contextlib.suppress(EOFError):
            while self._connection.poll(GONE_SECONDS):
                self._take(self._connection.recv())
        self._connection.close()
        self._process.join()
        stragglers = self._await_gone(GONE_SECONDS)
        gone_seconds = time.monotonic() - began
        if stragglers:
            outcome.problem = f"{len(stragglers)} processes outlived the main one by {GONE_SECONDS:g} s"
            self._over, self.report.error = True, "it was not resumed"
            return
        outcome.step = self.report.steps
        usable = self._checkpoints()
        if outcome.fault.kind == "damage":
            _flip_a_byte(usable.pop() / "weights.safetensors")
        self._restarts_before += self._restarts()
        self._start(Order("", "", "", {}, self._folder))
        while self._sight is None:
            yield
        # The run's own word: where bundles act by themselves, some may have done so before the first sight of all.
        resumed = int(RunFolder.open(self._folder).status()["step"])
        while self._sight.step <= resumed:
            yield
        outcome.recovered_seconds = time.monotonic() - began
        outcome.lost = (
            f"{outcome.step - resumed:,} steps repeated, from {usable[-1].name}; workers gone in {gone_seconds:.1f} s"
        )
        if resumed != _step_of(usable[-1]):
            outcome.problem = f"it resumed at step {resumed:,}, but the last whole checkpoint is {usable[-1].name}"

    # ---- what is seen ----------------------------------------------------------------------------------------------------

    def _seen(self, label: str) -> Seen:
        assert self._sight is not None
        return next(who for who in self._sight.crew if who.label == label)

    def _commits(self) -> dict[str, int]:
        assert self._sight is not None
        return {who.label: who.commits for who in self._sight.crew}

    def _restarts(self) -> int:
        return sum(who.deaths for who in self._sight.crew) if self._sight else 0

    def _settled(self) -> bool:
        return self._sight is not None and all(who.ready for who in self._sight.crew)

    def _contributions(self, who: Seen) -> int:
        """Unrolls that an actor wrote, updates of a shard; evaluations, for the evaluator."""
        if who.bundle != "evaluation":
            return who.commits
        now = time.monotonic()
        if now - self._evaluations_looked >= EVALUATION_LOOK_SECONDS:
            self._evaluations_looked = now
            series = self._read_evaluations()
            self._evaluations = 0 if series is None else len(series.steps)
        return self._evaluations

    def _read_evaluations(self) -> Series | None:
        with contextlib.suppress(FileNotFoundError):
            return read(self._folder / "metrics.csv").get(EVAL_RETURN)
        return None

    def _unfinished(self, victim: Seen) -> str:
        """What a worker that ends without warning takes with it."""
        if victim.bundle == "evaluation":
            return "an evaluation under way"
        config = self._request.config  # whose system has actors, and so unrolls
        return victim.owns or f"at most {config.unroll_steps * config.environments} steps, the unroll under way"

    def _checkpoints(self) -> list[Path]:
        """Those that are whole, oldest first."""
        return sorted((self._folder / "checkpoints").glob("ckpt_*"), key=lambda path: (_step_of(path), path.name))

    def _count_descriptors(self) -> None:
        """Between faults, when all workers are there: the least seen, because files are open for moments."""
        if self._open or not self._settled() or self._pending is None:
            return
        report, count = self.report, traces.descriptors(self._process.pid or 0)
        if count and (report.descriptors_before is None or not report.outcomes):
            report.descriptors_before = min(count, report.descriptors_before or count)
        elif count and not self._pending:
            report.descriptors_after = min(count, report.descriptors_after or count)

    def _await_gone(self, seconds: float) -> list[int]:
        """Waits until no process of the run is left; those that are after so many seconds."""
        until = time.monotonic() + seconds
        while (left := traces.marked(self._mark)) and time.monotonic() < until:
            time.sleep(TICK_SECONDS)
        return left


def _send(pid: int | None, number: int) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("_")[1])


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
