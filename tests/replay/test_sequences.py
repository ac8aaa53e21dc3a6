"""Sequences against whole episodes that are cut one after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.sequences import Cut, cuts, sequences
from tests.replay.writers import OBSERVATIONS, STATE, Poisoned, Sweep, Writer, carried, make_table, step_spec
from veldt.core import Place
from veldt.data import EPISODE_STEP, ArraySpec
from veldt.errors import ConfigError
from veldt.replay.sequences import Sequences
from veldt.replay.streams import Carried, step_bytes

T10 = {
    # steps of the episode: (prefix start, start, stop) of each sequence of 80 steps, overlap 40, prefix 40
    1: [(0, 0, 1)],
    30: [(0, 0, 30)],
    39: [(0, 0, 39)],
    40: [(0, 0, 40)],
    41: [(0, 0, 41)],
    80: [(0, 0, 80)],
    81: [(0, 0, 80), (0, 40, 81)],
    150: [(0, 0, 80), (0, 40, 120), (40, 80, 150)],
    200: [(0, 0, 80), (0, 40, 120), (40, 80, 160), (80, 120, 200)],
}


@pytest.mark.parametrize("steps", T10)
def test_the_oracle_cuts_as_t10_says(steps):
    assert cuts(steps, 80, 40, 40) == [Cut(*each) for each in T10[steps]]


class Script(Writer):
    """Writes episodes of given lengths, one after the other, and then one that does not end."""

    def __init__(self, table, lengths, truncated):
        self.lengths, self.truncated = list(lengths), truncated
        super().__init__(table, 0, seed=3)

    def _act(self, stream):
        step = self.row - self.episodes[stream].starts[-1]
        number = len(self.episodes[stream].starts) - 1
        ends = number < len(self.lengths) and step == self.lengths[number] - 1
        self.fates = (0, 0, 1, 0, 0) if ends and self.truncated else (0, 1, 0, 0, 0) if ends else (1, 0, 0, 0, 0)
        return super()._act(stream)


def expected(writers, end, view, stack):
    """All whole sequences by key."""
    streams = writers[0].streams
    columns = streams * len(writers)
    found = {}
    for writer in writers:
        for stream, episodes in enumerate(writer.episodes):
            settings = view.length_steps, view.overlap_steps, view.burn_in_steps, stack
            for row, each in sequences(episodes, end if end is not None else writer.row, *settings).items():
                found[row * columns + writer.actor * streams + stream] = each
    return found


def check_item(data, item, wanted, view, key, columns):
    """One item of a batch against its episode."""
    cut, before = wanted.cut, len(data.prefix)
    begin, length = before - (cut.start - cut.prefix), cut.stop - cut.start
    real = range(begin, before + length + 1)
    assert data.prefix[:, item].tolist() == [float(begin <= row) for row in range(before)]
    assert data.mask[:, item].tolist() == [float(before <= row < before + length) for row in range(len(data.mask))]
    assert data.first[:, item].tolist() == [row == begin and cut.prefix == 0 for row in range(len(data.first))]
    assert np.array_equal(data.obs[begin : before + length + 1, item].numpy(), wanted.seen)
    for row, truth, last_action, last_reward in zip(real, wanted.rows, wanted.last_action, wanted.last_reward, strict=True):
        assert data.last_action[row, item] == last_action
        assert data.last_reward[row, item] == last_reward
        if row < before + length:
            assert data.action[row, item] == truth.action
            assert data.reward[row, item] == truth.reward
            assert data.discount[row, item] == truth.discount
            assert not data.last[row, item]
    assert data.last[before + length, item] == wanted.rows[-1].last
    if length < view.length_steps:
        assert data.last[before + length, item]
    column = key % columns
    if data.state is not None:
        kept = view.state == "stored" and cut.prefix > 0
        assert data.state["a"][item] == (carried(wanted.origin + cut.prefix, column) if kept else 0)
    if data.marks is not None:
        for name, known, step in (
            ("first", cut.start > 0, cut.start), ("last", length == view.length_steps and cut.stop > 1, cut.stop - 1)
        ):  # fmt: skip
            assert data.marks[name]["known"][item] == known
            if known:
                assert data.marks[name]["state"]["b"][item].tolist() == [[-carried(wanted.origin + step, column)] * 2] * 3


def check_all(table, writers, view, stack, kept_rows, end=None):
    """Reads every live item; keys and contents are the oracle's."""
    columns = writers[0].streams * len(writers)
    wanted = {
        key: each for key, each in expected(writers, end, view, stack).items()
        if key // columns >= writers[key % columns // writers[0].streams].row - kept_rows
    }  # fmt: skip
    assert sorted(table._items.state_dict()["keys"].tolist()) == sorted(wanted)
    found = set()
    while len(found) < len(wanted):
        batch = table.sample()
        for item, key in enumerate(batch.keys):
            check_item(batch.data, item, wanted[int(key)], view, int(key), columns)
        found.update(batch.keys.tolist())
    return wanted


@pytest.mark.parametrize("truncated", [False, True], ids=["terminated", "truncated"])
@pytest.mark.parametrize("burn_in", [0, 20, 40])
def test_episodes_of_every_length_are_cut_as_t10_says_and_every_step_comes_once_or_twice(burn_in, truncated):
    lengths = [1, 150, 39, 40, 81, 1, 41, 30, 80, 200]
    view = Sequences(80, 40, burn_in, marks=True)
    table = make_table(view, Sweep(), streams=1, capacity_steps=2_000, batch_size=7, state=STATE)
    writer = Script(table, lengths, truncated)
    for _ in range(300):
        writer.insert(3)
    wanted = check_all(table, [writer], view, 1, 2_000)
    starts = np.cumsum([0, *(length + 1 for length in lengths)])
    for start, length in zip(starts, lengths, strict=False):
        mine = [each.cut for each in wanted.values() if each.origin == start]
        assert [(cut.start, cut.stop) for cut in mine] == [each[1:] for each in T10[length]]
        times = np.zeros(length, int)
        for cut in mine:
            times[cut.start : cut.stop] += 1
        assert set(times) <= {1, 2}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), actors=st.integers(1, 2), streams=st.integers(1, 3), length=st.integers(1, 9),
    burn_in=st.integers(0, 9), stack=st.integers(1, 4), kind=st.sampled_from(sorted(OBSERVATIONS)),
    unroll=st.integers(1, 6), ends=st.sampled_from([0.02, 0.1, 0.4]), mode=st.sampled_from(["stored", "zero"]),
    marks=st.booleans(), data=st.data(),
)  # fmt: skip
def test_sequences_are_those_of_whole_episodes_while_the_ring_turns(
    seed, actors, streams, length, burn_in, stack, kind, unroll, ends, mode, marks, data
):
    view = Sequences(length, data.draw(st.integers(0, length - 1)), burn_in, mode, marks)
    least = 2 * length + unroll
    capacity = data.draw(st.integers(actors * streams * least, actors * streams * (least + 20)))
    table = make_table(
        view, Sweep(), OBSERVATIONS[kind], actors=actors, streams=streams, unroll_steps=unroll, capacity_steps=capacity,
        frame_stack=stack, batch_size=3, state=STATE,
    )  # fmt: skip
    fates = (1 - ends, ends / 4, ends / 4, ends / 4, ends / 4)
    writers = [Writer(table, actor, seed, fates) for actor in range(actors)]
    for _ in range(data.draw(st.integers(0, 25))):
        for writer in writers:
            writer.insert(data.draw(st.integers(1, unroll)))
    check_all(table, writers, view, stack, -(-capacity // (actors * streams)))


def test_a_sequence_is_there_when_all_its_rows_were_acted_at_and_not_before():
    table = make_table(Sequences(4, 2, 2), Sweep(), streams=1, unroll_steps=1, capacity_steps=40, state=STATE)
    writer = Script(table, [], truncated=False)
    sizes = []
    for _ in range(10):
        writer.insert(1)
        sizes.append(len(table))
    assert sizes == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("kind", ["small floats", "large bytes"])
def test_what_stands_in_rows_of_other_episodes_is_never_seen(stack, kind):
    """Left of a first row: zeros, though the memory there holds NaN. Nothing but real rows is masked in."""
    table = make_table(
        Sequences(6, 3, 5), Sweep(), OBSERVATIONS[kind], streams=1, capacity_steps=100, frame_stack=stack, state=STATE,
        batch_size=2,
    )  # fmt: skip
    writer = Script(table, [2, 20], truncated=True)
    for _ in range(8):
        writer.insert(3)
    data = table._reader.read(np.array([0, 6]))  # the episode of two steps, and the second sequence of the other one
    assert len(data.prefix) == 3
    assert not data.obs[:3, 0].any()
    assert torch.isfinite(data.obs.float()).all()
    assert torch.isfinite(data.last_reward).all()
    assert data.mask.sum(dim=0).tolist() == [2, 6]
    assert data.prefix.sum(dim=0).tolist() == [0, 3]


def test_only_as_many_rows_are_read_as_the_longest_of_a_batch_needs():
    table = make_table(Sequences(80, 40, 40), Sweep(), streams=1, capacity_steps=1_000, state=STATE, batch_size=4)
    writer = Script(table, [3, 5, 2] * 60, truncated=False)
    for _ in range(80):
        writer.insert(3)
    data = table.sample().data
    assert len(data.prefix) == 0
    assert len(data.mask) == 5
    assert len(data.first) == 6


def test_steps_that_were_made_void_are_not_learned_from_but_warm_up_what_follows():
    """Ten steps in the midst of an episode are void: too old to learn from. What comes before ends there."""
    table = make_table(Sequences(8, 4, 4), Sweep(), streams=1, unroll_steps=10, capacity_steps=100, state=STATE, batch_size=1)
    writer = Script(table, [], truncated=False)
    writer.insert(10)
    end = writer.write(10)
    table.inlet(0).rows["last"][10:20] = True
    writer.inlet.commit(end)
    for _ in range(2):
        writer.insert(10)
    keys = table._items.state_dict()["keys"].tolist()
    assert keys == [0, 4, 20, 24, 28, 32]
    lengths = [int(table._reader.read(np.array([key])).mask.sum()) for key in keys]
    assert lengths == [8, 6, 8, 8, 8, 8]
    prefix = table._reader.read(np.array([20]))
    assert prefix.prefix.sum() == 4
    assert prefix.state["a"][0] == carried(16, 0)


def test_after_a_refill_no_sequence_reaches_back_to_what_is_lost():
    view = Sequences(8, 4, 4)
    table = make_table(view, Sweep(), streams=2, unroll_steps=3, capacity_steps=200, state=STATE, batch_size=1)
    writer = Script(table, [7, 9], truncated=False)
    for _ in range(10):  # row 30 is step 12 of its episode
        writer.insert(3)
    fresh = make_table(view, Sweep(), streams=2, unroll_steps=3, capacity_steps=200, state=STATE, batch_size=1)
    fresh.load_state_dict(table.state_dict())
    fresh.refill()
    writer.table, writer.inlet = fresh, fresh.inlet(0)
    for name in ("obs", "first", "last", EPISODE_STEP):  # what an actor observes again when it is resumed
        fresh.inlet(0).rows[name][30] = table.inlet(0).rows[name][30]
    for _ in range(10):
        writer.insert(3)
    keys = fresh._items.state_dict()["keys"]
    assert (keys % 2 == 0).sum() == (keys % 2 == 1).sum()
    # Steps 16 and 20 begin sequences; the prefix of the first begins at row 30, whose last action is lost.
    assert keys.min() // 2 == 18 + 20
    wanted = expected([writer], None, view, 1)
    batch = fresh._reader.read(keys[:1])
    check_item(batch, 0, wanted[int(keys[0])], view, int(keys[0]), 2)


def test_a_million_steps_of_atari_take_no_more_than_their_frames_and_stored_states():
    spec = step_spec(ArraySpec((84, 84), "uint8"), q_taken=ArraySpec((), "float32"), q_value=ArraySpec((), "float32"))
    spec[EPISODE_STEP] = ArraySpec((), "int32")
    lstm = {"c": ArraySpec((512,), "float32"), "h": ArraySpec((512,), "float32")}
    assert 1_000_000 * step_bytes(spec) < 7.2e9
    for marks, states in ((False, 1), (True, 2)):
        each = step_bytes(spec, Carried(lstm, Sequences(80, 40, 40, marks=marks).states)) - step_bytes(spec)
        assert each == -(-states * 4096 // 40)
    assert step_bytes(spec, Carried(lstm, Sequences(80, 40, 40, state="zero").states)) == step_bytes(spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 0, 0), "sequence length must be >= 1 step, got 0"),
        ((80, 80, 40), "overlap 80 must be >= 0 and < sequence length 80"),
        ((80, -1, 40), "overlap -1 must be >= 0"),
        ((80, 40, -1), "burn_in must be >= 0 steps, got -1"),
    ],
)
def test_settings_that_make_no_sequences_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sequences(*settings)


def test_a_replay_without_room_for_a_sequence_is_refused():
    with pytest.raises(ConfigError, match="items of 80 steps"):
        make_table(Sequences(80, 40, 40), Sweep(), streams=1, capacity_steps=161, state=STATE, place=Place(arena=Poisoned))
