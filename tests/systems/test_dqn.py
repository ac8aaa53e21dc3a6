"""DQN as a user runs it, in one process: it learns, repeats itself bit for bit, resumes, keeps the paper's schedule."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import veldt
from tests.systems.toys import SMALL, corridor, endless
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError
from veldt.runs.checkpoint import Checkpoints, load_weights
from veldt.runs.metrics import read
from veldt.runtime.inline import InlineRuntime
from veldt.systems.dqn import DQNConfig, program


def train(out: Path, env: Any = corridor, **changes: Any) -> veldt.Result:
    return veldt.train("dqn", env, **{**SMALL, "out": out, **changes})


def rows(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The metrics table without its wall times."""
    table = read(folder / "metrics.csv")
    return {name: (list(series.steps), list(series.values)) for name, series in table.items()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "checkpoints").parts["weights"]


def same_weights(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def stopped_and_resumed_equals_whole(tmp_path: Path, command: list[str], signal_name: str = "SIGTERM") -> None:
    """Runs `command` to its end, and again with a signal in its middle and a resume: nothing differs but wall times."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(arguments, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120)

    whole = run(*command, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    stopped = run(*command, "--out", str(tmp_path / "parts"), VELDT_TEST_SIGNAL=signal_name, VELDT_TEST_SIGNAL_AT="1377")
    assert stopped.returncode == {"SIGTERM": 143, "SIGINT": 130}[signal_name], stopped.stderr
    assert f"resume with: veldt train --resume {tmp_path / 'parts'}" in stopped.stdout
    resumed = run(sys.executable, "-m", "veldt.cli", "train", "--resume", str(tmp_path / "parts"))
    assert resumed.returncode == 0, resumed.stderr
    assert same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")


@pytest.mark.parametrize(
    "options",
    [{}, {"prioritized": True, "importance_anneal_updates": 300}, {"dueling": True, "double": False, "n_steps": 1}],
    ids=["double, 3 steps", "prioritized", "dueling, 1 step"],
)
def test_it_solves_the_corridor(tmp_path: Path, options: dict[str, Any]) -> None:
    result = train(tmp_path / "run", **options)
    assert result.final_mean == 1.0
    assert veldt.evaluate(result.folder, episodes=20, seed=7).return_mean == 1.0


def test_a_run_repeats_itself_bit_for_bit_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tmp_path / name, "CartPole-v1", seed=seed, environments=4, prioritized=True)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert not same_weights(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize(("prioritized", "signal_name"), [(True, "SIGTERM"), (False, "SIGINT")])
def test_a_run_stopped_by_a_signal_and_resumed_equals_one_that_was_not(
    tmp_path: Path, prioritized: bool, signal_name: str
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name not in ("hidden", "quiet")]
    command = [sys.executable, "-m", "veldt.cli", "train", "dqn", "tests.systems.toys:interrupting", *flags]
    command += ["--quiet", "--prioritized"] if prioritized else ["--quiet"]
    stopped_and_resumed_equals_whole(tmp_path, command, signal_name)


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "veldt.cli", "train", "dqn", "tests.systems.toys:interrupting"]
    command += ["--preset", "cartpole", "--out", str(tmp_path / "run")]
    variables = {**os.environ, "VELDT_TEST_SIGNAL": "SIGINT,SIGINT", "VELDT_TEST_SIGNAL_AT": "50"}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 130
    assert "stopped at once" in ended.stderr


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=1_000)
    result = veldt.resume(tmp_path / "run", steps=2_000)
    assert 1_992 < result.progress.steps <= 2_000
    for steps, _ in rows(tmp_path / "run").values():
        assert steps == sorted(set(steps))
    assert read(tmp_path / "run" / "metrics.csv")["loss"].steps[-1] > 1_992


def test_without_its_replay_a_run_resumes_and_fills_it_anew(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=1_000, checkpoint_replay=False)
    before = Checkpoints(tmp_path / "run" / "checkpoints", 1).load_latest()
    assert before.replay is None
    result = veldt.resume(tmp_path / "run", steps=2_000)
    updates = before.parts["runtime"]["learner"]["updates"]
    gained_steps = result.progress.steps - before.step
    # No update until start_steps new steps are in, then one for every four.
    assert result.progress.updates - updates == pytest.approx((gained_steps - SMALL["start_steps"]) / 4, abs=3)
    assert result.final_mean == 1.0


def test_the_learner_makes_one_update_for_every_four_steps_after_the_start(tmp_path: Path) -> None:
    spec = make_env_spec(corridor)
    config = DQNConfig(hidden=(8,), start_steps=100, replay_steps=1_000, target_period_updates=10)
    runtime = InlineRuntime(program(config, spec), seed=0, device="cpu")
    seen: list[tuple[int, int]] = []

    def look() -> bool:
        seen.append((runtime.parts["replay"].inserted_steps, runtime.parts["learner"].updates))
        return seen[-1][0] < 400

    runtime.run(look)
    for steps, updates in seen:
        expected = 0 if steps < 100 else (steps - 100) / 4 + 1
        assert abs(updates - expected) <= 1, (steps, updates)


def test_the_target_network_is_copied_every_period_and_only_then() -> None:
    spec = make_env_spec(corridor)
    config = DQNConfig(hidden=(8,), start_steps=100, replay_steps=1_000, target_period_updates=10)
    runtime = InlineRuntime(program(config, spec), seed=0, device="cpu")
    learner = runtime.parts["learner"]
    equal: dict[int, bool] = {}

    def look() -> bool:
        pairs = zip(learner._target.parameters(), learner._online.parameters(), strict=True)
        equal[learner.updates] = all(torch.equal(one, two) for one, two in pairs)
        return learner.updates < 45

    runtime.run(look)
    assert [updates for updates, same in equal.items() if same] == [0, 10, 20, 30, 40]


def test_the_target_of_a_time_limit_bootstraps_and_that_of_a_death_does_not() -> None:
    """A state that lasts forever at reward 1 is worth 1 / (1 - gamma), although every episode is cut after 12 steps."""
    spec = make_env_spec(endless)
    config = DQNConfig(
        hidden=(16,), start_steps=100, replay_steps=1_000, target_period_updates=20, discount=0.8, reward_clip=None,
        optimizer="adam", learning_rate=3e-3, optimizer_epsilon=1e-8, sum_over_batch=False, epsilon_steps=100,
    )  # fmt: skip
    runtime = InlineRuntime(program(config, spec), seed=0, device="cpu")
    runtime.run(lambda: runtime.parts["learner"].updates < 1_500)
    values = runtime.parts["learner"]._online(torch.tensor([[0.0]])).detach().numpy()
    np.testing.assert_allclose(values, 5.0, atol=0.25)


def test_continuous_actions_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dqn needs Discrete actions, got Box\(1,\); wrap with Discretize"):
        train(tmp_path / "run", "Pendulum-v1")
    assert not (tmp_path / "run").exists()


class Tiny(torch.nn.Module):
    """A user's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 16)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(obs))


def make_tiny(seen: Any) -> Tiny:
    return Tiny()


@pytest.mark.parametrize("encoder", [Tiny(), "tests.systems.test_dqn:make_tiny"], ids=["object", "name"])
def test_a_network_of_ones_own_is_trained_saved_and_loaded(tmp_path: Path, encoder: Any) -> None:
    result = train(tmp_path / "run", encoder=encoder)
    assert result.final_mean == 1.0
    policy = veldt.load(result.folder) if isinstance(encoder, str) else veldt.load(result.folder, encoder=encoder)
    assert veldt.evaluate(policy, 5).return_mean == 1.0


def test_a_network_given_as_an_object_has_to_be_given_again(tmp_path: Path) -> None:
    result = train(tmp_path / "run", encoder=Tiny(), steps=600)
    with pytest.raises(ConfigError, match=r"encoder was given as an object \(<Tiny>\); give it again: encoder="):
        veldt.load(result.folder)


def test_a_run_stops_when_its_evaluation_is_good_enough(tmp_path: Path) -> None:
    result = train(tmp_path / "run", until_return=1.0, steps=50_000)
    assert result.stopped_by == "return"
    assert result.progress.steps < 10_000


def test_a_run_stops_when_its_time_is_over_and_goes_on_later(tmp_path: Path) -> None:
    result = train(tmp_path / "run", minutes=0.02, steps=10_000_000)
    assert result.stopped_by == "minutes"
    assert veldt.resume(tmp_path / "run", minutes=None, steps=result.progress.steps + 500).stopped_by == "steps"


def test_the_newest_100_episodes_make_the_training_return(tmp_path: Path) -> None:
    result = train(tmp_path / "run", steps=3_000)
    series = read(tmp_path / "run" / "metrics.csv")["train/return"]
    assert series.values[-1] == pytest.approx(result.train_mean)
    assert series.values[-1] > series.values[0]


def test_the_step_size_falls_to_nothing_over_the_updates_asked_for() -> None:
    spec = make_env_spec(corridor)
    config = DQNConfig(hidden=(8,), start_steps=100, replay_steps=1_000, learning_rate=0.5, learning_rate_updates=40)
    runtime = InlineRuntime(program(config, spec), seed=0, device="cpu")
    parameters = runtime.parts["parameters"]
    rates: dict[int, float] = {}

    def look() -> bool:
        rates[parameters.version] = parameters.optimizer.param_groups[0]["lr"]
        return parameters.version < 50

    runtime.run(look)
    # Update number k is made with the rate of version k - 1.
    assert [rates[version] for version in (1, 11, 21, 31, 41, 50)] == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0, 0.0])
