"""Q-learning's objective: what l is, where weights go, what is recorded for it."""

import numpy as np
import pytest
import torch

from veldt.agents.objectives import QLearning
from veldt.data import Batch, Transition


class Table(torch.nn.Module):
    """Q-values of two observations and two actions."""

    def __init__(self, values) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))

    def forward(self, obs):
        return self.values[obs]


ONLINE, TARGET = [[1.0, 0.0], [3.0, 5.0]], [[0.0, 0.0], [10.0, 4.0]]
BATCH = Batch(
    Transition(
        torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0.5, 1.0]), torch.tensor([0.9, 0.0]), torch.tensor([1, 1])
    ),
    torch.tensor([1.0, 0.5]),
    np.arange(2),
)


@pytest.mark.parametrize(("double", "bootstrap"), [(False, 10.0), (True, 4.0)])
@pytest.mark.parametrize("error_loss", ["squared", "huber"])
@pytest.mark.parametrize("sum_over_batch", [True, False])
def test_the_gradient_is_the_weighted_error_which_huber_clips(double, bootstrap, error_loss, sum_over_batch):
    online = Table(ONLINE)
    loss = QLearning(double, sum_over_batch, error_loss, False)(online, Table(TARGET), BATCH)
    errors = np.array([0.5 + 0.9 * bootstrap - 1, 1.0])
    assert loss.priorities.tolist() == pytest.approx(np.abs(errors))
    (gradient,) = torch.autograd.grad(loss.value, [online.values])
    clipped = errors.clip(-1, 1) if error_loss == "huber" else errors
    wanted = -clipped * [1.0, 0.5] / (1 if sum_over_batch else 2)
    assert gradient[0].tolist() == pytest.approx(wanted)
    assert gradient[1].tolist() == [0, 0]


def test_values_are_recorded_only_where_initial_priorities_are_made_of_them():
    assert QLearning(True, False, "squared", False).extras == {}
    assert set(QLearning(True, False, "squared", True).extras) == {"q_taken", "q_value"}
