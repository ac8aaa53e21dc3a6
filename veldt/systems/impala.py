"""IMPALA (Espeholt et al. 2018): actors only act, learners only learn, V-trace mends what lies between them.

    environments <-> actor 0 ----unrolls and their log-probabilities---> queue --batches--> learner 0 ... learner K
    environments <-> actor 1 ----+    ^                                                       |              |
         ...           ...       +    |                                                       +-- gradients -+
    environments <-> actor N ----+    +------- weights, before each unroll ---- parameters <--+ their mean

Actors wait while the queue is full, which bounds how many updates the policy that acted is behind the one that learns. Each unroll
goes to one learner; all learners make each update together. Defaults are the paper's for Atari but for those listed in docs/impala.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from veldt.agents.actor_critic import ActorCriticAgent
from veldt.agents.policy_gradient import VTrace
from veldt.data import EnvSpec
from veldt.errors import ConfigError, require_at_least, require_between
from veldt.math.exploration import ConstantEpsilon
from veldt.parts.actor import Actor
from veldt.parts.lagged import LaggedParameters
from veldt.parts.learner import Learner
from veldt.parts.optimizers import AdamConfig, RMSPropConfig
from veldt.parts.parameters import LocalParameters
from veldt.parts.replicated import ReplicatedParameters
from veldt.program import Bundle, Node, Program
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo
from veldt.replay.table import Table
from veldt.replay.views import Unrolls
from veldt.systems.actor_critic import ActorCriticShared


@dataclass(frozen=True)
class ImpalaConfig(ActorCriticShared):
    """Hyperparameters of IMPALA, by default those of Espeholt et al. 2018 on Atari."""

    actors: int = 4
    """Actors, each with environments of its own."""
    learners: int = 1
    """Learners, each with batches of its own; every update is made of the mean of their gradients."""
    batch_size: int = 32
    """Unrolls per update, of each learner."""
    queue_unrolls: int | None = None
    """Unrolls of each environment that may wait for a learner; by default two, and two batches of each learner in all at least."""
    rho_bar: float = 1.0
    """Where the ratio of probabilities is cut off in the value's target."""
    c_bar: float = 1.0
    """Where the ratio of probabilities is cut off in the trace."""
    pg_rho_bar: float = 1.0
    """Where the ratio of probabilities is cut off before the policy's gradient."""
    trace_lambda: float = 1.0
    """Shortens every trace, if below 1."""
    correction: Literal["vtrace", "one_step", "none"] = "vtrace"
    """vtrace; one_step: n-step returns, the policy's gradient weighted by the ratio; none: as if actors were never behind."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop: with epsilon inside the root and decay 0.99. adam: Kingma and Ba 2015."""
    max_lag_updates: int | None = None
    """Unrolls acted with weights that are more updates old than this are dropped; none keeps all."""
    forced_lag_updates: int = 0
    """Actors work with the weights of exactly so many updates ago: to study what V-trace is for."""
    replay_share: float = 0.0
    """So much of each batch is drawn from old unrolls, uniformly (the paper's variant: 0.5)."""
    replay_unrolls: int = 10_000
    """Unrolls kept to draw old ones from, if replay_share is not 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rho_bar", "c_bar", "pg_rho_bar", "forced_lag_updates"):
            require_at_least(name, getattr(self, name), 0)
        require_between("trace_lambda", self.trace_lambda, 0, 1)
        for name in ("actors", "learners", "batch_size", "queue_unrolls", "max_lag_updates", "replay_unrolls"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        if self.learners > 1 and self.forced_lag_updates:
            raise ConfigError(f"forced_lag_updates is for one learner, got learners {self.learners}")

    @property
    def start_steps(self) -> int:
        """Steps of acting before the first update."""
        return self.learners * self.batch_size * self.unroll_steps

    @property
    def capacity_steps(self) -> int:
        """Steps that the queue holds, old unrolls included."""
        streams = self.actors * self.environments
        waiting = self.queue_unrolls or max(2, -(-2 * self.learners * self.batch_size // streams))
        kept = max(waiting * streams, self.replay_unrolls if self.replay_share else 0)
        return kept * self.unroll_steps


def agent(c: ImpalaConfig, env: EnvSpec) -> Callable[[], ActorCriticAgent]:
    """Builds the agent that IMPALA trains."""
    return partial(ActorCriticAgent, env, c.network)


def program(c: ImpalaConfig, env: EnvSpec) -> Program:
    """The IMPALA of these settings on this environment."""
    make_agent = agent(c, env)
    loss = VTrace(
        c.discount,
        c.reward_clip,
        c.rho_bar,
        c.c_bar,
        c.pg_rho_bar,
        c.trace_lambda,
        c.correction,
        c.value_factor,
        c.entropy_factor,
    )
    rmsprop = RMSPropConfig(c.learning_rate, 0.99, c.optimizer_epsilon, True, initial_square=1.0, centered=False)
    adam = AdamConfig(c.learning_rate, beta1=0.9, beta2=0.999, epsilon=c.optimizer_epsilon)
    unrolls = Node("unrolls", partial(
        Table, env.step_spec(loss.extras), actors=c.actors, streams=c.environments, unroll_steps=c.unroll_steps,
        capacity_steps=c.capacity_steps, frame_stack=env.frame_stack, state=c.network.state, batch_size=c.batch_size,
        view=Unrolls(c.unroll_steps), selector=Fifo(c.replay_share), limiter=Limiter(None),
    ))  # fmt: skip
    parameters = Node("parameters", partial(
        LocalParameters if c.learners == 1 else ReplicatedParameters, make_agent, rmsprop if c.optimizer == "rmsprop" else adam,
        max_gradient_norm=c.max_gradient_norm, learning_rate=c.learning_rate_schedule))  # fmt: skip
    links = {"memory": "unrolls", "parameters": "parameters"}
    learner = Node("learner", partial(Learner, make_agent, loss, target_period_updates=None), links)
    actor = Node("actor", partial(
        Actor, make_agent, env, ConstantEpsilon(1.0), unroll_steps=c.unroll_steps, streams=c.environments,
        pull_period_steps=None, initial_priorities=None, max_lag_updates=c.max_lag_updates), links)  # fmt: skip
    learning = Bundle("learner", (parameters, learner), replicas=c.learners)
    whole = Program((Bundle("actor", (actor,), replicas=c.actors), Bundle("queue", (unrolls,)), learning), memory="unrolls")
    if not c.forced_lag_updates:
        return whole
    lagged = Node("lagged", partial(LaggedParameters, lag_updates=c.forced_lag_updates), {"parameters": "parameters"})
    return whole.into("learner", lagged).relink("actor", parameters="lagged")
