"""Value learning on what was done just now: the three siblings of A3C (Mnih et al. 2016, algorithms 1, S1 and S2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from veldt.agents.policy_gradient import clipped_reward
from veldt.core import Loss
from veldt.data import WEIGHTS_VERSION, ArraySpec, Batch, Unroll, tree_map
from veldt.math.returns import discounted_returns


@dataclass(frozen=True)
class QUnrolls:
    """Q-learning on unrolls, with a target network; loss = sum over batch and time of (y_t - Q(x_t, a_t))^2 / 2.

    one_step_q:     y_t = r_t + gamma_t max_a Q-(x_{t+1}, a)
    one_step_sarsa: y_t = r_t + gamma_t Q-(x_{t+1}, a_{t+1}), a_{t+1} the action that was really taken there; at the final observation
                    of a truncated episode, where none was, the largest Q-
    n_step_q:       y_t = R_t, the return to the end of the unroll or of the episode, bootstrapped with max_a Q-

    reward_clip: rewards are clipped to plus or minus this; None leaves them.
    """

    method: Literal["one_step_q", "one_step_sarsa", "n_step_q"]
    discount: float
    reward_clip: float | None

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """How old the weights were that acted; the loss does not read it."""
        return {WEIGHTS_VERSION: ArraySpec((), "int64")}

    def __call__(self, online: Any, target: Any, batch: Batch[Unroll]) -> Loss:
        """The loss of a batch of unrolls; gradients flow into `online` alone."""
        unroll = batch.data
        with torch.no_grad():
            y = self._targets(_values(target, unroll.obs, unroll.first.shape), unroll)
        rows = unroll.first[:-1].shape
        taken = _of(unroll.action[:-1], _values(online, tree_map(lambda leaf: leaf[:-1], unroll.obs), rows))
        error = unroll.mask * (y - taken)
        value = (error.square().sum(dim=0) / 2 * batch.weights).sum()
        with torch.no_grad():
            real = unroll.mask.sum().clamp(min=1)
            metrics = {"q": (unroll.mask * taken).sum() / real, "td_error": error.abs().sum() / real}
        return Loss(value, None, metrics)

    def _targets(self, values: torch.Tensor, unroll: Unroll) -> torch.Tensor:
        """y [T, B] of the target network's values [T+1, B, actions]."""
        reward, discount, last = clipped_reward(unroll, self.reward_clip), unroll.discount[:-1], unroll.last
        best = values.max(dim=-1).values
        if self.method == "n_step_q":
            return discounted_returns(reward, discount, last[:-1], best, gamma=self.discount)
        if self.method == "one_step_sarsa":
            best = torch.where(last, best, _of(torch.where(last, 0, unroll.action), values))
        return reward + self.discount * discount * best[1:]


def _values(network: Any, obs: Any, rows: torch.Size) -> torch.Tensor:
    """Q-values [*rows, actions] of obs, a tree of [*rows, ...]."""
    values: torch.Tensor = network(tree_map(lambda leaf: leaf.flatten(0, 1), obs))
    return values.reshape(*rows, -1)


def _of(action: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Those of `values` [..., actions] that belong to `action` [...]."""
    return values.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
