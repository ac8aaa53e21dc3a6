"""Bundles that act and learn, around a server in processes of its own (Gorila): killed bundles and shards, and what it costs."""

import os
import signal
import time

import pytest
import torch

from tests.runtime.programs import killing, processes, run_while, unbounded
from tests.systems.toys import corridor
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError, WorkersLost
from veldt.program import Bundle, Program
from veldt.runtime.building import joined
from veldt.runtime.supervision import RestartLimits
from veldt.systems.gorila import GorilaConfig, program


def gorila(**settings):
    """Two bundles, two shards: `settings` over them."""
    config = GorilaConfig(**{
        "bundles": 2, "shards": 2, "hidden": (32,), "environments": 2, "batch_size": 32, "start_steps": 100, "replay_steps": 2_000,
        "steps_per_update": 4, "optimizer": "adam", "optimizer_epsilon": 1e-8, "learning_rate": 1e-3, "sum_over_batch": False,
        "target_period_updates": 50, "epsilon_steps": 1_000, "reward_clip": None, **settings,
    })  # fmt: skip
    return program(config, make_env_spec(corridor))


def parameters(runtime):
    return joined([runtime.parts["parameters 0"], runtime.parts["parameters 1"]])


def worker(runtime, label):
    return next(one for one in runtime.switchboard.crew if one.label == label)


def test_a_bundle_that_is_killed_costs_its_replay_and_the_others_do_not_wait():
    runtime = unbounded(processes(gorila()))
    shared, victim, marks = parameters(runtime), worker(runtime, "bundle 1"), {}

    def more(said):
        if not marks and all(one.ready for one in runtime.switchboard.crew) and shared.version > 100:
            marks.update(version=shared.version, steps=[runtime.parts[f"replay {number}"].inserted_steps for number in (0, 1)])
            os.kill(victim.pid, signal.SIGKILL)
        replay = runtime.parts["replay 1"]
        return not marks or replay.inserted_steps <= marks["steps"][1] + 100 or shared.version < marks["version"] + 300

    said = run_while(runtime, more)
    assert any(line.startswith("bundle 1 killed by signal 9") and "replaced, 1/2 healthy" in line for line in said)
    now = [runtime.parts[f"replay {number}"].inserted_steps for number in (0, 1)]
    assert now[0] > marks["steps"][0]
    assert now[1] > marks["steps"][1] + 100  # counted on: its successor contributes
    assert victim.budget.deaths == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in shared.pull(()).tensors.values())


def test_a_shard_that_is_killed_is_restored_and_training_goes_on():
    runtime = unbounded(processes(gorila()))
    shards, victim, marks = [runtime.parts["parameters 0"], runtime.parts["parameters 1"]], worker(runtime, "shard 1"), {}

    def more(said):
        if not marks and all(one.ready for one in runtime.switchboard.crew) and shards[1].version > 200:
            marks.update(version=shards[1].version)
            os.kill(victim.pid, signal.SIGKILL)
        return not any("late pushes rejected" in line for line in said) or shards[1].version < marks["version"] + 200

    said = run_while(runtime, more)
    assert any(line.startswith("shard 1 killed by signal 9") for line in said)
    (restored,) = [line for line in said if "late pushes rejected" in line]
    version = int(restored.split("restored at version ")[1].split(";")[0].replace(",", ""))
    assert restored.startswith("warning: shard 1/restored at version")
    assert 0 <= version <= marks["version"] + 50
    assert shards[0].version > version  # the other one lost nothing
    assert all(bool(torch.isfinite(tensor).all()) for tensor in parameters(runtime).pull(()).tensors.values())


def test_without_one_of_its_shards_a_run_ends():
    runtime = unbounded(processes(gorila(), restarts=RestartLimits(rate_cap=1)))
    victim = worker(runtime, "shard 0")

    with pytest.raises(WorkersLost, match="1/2 shards; giving up"):
        run_while(runtime, killing(victim))


def test_who_is_paused_for_longer_than_the_deadline_is_not_stuck_and_tells_its_replay():
    runtime = unbounded(processes(gorila(replay_steps=100_000), stuck_seconds=4.0))
    crew, shared, told = runtime.switchboard.crew, parameters(runtime), []

    def more(said):
        if told or not all(one.ready for one in crew) or shared.version < 20:
            return not told or shared.version < told[0] + 20
        with runtime.snapshot():
            until = time.monotonic() + 5.0
            while time.monotonic() < until:
                runtime.switchboard.step()
            assert all(runtime.parts[f"replay {number}"].replay_state_dict() for number in (0, 1))
            told.append(shared.version)
        return True

    assert run_while(runtime, more) == []
    assert [one.budget.deaths for one in crew] == [0] * len(crew)


def test_learners_around_a_global_replay_live_where_it_does():
    runtime = unbounded(processes(gorila(replay="global", actors=2, learners=2, bundles=1)))
    assert {one.label for one in runtime.switchboard.crew} == {"actor 0", "actor 1", "shard 0", "shard 1"}
    learners = [runtime.parts["learner 0"], runtime.parts["learner 1"]]
    run_while(runtime, lambda said: sum(learner.updates for learner in learners) < 100)
    assert parameters(runtime).version > 0
    assert runtime.parts["replay"].inserted_steps > 100


def test_what_no_link_can_carry_is_refused_before_anything_starts():
    whole = gorila(replay="global", actors=2, learners=2, bundles=1)
    replicated = [Bundle(one.name, one.nodes, 2) if one.name == "replay" else one for one in whole.bundles]
    with pytest.raises(
        ConfigError, match="'actor' needs 'replay' in its own process, but it lives in others; use --runtime inline"
    ):
        processes(Program(tuple(replicated)))
