"""The process runtime with real processes: the same numbers as inline, and what happens to workers that die."""

import os
import signal
import time

import pytest
import torch

from tests.runtime.programs import actors_and_learner
from veldt.runtime.inline import InlineRuntime
from veldt.runtime.processes import ProcessRuntime

PATIENCE_SECONDS = 90.0
"""Nothing here takes as long on a machine that is not busy: a test that waits longer has found a hang."""


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


def processes(program, **settings) -> ProcessRuntime:
    return ProcessRuntime(program, seed=3, device="cpu", **{"lockstep": False, "stuck_seconds": 60.0} | settings)


@pytest.mark.parametrize("actors", [1, 2])
def test_200_updates_in_lockstep_give_the_weights_of_the_inline_runtime_bit_for_bit(actors):
    program = actors_and_learner(actors)
    steps, weights = run_updates(InlineRuntime(program, seed=3, device="cpu"), 200)
    steps_here, weights_here = run_updates(processes(program, lockstep=True), 200)
    assert steps_here == steps
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights_here, weights, strict=True))


def test_an_actor_that_is_killed_is_replaced_and_contributes_again():
    runtime, said = processes(actors_and_learner(2, samples_per_insert=None)), []
    victim, began, killed = runtime.switchboard.crew[1], time.monotonic(), []

    def more() -> bool:
        assert time.monotonic() - began < PATIENCE_SECONDS
        if not killed and victim.ready and victim.commits >= 3:
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)
        if killed and victim.ready and victim.pid != killed[0]:
            killed.append(victim.commits)
            assert runtime._launch(1).place.life == 1
            return victim.commits < killed[1] + 3
        return True

    try:
        runtime.run(more, said.append)
    finally:
        runtime.close()
    assert said[0].startswith("actor 1 killed by signal 9")
    assert said[0].endswith("; replaced, 1/2 healthy")


def test_an_actor_that_is_frozen_for_longer_than_the_deadline_is_killed_and_replaced():
    runtime, said = processes(actors_and_learner(2, samples_per_insert=None), stuck_seconds=1.0), []
    victim, began, frozen = runtime.switchboard.crew[0], time.monotonic(), []

    def more() -> bool:
        assert time.monotonic() - began < PATIENCE_SECONDS
        if not frozen and victim.ready and victim.commits:
            os.kill(victim.pid, signal.SIGSTOP)
            frozen.append(victim.pid)
        return not any("actor 0 stuck for 1 s" in line for line in said)

    try:
        runtime.run(more, said.append)
    finally:
        runtime.close()


def test_nothing_is_left_when_a_run_is_closed():
    shared_before = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    runtime, pids, began = processes(actors_and_learner(2)), [], time.monotonic()

    def more() -> bool:
        assert time.monotonic() - began < PATIENCE_SECONDS
        pids[:] = [worker.pid for worker in runtime.switchboard.crew if worker.ready]
        return len(pids) < 2

    try:
        runtime.run(more)
    finally:
        runtime.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    if os.path.isdir("/dev/shm"):
        assert set(os.listdir("/dev/shm")) <= shared_before
