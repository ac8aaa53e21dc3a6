"""The rows that environments answer keep the convention of `veldt.data`, and equal the slow truth."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest

from tests.envs.toy_envs import Counting, Walk, loop, oracle
from veldt.core import Environments
from veldt.data import Episode, tree_map
from veldt.envs import make_env_spec
from veldt.envs.loop import episode_seed


def table(environments, actions):
    """Per row: obs, first, last, then the reward and discount that followed it."""
    row = environments.reset()
    rows = []
    for action in actions:
        seen = (row.obs[0].tolist(), bool(row.first[0]), bool(row.last[0]))
        row = environments.step(np.array([action]))
        rows.append((*seen, float(row.reward[0]), float(row.discount[0])))
    return rows


def test_a_terminated_episode_is_written_as_in_the_docstring_of_data():
    assert table(loop(partial(Counting, terminates=True)), [1, 2, 0, 1, 0]) == [
        ([0, 0], True, False, 1.0, 1.0),
        ([0, 1], False, False, 12.0, 0.0),
        ([0, 2], False, True, 0.0, 1.0),
        ([1, 0], True, False, 1.0, 1.0),
        ([1, 1], False, False, 10.0, 0.0),
    ]


def test_a_truncated_episode_differs_in_its_discount_alone():
    create = partial(Counting, terminates=False, truncates=True)
    assert table(loop(create), [1, 2, 0, 1]) == [
        ([0, 0], True, False, 1.0, 1.0),
        ([0, 1], False, False, 12.0, 1.0),
        ([0, 2], False, True, 0.0, 1.0),
        ([1, 0], True, False, 1.0, 1.0),
    ]


def test_a_step_that_terminates_and_truncates_terminates():
    create = partial(Counting, terminates=True, truncates=True)
    assert [row[4] for row in table(loop(create), [0, 0, 0])] == [1.0, 0.0, 1.0]


def test_an_episode_of_one_step_is_first_then_last():
    rows = table(loop(partial(Counting, length=1)), [2, 0, 1, 0])
    once = [(True, False, 2.0, 0.0), (False, True, 0.0, 1.0), (True, False, 1.0, 0.0), (False, True, 0.0, 1.0)]
    assert [row[1:] for row in rows] == once


@pytest.mark.parametrize("seed", range(3))
def test_random_episodes_equal_the_oracle(seed):
    streams, steps = 3, 150
    environments = loop(Walk, streams, seed)
    actions = np.random.default_rng(seed).normal(size=(steps, streams, 2)).astype(np.float32) * 2
    rows = [tree_map(np.copy, dict(enumerate(environments.reset())))]
    rows += [tree_map(np.copy, dict(enumerate(environments.step(action)))) for action in actions]
    found = environments.pop_episodes()
    keys = np.random.SeedSequence(seed).generate_state(streams, np.uint64).tolist()
    for stream, key in enumerate(keys):
        seeds = [episode_seed(key, episode) for episode in range(steps)]
        expected, episodes = oracle(Walk(), seeds, list(np.clip(actions[:, stream], -1, 1)))
        for row, right in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(row[0][stream], right.obs.astype(np.float32))
            assert [row[field][stream] for field in (1, 2, 4)] == [right.first, right.last, right.discount]
            assert row[3][stream] == np.float32(right.reward)
        mine = [(episode.episode_return, episode.length_steps) for episode in found if episode.stream == stream]
        assert mine == episodes
        assert len(mine) > 5


def test_returns_are_summed_in_float64_and_reported_once():
    environments = loop(partial(Counting, length=3))
    environments.reset()
    for _ in range(3):
        environments.step(np.array([1]))
    assert environments.pop_episodes() == [Episode(0, 33.0, 3)]
    assert environments.pop_episodes() == []


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "ALE/Pong-v5", "MinAtar/Breakout-v1"])
def test_every_family_keeps_the_protocol_and_the_same_seeds_repeat_a_run(name):
    spec = make_env_spec(name)

    def run(seed):
        environments = spec.make(2, np.random.SeedSequence(seed))
        assert isinstance(environments, Environments)
        random = np.random.default_rng(0)
        rows = [tree_map(np.copy, dict(enumerate(environments.reset())))]
        for _ in range(60):
            action = random.integers(0, 3, 2) if spec.action.kind == "discrete" else random.normal(size=(2, 1))
            action = np.minimum(action, spec.action.sizes[0] - 1) if spec.action.sizes else action.astype(np.float32)
            rows.append(tree_map(np.copy, dict(enumerate(environments.step(action)))))
        environments.close()
        return np.concatenate([np.concatenate([part.ravel() for part in row.values()]) for row in rows])

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_streams_and_episodes_have_different_seeds():
    keys = np.random.SeedSequence(0).generate_state(4, np.uint64).tolist()
    seeds = {episode_seed(key, episode) for key in keys for episode in range(1000)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_arrays_of_a_row_are_reused():
    environments = loop(Counting, 2)
    before = environments.reset()
    after = environments.step(np.array([0, 0]))
    assert all(one is two for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize("streams", [2, 5])
def test_the_numpy_cartpole_equals_the_plain_one_in_its_rows(streams):
    """Started from the same state, both give the same observations, rewards and ends, over several episodes."""
    vector = make_env_spec("CartPole-v1").make(streams, np.random.SeedSequence(3))
    row = vector.reset()
    plain = [gymnasium.make("CartPole-v1", max_episode_steps=500).unwrapped for _ in range(streams)]
    inner = vector._env.unwrapped
    for env in plain:
        env.reset()
    random = np.random.default_rng(0)
    episodes = 0
    for _ in range(120):
        for stream, env in enumerate(plain):
            if row.first[stream]:
                env.reset()
                env.state = tuple(inner.state[:, stream])
        was_last = row.last.copy()
        action = random.integers(0, 2, streams)
        row = vector.step(action)
        np.testing.assert_array_equal(row.first, was_last)
        for stream, env in enumerate(plain):
            if was_last[stream]:
                assert (row.reward[stream], row.discount[stream], row.last[stream]) == (0.0, 1.0, False)
                continue
            obs, reward, terminated, _, _ = env.step(int(action[stream]))
            np.testing.assert_allclose(row.obs[stream], obs, rtol=1e-6)
            assert (row.reward[stream], row.last[stream]) == (reward, terminated)
            assert row.discount[stream] == 1.0 - terminated
            episodes += terminated
    assert episodes > 3
    finished = vector.pop_episodes()
    assert len(finished) == episodes
    assert all(episode.episode_return == episode.length_steps for episode in finished)


def test_the_time_limit_of_the_numpy_cartpole_truncates():
    environments = make_env_spec("CartPole-v1").make(2, np.random.SeedSequence(0))
    environments.reset()
    environments._env.unwrapped.max_episode_steps = 5
    for _ in range(5):
        row = environments.step(np.array([0, 1]))
    assert row.last.all()
    assert (row.discount == 1.0).all()
    assert [episode.length_steps for episode in environments.pop_episodes()] == [5, 5]
    row = environments.step(np.array([0, 1]))
    assert row.first.all()
    assert not row.reward.any()
