"""n-step folding and returns: vectors T2, T3 (shrinking n) and T9, and the slow definitions under random episodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.returns import n_step_target
from veldt.math.rescaling import h, h_inverse
from veldt.math.returns import discounted_returns, n_step_targets


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
