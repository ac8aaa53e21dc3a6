"""What a run shows while it goes: a live panel on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from veldt.runs.progress import BUSY_SHARE, ActorNow, MemoryNow, Progress, bottleneck, duration, shares

SPARKS = "▁▂▃▄▅▆▇█"
WIDTH = 118
SHOWN = ("loss", "policy_lag_updates", "replay_fill", "samples_per_insert", "restarts")
"""Metrics that have a place of their own in the panel."""

MOST_ACTORS = 6
"""More are shown as one line for all."""


class Speaker(Protocol):
    """Says things."""

    def say(self, line: str) -> None:
        """Prints one line that stays."""


class Display(Speaker, Protocol):
    """Shows progress and says things."""

    def update(self, progress: Progress) -> None:
        """Shows the present state."""

    def close(self) -> None:
        """Leaves the screen as it is."""


def make_display(title: str, quiet: bool) -> Display:
    """The display for where the output goes."""
    if quiet:
        return Quiet()
    return LivePanel(title) if sys.stdout.isatty() else PlainLines(title)


class Quiet:
    """Says nothing but what went wrong."""

    def update(self, progress: Progress) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing to close."""


class PlainLines:
    """One line for every twentieth of the run, for logs and pipes."""

    def __init__(self, title: str) -> None:
        print(title, flush=True)
        self._next = 0.0

    def update(self, progress: Progress) -> None:
        """A line, if enough has happened since the last one."""
        done = progress.steps / progress.total_steps
        if done < self._next:
            return
        self._next = (int(done * 20) + 1) / 20
        print(
            f"step {progress.steps:>10,} ({done:4.0%})  {progress.steps_per_second:8,.0f} steps/s  "
            f"{progress.updates_per_second:7,.0f} updates/s  return {_number(progress.return_mean)}  "
            f"eval {_number(progress.evaluation_mean)}  loss {_number(progress.values.get('loss'))}",
            flush=True,
        )

    def say(self, line: str) -> None:
        """Prints it."""
        print(line, flush=True)

    def close(self) -> None:
        """Nothing to close."""


class LivePanel:
    """A panel that is redrawn with every update: about 5 ms."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console()
        self._history: list[float] = []
        self._live = Live(Text("starting"), console=self._console, auto_refresh=False, transient=False)
        self._live.start(refresh=True)

    def update(self, progress: Progress) -> None:
        """Redraws the panel."""
        if progress.return_mean is not None:
            self._history = [*self._history[-199:], progress.return_mean]
        self._live.update(self._draw(progress), refresh=True)

    def _draw(self, progress: Progress) -> Panel:
        left = progress.seconds_left
        grid = Grid.grid(padding=(0, 3))
        for _ in range(4):
            grid.add_column(justify="right", min_width=10)
        grid.add_row(*(Text(name, style="dim") for name in ("steps", "steps/s", "updates", "updates/s")))
        grid.add_row(
            f"{progress.steps:,}",
            f"{progress.steps_per_second:,.0f}",
            f"{progress.updates:,}",
            f"{progress.updates_per_second:,.0f}",
        )
        grid.add_row(*(Text(name, style="dim") for name in ("return", "evaluation", "best", "loss")))
        grid.add_row(
            Text(_number(progress.return_mean), style="bold green"),
            _number(progress.evaluation_mean),
            _number(progress.best_mean),
            _number(progress.values.get("loss")),
        )
        bar = Grid.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=progress.total_steps, completed=progress.steps, width=40),
            f"{progress.steps / progress.total_steps:.0%}",
            f"{duration(progress.seconds)} gone, {'?' if left is None else duration(left)} left",
        )
        rest = "  ".join(f"{name} {value:.3g}" for name, value in progress.values.items() if name not in SHOWN)
        lines = (f"return    {sparkline(self._history)}", *describe(progress))
        shown = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
        last = Text(rest, style="dim", no_wrap=True, overflow="ellipsis")
        width = min(WIDTH, self._console.width)
        return Panel(Group(grid, *shown, last, bar), title=self._title, width=width)

    def say(self, line: str) -> None:
        """Prints it above the panel."""
        self._console.print(line, highlight=False)

    def close(self) -> None:
        """Leaves the last panel on the screen."""
        self._live.stop()


def describe(progress: Progress) -> list[str]:
    """Lines about the actors, the tables, the learner and what binds them: as many at the start of a run as at its end."""
    times = progress.recent
    lines = [_actor_line(actor) for actor in progress.actors]
    if len(lines) > MOST_ACTORS:
        lines = [_actors_line(progress.actors)]
    if progress.several_processes:
        lines.append(f"{'workers' if times.actors_learn else 'actors':8}  {shares(times.actors) or '-'}")
    tables = [_memory_line(memory, progress) for memory in progress.memories]
    lines += tables if len(tables) <= MOST_ACTORS else [f"{len(tables):,} tables, such as", tables[0]]
    if not times.actors_learn:
        lines.append(f"{'learner' if progress.several_processes else 'time':8}  {shares(times.home) or '-'}")
    bound = bottleneck(times)._replace(evidence="") if progress.updates else "the replay is filling: no update yet"
    return [*lines, f"bound by  {bound}"]


def _actor_line(actor: ActorNow) -> str:
    lag = "- updates" if actor.lag_updates is None else _count(round(actor.lag_updates), "update")
    restarts = "" if actor.restarts is None else f"{_count(actor.restarts, 'restart')}   "
    return f"{actor.name:8}  {actor.steps_per_second:8,.0f} steps/s   {restarts}weights {lag} old"


def _actors_line(actors: tuple[ActorNow, ...]) -> str:
    speeds, lags = [actor.steps_per_second for actor in actors], [actor.lag_updates or 0 for actor in actors]
    return (
        f"{len(actors):,} actors  {min(speeds):,.0f} to {max(speeds):,.0f} steps/s each   "
        f"{_count(sum(actor.restarts or 0 for actor in actors), 'restart')}   "
        f"weights {sum(lags) / len(lags):,.0f} updates old, at most {max(lags):,.0f}"
    )


def _count(number: float, what: str) -> str:
    return f"{number:,.0f} {what}" if number == 1 else f"{number:,.0f} {what}s"


def _memory_line(memory: MemoryNow, progress: Progress) -> str:
    asked = memory.samples_per_insert_asked
    text = (
        f"table     {memory.kept_steps:,} of {memory.capacity_steps:,} steps   samples per insert "
        f"{_number(memory.samples_per_insert)} of {'any' if asked is None else _number(asked)}"
    )
    return f"{text}   {_who_waits(progress)}" if progress.several_processes and not progress.recent.actors_learn else text


def _who_waits(progress: Progress) -> str:
    times = progress.recent
    if not progress.updates:
        return "the learner waits for the first steps"
    if max(times.learner_waits, times.actors_wait) < BUSY_SHARE:
        return "nobody waits"
    if times.learner_waits > times.actors_wait:
        return f"the learner waits for steps {times.learner_waits:.0%}"
    return f"actors wait for samples {times.actors_wait:.0%}"


def sparkline(values: list[float], width: int = 40) -> str:
    """`values`, at most `width` of them, as bars between the smallest and the largest."""
    if not values:
        return ""
    step = max(1, len(values) // width)
    shown = values[::-1][::step][:width][::-1]
    low, high = min(shown), max(shown)
    return "".join(SPARKS[int((value - low) / (high - low or 1.0) * 7.999)] for value in shown)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@contextmanager
def warnings_shown(display: Speaker) -> Iterator[None]:
    """Veldt's own warnings go where the run's lines go."""
    show = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        display.say(f"warning: {message}")

    warnings.showwarning = say  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = show
