"""IMPALA as a user runs it: it learns, repeats itself, resumes; its actors wait, and are exactly as far behind as they are told to be."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import veldt
from tests.systems.policies import aims, remembers_with_an_lstm_alone, sets_two_switches
from tests.systems.test_dqn import rows, same_weights, stopped_and_resumed_equals_whole, weights
from tests.systems.toys import Recall, corridor
from veldt.agents.policy_gradient import VTrace
from veldt.core import Loss, Place
from veldt.data import Batch, Unroll, tree_map
from veldt.envs.make import make_env_spec
from veldt.errors import ConfigError, RunFolderError
from veldt.parts.learner import Learner
from veldt.runs.metrics import read
from veldt.runtime.averaging import Together
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
        {"learners": 2, "batch_size": 4},
    ],
    ids=["as it is", "old unrolls", "LSTM", "RMSProp", "two learners"],
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


def test_actors_the_queue_and_the_learners_are_bundles() -> None:
    made = program(ImpalaConfig(actors=3), make_env_spec(corridor))
    assert [(bundle.name, [node.name for node in bundle.nodes], bundle.replicas) for bundle in made.bundles] == [
        ("actor", ["actor"], 3), ("queue", ["unrolls"], 1), ("learner", ["parameters", "learner"], 1),
    ]  # fmt: skip
    assert program(ImpalaConfig(learners=2), make_env_spec(corridor)).bundle_of("learner").replicas == 2
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


def test_a_run_of_two_learners_stopped_in_the_middle_of_a_round_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    def look(runtime: InlineRuntime) -> bool:
        return not (runtime.parts["parameters 0"]._average.pending and not runtime.parts["parameters 1"]._average.pending)

    def two() -> InlineRuntime:
        return build(ImpalaConfig(**{**TINY, "learners": 2, "batch_size": 9}))  # 12 unrolls a round: one batch now, two then

    whole, stopped, resumed = two(), two(), two()
    stopped.run(lambda: stopped.parts["parameters 0"].version < 5 or look(stopped))
    with stopped.snapshot() as state:
        assert state["averages"]["learner"]["given"][1] is None
        assert state["averages"]["learner"]["given"][0] is not None
        resumed.load_state_dict(copy.deepcopy(state))
        resumed.parts["unrolls"].load_replay_state_dict(copy.deepcopy(stopped.parts["unrolls"].replay_state_dict()))
    for runtime in (whole, resumed):
        runtime.run(lambda runtime=runtime: runtime.parts["parameters 0"].version < 30)  # type: ignore[misc]
    for number in range(2):
        one, other = (runtime.parts[f"parameters {number}"].state_dict()["tensors"] for runtime in (whole, resumed))
        assert same_weights(one, other)


def test_in_processes_two_learners_learn_stop_and_resume_where_they_were(tmp_path: Path) -> None:
    first = train(tmp_path / "run", runtime="processes", learners=2, batch_size=4, steps=3_000)
    with pytest.raises(RunFolderError, match=r"cannot resume: hyperparameters.learners 2→1 differs"):
        veldt.resume(tmp_path / "run", steps=8_000, learners=1)
    result = veldt.resume(tmp_path / "run", steps=8_000)
    assert result.final_mean == 1.0
    assert 7_960 < result.progress.steps <= 8_000
    # an update takes 2 x 4 unrolls of 5 rows, of which some are void and no steps
    assert first.progress.updates + 5_000 // 40 - 20 < result.progress.updates < 2 * 8_000 // 40


def unrolls(seed: int, streams: int) -> Batch[Unroll]:
    """A batch of what nobody did, in episodes of the corridor's shapes: 5 steps of so many streams."""
    random = np.random.default_rng(seed)
    last = torch.from_numpy(random.random((6, streams)) < 0.2)
    action = torch.from_numpy(random.integers(2, size=(6, streams)))
    reward, log_prob = (torch.from_numpy(random.normal(size=(6, streams)).astype(np.float32)) for _ in range(2))
    unroll = Unroll(
        obs=torch.from_numpy(random.random((6, streams, 5)).astype(np.float32)), first=last.roll(1, 0), last=last, action=action,
        reward=reward, discount=torch.ones(6, streams), last_action=action.roll(1, 0), last_reward=reward.roll(1, 0),
        mask=(~last[:-1]).float(), extras={"log_prob": log_prob - 1},
    )  # fmt: skip
    return Batch(unroll, torch.ones(streams), np.arange(streams))


def part_of(batch: Batch[Unroll], streams: slice) -> Batch[Unroll]:
    """Some of the streams of a batch."""
    data = {
        field.name: tree_map(lambda leaf: leaf[:, streams], getattr(batch.data, field.name)) for field in fields(batch.data)
    }
    return Batch(Unroll(**data), batch.weights[streams], batch.keys[streams])


class Given:
    """A memory that hands out given batches."""

    def __init__(self, batches: list[Batch[Unroll]]) -> None:
        self._batches = batches

    def can_sample(self) -> bool:
        return bool(self._batches)

    def sample(self) -> Batch[Unroll]:
        return self._batches.pop(0)


@dataclass(frozen=True)
class Halved:
    """Half of the loss of V-trace, which sums over its batch."""

    whole: VTrace

    def __call__(self, online: Any, target: Any, batch: Batch[Unroll]) -> Loss:
        loss = self.whole(online, target, batch)
        return loss._replace(value=loss.value / 2)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
@pytest.mark.parametrize("norm", [None, 0.5])
def test_two_learners_make_the_updates_of_one_on_the_joined_batch_with_the_mean_of_their_losses(
    optimizer: Literal["rmsprop", "adam"], norm: float | None
) -> None:
    config = ImpalaConfig(
        hidden=(16,), optimizer=optimizer, optimizer_epsilon=1e-3, learning_rate=0.01, max_gradient_norm=norm, learners=2
    )
    batches, env = [unrolls(seed, 7) for seed in range(20)], make_env_spec(corridor)
    nodes = {node.name: node for node in program(config, env).nodes}
    alone = {node.name: node for node in program(replace(config, learners=1), env).nodes}["parameters"].make(place=Place())
    make_agent, loss = nodes["learner"].make.args  # type: ignore[attr-defined]
    together = Together(2)

    def learner(parameters: Any, objective: Any, memory: Given) -> Learner:
        return Learner(make_agent, objective, target_period_updates=None, memory=memory, parameters=parameters, place=Place())

    replicas = [
        nodes["parameters"].make(place=Place(number, 2, average=partial(together.member, number))) for number in range(2)
    ]
    halves = [slice(0, 3), slice(3, 7)]
    two = [
        learner(replica, loss, Given([part_of(batch, half) for batch in batches]))
        for replica, half in zip(replicas, halves, strict=True)
    ]
    one = learner(alone, Halved(loss), Given(list(batches)))
    for _ in batches:
        assert all(each.step() for each in (*two, one))
    assert all(replica.can_push() for replica in replicas)
    assert alone.version == replicas[0].version == replicas[1].version == len(batches)
    joined, *split = ([*replica.pull(()).tensors.values()] for replica in (alone, *replicas))
    for expected, first, second in zip(joined, *split, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-6)


def test_each_update_takes_a_batch_of_each_learner_and_each_unroll_goes_to_one() -> None:
    runtime = build(ImpalaConfig(**{**TINY, "learners": 3}))
    runtime.run(lambda: runtime.parts["parameters 0"].version < 20)
    batches = [runtime.parts[f"learner {number}"].updates for number in range(3)]
    assert batches in ([20, 20, 20], [21, 20, 20], [21, 21, 20])
    queue = runtime.parts["unrolls"]
    written = sum(queue.end(actor) for actor in range(2)) // 4 * 3
    assert written - len(queue) == 6 * sum(batches)


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
    ({"learners": 0}, "learners must be >= 1, got 0"),
    ({"learners": 2, "forced_lag_updates": 1}, "forced_lag_updates is for one learner, got learners 2"),
    ({"learners": 2, "batch_size": 8, "steps": 70}, "start_steps 80 leaves no step to learn in: the run has 70 steps"),
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
