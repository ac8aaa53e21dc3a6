"""Videos: one episode of a policy as an .mp4. An entry point's helper; needs the `video` extra.

Environments that render `rgb_array` are filmed as they render. ALE's vector environment does not render: there the film is what
the agent sees, the preprocessed frames.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from veldt.data import EnvSpec
from veldt.envs.loop import LoopEnvironments
from veldt.envs.rendering import picture, rendering
from veldt.errors import ConfigError
from veldt.parts.evaluator import Play
from veldt.policy import Policy

FRAMES_PER_SECOND = 30


class _Filmed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps a picture of every observation."""

    def __init__(self, env: gymnasium.Env[Any, Any], film: list[np.ndarray]) -> None:
        super().__init__(env)
        self._film = film

    def reset(self, **kwargs: Any) -> Any:
        """Resets and takes a picture."""
        answer = self.env.reset(**kwargs)
        self._film.append(picture(self.env.render()))
        return answer

    def step(self, action: Any) -> Any:
        """Steps and takes a picture."""
        answer = self.env.step(action)
        self._film.append(picture(self.env.render()))
        return answer


@dataclass
class _Camera:
    """Makes an environment with a film of it."""

    create: Callable[[], gymnasium.Env[Any, Any]]
    film: list[np.ndarray] = field(default_factory=list)

    def __call__(self) -> gymnasium.Env[Any, Any]:
        return _Filmed(self.create(), self.film)


class _SeenFrames:
    """An agent that keeps the newest frame of everything it is shown."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self.film: list[np.ndarray] = []

    def initial_state(self, batch_size: int) -> Any:
        """That of the agent."""
        return self._agent.initial_state(batch_size)

    def act(self, seen: Any, *rest: Any) -> Any:
        """Acts as the agent does."""
        self.film.append(picture(np.repeat(seen.obs[0, -1, :, :, None], 3, axis=2)))
        return self._agent.act(seen, *rest)


def record(policy: Policy, path: Path, *, seed: int, epsilon: float | None) -> None:
    """Plays one episode and writes it to `path`.

    Raises:
        ConfigError: `path` is no .mp4 file, or the `video` extra is not installed.
        EnvironmentRefused: the environment cannot be filmed.
    """
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):
        raise ConfigError("a video needs imageio and ffmpeg: pip install 'veldt[video]'")
    import imageio

    if path.suffix != ".mp4":
        raise ConfigError(f"video must be an .mp4 file, got {str(path)!r}")
    chance = policy.epsilon if epsilon is None else epsilon
    seeds = np.random.SeedSequence(seed, spawn_key=tuple(b"video"))
    agent: Any = policy.agent
    camera: Any
    env = policy.env
    if env.id.startswith("ALE/"):
        agent = camera = _SeenFrames(policy.agent)
    else:
        env, camera = _filmed(env)
    play = Play(agent, env, 1, chance, seeds)
    while not play.advance(1000):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.mimwrite(path, list[Any](camera.film), fps=FRAMES_PER_SECOND, macro_block_size=2)


def _filmed(env: EnvSpec) -> tuple[EnvSpec, _Camera]:
    create, family = rendering(env)
    camera = _Camera(create)
    return replace(env, make=partial(LoopEnvironments, camera, family, env.observation)), camera
