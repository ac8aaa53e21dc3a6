"""A3C and its siblings as a user runs them: they learn, inline and in processes, through shared weights or a server; they resume."""

from __future__ import annotations

import os
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import veldt
from tests.runtime.programs import processes, run_while
from tests.systems.policies import aims, remembers_with_an_lstm_alone, sets_two_switches
from tests.systems.test_dqn import rows, same_weights, stopped_and_resumed_equals_whole, weights
from tests.systems.toys import Aim, corridor
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError
from veldt.runtime.inline import InlineRuntime
from veldt.systems.a3c import A3CConfig, program

SMALL: dict[str, Any] = {
    "preset": "paper",
    "runtime": "inline",
    "hidden": (32,),
    "workers": 2,
    "environments": 4,
    "learning_rate": 1e-2,
    "learning_rate_updates": None,
    "optimizer_epsilon": 1e-5,
    "eval_episodes": 5,
    "eval_every_steps": 2_000,
    "log_every_steps": 500,
    "steps": 6_000,
    "quiet": True,
}
"""A3C for the toys: seconds."""

VALUES: dict[str, Any] = {"epsilon_steps": 3_000, "target_period_updates": 25}


def train(out: Path, env: Any = corridor, **changes: Any) -> veldt.Result:
    return veldt.train("a3c", env, **{**SMALL, "out": out, **changes})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"runtime": "processes"},
        {"lstm_units": 16, "last_inputs": True},
        {"shards": 2},
        {"shards": 2, "runtime": "processes"},
        {"method": "one_step_q", **VALUES},
        {"method": "one_step_sarsa", **VALUES},
        {"method": "n_step_q", **VALUES},
    ],
    ids=lambda options: ", ".join(
        f"{options[name]}" for name in ("method", "shards", "runtime", "lstm_units") if name in options
    ),
)
def test_it_solves_the_corridor(tmp_path: Path, options: dict[str, Any]) -> None:
    result = train(tmp_path / "run", **options)
    assert result.final_mean == 1.0
    assert 5_900 < result.progress.steps <= 6_000
    assert veldt.evaluate(result.folder, episodes=20, seed=7).return_mean == 1.0


def test_it_sets_two_switches_at_once(tmp_path: Path) -> None:
    sets_two_switches(train, tmp_path)


def test_it_aims_with_a_continuous_action(tmp_path: Path) -> None:
    aims(train, tmp_path)


def test_with_an_lstm_it_remembers_and_without_it_cannot(tmp_path: Path) -> None:
    remembers_with_an_lstm_alone(train, tmp_path, steps=30_000)


def test_a_worker_learns_from_exactly_what_it_did_with_the_weights_that_it_did_it_with() -> None:
    runtime = InlineRuntime(program(A3CConfig(workers=3, hidden=(8,)), make_env_spec(corridor)), seed=0, device="cpu")
    actors, learners = ([runtime.parts[f"{name} {number}"] for number in range(3)] for name in ("actor", "learner"))
    checked = []
    for actor, learner in zip(actors, learners, strict=True):
        acted_with: list[list[torch.Tensor]] = []
        act, update = actor.step, learner._update

        def acting(actor: Any = actor, act: Any = act, acted_with: Any = acted_with) -> bool:
            before = [tensor.detach().clone() for tensor in actor._agent.parameters()]
            done = act()
            if done:
                acted_with.append(before)
            return bool(done)

        def learning(batch: Any, learner: Any = learner, update: Any = update, acted_with: Any = acted_with) -> None:
            assert len(acted_with) == 1  # one unroll, one gradient
            same = zip(learner._online.parameters(), acted_with.pop(), strict=True)
            checked.append(all(torch.equal(now.detach(), then) for now, then in same))
            update(batch)

        actor.step, learner._update = acting, learning
    runtime.run(lambda: len(checked) < 90)
    assert all(checked)
    assert runtime.parts["parameters"].version == 90  # and all three changed the same weights
    assert {learner.updates for learner in learners} == {30}


def test_sarsa_takes_the_action_that_it_learned_from() -> None:
    config = A3CConfig(workers=1, hidden=(8,), method="one_step_sarsa", epsilon_steps=10**9)
    runtime = InlineRuntime(program(config, make_env_spec(corridor)), seed=0, device="cpu")
    learner, seen = runtime.parts["learner"], []
    update = learner._update

    def learning(batch: Any) -> None:
        seen.append(batch.data.action.squeeze(1).numpy().copy())
        update(batch)

    learner._update = learning
    runtime.run(lambda: len(seen) < 50)
    assert all(ahead[-1] == behind[0] for ahead, behind in pairwise(seen))
    assert len({int(actions[-1]) for actions in seen}) == 2


def test_a_run_repeats_itself_inline_and_goes_on_after_a_signal_as_if_nothing_had_happened(tmp_path: Path) -> None:
    train(tmp_path / "a", steps=2_000)
    train(tmp_path / "b", steps=2_000)
    assert same_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    command = [
        sys.executable, "-m", "veldt.cli", "train", "a3c", "tests.systems.toys:interrupting", "--preset", "paper", "--runtime", "inline",
        "--hidden", "16", "--workers", "2", "--environments", "2", "--steps", "3000", "--eval-every-steps", "1000", "--seed", "3",
        "--method", "one_step_sarsa",
    ]  # fmt: skip
    stopped_and_resumed_equals_whole(tmp_path / "signal", command)


def test_a_run_in_processes_resumes_where_it_was(tmp_path: Path) -> None:
    half = train(tmp_path / "run", runtime="processes", steps=3_000)
    first = weights(tmp_path / "run")
    result = veldt.resume(tmp_path / "run", steps=6_000)
    assert 5_900 < result.progress.steps <= 6_000
    assert result.progress.updates == pytest.approx(2 * half.progress.updates, rel=0.15)
    assert not same_weights(first, weights(tmp_path / "run"))
    assert result.final_mean == 1.0
    for steps, _ in rows(tmp_path / "run").values():
        assert (np.diff(steps) > 0).all()  # no gap that goes back, no double row


def test_the_shared_weights_stay_whole_when_workers_are_killed_and_training_goes_on() -> None:
    config = A3CConfig(**{name: SMALL[name] for name in ("hidden", "learning_rate", "learning_rate_updates", "optimizer_epsilon")},
                       workers=2, environments=4)  # fmt: skip
    runtime = processes(program(config, make_env_spec(corridor)))
    for name in ("unrolls 0", "unrolls 1"):
        runtime.parts[name].most_steps = 10**9
    victims, killed = runtime.switchboard.crew, []
    counts: list[int] = []

    def more(said: list[str]) -> bool:
        version = runtime.parts["parameters"].version
        if len(killed) < 4 and all(worker.ready for worker in victims) and version > (counts[-1] if counts else 0) + 50:
            victim = victims[len(killed) % 2]
            os.kill(victim.pid or 0, signal.SIGKILL)
            killed.append(victim.label)
            counts.append(version)
        return len(killed) < 4 or not all(worker.ready for worker in victims) or version < counts[-1] + 100

    said = run_while(runtime, more)
    state = runtime.parts["parameters"].state_dict()
    assert bool(torch.isfinite(state["vector"]).all())
    assert [line.split(" ")[1] for line in said if "killed by signal 9" in line] == ["0", "1", "0", "1"]
    steps = [runtime.parts[name].inserted_steps for name in ("unrolls 0", "unrolls 1")]
    assert sum(steps) >= counts[-1] * 5 * 4 * 0.8  # what dead workers did counts on


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"method": "n_step_q", "lstm_units": 8}, "method n_step_q has no memory: lstm_units and last_inputs are a3c's"),
        ({"method": "sarsa"}, "method must be one of 'a3c', 'one_step_q', 'one_step_sarsa', 'n_step_q', got 'sarsa'"),
        ({"runtime": "processes", "lockstep": True}, "lockstep needs the learner in the home process"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_values_need_discrete_actions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a3c with method one_step_q needs Discrete actions, got Box\(1,\); use method a3c"):
        train(tmp_path / "run", Aim, method="one_step_q")
