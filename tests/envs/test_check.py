"""`check_env` reports what is right and what is not."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from tests.envs.toy_envs import Counting, Faulty, Unseeded
from veldt.envs import check_env, make_env_spec


class Loose(Counting):
    """Returns float64 and leaves its bounds."""

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0].astype(np.float64) - 1, {}

    def step(self, action):
        obs, *rest = super().step(action)
        return (obs.astype(np.float64) - 1, *rest)


class Breaks(Counting):
    """Raises when the first look is over."""

    def __init__(self):
        super().__init__(length=100)

    def step(self, action):
        if self.t == 50:
            raise OSError("the simulator is gone")
        return super().step(action)


class Shrinks(Counting):
    """Changes its observation when the first look is over."""

    def __init__(self):
        super().__init__(length=100)

    def step(self, action):
        obs, *rest = super().step(action)
        return (obs[: 1 if self.t > 50 else 2], *rest)


def findings(report, level):
    return {finding.what: finding.seen for finding in report.findings if finding.level == level}


@pytest.mark.parametrize("env", ["CartPole-v1", "MinAtar/Breakout-v1", "ALE/Pong-v5"])
def test_good_environments_have_no_errors(env):
    report = check_env(env, 200)
    assert report.ok, str(report)
    assert report.steps == 200
    assert report.steps_per_second > 0
    assert json.loads(report.json())["ok"] is True


def test_a_spec_can_be_checked_too():
    report = check_env(make_env_spec("Pendulum-v1"), 450)
    assert report.ok
    assert findings(report, "ok")["episodes end"] == "2 episodes of 200 to 200 steps"
    assert "rewards are of order 1" in findings(report, "warning")


def test_an_environment_that_ignores_its_seed_is_told():
    assert findings(check_env(Unseeded, 50), "warning")["the same seeds and actions give the same rows"] == "not at row 0"


@pytest.mark.filterwarnings("ignore:env .* has values in")
def test_wrong_dtypes_and_bounds_are_warnings():
    warned = findings(check_env(Loose, 50), "warning")
    assert warned["observations have their space's dtype"] == "obs is float64; its space says float32"
    assert "its space allows [0.0, 1000000.0]" in warned["observations lie in their space"]


def test_what_cannot_run_is_an_error_with_its_message():
    report = check_env(partial(Faulty, "four values", 1), 50)
    assert not report.ok
    assert "step() returned 4 values" in findings(report, "error")["the environment runs"]
    assert "✗" in str(report)


def test_an_unknown_id_is_an_error_with_its_message():
    assert "nearest 'CartPole-v1'" in findings(check_env("CartPol-v1"), "error")["the environment runs"]


def test_an_environment_that_breaks_in_between_is_an_error():
    report = check_env(Breaks, 200)
    assert findings(report, "error") == {"the environment runs": "OSError: the simulator is gone"}
    report = check_env(Shrinks, 200)
    assert "expected float32 (2,), got float32 (1,)" in findings(report, "error")["the environment runs"]


@pytest.mark.filterwarnings("ignore:env .* OSError")
def test_rows_of_an_environment_that_is_restarted_are_an_error():
    found = findings(check_env(make_env_spec(Breaks), 200), "error")
    assert list(found) == ["a row is `first` only after `last` (the environment did not fail)"]


def test_no_rewards_are_a_warning():
    assert findings(check_env("FrozenLake-v1", 40), "warning")["random actions find rewards"] == "all were 0"
