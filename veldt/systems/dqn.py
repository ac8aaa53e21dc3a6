"""DQN (Mnih et al. 2013, 2015): one actor, one learner, one replay; all in one loop.

    environment <-> actor --steps--> replay --batches--> learner --gradients--> parameters
                      ^                                                             |
                      +--------------------------- weights -------------------------+

Defaults are the 2015 paper's. Double (van Hasselt et al. 2016), dueling (Wang et al. 2016), n-step (Sutton 1988) and
prioritized replay (Schaul et al. 2016) are options of the same agent and objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from veldt.agents.objectives import QLearning
from veldt.agents.q import QAgent, QNetworkConfig, require_discrete
from veldt.data import EnvSpec
from veldt.errors import require_at_least, require_between
from veldt.math.exploration import LinearEpsilon, LinearSchedule
from veldt.parts.actor import Actor
from veldt.parts.learner import Learner
from veldt.parts.optimizers import AdaGradConfig, adam_or_rmsprop
from veldt.parts.parameters import LocalParameters
from veldt.program import Bundle, Node, Program
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Proportional, Uniform
from veldt.replay.table import Table
from veldt.replay.views import Transitions


@dataclass(frozen=True)
class DQNConfig:
    """Hyperparameters of DQN, by default those of Mnih et al. 2015 (extended data table 1 and the released code)."""

    encoder: str | nn.Module = "auto"
    """Reads observations: auto, mlp, nips, nature, impala, impala_shallow, grid, package.module:callable; or a module."""
    hidden: tuple[int, ...] = (512,)
    """Widths of the hidden layers; an image encoder has them after its convolutions."""
    dueling: bool = False
    """Separate streams for state value and advantages, each with the last hidden layer of its own."""
    double: bool = False
    """Choose the next action with the online network, value it with the target network."""
    n_steps: int = 1
    """Rewards summed before bootstrapping."""
    discount: float = 0.99
    """Gamma."""
    reward_clip: float | None = 1.0
    """Rewards are clipped to plus or minus this before they are learned from; none leaves them."""
    replay_steps: int = 1_000_000
    """Steps kept."""
    start_steps: int = 50_000
    """Steps of acting before the first update."""
    prioritized: bool = False
    """Sample transitions in proportion to their TD error instead of uniformly."""
    priority_exponent: float = 0.6
    """Alpha of prioritized replay."""
    importance_exponent: float = 0.4
    """Beta of prioritized replay at the start; it grows to 1 over importance_anneal_updates."""
    importance_anneal_updates: int = 12_500_000
    """Updates until beta is 1."""
    batch_size: int = 32
    """Transitions per update."""
    steps_per_update: int = 4
    """Agent steps for each update."""
    optimizer: Literal["rmsprop", "adam", "adagrad"] = "rmsprop"
    """rmsprop: centered, with epsilon inside the root. adam: Kingma and Ba 2015. adagrad: Duchi et al. 2011."""
    learning_rate: float = 2.5e-4
    """Step size of the optimiser."""
    learning_rate_updates: int | None = None
    """Updates over which the step size falls to 0, linearly; none keeps it."""
    optimizer_epsilon: float = 0.01
    """Keeps the optimiser's denominator away from zero."""
    sum_over_batch: bool = True
    """Sum the losses of a batch, as the paper does, instead of averaging them."""
    max_gradient_norm: float | None = None
    """Scale gradients down to this global norm; none leaves them."""
    target_period_updates: int = 2_500
    """Updates between two copies into the target network (the paper's 10,000 agent steps)."""
    epsilon_end: float = 0.1
    """Exploration falls from 1 to this, linearly."""
    epsilon_steps: int = 1_000_000
    """Agent steps after start_steps over which it falls."""
    environments: int = 1
    """Environments the actor steps together."""

    def __post_init__(self) -> None:
        require_between("discount", self.discount, 0, 1)
        require_between("epsilon_end", self.epsilon_end, 0, 1)
        if self.learning_rate_updates is not None:
            require_at_least("learning_rate_updates", self.learning_rate_updates, 1)
        require_at_least("target_period_updates", self.target_period_updates, 1, " update")
        counts = "n_steps", "replay_steps", "start_steps", "batch_size", "steps_per_update", "environments"
        for name in (*counts, "importance_anneal_updates"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "optimizer_epsilon", "epsilon_steps"):
            require_at_least(name, getattr(self, name), 0)

    @property
    def unroll_steps(self) -> int:
        """Rows the actor writes before the learner has its turn."""
        return max(1, self.steps_per_update // self.environments)


def agent(c: DQNConfig, env: EnvSpec) -> Callable[[], QAgent]:
    """Builds the agent that DQN trains. Raises `ConfigError` unless actions are Discrete."""
    require_discrete("dqn", env.action, "wrap with Discretize or choose a continuous algorithm")
    return partial(QAgent, env, QNetworkConfig(c.encoder, c.hidden, c.dueling))


def objective(c: DQNConfig) -> QLearning:
    """What learners minimise."""
    return QLearning(double=c.double, sum_over_batch=c.sum_over_batch, error_loss="huber", initial_priorities=False)


def optimizer(c: DQNConfig) -> Any:
    """The settings of the optimiser."""
    if c.optimizer == "adagrad":
        return AdaGradConfig(c.learning_rate, c.optimizer_epsilon)
    return adam_or_rmsprop(c.optimizer, c.learning_rate, c.optimizer_epsilon)


def table(c: DQNConfig, env: EnvSpec, *, actors: int) -> Callable[..., Table]:
    """Makes the replay of so many actors."""
    proportional = Proportional(c.priority_exponent, c.importance_exponent, 1.0, c.importance_anneal_updates * c.batch_size)
    return partial(
        Table, env.step_spec(objective(c).extras), actors=actors, streams=c.environments, unroll_steps=c.unroll_steps,
        capacity_steps=c.replay_steps, frame_stack=env.frame_stack, batch_size=c.batch_size,
        view=Transitions(c.n_steps, c.discount, c.reward_clip), selector=proportional if c.prioritized else Uniform(),
        limiter=Limiter(c.batch_size / c.steps_per_update, c.start_steps),
    )  # fmt: skip


def program(c: DQNConfig, env: EnvSpec) -> Program:
    """The DQN of these settings on this environment."""
    make_agent, loss = agent(c, env), objective(c)
    replay = Node("replay", table(c, env, actors=1))
    parameters = Node("parameters", partial(
        LocalParameters, make_agent, optimizer(c), max_gradient_norm=c.max_gradient_norm, learning_rate=LinearSchedule.to_zero(c.learning_rate, c.learning_rate_updates)))  # fmt: skip
    links = {"memory": "replay", "parameters": "parameters"}
    epsilon = LinearEpsilon(1.0, c.epsilon_end, c.start_steps, c.start_steps + c.epsilon_steps)
    actor = Node("actor", partial(
        Actor, make_agent, env, epsilon, unroll_steps=c.unroll_steps, streams=c.environments,
        pull_period_steps=None, initial_priorities=None, max_lag_updates=None), links)  # fmt: skip
    learner = Node("learner", partial(Learner, make_agent, loss, target_period_updates=c.target_period_updates), links)
    return Program((Bundle("dqn", (actor, replay, learner, parameters)),))
