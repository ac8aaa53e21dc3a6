"""A mixture of an agent's table and demonstrations: who comes next, with which weight, and what becomes of each side."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.replay.test_save import same
from tests.replay.test_sequences import check_item, expected
from tests.replay.writers import OBSERVATIONS, STATE, Poisoned, Sweep, Writer, make_table
from veldt.core import Memory, Place, Writable
from veldt.errors import ConfigError
from veldt.replay.limiter import Limiter
from veldt.replay.mixture import Mixture
from veldt.replay.selectors import Proportional
from veldt.replay.sequences import Sequences
from veldt.replay.views import Transitions, Unrolls

PLACE = Place(seed=3, arena=Poisoned)


def filled(table, seed, unrolls):
    """The table, and the writer of `unrolls` unrolls in it."""
    writer = Writer(table, 0, seed)
    for _ in range(unrolls):
        writer.insert(3)
    return table, writer


def mixture(ratio=0.25, view=None, selector=None, place=PLACE, batch_size=8, **changes):
    """A mixture, and the writers of its two sides; demonstrations are one stream, the agent's two."""
    view, selector = view or Transitions(1, 0.9), selector or Proportional(0.6, 0.4)
    common = {"batch_size": batch_size, "place": place, "capacity_steps": max(40, batch_size), **changes}
    own, writer = filled(make_table(view, selector, **common, state=STATE), 1, 20)
    demos, demonstrator = filled(
        make_table(view, selector, **{**common, "streams": 1, "capacity_steps": 200}, role="demos"), 2, 30
    )
    return Mixture(demo_ratio=ratio, own=own, demonstrations=demos, place=place), writer, demonstrator


def sides(mixed):
    return mixed._own, mixed._demonstrations


def test_it_is_a_memory_and_not_one_that_actors_of_other_processes_write_to():
    mixed, writer, _ = mixture()
    memory: Memory = mixed
    assert memory.inserted_steps == sides(mixed)[0].inserted_steps
    assert not isinstance(mixed, Writable)
    inlet = memory.inlet(0)
    writer.inlet, before = inlet, len(sides(mixed)[1])
    writer.insert(3)
    assert inlet.end == 60
    assert sides(mixed)[0].end(0) == 63
    assert len(sides(mixed)[1]) == before


@pytest.mark.parametrize(("ratio", "mean", "none"), [(1 / 256, 0.25, 0.77841961), (1 / 16, 4, 0.01607540)])
def test_t12_the_number_of_demonstrations_in_a_batch_is_binomial(ratio, mean, none):
    mixed, _, _ = mixture(ratio, batch_size=64)
    draws = 4_000
    counts = np.array([int((mixed.sample().keys < 0).sum()) for _ in range(draws)])
    deviation = (64 * ratio * (1 - ratio)) ** 0.5
    assert counts.mean() == pytest.approx(mean, abs=4 * deviation / draws**0.5)
    assert (counts == 0).mean() == pytest.approx(none, abs=4 * (none * (1 - none) / draws) ** 0.5)
    assert counts.var() == pytest.approx(deviation**2, rel=0.15)
    assert mixed.metrics()["demo_share"] == pytest.approx(counts.sum() / (64 * draws))
    assert mixed.metrics() == {}


def test_weights_are_each_sides_own_divided_by_the_largest_of_the_whole_batch():
    """T4 on the agent's side; two demonstrations of priorities 5 and 1 on the other."""
    alpha, beta = 0.6, 0.4
    mixed, _, _ = mixture(0.5, batch_size=32, selector=Proportional(alpha, beta))
    chances = {}
    for side, priorities in zip(sides(mixed), ([1.0, 2.0, 3.0, 4.0], [5.0, 1.0]), strict=True):
        keys = side._items.state_dict()["keys"]
        side._selector.remove(keys[len(priorities) :])
        side._selector.update(keys[: len(priorities)], np.array(priorities))
        mass = np.array(priorities) ** alpha
        weights = (len(priorities) * mass / mass.sum()) ** -beta
        chances |= zip(keys[: len(priorities)] if side is mixed._own else ~keys[: len(priorities)], weights, strict=True)
    assert list(chances.values())[:4] == pytest.approx([1.23254318, 1.04365016, 0.94687585, 0.88370588])
    for _ in range(20):
        batch = mixed.sample()
        raw = np.array([chances[int(key)] for key in batch.keys])
        assert batch.weights.numpy() == pytest.approx(raw / raw.max(), rel=1e-6)
        assert batch.weights.max() == 1


def test_priorities_go_back_to_the_side_that_an_item_came_from():
    mixed, _, _ = mixture(0.5)
    batch = mixed.sample()
    own, demos = sides(mixed)
    before = [side._selector._tree.state_dict()["values"].copy() for side in (own, demos)]
    wanted = 10.0 + np.arange(len(batch.keys))
    mixed.update(batch.keys, wanted)
    for side, keys, tree in ((own, batch.keys, before[0]), (demos, ~batch.keys, before[1])):
        mine = batch.keys >= 0 if side is own else batch.keys < 0
        assert mine.any()
        for key, priority in dict(zip(keys[mine].tolist(), wanted[mine], strict=True)).items():
            tree[key % len(tree)] = priority**0.6
        assert side._selector._tree.state_dict()["values"] == pytest.approx(tree)


def test_demonstrations_stay_when_the_agents_items_are_evicted():
    mixed, writer, _ = mixture(0.5)
    own, demos = sides(mixed)
    keys, there = (side._items.state_dict()["keys"] for side in (own, demos))
    gone = mixed.sample()
    for _ in range(200):
        writer.insert(3)
    assert not set(own._items.state_dict()["keys"]) & set(keys)
    assert demos._items.state_dict()["keys"].tolist() == there.tolist()
    mixed.update(gone.keys, np.full(len(gone.keys), 1e6))  # the agent's own are gone, and are passed over
    assert own._selector._tree.state_dict()["values"].max() == 1
    assert demos._selector._tree.state_dict()["values"].max() == pytest.approx(1e6**0.6)


def test_every_element_counts_for_the_agents_limiter():
    mixed, writer, _ = mixture(0.9, limiter=Limiter(2.0, start_steps=1))
    own, demos = sides(mixed)
    batches = 0
    while mixed.can_sample():
        mixed.sample()
        batches += 1
    assert own.limiter.sampled_items == 8 * batches
    assert demos.limiter.sampled_items == 0
    assert own.samples_per_insert == pytest.approx(2.0, abs=0.3)
    assert "more inserts" in mixed.waiting_for()
    writer.insert(3)
    assert "batch" in mixed.waiting_for() or mixed.can_sample()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(OBSERVATIONS)), stack=st.integers(1, 4), burn_in=st.integers(0, 5),
    mode=st.sampled_from(["stored", "zero"]), marks=st.booleans(), ratio=st.sampled_from([0.1, 0.5, 0.9]),
)  # fmt: skip
def test_sequences_of_both_sides_are_read_side_by_side_as_they_were_written(seed, kind, stack, burn_in, mode, marks, ratio):
    view = Sequences(5, 2, burn_in, mode, marks)
    kind = OBSERVATIONS[kind]
    mixed, writer, demonstrator = mixture(
        ratio, view, Sweep(), Place(seed=seed, arena=Poisoned), observation=kind, frame_stack=stack, capacity_steps=60
    )
    own = expected([writer], None, view, stack)
    demos = expected([demonstrator], None, view, stack)
    for _ in range(5):
        batch = mixed.sample()
        data = batch.data
        known = None if data.marks is None else {name: mark["known"].clone() for name, mark in data.marks.items()}
        for item, key in enumerate(batch.keys.tolist()):
            if key >= 0:
                check_item(data, item, own[key], view, key, 2)
                continue
            assert all(not data.state[name][item].any() for name in data.state)  # nobody acted there: zeros
            assert known is None or not any(mark[item] for mark in known.values())
            data.state, data.marks, kept = None, None, (data.state, data.marks)
            check_item(data, item, demos[~key], view, ~key, 1)
            data.state, data.marks = kept


@pytest.mark.parametrize("view", [Transitions(1, 0.9), Transitions(3, 0.9), Unrolls(3)], ids=["1-step", "3-step", "unrolls"])
@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("kind", ["small floats", "large bytes"])
def test_items_of_every_view_are_those_that_each_side_reads_by_itself(view, stack, kind):
    mixed, _, _ = mixture(0.5, view, Sweep(), observation=OBSERVATIONS[kind], frame_stack=stack)
    own, demos = sides(mixed)
    for _ in range(4):
        batch = mixed.sample()
        mine = batch.keys >= 0
        parts = {name: copy.deepcopy(getattr(batch.data, name)) for name in ("obs", "action", "reward", "discount")}
        for side, which, keys in ((own, mine, batch.keys), (demos, ~mine, ~batch.keys)):
            whole = np.resize(keys[which], 8)  # readers read batches of one size
            alone = side._reader.read(whole)
            axis = 1 if isinstance(view, Unrolls) else 0
            for name, found in parts.items():
                items = torch.from_numpy(np.flatnonzero(which))
                ours, theirs = found.index_select(axis, items), getattr(alone, name).narrow(axis, 0, len(items))
                if axis:  # of the last row only the observation is known
                    ours, theirs = (part if name == "obs" else part[:-1] for part in (ours, theirs))
                assert ours.numpy().tobytes() == theirs.numpy().tobytes()


def test_the_next_100_samples_of_a_loaded_mixture_are_those_of_the_saved_one():
    mixed, _, _ = mixture(0.4, Sequences(4, 2, 2))
    random = np.random.default_rng(0)

    def drive(one, turns):
        drawn = []
        for _ in range(turns):
            drawn.append(copy.deepcopy(one.sample()))
            one.update(drawn[-1].keys, random.random(8))
        return drawn

    drive(mixed, 20)
    restored, _, _ = mixture(0.4, Sequences(4, 2, 2), place=Place(seed=99, arena=Poisoned))
    restored.load_state_dict(copy.deepcopy(mixed.state_dict()))
    for ours, theirs in zip(sides(restored), sides(mixed), strict=True):
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        ours.load_replay_state_dict(copy.deepcopy(theirs.replay_state_dict()))
    random = np.random.default_rng(1)
    ours = drive(mixed, 100)
    random = np.random.default_rng(1)
    for one, other in zip(ours, drive(restored, 100), strict=True):
        same(one, other)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5])
def test_a_ratio_that_leaves_one_side_out_is_refused(ratio):
    with pytest.raises(ConfigError, match=r"demo_ratio must be in \(0, 1\), got"):
        mixture(ratio)


def test_a_mixture_without_demonstrations_is_refused():
    own = make_table(Transitions(1, 0.9), Proportional(0.6, 0.4))
    with pytest.raises(ConfigError, match="there is not one item"):
        Mixture(demo_ratio=0.5, own=own, demonstrations=make_table(Transitions(1, 0.9), Proportional(0.6, 0.4)), place=PLACE)
