"""Ape-X DPG (Horgan et al. 2018, section 4.2 and appendix D): Ape-X for continuous actions.

The wiring is that of `veldt.systems.apex`; another agent acts, with Gaussian noise instead of random actions, and another
objective is minimised: a critic is learned as Q-values are, and a deterministic policy climbs it. Defaults are the paper's
but for those listed in docs/apex.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from veldt.agents.dpg import DPGAgent, DPGNetworkConfig, require_bounded_box
from veldt.agents.objectives import DPG
from veldt.data import EnvSpec
from veldt.errors import require_at_least
from veldt.math.exploration import ConstantNoise
from veldt.parts.optimizers import AdamConfig
from veldt.program import Program
from veldt.systems.apex import assemble
from veldt.systems.apex_shared import ApexShared


@dataclass(frozen=True)
class ApexDPGConfig(ApexShared):
    """Hyperparameters of Ape-X DPG, by default those of Horgan et al. 2018 (section 4.2 and appendix D)."""

    policy_hidden: tuple[int, ...] = (300, 200)
    """Widths of the policy's tanh layers."""
    critic_hidden: tuple[int, ...] = (400, 300)
    """Widths of the critic's tanh layers; observation and action enter the first together."""
    noise: float = 0.3
    """Standard deviation of the Gaussian noise on actions, in half ranges of the action's bounds."""
    action_gradient_clip: float | None = 1.0
    """Each component of dq/da is clipped to plus or minus this, in half ranges of the action's bounds; none leaves it."""
    n_steps: int = 5
    """Rewards summed before bootstrapping."""
    reward_clip: float | None = None
    """Rewards are clipped to plus or minus this before they are learned from; none leaves them."""
    replay_steps: int = 1_000_000
    """Steps kept; the oldest make room for the newest."""
    batch_size: int = 256
    """Transitions per update."""
    learning_rate: float = 1e-4
    """Step size of Adam, for policy and critic."""
    max_gradient_norm: float | None = None
    """Scale gradients down to this global norm; none leaves them."""
    target_period_updates: int = 100
    """Updates between two copies into the target networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("action_gradient_clip", self.action_gradient_clip or 0, 0)


def agent(c: ApexDPGConfig, env: EnvSpec) -> Callable[[], DPGAgent]:
    """Builds the agent that Ape-X DPG trains. Raises `ConfigError` unless actions are a bounded Box."""
    require_bounded_box("apex-dpg", env.action, "use apex")
    return partial(DPGAgent, env, DPGNetworkConfig(c.encoder, c.policy_hidden, c.critic_hidden))


def program(c: ApexDPGConfig, env: EnvSpec) -> Program:
    """The Ape-X DPG of these settings on this environment."""
    optimizer = AdamConfig(c.learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8)
    return assemble(c, env, agent(c, env), DPG(c.action_gradient_clip), optimizer, ConstantNoise(c.noise))
