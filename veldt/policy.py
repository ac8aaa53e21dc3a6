"""A trained policy: loaded from a run folder onto the CPU, it acts and can be evaluated. An entry point.

It needs no machine, device or process of the run that trained it, and loading it executes nothing that the file holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veldt.core import Agent
from veldt.data import EnvSpec, Seen, Tree, tree_leaves
from veldt.errors import RunFolderError
from veldt.parts.evaluator import Play
from veldt.request import from_dict
from veldt.runs.policy import load_policy


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes played with a policy: returns [K] and lengths [K], in the order in which they ended."""

    env: str
    policy_step: int
    epsilon: float
    returns: list[float]
    lengths_steps: list[int]

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    def json(self) -> str:
        """The result as JSON, with mean, standard deviation, minimum and maximum of the return."""
        found = {
            "env": self.env,
            "policy_step": self.policy_step,
            "epsilon": self.epsilon,
            "episodes": len(self.returns),
            "return_mean": self.return_mean,
            "return_std": float(np.std(self.returns)),
            "return_min": min(self.returns),
            "return_max": max(self.returns),
            "length_steps_mean": float(np.mean(self.lengths_steps)),
            "returns": self.returns,
        }
        return json.dumps(found, indent=1)


class Policy:
    """What a run learned: acts on observations as its environment gives them."""

    def __init__(self, agent: Agent, env: EnvSpec, about: dict[str, Any]) -> None:
        self.agent, self.env, self.about = agent, env, about
        self.epsilon = float(about["run"]["eval_epsilon"])
        self._random = np.random.default_rng()
        self._state: Tree = None
        self._last_action = env.action.array.zeros(0)

    def act(
        self,
        obs: Tree,
        epsilon: float | None = None,
        *,
        first: np.ndarray | None = None,
        reward: np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions [B] for a batch of observations, a tree of numpy arrays [B, ...] as `env.seen` describes them.

        Args:
            obs: what B streams show.
            epsilon: exploration; by default what the run evaluated with.
            first: bool [B], which observations start episodes. A policy with a memory remembers the others' past from the
                call before. None: all of them start one.
            reward: float32 [B], what followed the last actions, for a policy that reads it.
        """
        count = len(tree_leaves(obs)[0])
        chance = np.full(count, self.epsilon if epsilon is None else epsilon, np.float32)
        first = np.ones(count, bool) if first is None else np.asarray(first, bool)
        if first.all() and count != len(self._last_action):
            self._state, self._last_action = self.agent.initial_state(count), self.env.action.array.zeros(count)
        if count != len(self._last_action):
            raise ValueError(f"{count} observations, {len(self._last_action)} in the call before: all must start episodes")
        last_action = self._last_action.copy()
        last_action[first] = 0
        last_reward = np.zeros(count, np.float32) if reward is None else np.where(first, 0, reward).astype(np.float32)
        acted = self.agent.act(Seen(obs, first, last_action, last_reward), self._state, chance, self._random)
        self._state, self._last_action = acted.state, acted.action
        return acted.action


def load(path: str | Path, **changes: Any) -> Policy:
    """The best policy of the run in folder `path` (or the policy file itself), on the CPU.

    changes: settings that the file cannot hold, such as `encoder=` for a run whose encoder was given as an object.

    Raises:
        RunFolderError: there is none, it is damaged, or does not fit its environment any more.
    """
    path = Path(path)
    stored = load_policy(path / "policy" if (path / "policy").is_dir() else path)
    request = from_dict(stored.about, {"device": "cpu", "out": path, **changes})
    agent = request.system.agent(request.config, request.env_spec)()
    try:
        agent.load_state_dict(stored.weights)
    except RuntimeError as error:
        raise RunFolderError(
            f"the policy in {path} does not fit {request.env_name} any more (it now shows "
            f"{request.env_spec.seen} and takes {request.env_spec.action}): {error}"
        ) from error
    agent.eval()
    return Policy(agent, request.env_spec, stored.about)


def evaluate(
    policy: Policy | str | Path, episodes: int = 20, *, seed: int = 0, epsilon: float | None = None
) -> EvaluationResult:
    """Plays `episodes` fresh episodes with a policy, or with the best policy of a run.

    Args:
        policy: a loaded policy, or the folder of a run.
        episodes: how many.
        seed: of the environments; none of its random streams is one that training used.
        epsilon: chance of a random action; by default what the run evaluated with.
    """
    if not isinstance(policy, Policy):
        policy = load(policy)
    epsilon = policy.epsilon if epsilon is None else epsilon
    seeds = np.random.SeedSequence(seed, spawn_key=tuple(b"evaluation"))
    play = Play(policy.agent, policy.env, episodes, epsilon, seeds)
    while not play.advance(1000):
        pass
    return EvaluationResult(
        policy.env.id,
        int(policy.about["step"]),
        epsilon,
        [episode.episode_return for episode in play.episodes],
        [episode.length_steps for episode in play.episodes],
    )
