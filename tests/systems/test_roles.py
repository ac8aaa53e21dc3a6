"""Roles in a program: what a run counts and keeps is found by role, however many replicas have it and whatever they are called."""

from dataclasses import replace

import pytest

from tests.runtime.programs import STREAMS, UNROLL_STEPS, actors_and_learner
from tests.systems.toys import corridor
from veldt.errors import ConfigError
from veldt.program import Bundle, Node, Program
from veldt.runs.display import Quiet
from veldt.runs.metrics import MetricsTable, read
from veldt.runs.monitor import Monitor
from veldt.runs.options import RunOptions
from veldt.runtime.building import joined, replicas_of
from veldt.runtime.inline import InlineRuntime


def workers(replicas: int) -> Program:
    """Bundles of an actor, a memory and a learner of their own, around the weights of all: the wiring of A3C."""
    program = actors_and_learner(1, corridor, evaluator=True)  # a table numbers the actors of all its replicas
    nodes = {node.name: node for node in program.nodes}
    experience, weights = replace(nodes["replay"], name="experience"), replace(nodes["parameters"], name="weights")
    links = {"memory": "experience", "parameters": "weights"}
    worker = Bundle(
        "worker", (replace(nodes["actor"], links=links), experience, replace(nodes["learner"], links=links)), replicas
    )
    evaluator = replace(nodes["evaluator"], links=links)
    return Program((worker, Bundle("server", (weights,)), Bundle("evaluation", (evaluator,))), "experience", "weights")


def monitored(program: Program, options: RunOptions, folder) -> tuple[InlineRuntime, Monitor]:
    runtime = InlineRuntime(program, seed=1, device="cpu")
    memories = [runtime.parts[name] for name in replicas_of(program, program.memory)]
    parameters = joined([runtime.parts[name] for name in replicas_of(program, program.parameters)])
    monitor = Monitor(
        runtime.parts, memories, parameters, options, MetricsTable(folder / "metrics.csv"), Quiet(),
        frames_per_step=1, on_best=lambda evaluation: None, on_checkpoint=lambda: None,
    )  # fmt: skip
    return runtime, monitor


@pytest.mark.parametrize("role", ["memory", "parameters"])
def test_a_role_that_no_node_has_is_refused(role):
    with pytest.raises(ConfigError, match=f"no node is called 'nobody', which has the role '{role}'; nodes: \\['actor', "):
        replace(actors_and_learner(1), **{role: "nobody"})


def test_roles_stay_when_a_program_is_changed():
    program = workers(2)
    more = program.with_bundle(Bundle("more", (Node("idler", dict),))).relink("actor", memory="experience")
    assert (more.memory, more.parameters) == ("experience", "weights")


def test_steps_and_updates_are_those_of_all_workers_together_and_never_more_than_were_asked_for(tmp_path):
    runtime, monitor = monitored(workers(2), RunOptions(steps=3_000, log_every_steps=500), tmp_path)
    runtime.run(monitor.after_round)
    monitor.conclude(lambda: False)
    each = [runtime.parts[f"experience {worker}"].inserted_steps for worker in range(2)]
    assert monitor.steps == sum(each)
    assert min(each) > 1_000
    assert 3_000 - 2 * UNROLL_STEPS * STREAMS < monitor.steps <= 3_000
    assert monitor.updates == sum(runtime.parts[f"learner {worker}"].updates for worker in range(2)) > 100
    table = read(tmp_path / "metrics.csv")
    assert [step // 500 for step in table["frames"].steps[:5]] == [1, 2, 3, 4, 5]
    *due, final = table["eval/return"].steps
    assert [step // 200 for step in due] == list(range(1, 15))  # at every 200 steps, and at the end
    assert final == monitor.steps


def test_what_a_worker_that_was_given_up_cannot_use_goes_to_the_others(tmp_path):
    runtime, monitor = monitored(workers(2), RunOptions(steps=3_000), tmp_path)
    del runtime.workers["actor 1"]
    runtime.parts["experience 1"].abandoned = True
    runtime.run(monitor.after_round)
    assert runtime.parts["experience 1"].inserted_steps == 0
    assert 3_000 - 2 * UNROLL_STEPS * STREAMS < runtime.parts["experience 0"].inserted_steps <= 3_000


def test_updates_skipped_by_several_learners_are_added(tmp_path):
    runtime, monitor = monitored(workers(2), RunOptions(steps=1_000, log_every_steps=500), tmp_path)
    for worker, skipped in ((0, 3), (1, 4)):
        runtime.parts[f"learner {worker}"].skipped_updates = skipped
    runtime.run(monitor.after_round)
    assert read(tmp_path / "metrics.csv")["skipped_updates"].values[-1] == 7
