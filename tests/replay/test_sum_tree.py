"""The sum tree against a list of values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.replay import NaiveTree
from veldt.replay.sum_tree import SumTree

P = np.array([1.0, 2.0, 3.0, 4.0]) ** 0.6
SIZES = [1, 2, 7, 8, 9, 31, 33, 100, 257, 1000, 5000]
values = st.one_of(st.just(0.0), st.floats(1e-9, 10.0), st.sampled_from([1e-300, 1e-30, 1e30, 1e200, 1.0]))


@given(data=st.data(), size=st.sampled_from(SIZES))
def test_a_sum_tree_does_what_a_list_of_values_does(data, size):
    tree, naive = SumTree(size), NaiveTree(size)
    for _ in range(data.draw(st.integers(1, 5))):
        # Few indices, so that the same one often comes twice in a call: the later value stays.
        indices = np.array(data.draw(st.lists(st.integers(0, min(size, 40) - 1), max_size=30)), np.int64)
        indices = np.where(indices % 2, size - 1 - indices, indices)
        new = np.array([data.draw(values) for _ in indices])
        tree.set(indices, new)
        naive.set(indices, new)
        assert tree[np.arange(size)].tolist() == naive.values
        assert tree.total == pytest.approx(sum(naive.values), rel=1e-12)
        if tree.total > 0:
            points = np.array([0.0, 0.5, np.nextafter(1.0, 0.0), *data.draw(st.lists(st.floats(0, 0.999999), max_size=9))])
            drawn, shares = tree.draw(points)
            for point, index, share in zip(points, drawn, shares, strict=True):
                assert naive.may_draw(int(index), float(point))
                assert share == pytest.approx(naive.values[index] / sum(naive.values), rel=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_a_value_of_zero_is_never_drawn_even_at_the_last_point(size):
    random = np.random.default_rng(size)
    for alive in range(1, 12):
        tree = SumTree(size)
        chosen = random.integers(0, size, alive)
        tree.set(chosen, random.random(alive) + 1e-9)
        points = np.concatenate([random.random(200), np.full(3, np.nextafter(1.0, 0.0)), [0.0, 1.0]])
        drawn, shares = tree.draw(points)
        assert set(drawn.tolist()) <= set(chosen.tolist())
        assert (shares > 0).all()


def test_values_that_became_zero_again_leave_no_mass_behind():
    tree = SumTree(1000)
    tree.set(np.arange(1000), np.random.default_rng(0).random(1000) * 1e12)
    tree.set(np.arange(1000), np.zeros(1000))
    assert tree.total == 0.0
    tree.set(np.array([500]), np.array([1e-9]))
    assert tree.draw(np.array([0.0, 0.5, 0.99]))[0].tolist() == [500] * 3


def test_the_smallest_numbers_there_are_can_be_drawn():
    tree = SumTree(50)
    tree.set(np.array([3, 40]), np.array([5e-324, 0.0]))
    assert tree.draw(np.array([0.0, 0.999]))[0].tolist() == [3, 3]


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf, -np.inf, -1e-300])
def test_what_is_no_priority_is_refused_and_changes_nothing(bad):
    tree = SumTree(10)
    tree.set(np.arange(10), np.ones(10))
    with pytest.raises(ValueError, match=r"finite and >= 0, got .* for item 7"):
        tree.set(np.array([1, 7, 2]), np.array([2.0, bad, 3.0]))
    assert tree.total == 10.0


def test_the_tree_of_t4_gives_its_probabilities_and_stratified_indices():
    tree = SumTree(4)
    tree.set(np.arange(4), P)
    assert tree.total == pytest.approx(6.74629532, abs=1e-8)
    points = (np.arange(4) + np.array([0.1, 0.5, 0.9, 0.99])) / 4
    drawn, shares = tree.draw(points)
    assert drawn.tolist() == [0, 2, 3, 3]
    assert shares == pytest.approx([0.1482295, 0.28655461, 0.34054197, 0.34054197], abs=1e-8)
    tree.set(np.array([0]), np.array([5.0**0.6]))
    assert tree.total == pytest.approx(8.37282313, abs=1e-8)
    assert tree[np.arange(4)] / tree.total == pytest.approx([0.3136968, 0.18102814, 0.23088772, 0.27438735], abs=1e-8)


def test_a_restored_tree_draws_bit_for_bit_the_same():
    random = np.random.default_rng(0)
    tree, restored = SumTree(3333), SumTree(3333)
    for _ in range(20):
        tree.set(random.integers(0, 3333, 200), random.random(200) * 10.0 ** random.integers(-8, 8, 200))
    restored.load_state_dict({name: array.copy() for name, array in tree.state_dict().items()})
    points = random.random(1000)
    for ours, theirs in zip(tree.draw(points), restored.draw(points), strict=True):
        assert ours.tolist() == theirs.tolist()
    assert tree.total == restored.total


def test_drawing_many_after_few_and_few_after_many_gives_the_same():
    tree = SumTree(500)
    tree.set(np.arange(500), np.random.default_rng(0).random(500))
    points = np.random.default_rng(1).random(300)
    few = tree.draw(points[:5])[0].tolist()
    assert tree.draw(points)[0][:5].tolist() == few == tree.draw(points[:5])[0].tolist()
