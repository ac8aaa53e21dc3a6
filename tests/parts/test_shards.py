"""The sharded parameter server: T7's staleness, versions of each shard, whole weights of mixed versions, snapshots."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veldt.core import Place
from veldt.errors import ConfigError
from veldt.math.exploration import LinearSchedule
from veldt.parts.optimizers import AdaGradConfig, AdamConfig, RMSPropConfig
from veldt.parts.parameters import Follower, LocalParameters
from veldt.parts.shards import ParameterShard

ADAGRAD = AdaGradConfig(0.1, 1e-10)
CENTERED = RMSPropConfig(2.5e-4, 0.95, 0.01, epsilon_inside_root=True, initial_square=0.0, centered=True)
ADAM = AdamConfig(1e-3, 0.9, 0.999, 1e-8)


class Network(torch.nn.Module):
    """24 parameters in pieces of many lengths, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)
        self.scalar = torch.nn.Parameter(torch.ones(()))
        self.idle = torch.nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.tensor([2.0, 3.0]))


def shards(count=3, optimizer=ADAGRAD, staleness=None, max_norm=None, learning_rate=None, seed=5):
    return [
        ParameterShard(
            Network, optimizer, max_staleness_updates=staleness, max_gradient_norm=max_norm, learning_rate=learning_rate,
            place=Place(replica, count, seed),
        )
        for replica in range(count)
    ]  # fmt: skip


def gradients(seed):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(tensor.shape, generator=random) for tensor in Network().parameters()]


@pytest.mark.parametrize(
    ("based_on", "version", "stale", "rejected"),
    [(10, 11, 0, 0), (8, 11, 0, 0), (7, 11, 0, 0), (6, 10, 1, 0), (0, 10, 1, 0), (11, 10, 0, 1)],
)
def test_a_shard_at_version_10_judges_gradients_as_t7_does(based_on, version, stale, rejected):
    (shard,) = shards(1, staleness=3)
    for number in range(10):
        shard.push(torch.full((shard.size,), 0.5), number)
    before = shard.state_dict()
    shard.push(torch.ones(shard.size), based_on)
    assert (shard.version, shard.stale_gradients, shard.rejected_gradients) == (version, stale, rejected)
    after = shard.state_dict()
    same = (
        torch.equal(before["tensors"]["slice"], after["tensors"]["slice"]),
        torch.equal(before["tensors"]["sum"], after["tensors"]["sum"]),
    )
    assert same == (version == 10, version == 10)  # what is dropped leaves no trace in the optimiser either


def test_age_is_counted_when_a_gradient_is_applied_not_when_it_was_sent():
    (shard,) = shards(1, staleness=3)
    for _ in range(6):  # all computed at version 0: four of them are applied, at ages 0 to 3
        shard.push(torch.ones(shard.size), 0)
    assert (shard.version, shard.stale_gradients) == (4, 2)
    assert shard.metrics()["gradient_age_updates"] == 1.5
    assert shard.metrics().keys() == {"stale_gradients", "rejected_gradients"}


def test_every_shard_counts_for_itself_and_weights_may_be_of_mixed_versions():
    parts = shards(3)
    joined = ParameterShard.join(parts)
    held = joined.pull(())
    assert held.versions == (0, 0, 0)
    assert joined.pull(held.versions) is None
    parts[1].push(torch.ones(parts[1].size), 0)
    mixed = joined.pull(held.versions)
    assert (mixed.versions, mixed.version, joined.version) == ((0, 1, 0), 0, 0)
    assert joined.push(gradients(1), mixed.versions)
    assert joined.pull(()).versions == (1, 2, 1)


def test_the_versions_of_a_push_are_judged_shard_by_shard():
    parts = shards(3, staleness=0)
    joined = ParameterShard.join(parts)
    parts[1].push(torch.ones(parts[1].size), 0)
    assert joined.push(gradients(1), (0, 0, 0))
    assert [(part.version, part.stale_gradients) for part in parts] == [(1, 0), (1, 1), (1, 0)]


def test_what_was_pulled_stays_until_the_next_pull():
    parts = shards(2)
    joined, other = ParameterShard.join(parts), ParameterShard.join(parts)
    tensors = joined.pull(()).tensors
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    other.push(gradients(1), (0, 0))
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    assert joined.pull((0, 0)).versions == (1, 1)
    assert not torch.equal(tensors["one.weight"], before["one.weight"])


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 24),
    optimizer=st.sampled_from([ADAGRAD, CENTERED, ADAM]),
    max_norm=st.sampled_from([None, 0.5]),
    falling=st.sampled_from([None, LinearSchedule(0.1, 0.0, 0, 5)]),
)
def test_any_number_of_shards_does_to_the_weights_what_one_optimiser_does(count, optimizer, max_norm, falling):
    place = Place(seed=5)
    local = LocalParameters(Network, optimizer, max_gradient_norm=max_norm, learning_rate=falling, place=place)
    joined = ParameterShard.join(shards(count, optimizer, max_norm=max_norm, learning_rate=falling))
    for step in range(4):
        for parameters in (local, joined):
            assert parameters.push(gradients(step), parameters.pull(()).versions)
    ours, theirs = joined.pull(()).tensors, local.pull(()).tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)
    assert joined.version == local.version == 4


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_in_one_slice_reaches_no_shard(poison):
    parts = shards(3)
    bad = gradients(1)
    bad[2][0, 0] = poison
    assert not ParameterShard.join(parts).push(bad, (0, 0, 0))
    assert [part.version for part in parts] == [0, 0, 0]


def test_a_parameter_without_gradient_stays_under_adagrad():
    joined = ParameterShard.join(shards(2))
    joined.push([*gradients(0)[:-1], None], (0, 0))  # leaves numbers of the last parameter in the gradient's memory
    joined.push([None, *gradients(1)[1:]], (1, 1))
    names = [name for name, _ in Network().named_parameters()]
    only_first_push = ParameterShard.join(shards(2))
    only_first_push.push([*gradients(0)[:-1], None], (0, 0))
    pulled, expected = joined.pull(()).tensors, only_first_push.pull(()).tensors
    assert torch.equal(pulled[names[0]], expected[names[0]])
    assert not torch.equal(pulled[names[1]], expected[names[1]])


def test_a_shard_restored_from_a_snapshot_is_whole_and_goes_on_as_if_nothing_had_happened():
    parts = shards(2)
    joined = ParameterShard.join(parts)
    for step in range(3):
        joined.push(gradients(step), joined.pull(()).versions)
    snapshot = parts[1].state_dict()
    whole = joined.pull(()).tensors["two.weight"].clone()
    joined.push(gradients(3), (3, 3))
    joined.push(gradients(4), (4, 4))
    lost = {name: tensor.clone() for name, tensor in joined.pull(()).tensors.items()}

    parts[1].load_state_dict(snapshot)  # the snapshot is a copy: what came after it is gone
    held = (5, 5)
    assert joined.version == 3
    late = joined.push(gradients(5), held)
    assert late
    assert [part.version for part in parts] == [6, 3]
    assert parts[1].rejected_gradients == 1
    pulled = joined.pull(held)  # an older version is another one: whoever holds the lost one takes it
    assert pulled.versions == (6, 3)
    assert torch.equal(pulled.tensors["two.weight"], whole)

    parts[1].load_state_dict(snapshot)
    for step, version in ((3, 3), (4, 4)):
        joined.push(gradients(step), (6 + version - 3, version))
    assert torch.equal(joined.pull(()).tensors["two.weight"], lost["two.weight"])


def test_a_follower_with_copies_keeps_them_through_a_checkpoint():
    parts = shards(2)
    joined, agent = ParameterShard.join(parts), Network()
    follower = Follower(agent, joined, copies=True)
    joined.push(gradients(0), (0, 0))
    follower.pull()
    state = follower.state_dict()
    joined.push(gradients(1), (1, 1))
    follower.pull()
    assert follower.versions == (2, 2)
    follower.load_state_dict({"versions": state["versions"], "tensors": {k: v.clone() for k, v in state["tensors"].items()}})
    assert (follower.versions, follower.version) == ((1, 1), 1)


def test_slices_are_of_equal_length_and_cover_everything_once():
    layout = shards(1)[0].layout
    for count in (1, 2, 5, 24):
        bounds = [layout.bounds(number, count) for number in range(count)]
        assert (bounds[0][0], bounds[-1][1]) == (0, layout.size) == (0, 24)
        assert all(end == begin for (_, end), (begin, _) in pairwise(bounds))
        assert np.ptp([end - begin for begin, end in bounds]) <= 1


def test_more_shards_than_parameters_are_refused():
    with pytest.raises(ConfigError, match="25 shards for 24 parameters: use fewer shards"):
        shards(25)


def test_parameters_of_several_types_are_refused():
    class Mixed(Network):
        def __init__(self) -> None:
            super().__init__()
            self.wide = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    with pytest.raises(ConfigError, match=r"must all be of one type, got \['torch.float32', 'torch.float64'\]"):
        ParameterShard(
            Mixed, ADAGRAD, max_staleness_updates=None, max_gradient_norm=None, learning_rate=None, place=Place()
        )  # fmt: skip
