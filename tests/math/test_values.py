"""Rescaling (T3), priorities (T6), Q-learning's parts (T11) and policies (T9)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from veldt.math import policy, priorities, q_learning
from veldt.math.rescaling import h, h_inverse


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


H_TABLE = [
    (1e-3, 0.5, 0.2252448714),
    (1e-3, 1, 0.4152135624),
    (1e-3, 10, 2.3266247904),
    (1e-3, 100, 9.1498756211),
    (1e-3, 1000, 31.6385840391),
    (1e-3, 1e4, 109.004999875),
    (1e-3, 1e6, 1999.0005),
    (1e-2, 1, 0.4242135624),
    (1e-2, 100, 10.0498756211),
]
H_INVERSE_TABLE = [
    (1e-3, 0.5, 1.24626276),
    (1e-3, 1, 2.98805670),
    (1e-3, 10, 117.43032278),
    (1e-3, 100, 8546.62630718),
    (1e-3, 1000, 382518.44002684),
    (1e-2, 1, 2.88541593),
    (1e-2, 100, 3874.58241311),
]


@pytest.mark.parametrize(("epsilon", "x", "y"), H_TABLE)
def test_h_is_the_table_of_t3_and_odd(epsilon, x, y):
    np.testing.assert_allclose(h(double(x, -x), epsilon), [y, -y], rtol=1e-9)


@pytest.mark.parametrize(("epsilon", "x", "y"), H_INVERSE_TABLE)
def test_h_inverse_is_the_table_of_t3_and_odd(epsilon, x, y):
    np.testing.assert_allclose(h_inverse(double(x, -x), epsilon), [y, -y], rtol=1e-8)


@given(x=st.floats(-1e6, 1e6), epsilon=st.sampled_from([0.0, 1e-3, 1e-2]))
def test_h_inverse_undoes_h(x, epsilon):
    assert h_inverse(h(double(x), epsilon), epsilon).item() == pytest.approx(x, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("x", [1e-6, 1e-4, 0.01, -0.01, 1.0, 300.0])
def test_h_and_h_inverse_keep_their_digits_in_float32(x):
    for function in (h, h_inverse):
        exact = function(double(x), 1e-3).item()
        assert function(torch.tensor(x), 1e-3).item() == pytest.approx(exact, rel=3e-7)


def test_the_r2d2_target_sums_in_raw_space_and_squashes_last():
    target = 0.997 + 10 * 0.997**4 + 0.997**5 * h_inverse(double(3.0), 1e-3)
    assert h(target, 1e-3).item() == pytest.approx(4.1769277774, rel=1e-10)


@pytest.mark.parametrize(("mask", "priority"), [((1, 1, 1, 1, 1), 1.875), ((1, 1, 0, 0, 1), 0.95833333)])
def test_sequence_priorities_of_t6_see_only_real_steps(mask, priority):
    errors = torch.tensor([[0.5], [-1], [2], [0], [0.25]])
    got = priorities.sequence_priorities(errors, torch.tensor(mask, dtype=torch.float32)[:, None], 0.9)
    np.testing.assert_allclose(got, [priority], rtol=1e-6)


def test_a_sequence_without_real_steps_has_priority_zero_whatever_its_errors():
    nothing = priorities.sequence_priorities(torch.full((3, 1), torch.nan), torch.zeros(3, 1), 0.9)
    assert nothing.tolist() == [0.0]


def test_double_q_learning_evaluates_the_online_action_with_the_target_network():
    online, target = torch.tensor([[1.0, 3, 2]]), torch.tensor([[10.0, 5, 20]], requires_grad=True)
    assert q_learning.bootstrap_value(target, online).tolist() == [5]
    assert q_learning.bootstrap_value(target, None).tolist() == [20]
    assert not q_learning.bootstrap_value(target, online).requires_grad


def test_values_of_actions_keep_any_leading_axes():
    table = torch.arange(24.0).reshape(2, 3, 4)
    actions = torch.tensor([[0, 1, 2], [3, 0, 1]])
    assert q_learning.values_of(table, actions).tolist() == [[0, 5, 10], [15, 16, 21]]


@given(errors=st.lists(st.floats(-100, 100), min_size=1, max_size=5))
def test_the_gradient_of_huber_is_the_clipped_error_and_the_loss_is_not_clipped(errors):
    error = double(*errors).requires_grad_()
    loss = q_learning.huber(error)
    loss.sum().backward()
    torch.testing.assert_close(error.grad, error.detach().clamp(-1, 1))
    torch.testing.assert_close(loss, torch.nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none"))


def test_dueling_adds_the_value_and_removes_the_mean_advantage():
    assert q_learning.dueling(torch.tensor([1.0]), torch.tensor([1.0, 2, 3])).tolist() == [0, 1, 2]


def test_categorical_entropy_and_its_gradient_are_those_of_t9():
    logits = double(0.7, 0.2, 0.1).log().requires_grad_()
    entropy = policy.categorical_entropy(logits)
    entropy.backward()
    assert entropy.item() == pytest.approx(0.80181855, rel=1e-7)
    np.testing.assert_allclose(logits.grad, [-0.31160053, 0.16152387, 0.15007665], rtol=1e-6)


def test_categorical_log_probabilities_are_logs_of_the_probabilities_whatever_the_logits_sum():
    logits = double(0.7, 0.2, 0.1).log() + 5
    got = policy.categorical_log_prob(logits.expand(3, 3), torch.arange(3))
    np.testing.assert_allclose(got.exp(), [0.7, 0.2, 0.1])


def test_independent_categoricals_add_their_log_probabilities_and_entropies():
    logits = torch.cat([double(0.7, 0.2, 0.1).log(), double(0.5, 0.5).log()])
    assert policy.multi_categorical_log_prob(logits, torch.tensor([2, 1]), (3, 2)).exp().item() == pytest.approx(0.05)
    assert policy.multi_categorical_entropy(logits, (3, 2)).item() == pytest.approx(0.80181855 + np.log(2))


def test_gaussian_entropy_is_that_of_t9_and_sums_over_dimensions():
    assert policy.gaussian_entropy(double(0.25)).item() == pytest.approx(0.72579135)
    assert policy.gaussian_entropy(double(0.25, 0.25)).item() == pytest.approx(2 * 0.72579135)


def test_gaussian_log_prob_agrees_with_torchs_distribution():
    mean, variance, action = double(0.3, -1), double(0.25, 4), double(1, 2)
    slow = torch.distributions.Normal(mean, variance.sqrt()).log_prob(action).sum()
    assert policy.gaussian_log_prob(mean, variance, action).item() == pytest.approx(slow.item())


def test_softplus_variance_stays_above_its_floor_where_softplus_underflows():
    got = policy.softplus_variance(torch.tensor([0.0, -200.0]), 1e-6)
    np.testing.assert_allclose(got, [np.log(2), 1e-6], rtol=1e-5)
