"""A deterministic policy for continuous actions: what it does, what it refuses, and what its objective minimises."""

import numpy as np
import pytest
import torch

from veldt.agents.dpg import DPGAgent, DPGNetworkConfig, require_bounded_box
from veldt.agents.objectives import DPG
from veldt.data import ActionSpec, ArraySpec, Batch, EnvSpec, Seen, Transition
from veldt.errors import ConfigError

BOX = ActionSpec("box", (2, 1), "float32", low=(-2.0, 0.0), high=(2.0, 10.0))
ENV = EnvSpec("Box", lambda streams, seeds: None, ArraySpec((3,), "float32"), BOX)
LARGE = np.full(64, 1e6)


def make_agent(seed=0):
    """An agent whose last layers have grown from the small values that they start with."""
    torch.manual_seed(seed)
    agent = DPGAgent(ENV, DPGNetworkConfig("auto", (8, 4), (6, 5)))
    with torch.no_grad():
        for parameter in (*agent.policy_layers[1].parameters(), *agent.critic_layers[1].parameters()):
            parameter *= 100
    return agent


def shown(obs):
    return Seen(obs, np.ones(len(obs), bool), BOX.array.zeros(len(obs)), np.zeros(len(obs), np.float32))


def observations(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def test_without_exploration_the_action_is_the_policys_within_its_bounds():
    agent, obs = make_agent(), observations(64)
    one = agent.act(shown(obs), None, np.zeros(64), np.random.default_rng(1))
    two = agent.act(shown(obs), None, np.zeros(64), np.random.default_rng(2))
    assert one.action.dtype == np.float32
    assert one.action.shape == (64, 2, 1)
    assert np.array_equal(one.action, two.action)
    assert np.array_equal(one.extras["q_taken"], one.extras["q_value"])
    units = agent.policy(torch.from_numpy(obs)).detach().numpy()
    np.testing.assert_allclose(one.action[:, 0, 0], 2 * units[:, 0], rtol=1e-4)
    np.testing.assert_allclose(one.action[:, 1, 0], 5 + 5 * units[:, 1], rtol=1e-4)


def test_a_new_policy_starts_near_the_middle_of_its_bounds():
    agent = DPGAgent(ENV, DPGNetworkConfig("auto", (300, 200), (6, 5)))
    assert agent.policy(torch.from_numpy(observations(64))).abs().max() < 0.1


def test_noise_comes_from_the_generator_alone_is_counted_in_half_ranges_and_stays_within_the_bounds():
    agent, obs = make_agent(), observations(4000)
    greedy = agent.act(shown(obs), None, np.zeros(4000), np.random.default_rng(1)).action.reshape(-1, 2)
    torch.manual_seed(1)
    noisy = agent.act(shown(obs), None, np.full(4000, 0.1), np.random.default_rng(1)).action.reshape(-1, 2)
    torch.manual_seed(2)
    again = agent.act(shown(obs), None, np.full(4000, 0.1), np.random.default_rng(1)).action.reshape(-1, 2)
    assert np.array_equal(noisy, again)
    inside = np.all(np.abs(noisy - [0, 5]) < [2, 5], axis=1)
    np.testing.assert_allclose((noisy - greedy)[inside].std(axis=0) / [2, 5], 0.1, rtol=0.05)
    wild = agent.act(shown(obs[:64]), None, LARGE, np.random.default_rng(1)).action.reshape(-1, 2)
    assert {tuple(row) for row in wild} == {(-2, 0), (-2, 10), (2, 0), (2, 10)}


def test_what_is_recorded_are_the_critics_values_of_the_executed_and_of_the_policys_action():
    agent, obs = make_agent(), observations(16)
    acted = agent.act(shown(obs), None, np.full(16, 0.5), np.random.default_rng(3))
    seen = torch.from_numpy(obs)
    with torch.no_grad():
        executed = agent.value(seen, agent.half_ranges(torch.from_numpy(acted.action)))
        best = agent.value(seen, agent.policy(seen))
    np.testing.assert_allclose(acted.extras["q_taken"], executed, atol=1e-6)
    np.testing.assert_allclose(acted.extras["q_value"], best, atol=1e-6)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (ActionSpec("discrete", (), "int64", (2,)), r"apex-dpg needs Box actions, got Discrete\(2\); use apex"),
        (ActionSpec("box", (2,), "float32", low=(-1, -float("inf")), high=(1, 1)),
         r"component 1 of Box\(2,\) lies in \[-inf, 1\]; give the environment's action_space the bounds"),
        (ActionSpec("box", (1,), "float32", low=(1,), high=(1,)), r"lies in \[1, 1\]"),
    ],
)  # fmt: skip
def test_actions_without_bounds_are_refused(action, message):
    with pytest.raises(ConfigError, match=message):
        require_bounded_box("apex-dpg", action, "use apex")


class Line(torch.nn.Module):
    """pi(o) = gain o, q(o, a) = slope a + level: everything can be computed by hand."""

    def __init__(self, gain: float, slope: float, level: float) -> None:
        super().__init__()
        self.gain, self.slope, self.level = (torch.nn.Parameter(torch.tensor(x)) for x in (gain, slope, level))

    def policy(self, obs):
        return self.gain * obs

    def value(self, obs, action):
        return (self.slope * action).sum(-1) + self.level

    def half_ranges(self, action):
        return action / 2


def batch(weights=(1.0, 0.5)):
    data = Transition(
        obs=torch.tensor([[1.0], [3.0]]), action=torch.tensor([[4.0], [-2.0]]), reward=torch.tensor([1.0, 2.0]),
        discount=torch.tensor([0.5, 0.0]), next_obs=torch.tensor([[2.0], [7.0]]),
    )  # fmt: skip
    return Batch(data, torch.tensor(weights), np.arange(2))


def gradients(online, loss):
    return [float(part) for part in torch.autograd.grad(loss, [online.gain, online.slope, online.level])]


def test_the_critic_moves_towards_the_target_networks_value_of_their_own_action():
    online, target = Line(0.1, 0.5, 0.0), Line(10.0, 0.2, 1.0)
    loss = DPG(None)(online, target, batch())
    # y = 1 + 0.5 (0.2 * 20 + 1) = 3.5 and 2; q = 0.5 * 2 = 1 and 0.5 * -1 = -0.5
    assert loss.priorities.tolist() == pytest.approx([2.5, 2.5])
    assert float(loss.value.detach()) == pytest.approx((2.5**2 / 2 + 0.5 * 2.5**2 / 2) / 2)
    _, slope, level = gradients(online, loss.value)
    assert level == pytest.approx(-(2.5 + 0.5 * 2.5) / 2)
    assert slope == pytest.approx(-(2.5 * 2 + 0.5 * 2.5 * -1) / 2)  # nothing of the policy's climb


@pytest.mark.parametrize(("clip", "seen"), [(None, 3.0), (1.0, 1.0), (4.0, 3.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_policy_climbs_the_critic_whose_slope_is_clipped(clip, seen, sign):
    online, target = Line(0.1, 3.0 * sign, 0.0), Line(0.0, 0.0, 0.0)
    gain, *_ = gradients(online, DPG(clip)(online, target, batch()).value)
    assert gain == pytest.approx(-sign * seen * (1 + 3) / 2)  # -dq/da dpi/dgain, the mean over o = 1 and 3; unweighted


def test_each_component_of_the_slope_is_clipped_by_itself():
    online, target = make_agent(1), make_agent(2)
    data = Transition(torch.from_numpy(observations(5)), torch.zeros(5, 2, 1), torch.zeros(5), torch.ones(5),
                      torch.from_numpy(observations(5)))  # fmt: skip
    many = Batch(data, torch.ones(5), np.arange(5))
    policy = [parameter for name, parameter in online.named_parameters() if name.startswith("policy")]
    action = online.policy(data.obs)
    point = action.detach().requires_grad_()
    (slope,) = torch.autograd.grad(online.value(data.obs, point).sum(), point)
    clip = float(slope.abs().median())
    found = torch.autograd.grad(DPG(clip)(online, target, many).value, policy)
    assert ((slope.abs() > clip).any(), (slope.abs() < clip).any()) == (True, True)
    wanted = torch.autograd.grad(-(slope.clamp(-clip, clip) * action).sum() / 5, policy)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
