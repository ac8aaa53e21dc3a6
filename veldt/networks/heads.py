"""Heads: from features to action values, policies and state values.

All take float32 [..., features] and keep the leading axes. `hidden` are the widths of dense ReLU layers before the
output; () means none. Refuses nothing: widths are checked where settings are read.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import nn

from veldt.data import ActionSpec
from veldt.math import policy, q_learning
from veldt.networks.dense import dense_layers

VARIANCE_FLOOR = 1e-6
"""Keeps a Gaussian policy's log-density finite where softplus underflows in float32."""


def _stream(features: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    return nn.Sequential(*dense_layers(features, hidden), nn.Linear(hidden[-1] if hidden else features, outputs))


class QHead(nn.Module):
    """Action values: [..., features] -> [..., actions]."""

    def __init__(self, features: int, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = _stream(features, hidden, actions)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [..., features] -> [..., actions]."""
        out: torch.Tensor = self.layers(features)
        return out


class DuelingHead(nn.Module):
    """Action values V + A - mean A from two streams, each with its own hidden layers: Wang et al. 2016, equation 9."""

    def __init__(self, features: int, actions: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.value = _stream(features, hidden, 1)
        self.advantage = _stream(features, hidden, actions)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [..., features] -> [..., actions]."""
        return q_learning.dueling(self.value(features), self.advantage(features))


class ValueHead(nn.Module):
    """State values: [..., features] -> [...]."""

    def __init__(self, features: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = _stream(features, hidden, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [..., features] -> [...]."""
        out: torch.Tensor = self.layers(features)
        return out.squeeze(-1)


class CategoricalHead(nn.Module):
    """A policy over one discrete action or several independent ones.

    `forward` answers the distribution as one float32 [..., parameters] array, which actors can record: the logits of
    all components, one after the other. The other methods read that array.
    """

    def __init__(self, action: ActionSpec, features: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = action.sizes
        self.single = action.kind == "discrete"
        self.parameters_per_row = sum(action.sizes)
        self.layers = _stream(features, hidden, self.parameters_per_row)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [..., features] -> logits [..., sum(sizes)]."""
        out: torch.Tensor = self.layers(features)
        return out

    def log_prob(self, logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-probability of int64 [...] (discrete) or [..., n] (multi-discrete): float32 [...]."""
        return policy.multi_categorical_log_prob(logits, action.unsqueeze(-1) if self.single else action, self.sizes)

    def entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Entropy in nats, summed over components: float32 [...]."""
        return policy.multi_categorical_entropy(logits, self.sizes)

    def sample(self, logits: torch.Tensor, random: np.random.Generator) -> np.ndarray:
        """A draw by the Gumbel trick: int64 [...] or [..., n]."""
        plain = logits.detach().cpu().numpy()
        return self._best(plain + random.gumbel(size=plain.shape))

    def mode(self, logits: torch.Tensor) -> np.ndarray:
        """The likeliest action: int64 [...] or [..., n]."""
        return self._best(logits.detach().cpu().numpy())

    def _best(self, scores: np.ndarray) -> np.ndarray:
        if self.single:
            return np.asarray(scores.argmax(-1))
        parts = np.split(scores, np.cumsum(self.sizes)[:-1], axis=-1)
        return np.stack([part.argmax(-1) for part in parts], axis=-1)


class GaussianHead(nn.Module):
    """A diagonal Gaussian policy over a box, unbounded: the environment clips, learning sees the raw action.

    `forward` answers float32 [..., 2 D]: the means, then softplus variances; D = size of one action.
    Source: Mnih et al. 2016 (A3C), section 9.
    """

    def __init__(self, action: ActionSpec, features: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = action.shape
        self.dimensions = prod(action.shape)
        self.parameters_per_row = 2 * self.dimensions
        self.layers = _stream(features, hidden, self.parameters_per_row)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [..., features] -> means and variances [..., 2 D]."""
        mean, raw = self.layers(features).chunk(2, dim=-1)
        return torch.cat([mean, policy.softplus_variance(raw, VARIANCE_FLOOR)], dim=-1)

    def log_prob(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-density of float32 [..., *shape]: float32 [...]."""
        mean, variance = parameters.chunk(2, dim=-1)
        return policy.gaussian_log_prob(mean, variance, action.reshape(mean.shape))

    def entropy(self, parameters: torch.Tensor) -> torch.Tensor:
        """Entropy in nats, summed over dimensions: float32 [...]."""
        return policy.gaussian_entropy(parameters[..., self.dimensions :])

    def sample(self, parameters: torch.Tensor, random: np.random.Generator) -> np.ndarray:
        """A draw: float32 [..., *shape]."""
        mean, variance = np.split(parameters.detach().cpu().numpy(), 2, axis=-1)
        draw: np.ndarray = mean + np.sqrt(variance) * random.standard_normal(mean.shape, np.float32)
        return draw.reshape(*mean.shape[:-1], *self.shape)

    def mode(self, parameters: torch.Tensor) -> np.ndarray:
        """The mean: float32 [..., *shape]."""
        mean: np.ndarray = parameters[..., : self.dimensions].detach().cpu().numpy()
        return mean.reshape(*mean.shape[:-1], *self.shape)


PolicyHead = CategoricalHead | GaussianHead


def make_policy_head(action: ActionSpec, features: int, hidden: tuple[int, ...]) -> PolicyHead:
    """The policy head that fits the actions: Gaussian for a box, categorical for the others."""
    if action.kind == "box":
        return GaussianHead(action, features, hidden)
    return CategoricalHead(action, features, hidden)
