"""Selectors: which items of a table come next.

`Fifo`, `Uniform` and `Proportional` are settings; `build` gives the running part. A running selector knows items by key
(`veldt.replay.streams`); what an item is, it does not know.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from veldt.core import State
from veldt.errors import ConfigError
from veldt.replay.items import Items
from veldt.replay.kernels import exponentiate, label
from veldt.replay.sum_tree import SumTree, refuse_unfit

PRIORITY_FLOOR = 1e-6
"""No item becomes unreachable."""


class Selected(NamedTuple):
    """keys: int64 [K]; weights: float32 [K], importance weights, the largest of the batch being 1; largest: what that was before."""

    keys: np.ndarray
    weights: np.ndarray
    largest: float = 1.0


class RunningSelector(Protocol):
    """The running part of a selector."""

    def holds(self, actor: int) -> int | None:
        """The oldest key of `actor` whose row may not be overwritten yet: its actor waits. None: all may go."""

    def available(self) -> int:
        """How many items may be selected."""

    def can_select(self, count: int) -> bool:
        """Whether `select(count)` is possible: a queue needs so many items, a random selector one."""

    def insert(self, actor: int, keys: np.ndarray, priorities: np.ndarray | None) -> None:
        """New items of `actor`, with the priorities it gave them, if it did."""

    def remove(self, keys: np.ndarray) -> None:
        """Items that leave because their rows are overwritten."""

    def select(self, count: int) -> Selected:
        """The next `count` items, with replacement where the selector is random."""

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities for those of `keys` that are still alive."""

    def state_dict(self) -> State:
        """All that decides what is selected next."""

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""


class Selector(Protocol):
    """The settings of a selector."""

    def build(self, items: Items, slots: int, seeds: np.random.SeedSequence) -> RunningSelector:
        """The running selector over the live `items` of streams with `slots` slots."""


@dataclass(frozen=True)
class Fifo:
    """Oldest first, each item once: with it a table is a queue.

    replay_share: so much of each batch is drawn uniformly, with replacement, from all live items instead, whether they were
        handed out before or not (Espeholt et al. 2018, section 5.2.2). The new ones come first in the batch.
    """

    replay_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.replay_share < 1:
            raise ConfigError(f"replay_share must be >= 0 and < 1: a queue has to empty; got {self.replay_share:g}")

    def fresh(self, count: int) -> int:
        """How many of `count` items are new ones: at least one."""
        return max(1, count - round(self.replay_share * count))

    def build(self, items: Items, slots: int, seeds: np.random.SeedSequence) -> RunningSelector:
        """The running queue."""
        return _Fifo(self, _Uniform(items, seeds))


@dataclass(frozen=True)
class Uniform:
    """All live items alike, with replacement."""

    def build(self, items: Items, slots: int, seeds: np.random.SeedSequence) -> RunningSelector:
        """The running uniform selector."""
        return _Uniform(items, seeds)


@dataclass(frozen=True)
class Proportional:
    """Items in proportion to priority ** exponent (Schaul et al. 2016).

    exponent: alpha >= 0; 0 is uniform.
    importance_exponent: beta in [0, 1] of the weights (N P)^-beta, divided by the largest weight of the batch.
    importance_exponent_end: what beta grows to, linearly, while `anneal_items` items are sampled; None keeps it.
    stratified: one draw from each of K equal parts of the priority mass instead of K independent ones.
    """

    exponent: float
    importance_exponent: float
    importance_exponent_end: float | None = None
    anneal_items: int = 1
    stratified: bool = True

    def __post_init__(self) -> None:
        for beta in (self.importance_exponent, self.importance_exponent_end):
            if self.exponent < 0 or (beta is not None and not 0 <= beta <= 1):
                culprit = f"alpha={self.exponent:g}" if self.exponent < 0 else f"beta={beta:g}"
                raise ConfigError(f"priority alpha must be >= 0 and beta in [0, 1]; got {culprit}")

    def build(self, items: Items, slots: int, seeds: np.random.SeedSequence) -> RunningSelector:
        """The running proportional selector."""
        return _Proportional(self, slots, seeds)


class _Fifo:
    def __init__(self, settings: Fifo, replay: _Uniform) -> None:
        self._settings, self._replay = settings, replay
        self._blocks: deque[tuple[int, np.ndarray]] = deque()
        self._count = 0

    def available(self) -> int:
        return self._count

    def can_select(self, count: int) -> bool:
        return self._count >= self._settings.fresh(count)

    def holds(self, actor: int) -> int | None:
        return next((int(keys[0]) for writer, keys in self._blocks if writer == actor), None)

    def insert(self, actor: int, keys: np.ndarray, priorities: np.ndarray | None) -> None:
        self._blocks.append((actor, keys))
        self._count += len(keys)

    def remove(self, keys: np.ndarray) -> None:
        """Nothing to do: only selected items leave a queue."""

    def select(self, count: int) -> Selected:
        taken: list[np.ndarray] = []
        missing = fresh = self._settings.fresh(count)
        while missing:
            actor, block = self._blocks.popleft()
            if len(block) > missing:
                self._blocks.appendleft((actor, block[missing:]))
                block = block[:missing]
            taken.append(block)
            missing -= len(block)
        self._count -= fresh
        if fresh < count:
            taken.append(self._replay.select(count - fresh).keys)
        return Selected(np.concatenate(taken), np.ones(count, np.float32))

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """Nothing to do: a queue has no priorities."""

    def state_dict(self) -> State:
        waiting = {"actors": [actor for actor, _ in self._blocks], "keys": [keys for _, keys in self._blocks]}
        return {**waiting, "replay": self._replay.state_dict()}

    def load_state_dict(self, state: State) -> None:
        self._blocks = deque(zip(state["actors"], state["keys"], strict=True))
        self._count = sum(len(keys) for keys in state["keys"])
        self._replay.load_state_dict(state["replay"])


class _Uniform:
    def __init__(self, items: Items, seeds: np.random.SeedSequence) -> None:
        self._items = items
        self._random = np.random.Generator(np.random.PCG64(seeds))

    def available(self) -> int:
        return len(self._items)

    def can_select(self, count: int) -> bool:
        return len(self._items) > 0

    def holds(self, actor: int) -> int | None:
        return None

    def insert(self, actor: int, keys: np.ndarray, priorities: np.ndarray | None) -> None:
        """Nothing to do: the table's items are the selector's."""

    def remove(self, keys: np.ndarray) -> None:
        """Nothing to do."""

    def select(self, count: int) -> Selected:
        positions = self._random.integers(0, len(self._items), count)
        return Selected(self._items.at(positions), np.ones(count, np.float32))

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """Nothing to do: all items are alike."""

    def state_dict(self) -> State:
        return {"random": self._random.bit_generator.state}

    def load_state_dict(self, state: State) -> None:
        self._random.bit_generator.state = state["random"]


class _Proportional:
    def __init__(self, settings: Proportional, slots: int, seeds: np.random.SeedSequence) -> None:
        self._settings = settings
        self._slots = slots
        self._tree = SumTree(slots)
        self._key_at = np.full(slots, -1, np.int64)
        self._random = np.random.Generator(np.random.PCG64(seeds))
        self._largest = 1.0
        self._selected = 0
        self._alive = 0

    def available(self) -> int:
        return self._alive

    def can_select(self, count: int) -> bool:
        return self._alive > 0

    def holds(self, actor: int) -> int | None:
        return None

    def insert(self, actor: int, keys: np.ndarray, priorities: np.ndarray | None) -> None:
        if priorities is None:  # as likely as the most surprising item seen
            priorities = np.full(len(keys), self._largest)
        refuse_unfit(keys, priorities)
        self._key_at[keys % self._slots] = keys
        self._alive += len(keys)
        self._set(keys, priorities)

    def remove(self, keys: np.ndarray) -> None:
        slots = keys % self._slots
        self._key_at[slots] = -1
        self._alive -= len(keys)
        self._tree.set(slots, np.zeros(len(keys)))

    def select(self, count: int) -> Selected:
        points = self._random.random(count)
        if self._settings.stratified:
            points += np.arange(count, dtype=np.float64)
            points /= count
        slots, probabilities = self._tree.draw(points)
        self._selected += count
        return Selected(*label(self._key_at, slots, probabilities, self._alive, self._importance_exponent))

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        refuse_unfit(keys, priorities)
        self._set(keys, priorities)

    def _set(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """Sets priorities that `refuse_unfit` let pass, of those of `keys` that are alive."""
        slots, masses, largest = exponentiate(self._key_at, keys, priorities, self._settings.exponent, PRIORITY_FLOOR)
        self._tree.set(slots, masses)
        self._largest = max(self._largest, largest)

    @property
    def _importance_exponent(self) -> float:
        settings = self._settings
        if settings.importance_exponent_end is None:
            return settings.importance_exponent
        done = min(self._selected / settings.anneal_items, 1.0)
        return settings.importance_exponent + done * (settings.importance_exponent_end - settings.importance_exponent)

    def state_dict(self) -> State:
        return {
            "random": self._random.bit_generator.state,
            "tree": self._tree.state_dict(),
            "key_at": self._key_at,
            "largest": self._largest,
            "selected": self._selected,
            "alive": self._alive,
        }

    def load_state_dict(self, state: State) -> None:
        self._random.bit_generator.state = state["random"]
        self._tree.load_state_dict(state["tree"])
        self._key_at[:] = state["key_at"]
        self._largest = float(state["largest"])
        self._selected, self._alive = int(state["selected"]), int(state["alive"])
