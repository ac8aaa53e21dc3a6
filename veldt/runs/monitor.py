"""The monitor: looks at a run after each round of its loop. Counts, logs, keeps the best policy, decides when to stop.

Everything in the metrics table is taken at fixed agent steps, so that two runs of the same seed write the same table; wall
time decides only when to redraw and when to save a checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veldt.core import Parameters, RunMemory, State
from veldt.parts.evaluator import Evaluation
from veldt.runs.display import Display
from veldt.runs.gauges import Gauges
from veldt.runs.metrics import EVAL_RETURN, TRAIN_RETURN, MetricsTable
from veldt.runs.options import RunOptions
from veldt.runs.progress import Progress

REDRAW_SECONDS = 0.5

PORTIONS = 16
"""Of several memories, each may be a run's length divided by so many, and by the memories, ahead of what is known of it."""

COUNTS = ("restarts", "skipped_updates", "outlying_updates", "stale_gradients", "rejected_gradients")
"""Metrics that count something since the run began."""


class Monitor:
    """Counts and decides; what it finds it hands to `on_best` (a policy to keep) and `on_checkpoint`."""

    def __init__(
        self,
        parts: Mapping[str, Any],
        memories: Sequence[RunMemory],
        parameters: Parameters,
        options: RunOptions,
        table: MetricsTable,
        display: Display,
        *,
        frames_per_step: int,
        on_best: Callable[[Evaluation], None],
        on_checkpoint: Callable[[], None],
    ) -> None:
        """Args:
        parts: the running parts, by name.
        memories: those of them that count agent steps.
        parameters: the weights, whose version counts updates.
        options: what the user chose.
        table, display: where metrics go.
        frames_per_step: emulator ticks of one agent step.
        on_best: called with an evaluation that is at least as good as all before.
        on_checkpoint: saves a checkpoint.
        """
        self._parts = parts
        self._options, self._table, self._display = options, table, display
        self._frames_per_step = frames_per_step
        self._on_best, self._on_checkpoint = on_best, on_checkpoint
        self._memories, self._parameters = memories, parameters
        self._share_out()
        self._evaluator = parts["evaluator"]
        actors = [name for name, part in parts.items() if hasattr(part, "pop_episodes") and part is not self._evaluator]
        self._actors = [parts[name] for name in actors]
        self._gauges = Gauges(parts, actors, memories)
        self._next_log = options.log_period_steps
        self._last_log = -1
        self._returns: deque[float] = deque(maxlen=100)
        self._lengths: deque[int] = deque(maxlen=100)
        self.episodes = 0
        self.evaluation_mean: float | None = None
        self.best_mean: float | None = None
        self.best_step = 0
        self._values: dict[str, float] = {}
        self.stop_reason: str | None = None
        self._seconds_before = 0.0
        self._started = self._last_checkpoint = self._last_draw = time.perf_counter()

    @property
    def steps(self) -> int:
        """Agent steps taken."""
        return sum(memory.inserted_steps for memory in self._memories)

    @property
    def updates(self) -> int:
        """Updates that all of the weights have seen."""
        return self._parameters.version

    @property
    def wall_seconds(self) -> float:
        """Wall time of this run, without the time between a stop and its resume."""
        return self._seconds_before + time.perf_counter() - self._started

    def after_round(self) -> bool:
        """Looks at the run; False when it should stop."""
        steps = self.steps
        self.read_episodes()  # in every round: which were the last 100 must not depend on when somebody looked
        if steps >= self._next_log:
            self._log(steps)
        self._read_evaluations()
        if not self._share_out():
            self.stop_reason = self.stop_reason or "steps"
        self._look_at_clock()
        return self.stop_reason is None

    def _share_out(self) -> bool:
        """Gives each memory some of the steps that are left, so that there are never too many; False if none has an unroll's worth.

        What was given is not taken back: one in another process, or on another machine, may have used it before it is told.
        """
        memories, total = [memory for memory in self._memories if not memory.abandoned], self._options.steps
        portion = max(total // (PORTIONS * len(self._memories)), *(2 * memory.insert_steps for memory in self._memories))
        ends = [max(memory.most_steps or 0, memory.inserted_steps) for memory in memories]
        left = total - sum(ends) - sum(memory.inserted_steps for memory in self._memories if memory.abandoned)
        for number, memory in enumerate(memories):
            more = left if len(memories) == 1 else min(left, memory.inserted_steps + portion - ends[number])
            ends[number] += max(0, more)
            left -= max(0, more)
            memory.most_steps = ends[number]
        return any(memory.insert_steps <= end - memory.inserted_steps for memory, end in zip(memories, ends, strict=True))

    def _log(self, steps: int) -> None:
        period = self._options.log_period_steps
        self._next_log, self._last_log = (steps // period + 1) * period, steps
        reported: dict[str, list[float]] = {}
        for part in self._parts.values():
            if hasattr(part, "metrics"):
                for name, value in part.metrics().items():
                    reported.setdefault(name, []).append(value)
        values = {name: combined(name, found) for name, found in reported.items()}
        self._values = dict(values)
        if self._returns:
            values[TRAIN_RETURN] = sum(self._returns) / len(self._returns)
            values["train/length_steps"] = sum(self._lengths) / len(self._lengths)
        values["episodes"] = self.episodes
        values["frames"] = steps * self._frames_per_step
        self._table.write(steps, self.updates, self.wall_seconds, values)

    def read_episodes(self) -> None:
        """Takes the finished training episodes from the actors."""
        for actor in self._actors:
            for episode in actor.pop_episodes():
                self.episodes += 1
                self._returns.append(episode.episode_return)
                self._lengths.append(episode.length_steps)

    def _read_evaluations(self) -> None:
        for evaluation in self._evaluator.pop_evaluations():
            mean = self.evaluation_mean = evaluation.return_mean
            values = {
                EVAL_RETURN: mean,
                "eval/return_min": float(evaluation.returns.min()),
                "eval/return_max": float(evaluation.returns.max()),
                "eval/length_steps": float(evaluation.lengths_steps.mean()),
            }
            self._table.write(evaluation.step, self.updates, self.wall_seconds, values)
            if self.best_mean is None or mean >= self.best_mean:
                self.best_mean, self.best_step = mean, evaluation.step
                self._on_best(evaluation)
            target = self._options.until_return
            if target is not None and mean >= target:
                self.stop_reason = "return"

    def conclude(self, stopping: Callable[[], bool]) -> None:
        """Evaluates the final weights, unless the run is `stopping`, and writes the last rows."""
        self._evaluator.conclude(stopping)
        self._read_evaluations()
        if self._last_log < self.steps:
            self._log(self.steps)

    def _look_at_clock(self) -> None:
        now = time.perf_counter()
        if now - self._last_draw >= REDRAW_SECONDS:
            self._last_draw = now
            self.read_gauges()
            self._display.update(self.progress())
        if self._options.minutes is not None and self.wall_seconds >= 60 * self._options.minutes:
            self.stop_reason = self.stop_reason or "minutes"
        if now - self._last_checkpoint >= 60 * self._options.checkpoint_minutes:
            self._on_checkpoint()
            self._last_checkpoint = time.perf_counter()

    def read_gauges(self) -> None:
        """Takes a reading of speeds and times."""
        self._gauges.read(self.steps, self.updates)

    def progress(self) -> Progress:
        """Where the run stands."""
        steps_per_second, updates_per_second = self._gauges.speeds()
        return Progress(
            steps=self.steps,
            total_steps=self._options.steps,
            updates=self.updates,
            episodes=self.episodes,
            seconds=self.wall_seconds,
            steps_per_second=steps_per_second,
            updates_per_second=updates_per_second,
            return_mean=self.return_mean,
            evaluation_mean=self.evaluation_mean,
            best_mean=self.best_mean,
            values=self._values,
            recent=self._gauges.recent(),
            learning=self._gauges.learning(),
            several_processes=self._gauges.several_processes,
            actors=self._gauges.actors(),
            memories=self._gauges.memories(),
        )

    @property
    def return_mean(self) -> float | None:
        """Mean return of the last 100 training episodes."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    def state_dict(self) -> State:
        """Counters, and the episodes behind the means."""
        return {
            "next_log": self._next_log,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "episodes": self.episodes,
            "evaluation_mean": self.evaluation_mean,
            "best_mean": self.best_mean,
            "best_step": self.best_step,
            "wall_seconds": self.wall_seconds,
            "finished_steps": self._options.steps if self.stop_reason == "steps" else 0,
        }

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        period = self._options.log_period_steps
        self._next_log = min(int(state["next_log"]), (self.steps // period + 1) * period)
        self._returns.extend(state["returns"])
        self._lengths.extend(state["lengths"])
        self.episodes = int(state["episodes"])
        self.evaluation_mean, self.best_mean = state["evaluation_mean"], state["best_mean"]
        self.best_step = int(state["best_step"])
        self._seconds_before = float(state["wall_seconds"])
        self._share_out()


def combined(name: str, values: Sequence[float]) -> float:
    """One number for what several parts report under one name: counts are added, of maxima the largest is taken, else the mean."""
    if name in COUNTS:
        return sum(values)
    return max(values) if name.endswith("_max") else sum(values) / len(values)
