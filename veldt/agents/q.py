"""Value-based agents for discrete actions: act greedily on Q-values, at random with probability epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from veldt.core import Acted
from veldt.data import ActionSpec, EnvSpec, Seen, Tree, tree_map
from veldt.errors import ConfigError
from veldt.math.exploration import epsilon_greedy
from veldt.networks.encoders import make_encoder
from veldt.networks.heads import DuelingHead, QHead


@dataclass(frozen=True)
class QNetworkConfig:
    """The network behind the Q-values.

    encoder: `auto` (from the observation space), the name of one, `package.module:callable`, or an `nn.Module`.
    hidden: widths of the hidden layers; those of an image encoder come after its convolutions.
    dueling: a value and an advantage stream, each with the last hidden layer of its own (Wang et al. 2016).
    """

    encoder: Any
    hidden: tuple[int, ...]
    dueling: bool

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ConfigError("hidden must name at least one layer width, got ()")


def require_discrete(system: str, action: ActionSpec, for_box: str) -> None:
    """Raises `ConfigError` unless actions are Discrete; `for_box` is the way out for continuous ones."""
    if action.kind != "discrete":
        way_out = for_box if action.kind == "box" else "wrap the environment so that one number names the action"
        raise ConfigError(f"{system} needs Discrete actions, got {action}; {way_out}")


class QAgent(nn.Module):
    """Q(o, a) of a feed-forward network, and epsilon-greedy actions on it (a `core.Agent`)."""

    def __init__(self, env: EnvSpec, network: QNetworkConfig) -> None:
        super().__init__()
        self.actions = env.action.sizes[0]
        self.encoder = make_encoder(env.seen, network.encoder, network.hidden[:-1])
        head = DuelingHead if network.dueling else QHead
        self.head = head(self.encoder.features, self.actions, network.hidden[-1:])
        self._probe = next(self.head.parameters())

    def initial_state(self, batch_size: int) -> Tree:
        """None: there is no recurrent state."""
        return None

    def forward(self, obs: Tree) -> torch.Tensor:
        """Q-values float32 [N, actions] of obs, a tree of [N, ...]."""
        values: torch.Tensor = self.head(self.encoder(obs))
        return values

    @torch.inference_mode()
    def act(self, seen: Seen, state: Tree, exploration: np.ndarray, random: np.random.Generator) -> Acted:
        """Epsilon-greedy actions int64 [B] at what is seen, with epsilon `exploration` [B].

        Extras: q_taken [B], Q(o, a) of the action; q_value [B], the largest Q(o, .).
        """
        device = self._probe.device  # the weights may have moved to where they are published
        values = self(tree_map(lambda leaf: torch.from_numpy(leaf).to(device), seen.obs)).cpu().numpy()
        action = epsilon_greedy(values.argmax(-1), exploration, self.actions, random)
        taken = values[np.arange(len(action)), action]
        return Acted(action, state, {"q_taken": taken, "q_value": values.max(-1)})
