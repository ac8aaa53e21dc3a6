"""What the systems that learn a policy with a value have in common: their network, their loss, their optimiser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from veldt.agents.actor_critic import ActorCriticNetworkConfig
from veldt.errors import require_at_least, require_between
from veldt.math.exploration import LinearSchedule


@dataclass(frozen=True)
class ActorCriticShared:
    """What IMPALA and A3C have in common; the numbers are IMPALA's on Atari."""

    encoder: str | nn.Module = "auto"
    """Reads observations: auto, mlp, nips, nature, impala, impala_shallow, grid, package.module:callable; or a module."""
    hidden: tuple[int, ...] = (256,)
    """Widths of the hidden layers; an image encoder has them after its convolutions."""
    lstm_units: int = 0
    """Cells of an LSTM behind the encoder; 0: none."""
    last_inputs: bool = False
    """The network reads the last action and the last reward too."""
    separate_networks: bool = False
    """Policy and value have networks of their own, up to the heads, instead of common features."""
    environments: int = 1
    """Environments that each actor steps together."""
    unroll_steps: int = 20
    """Steps of each environment between two copies of the weights; the longest return before bootstrapping."""
    discount: float = 0.99
    """Gamma."""
    reward_clip: float | None = 1.0
    """Rewards are clipped to plus or minus this before they are learned from; none leaves them."""
    value_factor: float = 0.5
    """Weight of half the squared error of the value."""
    entropy_factor: float = 0.01
    """Weight of the policy's entropy, which is kept up."""
    learning_rate: float = 6e-4
    """Step size of the optimiser."""
    learning_rate_updates: int | None = 78_125
    """Updates over which the step size falls to 0, linearly; none keeps it."""
    optimizer_epsilon: float = 0.01
    """Keeps the optimiser's denominator away from zero."""
    max_gradient_norm: float | None = 40.0
    """Scale gradients down to this global norm; none leaves them."""

    def __post_init__(self) -> None:
        require_between("discount", self.discount, 0, 1)
        for name in ("value_factor", "entropy_factor", "lstm_units"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("environments", "unroll_steps", "learning_rate_updates"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)

    @property
    def network(self) -> ActorCriticNetworkConfig:
        """The network of these settings."""
        return ActorCriticNetworkConfig(
            self.encoder, self.hidden, self.lstm_units, self.last_inputs, self.reward_clip, self.separate_networks
        )

    @property
    def learning_rate_schedule(self) -> LinearSchedule | None:
        """The step size by update."""
        end = self.learning_rate_updates
        return LinearSchedule(self.learning_rate, 0.0, 0, end) if end is not None else None
