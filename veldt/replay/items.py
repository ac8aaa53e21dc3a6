"""The items of a table that are alive, by key: one ring per actor, oldest first."""

from __future__ import annotations

import numpy as np

from veldt.core import State


class Items:
    """Live keys of `actors` actors, at most `capacity` each. An actor's keys arrive in rising order and leave the same way."""

    def __init__(self, actors: int, capacity: int) -> None:
        self._keys = np.zeros((actors, capacity), np.int64)
        self._heads = np.zeros(actors, np.int64)
        self._tails = np.zeros(actors, np.int64)
        self._capacity = capacity

    def __len__(self) -> int:
        return int((self._heads - self._tails).sum())

    def append(self, actor: int, keys: np.ndarray) -> None:
        """Adds `keys` [K], rising, behind those of `actor`."""
        head = int(self._heads[actor])
        assert head + len(keys) - self._tails[actor] <= self._capacity, "more items than the table has room for"
        self._keys[actor, np.arange(head, head + len(keys)) % self._capacity] = keys
        self._heads[actor] += len(keys)

    def pop_below(self, actor: int, limit: int) -> np.ndarray:
        """Removes the keys of `actor` below `limit` and returns them, oldest first."""
        tail, head = int(self._tails[actor]), int(self._heads[actor])
        low, high = tail, head
        while low < high:  # the first key that stays
            middle = (low + high) // 2
            if self._keys[actor, middle % self._capacity] < limit:
                low = middle + 1
            else:
                high = middle
        self._tails[actor] = low
        popped: np.ndarray = self._keys[actor, np.arange(tail, low) % self._capacity]
        return popped

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The keys at `positions` [K] in [0, len): actor after actor, oldest first."""
        keys: np.ndarray
        if len(self._heads) == 1:
            keys = self._keys[0].take((positions + self._tails[0]) % self._capacity)
            return keys
        ends = (self._heads - self._tails).cumsum()
        actors = ends.searchsorted(positions, side="right")
        starts = ends - (self._heads - self._tails)
        keys = self._keys[actors, (positions - starts[actors] + self._tails[actors]) % self._capacity]
        return keys

    def state_dict(self) -> State:
        """The live keys and how many each actor has."""
        return {"keys": self.at(np.arange(len(self))), "counts": self._heads - self._tails}

    def load_state_dict(self, state: State) -> None:
        """The keys of `state_dict`."""
        self._tails[:] = 0
        self._heads[:] = state["counts"]
        start = 0
        for actor, count in enumerate(state["counts"]):
            self._keys[actor, :count] = state["keys"][start : start + count]
            start += int(count)
