"""Small programs of many processes: actors with uniform replay, learning side at home; and a run of one that is looked at."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import torch

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
from veldt.runtime.processes import ProcessRuntime
from veldt.systems import apex
from veldt.systems.apex import ApexConfig

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
    return with_evaluator(program, agent, env) if evaluator else program


PATIENCE_SECONDS = 300.0
"""Nothing here takes as long on a machine that is not busy: a test that waits longer has found a hang."""


def processes(program, **settings) -> ProcessRuntime:
    """The process runtime as the tests use it."""
    return ProcessRuntime(program, seed=3, device="cpu", **{"lockstep": False, "stuck_seconds": 60.0} | settings)


def run_while(runtime, more) -> list[str]:
    """Runs until `more(said)` is False; what was said. Nothing is left of the runtime."""
    began, said = time.monotonic(), []

    def after_round() -> bool:
        assert time.monotonic() - began < PATIENCE_SECONDS, said
        return more(said)

    try:
        runtime.run(after_round, said.append)
    finally:
        runtime.close()
    return said


def unbounded(runtime):
    """`runtime`, whose actors may write without end: nobody else shares steps out."""
    for part in runtime.parts.values():
        if hasattr(part, "most_steps"):
            part.most_steps = 10**9
    return runtime


def killing(victim) -> Callable[[list[str]], bool]:
    """For `run_while`: kills `victim` once, as soon as it is ready, and goes on without end."""
    killed = []

    def more(said: list[str]) -> bool:
        if not killed and victim.ready:
            killed.append(True)
            os.kill(victim.pid, signal.SIGKILL)
        return True

    return more


def apex_corridor(env, actors: int, evaluator: bool = False, **settings) -> Program:
    """Ape-X that learns the corridor of `tests.systems.toys`, or one of its relatives, in seconds."""
    config = ApexConfig(**{
        "actors": actors, "environments": 2, "unroll_steps": 5, "hidden": (32,), "batch_size": 32, "start_steps": 200,
        "replay_steps": 2_000, "target_period_updates": 50, "samples_per_insert": 8.0, "pull_period_steps": 15,
        "learning_rate": 1e-3, "optimizer": "adam", "optimizer_epsilon": 1e-8, **settings,
    })  # fmt: skip
    spec = make_env_spec(env)
    program = apex.program(config, spec)
    return with_evaluator(program, apex.agent(config, spec), spec) if evaluator else program


def with_evaluator(program: Program, agent, env) -> Program:
    """The program and an evaluator beside it."""
    playing = Node("evaluator", partial(
        Evaluator, agent, env, period_steps=200, episodes=4, epsilon=0.0, rows_per_step=16),
        {"memory": "replay", "parameters": "parameters"})  # fmt: skip
    return program.with_bundle(Bundle("evaluation", (playing,)))


def goes_right(runtime) -> bool:
    """Whether the policy learned is the best one in the corridor: right, wherever it starts."""
    with torch.no_grad():
        values = runtime.parts["learner"]._online(torch.eye(5)[1:4])
    return bool((values.argmax(1) == 1).all())
