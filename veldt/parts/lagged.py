"""Parameters that are always some updates behind: what actors follow when the effect of policy lag itself is to be studied.

It looks on after every round of its process, in which at most one update is made, so that it misses none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from veldt.core import Parameters, Place, State
from veldt.data import Versions, Weights
from veldt.errors import ConfigError


class LaggedParameters:
    """The weights that `parameters` had exactly `lag_updates` updates ago; the first ones while there were fewer updates.

    Its `version` is the newest one there is, as for everybody else, so that whoever follows it sees how far behind it is.
    """

    def __init__(self, *, lag_updates: int, parameters: Parameters, place: Place) -> None:
        if lag_updates < 1:
            raise ConfigError(f"lag_updates must be >= 1, got {lag_updates}")
        self._parameters = parameters
        self._kept: deque[Weights] = deque(maxlen=lag_updates + 1)
        self.seconds = {"keeping old weights": 0.0}
        self._keep()

    @property
    def version(self) -> int:
        """The newest version of the parameters."""
        return self._parameters.version

    def _keep(self) -> bool:
        weights = self._parameters.pull(self._kept[-1].versions if self._kept else ())
        if weights is None:
            return False
        # In place of the oldest, which falls out: no new memory once all room is taken.
        room = self._kept.popleft().tensors if len(self._kept) == self._kept.maxlen else {}
        for name, tensor in weights.tensors.items():
            room[name] = room[name].copy_(tensor) if name in room else tensor.clone()
        self._kept.append(Weights(weights.versions, room))
        return True

    def pull(self, held: Versions) -> Weights | None:
        """The weights of `lag_updates` ago, unless they are those of versions `held`."""
        oldest = self._kept[0]
        return oldest if oldest.versions != held else None

    def can_push(self) -> bool:
        """Whether the parameters themselves take gradients now."""
        return self._parameters.can_push()

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Gradients go to the parameters themselves."""
        return self._parameters.push(gradients, based_on)

    def step(self) -> bool:
        """Keeps the version made in this round. Never progress: nobody may wait for it."""
        self._keep()
        return False

    def waiting_for(self) -> str:
        """The next update."""
        return f"lagged parameters: an update after version {self._kept[-1].version:,}"

    def metrics(self) -> dict[str, float]:
        """Nothing: those who follow say how far behind they are."""
        return {}

    def state_dict(self) -> State:
        """The versions kept."""
        return {"kept": [{"versions": list(weights.versions), "tensors": dict(weights.tensors)} for weights in self._kept]}

    def load_state_dict(self, state: State) -> None:
        """The versions of `state_dict`."""
        self._kept.clear()
        self._kept.extend(Weights(tuple(one["versions"]), dict(one["tensors"])) for one in state["kept"])
