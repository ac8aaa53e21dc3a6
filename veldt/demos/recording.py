"""Recording: somebody plays episodes of an environment, and each is written into a Minari dataset as soon as it is over.

What is stored is what Veldt's environment shows, in its own dtypes and without loss, so that it is read back exactly: discrete values
counted from 0, no frame stacks, no MiniGrid mission, of Atari the preprocessed frame. Rewards are the true ones.

Refuses, before anything is played: a name that is taken or that Minari does not allow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from veldt.data import ActionSpec, EnvSpec, Seen, Tree, tree_map
from veldt.demos.datasets import RECORDED_IN, Demonstration, require_minari, require_name, spaces_of
from veldt.envs.families import Env
from veldt.errors import ConfigError
from veldt.parts.sight import Sight


class Demonstrator(Protocol):
    """Who plays: one environment, row by row."""

    name: str
    """Who it is, for those who read the dataset."""

    def __call__(self, seen: Seen, env: Env | None) -> np.ndarray:
        """What to do, [1, ...], at what is seen of the one stream. `seen.first` says that an episode starts.

        env: the Gymnasium environment behind it; None where there is none, as with Atari.
        """


def require_free_name(name: str) -> None:
    """Raises `ConfigError` unless a dataset called `name` can be written."""
    require_minari()
    require_name(name)
    from minari.storage.datasets_root_dir import get_dataset_path

    if Path(get_dataset_path(name)).exists():
        raise ConfigError(
            f"a dataset {name!r} exists in {get_dataset_path()}; give it another version, or delete it: minari delete {name}"
        )


@dataclass
class _Episode:
    """An episode under way."""

    obs: list[Tree] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def whole(self, terminated: bool) -> Demonstration:
        obs = tree_map(lambda *leaves: np.stack(leaves), self.obs[0], *self.obs[1:])
        return Demonstration(obs, np.stack(self.actions), np.array(self.rewards, np.float32), terminated)


def play(
    env: EnvSpec,
    demonstrator: Demonstrator,
    episodes: int,
    seeds: np.random.SeedSequence,
    on_episode: Callable[[Demonstration], None],
) -> None:
    """Plays `episodes` whole episodes; each is handed to `on_episode` when it is over. One in which the environment failed is dropped.

    Raises:
        ConfigError: the demonstrator does what may not be done.
    """
    environments = env.make(1, seeds)
    sight, action = Sight(env, 1), None
    try:
        step, episode, done = environments.reset(), _Episode(), 0
        while True:
            seen = sight.see(step, action)
            if step.first[0]:
                episode = _Episode()
            episode.obs.append(tree_map(lambda leaf: leaf[0].copy(), step.obs))
            if step.last[0]:
                on_episode(episode.whole(terminated=bool(step.discount[0] == 0)))
                done += 1
                if done == episodes:
                    return
                action = env.action.array.zeros(1)  # ignored
                step = environments.step(action)
                continue
            behind = environments.environment(0) if hasattr(environments, "environment") else None
            action = checked(demonstrator(seen, behind), env.action, demonstrator.name)
            step = environments.step(action)
            episode.actions.append(action[0].copy())
            episode.rewards.append(float(step.reward[0]))
    finally:
        environments.close()


def checked(action: Any, spec: ActionSpec, who: str) -> np.ndarray:
    """`action` [1, ...] as `spec` stores it.

    Raises:
        ConfigError: it is none of the actions that there are.
    """
    found = np.asarray(action)
    wrong = found.shape != (1, *spec.shape) or found.dtype.kind not in ("iu" if spec.sizes else "iuf")
    if wrong or (spec.sizes and bool(((found < 0) | (found >= spec.sizes)).any())) or not np.isfinite(found).all():
        shown = found[0] if found.shape[:1] == (1,) else found
        raise ConfigError(f"{who} answered {shown!r}; actions are {spec}")
    return found.astype(spec.dtype)


@dataclass(frozen=True)
class Recorded:
    """What was recorded: returns [N] and lengths [N] of the episodes."""

    name: str
    returns: list[float]
    lengths_steps: list[int]


def record(
    env: EnvSpec,
    demonstrator: Demonstrator,
    *,
    episodes: int,
    seed: int,
    name: str,
    on_episode: Callable[[int, Demonstration], None] = lambda number, episode: None,
) -> Recorded:
    """Plays `episodes` episodes of `env` and writes them into a new dataset called `name`, each when it is over.

    Args:
        env: where to play.
        demonstrator: who plays.
        episodes: how many.
        seed: of the environment; none of its random streams is one that training uses.
        name: of the dataset.
        on_episode: is told of each episode, and its number from 1 on.

    Raises:
        ConfigError: the name is taken or none, Minari is not installed, or the demonstrator does what may not be done.
    """
    require_free_name(name)
    writer = _Writer(env, demonstrator.name, seed, name)
    recorded = Recorded(name, [], [])

    def keep(episode: Demonstration) -> None:
        writer.write(episode)
        recorded.returns.append(float(episode.reward.sum(dtype=np.float64)))
        recorded.lengths_steps.append(len(episode))
        on_episode(len(recorded.returns), episode)

    play(env, demonstrator, episodes, np.random.SeedSequence(seed, spawn_key=tuple(b"demonstrations")), keep)
    return recorded


class _Writer:
    """A dataset that grows by whole episodes; it is there from the first one on."""

    def __init__(self, env: EnvSpec, who: str, seed: int, name: str) -> None:
        self._env, self._who, self._seed, self._name = env, who, seed, name
        self._dataset: Any = None

    def write(self, episode: Demonstration) -> None:
        """Adds an episode."""
        from minari.data_collector import EpisodeBuffer

        ends = np.zeros(len(episode), bool)
        ends[-1] = True
        buffer: Any = EpisodeBuffer(
            observations=episode.obs,
            actions=episode.action,
            rewards=episode.reward,
            terminations=ends & episode.terminated,
            truncations=ends & (not episode.terminated),
        )
        if self._dataset is None:
            self._dataset = self._create(buffer)
        else:
            self._dataset.update_dataset_from_buffer([buffer])

    def _create(self, first: Any) -> Any:
        import minari

        observation_space, action_space = spaces_of(self._env)
        with warnings.catch_warnings():  # about an author, a link and an environment to evaluate in, of which we know nothing
            warnings.simplefilter("ignore")
            dataset = minari.create_dataset_from_buffers(
                self._name, [first], observation_space=observation_space, action_space=action_space, algorithm_name=self._who,
                description=f"{self._env.id}, played by {self._who}, seed {self._seed}", data_format="hdf5", jpeg_encoding=False,
            )  # fmt: skip
        dataset.storage.update_metadata({RECORDED_IN: self._env.id, "requirements": []})
        return dataset
