"""Programs on a real Ray cluster of three nodes on this machine: the same numbers as inline, and what happens to whoever dies."""

import contextlib
import functools
import os
import shutil
import signal
import sys
import threading
import time

import pytest
import torch

import veldt
import veldt.training as training
from tests.runtime.programs import (
    PATIENCE_SECONDS,
    actors_and_learner,
    apex_corridor,
    goes_right,
    processes,
    run_while,
    unbounded,
)
from tests.runtime.test_learning_workers import gorila, parameters, worker
from tests.runtime.test_processes import run_updates
from tests.runtime.test_team import impala, kills_one_of_three_learners
from tests.systems import test_impala
from tests.systems.test_r2d2 import TINY
from tests.systems.toys import SECONDS, SMALL, corridor
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError, ResourceError
from veldt.runs.checkpoint import Checkpoints
from veldt.runtime.cluster import Actors
from veldt.runtime.cluster_life import Watch
from veldt.runtime.cluster_start import ClusterOptions, Versions
from veldt.runtime.inline import InlineRuntime
from veldt.runtime.placement import Placement
from veldt.systems import r2d2, r2d3
from veldt.systems.r2d2 import R2D2Config

ray = pytest.importorskip("ray")

STORE_BYTES = 80_000_000
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 20_000,
         "health_check_failure_threshold": 5}  # fmt: skip
"""How soon Ray's head gives up a node that refuses to answer: sooner than by itself. One that is only slow has time."""


@pytest.fixture(scope="module")
def cluster():
    """A head that has no room for actors, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False, "_system_config": QUICK}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.near, made.far = (made.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(2))
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def on_cluster(program, least=None, cpus=1.0, **settings):
    return processes(program, transport=Actors(ClusterOptions(cpus, least=least)), **settings)


TWO_ACTORS_WITH_MEMORY = R2D2Config(**{**TINY, "replay_steps": 1_000, "start_steps": 400})


def test_updates_in_lockstep_give_the_weights_of_the_inline_runtime_bit_for_bit(cluster):
    """Two actors, priorities of their own, recurrent states beside the rows, rings at home and away that wrap many times."""
    program = r2d2.program(TWO_ACTORS_WITH_MEMORY, make_env_spec("CartPole-v1"))
    steps, weights = run_updates(InlineRuntime(program, seed=3, device="cpu"), 120)
    steps_here, weights_here = run_updates(on_cluster(program, lockstep=True), 120)
    assert steps_here == steps
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights_here, weights, strict=True))


def test_updates_from_demonstrations_too_are_those_of_the_inline_runtime_bit_for_bit(cluster, tmp_path, monkeypatch):
    """R2D3: the mixture and the demonstrations stay with the learner."""
    pytest.importorskip("minari")
    from tests.systems import test_r2d3

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    test_r2d3.record("toys/corridor-v0", corridor, "walks_right", 6)
    known = {name: value for name, value in test_r2d3.TINY.items() if name in r2d3.R2D3Config.__dataclass_fields__}
    apart = {"actors": 1, "environments": 2, "pull_period_steps": 5, "samples_per_insert": 8.0}
    program = r2d3.program(r2d3.R2D3Config(**{**known, **apart}), make_env_spec(corridor))
    steps, weights = run_updates(InlineRuntime(program, seed=3, device="cpu"), 60)
    steps_here, weights_here = run_updates(on_cluster(program, lockstep=True), 60)
    assert steps_here == steps
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights_here, weights, strict=True))


def test_workers_that_do_not_fit_are_refused_with_the_numbers(cluster):
    with pytest.raises(
        ResourceError, match=r"room for 2 of 4 workers \(3 actor, 1 evaluation\), each of which takes 1 CPU; it has 2 CPU on 3"
    ):
        on_cluster(actors_and_learner(3, evaluator=True))
    wants_more = Actors(ClusterOptions(resources={"simulator": 1.0}))
    with pytest.raises(ResourceError, match=r"room for 0 of 1 workers \(1 actor\), each of which takes 1 CPU and 1 simulator"):
        processes(actors_and_learner(1), transport=wants_more)
    assert ray.is_initialized()  # who did not connect does not disconnect


def test_a_killed_actor_is_replaced_and_a_run_loses_a_node_goes_on_and_has_all_its_actors_again_when_there_is_another(cluster):
    runtime = on_cluster(apex_corridor(corridor, 2, samples_per_insert=None))
    crew, began, then = runtime.switchboard.crew, time.monotonic(), {}

    def more(said) -> bool:
        first, second = crew
        if "killed" not in then:
            if all(worker.ready and worker.commits > 3 for worker in crew):
                then["killed"], then["commits"] = first.pid, first.commits
                os.kill(first.channel.where.pid, signal.SIGKILL)
        elif "node" not in then:
            if first.ready and first.pid != then["killed"] and first.commits > then["commits"] + 3:
                then["node"], then["others"] = second.pid, first.commits
                node = next(node for node in (cluster.near, cluster.far) if node.node_id == second.channel.where.node)
                cluster.remove_node(node, allow_graceful=False)
        elif "added" not in then:
            wait = "actor 1 waits for room on the cluster" in runtime.switchboard.waiting_for()
            if (
                wait
                and any(" lost: actor 1 rescheduled; actor 1/2 healthy" in line for line in said)
                and first.commits > then["others"] + 20
            ):
                then["added"], then["commits"] = True, second.commits
                cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        else:
            return not (second.ready and second.commits > then["commits"] + 5 and goes_right(runtime))
        return time.monotonic() - began < PATIENCE_SECONDS

    said = run_while(runtime, more)
    assert then.get("added"), said
    assert said[0].startswith("actor 0 on node ")
    assert "was killed (likely out of memory" in said[0]
    assert said[0].endswith("; replaced, 1/2 healthy")
    assert goes_right(runtime)


def test_an_actor_that_is_frozen_for_longer_than_the_deadline_is_killed_and_replaced(cluster):
    runtime = on_cluster(actors_and_learner(1, corridor, samples_per_insert=None), stuck_seconds=1.0)
    victim, frozen = runtime.switchboard.crew[0], []

    def more(said) -> bool:
        if not frozen and victim.ready and victim.commits:
            frozen.append((victim.pid, victim.channel.where.pid))
            os.kill(victim.channel.where.pid, signal.SIGSTOP)
        return not (frozen and victim.ready and victim.pid != frozen[0][0])

    said = run_while(runtime, more)
    assert said[0].startswith("actor 0 stuck for 1 s; it did not print its stack") or said[0].startswith("actor stuck for 1 s;")
    with pytest.raises(ProcessLookupError):
        os.kill(frozen[0][1], 0)


def test_a_node_with_other_versions_is_refused_with_both_in_the_message(cluster, monkeypatch):
    here = Versions.here()
    monkeypatch.setattr(Versions, "here", lambda: here._replace(veldt="9.9"))
    with pytest.raises(ConfigError, match=r"node .* runs veldt 0\.1\.0 / Python .*; this one runs veldt 9\.9 / Python"):
        on_cluster(actors_and_learner(1))


def test_a_run_on_the_cluster_is_resumed_there(cluster, tmp_path):
    cluster.wait_for_nodes()
    options = {
        "actor_cpus": 0.5,
        "runtime": "ray",
        "actors": 1,
        "unroll_steps": 5,
        "samples_per_insert": 8.0,
        "pull_period_steps": 15,
    }
    first = veldt.train("apex", corridor, out=tmp_path / "run", **{**SECONDS, **options, "steps": 600})
    second = veldt.resume(tmp_path / "run", steps=3_000)
    assert first.progress.steps <= 600 < 2_900 < second.progress.steps <= 3_000
    assert second.final_mean == 1.0
    assert ray.is_initialized()


def test_who_watches_starts_a_life_again_that_is_killed_or_frozen_and_hands_on_what_another_says_and_raises(cluster):
    cluster.wait_for_nodes()
    joined = Actors(ClusterOptions(home={"CPU": 1.0})).join(Placement.of(actors_and_learner(1)))
    said, progress = [], []

    def live(number, life):
        life.say(f"life {number}")
        life.update(number)
        time.sleep(0.5)  # its words are on their way before it is gone
        if number < 2:
            os.kill(os.getpid(), (signal.SIGSTOP, signal.SIGKILL)[number])
        error = ConfigError("the third says no")
        error.add_note("and why")
        raise error

    watch = Watch(joined, said.append, progress.append, stuck_seconds=3.0)
    with pytest.raises(ConfigError, match="the third says no") as raised:
        watch.run(lambda number: functools.partial(live, number), [])
    assert raised.value.__notes__ == ["and why"]
    assert [line for line in said if line.startswith("life")] == ["life 0", "life 1", "life 2"]
    assert "did not answer for 3 s and was killed; started again" in said[1]
    assert "was killed (likely out of memory); started again" in said[3]
    assert set(progress) == {0, 1, 2}


class Disturbance(threading.Thread):
    """Kills the learner of a run, then the machine of its successor and the run folder with it, and then asks the run to end."""

    def __init__(self, cluster, watches, run, copies):
        super().__init__(daemon=True)
        self.cluster, self.watches, self.folder, self.copies = cluster, watches, run, copies
        self.failed = None

    def run(self):
        try:
            os.kill(self.learner(), signal.SIGKILL)
            lives = self.later()
            node = next(node for node in self.cluster.worker_nodes if node.node_id == self.watches[0].where.node)
            pid = self.learner()
            self.cluster.remove_node(node, allow_graceful=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder)
            self.later(lives)
        except BaseException as error:
            self.failed = error
        os.kill(os.getpid(), signal.SIGTERM)

    def learner(self) -> int:
        """Its process, once there is a copy of a checkpoint."""
        self.later()
        return self.watches[0].where.process

    def later(self, than=0) -> int:
        """The step of the newest copy, once there is a whole one after step `than` and after what there was."""
        began, before = time.monotonic(), max([than, *self.steps()])
        while not self.steps() or max(self.steps()) <= before:
            assert time.monotonic() - began < PATIENCE_SECONDS
            time.sleep(0.1)
        return max(self.steps())

    def steps(self) -> list[int]:
        return [int(path.parent.name.split("_")[1]) for path in self.copies.glob("ckpt_*/manifest.json")]


def test_a_run_outlives_its_learner_and_the_machine_of_its_learner_with_its_folder(cluster, tmp_path, monkeypatch, capsys):
    cluster.wait_for_nodes()
    watches = []
    monkeypatch.setattr(training, "Watch", lambda *arguments: watches.append(Watch(*arguments)) or watches[-1])
    disturbance = Disturbance(cluster, watches, tmp_path / "run", tmp_path / "copies")
    disturbance.start()
    options = {"actors": 1, "unroll_steps": 5, "samples_per_insert": 8.0, "pull_period_steps": 15, "steps": 10**6,
               "learning_rate_updates": None, "checkpoint_minutes": 0.01, "actor_cpus": 0.25, "learner_cpus": 0.5, "quiet": False}  # fmt: skip
    result = veldt.train(
        "apex", corridor, out=tmp_path / "run", checkpoints=str(tmp_path / "copies"), runtime="ray", **{**SECONDS, **options}
    )
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    assert disturbance.failed is None, capsys.readouterr().out
    said = capsys.readouterr().out.splitlines()
    deaths = [line for line in said if line.endswith("; started again, to go on from its last checkpoint")]
    assert len(deaths) == 2, said
    assert deaths[0].startswith("learner on node ")
    assert "was killed" in deaths[0]
    assert deaths[1].startswith("node ")
    assert " lost with the learner" in deaths[1]
    resumed = [int(line.split()[3].replace(",", "")) for line in said if line.startswith("resumed at step ")]
    assert 0 < resumed[0] < resumed[1] < result.progress.steps
    assert result.stopped_by == "SIGTERM"
    assert result.exit_status == 143
    assert (
        Checkpoints(tmp_path / "run" / "checkpoints", 2).load_latest().step == result.progress.steps == result.checkpoint_step
    )


def test_a_learner_that_no_machine_has_room_for_is_refused_with_the_numbers(cluster, tmp_path):
    with pytest.raises(
        ResourceError, match=r"the learner takes 1 CPU and 2 GPU, and none of the 3 nodes has that \(0 CPU, 0 GPU; 1 CPU"
    ):
        veldt.train("apex", corridor, out=tmp_path / "run", runtime="ray", **{**SECONDS, "actors": 1, "learner_gpus": 2})
    with pytest.raises(
        ResourceError, match=r"room for 1 of 3 workers .* 1 CPU beside the learner, which takes 1 CPU; it has 2 CPU on 3"
    ):
        veldt.train("apex", corridor, out=tmp_path / "run", runtime="ray", **{**SECONDS, "actors": 2})
    several = {"out": tmp_path / "run", "runtime": "ray", "learners": 3}
    with pytest.raises(
        ResourceError, match=r"3 learners take 1 CPU each, and the 3 nodes have room for 2 \(0 CPU; 1 CPU; 1 CPU"
    ):
        veldt.train("impala", corridor, **several)
    with pytest.raises(
        ResourceError,
        match=r"room for 2 of 5 workers .* beside 3 learners, each of which takes 0.5 CPU; it has 2 CPU on 3 nodes",
    ):
        veldt.train("impala", corridor, learner_cpus=0.5, actor_cpus=0.25, **several)
    assert not (tmp_path / "run").exists()


def test_gorila_on_the_cluster_keeps_its_budget_and_what_was_counted_apart_agrees(cluster, tmp_path):
    """Bundles and shards are actors: gradients and slices go between them, counters home and from there to all others."""
    options = {"bundles": 2, "shards": 2, "target_period_updates": 50, "learning_rate": 1e-3, "optimizer": "adam"}
    result = veldt.train("gorila", corridor, out=tmp_path / "run", runtime="ray", actor_cpus=0.2, **{**SMALL, **options})
    assert 1_900 < result.progress.steps <= 2_000
    assert 0.5 < result.progress.updates * 4 / result.progress.steps < 1.1
    saved = Checkpoints(tmp_path / "run" / "checkpoints", 1).load_latest()
    state = saved.parts["runtime"]
    assert sum(state["inserted_steps"].values()) == saved.step == result.progress.steps
    assert min(state[f"parameters {number}"]["version"] for number in (0, 1)) == result.progress.updates
    assert result.final_mean > 0.5


def test_a_shard_that_is_lost_with_its_node_is_restored_elsewhere_and_its_users_go_on(cluster):
    runtime = unbounded(on_cluster(gorila(), cpus=0.25))
    victim, marks = worker(runtime, "shard 1"), {}
    shards = [runtime.parts["parameters 0"], runtime.parts["parameters 1"]]

    def more(said) -> bool:
        if not marks and all(one.ready for one in runtime.switchboard.crew) and shards[1].version > 100:
            marks.update(version=shards[1].version, steps=runtime.parts["replay 0"].inserted_steps)
            node = next(node for node in cluster.worker_nodes if node.node_id == victim.channel.where.node)
            cluster.remove_node(node, allow_graceful=False)
        return not any("late pushes rejected" in line for line in said) or shards[1].version < marks["version"] + 50

    said = run_while(runtime, more)
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    assert any(line.startswith("node ") and " lost: " in line and "shard 1" in line for line in said), said
    (restored,) = [line for line in said if "late pushes rejected" in line]
    version = int(restored.split("restored at version ")[1].split(";")[0].replace(",", ""))
    assert 0 <= version <= marks["version"] + 50
    assert all(bool(torch.isfinite(tensor).all()) for tensor in parameters(runtime).pull(()).tensors.values())


def test_a_learner_that_is_killed_is_replaced_and_all_go_on_together_from_the_weights_of_the_first(cluster):
    """Three learners, two of them actors on other machines: the store of their circle is at home, batches travel by calls."""
    runtime = unbounded(on_cluster(impala(3), cpus=0.25))
    kills_one_of_three_learners(runtime, lambda victim: victim.channel.where.pid, "learner 1 on node ")


def test_a_run_of_two_learners_makes_an_update_of_each_two_batches(cluster, tmp_path):
    """The first learner is home, an actor too."""
    options = {
        "learners": 2,
        "batch_size": 4,
        "steps": 2_000,
        "actor_cpus": 0.2,
        "learner_cpus": 0.25,
        "eval_every_steps": 2_000,
    }
    result = test_impala.train(tmp_path / "run", runtime="ray", **options)
    saved = Checkpoints(tmp_path / "run" / "checkpoints", 1).load_latest()
    written = sum(saved.parts["runtime"]["unrolls"]["ends"]) // 5 * 4
    waiting = sum(map(len, saved.replay["unrolls"]["selector"]["keys"]))
    assert result.progress.updates > 30
    # two batches of the round that was under way, and of the other learner two that were handed over
    assert 0 <= written - waiting - 8 * result.progress.updates <= 4 * (2 + 2)


def test_weights_that_learners_change_in_place_are_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"memory that worker change in place: machines cannot share it; .* with --shards"):
        veldt.train("a3c", "CartPole-v1", out=tmp_path / "run", runtime="ray", steps=1_000)
    assert not (tmp_path / "run").exists()


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--runtime ray needs Ray: pip install 'veldt\[ray\]'"):
        on_cluster(actors_and_learner(1))


def refusal(monkeypatch, address: str) -> str:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError) as refused:
        on_cluster(actors_and_learner(1))
    return str(refused.value)


def test_a_wrong_address_is_refused_at_once(monkeypatch):
    began = time.monotonic()
    assert refusal(monkeypatch, "127.0.0.1:9").startswith("no Ray head at 127.0.0.1:9 (connection refused)")
    assert "(not of the form HOST:PORT)" in refusal(monkeypatch, "nonsense")
    assert "a Ray Client: start the run on a machine of the cluster" in refusal(monkeypatch, "ray://127.0.0.1:10001")
    assert time.monotonic() < began + 5
