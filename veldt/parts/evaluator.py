"""The evaluator: plays greedy episodes with the newest weights every so many steps, beside the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from veldt.core import Agent, Parameters, Place, State, StepCount
from veldt.data import EnvSpec, Episode
from veldt.parts.sight import Sight

MAX_STREAMS = 16


@dataclass(frozen=True)
class Evaluation:
    """Returns [K] and lengths [K] of K episodes played with the weights of one version, at agent step `step`."""

    step: int
    returns: np.ndarray
    lengths_steps: np.ndarray
    tensors: dict[str, torch.Tensor]

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())


class Play:
    """K episodes of one agent in `min(K, 16)` fresh environments, a bounded number of rows at a time.

    Each environment plays its share of episodes from its first on, so that short episodes are not counted more often.
    """

    def __init__(self, agent: Agent, env: EnvSpec, episodes: int, epsilon: float, seeds: np.random.SeedSequence) -> None:
        streams = min(episodes, MAX_STREAMS)
        environments, actions = seeds.spawn(2)
        self._agent = agent
        self._env = env.make(streams, environments)
        self._random = np.random.Generator(np.random.PCG64(actions))
        self._epsilon = np.full(streams, epsilon, np.float32)
        self._quota = np.full(streams, episodes // streams) + (np.arange(streams) < episodes % streams)
        self._sight = Sight(env, streams)
        self._state = agent.initial_state(streams)
        self._seen = self._sight.see(self._env.reset())
        self.episodes: list[Episode] = []

    def advance(self, rows: int) -> bool:
        """Plays at most `rows` rows; True when all episodes are over."""
        for _ in range(rows):
            if not self._quota.any():
                self._env.close()
                return True
            acted = self._agent.act(self._seen, self._state, self._epsilon, self._random)
            self._state = acted.state
            self._seen = self._sight.see(self._env.step(acted.action), acted.action)
            for episode in self._env.pop_episodes():
                if self._quota[episode.stream]:
                    self._quota[episode.stream] -= 1
                    self.episodes.append(episode)
        return False


class Evaluator:
    """Evaluates `episodes` greedy episodes at every multiple of `period_steps` agent steps."""

    uses: ClassVar[Mapping[str, str]] = {"memory": "counts"}
    """What the runtime must know: of a memory it only asks for steps."""

    def __init__(
        self,
        make_agent: Callable[[], Any],
        env: EnvSpec,
        *,
        period_steps: int,
        episodes: int,
        epsilon: float,
        rows_per_step: int,
        memory: StepCount | Sequence[StepCount],
        parameters: Parameters,
        place: Place,
    ) -> None:
        """Args:
        make_agent: builds the agent; weights are copied from `parameters` when an evaluation starts.
        env: the environment to evaluate in.
        period_steps: agent steps between two evaluations.
        episodes: episodes of one evaluation.
        epsilon: exploration while evaluating, as the agent understands it.
        rows_per_step: rows played in one `step()`.
        memory: counts the agent steps; several count them together.
        parameters: where the weights come from.
        place: seeds the environments.
        """
        self._agent = make_agent()
        self._env, self._place = env, place
        self._period, self._episodes, self._epsilon = period_steps, episodes, epsilon
        self._rows_per_step = rows_per_step
        self._memories = memory if isinstance(memory, Sequence) else (memory,)
        self._parameters = parameters
        self._play: Play | None = None
        self._at_step = 0
        self._next_step = period_steps
        self._results: list[Evaluation] = []
        self.seconds = {"evaluation": 0.0}

    @property
    def _steps(self) -> int:
        """Agent steps taken."""
        return sum(memory.inserted_steps for memory in self._memories)

    def step(self) -> bool:
        """Starts an evaluation if one is due, or plays on; False if none is."""
        if self._play is None:
            steps = self._steps
            if steps < self._next_step:
                return False
            self._start(steps)
            self._next_step = (steps // self._period + 1) * self._period
        assert self._play is not None
        started = time.perf_counter()
        if self._play.advance(self._rows_per_step):
            self._finish()
        self.seconds["evaluation"] += time.perf_counter() - started
        return True

    def _start(self, step: int) -> None:
        weights = self._parameters.pull(())
        assert weights is not None
        own = {**dict(self._agent.named_parameters()), **dict(self._agent.named_buffers())}
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights.tensors[name])
        self._begin(step)

    def _begin(self, step: int) -> None:
        self._at_step = step
        seeds = np.random.SeedSequence(self._place.seed, spawn_key=(*b"evaluator", step))
        self._play = Play(self._agent, self._env, self._episodes, self._epsilon, seeds)

    def _finish(self) -> None:
        assert self._play is not None
        played = self._play.episodes
        self._play = None
        tensors = {name: tensor.clone() for name, tensor in self._agent.state_dict().items()}
        returns = np.array([episode.episode_return for episode in played])
        lengths = np.array([episode.length_steps for episode in played])
        self._results.append(Evaluation(self._at_step, returns, lengths, tensors))

    def conclude(self, stopping: Callable[[], bool]) -> None:
        """Finishes the evaluation under way, then evaluates the final weights if they were not the ones evaluated.

        stopping: asked between rows; True leaves the evaluation under way as it is.
        """
        if self._play is None and self._at_step != self._steps:
            self._start(self._steps)
        while self._play is not None and not stopping():
            self.step()
        if self._at_step != self._steps and not stopping():
            self.conclude(stopping)

    def pop_evaluations(self) -> list[Evaluation]:
        """The evaluations that were finished since the last call."""
        results, self._results = self._results, []
        return results

    def waiting_for(self) -> str:
        """The step of the next evaluation."""
        return f"evaluator: step {self._steps:,} of {self._next_step:,} before the next evaluation"

    def metrics(self) -> dict[str, float]:
        """Nothing: evaluations are events of their own."""
        return {}

    def state_dict(self) -> State:
        """When the next evaluation is due, and the weights of the one under way, which starts again after a resume."""
        under_way = None if self._play is None else dict(self._agent.state_dict())
        return {"next_step": self._next_step, "at_step": self._at_step, "under_way": under_way}

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self._next_step = int(state["next_step"])
        if state["under_way"] is not None:
            self._agent.load_state_dict(state["under_way"])
            self._begin(int(state["at_step"]))
