"""Initial priorities of n-step transitions: the windows of T2, and the slow definition under random episodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.returns import initial_priority
from veldt.math.priorities import NStepPriorities

# T2 as a stream: r = 1..7; step 3 terminates, step 6 truncates. Rows 4 and 8 are the final observations, and
# their void rows hold rewards that must never be read.
ROWS = {
    "reward": np.array([1, 2, 3, 4, 1e6, 5, 6, 7, 1e6, 0, 0, 0], np.float32),
    "discount": np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], np.float32),
    "last": np.array([0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], bool),
    "q_value": np.array([0, 10, 20, 30, 1e6, 0, 50, 60, 70, 0, 0, 0], np.float32),
    "q_taken": np.array([1, 9, 1, 9, 0, 60, 75, 1, 0, 0, 0, 0], np.float32),
}
TARGETS = {0: 27.10, 1: 7.94, 2: 6.6, 3: 4, 5: 67.10, 6: 69.0, 7: 70.0}


def columns(rows, streams=1):
    return {name: np.repeat(values[:, None], streams, axis=1) for name, values in rows.items()}


@pytest.mark.parametrize(("row", "target"), TARGETS.items())
def test_a_priority_is_the_distance_of_t2s_target_from_the_value_of_the_action_taken(row, target):
    found = NStepPriorities(3, 0.9, None)(columns(ROWS))
    assert found[row, 0] == pytest.approx(abs(target - ROWS["q_taken"][row]), rel=1e-5)


def test_a_window_is_rated_when_the_row_it_bootstraps_from_was_acted_at():
    rate = NStepPriorities(3, 0.9, None)
    assert rate.window_steps == 4
    for rows in range(8):
        some = {name: values[:rows] for name, values in columns(ROWS, 2).items()}
        assert rate(some).shape == (max(0, rows - 3), 2)
    assert rate(columns(ROWS)).dtype == np.float32


def test_rewards_are_clipped_one_by_one_as_the_learner_reads_them():
    rows = columns(ROWS) | {"q_value": np.zeros((12, 1), np.float32), "q_taken": np.zeros((12, 1), np.float32)}
    rows["reward"] = rows["reward"] - 3  # -2, -1, 0, 1
    assert NStepPriorities(3, 1.0, 1.0)(rows)[:4, 0].tolist() == [2.0, 0.0, 1.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 6), count=st.integers(0, 20), streams=st.integers(1, 3), seed=st.integers(0, 10**6),
       clip=st.sampled_from([None, 0.5]))  # fmt: skip
def test_priorities_agree_with_the_slow_definition(n, count, streams, seed, clip):
    random = np.random.default_rng(seed)
    shape = count, streams
    rows = {name: random.normal(size=shape).astype(np.float32) for name in ("reward", "q_taken", "q_value")}
    rows["last"] = random.random(shape) < 0.2
    rows["discount"] = (random.random(shape) > 0.15).astype(np.float32)  # ends and lost lives alike
    rows["reward"][rows["last"]] = 1e9
    found = NStepPriorities(n, 0.97, clip)(rows)
    assert found.shape == (max(0, count - n), streams)
    for b in range(streams):
        column = [rows[name][:, b] for name in ("reward", "discount", "last", "q_taken", "q_value")]
        for t in np.flatnonzero(~rows["last"][: len(found), b]):
            assert found[t, b] == pytest.approx(initial_priority(t, *column, 0.97, n, clip), rel=1e-4, abs=1e-5)
