"""RMSProp in its three conventions (T8) and AdaGrad (T7), against the formula written out, and through a checkpoint."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.optimizers import adagrad, rmsprop
from veldt.errors import ConfigError
from veldt.parts.optimizers import AdaGradConfig, AdamConfig, RMSPropConfig

INSIDE = RMSPropConfig(6e-4, 0.99, 0.01, epsilon_inside_root=True, initial_square=0.0, centered=False)
TORCH = RMSPropConfig(6e-4, 0.99, 0.01, epsilon_inside_root=False, initial_square=0.0, centered=False)
TF1 = RMSPropConfig(6e-4, 0.99, 0.01, epsilon_inside_root=True, initial_square=1.0, centered=False)
CENTERED = RMSPropConfig(2.5e-4, 0.95, 0.01, epsilon_inside_root=True, initial_square=0.0, centered=True)
ADAM = AdamConfig(1e-3, 0.9, 0.999, 1e-8)
ADAGRAD = AdaGradConfig(0.1, 1e-10)


def weights_after(config, gradients, start=0.0):
    weight = torch.full((1,), start, dtype=torch.float64, requires_grad=True)
    optimizer = config.build([weight])
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    return weight.item()


@pytest.mark.parametrize(("config", "step"), [(INSIDE, 5.97022e-4), (TORCH, 3.0e-3), (TF1, 5.9997e-5)])
def test_the_first_step_is_that_of_t8(config, step):
    assert -weights_after(config, [0.1]) == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize(("config", "step"), [(INSIDE, 5.9997e-6), (TORCH, 5.4545e-5)])
def test_the_step_under_a_constant_gradient_settles_where_t8_says(config, step):
    many = [1e-3] * 3000
    assert weights_after(config, many[:-1]) - weights_after(config, many) == pytest.approx(step, rel=1e-4)


def test_adagrad_takes_the_steps_of_t7():
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer, seen = ADAGRAD.build([weight]), []
    for gradient in (0.5, -0.5, 1.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        seen.append((optimizer.state[weight]["sum"].item(), weight.item()))
    assert seen == [
        (0.25, pytest.approx(0.9, abs=1e-8)), (0.5, pytest.approx(0.97071068, abs=1e-8)),
        (1.5, pytest.approx(0.88906102, abs=1e-8)),
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(gradients=st.lists(st.floats(-10, 10), min_size=1, max_size=6), epsilon=st.sampled_from([1e-10, 0.1]))
def test_adagrad_is_the_formula_written_out(gradients, epsilon):
    slow = adagrad(1.0, gradients, 0.1, epsilon)
    assert weights_after(AdaGradConfig(0.1, epsilon), gradients, start=1.0) == pytest.approx(slow, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    gradients=st.lists(st.floats(-10, 10), min_size=1, max_size=6),
    inside=st.booleans(),
    initial=st.sampled_from([0.0, 1.0]),
    centered=st.booleans(),
)
def test_every_setting_is_the_formula_written_out(gradients, inside, initial, centered):
    config = RMSPropConfig(0.01, 0.95, 1e-3, inside, initial, centered)
    slow = rmsprop(0.0, gradients, 0.01, 0.95, 1e-3, inside, initial, centered)
    assert weights_after(config, gradients) == pytest.approx(slow, rel=1e-9, abs=1e-12)


def test_the_torch_convention_is_torchs_own_optimiser():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizers = TORCH.build(ours.parameters()), torch.optim.RMSprop(theirs.parameters(), lr=6e-4, alpha=0.99, eps=0.01)
    for _ in range(5):
        x = torch.randn(4, 5)
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            network(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_rounding_never_puts_a_negative_number_under_the_root():
    weight = torch.zeros(64, requires_grad=True)
    optimizer = RMSPropConfig(1e-4, 0.95, 1e-12, True, 0.0, True).build([weight])
    for _ in range(500):
        weight.grad = torch.linspace(100, 4000, 64)
        optimizer.step()
        assert weight.isfinite().all()


def test_a_parameter_without_gradient_stays_and_keeps_its_state():
    learned, idle = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = INSIDE.build([learned, idle])
    learned.grad = torch.ones(2)
    optimizer.step()
    assert learned[0] < 1
    assert idle.tolist() == [1, 1]
    assert optimizer.state[idle]["spread"].tolist() == [0, 0]


def test_the_learning_rate_may_change_before_any_step():
    weight = torch.zeros(1, requires_grad=True)
    optimizer = INSIDE.build([weight])
    weight.grad = torch.ones(1)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert weight.item() == 0
    optimizer.param_groups[0]["lr"] = 1e-3
    optimizer.step()
    assert weight.item() < 0


@pytest.mark.parametrize("config", [INSIDE, TORCH, TF1, CENTERED, ADAM, ADAGRAD])
def test_an_optimiser_saved_and_loaded_makes_the_same_next_steps(config):
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    optimizer = config.build(network.parameters())

    def steps(net, opt, seed):
        random = torch.Generator().manual_seed(seed)
        for _ in range(3):
            opt.zero_grad()
            net(torch.randn(5, 4, generator=random)).square().sum().backward()
            opt.step()

    steps(network, optimizer, 1)
    saved = copy.deepcopy((network.state_dict(), optimizer.state_dict()))
    other = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    resumed = config.build(other.parameters())
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    steps(network, optimizer, 2)
    steps(other, resumed, 2)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_adam_is_the_paper_with_epsilon_outside_the_root():
    # first step: both moments are corrected to g and g^2
    assert -weights_after(AdamConfig(1e-3, 0.9, 0.999, 0.1), [0.5]) == pytest.approx(1e-3 * 0.5 / (0.5 + 0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamConfig(-1, 0.9, 0.99, 1e-8), "learning_rate must be >= 0, got -1"),
        (lambda: AdamConfig(1e-3, 1.0, 0.99, 1e-8), r"optimizer beta1 must lie in \[0, 1\), got 1.0"),
        (lambda: AdaGradConfig(1e-3, 0.0), "optimizer epsilon must be > 0, got 0.0"),
        (lambda: RMSPropConfig(1e-3, 0.9, 0.0, True, 0, False), "optimizer epsilon must be > 0, got 0.0"),
        (lambda: AdamConfig(1e-3, 0.9, 0.99, np.nan), "optimizer epsilon must be > 0, got nan"),
        (lambda: RMSPropConfig(1e-3, 1.5, 0.1, True, 0, False), r"optimizer decay must lie in \[0, 1\), got 1.5"),
        (lambda: RMSPropConfig(1e-3, 0.9, 0.1, True, -1, False), "optimizer initial_square must be >= 0, got -1"),
    ],
)
def test_configs_refuse(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
