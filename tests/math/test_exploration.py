"""Epsilon schedules (T5), epsilon-greedy actions, and what schedules refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veldt.errors import ConfigError
from veldt.math.exploration import ConstantEpsilon, EpsilonLadder, LinearEpsilon, LinearSchedule, epsilon_greedy

LADDER = EpsilonLadder(0.4, 7)


@pytest.mark.parametrize(
    ("count", "rungs"),
    [
        (1, {0: 0.4}),
        (4, {0: 0.4, 1: 0.0471556032, 2: 0.0055591273, 3: 0.00065536}),
        (8, dict(enumerate([0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]))),
        (
            256,
            {0: 0.4, 1: 0.39006425, 2: 0.38037530, 63: 0.08200831, 128: 0.01598851, 254: 0.00067205, 255: 0.00065536},
        ),
    ],
)
def test_the_ladder_is_the_table_of_t5(count, rungs):
    got = LADDER(0, np.array(list(rungs)), count)
    np.testing.assert_allclose(got, list(rungs.values()), rtol=1e-6, atol=5e-9)
    assert got.dtype == np.float32


def test_the_ladder_of_256_has_the_mean_of_t5_and_does_not_move():
    everyone = np.arange(256)
    assert LADDER(0, everyone, 256).mean() == pytest.approx(0.06280365, rel=1e-6)
    np.testing.assert_array_equal(LADDER(0, everyone, 256), LADDER(10**9, everyone, 256))


@pytest.mark.parametrize(("step", "value"), [(0, 1.0), (1000, 1.0), (1500, 0.55), (2000, 0.1), (10**9, 0.1)])
def test_linear_epsilon_waits_falls_and_stays(step, value):
    got = LinearEpsilon(1.0, 0.1, 1000, 2000)(step, np.arange(3), 3)
    np.testing.assert_allclose(got, [value] * 3, rtol=1e-6)
    assert got.dtype == np.float32


def test_a_schedule_of_no_length_is_a_jump():
    jump = LinearSchedule(1.0, 0.0, 10, 10)
    assert (jump(9), jump(10)) == (1.0, 0.0)


def test_constant_epsilon_is_the_same_for_every_stream():
    assert ConstantEpsilon(0.25)(7, np.arange(3), 9).tolist() == [0.25] * 3


@given(step=st.integers(0, 10**7), index=st.integers(0, 99), count=st.integers(100, 1000))
def test_every_epsilon_is_a_probability(step, index, count):
    for schedule in (LADDER, LinearEpsilon(1, 0.01, 5, 10**6), ConstantEpsilon(1.0)):
        assert 0 <= schedule(step, np.array([index]), count)[0] <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearEpsilon(1, 0.1, 1000, 100), r"epsilon ends at step 100 before it starts \(1000\)"),
        (lambda: LinearEpsilon(1, 0.1, -1, 100), "epsilon must begin at step 0 or later, got -1"),
        (lambda: LinearEpsilon(1.5, 0.1, 0, 1), r"epsilon start must lie in \[0, 1\], got 1.5"),
        (lambda: LinearEpsilon(1, -0.1, 0, 1), r"epsilon end must lie in \[0, 1\], got -0.1"),
        (lambda: ConstantEpsilon(float("nan")), r"epsilon must lie in \[0, 1\], got nan"),
        (lambda: EpsilonLadder(4, 7), r"epsilon ladder base must lie in \[0, 1\], got 4"),
        (lambda: EpsilonLadder(0.4, -7), "epsilon ladder power must be >= 0, got -7"),
        (lambda: LinearSchedule(1, 0, 5, 4), r"schedule ends at step 4 before it starts \(5\)"),
    ],
)
def test_schedules_refuse(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_epsilon_zero_is_greedy_and_epsilon_one_is_uniform_over_all_actions():
    random, greedy = np.random.default_rng(0), np.full(40_000, 2)
    assert (epsilon_greedy(greedy, np.zeros(40_000), 4, random) == 2).all()
    share = np.bincount(epsilon_greedy(greedy, np.ones(40_000), 4, random), minlength=4) / 40_000
    np.testing.assert_allclose(share, 0.25, atol=0.01)


def test_each_stream_explores_with_its_own_epsilon():
    greedy, epsilon = np.zeros(40_000, np.int64), np.tile(np.float32([0.1, 0.8]), 20_000)
    actions = epsilon_greedy(greedy, epsilon, 4, np.random.default_rng(1))
    assert actions.dtype == np.int64
    assert (actions[0::2] == 0).mean() == pytest.approx(0.925, abs=0.01)
    assert (actions[1::2] == 0).mean() == pytest.approx(0.4, abs=0.015)


def test_the_random_stream_does_not_depend_on_what_was_drawn():
    one, other = np.random.default_rng(2), np.random.default_rng(2)
    epsilon_greedy(np.zeros(5), np.zeros(5), 3, one)
    epsilon_greedy(np.zeros(5), np.ones(5), 3, other)
    assert one.random() == other.random()
