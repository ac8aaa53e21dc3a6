"""Atari games through ALE's C++ vector environment, preprocessed as in the papers.

Four emulator frames a step, the maximum of the last two, grey, 84x84 uint8. A row stores the newest frame; agents see
four (`EnvSpec.frame_stack`). Rewards are summed over the frames and not clipped. An episode starts with up to 30
no-ops, never with a FIRE, and is truncated after 108,000 frames, counted from the first step after the no-ops.

Three departures from the 2015 pipeline, all ALE's: frames turn grey before the maximum is taken, the picture is
shrunk by area instead of bilinearly, and the no-ops are 0 to 30 instead of 1 to 30. The autoreset is next-step (a
test checks it). The emulators' state cannot be read from Python: a resumed run starts new episodes.

Refuses game names that have no ROM, with the nearest one.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import numpy as np
from ale_py import registration, roms
from ale_py.vector_env import AtariVectorEnv

from veldt.data import ActionSpec, ArraySpec
from veldt.envs.options import EnvOptions
from veldt.envs.spaces import action_spec
from veldt.envs.vector import AtariVector
from veldt.errors import EnvironmentRefused

FRAMES_PER_STEP = 4
OBSERVATION = ArraySpec((84, 84), "uint8", 0, 255)
SINGLE_PLAYER_ONLY = {"combat", "joust", "maze_craze", "warlords"}
"""ROMs of two-player games, which ALE cannot play alone."""


def game_name(rom: str) -> str:
    """The name of a ROM in ids: `ms_pacman` -> `MsPacman`."""
    return str(registration.rom_id_to_name(rom))


@cache
def games() -> dict[str, str]:
    """The ROM name of each game by the name in its id: `MsPacman` -> `ms_pacman`."""
    return {game_name(rom): rom for rom in roms.get_all_rom_ids() if rom not in SINGLE_PLAYER_ONLY}


def rom_of(env_id: str) -> str:
    """The ROM of `ALE/MsPacman-v5`, also written `ALE/MsPacman` or `ALE/ms_pacman`."""
    name = env_id.removeprefix("ALE/").removesuffix("-v5")
    if name in games().values():
        return name
    if name not in games():
        near = difflib.get_close_matches(name, games(), n=1)
        nearest = f"; nearest 'ALE/{near[0]}-v5'" if near else ""
        raise EnvironmentRefused(f"{env_id!r} unknown{nearest}; ALE needs ale-py installed (it is, with {len(games())} games)")
    return games()[name]


def atari_actions(rom: str, options: EnvOptions) -> ActionSpec:
    """The actions of a game; makes one emulator to ask it."""
    env = _vector_env(rom, options, 1, 1)
    try:
        return action_spec(env.single_action_space)
    finally:
        env.close()


def _vector_env(rom: str, options: EnvOptions, streams: int, num_threads: int) -> AtariVectorEnv:
    return AtariVectorEnv(
        rom,
        streams,
        num_threads=num_threads,
        stack_num=1,
        frameskip=FRAMES_PER_STEP,
        noop_max=options.max_no_ops + 1,  # ALE draws from 0 to one less than it is given
        repeat_action_probability=options.sticky_actions,
        full_action_space=options.full_action_set,
        max_num_frames_per_episode=options.episode_cap_frames,
        reward_clipping=False,
        episodic_life=False,
        use_fire_reset=False,
    )


class AtariEnvironments(AtariVector):
    """`core.Environments` over B emulators of ALE. obs: uint8 [B, 84, 84]."""

    def __init__(self, rom: str, options: EnvOptions, streams: int, seeds: np.random.SeedSequence, *, num_threads: int = 1):
        super().__init__(streams, options.life_loss)
        self._env = _vector_env(rom, options, streams, num_threads)
        self._seeds: np.ndarray | None = (seeds.generate_state(streams) >> 1).astype(np.int64)

    def close(self) -> None:
        """Ends the emulators' threads, which live as long as ALE's object does: its own `close` leaves them."""
        if hasattr(self, "_env"):
            self._env.close()
            del self._env

    def _reset_emulators(self) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self._env.reset(seed=self._seeds)
        self._seeds = None
        return obs, info

    def _step_emulators(self, action: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._env.step(action)
