"""Stochastic policies with a state value: an encoder, perhaps an LSTM, and two heads. For A3C and IMPALA.

Actions may be Discrete, MultiDiscrete or a Box (Gaussian). The exploration value is the chance of sampling the policy instead of
taking its likeliest action (a Gaussian's mean): 1 in training, 0 in evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from veldt.core import Acted
from veldt.data import EnvSpec, Seen, Tree, Unroll, tree_map
from veldt.errors import ConfigError
from veldt.networks.cores import LSTMCore
from veldt.networks.encoders import make_encoder
from veldt.networks.heads import ValueHead, make_policy_head
from veldt.networks.last_inputs import LastInputs

LOG_PROB = "log_prob"
"""The extra that the agent offers: float32 [B], the log-probability (or density) of the action under the policy that acted."""


@dataclass(frozen=True)
class ActorCriticNetworkConfig:
    """The network behind policy and value.

    encoder: `auto` (from the observation space), the name of one, `package.module:callable`, or an `nn.Module`.
    hidden: widths of the dense layers that end each encoder.
    lstm_units: cells of an LSTM behind the encoder; 0: none.
    last_inputs: whether the last action (one-hot where discrete) and the last reward are read beside the features.
    last_reward_clip: the last reward is clipped to plus or minus this; None leaves it.
    separate: policy and value have all of this for themselves, instead of common features.
    """

    encoder: Any
    hidden: tuple[int, ...]
    lstm_units: int
    last_inputs: bool
    last_reward_clip: float | None
    separate: bool

    def __post_init__(self) -> None:
        if self.lstm_units < 0:
            raise ConfigError(f"lstm_units must be >= 0, got {self.lstm_units}")

    @property
    def state(self) -> Tree:
        """The specs of what one stream carries from row to row; None without an LSTM."""
        if not self.lstm_units:
            return None
        one = LSTMCore.state_spec(self.lstm_units)
        return {"policy": one, "value": one} if self.separate else one


class Answers(NamedTuple):
    """policy: the parameters of the policies at T+1 rows, float32 [T+1, B, P], which the policy head reads; value: float32 [T+1, B]."""

    policy: torch.Tensor
    value: torch.Tensor


class Trunk(nn.Module):
    """What heads stand on: an encoder, the last action and reward beside it, an LSTM."""

    def __init__(self, env: EnvSpec, network: ActorCriticNetworkConfig) -> None:
        super().__init__()
        self.encoder = make_encoder(env.seen, network.encoder, network.hidden)
        features = self.encoder.features
        self.last_inputs = LastInputs(env.action, network.last_reward_clip) if network.last_inputs else None
        features += self.last_inputs.features if self.last_inputs is not None else 0
        self.core = LSTMCore(features, network.lstm_units) if network.lstm_units else None
        self.features = network.lstm_units or features

    def forward(
        self, obs: Tree, first: torch.Tensor, last_action: torch.Tensor, last_reward: torch.Tensor, state: Tree
    ) -> tuple[torch.Tensor, Tree]:
        """Of [T, B, ...] rows: what the heads read, float32 [T, B, features], and the state after the last row."""
        features = self.encoder(tree_map(lambda leaf: leaf.flatten(0, 1), obs))
        if self.last_inputs is not None:
            last = self.last_inputs(last_action.flatten(0, 1), last_reward.flatten(), first.flatten())
            features = torch.cat([features, last], dim=1)
        features = features.unflatten(0, first.shape)
        return (features, state) if self.core is None else self.core(features, state, first)


class ActorCriticAgent(nn.Module):
    """A policy and a state value, on common features or each on its own (a `core.Agent`)."""

    def __init__(self, env: EnvSpec, network: ActorCriticNetworkConfig) -> None:
        super().__init__()
        self._state = network.state
        self.trunk = Trunk(env, network)
        self.value_trunk = Trunk(env, network) if network.separate else None
        self.policy = make_policy_head(env.action, self.trunk.features, ())
        self.value = ValueHead(self.trunk.features, ())

    def initial_state(self, batch_size: int) -> Tree:
        """Zeros, a tree of float32 [B, units]; None without an LSTM."""
        return tree_map(lambda leaf: leaf.zeros(batch_size), self._state)

    def forward(self, unroll: Unroll) -> Answers:
        """What the network says at every row of an unroll, the bootstrap row too."""
        rows = unroll.obs, unroll.first, unroll.last_action, unroll.last_reward
        if self.value_trunk is None:
            features, _ = self.trunk(*rows, unroll.state)
            return Answers(self.policy(features), self.value(features))
        states = unroll.state or {"policy": None, "value": None}
        features, _ = self.trunk(*rows, states["policy"])
        value_features, _ = self.value_trunk(*rows, states["value"])
        return Answers(self.policy(features), self.value(value_features))

    def _policy_features(self, rows: dict[str, Any], state: Tree) -> tuple[torch.Tensor, Tree]:
        """What the policy's head reads, [T, B, features], and all states after the last row."""
        if self.value_trunk is None:
            features, after = self.trunk(**rows, state=state)
            return features, after
        if state is None:
            return self.trunk(**rows, state=None)[0], None
        features, policy_state = self.trunk(**rows, state=state["policy"])
        return features, {"policy": policy_state, "value": self.value_trunk(**rows, state=state["value"])[1]}

    @torch.inference_mode()
    def act(self, seen: Seen, state: Tree, exploration: np.ndarray, random: np.random.Generator) -> Acted:
        """Actions [B, ...] at what is seen: with chance `exploration` [B] sampled, else the likeliest.

        Extras: log_prob [B], the log-probability of the action under the sampled policy.
        """
        device = next(self.parameters()).device  # the weights may have moved to where they are published
        rows = tree_map(lambda leaf: torch.from_numpy(leaf).to(device).unsqueeze(0), seen._asdict())
        carried = tree_map(lambda leaf: torch.from_numpy(leaf).to(device), state)
        features, after = self._policy_features(rows, carried)
        policy = self.policy(features[0])
        action = self.policy.sample(policy, random)
        if exploration.min() < 1:
            sampled = (random.random(len(action)) < exploration).reshape(-1, *[1] * (action.ndim - 1))
            action = np.where(sampled, action, self.policy.mode(policy))
        log_prob = self.policy.log_prob(policy, torch.from_numpy(action).to(device))
        return Acted(action, tree_map(lambda leaf: leaf.cpu().numpy(), after), {LOG_PROB: log_prob.cpu().numpy()})
