"""The process runtime with real processes: the same numbers as inline, and what happens to workers that die."""

import os
import signal
import time

import pytest
import torch

from tests.runtime.programs import PATIENCE_SECONDS, actors_and_learner, apex_corridor, processes, run_while
from tests.systems.toys import corridor, faulty
from veldt.envs.make import make_env_spec
from veldt.runtime.inline import InlineRuntime
from veldt.systems import apex, apex_dpg, dqn

CYCLES = int(os.environ.get("VELDT_TEST_CYCLES", "3"))
"""Starts and stops in a row. `VELDT_TEST_CYCLES=100` is the long form."""


def run_updates(runtime, updates: int) -> tuple[int, list[torch.Tensor]]:
    """Steps and weights after so many updates."""
    learner, began = runtime.parts["learner"], time.monotonic()

    def more() -> bool:
        assert time.monotonic() - began < PATIENCE_SECONDS
        return learner.updates < updates

    try:
        runtime.run(more)
        weights = runtime.parts["parameters"].state_dict()["tensors"]
        return runtime.parts["replay"].inserted_steps, [tensor.clone() for tensor in weights.values()]
    finally:
        runtime.close()


SMALL = {"start_steps": 200, "replay_steps": 2_000, "batch_size": 32, "environments": 2, "target_period_updates": 50}
DISTRIBUTED = {**SMALL, "actors": 1, "unroll_steps": 5, "pull_period_steps": 15, "samples_per_insert": 8.0}
PROGRAMS = {
    "dqn": lambda: dqn.program(dqn.DQNConfig(**SMALL, hidden=(16,), epsilon_steps=500), make_env_spec("CartPole-v1")),
    "dqn, prioritized": lambda: dqn.program(
        dqn.DQNConfig(**SMALL, hidden=(16,), double=True, dueling=True, n_steps=3, prioritized=True),
        make_env_spec("CartPole-v1"),
    ),
    "apex": lambda: apex.program(apex.ApexConfig(**DISTRIBUTED, hidden=(16,)), make_env_spec("CartPole-v1")),
    "apex-dpg": lambda: apex_dpg.program(
        apex_dpg.ApexDPGConfig(**DISTRIBUTED, policy_hidden=(16,), critic_hidden=(16,)), make_env_spec("Pendulum-v1")
    ),
    "two actors": lambda: actors_and_learner(2),
}
"""DQN's replay is linked to from no other bundle: it runs at home as a whole. The others have their actors in processes."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_200_updates_in_lockstep_give_the_weights_of_the_inline_runtime_bit_for_bit(name):
    program = PROGRAMS[name]()
    steps, weights = run_updates(InlineRuntime(program, seed=3, device="cpu"), 200)
    steps_here, weights_here = run_updates(processes(program, lockstep=True), 200)
    assert steps_here == steps
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights_here, weights, strict=True))


def test_even_a_run_with_deaths_can_be_repeated_in_lockstep(monkeypatch, tmp_path):
    """The others wait for an actor that is being started again: how long that takes must not show in the numbers."""
    monkeypatch.setenv("VELDT_TEST_FAULTS", "actor 1: exit@201")
    runs = []
    for name in ("once", "again"):
        monkeypatch.setenv("VELDT_TEST_FOLDER", str(tmp_path / name))
        (tmp_path / name).mkdir()
        runtime = processes(apex_corridor(faulty, 2), lockstep=True)
        runs.append(run_updates(runtime, 150))
        assert [worker.budget.deaths for worker in runtime.switchboard.crew] == [0, 1]
    (steps, weights), (steps_again, weights_again) = runs
    assert steps == steps_again
    assert all(torch.equal(one, two) for one, two in zip(weights, weights_again, strict=True))


def test_a_run_in_lockstep_stops_at_once_although_an_actor_is_frozen_in_its_turn():
    runtime = processes(apex_corridor(corridor, 1), lockstep=True)
    victim, frozen = runtime.switchboard.crew[0], []

    def stopping() -> bool:
        return bool(frozen) and time.monotonic() > frozen[0] + 0.5

    def more() -> bool:
        if not frozen and victim.commits > 20:
            os.kill(victim.pid, signal.SIGSTOP)
            frozen.append(time.monotonic())
        return True

    runtime.run(more, stopping=stopping)
    assert time.monotonic() < frozen[0] + 5.0
    runtime.close()
    assert time.monotonic() < frozen[0] + 15.0


def test_a_successor_continues_its_predecessors_ring_in_a_life_of_its_own():
    runtime = processes(actors_and_learner(2, samples_per_insert=None))
    victim, killed = runtime.switchboard.crew[1], []

    def more(said) -> bool:
        if not killed and victim.ready and victim.commits >= 3:
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)
        if killed and victim.ready and victim.pid != killed[0]:
            killed.append(victim.commits)
            assert runtime._launch(1).place.life == 1
            return victim.commits < killed[1] + 3
        return True

    said = run_while(runtime, more)
    assert said[0].startswith("actor 1 killed by signal 9")
    assert said[0].endswith("; replaced, 1/2 healthy")


def test_an_actor_that_is_frozen_for_longer_than_the_deadline_is_killed_and_replaced():
    runtime = processes(actors_and_learner(2, samples_per_insert=None), stuck_seconds=1.0)
    victim, frozen = runtime.switchboard.crew[0], []

    def more(said) -> bool:
        if not frozen and victim.ready and victim.commits:
            os.kill(victim.pid, signal.SIGSTOP)
            frozen.append(victim.pid)
        return not any("actor 0 stuck for 1 s" in line for line in said)

    run_while(runtime, more)


@pytest.mark.parametrize("cycles", [CYCLES])
def test_runs_are_started_and_stopped_again_and_again_at_any_moment_and_none_hangs(cycles):
    """Stopped while workers are being started, while they say that they are ready, and while they write."""
    for cycle in range(cycles):
        runtime = processes(actors_and_learner(2, corridor))
        crew = runtime.switchboard.crew
        moments = (
            lambda said, crew=crew: not crew[1].alive,
            lambda said, crew=crew: not any(worker.ready for worker in crew),
            lambda said, crew=crew: any(worker.commits < 2 for worker in crew),
        )
        began = time.monotonic()
        run_while(runtime, moments[cycle % 3])
        assert not any(worker.alive for worker in crew)
        print(f"cycle {cycle}: {time.monotonic() - began:.1f} s", flush=True)


def test_nothing_is_left_when_a_run_is_closed():
    shared_before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    runtime, pids = processes(actors_and_learner(2)), []

    def more(said) -> bool:
        pids[:] = [worker.pid for worker in runtime.switchboard.crew if worker.ready]
        return len(pids) < 2

    run_while(runtime, more)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    if os.path.isdir("/dev/shm"):
        assert set(os.listdir("/dev/shm")) <= shared_before
