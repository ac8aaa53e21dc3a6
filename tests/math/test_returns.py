"""n-step folding and returns: vectors T2, T3 (shrinking n) and T9, and the slow definitions under random episodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.returns import n_step_target, n_step_window
from veldt.math.rescaling import h, h_inverse
from veldt.math.returns import discounted_returns, fold_n_step, n_step_targets

GAMMA = 0.9
# T2 as a stream: r = 1..7; step 3 terminates, step 6 truncates. Row 4 and row 8 are the final observations, and
# their void rows hold rewards that must never be read.
REWARD = np.array([1, 2, 3, 4, 1e6, 5, 6, 7, 1e6, 1e6], np.float32)
DISCOUNT = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1], np.float32)
ENDS = np.array([0, 0, 0, 1, 0, 0, 0, 1, 0, 0], bool)
VALUES = np.array([0, 10, 20, 30, 1e6, 0, 50, 60, 70, 0], np.float32)  # of the observation of each row


@pytest.mark.parametrize(
    ("row", "k", "r", "g", "target"),
    [
        (0, 3, 5.23, 0.729, 27.10),
        (1, 3, 7.94, 0, 7.94),
        (2, 2, 6.6, 0, 6.6),
        (3, 1, 4, 0, 4),
        (5, 3, 16.07, 0.729, 67.10),
        (6, 2, 12.3, 0.81, 69.0),
        (7, 1, 7, 0.9, 70.0),
    ],
)
def test_a_folded_window_is_the_table_of_t2(row, k, r, g, target):
    rows = slice(row, row + 3)
    reward, factor, steps = fold_n_step(REWARD[rows, None], DISCOUNT[rows, None], ENDS[rows, None], GAMMA)
    assert steps[0] == k
    assert reward[0] == pytest.approx(r, rel=1e-6)
    assert factor[0] == pytest.approx(g, rel=1e-6)
    assert reward[0] + factor[0] * VALUES[row + k] == pytest.approx(target, rel=1e-6)


def test_windows_side_by_side_are_the_same_as_windows_one_by_one():
    starts = [0, 1, 2, 3, 5, 6, 7]
    rows = np.arange(3)[:, None] + np.array(starts)
    together = fold_n_step(REWARD[rows], DISCOUNT[rows], ENDS[rows], GAMMA)
    for place, start in enumerate(starts):
        alone = fold_n_step(*(a[start : start + 3, None] for a in (REWARD, DISCOUNT, ENDS)), GAMMA)
        assert [float(part[place]) for part in together] == [float(part[0]) for part in alone]


def test_folding_says_float32_and_int64_for_every_n():
    for n in (1, 2, 10):
        zeros = np.zeros((n, 4), np.float32)
        assert [part.dtype for part in fold_n_step(zeros, zeros, zeros > 1, 0.99)] == [
            np.float32,
            np.float32,
            np.int64,
        ]


def test_one_step_folding_does_not_hand_out_the_ring():
    reward = np.ones((1, 3), np.float32)
    folded, _, _ = fold_n_step(reward, np.ones_like(reward), np.zeros((1, 3), bool), 0.5)
    assert not np.shares_memory(folded, reward)


@given(n=st.integers(1, 10), streams=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_folding_agrees_with_the_accumulator_of_the_paper(n, streams, seed):
    random = np.random.default_rng(seed)
    reward = random.normal(size=(n, streams)).astype(np.float32)
    discount = (random.random((n, streams)) > 0.2).astype(np.float32)
    ends = (discount == 0) | (random.random((n, streams)) < 0.2)
    reward[1:][np.logical_or.accumulate(ends[:-1])] = np.nan  # behind the end: never read
    total, factor, steps = fold_n_step(reward, discount, ends, 0.97)
    for b in range(streams):
        slow = n_step_window(reward[:, b], discount[:, b], ends[:, b], 0.97, n)
        np.testing.assert_allclose((total[b], factor[b], steps[b]), slow, rtol=1e-5, atol=1e-5)


def column(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)[:, None]


@pytest.mark.parametrize(
    ("reward", "discount", "bootstrap", "returns"),
    [
        ((0, 0, 1, 0, 0), (1, 1, 1, 1, 1), 0.5, (1.455595025, 1.470298005, 1.4851495, 0.49005, 0.495)),
        ((0, 0, 1, -1), (1, 1, 1, 0), 123.0, (0.009801, 0.0099, 0.01, -1)),
    ],
)
def test_a3c_returns_are_the_table_of_t9(reward, discount, bootstrap, returns):
    values = column(*([7.0] * len(reward)), bootstrap)
    none = torch.zeros(len(reward), 1, dtype=torch.bool)
    got = discounted_returns(column(*reward), column(*discount), none, values, gamma=0.99)
    np.testing.assert_allclose(got[:, 0], returns, rtol=1e-9)


def test_a_truncated_episode_returns_the_value_of_its_final_observation_and_a_void_row_has_no_error():
    # step 1 truncates: row 2 is last, its reward is void
    values = column(1.0, 2.0, 70.0, 3.0, 4.0)
    last = column(False, False, True, False, dtype=torch.bool)
    got = discounted_returns(column(1.0, 2, 1e6, 5), column(1.0, 1, 1, 1), last, values, gamma=0.9)
    np.testing.assert_allclose(got[:, 0], [1 + 0.9 * (2 + 0.9 * 70), 2 + 0.9 * 70, 70, 5 + 0.9 * 4])


def test_r2d2_targets_with_shrinking_n_are_the_line_of_t3():
    values = h_inverse(column(0.0, 0.3, 0.4, 0.5, 0.6, 0.7), 1e-3)
    reward, discount = column(0.0, 0, 1, 0, 2), column(1.0, 1, 1, 0, 1)
    none = torch.zeros(5, 1, dtype=torch.bool)
    got = h(n_step_targets(reward, discount, none, values, n=2, gamma=0.9), 1e-3)
    np.testing.assert_allclose(got[:, 0], [0.333228, 0.707627, 0.415214, 0, 1.170545], atol=1e-6)


@st.composite
def streams(draw):
    """T rows of 3 streams in the convention of veldt.data: random episodes, with garbage in void rows."""
    steps, seed = draw(st.integers(1, 12)), draw(st.integers(0, 10**6))
    random = np.random.default_rng(seed)
    last = np.zeros((steps + 1, 3), bool)
    discount = np.ones((steps, 3))
    for b in range(3):
        for t in range(steps):
            if not last[t, b] and random.random() < 0.3:
                last[t + 1, b] = random.random() < 0.9  # a lost life ends without a `last` row
                discount[t, b] = 0.0 if not last[t + 1, b] else random.integers(2)
    reward, values = random.normal(size=(steps, 3)), random.normal(size=(steps + 1, 3))
    reward[last[:-1]] = 1e9
    discount[last[:-1]] = random.integers(2, size=last[:-1].sum())
    return reward, discount, last[:-1], values


@settings(max_examples=60)
@given(stream=streams(), n=st.integers(1, 14))
def test_n_step_targets_agree_with_the_slow_definition(stream, n):
    reward, discount, last, values = stream
    got = n_step_targets(*map(torch.from_numpy, stream), n=n, gamma=0.95)
    for b in range(3):
        whole = (reward[:, b], discount[:, b], np.append(last[:, b], False), values[:, b])
        slow = [n_step_target(t, *whole, 0.95, n) for t in range(len(reward))]
        np.testing.assert_allclose(got[:, b], slow, rtol=1e-9)


@settings(max_examples=60)
@given(stream=streams())
def test_returns_to_the_end_are_n_step_targets_with_n_of_the_whole_unroll(stream):
    tensors = [torch.from_numpy(part) for part in stream]
    torch.testing.assert_close(discounted_returns(*tensors, gamma=0.95), n_step_targets(*tensors, n=len(stream[0]), gamma=0.95))
