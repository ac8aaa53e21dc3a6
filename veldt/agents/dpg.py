"""Deterministic policies for continuous actions: a policy, a critic of its actions, and Gaussian noise to explore.

Inside, an action is counted in half ranges: float32 [N, D] in [-1, 1], 0 the middle of its bounds, whatever its shape. So noise,
clipped gradients and what the critic reads have one scale on every environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np
import torch
from torch import nn

from veldt.core import Acted
from veldt.data import ActionSpec, EnvSpec, Seen, Tree, tree_map
from veldt.errors import ConfigError
from veldt.networks.dense import tanh_layers
from veldt.networks.encoders import make_encoder

LAST_LAYER = 3e-3
"""The last layers' weights start within plus or minus this, so that no action begins where tanh is flat (Lillicrap et al. 2016)."""


@dataclass(frozen=True)
class DPGNetworkConfig:
    """The networks of policy and critic, which share no weights.

    encoder: `auto` (from the observation space), the name of one, `package.module:callable`, or an `nn.Module`.
    policy_hidden, critic_hidden: widths of the tanh layers behind it; the critic's read the action too.
    """

    encoder: Any
    policy_hidden: tuple[int, ...]
    critic_hidden: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("policy_hidden", "critic_hidden"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must name at least one layer width, got ()")


def require_bounded_box(system: str, action: ActionSpec, instead: str) -> None:
    """Raises `ConfigError` unless actions are a Box with finite bounds; `instead` is the way out for discrete ones."""
    if action.kind != "box":
        raise ConfigError(f"{system} needs Box actions, got {action}; {instead}")
    for index, (low, high) in enumerate(zip(action.low, action.high, strict=True)):
        if not (isfinite(low) and isfinite(high) and low < high):
            raise ConfigError(
                f"{system} needs actions with finite bounds, low < high, but component {index} of {action} lies in "
                f"[{low:g}, {high:g}]; give the environment's action_space the bounds that make sense there"
            )


class DPGAgent(nn.Module):
    """A deterministic policy pi(o) and the critic q(o, a) that it is improved by (a `core.Agent`)."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, env: EnvSpec, network: DPGNetworkConfig) -> None:
        super().__init__()
        self.shape = env.action.shape
        size = prod(self.shape)
        self.policy_encoder = make_encoder(env.seen, network.encoder, ())
        self.critic_encoder = make_encoder(env.seen, network.encoder, ())
        self.policy_layers = nn.Sequential(
            tanh_layers(self.policy_encoder.features, network.policy_hidden),
            nn.Linear(network.policy_hidden[-1], size),
            nn.Tanh(),
        )
        self.critic_layers = nn.Sequential(
            tanh_layers(self.critic_encoder.features + size, network.critic_hidden),
            nn.Linear(network.critic_hidden[-1], 1),
        )
        for parameter in (*self.policy_layers[1].parameters(), *self.critic_layers[1].parameters()):
            nn.init.uniform_(parameter, -LAST_LAYER, LAST_LAYER)
        self.register_buffer("low", torch.tensor(env.action.low))
        self.register_buffer("high", torch.tensor(env.action.high))

    def initial_state(self, batch_size: int) -> Tree:
        """None: there is no recurrent state."""
        return None

    def policy(self, obs: Tree) -> torch.Tensor:
        """pi(o), in half ranges: float32 [N, D] of obs, a tree of [N, ...]."""
        action: torch.Tensor = self.policy_layers(self.policy_encoder(obs))
        return action

    def value(self, obs: Tree, action: torch.Tensor) -> torch.Tensor:
        """q(o, a) of actions in half ranges [N, D]: float32 [N]."""
        values: torch.Tensor = self.critic_layers(torch.cat([self.critic_encoder(obs), action], dim=-1))
        return values.squeeze(-1)

    def half_ranges(self, action: torch.Tensor) -> torch.Tensor:
        """The environment's actions float32 [N, *shape] in half ranges [N, D]."""
        return (2 * action.reshape(len(action), -1) - (self.high + self.low)) / (self.high - self.low)

    @torch.inference_mode()
    def act(self, seen: Seen, state: Tree, exploration: np.ndarray, random: np.random.Generator) -> Acted:
        """Actions float32 [B, *shape] at what is seen: pi(o) plus Gaussian noise of `exploration` [B] half ranges, within the bounds.

        Extras: q_taken [B], q(o, a) of the action; q_value [B], q(o, pi(o)).
        """
        obs = tree_map(lambda leaf: torch.from_numpy(leaf).to(self.low.device), seen.obs)
        greedy = self.policy(obs)
        noise = exploration[:, None] * random.standard_normal(greedy.shape, np.float32)
        taken = (greedy + torch.from_numpy(noise.astype(np.float32)).to(greedy.device)).clamp(-1, 1)
        action = (self.low + (taken + 1) / 2 * (self.high - self.low)).clamp(self.low, self.high)
        extras = {"q_taken": self.value(obs, taken).cpu().numpy(), "q_value": self.value(obs, greedy).cpu().numpy()}
        return Acted(action.cpu().numpy().reshape(-1, *self.shape), state, extras)
