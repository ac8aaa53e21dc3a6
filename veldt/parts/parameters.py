"""Parameters: who owns the weights, applies gradients to them and publishes versions.

`LocalParameters` serves the parts of one process: it publishes its own tensors, so that everybody there follows every
update at no cost. A `Follower` keeps an agent's weights up to date with any `core.Parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import nn

from veldt.core import Parameters, Place, State
from veldt.data import Versions, Weights
from veldt.math.exploration import LinearSchedule


class LocalParameters:
    """The weights of one process: an agent's tensors, and the optimiser that changes them in place."""

    def __init__(
        self,
        make_agent: Callable[[], nn.Module],
        optimizer: Any,
        *,
        max_gradient_norm: float | None,
        learning_rate: LinearSchedule | None,
        place: Place,
    ) -> None:
        """Args:
        make_agent: builds the agent whose initial weights the run starts from.
        optimizer: has `build(parameters) -> torch.optim.Optimizer`.
        max_gradient_norm: gradients are scaled down to this global norm; None leaves them.
        learning_rate: the optimiser's step size by version; None keeps the one it was built with.
        place: seeds the initial weights.
        """
        torch.manual_seed(int(place.seeds("parameters").generate_state(1)[0]))
        agent = make_agent()
        agent.to(place.device)
        self._parameters = [parameter for _, parameter in agent.named_parameters()]
        self.optimizer: torch.optim.Optimizer = optimizer.build(self._parameters)
        self._max_gradient_norm, self._learning_rate = max_gradient_norm, learning_rate
        self.version = 0
        self._tensors = {name: tensor.detach() for name, tensor in (*agent.named_parameters(), *agent.named_buffers())}

    def pull(self, held: Versions) -> Weights | None:
        """The tensors themselves, not copies: who follows them sees each update as it happens."""
        return Weights((self.version,), self._tensors) if held != (self.version,) else None

    def can_push(self) -> bool:
        """Always."""
        return True

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Applies `gradients`, in the order of the agent's parameters, at once; False, and nothing is done, if they are not all finite."""
        if not scale_down([gradient for gradient in gradients if gradient is not None], self._max_gradient_norm):
            return False
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self.version)
        self.optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None  # its memory is the next backward pass's, still in the cache
        self.version += 1
        return True

    def state_dict(self) -> State:
        """Version and optimiser. The tensors are saved as the run's policy."""
        return {"version": self.version, "tensors": self._tensors, "optimizer": pack_optimizer(self.optimizer)}

    def load_state_dict(self, state: State) -> None:
        """The weights, version and optimiser of `state_dict`; in place, so that all followers follow."""
        self.version = int(state["version"])
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(state["tensors"][name])
        load_optimizer(self.optimizer, state["optimizer"])


def scale_down(gradients: list[torch.Tensor], max_norm: float | None) -> bool:
    """Scales `gradients`, in place, down to the norm `max_norm` of all of them together; False if they are not all finite."""
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    if not isfinite(norm):
        return False
    if max_norm is not None and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return True


def pack_optimizer(optimizer: torch.optim.Optimizer) -> State:
    """The optimiser's tensors by parameter number, as string keys."""
    slots = optimizer.state_dict()["state"]
    return {str(index): dict(values) for index, values in slots.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """The tensors of `pack_optimizer`; settings stay those of `optimizer`."""
    full = optimizer.state_dict()
    full["state"] = {int(index): values for index, values in state.items()}
    optimizer.load_state_dict(full)


class Follower:
    """Keeps the weights of `agent` at the newest versions that `parameters` publish.

    With `copies` the agent has tensors of its own, which change in `pull()` and at no other time. Without, it works with
    the published tensors themselves, and sees what is done to them.
    """

    def __init__(self, agent: Any, parameters: Parameters, *, copies: bool) -> None:
        self._copies = copies
        self._own = dict((*agent.named_parameters(), *agent.named_buffers()))
        self._parameters = parameters
        self._tensors: dict[str, torch.Tensor] | None = None
        self.versions: Versions = ()
        self.pull()

    @property
    def version(self) -> int:
        """The updates that all of the weights held have seen."""
        return min(self.versions, default=-1)

    def pull(self) -> None:
        """Takes the newest versions, if they are not those held."""
        weights = self._parameters.pull(self.versions)
        if weights is None:
            return
        self.versions = weights.versions
        if self._copies:
            self._copy(weights.tensors)
        elif weights.tensors is not self._tensors:
            self._tensors = weights.tensors
            for name, tensor in self._own.items():
                tensor.data = weights.tensors[name]

    @torch.no_grad()
    def _copy(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in self._own.items():
            tensor.copy_(tensors[name])

    def state_dict(self) -> State | None:
        """The copied weights and their versions; None where there are none, and the published ones are all there is."""
        return {"versions": list(self.versions), "tensors": self._own} if self._copies else None

    def load_state_dict(self, state: State | None) -> None:
        """The weights of `state_dict`."""
        if state is not None:
            self.versions = tuple(state["versions"])
            self._copy(state["tensors"])
