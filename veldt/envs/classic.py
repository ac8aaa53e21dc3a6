"""Gymnasium's own vector environments written in numpy (CartPole), which step B streams in one call.

Their autoreset is next-step, as ours: the row after the last one is the reset observation with reward 0, and both
flags are down. The time limit is inside (`make_vec` passes `max_episode_steps`) and sets `truncated`, also on a
step that terminates. Refuses, at construction, a vector environment with another autoreset.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from veldt.core import State
from veldt.data import TimeStep, Tree
from veldt.envs.create import Create
from veldt.envs.families import Family
from veldt.envs.loop import LoopEnvironments
from veldt.envs.vector import VectorEnvironments
from veldt.errors import EnvironmentRefused

NUMPY_MODULES = "gymnasium.envs.classic_control."
"""Vector environments from here keep all their state in numpy attributes, and so can be saved."""

Plain = bool | int | float | np.ndarray
"""Attributes that are state. Everything else (spaces, metadata, screens) is made anew by the constructor."""


def has_numpy_vector(env_id: str) -> bool:
    """Whether Gymnasium ships a numpy vector implementation of `env_id`."""
    entry = gymnasium.registry[env_id].vector_entry_point if env_id in gymnasium.registry else None
    return isinstance(entry, str) and entry.startswith(NUMPY_MODULES)


def make_classic(
    create: Create, env_id: str, family: Family, spec: Tree, streams: int, seeds: np.random.SeedSequence
) -> LoopEnvironments | ClassicEnvironments:
    """B streams of `env_id`: its vector implementation, or the plain one where a single stream is faster so."""
    if streams == 1:
        return LoopEnvironments(create, family, spec, streams, seeds)
    return ClassicEnvironments(env_id, streams, seeds)


class ClassicEnvironments(VectorEnvironments):
    """`core.Environments` over one numpy vector environment. Saved and restored bit for bit."""

    def __init__(self, env_id: str, streams: int, seeds: np.random.SeedSequence):
        super().__init__(streams)
        mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
        self._env: VectorEnv[Any, Any, Any] = gymnasium.make_vec(env_id, streams, vectorization_mode=mode)
        if (found := self._env.metadata.get("autoreset_mode")) is not AutoresetMode.NEXT_STEP:
            raise EnvironmentRefused(f"{env_id!r}: expected a vector environment with next-step autoreset, got {found}")
        self._seed: int | None = int(seeds.generate_state(1)[0]) >> 1

    def step(self, action: np.ndarray) -> TimeStep:
        """Acts with `action` int64 [B]. A stream whose row was `last` ignores it and starts its next episode."""
        obs, reward, terminated, truncated, _ = self._env.step(action)
        return self._next_row(obs, reward, terminated, truncated)

    def state_dict(self) -> State:
        """The environment's numpy state and random generator, and the current row."""
        env = self._env.unwrapped
        return {
            "environment": {name: copy.copy(value) for name, value in vars(env).items() if isinstance(value, Plain)},
            "random": copy.deepcopy(env.np_random.bit_generator.state),
            **self._row_state(),
        }

    def load_state_dict(self, state: State | None) -> TimeStep:
        """Goes on where `state_dict` was taken, bit for bit, or starts new episodes from None."""
        if state is None:
            return self.reset()
        row = self._load_row_state(state)
        self._seed = None
        env = self._env.unwrapped
        for name, value in state["environment"].items():
            setattr(env, name, copy.copy(value))
        env.np_random.bit_generator.state = copy.deepcopy(state["random"])
        return row

    def close(self) -> None:
        """Closes the vector environment."""
        self._env.close()

    def _restart(self) -> np.ndarray:
        obs, _ = self._env.reset(seed=self._seed)
        self._seed = None
        return obs  # type: ignore[no-any-return]
