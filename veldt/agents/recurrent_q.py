"""A recurrent value-based agent for discrete actions: what R2D2 and R2D3 act with.

The LSTM reads features of the observation, the last action (one-hot) and the last reward, unclipped; two dueling streams read the
LSTM. Source: Kapturowski et al. 2019 (R2D2), section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from veldt.core import Acted
from veldt.data import EnvSpec, Seen, Tree, tree_map
from veldt.errors import ConfigError
from veldt.math.exploration import epsilon_greedy
from veldt.networks.cores import LSTMCore
from veldt.networks.encoders import make_encoder
from veldt.networks.heads import DuelingHead
from veldt.networks.last_inputs import LastInputs


@dataclass(frozen=True)
class RecurrentQNetworkConfig:
    """The network behind the Q-values.

    encoder: `auto` (from the observation space), the name of one, `package.module:callable`, or an `nn.Module`.
    hidden: widths of the dense layers that end each encoder.
    lstm_units: cells of the LSTM.
    head_units: width of the hidden layer of each dueling stream.
    """

    encoder: Any
    hidden: tuple[int, ...]
    lstm_units: int
    head_units: int

    def __post_init__(self) -> None:
        for name in ("lstm_units", "head_units"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")

    @property
    def state(self) -> Tree:
        """The specs of what one stream carries from row to row."""
        return LSTMCore.state_spec(self.lstm_units)


class RecurrentQAgent(nn.Module):
    """Q(o_0 .. o_t, a) and epsilon-greedy actions on it (a `core.Agent`)."""

    def __init__(self, env: EnvSpec, network: RecurrentQNetworkConfig) -> None:
        super().__init__()
        self.actions = env.action.sizes[0]
        self._state = network.state
        self.encoder = make_encoder(env.seen, network.encoder, network.hidden)
        self.last_inputs = LastInputs(env.action, None)
        self.core = LSTMCore(self.encoder.features + self.last_inputs.features, network.lstm_units)
        self.head = DuelingHead(network.lstm_units, self.actions, (network.head_units,))
        self._probe = next(self.head.parameters())

    def initial_state(self, batch_size: int) -> Tree:
        """Zeros, a tree of float32 [B, units]."""
        return tree_map(lambda leaf: leaf.zeros(batch_size), self._state)

    def forward(
        self, obs: Tree, first: torch.Tensor, last_action: torch.Tensor, last_reward: torch.Tensor, state: Tree
    ) -> tuple[torch.Tensor, Tree]:
        """Q-values float32 [T, B, actions] at what is seen at T rows, [T, B, ...], and the state after the last of them.

        `state`, from before row 0, is forgotten where `first`.
        """
        outputs, after = self.run(obs, first, last_action, last_reward, state)
        values: torch.Tensor = self.head(outputs)
        return values, after

    def run(
        self, obs: Tree, first: torch.Tensor, last_action: torch.Tensor, last_reward: torch.Tensor, state: Tree
    ) -> tuple[torch.Tensor, Tree]:
        """As `forward`, without its heads: what they would read, float32 [T, B, units]."""
        features = self.encoder(tree_map(lambda leaf: leaf.flatten(0, 1), obs))
        last = self.last_inputs(last_action.flatten(0, 1), last_reward.flatten(), first.flatten())
        rows = torch.cat([features, last], dim=1)
        outputs, after = self.core(rows.reshape(*first.shape, -1), state, first)
        return outputs, after

    @torch.inference_mode()
    def act(self, seen: Seen, state: Tree, exploration: np.ndarray, random: np.random.Generator) -> Acted:
        """Epsilon-greedy actions int64 [B] at what is seen, with epsilon `exploration` [B].

        Extras: q_taken [B], Q of the action; q_value [B], the largest Q.
        """
        device = self._probe.device  # the weights may have moved to where they are published
        row = tree_map(lambda leaf: torch.from_numpy(leaf).to(device).unsqueeze(0), seen._asdict())
        carried = tree_map(lambda leaf: torch.from_numpy(leaf).to(device), state)
        values_row, after = self(**row, state=carried)
        values = values_row[0].cpu().numpy()
        action = epsilon_greedy(values.argmax(-1), exploration, self.actions, random)
        taken = values[np.arange(len(action)), action]
        return Acted(action, tree_map(lambda leaf: leaf.cpu().numpy(), after), {"q_taken": taken, "q_value": values.max(-1)})
