"""Heads: shapes for any leading axes, and policies that agree with their own samples."""

import numpy as np
import pytest
import torch

from veldt.data import ActionSpec
from veldt.networks.heads import DuelingHead, QHead, ValueHead, make_policy_head

DISCRETE = ActionSpec("discrete", (), "int64", sizes=(4,))
MULTI = ActionSpec("multi_discrete", (2,), "int64", sizes=(2, 3))
ONE_OF_MULTI = ActionSpec("multi_discrete", (1,), "int64", sizes=(3,))
BOX = ActionSpec("box", (2, 1), "float32", low=(-1, -1), high=(1, 1))
ACTIONS = pytest.mark.parametrize("action", [DISCRETE, MULTI, ONE_OF_MULTI, BOX], ids=str)


@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
@pytest.mark.parametrize("leading", [(3,), (5, 3)])
def test_values_keep_the_leading_axes(hidden, leading):
    features = torch.randn(*leading, 6)
    assert QHead(6, 4, hidden)(features).shape == (*leading, 4)
    assert DuelingHead(6, 4, hidden)(features).shape == (*leading, 4)
    assert ValueHead(6, hidden)(features).shape == leading


def test_the_dueling_head_takes_its_mean_from_the_value_stream():
    head = DuelingHead(6, 4, (16,))
    features = torch.randn(3, 6)
    torch.testing.assert_close(head(features).mean(-1), head.value(features).squeeze(-1))


@ACTIONS
@pytest.mark.parametrize("leading", [(3,), (5, 3)])
def test_policies_sample_actions_of_the_spec_with_finite_log_probabilities(action, leading):
    head = make_policy_head(action, 6, (8,))
    parameters = head(torch.randn(*leading, 6))
    assert parameters.shape == (*leading, head.parameters_per_row)
    for chosen in (head.sample(parameters, np.random.default_rng(0)), head.mode(parameters)):
        assert chosen.shape == (*leading, *action.shape)
        assert chosen.dtype == action.dtype
        log_prob = head.log_prob(parameters, torch.from_numpy(chosen))
        assert log_prob.shape == leading
        assert log_prob.isfinite().all()
    assert head.entropy(parameters).shape == leading


@ACTIONS
def test_the_mean_log_probability_of_samples_is_minus_the_entropy(action):
    torch.manual_seed(0)
    head = make_policy_head(action, 3, ())
    with torch.no_grad():
        parameters = head(torch.ones(1, 3)).expand(40_000, -1)
        samples = torch.from_numpy(head.sample(parameters, np.random.default_rng(1)))
        mean = head.log_prob(parameters, samples).mean().item()
        assert mean == pytest.approx(-head.entropy(parameters[:1]).item(), abs=0.02)


@ACTIONS
def test_the_mode_is_at_least_as_likely_as_any_sample(action):
    torch.manual_seed(2)
    head = make_policy_head(action, 3, ())
    with torch.no_grad():
        parameters = head(torch.randn(1, 3)).expand(200, -1)
        best = head.log_prob(parameters, torch.from_numpy(head.mode(parameters)))
        drawn = head.log_prob(parameters, torch.from_numpy(head.sample(parameters, np.random.default_rng(3))))
    assert (best >= drawn).all()


@ACTIONS
def test_sampling_with_the_same_seed_gives_the_same_actions(action):
    head = make_policy_head(action, 3, ())
    parameters = head(torch.randn(50, 3))
    one, other = (head.sample(parameters, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_gaussian_policy_stays_finite_when_its_variance_underflows():
    head = make_policy_head(BOX, 3, ())
    with torch.no_grad():
        head.layers[-1].bias[2:] = -1000.0
    parameters = head(torch.zeros(1, 3))
    log_prob = head.log_prob(parameters, torch.zeros(1, 2, 1))
    (log_prob + head.entropy(parameters)).sum().backward()
    assert log_prob.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in head.parameters())
