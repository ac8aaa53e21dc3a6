"""Where a run stands: one immutable picture of it, which displays draw and the final summary reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

BUSY_SHARE = 0.1
"""Who waits less than this share of its time is busy all the time, as far as a run's speed goes."""

IDLE_SHARE = 0.35
"""Learner and actors that all wait more than this share of their time wait for each other."""


@dataclass(frozen=True)
class Times:
    """What processes spent their wall time on: shares of it by activity, 0 to 1.

    home: the process that learns; everything, if there is only one.
    actors: the mean over the actors' processes, which may learn too; empty if actors have none of their own.
    """

    home: Mapping[str, float] = field(default_factory=dict)
    actors: Mapping[str, float] = field(default_factory=dict)

    @property
    def actors_learn(self) -> bool:
        """Whether each actor has a learner in its process."""
        return "learning" in self.actors

    @property
    def learner_waits(self) -> float:
        """Share of its time that the home process had nothing to do."""
        return self.home.get("waiting for actors", 0.0)

    @property
    def actors_wait(self) -> float:
        """Share of their time that actors might not write."""
        return self.actors.get("waiting", 0.0)


@dataclass(frozen=True)
class ActorNow:
    """One actor: its speed, how often it had to be replaced (None: it shares a process), and how many updates old the weights of its last unroll were."""

    name: str
    steps_per_second: float = 0.0
    restarts: int | None = None
    lag_updates: float | None = None


@dataclass(frozen=True)
class MemoryNow:
    """One memory: steps kept of how many, samples for each insert since sampling began, and what was asked for (None: no limit)."""

    kept_steps: int
    capacity_steps: int
    samples_per_insert: float | None
    samples_per_insert_asked: float | None


@dataclass(frozen=True)
class Progress:
    """Counts since the run began, speeds of the last seconds, and what the parts say.

    seconds are wall time, without the time between a stop and its resume. return_mean is over the last 100 training episodes.
    recent: times of the last seconds; learning: times since the first update, or since the run was resumed.
    """

    steps: int
    total_steps: int
    updates: int
    episodes: int
    seconds: float
    steps_per_second: float
    updates_per_second: float
    return_mean: float | None
    evaluation_mean: float | None
    best_mean: float | None
    values: Mapping[str, float] = field(default_factory=dict)
    recent: Times = Times()
    learning: Times = Times()
    several_processes: bool = False
    actors: tuple[ActorNow, ...] = ()
    memories: tuple[MemoryNow, ...] = ()

    @property
    def seconds_left(self) -> float | None:
        """Until `total_steps`, at the present speed."""
        if self.steps_per_second <= 0:
            return None
        return max(self.total_steps - self.steps, 0) / self.steps_per_second


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    whole = round(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower_size} {lower}"
    return f"{whole} s"


def shares(times: Mapping[str, float]) -> str:
    """`learning 71%, sampling replay 11%`: the largest first."""
    return ", ".join(
        f"{name} {share:.0%}" for name, share in sorted(times.items(), key=lambda item: -item[1]) if share >= 0.005
    )


ADVICE = {
    "learning": "fewer updates for each step, a smaller network or more --threads would be faster",
    "sampling replay": "smaller batches or fewer updates for each step would be faster",
    "environment": "more --environments stepped together, or a faster environment, would be faster",
    "inference": "more --environments share one forward pass: that, or a smaller network, would be faster",
    "updating parameters": "more steps for each update, or a smaller network, would be faster",
    "evaluation": "fewer --eval-episodes or a larger --eval-every-steps would be faster",
}
"""What to change when most of the time goes to this."""


class Bottleneck(NamedTuple):
    """What bound a run's speed, how that shows, and what would change it; either may be empty."""

    what: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        text = f"{self.what} ({self.evidence})" if self.evidence else self.what
        return f"{text}; {self.advice}" if self.advice else text


def bottleneck(times: Times) -> Bottleneck:
    """What bound a run's speed, in words, and what would change it.

    In one process it is what took the most time, and so it is if each acts and learns. With processes for the actors it is the side that waits less: whoever
    waits, waits for the other. If nobody waits, cores are short; if all wait, the hand-over between them is too tight.
    """
    if not times.home:
        return Bottleneck("too short to tell", "", "")
    learner, actors = times.learner_waits, times.actors_wait
    if not times.actors or times.actors_learn:
        spent = times.actors or times.home
        name = _largest(spent)
        return Bottleneck(name, shares(spent), ADVICE.get(name, ""))
    waits = f"the learner waits {learner:.0%} of its time, actors {actors:.0%}"
    if max(learner, actors) < BUSY_SHARE:
        return Bottleneck("cores", waits, "more cores, or a smaller network for both sides, would be faster")
    if min(learner, actors) > IDLE_SHARE:
        return Bottleneck("handing over", waits, "longer unrolls or a wider error buffer would be faster")
    if learner <= actors:
        name = _largest(times.home)
        return Bottleneck(f"the learner: {name}", f"{shares(times.home)}; actors wait {actors:.0%}", ADVICE.get(name, ""))
    name = _largest(times.actors)
    advice = f"more --actors, where cores are free, or {ADVICE[name]}" if name in ADVICE else ""
    return Bottleneck(f"actors: {name}", f"{shares(times.actors)}; the learner waits {learner:.0%}", advice)


def _largest(times: Mapping[str, float]) -> str:
    """The activity that took the most time; waiting is none."""
    return max((share, name) for name, share in times.items() if not name.startswith("waiting"))[1]
