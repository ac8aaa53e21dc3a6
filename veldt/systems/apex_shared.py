"""What Ape-X and the systems on its wiring have in common: their actors, their replay, their pace."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from veldt.errors import require_at_least, require_between


@dataclass(frozen=True)
class ApexShared:
    """What both variants of Ape-X have; the numbers are those of the DQN variant."""

    encoder: str | nn.Module = "auto"
    """Reads observations: auto, mlp, nips, nature, impala, impala_shallow, grid, package.module:callable; or a module."""
    actors: int = 4
    """Actors, each with environments of its own."""
    environments: int = 1
    """Environments that each actor steps together."""
    unroll_steps: int = 50
    """Steps of each environment that an actor sends at a time."""
    pull_period_steps: int | None = 100
    """Steps of each environment after which an actor copies the weights (the paper's 400 frames); none: follow each update."""
    max_lag_updates: int | None = None
    """Unrolls acted with weights that are more updates old than this are dropped; none keeps all."""
    n_steps: int = 3
    """Rewards summed before bootstrapping."""
    discount: float = 0.99
    """Gamma."""
    reward_clip: float | None = 1.0
    """Rewards are clipped to plus or minus this before they are learned from; none leaves them."""
    replay_steps: int = 2_000_000
    """Steps kept; the oldest make room for the newest."""
    start_steps: int = 50_000
    """Steps of acting before the first update."""
    priority_exponent: float = 0.6
    """Alpha of prioritized replay."""
    importance_exponent: float = 0.4
    """Beta of prioritized replay."""
    samples_per_insert: float | None = 0.78
    """Transitions learned from for each step acted; none lets actors and learner run free."""
    error_buffer: float | None = None
    """Samples by which actors and learner may drift apart; by default two unrolls of every actor, and a batch at least."""
    batch_size: int = 512
    """Transitions per update."""
    learning_rate: float = 6.25e-5
    """Step size of the optimiser."""
    learning_rate_updates: int | None = None
    """Updates over which the step size falls to 0, linearly; none keeps it."""
    max_gradient_norm: float | None = 40.0
    """Scale gradients down to this global norm; none leaves them."""
    target_period_updates: int = 2_500
    """Updates between two copies into the target network."""

    def __post_init__(self) -> None:
        require_between("discount", self.discount, 0, 1)
        require_at_least("target_period_updates", self.target_period_updates, 1, " update")
        counts = "actors", "environments", "unroll_steps", "n_steps", "replay_steps", "start_steps", "batch_size"
        for name in (*counts, "pull_period_steps", "learning_rate_updates", "max_lag_updates"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)

    @property
    def samples_per_step(self) -> float | None:
        """Items learned from for each step acted."""
        return self.samples_per_insert
