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

from veldt.core import Place, State
from veldt.data import Versions, Weights
from veldt.math.exploration import LinearSchedule
from veldt.parts.layout import gather
from veldt.parts.parameters import LocalParameters, scale_down


class ReplicatedParameters:
    """One replica: `core.Parameters` for the learner beside it. Whoever is linked to all of them may follow any."""

    alike: ClassVar[bool] = True
    """What the runtime must know: all replicas hold the same."""

    def __init__(
        self,
        make_agent: Callable[[], nn.Module],
        optimizer: Any,
        *,
        max_gradient_norm: float | None,
        learning_rate: LinearSchedule | None,
        place: Place,
    ) -> None:
        """Args: as those of `LocalParameters`; the place knows the average of all replicas."""
        self._own = LocalParameters(
            make_agent,
            optimizer,
            max_gradient_norm=max_gradient_norm,
            learning_rate=learning_rate,
            place=replace(place, replica=0),
        )
        assert place.average is not None, "a replica in a process needs to be told how it averages with the others"
        self._average = place.average()
        parameters = self._own.parameters
        size = sum(parameter.numel() for parameter in parameters)
        self._gradient = torch.zeros(size, dtype=parameters[0].dtype, device=place.device)
        self._rooms = self._views(self._gradient)

    def _views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The gradients of all parameters, in the memory of a vector."""
        parameters = self._own.parameters
        pieces = torch.split(vector, [parameter.numel() for parameter in parameters])
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, parameters, strict=True)]

    @property
    def version(self) -> int:
        """Updates: one for each round, however many learners took part in it."""
        return self._own.version

    def pull(self, held: Versions) -> Weights | None:
        """The tensors themselves, as of `LocalParameters`."""
        return self._own.pull(held)

    def can_push(self) -> bool:
        """Makes the update that is due, if the mean of all gradients is there; whether the next gradient would be taken."""
        mean = self._average.take()
        if mean is not None:
            self._own.push(self._views(mean), (self._own.version,))
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

    def state_dict(self) -> State:
        """See `LocalParameters.state_dict`. What was given to the average belongs to whoever runs the replicas."""
        return self._own.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self._own.load_state_dict(state)
