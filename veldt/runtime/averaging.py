"""The average of replicas that live in one process: exact, in their order, there as soon as the last of them has given."""

from __future__ import annotations

from typing import Any

import torch

from veldt.core import State


class Together:
    """The replicas of a bundle in this process, and what each has given or may take."""

    def __init__(self, members: int) -> None:
        self._given: list[torch.Tensor | None] = [None] * members
        self._means: list[torch.Tensor | None] = [None] * members
        self.used = False
        """Whether any of them averages anything."""

    def member(self, number: int) -> Member:
        """What replica `number` averages with."""
        self.used = True
        return Member(self, number)

    def pending(self, number: int) -> bool:
        """See `core.Average.pending`."""
        return self._given[number] is not None or self._means[number] is not None

    def give(self, number: int, vector: torch.Tensor) -> None:
        """The last of a round makes the mean, a copy for each: whoever takes it may change it."""
        self._given[number] = vector
        given = [one for one in self._given if one is not None]
        if len(given) == len(self._given):
            mean = torch.stack(given).sum(0).div_(len(given))
            self._means = [mean.clone() for _ in given]
            self._given = [None] * len(given)

    def take(self, number: int) -> torch.Tensor | None:
        """See `core.Average.take`."""
        mean, self._means[number] = self._means[number], None
        return mean

    def state_dict(self) -> State:
        """What is under way."""
        return {"given": list(self._given), "means": list(self._means)}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self._given, self._means = list(state["given"]), list(state["means"])


class Member:
    """One replica's side: a `core.Average`."""

    def __init__(self, together: Together, number: int) -> None:
        self._together, self._number = together, number

    @property
    def pending(self) -> bool:
        """See `core.Average`."""
        return self._together.pending(self._number)

    def give(self, vector: torch.Tensor) -> None:
        """See `core.Average`."""
        self._together.give(self._number, vector)

    def take(self) -> Any:
        """See `core.Average`."""
        return self._together.take(self._number)
