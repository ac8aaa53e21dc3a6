"""V-trace: the cases of T1, the known bugs it must not have, the O(T^2) sum of the paper, and episode ends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.math.test_returns import column, streams
from tests.oracles.returns import vtrace_sum
from veldt.math.returns import discounted_returns
from veldt.math.vtrace import vtrace

RATIO, REWARD, VALUES = (0.5, 3.0, 2.0), (1.0, 0.0, 2.0), (0.5, 1.0, -0.5, 2.0)
ONES = {"rho_bar": 1.0, "c_bar": 1.0, "pg_rho_bar": 1.0, "trace_lambda": 1.0}


def t1(ratio=RATIO, done=None, **settings):
    discount = [1.0, 1.0, 1.0]
    if done is not None:
        discount[done] = 0.0
    none = torch.zeros(3, 1, dtype=torch.bool)
    out = vtrace(
        column(*ratio).log(),
        column(*REWARD),
        column(*discount),
        none,
        column(*VALUES),
        gamma=0.9,
        **{**ONES, **settings},
    )
    return out.values[:, 0].numpy(), out.advantages[:, 0].numpy()


@pytest.mark.parametrize(
    ("case", "values", "advantages"),
    [
        pytest.param({}, (2.289, 3.42, 3.8), (1.789, 2.42, 4.3), id="A"),
        pytest.param({"done": 1}, (0.75, 0, 3.8), (0.25, -1, 4.3), id="B"),
        pytest.param({"done": 2}, (1.56, 1.8, 2), (1.06, 0.8, 2.5), id="C"),
        pytest.param({"rho_bar": 2.0}, (3.378, 5.84, 8.1), (2.878, 6.29, 4.3), id="D"),
        pytest.param({"trace_lambda": 0.9}, (2.023365, 3.033, 3.8), (1.61485, 2.42, 4.3), id="E"),
        pytest.param({"ratio": (1.0, 1.0, 1.0)}, (4.078, 3.42, 3.8), (3.578, 2.42, 4.3), id="F"),
    ],
)
def test_vtrace_is_the_table_of_t1(case, values, advantages):
    got_values, got_advantages = t1(**case)
    np.testing.assert_allclose(got_values, values, rtol=1e-12)
    np.testing.assert_allclose(got_advantages, advantages, rtol=1e-12)


@pytest.mark.parametrize(
    ("bug", "case", "row", "fingerprint"),
    [
        ("c is not clipped", {}, 0, 5.772),
        ("c of the next step", {}, 0, 3.378),
        ("no gamma in the trace", {}, 0, 2.625),
        ("rho is not clipped in delta", {}, 0, 2.7255),
        ("done one step late", {"done": 1}, 0, 1.56),
        ("c and rho swapped: rho has bar 1, c has bar 2", {"rho_bar": 2.0}, 2, 3.8),
    ],
)
def test_the_targets_do_not_carry_the_fingerprint_of(bug, case, row, fingerprint):
    assert t1(**case)[0][row] != pytest.approx(fingerprint, abs=1e-3), bug


@pytest.mark.parametrize(
    ("bug", "case", "row", "fingerprint"),
    [
        ("bootstraps with V instead of v", {}, 0, 0.7),
        ("no ratio on the policy gradient", {}, 0, 3.578),
        ("is v - V", {"rho_bar": 2.0}, 1, 4.84),
        ("is v - V at the end", {"rho_bar": 2.0}, 2, 8.6),
    ],
)
def test_the_advantage_does_not_carry_the_fingerprint_of(bug, case, row, fingerprint):
    assert t1(**case)[1][row] != pytest.approx(fingerprint, abs=1e-3), bug


bars = st.sampled_from([0.7, 1.0, 2.0])


@settings(max_examples=60)
@given(stream=streams(), seed=st.integers(0, 1000), rho=bars, c=bars, pg=bars, trace=st.sampled_from([0.8, 1.0]))
def test_vtrace_agrees_with_the_sum_of_equation_1(stream, seed, rho, c, pg, trace):
    reward, discount, last, values = stream
    log_ratio = np.random.default_rng(seed).normal(size=reward.shape)
    log_ratio[last] = np.nan  # the action of a void row has no probability
    out = vtrace(
        torch.from_numpy(log_ratio),
        *map(torch.from_numpy, stream),
        gamma=0.95,
        rho_bar=rho,
        c_bar=c,
        pg_rho_bar=pg,
        trace_lambda=trace,
    )
    for b in range(3):
        slow = vtrace_sum(
            np.exp(log_ratio[:, b]), reward[:, b], discount[:, b], last[:, b], values[:, b], 0.95, rho, c, pg, trace
        )
        np.testing.assert_allclose(out.values[:, b], slow[0], rtol=1e-9)
        np.testing.assert_allclose(out.advantages[:, b], slow[1], rtol=1e-9, atol=1e-12)


@settings(max_examples=40)
@given(stream=streams())
def test_on_policy_vtrace_is_the_return_of_a3c(stream):
    tensors = [torch.from_numpy(part) for part in stream]
    out = vtrace(torch.zeros_like(tensors[0]), *tensors, gamma=0.9, **ONES)
    torch.testing.assert_close(out.values, discounted_returns(*tensors, gamma=0.9))


@settings(max_examples=40)
@given(stream=streams(), row=st.integers(0, 10))
def test_nothing_after_an_episodes_end_reaches_back_into_it(stream, row):
    reward, discount, last, values = (torch.from_numpy(part) for part in stream)
    row = row % len(reward)
    last[row] = True
    before = vtrace(torch.zeros_like(reward), reward, discount, last, values, gamma=0.9, **ONES)
    reward[row:], values[row + 1 :] = 99.0, -99.0
    after = vtrace(torch.zeros_like(reward), reward, discount, last, values, gamma=0.9, **ONES)
    torch.testing.assert_close(after.values[: row + 1], before.values[: row + 1])
    torch.testing.assert_close(after.advantages[: row + 1], before.advantages[: row + 1])


def test_vtrace_lets_no_gradient_through():
    values = column(*VALUES).requires_grad_()
    none = torch.zeros(3, 1, dtype=torch.bool)
    ratio = torch.zeros(3, 1, dtype=torch.float64).requires_grad_()
    out = vtrace(ratio, column(*REWARD), torch.ones(3, 1), none, values, gamma=0.9, **ONES)
    assert not out.values.requires_grad
    assert not out.advantages.requires_grad
