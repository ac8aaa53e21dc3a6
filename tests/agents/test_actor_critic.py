"""A policy with a value: what it does, what it remembers, and that the learner's network says what the actor's said."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.parts.test_actor import Published
from veldt.agents.actor_critic import ActorCriticAgent, ActorCriticNetworkConfig
from veldt.core import Place
from veldt.data import ActionSpec, ArraySpec, EnvSpec, Seen, TimeStep, Unroll, tree_map
from veldt.errors import ConfigError
from veldt.math.exploration import ConstantEpsilon
from veldt.parts.actor import Actor
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo
from veldt.replay.table import Table
from veldt.replay.views import Unrolls

ACTIONS = {
    "discrete": ActionSpec("discrete", (), "int64", (3,)),
    "multi-discrete": ActionSpec("multi_discrete", (2,), "int64", (2, 4)),
    "box": ActionSpec("box", (2, 1), "float32", low=(-1.0, -1.0), high=(1.0, 1.0)),
}
STREAMS = 3


class Noise:
    """Random observations and rewards; episodes of random lengths; now and then one starts out of turn."""

    def __init__(self, streams, seeds) -> None:
        self.streams, self._random = streams, np.random.default_rng(seeds)
        self._last = np.zeros(streams, bool)

    def _answer(self, first) -> TimeStep:
        dice = self._random.random(self.streams)
        self._last = ~first & (dice > 0.8)
        obs, reward = self._random.normal(size=(self.streams, 4)), self._random.normal(size=self.streams)
        discount = np.where(self._last & (dice > 0.9), 0, 1)
        return TimeStep(obs.astype(np.float32), first, self._last, reward.astype(np.float32), discount.astype(np.float32))

    def reset(self) -> TimeStep:
        return self._answer(np.ones(self.streams, bool))

    def step(self, action) -> TimeStep:
        return self._answer(self._last | (self._random.random(self.streams) < 0.05))

    def pop_episodes(self):
        return []

    def close(self) -> None: ...


def env_of(kind, stack=1):
    return EnvSpec("Noise", Noise, ArraySpec((4,), "float32"), ACTIONS[kind], frame_stack=stack)


def make_agent(kind, lstm_units=5, last_inputs=True, stack=1, seed=0, separate=False):
    torch.manual_seed(seed)
    network = ActorCriticNetworkConfig("mlp", (6,), lstm_units, last_inputs, last_reward_clip=1.0, separate=separate)
    agent = ActorCriticAgent(env_of(kind, stack), network)
    with torch.no_grad():  # large weights: what the agent remembers must matter
        for parameter in agent.parameters():
            parameter *= 3
    return agent, network


def shown(agent, count=400, seed=0, first=False):
    random = np.random.default_rng(seed)
    action = ACTIONS["discrete"].array.zeros(count) if first else random.integers(0, 3, count)
    reward = np.zeros(count, np.float32) if first else random.normal(size=count).astype(np.float32)
    obs = np.tile(random.normal(size=(1, 4)).astype(np.float32), (count, 1))
    return Seen(obs, np.full(count, first), action, reward)


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize(
    ("lstm_units", "last_inputs", "separate"),
    [(0, False, False), (0, True, False), (5, False, False), (5, True, False), (0, True, True), (5, True, True)],
)
@pytest.mark.parametrize("kind", ACTIONS)
def test_the_learners_network_gives_every_action_the_probability_that_the_actors_recorded(
    kind, lstm_units, last_inputs, separate, stack
):
    agent, network = make_agent(kind, lstm_units, last_inputs, stack, separate=separate)
    env = env_of(kind, stack)
    table = Table(
        env.step_spec({"log_prob": ArraySpec((), "float32")}), actors=1, streams=STREAMS, unroll_steps=7, batch_size=STREAMS,
        capacity_steps=14 * STREAMS, view=Unrolls(7), selector=Fifo(), limiter=Limiter(None), frame_stack=stack,
        state=network.state,
    )  # fmt: skip
    actor = Actor(
        lambda: agent, env, ConstantEpsilon(1.0), unroll_steps=7, streams=STREAMS, pull_period_steps=None,
        initial_priorities=None, max_lag_updates=None, memory=table, parameters=_Still(), place=Place(),
    )  # fmt: skip
    starts = 0
    for _ in range(30):
        assert actor.step()
        unroll = table.sample().data
        starts += int(unroll.first[1:].sum())
        with torch.no_grad():
            answers = agent(unroll)
            log_prob = agent.policy.log_prob(answers.policy[:-1], unroll.action[:-1])
        assert answers.value.shape == (8, STREAMS)
        torch.testing.assert_close(log_prob, unroll.extras["log_prob"][:-1], rtol=1e-3, atol=1e-3)
        assert (unroll.state is None) == (lstm_units == 0)
    assert starts > 60


class _Still(Published):
    """Parameters that never change: whoever follows them keeps what it has."""

    def pull(self, newer_than):
        return None


def test_what_came_before_an_episode_is_forgotten_and_what_came_before_in_it_is_not():
    agent, _ = make_agent("discrete")
    with torch.no_grad():
        state = {name: np.random.default_rng(3).normal(size=(400, 5)).astype(np.float32) for name in ("c", "h")}
        fresh, old = agent.initial_state(400), state
        act = partial(agent.act, exploration=np.zeros(400))
        start, middle = shown(agent, first=True), shown(agent)
        of = {name: act(seen, carried, random=np.random.default_rng(0)).extras["log_prob"]
              for name, seen, carried in (("start", start, fresh), ("start again", start, old), ("on", middle, old))}  # fmt: skip
    np.testing.assert_array_equal(of["start"], of["start again"])
    assert np.unique(of["start"]).size == 1
    assert np.unique(of["on"]).size > 300


def test_an_episodes_first_row_is_told_from_one_after_action_0_and_reward_0():
    agent, _ = make_agent("discrete", lstm_units=0)
    one, other = shown(agent, 1, first=True), shown(agent, 1, first=True)._replace(first=np.zeros(1, bool))
    first, later = (agent.act(seen, None, np.zeros(1), np.random.default_rng(0)).extras["log_prob"] for seen in (one, other))
    assert first != later


def test_exploration_is_the_chance_of_sampling_and_without_it_the_likeliest_action_is_taken():
    agent, _ = make_agent("discrete", lstm_units=0, last_inputs=False)
    seen = shown(agent, 20_000, first=True)
    with torch.no_grad():
        parameters, _ = agent.trunk(torch.from_numpy(seen.obs[:1])[None], torch.ones(1, 1), None, None, None)
        probability = agent.policy(parameters)[0, 0].softmax(-1).numpy()
    best = int(probability.argmax())
    for exploration in (1.0, 0.5, 0.0):
        acted = agent.act(seen, None, np.full(20_000, exploration), np.random.default_rng(1))
        assert acted.action.dtype == np.int64
        wanted = exploration * probability + (1 - exploration) * np.eye(3)[best]
        np.testing.assert_allclose(np.bincount(acted.action, minlength=3) / 20_000, wanted, atol=0.012)
        np.testing.assert_allclose(acted.extras["log_prob"], np.log(probability)[acted.action], rtol=1e-4)


def test_a_gaussian_policy_acts_around_its_mean_with_its_variance():
    agent, _ = make_agent("box", lstm_units=0, last_inputs=False)
    seen = Seen(np.zeros((40_000, 4), np.float32), np.ones(40_000, bool), np.zeros((40_000, 2, 1)), np.zeros(40_000))
    mean = agent.act(seen, None, np.zeros(40_000), np.random.default_rng(1)).action
    drawn = agent.act(seen, None, np.ones(40_000), np.random.default_rng(1)).action
    assert (mean == mean[0]).all()
    assert drawn.shape == (40_000, 2, 1)
    with torch.no_grad():
        parameters, _ = agent.trunk(torch.zeros(1, 1, 4), torch.ones(1, 1), None, None, None)
        means, variances = agent.policy(parameters)[0, 0].chunk(2)
    np.testing.assert_allclose(mean[0].ravel(), means, rtol=1e-5)
    np.testing.assert_allclose(drawn.mean(0).ravel(), means, atol=0.03)
    np.testing.assert_allclose(drawn.var(0).ravel(), variances, rtol=0.05)


def test_a_network_without_cells_carries_nothing_and_fewer_than_none_are_refused():
    agent, network = make_agent("discrete", lstm_units=0)
    assert agent.initial_state(4) is network.state is None
    with pytest.raises(ConfigError, match="lstm_units must be >= 0, got -1"):
        ActorCriticNetworkConfig("mlp", (6,), -1, False, None, False)


@pytest.mark.parametrize("lstm_units", [0, 5])
def test_with_separate_networks_the_value_changes_nothing_that_the_policy_stands_on(lstm_units):
    agent, _ = make_agent("discrete", lstm_units, separate=True)
    rows, count = 4, 3
    unroll = Unroll(
        torch.randn(rows, count, 4), torch.zeros(rows, count, dtype=torch.bool), torch.zeros(rows, count, dtype=torch.bool),
        torch.zeros(rows, count, dtype=torch.int64), torch.zeros(rows, count), torch.ones(rows, count),
        torch.zeros(rows, count, dtype=torch.int64), torch.zeros(rows, count), torch.ones(rows - 1, count),
        state=tree_map(torch.from_numpy, agent.initial_state(count)),
    )  # fmt: skip
    agent(unroll).value.sum().backward()
    moved = {name for name, parameter in agent.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert moved
    assert all(name.startswith(("value_trunk.", "value.")) for name in moved)
