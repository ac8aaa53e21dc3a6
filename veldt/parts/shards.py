"""The sharded parameter server (Nair et al. 2015; Dean et al. 2012): weights cut into shards that change each by itself.

The parameters of an agent lie in one vector, which is cut into S slices of equal length, wherever that falls. A `ParameterShard`
owns one: its numbers, their optimiser, and a version that counts the updates of this slice alone. `ShardedParameters` joins
shards into `core.Parameters` for whoever is linked to them: it assembles whole weights, in which versions may be mixed, and
cuts gradients. It knows no learner: any agent's gradients can be applied here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from veldt.core import Place, Shard, State
from veldt.data import Versions, Weights
from veldt.errors import ConfigError, require_at_least
from veldt.math.exploration import LinearSchedule
from veldt.parts.layout import Layout, gather, optimizer_tensors
from veldt.parts.parameters import scale_down


class ParameterShard:
    """One slice of an agent's parameters: a `core.Shard`. Its replica number says which slice, the number of replicas how many.

    A gradient is judged when it is to be applied: dropped if it was computed more than `max_staleness_updates` versions of this
    shard ago, and rejected if from a version that the shard has not reached: it was restored from an older snapshot since.
    """

    def __init__(
        self,
        make_agent: Callable[[], nn.Module],
        optimizer: Any,
        *,
        max_staleness_updates: int | None,
        max_gradient_norm: float | None,
        learning_rate: LinearSchedule | None,
        place: Place,
    ) -> None:
        """Args:
        make_agent: builds the agent whose initial weights the run starts from; all shards build the same one.
        optimizer: has `build(parameters) -> torch.optim.Optimizer`; it must treat each number by itself.
        max_staleness_updates: the oldest gradients that are applied, in versions; None applies all.
        max_gradient_norm: gradients are scaled down to this norm, that of all slices together, before they are cut; None leaves them.
        learning_rate: the optimiser's step size by version; None keeps the one it was built with.
        place: which of how many shards this is.
        """
        if max_staleness_updates is not None:
            require_at_least("max_staleness_updates", max_staleness_updates, 0)
        torch.manual_seed(int(Place(seed=place.seed).seeds("parameters").generate_state(1)[0]))
        agent = make_agent()
        self.layout = Layout.of(agent)
        begin, end = self.layout.bounds(place.replica, place.replicas)
        if begin == end:
            raise ConfigError(f"{place.replicas} shards for {self.layout.size} parameters: use fewer shards")
        vector = torch.cat([parameter.detach().reshape(-1) for parameter in agent.parameters()])
        self._slice = vector[begin:end].clone().to(place.device)
        self.size, self.device = end - begin, place.device
        self.max_gradient_norm = max_gradient_norm
        self.optimizer: torch.optim.Optimizer = optimizer.build([self._slice])
        self.tensors = {"slice": self._slice, **optimizer_tensors(self.optimizer, self._slice)}
        self._max_staleness, self._learning_rate = max_staleness_updates, learning_rate
        self.version = self.stale_gradients = self.rejected_gradients = 0
        self._ages: list[int] = []

    @staticmethod
    def join(shards: Sequence[Shard]) -> ShardedParameters:
        """What a link to all shards leads to."""
        return ShardedParameters(shards)

    def read(self, into: torch.Tensor) -> int:
        """Copies the slice `into` a vector [size]; its version."""
        into.copy_(self._slice)
        return self.version

    def can_push(self) -> bool:
        """Always: a gradient is applied at once."""
        return True

    def push(self, gradient: torch.Tensor, based_on: int) -> None:
        """Applies `gradient` [size], computed at version `based_on`, unless that is too long ago or has not been."""
        age = self.version - based_on
        if age < 0:
            self.rejected_gradients += 1
            return
        if self._max_staleness is not None and age > self._max_staleness:
            self.stale_gradients += 1
            return
        if self._learning_rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self.version)
        self._slice.grad = gradient
        self.optimizer.step()
        self._slice.grad = None
        self.version += 1
        self._ages.append(age)

    def metrics(self) -> dict[str, float]:
        """Gradients dropped so far, and the age in versions of those applied since the last call, if there are any."""
        values = {"stale_gradients": float(self.stale_gradients), "rejected_gradients": float(self.rejected_gradients)}
        ages, self._ages = self._ages, []
        if ages:
            values |= {"gradient_age_updates": sum(ages) / len(ages), "gradient_age_updates_max": float(max(ages))}
        return values

    def state_dict(self) -> State:
        """The slice, its version and its optimiser, copied: the shard may go on."""
        return {
            "version": self.version,
            "tensors": {name: tensor.clone() for name, tensor in self.tensors.items()},
            "stale_gradients": self.stale_gradients,
            "rejected_gradients": self.rejected_gradients,
        }

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self.version = int(state["version"])
        for name, tensor in self.tensors.items():
            tensor.copy_(state["tensors"][name])
        self.stale_gradients, self.rejected_gradients = int(state["stale_gradients"]), int(state["rejected_gradients"])


class ShardedParameters:
    """Shards joined into `core.Parameters`, for one user: what it pulled last stays until it pulls again."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards, layout = shards, shards[0].layout
        bounds = [layout.bounds(number, len(shards)) for number in range(len(shards))]
        device = shards[0].device
        weights, gradient = (torch.zeros(layout.size, dtype=layout.dtype, device=device) for _ in range(2))
        self._rooms = [weights[begin:end] for begin, end in bounds]
        self._read: list[int | None] = [None] * len(shards)
        """The version of the slice in each room."""
        buffers = {name: buffer.to(device) for name, buffer in layout.buffers.items()}
        self._tensors = {**layout.views(weights), **buffers}
        self._gradient, self._gradients = gradient, list(layout.views(gradient).values())
        self._slices = [gradient[begin:end] for begin, end in bounds]
        self._max_gradient_norm = shards[0].max_gradient_norm

    @property
    def version(self) -> int:
        """The updates that every shard has seen."""
        return min(shard.version for shard in self._shards)

    def pull(self, held: Versions) -> Weights | None:
        """The weights of all shards, of each its newest version; the tensors change with the next pull and with nothing else."""
        for number, (shard, room) in enumerate(zip(self._shards, self._rooms, strict=True)):
            if shard.version != self._read[number]:
                self._read[number] = shard.read(room)
        versions = tuple(version for version in self._read if version is not None)
        return Weights(versions, self._tensors) if versions != held else None

    def can_push(self) -> bool:
        """Whether every shard takes its slice now."""
        return all(shard.can_push() for shard in self._shards)

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Hands each shard its slice of `gradients`, with its version in `based_on`; False if they are not all finite.

        A parameter without gradient has gradient 0. Whether a shard finds its slice too old, only the shard knows.
        """
        gather(gradients, self._gradients)
        if not scale_down([self._gradient], self._max_gradient_norm):
            return False
        for shard, piece, version in zip(self._shards, self._slices, based_on, strict=True):
            shard.push(piece, version)
        return True
