"""Dense layers and the encoder of vectors. Refuses nothing: widths are checked where settings are read."""

from __future__ import annotations

from math import prod

import torch
from torch import nn
from torch.nn.functional import one_hot

from veldt.data import ArraySpec


def dense_layers(features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Linear and ReLU for each width of `hidden`: float32 [..., features] -> [..., hidden[-1]]; () is the identity.

    Weights and biases have torch's default initialisation, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    """
    modules: list[nn.Module] = []
    for width in hidden:
        modules += [nn.Linear(features, width), nn.ReLU(inplace=True)]
        features = width
    return nn.Sequential(*modules)


def tanh_layers(features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Linear and tanh for each width of `hidden`, as `dense_layers` otherwise."""
    widths = zip((features, *hidden), hidden, strict=False)
    return nn.Sequential(*(layer for before, width in widths for layer in (nn.Linear(before, width), nn.Tanh())))


class VectorEncoder(nn.Module):
    """Flattened numbers, or a category as one-hot, through dense ReLU layers: [N, *shape] -> float32 [N, features].

    Pixels (uint8) are divided by their highest value, 255 if the environment does not say; all else is taken as it
    is. A category is an integer [N, ...] from 0 on.
    """

    def __init__(self, spec: ArraySpec, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self._categories = spec.categories
        self._scale = 1 / (spec.high or 255) if spec.dtype == "uint8" else 1.0
        flat = prod(spec.shape) * (spec.categories or 1)
        self.dense = dense_layers(flat, hidden)
        self.features = hidden[-1] if hidden else flat

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """[N, *shape] -> float32 [N, features]."""
        if self._categories is not None:
            obs = one_hot(obs.long(), self._categories)
        flat = obs.float().flatten(1) if obs.dim() > 1 else obs.float().unsqueeze(1)
        out: torch.Tensor = self.dense(flat if self._scale == 1.0 or self._categories else flat * self._scale)
        return out
