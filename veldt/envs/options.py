"""What a user may choose about an environment, apart from which one it is.

Refuses values out of range, and Atari settings given to an environment that is not an Atari game.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from veldt.errors import ConfigError

ATARI_FIELDS = ("sticky_actions", "life_loss", "full_action_set", "max_no_ops", "episode_cap_frames")


@dataclass(frozen=True)
class EnvOptions:
    """How an environment is made. The defaults are those of the papers; all but two fields concern Atari alone."""

    sticky_actions: float = 0.0
    """Atari: the probability that the emulator repeats the previous action instead of the one given."""

    life_loss: bool = False
    """Atari: a lost life zeroes the discount without resetting the game."""

    full_action_set: bool = False
    """Atari: all 18 actions of the console instead of those that the game uses."""

    backend: Literal["gymnasium", "envpool"] = "gymnasium"
    """Who steps the environments: gymnasium (with ALE's own vector environment for Atari), or envpool."""

    frame_stack: int | None = None
    """How many of the newest observations an agent sees at once; by default 4 for Atari and 1 for everything else."""

    max_no_ops: int = 30
    """Atari: an episode starts with a random number of no-op frames up to this."""

    episode_cap_frames: int = 108_000
    """Atari: an episode is cut (truncated, not terminated) after this many emulator frames; 108,000 are 30 minutes."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.sticky_actions < 1.0:
            raise ConfigError(f"sticky_actions must lie in [0, 1), got {self.sticky_actions}")
        if self.backend not in ("gymnasium", "envpool"):
            raise ConfigError(f"backend must be 'gymnasium' or 'envpool', got {self.backend!r}")
        if self.frame_stack is not None and self.frame_stack < 1:
            raise ConfigError(f"frame_stack must be >= 1, got {self.frame_stack}")
        if self.max_no_ops < 0:
            raise ConfigError(f"max_no_ops must be >= 0, got {self.max_no_ops}")
        if self.episode_cap_frames < 4:
            raise ConfigError(f"episode_cap_frames must be >= 4 (one step), got {self.episode_cap_frames}")

    def refuse_atari_fields(self, env: str) -> None:
        """Raises `ConfigError` if a setting that only Atari has was given for `env`, which is not an Atari game."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in ATARI_FIELDS:
            if getattr(self, name) != defaults[name]:
                raise ConfigError(f"{name} applies to Atari (ALE/...) alone; got {getattr(self, name)} for {env!r}")
