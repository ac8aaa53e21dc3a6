"""Ape-X (Horgan et al. 2018): many actors, one prioritized replay, one learner.

    environments <-> actor 0 ----steps and initial priorities---> replay --batches--> learner
    environments <-> actor 1 ----+    ^                             ^                    |
         ...           ...       +    |                             +--- priorities -----+ gradients
    environments <-> actor N ----+    +---- weights, now and then ---- parameters <------+

Each environment explores at its own rung of a ladder of epsilons. Actors rate what they write with the Q-values that they have
anyway, so new experience enters the replay with a priority of its own. Defaults are the paper's but for those listed in docs/apex.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from veldt.agents.objectives import QLearning
from veldt.agents.q import QAgent, QNetworkConfig, require_discrete
from veldt.core import InitialPriorities, Objective
from veldt.data import EnvSpec, Tree
from veldt.math.exploration import EpsilonLadder, Exploration, LinearSchedule
from veldt.math.priorities import NStepPriorities
from veldt.parts.actor import Actor
from veldt.parts.learner import Learner
from veldt.parts.optimizers import adam_or_rmsprop
from veldt.parts.parameters import LocalParameters
from veldt.program import Bundle, Node, Program
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Proportional
from veldt.replay.table import Table
from veldt.replay.views import Transitions, View
from veldt.systems.apex_shared import ApexShared


@dataclass(frozen=True)
class ApexConfig(ApexShared):
    """Hyperparameters of Ape-X DQN, by default those of Horgan et al. 2018 (section 4.1 and appendix C)."""

    hidden: tuple[int, ...] = (512,)
    """Widths of the hidden layers; an image encoder has them after its convolutions."""
    dueling: bool = True
    """Separate streams for state value and advantages, each with the last hidden layer of its own."""
    double: bool = True
    """Choose the next action with the online network, value it with the target network."""
    error_loss: Literal["squared", "huber"] = "squared"
    """squared: half the squared error. huber: its gradient is the error clipped to plus or minus 1."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """rmsprop: centered, with epsilon inside the root. adam: Kingma and Ba 2015."""
    optimizer_epsilon: float = 1.5e-7
    """Keeps the optimiser's denominator away from zero."""
    epsilon_base: float = 0.4
    """Exploration of the first environment of all."""
    epsilon_power: float = 7.0
    """The last environment explores at epsilon_base to the power of 1 plus this; the others in between."""


def assemble(
    c: ApexShared,
    env: EnvSpec,
    make_agent: Callable[[], Any],
    loss: Objective,
    optimizer: Any,
    exploration: Exploration,
    items: tuple[View, InitialPriorities] | None = None,
    state: Tree = None,
) -> Program:
    """Ape-X around an agent, which carries `state`, what it minimises, and what is learned from: n-step transitions, or `items`."""
    transitions = Transitions(c.n_steps, c.discount, c.reward_clip), NStepPriorities(c.n_steps, c.discount, c.reward_clip)
    view, rate = items or transitions
    under_way = (c.samples_per_step or 0) * 2 * c.unroll_steps * c.environments * c.actors
    error_buffer = max(under_way, c.batch_size) if c.error_buffer is None else c.error_buffer
    learning_rate = LinearSchedule.to_zero(c.learning_rate, c.learning_rate_updates)
    replay = Node("replay", partial(
        Table, env.step_spec(loss.extras), actors=c.actors, streams=c.environments, unroll_steps=c.unroll_steps,
        capacity_steps=c.replay_steps, frame_stack=env.frame_stack, batch_size=c.batch_size, initial_priorities=rate,
        view=view, state=state, selector=Proportional(c.priority_exponent, c.importance_exponent),
        limiter=Limiter(c.samples_per_step, c.start_steps, error_buffer),
    ))  # fmt: skip
    parameters = Node("parameters", partial(
        LocalParameters, make_agent, optimizer, max_gradient_norm=c.max_gradient_norm, learning_rate=learning_rate))  # fmt: skip
    links = {"memory": "replay", "parameters": "parameters"}
    learner = Node("learner", partial(Learner, make_agent, loss, target_period_updates=c.target_period_updates), links)
    actor = Node("actor", partial(
        Actor, make_agent, env, exploration, unroll_steps=c.unroll_steps, streams=c.environments,
        pull_period_steps=c.pull_period_steps, initial_priorities=rate, max_lag_updates=c.max_lag_updates), links)  # fmt: skip
    return Program((Bundle("actor", (actor,), replicas=c.actors), Bundle("learning", (replay, parameters, learner))))


def agent(c: ApexConfig, env: EnvSpec) -> Callable[[], QAgent]:
    """Builds the agent that Ape-X DQN trains. Raises `ConfigError` unless actions are Discrete."""
    require_discrete("apex", env.action, "use apex-dpg")
    return partial(QAgent, env, QNetworkConfig(c.encoder, c.hidden, c.dueling))


def program(c: ApexConfig, env: EnvSpec) -> Program:
    """The Ape-X DQN of these settings on this environment."""
    loss = QLearning(double=c.double, sum_over_batch=False, error_loss=c.error_loss, initial_priorities=True)
    optimizer = adam_or_rmsprop(c.optimizer, c.learning_rate, c.optimizer_epsilon)
    return assemble(c, env, agent(c, env), loss, optimizer, EpsilonLadder(c.epsilon_base, c.epsilon_power))
