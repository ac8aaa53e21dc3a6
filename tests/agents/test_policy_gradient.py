"""What IMPALA and A3C minimise: the papers' sums, term by term, on random unrolls with ends, cuts and restarts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.math.test_returns import streams
from tests.oracles.returns import n_step_target, vtrace_sum
from veldt.agents.actor_critic import Answers
from veldt.agents.policy_gradient import ActorCritic, VTrace
from veldt.data import ActionSpec, Batch, Unroll
from veldt.networks.heads import CategoricalHead

ACTIONS = 3
EVEN = {"rho_bar": 1.0, "c_bar": 1.0, "pg_rho_bar": 1.0, "trace_lambda": 1.0, "correction": "vtrace"}
GAMMA, CLIP, VALUE, ENTROPY = 0.95, 1.0, 0.5, 0.01


class Spelled(torch.nn.Module):
    """A network whose answers are its parameters: logits [T+1, B, A] and values [T+1, B]."""

    def __init__(self, logits, values) -> None:
        super().__init__()
        self.policy = CategoricalHead(ActionSpec("discrete", (), "int64", (ACTIONS,)), 1, ())
        self.logits, self.values = torch.nn.Parameter(logits), torch.nn.Parameter(values)

    def forward(self, unroll):
        return Answers(self.logits, self.values)


def make(stream, seed):
    """A network, and a batch of unrolls of 3 streams of other behaviour, in float64."""
    reward, discount, last, values = stream
    steps, random = len(reward), np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(size=(steps + 1, 3, ACTIONS)))
    network = Spelled(logits, torch.from_numpy(values.copy()))

    def longer(part, row):  # row T, of which nothing may be read
        return torch.from_numpy(np.concatenate([part, np.broadcast_to(row, (1, *part.shape[1:]))]))

    action = random.integers(ACTIONS, size=(steps, 3))
    behaviour = random.normal(size=(steps, 3)) - 1
    behaviour[last] = np.nan  # there is none
    nothing = torch.zeros(())
    unroll = Unroll(
        obs=None, first=nothing, last=longer(last, True), action=longer(action, -(10**9)), reward=longer(reward, np.nan),
        discount=longer(discount, np.nan), last_action=nothing, last_reward=nothing,
        mask=torch.from_numpy((~last).astype(float)), extras={"log_prob": longer(behaviour, np.nan)},
    )  # fmt: skip
    return network, Batch(unroll, torch.from_numpy(random.uniform(0.5, 2, 3)), np.arange(3)), (action, behaviour)


def expected(network, batch, stream, action, targets_of):
    """Value and gradients of the papers' loss, one step after the other. targets_of(b): v and A of stream b."""
    last = stream[2]
    value, d_logits, d_values = 0.0, np.zeros(network.logits.shape), np.zeros(network.values.shape)
    for b in range(3):
        targets, advantages = targets_of(b)
        for t in range(len(last)):
            if last[t, b]:
                continue
            pi = np.exp(network.logits[t, b].detach().numpy())
            pi /= pi.sum()
            entropy = -(pi * np.log(pi)).sum()
            weight, error = float(batch.weights[b]), targets[t] - float(network.values[t, b].detach())
            value += weight * (-np.log(pi[action[t, b]]) * advantages[t] + VALUE * error**2 / 2 - ENTROPY * entropy)
            d_log_prob = np.eye(ACTIONS)[action[t, b]] - pi
            d_entropy = -pi * (np.log(pi) + entropy)
            d_logits[t, b] = weight * (-advantages[t] * d_log_prob - ENTROPY * d_entropy)
            d_values[t, b] = -weight * VALUE * error
    return value, d_logits, d_values


def check(objective, network, batch, wanted):
    loss = objective(network, None, batch)
    gradients = torch.autograd.grad(loss.value, [network.logits, network.values])
    np.testing.assert_allclose(float(loss.value.detach()), wanted[0], rtol=1e-8, atol=1e-9)
    for got, want in zip(gradients, wanted[1:], strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-7, atol=1e-9)
    assert all(np.isfinite(float(part)) for part in loss.metrics.values())
    assert loss.priorities is None


def clipped(stream):
    reward, discount, last, values = stream
    return reward.clip(-CLIP, CLIP), discount, last, values


def ratio_of(network, action, behaviour, b):
    log_pi = network.logits.detach().log_softmax(-1).numpy()[: len(action), b]
    return np.exp(log_pi[np.arange(len(action)), action[:, b]] - behaviour[:, b])


def returns_of(stream, b):
    """The return of every step to the end of the unroll or episode, and how far it exceeds the value."""
    reward, discount, last, values = (part[:, b] for part in clipped(stream))
    ends = np.append(last, False)
    returns = np.array([n_step_target(t, reward, discount, ends, values, GAMMA, 10**6) for t in range(len(last))])
    return returns, returns - values[:-1]


bars = st.sampled_from([0.7, 1.0, 2.0])


@settings(max_examples=50, deadline=None)
@given(stream=streams(), seed=st.integers(0, 1000), rho=bars, c=bars, pg=bars, trace=st.sampled_from([0.8, 1.0]))
def test_vtrace_is_the_papers_loss_with_its_gradient_and_none_through_targets(stream, seed, rho, c, pg, trace):
    network, batch, (action, behaviour) = make(stream, seed)
    objective = VTrace(GAMMA, CLIP, rho, c, pg, trace, "vtrace", VALUE, ENTROPY)

    def targets_of(b):
        columns = (part[:, b] for part in clipped(stream))
        return vtrace_sum(ratio_of(network, action, behaviour, b), *columns, GAMMA, rho, c, pg, trace)

    check(objective, network, batch, expected(network, batch, stream, action, targets_of))


@settings(max_examples=30, deadline=None)
@given(stream=streams(), seed=st.integers(0, 1000))
def test_the_loss_of_a3c_is_its_algorithm_s3_summed_with_the_entropy_that_its_text_adds(stream, seed):
    network, batch, (action, _) = make(stream, seed)
    wanted = expected(network, batch, stream, action, lambda b: returns_of(stream, b))
    check(ActorCritic(GAMMA, CLIP, VALUE, ENTROPY), network, batch, wanted)


@settings(max_examples=30, deadline=None)
@given(stream=streams(), seed=st.integers(0, 1000), pg=bars)
def test_without_correction_or_with_one_step_of_it_the_targets_are_returns(stream, seed, pg):
    network, batch, (action, behaviour) = make(stream, seed)
    none = VTrace(GAMMA, CLIP, 9.0, 9.0, pg, 0.5, "none", VALUE, ENTROPY)
    check(none, network, batch, expected(network, batch, stream, action, lambda b: returns_of(stream, b)))

    def weighted(b):
        returns, advantages = returns_of(stream, b)
        return returns, advantages * np.minimum(pg, ratio_of(network, action, behaviour, b))

    one_step = VTrace(GAMMA, CLIP, 9.0, 9.0, pg, 0.5, "one_step", VALUE, ENTROPY)
    check(one_step, network, batch, expected(network, batch, stream, action, weighted))


@pytest.mark.parametrize(
    ("reward", "discount", "bootstrap", "returns"),
    [
        ((0, 0, 1, 0, 0), (1, 1, 1, 1, 1), 0.5, (1.455595025, 1.470298005, 1.4851495, 0.49005, 0.495)),
        ((0, 0, 1, -1), (1, 1, 1, 0), 123.0, (0.009801, 0.0099, 0.01, -1)),
    ],
)
def test_a3c_pulls_values_towards_the_returns_of_t9(reward, discount, bootstrap, returns):
    steps = len(reward)
    rows = [np.repeat(np.array(part, float)[:, None], 3, 1) for part in (reward, discount)]
    values = np.zeros((steps + 1, 3))
    values[-1] = bootstrap
    network, batch, _ = make((*rows, np.zeros((steps, 3), bool), values), seed=0)
    batch.weights[:] = 1
    loss = ActorCritic(0.99, None, 1.0, 0.0)(network, None, batch)
    (gradient,) = torch.autograd.grad(loss.value, network.values)
    np.testing.assert_allclose(-gradient[:-1, 0], returns, rtol=1e-9)
    assert not gradient[-1].any()


def test_the_metrics_are_means_over_the_steps_that_are_learned_from():
    random = np.random.default_rng(0)
    last = np.array([[False, True, False]] * 2 + [[False] * 3])
    stream = random.normal(size=(3, 3)), np.ones((3, 3)), last, random.normal(size=(4, 3))
    network, batch, (action, behaviour) = make(stream, seed=1)
    metrics = VTrace(GAMMA, CLIP, **EVEN, value_factor=VALUE, entropy_factor=ENTROPY)(network, None, batch).metrics
    real = ~last
    assert float(metrics["value"]) == pytest.approx(stream[3][:-1][real].mean())
    ratios = np.stack([ratio_of(network, action, behaviour, b) for b in range(3)], axis=1)
    assert float(metrics["cut_ratios"]) == pytest.approx((ratios[real] > 1).mean())
    assert set(metrics) == {"entropy", "value", "value_error", "cut_ratios"}
