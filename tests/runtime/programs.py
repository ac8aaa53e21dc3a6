"""A small program of many processes: actors with uniform replay on CartPole, learning side at home."""

from functools import partial

from veldt.agents.objectives import QLearning
from veldt.agents.q import QAgent, QNetworkConfig
from veldt.envs.make import make_env_spec
from veldt.math.exploration import EpsilonLadder
from veldt.parts.actor import Actor
from veldt.parts.evaluator import Evaluator
from veldt.parts.learner import Learner
from veldt.parts.optimizers import AdamConfig
from veldt.parts.parameters import LocalParameters
from veldt.program import Bundle, Node, Program
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Uniform
from veldt.replay.table import Table
from veldt.replay.views import Transitions

UNROLL_STEPS, STREAMS, BATCH = 8, 4, 32


def actors_and_learner(actors, env="CartPole-v1", samples_per_insert=4.0, start_steps=200, error_buffer=None, evaluator=False):
    """`actors` x actor; replay, parameters and learner at home."""
    env = make_env_spec(env)
    agent = partial(QAgent, env, QNetworkConfig("auto", (32,), False))
    loss = QLearning(double=True, sum_over_batch=False, error_loss="huber", initial_priorities=False)
    if error_buffer is None and samples_per_insert is not None:
        error_buffer = 2 * actors * UNROLL_STEPS * STREAMS * samples_per_insert
    replay = Node("replay", partial(
        Table, env.step_spec(loss.extras), actors=actors, streams=STREAMS, unroll_steps=UNROLL_STEPS, capacity_steps=8_000,
        view=Transitions(1, 0.99), selector=Uniform(), batch_size=BATCH,
        limiter=Limiter(samples_per_insert, start_steps, error_buffer),
    ))  # fmt: skip
    optimizer = AdamConfig(1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8)
    parameters = Node("parameters", partial(
        LocalParameters, agent, optimizer, max_gradient_norm=None, learning_rate=None))  # fmt: skip
    links = {"memory": "replay", "parameters": "parameters"}
    actor = Node("actor", partial(
        Actor, agent, env, EpsilonLadder(0.4, 7), unroll_steps=UNROLL_STEPS, streams=STREAMS,
        pull_period_steps=None, initial_priorities=None, max_lag_updates=None), links)  # fmt: skip
    learner = Node("learner", partial(Learner, agent, loss, target_period_updates=50), links)
    program = Program((Bundle("actor", (actor,), actors), Bundle("learning", (replay, parameters, learner))))
    if not evaluator:
        return program
    playing = Node("evaluator", partial(
        Evaluator, agent, env, period_steps=1_000, episodes=4, epsilon=0.0, rows_per_step=16), links)  # fmt: skip
    return program.with_bundle(Bundle("evaluation", (playing,)))
