"""Gorila as a user runs it, in one process: it is DQN with one bundle, learns with several, resumes, drops what it must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import veldt
from tests.systems.test_dqn import rows, same_weights, weights
from tests.systems.toys import SECONDS, corridor
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError
from veldt.runs.metrics import read
from veldt.runtime.building import joined
from veldt.runtime.inline import InlineRuntime
from veldt.systems import dqn, gorila

SMALL: dict[str, Any] = {
    **SECONDS,
    "runtime": "inline",
    "bundles": 2,
    "shards": 2,
    "steps_per_update": 4,
    "epsilon_steps": 1_000,
    "start_steps": 100,
}
"""Gorila for the toys: seconds."""

TINY: dict[str, Any] = {"hidden": (16,), "start_steps": 100, "replay_steps": 1_000, "steps_per_update": 1}


def train(out: Path, env: Any = corridor, **changes: Any) -> veldt.Result:
    return veldt.train("gorila", env, **{**SMALL, "out": out, **changes})


def build(**settings: Any) -> InlineRuntime:
    config = gorila.GorilaConfig(**{**TINY, **settings})
    return InlineRuntime(gorila.program(config, make_env_spec(corridor)), seed=3, device="cpu")


def named(runtime: InlineRuntime, name: str) -> list[Any]:
    return [part for label, part in runtime.parts.items() if label.split(" ")[0] == name]


def pulled(runtime: InlineRuntime) -> dict[str, torch.Tensor]:
    return joined(named(runtime, "parameters")).pull(()).tensors


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("optimizer", ["adagrad", "rmsprop", "adam"])
def test_one_bundle_with_a_server_that_drops_nothing_is_dqn_with_the_same_optimizer(optimizer: str, shards: int) -> None:
    same = {**TINY, "target_period_updates": 10, "optimizer": optimizer, "learning_rate": 1e-3, "optimizer_epsilon": 1e-4}
    plain = InlineRuntime(dqn.program(dqn.DQNConfig(**same), make_env_spec(corridor)), seed=3, device="cpu")
    sharded = build(**same, bundles=1, shards=shards, outlier_deviations=None, max_staleness_updates=0)
    for runtime in (plain, sharded):
        runtime.run(lambda runtime=runtime: runtime.parts["learner"].updates < 200)
    assert sharded.parts["replay"].inserted_steps == plain.parts["replay"].inserted_steps
    for name, tensor in plain.parts["parameters"].pull(()).tensors.items():
        torch.testing.assert_close(pulled(sharded)[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"replay": "global", "actors": 3, "learners": 2, "bundles": 1}, {"shards": 5, "pull_period_steps": 20}],
    ids=["2 bundles", "global replay", "5 shards, old weights"],
)
def test_it_solves_the_corridor(tmp_path: Path, options: dict[str, Any]) -> None:
    result = train(tmp_path / "run", **options)
    assert result.final_mean == 1.0
    assert 1_950 < result.progress.steps <= 2_000
    assert veldt.evaluate(result.folder, episodes=20, seed=7).return_mean == 1.0


def test_bundles_are_actor_replay_and_learner_and_each_shard_is_a_bundle_of_its_own() -> None:
    spec = make_env_spec(corridor)
    local = gorila.program(gorila.GorilaConfig(bundles=3, shards=5), spec)
    assert [(bundle.name, [node.name for node in bundle.nodes], bundle.replicas) for bundle in local.bundles] == [
        ("bundle", ["actor", "replay", "learner"], 3), ("shard", ["parameters"], 5),
    ]  # fmt: skip
    shared = gorila.program(gorila.GorilaConfig(replay="global", actors=3, learners=2, shards=1), spec)
    assert [(bundle.name, bundle.replicas) for bundle in shared.bundles] == [
        ("actor", 3), ("replay", 1), ("learner", 2), ("shard", 1),
    ]  # fmt: skip


def test_every_bundle_learns_from_its_own_replay_and_all_from_the_same_weights() -> None:
    runtime = build(bundles=3, shards=2, steps_per_update=4)
    runtime.run(lambda: named(runtime, "parameters")[0].version < 300)
    assert {replay.inserted_steps for replay in named(runtime, "replay")} == {496, 500} or all(
        abs(replay.inserted_steps - 500) <= 8 for replay in named(runtime, "replay")
    )
    updates = [learner.updates for learner in named(runtime, "learner")]
    assert sum(updates) + sum(learner.outlying_updates for learner in named(runtime, "learner")) >= 300
    assert all(shard.version == sum(updates) for shard in named(runtime, "parameters"))


def test_target_networks_follow_the_count_of_all_updates() -> None:
    runtime = build(bundles=2, shards=2, target_period_updates=50, outlier_deviations=None)
    learners, copies = named(runtime, "learner"), []
    for number, learner in enumerate(learners):
        copy = learner._copy_target

        def noting(copy: Any = copy, number: int = number) -> None:
            copies.append((number, named(runtime, "parameters")[0].version))
            copy()

        learner._copy_target = noting
    runtime.run(lambda: learners[0].updates < 105)
    for number in (0, 1):  # a copy at the first update of its own after the multiple was crossed, or at the one that crossed it
        own = [version for learner, version in copies if learner == number]
        assert [version // 50 for version in own] == [1, 2, 3, 4]
        assert all(version % 50 <= 2 for version in own)


def test_exploration_falls_with_the_steps_of_all_actors() -> None:
    runtime = build(bundles=2, epsilon_steps=400, epsilon_end=0.1, steps_per_update=2)
    actors = named(runtime, "actor")
    seen = {}

    def look() -> bool:
        steps = sum(replay.inserted_steps for replay in named(runtime, "replay"))
        seen[steps] = actors[0].metrics()["exploration"]
        return steps < 700

    runtime.run(look)
    # 2 x 100 steps before learning starts, then 400 of both together
    for steps, epsilon in seen.items():
        assert epsilon == pytest.approx(1.0 - 0.9 * min(max(steps - 200, 0) / 400, 1.0), abs=0.03)


def test_an_outlying_loss_moves_no_weight_and_the_run_goes_on() -> None:
    runtime = build(bundles=1, shards=2, outlier_deviations=3.0, outlier_warm_up_losses=20)
    learner, shard = runtime.parts["learner"], runtime.parts["parameters 0"]
    runtime.run(lambda: learner.updates < 40)
    dropped, version = learner.outlying_updates, shard.version
    objective, learner._objective = learner._objective, lambda *given: learner_loss(objective(*given))
    runtime.run(lambda: learner.outlying_updates == dropped and learner.updates == 40)
    assert (learner.outlying_updates, shard.version) == (dropped + 1, version)
    learner._objective = objective
    runtime.run(lambda: learner.updates < 60)
    assert shard.version == 60


def learner_loss(loss: Any) -> Any:
    """A thousand times the loss."""
    return loss._replace(value=1000 * loss.value + 1000)


def test_a_run_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    train(tmp_path / "a", steps=2_000, eval_every_steps=500, learning_rate_updates=400)
    train(tmp_path / "b", steps=2_000, eval_every_steps=500, learning_rate_updates=400)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=1_000)
    result = veldt.resume(tmp_path / "run", steps=2_000)
    assert 1_950 < result.progress.steps <= 2_000
    assert result.final_mean == 1.0


def test_a_run_begun_in_one_process_goes_on_in_many(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=1_000)
    result = veldt.resume(tmp_path / "run", steps=2_000, runtime="processes")
    assert 1_900 < result.progress.steps <= 2_000
    assert result.final_mean == 1.0


def test_metrics_say_how_old_gradients_were_and_what_was_dropped(tmp_path: Path) -> None:
    train(tmp_path / "run")
    table = read(tmp_path / "run" / "metrics.csv")
    names = "gradient_age_updates", "gradient_age_updates_max", "stale_gradients", "rejected_gradients", "outlying_updates"
    assert set(names) <= table.keys()
    assert set(table["rejected_gradients"].values) == {0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bundles": 0}, "bundles must be >= 1, got 0"),
        ({"shards": 0}, "shards must be >= 1, got 0"),
        ({"actors": 3}, "actors and learners are bundled around local replays: set bundles, or replay global"),
        ({"max_staleness_updates": -1}, "max_staleness_updates must be >= 0, got -1"),
        ({"outlier_deviations": -1.0}, r"outlier_deviations must be > 0 \(or none: no filter\), got -1.0"),
        ({"replay": "locl"}, r"replay must be one of 'local', 'global', got 'locl'"),
        ({"optimizer": "adagrat"}, r"optimizer must be one of .*; did you mean 'adagrad'\?"),
        ({"shards": 1_000_000}, "1000000 shards for .* parameters: use fewer shards"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
