"""R2D2 as a user runs it: it remembers, repeats itself, resumes, and keeps the states that its actors had."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import veldt
from tests.systems.test_dqn import rows, same_weights, weights
from tests.systems.toys import SECONDS
from veldt.core import Place
from veldt.data import EPISODE_STEP, tree_map
from veldt.envs.make import make_env_spec
from veldt.envs.t_maze import t_maze
from veldt.errors import ConfigError
from veldt.math.priorities import SequencePriorities
from veldt.parts.actor import Actor
from veldt.replay.sequences import Sequences
from veldt.runs.metrics import read
from veldt.runtime.inline import InlineRuntime
from veldt.systems.r2d2 import R2D2Config, agent, program

MAZE: dict[str, Any] = {
    "preset": "memory", "sequence_steps": 16, "overlap_steps": 0, "burn_in_steps": 0, "samples_per_insert": 40.0,
    "learning_rate": 2e-3, "start_steps": 500, "runtime": "inline", "quiet": True, "eval_episodes": 20,
}  # fmt: skip

SMALL: dict[str, Any] = {
    **SECONDS, "runtime": "inline", "start_steps": 300, "hidden": (16,), "lstm_units": 16, "head_units": 16, "batch_size": 8,
    "sequence_steps": 8, "overlap_steps": 4, "burn_in_steps": 4, "unroll_steps": 5, "steps": 1_200,
}  # fmt: skip

TINY: dict[str, Any] = {
    "hidden": (8,), "lstm_units": 5, "head_units": 8, "sequence_steps": 8, "overlap_steps": 4, "burn_in_steps": 4, "batch_size": 4,
    "actors": 2, "environments": 2, "unroll_steps": 5, "pull_period_steps": 5, "replay_steps": 400, "start_steps": 100,
}  # fmt: skip


def test_it_remembers_which_way_to_turn(tmp_path: Path) -> None:
    result = veldt.train(
        "r2d2", t_maze, out=tmp_path / "run", steps=20_000, until_return=0.99, eval_every_steps=1_000, **MAZE
    )  # fmt: skip
    assert result.stopped_by == "return"
    assert veldt.evaluate(result.folder, episodes=40, seed=7).return_mean == 1.0


def test_who_has_no_memory_guesses_there(tmp_path: Path) -> None:
    """The same maze, feed-forward: half of the turns are wrong, whatever it learns."""
    settings = {**SECONDS, "runtime": "inline", "steps": 6_000, "samples_per_insert": 16.0, "eval_episodes": 100}
    result = veldt.train("apex", t_maze, out=tmp_path / "run", **{**settings, "eval_every_steps": 2_000})
    assert result.final_mean < 0.65


def build(config: R2D2Config, seed: int = 0) -> InlineRuntime:
    return InlineRuntime(program(config, make_env_spec("CartPole-v1")), seed=seed, device="cpu")


def recomputed(runtime: InlineRuntime, config: R2D2Config, batch: Any) -> None:
    """Every state of a batch is what the agent has there when it sees the episode from its beginning, if that is still there."""
    table, data = runtime.parts["replay"], batch.data
    network = agent(config, make_env_spec("CartPole-v1"))()
    network.load_state_dict(runtime.parts["actor 1"]._agent.state_dict())
    columns, ring = table.streams.columns, table.rows
    fields = table.streams.columns_of(0, columns)
    for item, key in enumerate(batch.keys):
        row, column = divmod(int(key), columns)
        step = int(fields[EPISODE_STEP][row % ring, column])
        if row - step <= table.end(column // config.environments) - ring:
            continue  # the episode's beginning is overwritten
        state, kept = network.initial_state(1), {}
        for at in range(row - step, row + config.sequence_steps):
            kept[at - row] = tree_map(lambda leaf: leaf[0].copy(), state)
            here, before = at % ring, (at - 1) % ring
            first = at == row - step
            last = [0 if first else fields[name][before, column] for name in ("action", "reward")]
            seen = {
                "obs": fields["obs"][here, column][None, None], "first": np.array([[first]]),
                "last_action": np.array([[last[0]]]), "last_reward": np.array([[last[1]]], np.float32),
            }  # fmt: skip
            with torch.no_grad():
                after = network.run(**tree_map(torch.from_numpy, seen), state=tree_map(torch.from_numpy, state))[1]
            state = tree_map(lambda leaf: leaf.numpy(), after)
        prefix = int(data.prefix[:, item].sum())
        for name in "ch":
            assert np.allclose(data.state[name][item], kept[-prefix][name], atol=1e-5)
            for mark, at in (("first", 0), ("last", config.sequence_steps - 1)):
                if data.marks[mark]["known"][item]:
                    assert np.allclose(data.marks[mark]["state"][name][item], kept[at][name], atol=1e-5)


def test_the_stored_state_is_the_state_recomputed_with_the_acting_weights_after_a_wrap_a_restart_and_a_resume() -> None:
    """The weights never change here: there are no updates. 400 steps in 4 streams: the ring wraps."""
    config = R2D2Config(**{**TINY, "start_steps": 400})
    runtime = build(config)

    def filled(steps: int) -> None:
        runtime.run(lambda: runtime.parts["replay"].inserted_steps < steps)

    def check(table: Any) -> None:
        for _ in range(3):
            recomputed(runtime, config, table.sample())

    runtime.parts["learner"].step = lambda: False
    runtime.parts["replay"].limiter.samples_per_insert = None
    filled(300)
    check(runtime.parts["replay"])
    filled(1_200)
    check(runtime.parts["replay"])
    old = runtime.parts["actor 0"]
    parts = {"memory": old._inlet._table, "parameters": runtime.parts["parameters"]}
    node = next(node for node in program(config, make_env_spec("CartPole-v1")).nodes if node.name == "actor")
    successor = node.make(place=Place(replica=0, replicas=2, seed=5), **parts)
    assert isinstance(successor, Actor)
    runtime.parts["actor 0"] = runtime.workers["actor 0"] = successor
    filled(1_400)
    check(runtime.parts["replay"])
    with runtime.snapshot() as state:
        saved = copy.deepcopy(state)
    replay = copy.deepcopy(runtime.parts["replay"].replay_state_dict())
    runtime = build(config, seed=9)
    runtime.load_state_dict(saved)
    runtime.parts["replay"].load_replay_state_dict(replay)
    runtime.parts["learner"].step = lambda: False
    runtime.parts["replay"].limiter.samples_per_insert = None
    check(runtime.parts["replay"])
    filled(2_000)
    check(runtime.parts["replay"])


def test_new_sequences_weigh_what_their_actor_rated_them() -> None:
    config = R2D2Config(**{**TINY, "start_steps": 400, "replay_steps": 2_000})
    runtime = build(config)
    runtime.run(lambda: runtime.parts["replay"].inserted_steps < 380)
    table = runtime.parts["replay"]
    rate = SequencePriorities(8, 4, config.n_steps, config.discount, None, 1e-3, 0.9)
    for key in table._items.state_dict()["keys"]:
        row, column = divmod(int(key), 4)
        names = ("last", "reward", "discount", "q_taken", "q_value", EPISODE_STEP)
        fields = table.streams.columns_of(column, column + 1)
        rated = rate({name: fields[name][row : row + 9] for name in names})
        assert rated[0, 0] > 0
        assert float(table._selector._tree[np.array([key])][0]) == pytest.approx(float(rated[0, 0]) ** 0.9, rel=1e-5)


def test_a_run_repeats_itself_bit_for_bit_and_reports_delta_q(tmp_path: Path) -> None:
    for name in ("a", "b"):
        veldt.train("r2d2", "CartPole-v1", seed=3, out=tmp_path / name, **SMALL)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    metrics = read(tmp_path / "a" / "metrics.csv")
    for name in ("delta_q_first", "delta_q_last"):
        assert min(metrics[name].values) > 0
    veldt.train("r2d2", "CartPole-v1", seed=3, out=tmp_path / "c", delta_q=False, **SMALL)
    assert "delta_q_first" not in read(tmp_path / "c" / "metrics.csv")
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "c"))  # looking changes nothing


@pytest.mark.parametrize("state", ["stored", "zero"])
@pytest.mark.parametrize("burn_in", [0, 20, 40])
def test_the_papers_ablation_of_states_is_a_pair_of_settings(state: str, burn_in: int) -> None:
    made = program(R2D2Config(initial_state=state, burn_in_steps=burn_in), make_env_spec("CartPole-v1"))
    replay = next(node for node in made.nodes if node.name == "replay")
    assert replay.make.keywords["view"] == Sequences(80, 40, burn_in, state, marks=True)


def test_the_pace_counts_sequences_of_new_steps() -> None:
    assert R2D2Config().samples_per_step == pytest.approx(0.77 / 40)
    assert R2D2Config(samples_per_insert=None).samples_per_step is None


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_steps 10 must be < sequence_steps 8"):
        R2D2Config(n_steps=10, sequence_steps=8, overlap_steps=4)
    with pytest.raises(ConfigError, match="r2d2 needs Discrete actions"):
        agent(R2D2Config(), make_env_spec("Pendulum-v1"))


def test_it_runs_in_processes(tmp_path: Path) -> None:
    result = veldt.train("r2d2", "CartPole-v1", out=tmp_path / "run", **{**SMALL, "runtime": "processes", "actors": 2})
    assert 1_100 < result.progress.steps <= 1_200
