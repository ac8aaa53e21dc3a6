"""Weights as one vector: where each parameter of an agent lies in it, for whoever cuts it or shares it between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from veldt.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """How the parameters of an agent lie in one vector, and what else belongs to its weights.

    shapes: of the parameters, by name, in the agent's order; buffers: tensors that no gradient changes.
    """

    shapes: Mapping[str, tuple[int, ...]]
    buffers: Mapping[str, torch.Tensor]
    dtype: torch.dtype

    def __getstate__(self) -> dict[str, Any]:
        buffers = {name: buffer.numpy() for name, buffer in self.buffers.items()}  # tensors would each leave a file open
        return {"shapes": self.shapes, "buffers": buffers, "dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        buffers = {name: torch.from_numpy(buffer) for name, buffer in state["buffers"].items()}
        self.__dict__.update({**state, "buffers": buffers})

    @staticmethod
    def of(agent: nn.Module) -> Layout:
        """The layout of `agent`. Raises `ConfigError` if its parameters are of several types: they must fit one vector."""
        dtypes = {parameter.dtype for parameter in agent.parameters()}
        if len(dtypes) != 1:
            raise ConfigError(f"sharded parameters must all be of one type, got {sorted(map(str, dtypes))}")
        shapes = {name: tuple(parameter.shape) for name, parameter in agent.named_parameters()}
        buffers = {name: buffer.detach().clone() for name, buffer in agent.named_buffers()}
        return Layout(shapes, buffers, dtypes.pop())

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return sum(map(prod, self.shapes.values()))

    def bounds(self, shard: int, shards: int) -> tuple[int, int]:
        """Where the slice of `shard` begins and ends."""
        return self.size * shard // shards, self.size * (shard + 1) // shards

    def views(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters by name, in the memory of `vector` [size]."""
        pieces = torch.split(vector, [prod(shape) for shape in self.shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}


@torch.no_grad()
def gather(gradients: Sequence[torch.Tensor | None], rooms: Sequence[torch.Tensor]) -> None:
    """Copies the gradients of an agent's parameters into `rooms`, the views of a vector; 0 where there is none."""
    for room, gradient in zip(rooms, gradients, strict=True):
        if gradient is None:
            room.zero_()
        else:
            room.copy_(gradient)


def optimizer_tensors(optimizer: torch.optim.Optimizer, vector: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `optimizer` keeps of `vector`, by name, in place, before its first step.

    Some make their state in the first step. A step of length 0 with gradient 0 has no other effect, and is not counted.
    """
    if not optimizer.state[vector]:
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        vector.grad = torch.zeros_like(vector)
        optimizer.step()
        vector.grad = None
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.state[vector]["step"].zero_()
    return {name: value for name, value in optimizer.state[vector].items() if isinstance(value, torch.Tensor)}
