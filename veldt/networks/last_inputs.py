"""The last action and reward as inputs beside the observation's features, for agents with a memory. Refuses nothing."""

from __future__ import annotations

from math import prod

import torch
from torch import nn
from torch.nn.functional import one_hot

from veldt.data import ActionSpec


class LastInputs(nn.Module):
    """The last action and reward as features: one-hot of all components, or the numbers of a box; all zeros where `first`."""

    def __init__(self, action: ActionSpec, reward_clip: float | None) -> None:
        super().__init__()
        self._sizes, self._clip = action.sizes, reward_clip
        self._discrete = action.kind != "box"
        self.features = (sum(action.sizes) if self._discrete else prod(action.shape)) + 1

    def forward(self, action: torch.Tensor, reward: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Action [N, ...], float32 reward [N], bool first [N] -> float32 [N, features]."""
        flat = action.reshape(len(reward), -1)
        if self._discrete:
            flat = torch.cat([one_hot(one, size) for one, size in zip(flat.unbind(1), self._sizes, strict=True)], dim=1)
        clipped = reward if self._clip is None else reward.clamp(-self._clip, self._clip)
        inputs = torch.cat([flat.float(), clipped.unsqueeze(1)], dim=1)
        return inputs.masked_fill(first.unsqueeze(1), 0.0)
