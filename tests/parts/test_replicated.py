"""Replicated parameters: the mean of all replicas' gradients makes one update of all of them, and replicas stay the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from veldt.core import Place
from veldt.math.exploration import LinearSchedule
from veldt.parts.optimizers import RMSPropConfig
from veldt.parts.parameters import LocalParameters
from veldt.parts.replicated import ReplicatedParameters
from veldt.runtime.averaging import Together

OPTIMIZER = RMSPropConfig(0.1, 0.99, 0.01, True, initial_square=1.0, centered=False)


class Two(nn.Module):
    """Two numbers, one of which no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2))


def replicas(count: int, **settings: Any) -> list[ReplicatedParameters]:
    together = Together(count)
    common = {"max_gradient_norm": None, "learning_rate": None, **settings}
    return [
        ReplicatedParameters(
            Two, OPTIMIZER, place=Place(replica, count, 5, average=partial(together.member, replica)), **common
        )
        for replica in range(count)
    ]


def tensors(parameters: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in parameters.pull(()).tensors.items()}


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(one).items())


def test_all_replicas_begin_alike():
    first, *others = replicas(3)
    assert all(same(first, other) for other in others)


def test_an_update_is_made_when_the_last_has_pushed_and_counts_once():
    first, second = replicas(2)
    before = tensors(first)
    assert first.push([torch.ones(3, 2), None], (0,))
    assert not first.can_push()
    assert second.can_push()
    assert first.version == second.version == 0
    assert same(first, second)
    assert second.push([torch.ones(3, 2), None], (0,))
    assert first.can_push()
    assert second.can_push()
    assert first.version == second.version == 1
    assert not torch.equal(tensors(first)["used"], before["used"])
    assert torch.equal(tensors(first)["idle"], before["idle"])
    assert same(first, second)


@pytest.mark.parametrize("norm", [None, 0.5])
def test_updates_are_those_of_one_learner_with_the_mean_gradient_and_the_norm_clipped_is_the_means(norm):
    settings = {"max_gradient_norm": norm, "learning_rate": LinearSchedule(0.1, 0.0, 0, 10)}
    first, second = replicas(2, **settings)
    alone = LocalParameters(Two, OPTIMIZER, place=Place(seed=5), **settings)
    assert same(first, alone)
    for update in range(5):
        one, other = torch.randn(3, 2), torch.randn(3, 2)
        first.push([one.clone(), None], (update,))
        second.push([other.clone(), None], (update,))
        alone.push([(one + other) / 2, torch.zeros(2)], (update,))
        assert first.can_push()
        assert second.can_push()
    assert same(first, second)
    for name, tensor in tensors(first).items():
        torch.testing.assert_close(tensor, tensors(alone)[name])


def test_gradients_that_are_not_finite_are_refused_and_the_others_wait_for_the_next():
    first, second = replicas(2)
    first.push([torch.ones(3, 2), None], (0,))
    assert not second.push([torch.full((3, 2), float("nan")), None], (0,))
    assert second.can_push()
    assert not first.can_push()
    second.push([torch.ones(3, 2), None], (0,))
    assert first.can_push()
    assert first.version == 1
    assert bool(torch.isfinite(tensors(first)["used"]).all())


def test_what_was_given_and_not_averaged_yet_is_saved_with_the_average():
    together = Together(2)
    together.give(0, torch.tensor([1.0, 2.0]))
    restored = Together(2)
    restored.load_state_dict(together.state_dict())
    assert restored.pending(0)
    restored.give(1, torch.tensor([3.0, 6.0]))
    assert restored.take(0).tolist() == restored.take(1).tolist() == [2.0, 4.0]
    assert not restored.pending(0)
