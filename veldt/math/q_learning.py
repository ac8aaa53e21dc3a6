"""Q-learning's small parts: which value to bootstrap with, the Huber loss, the dueling sum.

Action values stand on the last axis; all other axes are free ([B, A], [T, B, A]). Refuses nothing.
"""

from __future__ import annotations

import torch


def bootstrap_value(next_target: torch.Tensor, next_online: torch.Tensor | None) -> torch.Tensor:
    """The value of the next observation, [..., A] -> [...], without gradients.

    next_target: Q(o', .; theta-). next_online: Q(o', .; theta) for double Q-learning, which evaluates the online
    network's action with the target network: Q-(o', argmax_a Q(o', a)); None for the plain max_a Q-(o', a).
    Source: Mnih et al. 2015; van Hasselt et al. 2016, equation 4.
    """
    with torch.no_grad():
        if next_online is None:
            return next_target.amax(dim=-1)
        return values_of(next_target, next_online.argmax(dim=-1))


def values_of(action_values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Q(o, a) of the given actions: float [..., A], int64 [...] -> float [...]."""
    return action_values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def huber(error: torch.Tensor) -> torch.Tensor:
    """error^2 / 2 where |error| <= 1, else |error| - 1/2; elementwise, and its gradient is clip(error, -1, 1).

    This is how DQN's "error clipping" is meant: the gradient is clipped, the loss keeps growing.
    Source: Mnih et al. 2015, methods; Huber 1964.
    """
    return torch.nn.functional.smooth_l1_loss(error, error.new_zeros(()).expand_as(error), reduction="none")


def dueling(value: torch.Tensor, advantage: torch.Tensor) -> torch.Tensor:
    """Q = V + A - mean_a A: float [..., 1], float [..., A] -> float [..., A]. Source: Wang et al. 2016, equation 9."""
    return value + advantage - advantage.mean(dim=-1, keepdim=True)
