"""The targets of A3C's value-based siblings, by hand: one-step Q, one-step Sarsa, n-step Q, at ends of episodes and of unrolls."""

import pytest
import torch

from veldt.agents.q_unrolls import QUnrolls
from veldt.data import Batch, Unroll

GAMMA = 0.5


class Lookup(torch.nn.Module):
    """Q(row, .) by the number of the row, which is all that is observed."""

    def __init__(self, values) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))

    def forward(self, obs):
        return self.values[obs.long().squeeze(-1)]


ONLINE = [[1.0, 2.0], [3.0, 1.0], [0.0, 4.0], [2.0, 2.0], [7.0, 7.0]]
TARGET = [[10.0, 20.0], [8.0, 6.0], [4.0, 2.0], [12.0, 16.0], [2.0, 1.0]]
ACTION = [1, 0, 1, 0, 1]
REWARD = [1.0, 2.0, 3.0, 9.0, 0.0]


def unroll(last=(), terminated=()):
    """Rows 0 to 4 of one stream; row 4 bootstraps."""
    rows = len(REWARD)
    flags = torch.tensor([[row in last] for row in range(rows)])
    first = torch.tensor([[row - 1 in last] for row in range(rows)])
    discount = torch.tensor([[0.0 if row in terminated else 1.0] for row in range(rows)])
    action, reward = torch.tensor(ACTION).unsqueeze(1), torch.tensor(REWARD).unsqueeze(1)
    return Unroll(
        torch.arange(rows, dtype=torch.float32).reshape(rows, 1, 1), first, flags, action, reward, discount,
        torch.zeros_like(action), torch.zeros_like(reward), (~flags[:-1]).float(),
    )  # fmt: skip


def errors(method, data):
    """y_t - Q(x_t, a_t) of each row, from the gradient of the loss: the sum of their squares, halved."""
    online = Lookup(ONLINE)
    loss = QUnrolls(method, GAMMA, None)(online, Lookup(TARGET), Batch(data, torch.ones(1), torch.zeros(1).numpy()))
    (slope,) = torch.autograd.grad(loss.value, [online.values])
    found = [-float(slope[row, ACTION[row]]) for row in range(4)]
    assert loss.value.item() == pytest.approx(sum(error**2 for error in found) / 2)
    return found


@pytest.mark.parametrize(
    ("method", "targets"),
    [
        ("one_step_q", [1 + 4, 2 + 2, 3 + 8, 9 + 1]),
        ("one_step_sarsa", [1 + 4, 2 + 1, 3 + 6, 9 + 0.5]),
        ("n_step_q", [1 + 1 + 0.75 + 9 / 8 + 2 / 16, 2 + 1.5 + 9 / 4 + 2 / 8, 3 + 4.5 + 0.5, 9 + 1]),
    ],
)
def test_targets_within_an_episode(method, targets):
    taken = [ONLINE[row][ACTION[row]] for row in range(4)]
    assert errors(method, unroll()) == pytest.approx([y - q for y, q in zip(targets, taken, strict=True)])


@pytest.mark.parametrize(
    ("terminated", "method", "targets"),
    [
        ((1,), "one_step_q", [5, 2, None, 10]),
        ((1,), "one_step_sarsa", [5, 2, None, 9.5]),
        ((1,), "n_step_q", [2, 2, None, 10]),
        ((), "one_step_q", [5, 4, None, 10]),
        ((), "one_step_sarsa", [5, 4, None, 9.5]),
        ((), "n_step_q", [3, 4, None, 10]),
    ],
)
def test_nothing_follows_a_terminated_episode_and_a_truncated_one_bootstraps_from_its_final_row_which_is_not_learned_from(
    terminated, method, targets
):
    """No action was taken at the final row."""
    taken = [ONLINE[row][ACTION[row]] for row in range(4)]
    wanted = [0.0 if y is None else y - q for y, q in zip(targets, taken, strict=True)]
    assert errors(method, unroll(last=(2,), terminated=terminated)) == pytest.approx(wanted)
