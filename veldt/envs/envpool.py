"""Atari games through envpool's C++ thread pool, an alternative to ALE's own (`backend="envpool"`).

The same preprocessing by the same settings, and next-step autoreset too. It counts the cap in steps and seeds each
stream by a number of its own. Refuses, with the command that installs it, where envpool is missing.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from veldt.envs.options import EnvOptions
from veldt.envs.vector import AtariVector
from veldt.errors import EnvironmentRefused

FRAMES_PER_STEP = 4


def require_envpool() -> Any:
    """The envpool package, or `EnvironmentRefused`."""
    try:
        return importlib.import_module("envpool")
    except ImportError as error:
        raise EnvironmentRefused(f"backend 'envpool' needs envpool: pip install 'veldt[envpool]' ({error})") from error


class EnvpoolAtari(AtariVector):
    """`core.Environments` over B emulators of envpool. obs: uint8 [B, 84, 84]."""

    def __init__(self, rom: str, options: EnvOptions, streams: int, seeds: np.random.SeedSequence, *, num_threads: int = 1):
        super().__init__(streams, options.life_loss)
        self._env = require_envpool().make_gymnasium(
            "".join(part.capitalize() for part in rom.split("_")) + "-v5",
            num_envs=streams,
            num_threads=num_threads,
            seed=[int(seed) >> 1 for seed in seeds.generate_state(streams)],
            stack_num=1,
            frame_skip=FRAMES_PER_STEP,
            noop_max=options.max_no_ops,
            max_episode_steps=options.episode_cap_frames // FRAMES_PER_STEP,
            repeat_action_probability=options.sticky_actions,
            full_action_space=options.full_action_set,
            reward_clip=False,
            episodic_life=False,
            use_fire_reset=False,
        )

    def close(self) -> None:
        """Ends the pool's threads."""
        if hasattr(self, "_env"):
            self._env.close()
            del self._env

    def _reset_emulators(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self._env.reset()  # type: ignore[no-any-return]

    def _step_emulators(self, action: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._env.step(action)  # type: ignore[no-any-return]
