"""R2D2's objective: targets by hand, what the mask and the prefix do, where gradients end, Delta-Q."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from veldt.agents.recurrent_q import RecurrentQAgent, RecurrentQNetworkConfig
from veldt.agents.recurrent_q_learning import RecurrentQLearning
from veldt.data import ActionSpec, ArraySpec, Batch, EnvSpec, Unroll
from veldt.math.priorities import SequencePriorities
from veldt.math.sequences import state_drift, temporal_errors

ENV = EnvSpec("Toy", None, ArraySpec((3,), "float32"), ActionSpec("discrete", (), "int64", (4,)))
LOSS = RecurrentQLearning(n_steps=2, discount=0.9, reward_clip=None, rescaling_epsilon=1e-3, priority_eta=0.9)
PREFIX, STEPS, ITEMS = 3, 6, 5
NAMES = ("obs", "first", "last_action", "last_reward", "state")


def agent(seed: int) -> RecurrentQAgent:
    torch.manual_seed(seed)
    return RecurrentQAgent(ENV, RecurrentQNetworkConfig("auto", (8,), 7, 8))


def batch(seed=0, marks=False) -> Batch:
    """Items of which 0 has no prefix and ends after 4 steps, 1 a prefix of two rows, the others all of it."""
    random = torch.Generator().manual_seed(seed)
    rows = PREFIX + STEPS + 1
    first, last = torch.zeros(rows, ITEMS, dtype=torch.bool), torch.zeros(rows, ITEMS, dtype=torch.bool)
    first[PREFIX, 0], first[PREFIX - 2, 1], last[PREFIX + 4, 0] = True, True, True
    mask, prefix = torch.zeros(rows - 1, ITEMS), torch.ones(PREFIX, ITEMS)
    mask[PREFIX:], mask[PREFIX + 4 :, 0], prefix[:, 0], prefix[0, 1] = 1, 0, 0, 0
    state = {name: torch.randn(ITEMS, 7, generator=random) for name in "ch"}
    known = torch.tensor([False, True, True, True, True])
    mark = {"state": {name: torch.randn(ITEMS, 7, generator=random) for name in "ch"}, "known": known}
    data = Unroll(
        obs=torch.randn(rows, ITEMS, 3, generator=random), first=first, last=last,
        action=torch.randint(4, (rows, ITEMS), generator=random), reward=3 * torch.randn(rows, ITEMS, generator=random),
        discount=(torch.rand(rows, ITEMS, generator=random) > 0.2).float(),
        last_action=torch.randint(4, (rows, ITEMS), generator=random), last_reward=torch.randn(rows, ITEMS, generator=random),
        mask=mask, state=state, prefix=prefix, marks={"first": mark, "last": mark} if marks else None,
    )  # fmt: skip
    return Batch(data, torch.tensor([1.0, 0.5, 0.25, 1.0, 0.1]), np.arange(ITEMS))


def h(x, epsilon=1e-3):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + epsilon * x


def h_inverse(x, epsilon=1e-3):
    return np.sign(x) * (((np.sqrt(1 + 4 * epsilon * (abs(x) + 1 + epsilon)) - 1) / (2 * epsilon)) ** 2 - 1)


def one_by_one(network, data, item):
    """Q-values at every row of an item, float64 [rows, actions], cell by cell; the state is the stored one until a first row."""
    state = {name: leaf[item : item + 1] for name, leaf in data.state.items()}
    values = []
    with torch.no_grad():
        for row in range(len(data.first)):
            here = slice(row, row + 1), slice(item, item + 1)
            value, state = network(
                data.obs[here], data.first[here], data.last_action[here], data.last_reward[here], state
            )  # fmt: skip
            values.append(value[0, 0].double().numpy())
    return np.array(values)


def test_loss_and_priorities_are_the_papers_sums():
    online, target, given = agent(1), agent(2), batch()
    data, losses, priorities = given.data, [], []
    for item in range(ITEMS):
        q, q_target = one_by_one(online, data, item), one_by_one(target, data, item)
        end = PREFIX + int(data.mask[:, item].sum())
        errors = []
        for t in range(PREFIX, end):
            total, factor, at = 0.0, 1.0, t
            while at < min(t + 2, end) and factor:
                total += factor * float(data.reward[at, item])
                factor *= 0.9 * float(data.discount[at, item])
                at += 1
            y = h(total + factor * h_inverse(q_target[at, q[at].argmax()]))
            errors.append(y - q[t, int(data.action[t, item])])
        losses.append(float(given.weights[item]) * sum(error**2 for error in errors) / 2)
        sizes = np.abs(errors)
        priorities.append(0.9 * sizes.max() + 0.1 * sizes.mean())
    loss = LOSS(online, target, given)
    assert loss.value.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert loss.priorities.numpy() == pytest.approx(priorities, rel=1e-4)


@pytest.mark.parametrize("poison", [1e6, float("nan")])
def test_nothing_that_is_not_real_changes_the_loss_or_its_gradients(poison):
    online, target = agent(1), agent(2)
    clean, dirty = batch(), batch()
    data = dirty.data
    for leaf in (data.obs, data.last_reward):  # left of the rows that are first
        leaf[:PREFIX, 0], leaf[0, 1] = poison, poison
    for leaf in (data.state["c"], data.state["h"]):
        leaf[0], leaf[1] = poison, poison
    for leaf in (data.obs, data.last_reward):  # behind the end
        leaf[PREFIX + 5 :, 0] = 1e3
    data.reward[PREFIX + 4 :, 0] = poison
    one, other = LOSS(online, target, clean), LOSS(online, target, dirty)
    assert one.value.item() == pytest.approx(other.value.item(), rel=1e-6)
    assert torch.allclose(one.priorities, other.priorities)
    parameters = list(online.parameters())
    gradients = (torch.autograd.grad(loss.value, parameters) for loss in (one, other))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_gradients_end_at_the_first_step_that_is_learned_from():
    online, target, given = agent(1), agent(2), batch()
    given.data.obs.requires_grad_(True)
    given.data.state["h"].requires_grad_(True)
    LOSS(online, target, given).value.backward()
    into = given.data.obs.grad
    assert not into[:PREFIX].any()
    assert given.data.state["h"].grad is None
    for item in range(1, ITEMS):
        assert into[PREFIX, item].any()
    assert not any(parameter.grad is not None for parameter in target.parameters())


def test_each_network_warms_up_with_its_own_weights():
    online, target, given = agent(1), agent(2), batch()
    warmed = {}
    for network in (online, target):

        def noting(obs, *rest, network=network, run=network.run):
            outputs, after = run(obs, *rest)
            if len(obs) == PREFIX:
                assert not torch.is_grad_enabled()
                warmed[network] = after["h"]
            return outputs, after

        network.run = lambda *args, noting=noting, **rows: noting(*(args or (rows[name] for name in NAMES)))
    LOSS(online, target, given)
    with torch.no_grad():
        for network in (online, target):
            state = {name: leaf.clone() for name, leaf in given.data.state.items()}
            rows = [getattr(given.data, name)[:PREFIX] for name in NAMES[:-1]]
            wanted = RecurrentQAgent.run(network, *rows, state)[1]["h"]
            assert torch.equal(warmed[network], wanted)
    assert not torch.allclose(warmed[online], warmed[target])


def test_without_rescaling_errors_are_plain_n_step_errors():
    zero = torch.zeros(3, 1)
    error = temporal_errors(
        zero, torch.tensor([[0.0], [1.0], [2.0], [4.0]]), torch.ones(3, 1), torch.ones(3, 1), zero.bool(),
        n=2, gamma=0.5, epsilon=None,
    )  # fmt: skip
    assert error.flatten().tolist() == [1.5 + 0.25 * 2, 1.5 + 0.25 * 4, 1 + 0.5 * 4]


def test_rewards_are_clipped_only_where_that_is_asked_for():
    online, target, given = agent(1), agent(2), batch()
    clipped = batch()
    clipped.data.reward.clamp_(-1, 1)
    asked = replace(LOSS, reward_clip=1.0)(online, target, given).value.item()
    assert asked == LOSS(online, target, clipped).value.item() != LOSS(online, target, given).value.item()


def test_delta_q_is_the_distance_between_what_both_states_say():
    """By hand: |(3, 4) - (0, 0)| / |max|, the maximum over actions and real steps, negative ones too."""
    values = torch.tensor([[[3.0, 4.0]], [[-1.0, 8.0]], [[99.0, 0.0]]])
    mask = torch.tensor([[1.0], [1.0], [0.0]])
    assert state_drift(values, torch.zeros(1, 2), mask, 0).tolist() == pytest.approx([5 / 8])
    assert state_drift(-values, torch.zeros(1, 2), mask, 0).tolist() == pytest.approx([5 / 1])


def test_delta_q_is_zero_where_the_kept_state_is_the_one_that_is_unrolled_and_counts_only_known_states():
    online, target, given = agent(1), agent(2), batch(marks=True)
    data = given.data
    rows = {name: getattr(data, name) for name in ("obs", "first", "last_action", "last_reward")}
    with torch.no_grad():
        for name, upto in (("first", PREFIX), ("last", PREFIX + STEPS - 1)):
            before = {key: leaf[:upto] for key, leaf in rows.items()}
            after = online.run(**before, state=data.state)[1]
            data.marks[name] = {"state": after, "known": data.marks[name]["known"]}
    metrics = LOSS(online, target, given).metrics
    assert metrics["delta_q_first"] == pytest.approx(0, abs=1e-6)
    assert metrics["delta_q_last"] == pytest.approx(0, abs=1e-6)
    data.marks["first"]["state"]["h"][1:] += 1
    assert LOSS(online, target, given).metrics["delta_q_first"] > 1e-3
    data.marks["first"]["known"][:] = False
    assert "delta_q_first" not in LOSS(online, target, given).metrics


def test_t6_the_priority_of_a_sequence():
    """Errors 0.5, -1, 2, 0, 0.25 at eta 0.9: 1.875; the last two of three behind the episode's end do not count."""
    rate = SequencePriorities(5, 5, n_steps=1, discount=0.0, reward_clip=None, rescaling_epsilon=None, eta=0.9)
    reward = np.array([0.5, -1, 2, 0, 0.25, 0], np.float32)[:, None]
    rows = {
        "reward": reward, "discount": np.ones_like(reward), "q_taken": np.zeros_like(reward),
        "q_value": np.zeros_like(reward), "last": np.zeros((6, 1), bool), "episode_step": np.arange(6, dtype=np.int32)[:, None],
    }  # fmt: skip
    assert rate(rows)[:, 0] == pytest.approx([1.875])
    rows["last"][2] = True
    assert rate(rows)[:, 0] == pytest.approx([0.9 * 1 + 0.1 * 0.75])


def test_actors_rate_with_the_learners_formulas():
    """An actor whose network is online and target network at once rates a sequence as the learner does."""
    online, given = agent(1), batch()
    data = given.data
    rate = SequencePriorities(STEPS, STEPS, 2, 0.9, None, 1e-3, 0.9)
    columns = []
    for item in range(ITEMS):
        q = one_by_one(online, data, item)[PREFIX:]
        part = {name: getattr(data, name)[PREFIX:, item : item + 1].numpy() for name in ("reward", "discount", "last")}
        part["q_value"] = q.max(-1, keepdims=True).astype(np.float32)
        part["q_taken"] = np.take_along_axis(q, data.action[PREFIX:, item : item + 1].numpy(), 1).astype(np.float32)
        part["episode_step"] = np.arange(STEPS + 1, dtype=np.int32)[:, None]
        rated = rate(part)
        assert rated.shape == (1, 1)
        columns.append(rated[0, 0])
    assert columns == pytest.approx(LOSS(online, online, given).priorities.tolist(), rel=1e-4)
