"""Gorila (Nair et al. 2015): DQN in many bundles of actor, replay and learner, around a sharded parameter server.

    environment <-> actor 0 --steps--> replay 0 --batches--> learner 0 --+ slices of the gradient, and the
    environment <-> actor 1 --steps--> replay 1 --batches--> learner 1 --+ versions they were computed at
         ...           ^                                         ^       |
                       |                                         |       v
                       +------ weights, slice by slice ----------+--- parameters 0 | parameters 1 | ... | parameters S
                                                                      one slice and one optimiser each

No shard waits for another and no learner for anybody. Two rules keep that stable: a shard drops gradients that are too old, a
learner those of outlying losses. With a global replay, actors and learners are counted separately. Defaults are the paper's
but for those listed in docs/gorila.md; what it does not say is DQN's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from veldt.agents.q import QAgent, QNetworkConfig, require_discrete
from veldt.data import EnvSpec
from veldt.errors import ConfigError, require_at_least
from veldt.math.exploration import LinearEpsilon, LinearSchedule
from veldt.parts.actor import Actor
from veldt.parts.learner import Learner
from veldt.parts.outliers import Outliers
from veldt.parts.shards import ParameterShard
from veldt.program import Bundle, Node, Program
from veldt.systems.dqn import DQNConfig, objective, optimizer, table

LEAST_DEVIATION = 1e-6
"""Losses that are all alike must not make the next one an outlier."""


@dataclass(frozen=True)
class GorilaConfig(DQNConfig):
    """Hyperparameters of Gorila DQN, by default those of Nair et al. 2015, and of DQN where it is silent."""

    bundles: int = 4
    """Bundles of an actor, a replay and a learner."""
    shards: int = 2
    """Shards of the parameter server, each with a slice of the weights and an optimiser of its own."""
    replay: Literal["local", "global"] = "local"
    """local: each bundle has a replay. global: one for all, and actors and learners are no longer bundled."""
    actors: int | None = None
    """Actors around a global replay; none: as many as bundles."""
    learners: int | None = None
    """Learners around a global replay; none: as many as bundles."""
    pull_period_steps: int | None = None
    """Steps of each environment after which an actor copies the weights; none: before every unroll."""
    max_staleness_updates: int | None = 100
    """A shard drops gradients that are more of its updates old than this; none applies all."""
    outlier_deviations: float | None = 4.0
    """Gradients of a loss so many standard deviations above the mean of all losses are not pushed; none pushes all."""
    outlier_warm_up_losses: int = 100
    """Losses of a learner before the first that may be an outlier."""
    replay_steps: int = 1_000_000
    """Steps kept by each replay."""
    start_steps: int = 50_000
    """Steps of acting into a replay before the first update from it."""
    steps_per_update: int = 1
    """Steps of an actor for each update of a learner."""
    optimizer: Literal["rmsprop", "adam", "adagrad"] = "adagrad"
    """adagrad: Duchi et al. 2011. rmsprop: centered, with epsilon inside the root. adam: Kingma and Ba 2015."""
    learning_rate: float = 0.01
    """Step size of the optimiser."""
    optimizer_epsilon: float = 1e-10
    """Keeps the optimiser's denominator away from zero."""
    target_period_updates: int = 60_000
    """Updates of the parameter server, whosever gradients they are, between two copies into the target networks."""
    epsilon_steps: int = 1_000_000
    """Steps of all actors together, after the start, over which exploration falls."""
    environments: int = 1
    """Environments that each actor steps together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bundles", "shards", "outlier_warm_up_losses", "actors", "learners", "pull_period_steps"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        if self.max_staleness_updates is not None:
            require_at_least("max_staleness_updates", self.max_staleness_updates, 0)
        if self.replay == "local" and (self.actors, self.learners) != (None, None):
            raise ConfigError("actors and learners are bundled around local replays: set bundles, or replay global")


def agent(c: GorilaConfig, env: EnvSpec) -> Callable[[], QAgent]:
    """Builds the agent that Gorila trains. Raises `ConfigError` unless actions are Discrete."""
    require_discrete("gorila", env.action, "wrap with Discretize or choose a continuous algorithm")
    return partial(QAgent, env, QNetworkConfig(c.encoder, c.hidden, c.dueling))


def program(c: GorilaConfig, env: EnvSpec) -> Program:
    """The Gorila of these settings on this environment."""
    make_agent, bundled = agent(c, env), c.replay == "local"
    actors, learners = c.actors or c.bundles, c.learners or c.bundles
    outliers = Outliers(c.outlier_deviations, c.outlier_warm_up_losses, LEAST_DEVIATION) if c.outlier_deviations else None
    parameters = Node("parameters", partial(
        ParameterShard, make_agent, optimizer(c), max_staleness_updates=c.max_staleness_updates,
        max_gradient_norm=c.max_gradient_norm, learning_rate=LinearSchedule.to_zero(c.learning_rate, c.learning_rate_updates)))  # fmt: skip
    replay = Node("replay", table(c, env, actors=1 if bundled else actors))
    links = {"memory": "replay", "parameters": "parameters"}
    learner = Node("learner", partial(
        Learner, make_agent, objective(c), target_period_updates=c.target_period_updates, outliers=outliers), links)  # fmt: skip
    start_steps = c.start_steps * (actors if bundled else 1)
    actor = Node("actor", partial(
        Actor, make_agent, env, LinearEpsilon(1.0, c.epsilon_end, start_steps, start_steps + c.epsilon_steps),
        unroll_steps=c.unroll_steps, streams=c.environments, pull_period_steps=c.pull_period_steps,
        initial_priorities=None, max_lag_updates=None), links)  # fmt: skip
    server = Bundle("shard", (parameters,), replicas=c.shards)
    if bundled:
        return Program((Bundle("bundle", (actor, replay, learner), replicas=actors), server))
    return Program(
        (Bundle("actor", (actor,), actors), Bundle("replay", (replay,)), Bundle("learner", (learner,), learners), server)
    )
