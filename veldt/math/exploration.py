"""How much to explore: schedules of epsilon per environment stream, epsilon-greedy actions, linear schedules.

An exploration schedule answers for every stream at once, from the agent steps taken by all actors together and the
stream's own place among all streams; it is a frozen value without state. Refuses, at construction, values out of
range and schedules that end before they start (`ConfigError`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from veldt.errors import ConfigError


class Exploration(Protocol):
    """What one actor needs to know about exploring; the meaning of the value is its agent's business."""

    def __call__(self, step: int, index: np.ndarray, count: int) -> np.ndarray:
        """Float32 [B]: one value for each stream of an actor.

        step: agent steps of all actors so far; index: int64 [B], 0-based place of each of the actor's streams
        among all `count` streams of the run.
        """


def _must_be_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} must lie in [0, 1], got {value}")


@dataclass(frozen=True)
class LinearSchedule:
    """`start` until step `begin_steps`, then a straight line to `end` at `end_steps`, and `end` from there on.

    For learning rates and the importance exponent beta. A schedule of no length is a jump at `begin_steps`.
    """

    start: float
    end: float
    begin_steps: int
    end_steps: int

    def __post_init__(self) -> None:
        _must_go_forward("schedule", self.begin_steps, self.end_steps)

    @staticmethod
    def to_zero(start: float, steps: int | None) -> LinearSchedule | None:
        """From `start` to 0 over so many steps; None, which changes nothing, if `steps` is None."""
        return None if steps is None else LinearSchedule(start, 0.0, 0, steps)

    def __call__(self, step: int) -> float:
        """The value at agent step `step`, counted over all actors."""
        if step >= self.end_steps:
            return self.end
        if step <= self.begin_steps:
            return self.start
        done = (step - self.begin_steps) / (self.end_steps - self.begin_steps)
        return self.start + done * (self.end - self.start)


def _must_go_forward(name: str, begin_steps: int, end_steps: int) -> None:
    if begin_steps < 0:
        raise ConfigError(f"{name} must begin at step 0 or later, got {begin_steps}")
    if end_steps < begin_steps:
        raise ConfigError(f"{name} ends at step {end_steps} before it starts ({begin_steps})")


@dataclass(frozen=True)
class ConstantEpsilon:
    """The same epsilon for every stream, always."""

    value: float

    def __post_init__(self) -> None:
        _must_be_probability("epsilon", self.value)

    def __call__(self, step: int, index: np.ndarray, count: int) -> np.ndarray:
        """Float32 [B], `value` everywhere."""
        return np.full(len(index), self.value, np.float32)


@dataclass(frozen=True)
class ConstantNoise:
    """The same standard deviation of action noise for every stream, always. Source: Horgan et al. 2018, appendix D."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value < float("inf"):
            raise ConfigError(f"noise must be finite and >= 0, got {self.value}")

    def __call__(self, step: int, index: np.ndarray, count: int) -> np.ndarray:
        """Float32 [B], `value` everywhere."""
        return np.full(len(index), self.value, np.float32)


@dataclass(frozen=True)
class LinearEpsilon:
    """The same epsilon for every stream: `start` until `begin_steps`, linear to `end` at `end_steps`, then `end`.

    Source: Mnih et al. 2015, extended data table 1 (1 to 0.1 over a million agent steps after the replay start).
    """

    start: float
    end: float
    begin_steps: int
    end_steps: int

    def __post_init__(self) -> None:
        _must_be_probability("epsilon start", self.start)
        _must_be_probability("epsilon end", self.end)
        _must_go_forward("epsilon", self.begin_steps, self.end_steps)

    def __call__(self, step: int, index: np.ndarray, count: int) -> np.ndarray:
        """Float32 [B], the same value everywhere."""
        value = LinearSchedule(self.start, self.end, self.begin_steps, self.end_steps)(step)
        return np.full(len(index), value, np.float32)


@dataclass(frozen=True)
class DrawnEpsilon:
    """From `start` at step 0, linear over `steps`, to an end that each stream draws: `ends[k]` with chance `chances[k]`.

    A stream's draw depends on its place alone: it is the same in every run, whoever plays the actor.
    Source: Mnih et al. 2016, section 5.1 (ends 0.1, 0.01 and 0.5 with chances 0.4, 0.3 and 0.3, over four million frames).
    """

    start: float
    ends: tuple[float, ...]
    chances: tuple[float, ...]
    steps: int

    def __post_init__(self) -> None:
        for value in (self.start, *self.ends, *self.chances):
            _must_be_probability("epsilon", value)
        if len(self.ends) != len(self.chances) or abs(sum(self.chances) - 1) > 1e-9:
            raise ConfigError(f"epsilon ends {self.ends} need one chance each, of sum 1, got {self.chances}")
        _must_go_forward("epsilon", 0, self.steps)

    def __call__(self, step: int, index: np.ndarray, count: int) -> np.ndarray:
        """Float32 [B], by the place of each stream."""
        end = np.array([self._end(int(place)) for place in index])
        done = min(1.0, step / self.steps) if self.steps else 1.0
        return (self.start + done * (end - self.start)).astype(np.float32)

    def _end(self, place: int) -> float:
        drawn = np.random.Generator(np.random.PCG64(place)).random()
        return self.ends[int(np.searchsorted(np.cumsum(self.chances)[:-1], drawn, side="right"))]


@dataclass(frozen=True)
class EpsilonLadder:
    """One constant epsilon per stream: base^(1 + power i / (N - 1)), i = 0 .. N-1; `base` if there is one stream.

    Source: Horgan et al. 2018 (Ape-X), section 4.1, with base 0.4 and power 7, from 0.4 down to 0.4^8.
    """

    base: float
    power: float

    def __post_init__(self) -> None:
        _must_be_probability("epsilon ladder base", self.base)
        if self.power < 0:
            raise ConfigError(f"epsilon ladder power must be >= 0, got {self.power}")

    def __call__(self, step: int, index: np.ndarray, count: int) -> np.ndarray:
        """Float32 [B], by the place of each stream; the step does not matter."""
        rung = np.asarray(index, np.float64) / max(count - 1, 1)
        ladder: np.ndarray = (self.base ** (1 + self.power * rung)).astype(np.float32)
        return ladder


def epsilon_greedy(
    greedy_actions: np.ndarray, epsilon: np.ndarray, num_actions: int, random: np.random.Generator
) -> np.ndarray:
    """Int64 [B]: with chance epsilon[b] any of all actions alike (the greedy one too), else greedy_actions[b].

    Draws 2 B numbers whatever happens, so that the random stream does not depend on what was drawn.
    """
    explore = random.random(len(greedy_actions)) < epsilon
    return np.where(explore, random.integers(num_actions, size=len(greedy_actions)), greedy_actions)
