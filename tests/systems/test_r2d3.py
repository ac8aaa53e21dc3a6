"""R2D3 as a user runs it: demonstrations open what exploration never does; it repeats itself, resumes, and runs in processes."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import veldt
from tests.systems.test_dqn import rows, same_weights, stopped_and_resumed_equals_whole, weights
from tests.systems.toys import SECONDS, corridor, endless, lock
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError, DatasetRefused, RunFolderError
from veldt.runs.metrics import read
from veldt.runtime.inline import InlineRuntime
from veldt.runtime.processes import ProcessRuntime
from veldt.systems.r2d3 import R2D3Config, program

pytest.importorskip("minari")
pytest.importorskip("h5py")

LOCK: dict[str, Any] = {
    "preset": "paper", "runtime": "inline", "quiet": True, "steps": 5_000, "eval_every_steps": 500, "eval_episodes": 20,
    "start_steps": 200, "hidden": (32,), "lstm_units": 32, "head_units": 32, "sequence_steps": 13, "overlap_steps": 0,
    "burn_in_steps": 0, "unroll_steps": 5, "replay_steps": 5_000, "samples_per_insert": 80.0, "learning_rate": 3e-3,
    "target_period_updates": 50, "actors": 1, "environments": 4, "pull_period_steps": 5, "batch_size": 16,
    "optimizer_epsilon": 1e-5, "epsilon_base": 0.1, "initial_state": "zero",
}  # fmt: skip

TINY: dict[str, Any] = {
    **SECONDS, "hidden": (8,), "lstm_units": 5, "head_units": 8, "sequence_steps": 4, "overlap_steps": 0, "burn_in_steps": 4,
    "n_steps": 2,     "batch_size": 8, "unroll_steps": 5, "steps": 1_200, "start_steps": 300, "demos": "toys/corridor-v0", "demo_ratio": 0.25,
}  # fmt: skip
"""R2D3 on the corridor, with the preset of CartPole."""


def record(name: str, env: Any, expert: str, episodes: int) -> None:
    from veldt.demos.demonstrators import expert as found
    from veldt.demos.recording import record as write

    write(make_env_spec(env), found(f"tests.systems.toys:{expert}"), episodes=episodes, seed=0, name=name)


@pytest.fixture(scope="module", autouse=True)
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        record("toys/lock-v0", lock, "opens_the_lock", 30)
        record("toys/corridor-v0", corridor, "walks_right", 6)
        yield folder


def test_thirty_demonstrations_open_a_lock_that_r2d2_does_not_open_in_the_same_steps(tmp_path: Path) -> None:
    """What opens it has to be remembered from the first step on; no demonstration has an error in it, the agent finds those itself."""
    demos = {"demos": "toys/lock-v0", "demo_ratio": 1 / 4}
    shown = veldt.train("r2d3", lock, out=tmp_path / "r2d3", until_return=0.95, **LOCK, **demos)
    assert shown.best_mean is not None
    assert shown.best_mean >= 0.95
    alone = veldt.train("r2d2", lock, out=tmp_path / "r2d2", until_return=0.95, **LOCK)
    assert alone.best_mean == 0.0
    share = read(tmp_path / "r2d3" / "metrics.csv")["demo_share"].values
    assert np.mean(share) == pytest.approx(0.25, abs=0.03)


def test_the_learner_draws_from_the_mixture_and_actors_write_to_their_own_table() -> None:
    made = program(R2D3Config(demos="toys/corridor-v0"), make_env_spec(corridor))
    edges = set(made.edges())
    assert {
        ("actor", "memory", "replay"), ("learner", "memory", "mixture"), ("mixture", "own", "replay"),
        ("mixture", "demonstrations", "demonstrations"),
    } <= edges  # fmt: skip
    assert ("learner", "memory", "replay") not in edges
    assert made.memory == "replay"  # steps are the agent's own
    assert {made.bundle_of(name).name for name in ("replay", "demonstrations", "mixture", "learner")} == {"learning"}


def test_the_papers_sequences_learn_from_their_last_40_steps_and_from_the_opening_of_every_episode() -> None:
    view = R2D3Config().view
    assert (view.burn_in_steps + view.length_steps, view.period_steps, view.state) == (80, 40, "zero")
    assert (view.length_steps, view.overlap_steps) == (40, 0)


def test_a_run_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        veldt.train("r2d3", corridor, seed=3, out=tmp_path / name, runtime="inline", **TINY)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


COMMAND = [
    sys.executable, "-m", "veldt.cli", "train", "r2d3", "tests.systems.toys:interrupting", "--preset", "cartpole", "--seed", "3",
    "--runtime", "inline", "--quiet", "--hidden", "8", "--lstm-units", "5", "--head-units", "8", "--sequence-steps", "4",
    "--burn-in-steps", "4", "--n-steps", "2", "--batch-size", "8", "--steps", "2000", "--start-steps", "300", "--replay-steps", "600",
    "--environments", "2", "--samples-per-insert", "2", "--demos", "toys/interrupting-v0", "--demo-ratio", "0.25", "--eval-episodes", "5",
    "--eval-every-steps", "500", "--log-every-steps", "250",
]  # fmt: skip


def test_a_run_stopped_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    """The demonstrations are read again, their priorities and who comes next are those of the checkpoint."""
    from tests.systems.toys import interrupting

    record("toys/interrupting-v0", interrupting, "walks_right", 6)
    stopped_and_resumed_equals_whole(tmp_path, COMMAND)


def test_without_its_replay_a_run_resumes_with_its_demonstrations(tmp_path: Path) -> None:
    settings = {**TINY, "runtime": "inline", "steps": 600, "checkpoint_replay": False}
    veldt.train("r2d3", corridor, out=tmp_path / "run", **settings)
    resumed = veldt.resume(tmp_path / "run", steps=2_000)
    assert resumed.progress.steps > 1_900
    assert read(tmp_path / "run" / "metrics.csv")["demo_share"].values[-1] > 0


def test_with_stored_states_the_agents_sequences_start_from_them_and_demonstrations_from_zeros() -> None:
    config = R2D3Config(**{name: value for name, value in TINY.items() if name in R2D3Config.__dataclass_fields__})
    record("toys/endless-v0", endless, "walks_right", 4)
    config = replace(
        config, demos="toys/endless-v0", initial_state="stored", burn_in_steps=2, sequence_steps=3, demo_ratio=0.5, actors=1
    )
    runtime = InlineRuntime(program(config, make_env_spec(endless)), seed=1, device="cpu")
    runtime.run(lambda: runtime.parts["replay"].inserted_steps < 1_000)
    prefixed = {"own": 0, "demonstrations": 0}
    for _ in range(20):
        batch = runtime.parts["mixture"].sample()
        for item, key in enumerate(batch.keys):
            starts_later = bool(batch.data.prefix[:, item].sum() == 2) and not bool(batch.data.first[:, item].any())
            stored = bool(batch.data.state["h"][item].any())
            assert stored == (starts_later and key >= 0)
            prefixed["own" if key >= 0 else "demonstrations"] += starts_later
    assert min(prefixed.values()) > 0
    runtime.close()


def test_a_run_is_not_resumed_with_other_demonstrations(tmp_path: Path, datasets: Path) -> None:
    record("toys/changing-v0", corridor, "walks_right", 6)
    settings = {**TINY, "demos": "toys/changing-v0", "runtime": "inline", "steps": 600}
    veldt.train("r2d3", corridor, out=tmp_path / "run", **settings)
    shutil.rmtree(datasets / "toys" / "changing-v0")
    record("toys/changing-v0", corridor, "walks_right", 9)
    with pytest.raises(RunFolderError, match="has changed"):
        veldt.resume(tmp_path / "run", steps=1_200)


def updated(runtime: Any, updates: int) -> tuple[int, list[torch.Tensor]]:
    """Steps and weights after so many updates."""
    try:
        runtime.run(lambda: runtime.parts["learner"].updates < updates)
        tensors = runtime.parts["parameters"].state_dict()["tensors"]
        return runtime.parts["replay"].inserted_steps, [tensor.clone() for tensor in tensors.values()]
    finally:
        runtime.close()


def test_200_updates_in_lockstep_give_the_weights_of_the_inline_runtime_bit_for_bit() -> None:
    config = R2D3Config(**{name: value for name, value in TINY.items() if name in R2D3Config.__dataclass_fields__})
    config = replace(config, actors=1, environments=2, pull_period_steps=5, samples_per_insert=8.0)
    made = program(config, make_env_spec(corridor))
    steps_here, here = updated(InlineRuntime(made, seed=3, device="cpu"), 200)
    steps_there, there = updated(ProcessRuntime(made, seed=3, device="cpu", lockstep=True, stuck_seconds=60.0), 200)
    assert steps_here == steps_there
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"demos": None}, ConfigError, r"r2d3 needs --demos, the name of a Minari dataset"),
        ({"demo_ratio": 0.0}, ConfigError, r"demo_ratio must be in \(0, 1\), got 0"),
        ({"demo_ratio": 1.0}, ConfigError, r"demo_ratio must be in \(0, 1\), got 1"),
        ({"demos": "toys/nothing-v0"}, DatasetRefused, r"no dataset 'toys/nothing-v0' in .*veldt demos record ENV"),
        ({"demos": "toys/lock-v0"}, DatasetRefused, r"was recorded in lock, not in corridor"),
        ({"demos": "nothing"}, ConfigError, r"a dataset is called name-vN"),
    ],
)
@pytest.mark.parametrize("runtime", ["inline", "processes"])
def test_without_fitting_demonstrations_nothing_starts(
    tmp_path: Path, runtime: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        veldt.train("r2d3", corridor, out=tmp_path / "run", **{**TINY, "runtime": runtime, **changes})
    assert not (tmp_path / "run").exists()
