"""What environments do wrong in a run: survived where one can go on, refused at once where one cannot."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from tests.envs.toy_envs import Counting, Faulty, loop
from veldt.errors import EnvironmentFailed


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(Faulty, "made", 0)
    monkeypatch.setattr(Faulty, "closed", 0)
    monkeypatch.setattr("veldt.envs.loop.BACKOFF_SECONDS", 0.0)


def faulty(what, at=3, healthy_after=10**9, streams=1):
    """Environments with a fault. Two are made at once, to look at the spaces and as stream 0; `made` counts both."""
    return loop(partial(Faulty, what, at, healthy_after), streams)


def run(environments, steps):
    rows = [environments.reset()]
    for _ in range(steps):
        rows.append(environments.step(np.zeros(environments.streams, np.int64)))
    return rows


def test_an_env_that_raises_is_replaced_and_its_stream_goes_on_with_a_first_row():
    environments = faulty("raise", at=3, healthy_after=2)
    environments.reset()
    action = np.array([1])
    environments.step(action)
    environments.step(action)
    with pytest.warns(UserWarning, match=re.escape("env 0: ValueError in step 3 (restart 1/10): boom")):
        row = environments.step(action)
    assert row.first[0]
    assert not row.last[0]
    assert (row.reward[0], row.discount[0]) == (0.0, 1.0)
    assert row.obs[0].tolist() == [0, 0]
    assert Faulty.closed == 1
    for t in range(1, 10):
        row = environments.step(action)
        assert row.obs[0].tolist() == [0, t]
        assert not row.first[0]
    row = environments.step(action)
    assert row.last[0]
    assert [episode.length_steps for episode in environments.pop_episodes()] == [10]


def test_one_broken_env_does_not_disturb_the_others():
    environments = faulty("raise", at=2, healthy_after=1, streams=3)
    environments._envs[0] = Faulty("raise", 2)
    environments._envs[0].healthy = False
    environments.reset()
    environments.step(np.zeros(3, np.int64))
    with pytest.warns(UserWarning, match="env 0"):
        row = environments.step(np.zeros(3, np.int64))
    assert row.first.tolist() == [True, False, False]
    assert row.obs[:, 1].tolist() == [0, 2, 2]


def test_an_env_that_always_raises_ends_the_run_after_ten_restarts():
    environments = faulty("raise", at=1)
    message = "env 0 failed in step after 10 restarts; stopping. First error: ValueError in step 1: boom"
    with pytest.warns(UserWarning, match="boom") as caught, pytest.raises(EnvironmentFailed, match=re.escape(message)):
        run(environments, 20)
    restarts = [str(warning.message).partition("(")[2].partition(")")[0] for warning in caught]
    assert restarts == [f"restart {number}/10" for number in range(1, 11)]


def test_an_env_that_cannot_be_reset_ends_the_run_after_ten_resets():
    environments = faulty("raise in reset")
    message = "env 0 failed 10 resets; stopping. First error: OSError in reset: no licence"
    with pytest.warns(UserWarning, match="no licence"), pytest.raises(EnvironmentFailed, match=re.escape(message)):
        environments.reset()


def test_a_reset_that_fails_twice_is_tried_again_with_another_seed_and_env():
    environments = faulty("raise in reset", healthy_after=3)
    with pytest.warns(UserWarning, match=r"env 0: OSError in reset \(restart 2/10\)"):
        row = environments.reset()
    assert row.first[0]
    assert Faulty.made == 4


def test_a_finished_episode_forgives_earlier_failures():
    environments = faulty("raise", at=3, healthy_after=2)
    with pytest.warns(UserWarning, match="restart 1/10"):
        run(environments, 20)
    assert environments._failures == [0]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan reward", "env 0 step 3: reward is nan"),
        ("infinite reward", "env 0 step 3: reward is inf"),
        ("nan observation", "env 0 step 3: obs is nan at [0]"),
        ("infinite observation", "env 0 step 3: obs is inf at [1]"),
        (
            "four values",
            "env 0 step 3: step() returned 4 values; Gymnasium expects 5 (obs, reward, terminated, truncated, info)",
        ),
        ("wrong shape", "env 0 step 3: obs: expected float32 (2,), got float32 (1,); cast in your env"),
        ("wrong dtype", "env 0 step 3: obs: expected float32 (2,), got complex64 (2,); cast in your env"),
        ("list", "env 0 step 3: obs: expected float32 (2,), got a Python list; return a numpy array"),
        ("array reward", "env 0 step 3: reward must be a number, got ndarray array([1., 2.])"),
        ("no reward", "env 0 step 3: reward must be a number, got NoneType None"),
    ],
)
@pytest.mark.parametrize("careful_steps", [100, 0])
def test_a_broken_contract_ends_the_run_at_once_early_and_late(what, message, careful_steps):
    if what == "wrong dtype" and not careful_steps:
        pytest.skip("after the careful steps numbers are cast, whatever their dtype")
    environments = faulty(what)
    environments._careful = careful_steps
    with pytest.raises(EnvironmentFailed, match=re.escape(message)):
        run(environments, 5)


def test_observations_outside_their_space_are_warned_of_once():
    class Low(Counting):
        def reset(self, **kwargs):
            return super().reset(**kwargs)[0] - 5, {}

        def step(self, action):
            obs, *rest = super().step(action)
            return (obs - 5, *rest)

    environments = loop(Low)
    with pytest.warns(UserWarning, match=re.escape("obs has values in [-5.0, -4.0]; its space allows [0.0, 1000000.0]")) as w:
        run(environments, 10)
    assert len(w) == 1


def test_close_closes_every_env_though_one_fails():
    environments = faulty("raise", streams=3)
    environments.reset()
    environments._envs[1].close = lambda: 1 / 0
    environments.close()
    assert Faulty.closed == 2
