"""Replicated parameters: each of several learners has all of the weights, and one update is made of the gradients of all of them.

The learners are synchronous (Espeholt et al. 2018, section 3, leaves the reduction open). A replica takes the gradient of its
learner, and makes an update once it has the mean of all replicas' gradients; until then it takes no other. All replicas begin alike
and see the same means, so their weights stay the same to the last bit. The norm that is clipped is the mean's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from veldt.core import Place
from veldt.data import Versions
from veldt.parts.layout import gather
from veldt.parts.parameters import LocalParameters, scale_down


class ReplicatedParameters(LocalParameters):
    """One replica: `core.Parameters` for the learner beside it. Whoever is linked to all of them may follow any.

    Its `version` counts one update for each round, however many learners took part in it. What was given to the average is not in its
    state: that belongs to whoever runs the replicas.
    """

    alike: ClassVar[bool] = True
    """What the runtime must know: all replicas hold the same."""

    def __init__(self, make_agent: Callable[[], nn.Module], optimizer: Any, *, place: Place, **settings: Any) -> None:
        """Args: as those of `LocalParameters`; the place knows the average of all replicas."""
        super().__init__(make_agent, optimizer, place=replace(place, replica=0), **settings)
        assert place.average is not None, "a replica in a process needs to be told how it averages with the others"
        self._average = place.average()
        size = sum(parameter.numel() for parameter in self._parameters)
        self._gradient = torch.zeros(size, dtype=self._parameters[0].dtype, device=place.device)
        self._rooms = self._views(self._gradient)

    def _views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The gradients of all parameters, in the memory of a vector."""
        pieces = torch.split(vector, [parameter.numel() for parameter in self._parameters])
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self._parameters, strict=True)]

    def can_push(self) -> bool:
        """Makes the update that is due, if the mean of all gradients is there; whether the next gradient would be taken."""
        mean = self._average.take()
        if mean is not None:
            super().push(self._views(mean), (self.version,))
        return not self._average.pending

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Gives `gradients` to the average; False, and the others go on waiting for the next ones, if they are not all finite.

        A parameter without gradient has gradient 0.
        """
        gather(gradients, self._rooms)
        if not scale_down([self._gradient], None):
            return False
        self._average.give(self._gradient)
        return True
