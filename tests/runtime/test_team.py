"""Teams: learners in processes of their own that average their gradients, one of which is killed; and the batches they are handed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.runtime.members import gives, taken
from tests.runtime.programs import PATIENCE_SECONDS, killing, processes, run_while, unbounded
from tests.systems.toys import corridor
from veldt.core import Place
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError, WorkersLost
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo
from veldt.replay.table import Table
from veldt.replay.views import Unrolls
from veldt.runtime.batches import BatchDock, BatchPort, BatchServer
from veldt.runtime.cluster import Actors
from veldt.runtime.cluster_start import ClusterOptions
from veldt.runtime.placement import Placement
from veldt.runtime.shared import SharedArena
from veldt.runtime.supervision import RestartLimits
from veldt.runtime.team import Invitation, Member, Team, devices_of
from veldt.systems.impala import ImpalaConfig, program

# ---- the average over processes ----------------------------------------------------------------------------------------


def started(invitation: Invitation, vectors: list[list[float]]) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=gives, args=(invitation, vectors), daemon=True)
    process.start()
    return process


def test_members_in_three_processes_take_the_mean_of_what_they_give():
    team = Team(["cpu"] * 3)
    others = [started(team.invite(rank), [[1.0, rank], [rank, 2.0]]) for rank in (1, 2)]
    team.home.give(torch.tensor([4.0, 0.0]))
    assert team.home.pending
    assert taken(team.home).tolist() == [2.0, 1.0]
    assert not team.home.pending
    team.home.give(torch.tensor([0.0, 5.0]))
    assert taken(team.home).tolist() == [1.0, 3.0]
    for other in others:
        other.join(PATIENCE_SECONDS)
        assert other.exitcode == 0
    team.close()


def test_what_was_given_to_a_circle_that_lost_a_member_goes_into_the_first_round_of_the_next():
    team = Team(["cpu"] * 2)
    victim = started(team.invite(1), [[2.0], [3.0], [4.0]])
    team.home.give(torch.tensor([0.0]))
    assert taken(team.home).tolist() == [1.0]
    victim.kill()  # it may have given its second vector or not
    victim.join()
    team.dissolve()
    team.home.give(torch.tensor([7.0]))
    assert team.home.take() is None
    successor = started(team.invite(1), [[9.0]])
    assert taken(team.home).tolist() == [8.0]
    successor.join(PATIENCE_SECONDS)
    team.close()


def test_a_member_that_nobody_relieves_of_a_broken_circle_gives_up():
    team = Team(["cpu"] * 2)
    peer = started(team.invite(1), [[1.0], [1.0]])
    impatient = Member(None, grace_seconds=0.0)
    assert team.home._circle is not None
    impatient.join(team.home._circle)
    impatient.give(torch.tensor([1.0]))
    assert taken(impatient).tolist() == [1.0]
    peer.kill()
    impatient.give(torch.tensor([1.0]))
    with pytest.raises(RuntimeError, match="the average with the other replicas broke down"):
        while True:
            taken(impatient)
            impatient.give(torch.tensor([1.0]))
    team.close()


def test_more_learners_than_gpus_are_refused():
    assert devices_of("cpu", 2) == ["cpu", "cpu"]
    few = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=rf"{few + 1} learners need {few + 1} GPUs from cuda:0 on, found {few}; use fewer"):
        devices_of("cuda", few + 1)


# ---- batches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    """A queue of unrolls of two steps, two in a batch, of one actor with two environments."""
    spec = make_env_spec(corridor).step_spec({})
    made = Table(
        spec, actors=1, streams=2, unroll_steps=2, capacity_steps=80, frame_stack=1, state=None, batch_size=2,
        view=Unrolls(2), selector=Fifo(), limiter=Limiter(None), place=Place(arena=SharedArena),
    )  # fmt: skip
    return made


def write(table: Table, unroll: int) -> None:
    """Unroll number `unroll`: its rewards are its number."""
    rows = table.inlet(0).rows
    for row in range(2 * unroll, 2 * unroll + 2):
        for name in ("first", "last"):
            rows[name][row % table.rows] = False
        rows["reward"][row % table.rows] = unroll
    table.commit(0, 2 * unroll + 2)


def test_batches_arrive_whole_and_in_order_and_no_more_are_drawn_than_there_is_room_for(table):
    dock = BatchDock(table)
    server, port = BatchServer([(table, dock)]), BatchPort("unrolls", dock)
    assert not port.can_sample()
    assert not server.step()
    for unroll in range(4):
        write(table, unroll)
    assert [server.step() for _ in range(3)] == [True, True, False]  # two rooms
    assert "learners to take" in server.waiting_for()
    first = port.sample()
    assert not server.step()  # the first is being learned from
    assert first.data.reward[:2].unique().tolist() == [0.0]
    assert first.data.reward.shape == (3, 2)
    second = port.sample()
    assert server.step()
    assert second.data.reward[:2].unique().tolist() == [1.0]
    assert port.sample().data.reward[:2].unique().tolist() == [2.0]


def test_the_successor_of_a_learner_finds_the_batch_that_was_not_taken_and_not_the_one_that_was(table):
    dock = BatchDock(table)
    server = BatchServer([(table, dock)])
    for unroll in range(3):
        write(table, unroll)
    server.step()
    server.step()
    BatchPort("unrolls", dock).sample()
    successor = BatchPort("unrolls", dock)
    assert server.step()
    assert [float(successor.sample().data.reward[0, 0]) for _ in range(2)] == [1.0, 2.0]


# ---- a run -------------------------------------------------------------------------------------------------------------


def impala(learners: int, **settings: Any) -> Any:
    config = ImpalaConfig(**{
        "hidden": (8,), "actors": 2, "environments": 3, "unroll_steps": 4, "batch_size": 6, "learners": learners, **settings,
    })  # fmt: skip
    return program(config, make_env_spec(corridor))


def same_weights_everywhere(runtime: Any, learners: int) -> bool:
    """Whether all learners hold the same weights to the last bit; they are asked until all have made their last update."""
    names = [f"parameters {number}" for number in range(1, learners)]
    for _ in range(1000):
        with runtime.switchboard.paused() as there:
            here = runtime.parts["parameters 0"].state_dict()
            if all(there[name]["version"] == here["version"] for name in names):
                return all(
                    torch.equal(torch.as_tensor(there[name]["tensors"][key]), tensor)
                    for name in names
                    for key, tensor in here["tensors"].items()
                )
        runtime.parts["parameters 0"].can_push()
    raise AssertionError("the learners' versions differ for good")


def test_the_first_learner_is_at_home_with_the_queue_and_the_others_are_workers():
    placement = Placement.of(impala(3))
    assert [(bundle.name, replica) for bundle, replica in placement.home] == [("queue", 0), ("learner", 0)]
    assert [(bundle.name, replica) for bundle, replica in placement.workers] == [
        ("actor", 0), ("actor", 1), ("learner", 1), ("learner", 2),
    ]  # fmt: skip
    alone = Placement.of(impala(1))
    assert not alone.teams()
    assert {bundle.name for bundle, _ in alone.workers} == {"actor"}


def test_what_needs_one_learner_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"lockstep needs the learner in the home process; .* use --runtime inline"):
        processes(impala(2), lockstep=True)
    with pytest.raises(ConfigError, match=r"several learners need a GPU each .* got learner_gpus 0.5; use 1, or --learners 1"):
        Actors(ClusterOptions(home={"GPU": 0.5})).join(Placement.of(impala(2)))


def kills_one_of_three_learners(runtime: Any, pid_of: Callable[[Any], int], named: str) -> None:
    """Kills the process of a learner, and holds the run to what it says and does then; `named`: how its line begins."""
    learners = 3
    parameters, marks = runtime.parts["parameters 0"], {}
    victim, mate = [one for one in runtime.switchboard.crew if one.bundle == "learner"]

    def more(said):
        if not marks and parameters.version >= 50:
            marks.update(version=parameters.version, alike=same_weights_everywhere(runtime, learners))
            os.kill(pid_of(victim), signal.SIGKILL)
        if not marks or parameters.version < marks["version"] + 50:
            return True
        marks["alike again"] = same_weights_everywhere(runtime, learners)
        return False

    said = run_while(runtime, more)
    (line,) = [line for line in said if "killed" in line]
    assert line.startswith(named)
    assert "; replaced, 2/3 healthy; all 3 go on together from update " in line
    assert marks["version"] <= int(line.rsplit(" ", 1)[1].replace(",", "")) <= marks["version"] + 5  # nothing at home was lost
    assert marks["alike"]
    assert marks["alike again"]
    assert (victim.budget.deaths, mate.budget.deaths) == (1, 0)  # ended with it, which is no fault of its own


def test_a_learner_that_is_killed_is_replaced_and_all_go_on_together_from_the_weights_of_the_first():
    kills_one_of_three_learners(unbounded(processes(impala(3))), lambda victim: victim.pid, "learner 1 killed by signal 9")


def test_a_learner_that_is_frozen_counts_as_stuck_and_is_replaced():
    runtime = unbounded(processes(impala(2, actors=1), stuck_seconds=3.0))
    parameters, marks = runtime.parts["parameters 0"], {}
    (victim,) = [one for one in runtime.switchboard.crew if one.bundle == "learner"]

    def more(said):
        if not marks and parameters.version >= 10:
            marks.update(version=parameters.version)
            os.kill(victim.pid, signal.SIGSTOP)
        return not marks or parameters.version < marks["version"] + 20

    said = run_while(runtime, more)
    assert any(line.startswith("learner 1 stuck for 3 s") and "all 2 go on together" in line for line in said)


def test_without_all_learners_a_run_ends():
    runtime = unbounded(processes(impala(2, actors=1), restarts=RestartLimits(rate_cap=1)))
    (victim,) = [one for one in runtime.switchboard.crew if one.bundle == "learner"]

    with pytest.raises(WorkersLost, match="1/2 learners; giving up after 0 restarts"):
        run_while(runtime, killing(victim))
