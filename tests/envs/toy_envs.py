"""Small environments for the tests, and the slow truth about rows: what `LoopEnvironments` must answer."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from veldt.data import Tree
from veldt.envs.families import family_of
from veldt.envs.loop import LoopEnvironments
from veldt.envs.spaces import observation_spec


class Counting(gymnasium.Env):
    """obs = (episode, t); the reward of action a at t is 10 t + a; ends after `length` steps, one way or the other."""

    observation_space = spaces.Box(0, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, length: int = 2, terminates: bool = True, truncates: bool = False):
        self.length, self.terminates, self.truncates = length, terminates, truncates
        self.episode, self.t = -1, 0

    def _obs(self) -> np.ndarray:
        return np.array([self.episode, self.t], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        reward = 10.0 * self.t + action
        self.t += 1
        over = self.t == self.length
        return self._obs(), reward, over and self.terminates, over and self.truncates, {}


class Walk(gymnasium.Env):
    """A random walk that ends at random, all from the generator that reset(seed) seeds. Actions shift it."""

    observation_space = spaces.Box(-1e6, 1e6, (3,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=3)
        return self.at.copy(), {}

    def step(self, action):
        self.at = self.at + self.np_random.normal(size=3) + float(action.sum())
        dice = self.np_random.uniform(size=2)
        return self.at.copy(), float(self.at[0]), bool(dice[0] < 0.1), bool(dice[1] < 0.1), {}


class Unseeded(Walk):
    """Not reproducible: its randomness ignores the seed."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class Faulty(Counting):
    """Does `what` at step `at` of every environment made until `healthy_after` environments have been made."""

    made = 0
    closed = 0

    def __init__(self, what: str, at: int = 3, healthy_after: int = 10**9):
        super().__init__(length=10)
        type(self).made += 1
        self.what, self.at = what, at
        self.healthy = type(self).made > healthy_after

    def close(self):
        type(self).closed += 1

    def reset(self, *, seed=None, options=None):
        if self.what == "raise in reset" and not self.healthy:
            raise OSError("no licence")
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self.healthy or self.t != self.at:
            return obs, reward, terminated, truncated, info
        if self.what == "raise":
            raise ValueError("boom")
        if self.what == "four values":
            return obs, reward, terminated, info
        changed = {
            "nan reward": (obs, float("nan")),
            "infinite reward": (obs, float("inf")),
            "nan observation": (obs * np.nan, reward),
            "infinite observation": (np.array([0, np.inf], np.float32), reward),
            "wrong shape": (obs[:1], reward),
            "wrong dtype": (obs.astype(np.complex64), reward),
            "list": (obs.tolist(), reward),
            "array reward": (obs, np.array([1.0, 2.0])),
            "no reward": (obs, None),
        }
        obs, reward = changed[self.what]
        return obs, reward, terminated, truncated, info


class WithSpaces(gymnasium.Env):
    """Samples its spaces; `seen_actions` is what step was given."""

    def __init__(self, observation: Any, action: Any):
        self.observation_space, self.action_space = observation, action
        self.seen_actions: list[Any] = []

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.seen_actions.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


class Holds:
    """A factory that holds a lock."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self):
        return Counting()


def counting() -> Counting:
    return Counting()


def not_an_env() -> list[int]:
    return [1]


class Row(NamedTuple):
    obs: Tree
    first: bool
    last: bool
    reward: float
    discount: float


def oracle(env: gymnasium.Env, seeds: list[int], actions: list[Any]) -> tuple[list[Row], list[tuple[float, int]]]:
    """One stream by the book: its rows (reward and discount are of the row before), and (return, length)s."""
    episodes: list[tuple[float, int]] = []
    todo = list(seeds)
    rows = [Row(env.reset(seed=todo.pop(0))[0], True, False, 0.0, 1.0)]
    rewards: list[float] = []
    for action in actions:
        if rows[-1].last:
            rows.append(Row(env.reset(seed=todo.pop(0))[0], True, False, 0.0, 1.0))
            continue
        obs, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        rows.append(Row(obs, False, terminated or truncated, reward, 0.0 if terminated else 1.0))
        if rows[-1].last:
            episodes.append((sum(rewards), len(rewards)))
            rewards = []
    return rows, episodes


def loop(create: Any, streams: int = 1, seed: int = 0) -> LoopEnvironments:
    """`create` in a loop, without the look at the first steps that `make_env_spec` takes."""
    made = create()
    family = family_of(made)
    spec = observation_spec(made.observation_space, family.ignored)
    return LoopEnvironments(create, family, spec, streams, np.random.SeedSequence(seed))
