"""IMPALA as a user runs it: it learns, repeats itself, resumes; its actors wait, and are exactly as far behind as they are told to be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import veldt
from tests.systems.policies import aims, remembers_with_an_lstm_alone, sets_two_switches
from tests.systems.test_dqn import rows, same_weights, stopped_and_resumed_equals_whole, weights
from tests.systems.toys import Recall, corridor
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError
from veldt.runs.metrics import read
from veldt.runtime.inline import InlineRuntime
from veldt.runtime.processes import ProcessRuntime
from veldt.systems.impala import ImpalaConfig, program

SMALL: dict[str, Any] = {
    "preset": "paper",
    "runtime": "inline",
    "hidden": (32,),
    "actors": 2,
    "environments": 4,
    "unroll_steps": 5,
    "batch_size": 8,
    "optimizer": "adam",
    "optimizer_epsilon": 1e-5,
    "learning_rate": 3e-3,
    "learning_rate_updates": None,
    "eval_episodes": 5,
    "eval_every_steps": 2_000,
    "log_every_steps": 500,
    "steps": 6_000,
    "quiet": True,
}
"""IMPALA for the toys: seconds."""

TINY: dict[str, Any] = {"hidden": (8,), "actors": 2, "environments": 3, "unroll_steps": 4, "batch_size": 6}


def train(out: Path, env: Any = corridor, **changes: Any) -> veldt.Result:
    return veldt.train("impala", env, **{**SMALL, "out": out, **changes})


def build(config: ImpalaConfig, env: Any = corridor, seed: int = 0) -> InlineRuntime:
    return InlineRuntime(program(config, make_env_spec(env)), seed=seed, device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"replay_share": 0.5, "replay_unrolls": 100},
        {"lstm_units": 16, "last_inputs": True},
        {"optimizer": "rmsprop", "optimizer_epsilon": 0.01, "learning_rate": 1e-2},
    ],
    ids=["as it is", "old unrolls", "LSTM", "RMSProp"],
)
def test_it_solves_the_corridor(tmp_path: Path, options: dict[str, Any]) -> None:
    result = train(tmp_path / "run", **options)
    assert result.final_mean == 1.0
    assert 5_960 < result.progress.steps <= 6_000
    assert veldt.evaluate(result.folder, episodes=20, seed=7).return_mean == 1.0


def test_it_sets_two_switches_at_once(tmp_path: Path) -> None:
    sets_two_switches(train, tmp_path)


def test_it_aims_with_a_continuous_action(tmp_path: Path) -> None:
    aims(train, tmp_path)


def test_with_an_lstm_it_remembers_and_without_it_cannot(tmp_path: Path) -> None:
    remembers_with_an_lstm_alone(train, tmp_path, steps=20_000)


def test_actors_are_one_bundle_of_replicas_and_the_learning_side_another() -> None:
    made = program(ImpalaConfig(actors=3), make_env_spec(corridor))
    assert [(bundle.name, [node.name for node in bundle.nodes], bundle.replicas) for bundle in made.bundles] == [
        ("actor", ["actor"], 3), ("learning", ["unrolls", "parameters", "learner"], 1),
    ]  # fmt: skip
    lagged = program(ImpalaConfig(forced_lag_updates=2), make_env_spec(corridor))
    assert ("actor", "parameters", "lagged") in list(lagged.edges())
    assert ("learner", "parameters", "parameters") in list(lagged.edges())


def test_a_batch_is_what_the_actors_did_just_now_and_they_wait_until_it_is_learned_from() -> None:
    runtime = build(ImpalaConfig(**{**TINY, "queue_unrolls": 1}))
    seen: list[int] = []

    def look() -> bool:
        seen.append(runtime.parts["unrolls"].inserted_steps)
        return runtime.parts["learner"].updates < 30

    runtime.run(look)
    assert len(seen) == 30  # every round all actors act and the learner learns
    assert not runtime.parts["unrolls"].can_sample()
    values = runtime.parts["learner"].metrics()
    assert (values["batch_lag_updates"], values["batch_lag_updates_max"]) == (0.0, 0.0)


@pytest.mark.parametrize("lag", [1, 10])
def test_with_a_forced_lag_actors_act_with_the_weights_of_exactly_so_many_updates_ago(lag: int) -> None:
    runtime = build(ImpalaConfig(**{**TINY, "queue_unrolls": 1, "forced_lag_updates": lag}))
    learner, actor = runtime.parts["learner"], runtime.parts["actor 0"]
    history: list[list[torch.Tensor]] = []

    def remember() -> None:
        history.append([parameter.detach().clone() for parameter in learner._online.parameters()])

    remember()
    act, learn = actor._agent.act, learner.step

    def acting(*row: Any) -> Any:
        wanted = history[max(0, len(history) - 1 - lag)]
        assert all(torch.equal(own.detach(), old) for own, old in zip(actor._agent.parameters(), wanted, strict=True))
        return act(*row)

    def learning() -> bool:
        learned = learn()
        remember()
        return bool(learned)

    actor._agent.act, learner.step = acting, learning
    runtime.run(lambda: learner.updates < 40)
    assert len(history) == 41
    assert learner.metrics()["batch_lag_updates_max"] == lag


def test_the_metrics_show_how_old_the_weights_were(tmp_path: Path) -> None:
    train(tmp_path / "run", forced_lag_updates=3, steps=3_000)
    found = read(tmp_path / "run" / "metrics.csv")
    assert set(found["batch_lag_updates_max"].values) == {3.0}
    assert {"entropy", "value", "value_error", "cut_ratios", "policy_lag_updates"} <= found.keys()


def test_a_run_repeats_itself_bit_for_bit_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(tmp_path / name, "CartPole-v1", seed=seed, lstm_units=8, replay_share=0.25, steps=3_000)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert not same_weights(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_run_stopped_by_a_signal_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    settings = {**SMALL, "lstm_units": 8, "last_inputs": True, "replay_share": 0.5, "replay_unrolls": 200, "steps": 3_000}
    settings = {name: value for name, value in settings.items() if name not in ("hidden", "quiet", "last_inputs")}
    flags = [f"--{name.replace('_', '-')}={str(value).lower()}" for name, value in settings.items()]
    command = [sys.executable, "-m", "veldt.cli", "train", "impala", "tests.systems.toys:interrupting", *flags]
    command += ["--quiet", "--last-inputs", "--forced-lag-updates=5"]
    stopped_and_resumed_equals_whole(tmp_path, command)


def test_without_its_unrolls_a_run_resumes_and_goes_on(tmp_path: Path) -> None:
    train(tmp_path / "run", steps=3_000, checkpoint_replay=False, lstm_units=8, last_inputs=True)
    assert veldt.resume(tmp_path / "run", steps=9_000).final_mean == 1.0


def updated(runtime: Any, updates: int) -> tuple[int, list[torch.Tensor]]:
    """Steps and weights after so many updates."""
    try:
        runtime.run(lambda: runtime.parts["learner"].updates < updates)
        tensors = runtime.parts["parameters"].state_dict()["tensors"]
        return runtime.parts["unrolls"].inserted_steps, [tensor.clone() for tensor in tensors.values()]
    finally:
        runtime.close()


@pytest.mark.parametrize(
    "options",
    [{}, {"lstm_units": 8, "last_inputs": True, "replay_share": 0.5, "forced_lag_updates": 2, "unroll_steps": 7}],
    ids=["as it is", "LSTM, old unrolls, lag"],
)
def test_200_updates_in_lockstep_give_the_weights_of_the_inline_runtime_bit_for_bit(options: dict[str, Any]) -> None:
    made = program(ImpalaConfig(**{**TINY, **options}), make_env_spec("CartPole-v1"))
    steps, here = updated(InlineRuntime(made, seed=3, device="cpu"), 200)
    steps_there, there = updated(ProcessRuntime(made, seed=3, device="cpu", lockstep=True, stuck_seconds=60.0), 200)
    assert steps_there == steps
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def test_in_processes_the_lag_is_bounded_by_what_the_queue_holds(tmp_path: Path) -> None:
    result = train(tmp_path / "run", "CartPole-v1", runtime="processes", queue_unrolls=2, steps=20_000)
    found = read(result.folder / "metrics.csv")["batch_lag_updates_max"].values
    # at most 2 x 8 unrolls wait and 2 x 8 are being written: 4 batches of 8
    assert max(found) <= 4


REFUSALS = [
    ({"rho_bar": -1.0}, "rho_bar must be >= 0, got -1"),
    ({"trace_lambda": 1.5}, r"trace_lambda must lie in \[0, 1\], got 1.5"),
    ({"replay_share": 1.0}, "replay_share must be >= 0 and < 1"),
    ({"lstm_units": -1}, "lstm_units must be >= 0, got -1"),
    ({"unroll_steps": 0}, "unroll_steps must be >= 1, got 0"),
    ({"correction": "some"}, "correction must be one of 'vtrace', 'one_step', 'none', got 'some'"),
    ({"encoder": "impala"}, "network 'impala' needs an image"),
    ({"steps": 30}, "start_steps 40 leaves no step to learn in: the run has 30 steps"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS, ids=[case[1][:20] for case in REFUSALS])
def test_a_mistake_is_refused_before_anything_starts(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_policy_with_a_memory_remembers_between_calls(tmp_path: Path) -> None:
    result = train(tmp_path / "run", Recall, lstm_units=16, steps=20_000, unroll_steps=10, eval_episodes=40, until_return=1.0)
    policy = veldt.load(result.folder)
    env, total = Recall(), 0.0
    for episode in range(20):
        obs, _ = env.reset(seed=episode)
        first, over = True, False
        while not over:
            action = policy.act(obs[None], first=np.array([first]))[0]
            obs, reward, over, _, _ = env.step(int(action))
            first, total = False, total + reward
    assert total == 20.0
