"""A3C and its three siblings (Mnih et al. 2016): workers on one machine share weights that they change without locks.

    environment <-> actor 0 --unroll--> learner 0 --gradients--+      no lock, no replay
    environment <-> actor 1 --unroll--> learner 1 --gradients--+--> weights, and the optimiser's running squares
         ...          ^                   |                    |      |
                      |                   +--------------------+      | copied into the worker's own when it has pushed
                      +-----------------------------------------------+

Each worker acts for a few steps, learns from exactly those with the weights that it acted with, and starts again from the newest.
Different workers explore differently. Defaults are the paper's but for those listed in docs/a3c.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from veldt.agents.actor_critic import ActorCriticAgent
from veldt.agents.policy_gradient import ActorCritic
from veldt.agents.q import QAgent, QNetworkConfig, require_discrete
from veldt.agents.q_unrolls import QUnrolls
from veldt.data import EnvSpec
from veldt.errors import ConfigError, require_at_least
from veldt.math.exploration import ConstantEpsilon, DrawnEpsilon, Exploration
from veldt.parts.actor import Actor
from veldt.parts.hogwild import HogwildParameters, OwnCopy
from veldt.parts.learner import Learner
from veldt.parts.optimizers import RMSPropConfig
from veldt.parts.shards import ParameterShard
from veldt.program import Bundle, Node, Program
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo
from veldt.replay.table import Table
from veldt.replay.views import Unrolls
from veldt.systems.actor_critic import ActorCriticShared


@dataclass(frozen=True)
class A3CConfig(ActorCriticShared):
    """Hyperparameters of A3C, by default those of Mnih et al. 2016 on Atari."""

    method: Literal["a3c", "one_step_q", "one_step_sarsa", "n_step_q"] = "a3c"
    """a3c: advantage actor-critic. The others learn values, explore by epsilon and bootstrap with a target network."""
    workers: int = 16
    """Actor-learners, each with environments and a copy of the weights of its own."""
    unroll_steps: int = 5
    """Steps of each environment for one gradient; the longest return before bootstrapping."""
    learning_rate: float = 7e-4
    """Step size of the optimiser."""
    learning_rate_updates: int | None = 16_000_000
    """Updates by all workers over which the step size falls to 0, linearly; none keeps it."""
    optimizer_epsilon: float = 0.1
    """Inside the root of RMSProp's denominator."""
    target_period_updates: int = 2_000
    """Updates by all workers between two copies into the target networks; of the value-based methods."""
    epsilon_steps: int = 1_000_000
    """Steps of all workers over which exploration falls from 1 to where each worker's ends: 0.1, 0.01 or 0.5."""
    shards: int = 0
    """0: weights in memory that all workers share. More: a parameter server of so many shards, as in Gorila."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("workers", "target_period_updates"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("epsilon_steps", "shards"):
            require_at_least(name, getattr(self, name), 0)
        if self.method != "a3c" and (self.lstm_units or self.last_inputs):
            raise ConfigError(f"method {self.method} has no memory: lstm_units and last_inputs are a3c's")

    @property
    def exploration(self) -> Exploration:
        """How each worker explores."""
        if self.method == "a3c":
            return ConstantEpsilon(1.0)  # of sampling the policy
        return DrawnEpsilon(1.0, (0.1, 0.01, 0.5), (0.4, 0.3, 0.3), self.epsilon_steps)


def agent(c: A3CConfig, env: EnvSpec) -> Callable[[], Any]:
    """Builds the agent that A3C trains. Raises `ConfigError` if a value-based method has actions that are not Discrete."""
    if c.method == "a3c":
        return partial(ActorCriticAgent, env, c.network)
    require_discrete(f"a3c with method {c.method}", env.action, "use method a3c")
    return partial(QAgent, env, QNetworkConfig(c.encoder, c.hidden, dueling=False))


def objective(c: A3CConfig) -> ActorCritic | QUnrolls:
    """What each worker minimises."""
    if c.method == "a3c":
        return ActorCritic(c.discount, c.reward_clip, c.value_factor, c.entropy_factor)
    return QUnrolls(c.method, c.discount, c.reward_clip)


def program(c: A3CConfig, env: EnvSpec) -> Program:
    """The A3C of these settings on this environment."""
    make_agent, loss = agent(c, env), objective(c)
    unrolls = Node("unrolls", partial(
        Table, env.step_spec(loss.extras), actors=1, streams=c.environments, unroll_steps=c.unroll_steps,
        capacity_steps=c.environments * c.unroll_steps, frame_stack=env.frame_stack, batch_size=c.environments,
        state=c.network.state if c.method == "a3c" else None, view=Unrolls(c.unroll_steps), selector=Fifo(), limiter=Limiter(None),
    ))  # fmt: skip
    rmsprop = RMSPropConfig(c.learning_rate, 0.99, c.optimizer_epsilon, True, initial_square=0.0, centered=False)
    norm, rate = c.max_gradient_norm, c.learning_rate_schedule
    hogwild = partial(HogwildParameters, make_agent, rmsprop, users=c.workers, max_gradient_norm=norm, learning_rate=rate)
    shard = partial(
        ParameterShard, make_agent, rmsprop, max_staleness_updates=None, max_gradient_norm=norm, learning_rate=rate)  # fmt: skip
    weights = Bundle("weights", (Node("parameters", shard if c.shards else hogwild),), max(1, c.shards))
    own = Node("own", OwnCopy, {"parameters": "parameters"})
    links = {"memory": "unrolls", "parameters": "own"}
    actor = Node("actor", partial(
        Actor, make_agent, env, c.exploration, unroll_steps=c.unroll_steps, streams=c.environments, pull_period_steps=None,
        initial_priorities=None, max_lag_updates=None, acts_ahead=c.method == "one_step_sarsa"), links)  # fmt: skip
    learner = Node("learner", partial(
        Learner, make_agent, loss, target_period_updates=None if c.method == "a3c" else c.target_period_updates), links)  # fmt: skip
    worker = Bundle("worker", (actor, unrolls, own, learner), replicas=c.workers)
    return Program((worker, weights), memory="unrolls")
