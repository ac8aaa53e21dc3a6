"""What was saved in mid-episode goes on bit for bit, or says that it cannot."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.envs.toy_envs import Counting, Unseeded, Walk, loop
from veldt.data import tree_map
from veldt.envs import make_env_spec
from veldt.errors import RunFolderError


def copied(row):
    return [tree_map(np.copy, part) for part in row]


def assert_same_rows(one, two):
    for left, right in zip(one, two, strict=True):
        tree_map(np.testing.assert_array_equal, left, right)


def plain(state: Any) -> bool:
    """Whether a state has nothing but what `core.State` allows."""
    if isinstance(state, dict):
        return all(isinstance(key, str) and plain(value) for key, value in state.items())
    if isinstance(state, list):
        return all(plain(value) for value in state)
    return (
        state is None
        or isinstance(state, str | bool | int | float)
        or (isinstance(state, np.ndarray) and state.dtype != object)
    )


CASES = ["Walk", "CartPole-v1", "MinAtar/Asterix-v1", "MiniGrid-Dynamic-Obstacles-5x5-v0", "Hopper-v5"]


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [0, 1, 47])
def test_a_restored_run_is_bit_equal_to_one_that_was_not_interrupted(name, streams, steps):
    spec = make_env_spec(Walk if name == "Walk" else name)
    random = np.random.default_rng(0)

    def act():
        if spec.action.kind == "box":
            return random.normal(size=(streams, *spec.action.shape)).astype(np.float32)
        return random.integers(0, spec.action.sizes[0], streams)

    whole = spec.make(streams, np.random.SeedSequence(5))
    row = whole.reset()
    for _ in range(steps):
        row = whole.step(act())
    state = whole.state_dict()
    assert plain(state)
    resumed = spec.make(streams, np.random.SeedSequence(5))
    again = resumed.load_state_dict(state)
    assert_same_rows(row[:3], again[:3])
    for _ in range(60):
        action = act()
        assert_same_rows(copied(whole.step(action)), resumed.step(action))
    assert whole.pop_episodes() == resumed.pop_episodes()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_state_does_not_change_while_the_environments_go_on(name):
    spec = make_env_spec(name)
    environments = spec.make(2, np.random.SeedSequence(0))
    environments.reset()
    state = environments.state_dict()
    before = repr(state)
    for _ in range(30):
        environments.step(np.zeros((2, *spec.action.shape), spec.action.dtype))
    assert repr(state) == before


def test_a_row_that_was_last_is_restored_as_last():
    environments = loop(partial(Counting, length=2), 2)
    environments.reset()
    environments.step(np.array([0, 0]))
    environments.step(np.array([0, 0]))
    resumed = loop(partial(Counting, length=2), 2)
    row = resumed.load_state_dict(environments.state_dict())
    assert row.last.all()
    assert not row.first.any()
    row = resumed.step(np.array([0, 0]))
    assert row.first.all()


def test_an_environment_that_ignores_its_seed_starts_a_new_episode_and_says_so():
    environments = loop(Unseeded, 1)
    environments.reset()
    environments.step(np.zeros((1, 2), np.float32))
    resumed = loop(Unseeded, 1)
    with pytest.warns(UserWarning, match="env 0: episode 0 did not come back to its observation; a new one starts"):
        row = resumed.load_state_dict(environments.state_dict())
    assert row.first.all()
    assert not row.last.any()


def test_an_episode_too_long_to_record_starts_anew_and_says_so(monkeypatch):
    monkeypatch.setattr("veldt.envs.loop.REPLAYABLE_STEPS", 4)
    environments = loop(partial(Counting, length=100), 1)
    environments.reset()
    for _ in range(5):
        environments.step(np.array([0]))
    with pytest.warns(UserWarning, match="env 0: episode 0 was too long to record; a new one starts"):
        row = loop(partial(Counting, length=100), 1).load_state_dict(environments.state_dict())
    assert row.first.all()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "ALE/Pong-v5"])
def test_none_starts_new_episodes(name):
    environments = make_env_spec(name).make(2, np.random.SeedSequence(0))
    row = environments.load_state_dict(None)
    assert row.first.all()
    environments.close()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_state_of_another_number_of_streams_is_refused(name):
    spec = make_env_spec(name)
    environments = spec.make(2, np.random.SeedSequence(0))
    environments.reset()
    with pytest.raises(RunFolderError, match="the checkpoint holds 2 environment streams, this run has 3"):
        spec.make(3, np.random.SeedSequence(0)).load_state_dict(environments.state_dict())
