"""How a run took what was done to it: the table, the verdict, the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from veldt.chaos.schedule import Fault

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of SIGINT."""


@dataclass
class Outcome:
    """Of one fault.

    step: agent steps when it happened. recovered_seconds: from the fault, or the end of it, until the part contributed data
    again; None: it did not. lost: what it cost, in words. problem: what went wrong, if something did.
    """

    fault: Fault
    step: int
    recovered_seconds: float | None = None
    lost: str = ""
    problem: str | None = None


@dataclass
class ChaosReport:
    """All that was done, and how the run ended.

    evaluation_means: of the evaluations after the last fault, in order. processes_left: of the run, when it had ended.
    descriptors_before, descriptors_after: of the run's last main process, when it was first seen with all its workers, and after the
        last fault.
    """

    system: str
    env: str
    folder: str
    seed: int
    score: float | None
    outcomes: list[Outcome] = field(default_factory=list)
    not_done: list[Fault] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    restarts: int = 0
    ended: str | None = None
    error: str | None = None
    interrupted: bool = False
    evaluation_means: list[float] = field(default_factory=list)
    processes_left: list[int] = field(default_factory=list)
    shared_memory_left: list[str] = field(default_factory=list)
    descriptors_before: int | None = None
    descriptors_after: int | None = None

    @property
    def exit_status(self) -> int:
        """0 if there is no problem; as any program that Ctrl-C ended if it was that."""
        return INTERRUPTED if self.interrupted else 1 if self.problems() else 0

    def problems(self) -> list[str]:
        """Why chaos was not survived; empty if it was."""
        found = []
        if self.ended not in ("steps", "return"):
            found.append(f"the run did not finish: {self.error or self.ended}")
        for outcome in self.outcomes:
            what = f"{outcome.fault.target} {outcome.fault.words} at step {outcome.step:,}"
            if outcome.problem is not None:
                found.append(f"{what}: {outcome.problem}")
            elif outcome.recovered_seconds is None:
                found.append(f"{what}: had not recovered when the run ended; more --steps leave it more time")
        if self.not_done:
            planned = ", ".join(f"{fault.target} {fault.words} from step {fault.step:,} on" for fault in self.not_done)
            found.append(f"the run ended first: {planned}; use more --steps or fewer --events")
        if self.score is not None and not self.reached_score:
            best = f"{max(self.evaluation_means):.4g}" if self.evaluation_means else "no evaluation"
            found.append(f"the score {self.score:g} was not reached after the last fault: {best}")
        if self.processes_left:
            found.append(f"processes left: {', '.join(map(str, self.processes_left))}")
        if self.shared_memory_left:
            found.append(f"left in /dev/shm: {', '.join(self.shared_memory_left)}")
        if self.descriptors_lost > 0:
            found.append(f"descriptors of the main process grew from {self.descriptors_before} to {self.descriptors_after}")
        return found

    @property
    def reached_score(self) -> bool:
        """Whether an evaluation after the last fault reached the score."""
        return self.score is not None and any(mean >= self.score for mean in self.evaluation_means)

    @property
    def descriptors_lost(self) -> int:
        """By how many the open descriptors of the main process grew; 0 if that could not be seen."""
        if self.descriptors_before is None or self.descriptors_after is None:
            return 0
        return self.descriptors_after - self.descriptors_before

    def json(self) -> str:
        """All of it as JSON."""
        derived = {"problems": self.problems(), "reached_score": self.reached_score if self.score is not None else None}
        return json.dumps({**asdict(self), **derived}, indent=1)

    def __str__(self) -> str:
        header = ("step", "part", "what was done", "recovered", "what it cost")
        rows = [
            (
                f"{outcome.step:,}",
                outcome.fault.target,
                outcome.fault.words,
                "no" if outcome.recovered_seconds is None else f"{outcome.recovered_seconds:.1f} s",
                outcome.problem or outcome.lost,
            )
            for outcome in self.outcomes
        ]
        return "\n".join([*_aligned(header, rows), "", *self._ending()])

    def _ending(self) -> list[str]:
        means = self.evaluation_means
        score = f"evaluation at the end {means[-1]:.4g}" if means else "no evaluation after the last fault"
        if self.score is not None:
            score += f", best after the last fault {max(means):.4g}" if means else ""
            score += f"; score {self.score:g} {'reached' if self.reached_score else 'not reached'}"
        lines = [
            f"{self.system} on {self.env}, seed {self.seed}: {self.steps:,} steps in {self.seconds:.0f} s, "
            f"{self.restarts} restarts of workers, {score}",
            f"left behind: {len(self.processes_left)} processes, {len(self.shared_memory_left)} entries in /dev/shm; "
            f"descriptors of the main process {_number(self.descriptors_before)} before, {_number(self.descriptors_after)} after",
            f"run folder: {self.folder}",
        ]
        problems = self.problems()
        return [*lines, *(f"problem: {problem}" for problem in problems), "NOT SURVIVED" if problems else "survived"]


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)


def _aligned(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; the first one to the right, as numbers are."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return [
        "  ".join(cell.rjust(width) if not column else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip
