"""A table of transitions against episodes kept in plain lists."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.replay.writers import OBSERVATIONS, Poisoned, Sweep, Writer, expected_keys, make_table, source, step_spec
from veldt.core import Place
from veldt.data import ArraySpec
from veldt.errors import ConfigError
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Proportional, Uniform
from veldt.replay.table import Table
from veldt.replay.views import Transitions

GAMMA = 0.9


def check_all_items(table, writers, n, clip, stack, capacity):
    """Reads every live item once, and compares keys and contents with the oracle."""
    wanted, found = expected_keys(table, writers, n, capacity), set()
    assert len(table) == len(wanted)
    while len(found) < len(wanted):
        before = len(found)
        batch = table.sample()
        found.update(batch.keys.tolist())
        assert len(found) > before, "a key came again before all had come"
        for item, key in enumerate(batch.keys):
            episodes, row = source(writers, key)
            truth = episodes.transition(row, n, GAMMA, clip, stack)
            for name in ("obs", "next_obs", "action"):
                assert np.array_equal(getattr(batch.data, name)[item].numpy(), truth[name]), (name, row)
            assert float(batch.data.reward[item]) == pytest.approx(truth["reward"], abs=1e-5)
            assert float(batch.data.discount[item]) == pytest.approx(truth["discount"], abs=1e-6)
    assert found == wanted


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stack", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["small floats", "large bytes"])
def test_every_live_step_is_an_item_and_reads_as_its_episode_says(n, stack, kind):
    capacity, clip = 37, 1.5 if n % 2 else None
    table = make_table(Transitions(n, GAMMA, clip), Sweep(), OBSERVATIONS[kind], frame_stack=stack, capacity_steps=capacity)
    writer = Writer(table, 0, seed=10 * n + stack)
    for turn in range(40):  # 120 rows: the ring, of about 26, wraps several times
        writer.insert(3)
        if turn < 12 or turn % 5 == 0:
            check_all_items(table, [writer], n, clip, stack, capacity)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), actors=st.integers(1, 3), streams=st.integers(1, 3), n=st.integers(1, 5),
    stack=st.integers(1, 4), kind=st.sampled_from(sorted(OBSERVATIONS)), unroll=st.integers(1, 6), data=st.data(),
)  # fmt: skip
def test_actors_that_commit_at_their_own_speeds_do_not_disturb_each_other(seed, actors, streams, n, stack, kind, unroll, data):
    capacity = data.draw(st.integers(actors * streams * (n + unroll), actors * streams * (n + unroll) + 30))
    table = make_table(
        Transitions(n, GAMMA, 1.0), Sweep(), OBSERVATIONS[kind], actors=actors, streams=streams, unroll_steps=unroll,
        capacity_steps=capacity, frame_stack=stack, batch_size=2,
    )  # fmt: skip
    writers = [Writer(table, actor, seed) for actor in range(actors)]
    for actor in data.draw(st.lists(st.integers(0, actors - 1), min_size=1, max_size=25)):
        writers[actor].insert(data.draw(st.integers(1, unroll)))
    check_all_items(table, writers, n, 1.0, stack, capacity)


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("kind", ["small floats", "large bytes"])
def test_rows_an_actor_writes_ahead_of_its_commit_do_not_touch_what_may_be_read(stack, kind):
    capacity, n = 30, 3
    table = make_table(Transitions(n, GAMMA), Sweep(), OBSERVATIONS[kind], frame_stack=stack, capacity_steps=capacity)
    writer, read = Writer(table, 0, seed=1), []
    for _ in range(20):
        end = writer.write(3)
        for keys, obs, reward in read:  # the rows just written are not committed: what was readable is unchanged
            again = table._reader.read(keys)
            assert torch.equal(again.obs, obs)
            assert torch.equal(again.reward, reward)
        writer.inlet.commit(end)
        read = []
        for _ in range(5 if len(table) else 0):
            batch = table.sample()
            read.append((batch.keys, batch.data.obs.clone(), batch.data.reward.clone()))


def test_the_table_of_t2_comes_out_of_a_table():
    # r = 1..7; step 3 terminates, step 6 truncates; rows 4 and 8 hold the final observations. obs is its own value.
    table = make_table(
        Transitions(3, GAMMA), Sweep(), ArraySpec((), "float32"), streams=1, unroll_steps=1, capacity_steps=20, batch_size=7
    )
    rows = table.inlet(0).rows
    value = [0, 10, 20, 30, 1e6, 0, 50, 60, 70, 0, 0, 0]
    reward = [1, 2, 3, 4, 1e6, 5, 6, 7, 1e6, 0, 0, 0]
    for row in range(12):
        rows["obs"][row], rows["reward"][row], rows["discount"][row] = value[row], reward[row], row != 3
        rows["first"][row], rows["last"][row], rows["action"][row] = row in (0, 5, 9), row in (4, 8), row
        if row:
            table.commit(0, row)
    batch = table.sample()
    assert batch.keys.tolist() == batch.data.action.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert batch.data.reward.tolist() == pytest.approx([5.23, 7.94, 6.6, 4, 16.07, 12.3, 7], rel=1e-6)
    assert batch.data.discount.tolist() == pytest.approx([0.729, 0, 0, 0, 0.729, 0.81, 0.9], rel=1e-6)
    target = batch.data.reward + batch.data.discount * batch.data.next_obs
    assert target.tolist() == pytest.approx([27.10, 7.94, 6.6, 4, 67.10, 69.0, 70.0], rel=1e-6)


def test_rewards_are_clipped_one_by_one_before_they_are_summed():
    table = make_table(Transitions(3, 1.0, 1.0), Sweep(), streams=1, unroll_steps=1, capacity_steps=9, batch_size=1)
    rows = table.inlet(0).rows
    for row, reward in enumerate([5.0, -3.0, 0.5, 9.0]):
        for name, value in {"obs": 0, "first": row == 0, "last": False, "action": 0, "discount": 1}.items():
            rows[name][row] = value
        rows["reward"][row] = reward
    table.commit(0, 3)
    assert table.sample().data.reward.tolist() == [0.5]
    assert rows["reward"][0] == 5.0


def test_a_dict_of_small_and_large_observations_comes_back_whole():
    tree = {"image": ArraySpec((20, 20), "uint8"), "at": ArraySpec((2,), "float32"), "door": ArraySpec((), "bool")}
    table = make_table(Transitions(2, GAMMA), Sweep(), tree)
    writer = Writer(table, 0, seed=0)
    for _ in range(30):
        writer.insert(3)
    batch = table.sample()
    for item, key in enumerate(batch.keys):
        episodes, row = source([writer], key)
        truth = episodes.transition(row, 2, GAMMA, None, 1)
        for name in ("obs", "next_obs"):
            for path in tree:
                assert np.array_equal(getattr(batch.data, name)[path][item].numpy(), truth[name][path])
    assert {path: leaf.dtype for path, leaf in batch.data.obs.items()} == {
        "image": torch.uint8, "at": torch.float32, "door": torch.bool,
    }  # fmt: skip


@pytest.mark.parametrize("selector", [Uniform(), Proportional(0.7, 0.5), Proportional(0.7, 0.5, stratified=False)])
def test_random_selectors_draw_every_live_step_and_nothing_else(selector):
    table = make_table(Transitions(3, GAMMA), selector, actors=2, capacity_steps=60, batch_size=16)
    writers = [Writer(table, actor, seed=3) for actor in range(2)]
    for turn in range(25):
        writers[turn % 2].insert(3)
        writers[0].insert(2)
        live = expected_keys(table, writers, 3, 60)
        assert len(table) == len(live)
        drawn = {key for _ in range(40) for key in table.sample().keys.tolist()} if live else set()
        assert drawn <= live
        if turn % 6 == 5:
            while drawn != live:  # by chance later or earlier, but certainly; a hang is caught by the time limit
                drawn.update(table.sample().keys.tolist())


def test_priorities_of_items_that_are_gone_are_passed_over():
    table = make_table(Transitions(1, GAMMA), Proportional(1.0, 0.0), streams=1, capacity_steps=12, batch_size=12)
    writer = Writer(table, 0, seed=0, fates=(1.0, 0.0, 0.0, 0.0, 0.0))
    writer.insert(3)
    gone = np.unique(table.sample().keys)
    assert gone.tolist() == [0, 1, 2]
    for _ in range(8):
        writer.insert(3)
    table.update(gone, np.full(3, 1e6))  # their slots hold other items by now
    keys = np.concatenate([table.sample().keys for _ in range(20)])
    assert np.unique(keys).tolist() == list(range(15, 27))
    assert np.bincount(keys)[15:].max() < 3 * np.bincount(keys)[15:].min()
    assert np.all(table.sample().weights.numpy() == 1)
    table.update(np.array([0, 20]), np.array([1e6, 0.0]))  # one of two is alive
    assert 20 not in np.concatenate([table.sample().keys for _ in range(20)])


def shares(table, draws=400):
    """How often each live row of a one-stream table comes, of all stratified draws."""
    keys = np.concatenate([table.sample().keys for _ in range(draws)])
    return {int(key): count / len(keys) for key, count in zip(*np.unique(keys, return_counts=True), strict=True)}


def test_priorities_given_at_the_commit_are_used_and_others_start_as_high_as_the_highest():
    table = make_table(Transitions(1, GAMMA), Proportional(1.0, 0.0), streams=1, capacity_steps=12, batch_size=12)
    writer = Writer(table, 0, seed=0, fates=(1.0, 0.0, 0.0, 0.0, 0.0))
    writer.inlet.commit(writer.write(3), np.array([[1.0], [2.0], [5.0]]))
    assert shares(table) == pytest.approx({0: 1 / 8, 1: 2 / 8, 2: 5 / 8}, abs=0.02)
    writer.insert(1)  # no priority: like the highest ever seen
    assert shares(table)[3] == pytest.approx(5 / 13, abs=0.02)


def test_priorities_at_the_commit_belong_to_the_rows_that_became_whole():
    table = make_table(Transitions(3, GAMMA), Proportional(1.0, 0.0), streams=1, capacity_steps=20, batch_size=20)
    writer = Writer(table, 0, seed=0, fates=(1.0, 0.0, 0.0, 0.0, 0.0))
    writer.inlet.commit(writer.write(3), np.array([[1.0]]))  # row 0 alone is whole
    writer.inlet.commit(writer.write(3), np.array([[2.0], [3.0], [4.0]]))
    assert shares(table) == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}, abs=0.02)


def test_the_vectors_of_t4_come_out_of_a_table():
    table = make_table(Transitions(1, GAMMA), Proportional(0.6, 0.4), streams=1, unroll_steps=4, capacity_steps=8, batch_size=4)
    writer = Writer(table, 0, seed=0, fates=(1.0, 0.0, 0.0, 0.0, 0.0))
    writer.inlet.commit(writer.write(4), np.array([[1.0], [2.0], [3.0], [4.0]]))

    class Dice:
        def random(self, count):
            return np.array([0.1, 0.5, 0.9, 0.99])

    table._selector._random = Dice()
    batch = table.sample()
    assert batch.keys.tolist() == [0, 2, 3, 3]
    raw = np.array([1.23254318, 0.94687585, 0.88370588, 0.88370588])
    assert batch.weights.numpy() == pytest.approx(raw / raw.max(), rel=1e-6)
    table.update(np.array([0]), np.array([5.0]))
    points = (np.arange(4) + np.array([0.1, 0.5, 0.9, 0.99])) / 4
    running = np.cumsum([0.3136968, 0.18102814, 0.23088772, 0.27438735])
    assert table.sample().keys.tolist() == running.searchsorted(points, side="right").tolist()


def test_the_importance_exponent_grows_with_the_items_sampled():
    table = make_table(
        Transitions(1, GAMMA), Proportional(1.0, 0.0, 1.0, anneal_items=256), streams=1, capacity_steps=64, batch_size=64
    )
    writer = Writer(table, 0, seed=0, fates=(1.0, 0.0, 0.0, 0.0, 0.0))
    writer.inlet.commit(writer.write(2), np.array([[1.0], [4.0]]))
    least = [float(table.sample().weights.min()) for _ in range(6)]
    assert least == pytest.approx([4.0**-beta for beta in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)], rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_an_update_with_what_is_no_priority_is_refused_whatever_the_exponent(bad, alpha):
    table = make_table(Transitions(1, GAMMA), Proportional(alpha, 0.4))
    writer = Writer(table, 0, seed=0)
    writer.insert(3)
    keys = table.sample().keys
    with pytest.raises(ValueError, match="a priority must be finite and >= 0"):
        table.update(keys, np.array([1.0] * 7 + [bad]))
    assert np.isfinite(table.sample().weights.numpy()).all()
    with pytest.raises(ValueError, match="a priority must be finite and >= 0"):
        writer.inlet.commit(writer.write(1), np.full((1, 2), bad))


def test_samples_may_begin_with_fewer_items_than_a_batch_and_nothing_stalls():
    table = make_table(Transitions(10, GAMMA), Uniform(), streams=1, unroll_steps=1, batch_size=32, limiter=Limiter(8.0, 1))
    writer, sampled = Writer(table, 0, seed=0), 0
    while sampled < 20:
        assert table.inlet(0).can_insert() or table.can_sample(), table.waiting_for()
        if table.inlet(0).can_insert():
            writer.insert(1)
        if table.can_sample():
            table.sample()
            sampled += 1


@pytest.mark.parametrize("slack", [1, 2, 5])
def test_actors_that_always_ask_in_the_same_order_insert_alike(slack):
    """Whenever there is room, the first one asked would be first; it may not take all of it."""
    limiter = Limiter(4.0, 10, slack * 4.0 * 3 * 2)
    table = make_table(Transitions(1, GAMMA), Uniform(), actors=4, capacity_steps=400, limiter=limiter)
    writers = [Writer(table, actor, seed=0) for actor in range(4)]
    for _ in range(600):
        for writer in writers:
            if writer.inlet.can_insert():
                writer.insert(3)
        if table.can_sample():
            table.sample()
    rows = [writer.row for writer in writers]
    assert min(rows) > 100
    assert max(rows) - min(rows) <= 3 * 3


def test_actors_that_are_gone_do_not_keep_the_others_from_inserting():
    limiter = Limiter(4.0, 10, 2 * 4.0 * 3 * 2 * 4)
    table = make_table(Transitions(1, GAMMA), Uniform(), actors=4, capacity_steps=400, limiter=limiter)
    writers = [Writer(table, actor, seed=0) for actor in range(4)]
    for _ in range(600):
        for writer in writers[2:]:
            if writer.inlet.can_insert():
                writer.insert(3)
        if table.can_sample():
            table.sample()
    rows = [writer.row for writer in writers]
    assert rows[:2] == [0, 0]
    assert min(rows[2:]) > 200
    assert abs(rows[2] - rows[3]) <= 3 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 512, "capacity_steps": 256}, "batch_size 512 exceeds replay.capacity 256"),
        ({"limiter": Limiter(1.0, 41)}, "start_steps 41 exceeds replay.capacity 40"),
        ({"limiter": Limiter(8.0, 1, 4.0)}, "samples_per_insert 8 with error_buffer 4 could block both sides forever; "),
        ({"capacity_steps": 14}, r"a replay of 14 steps gives each of 2 streams 7 rows; .* use a capacity >= 16"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_numbers(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_table(Transitions(5, GAMMA), Uniform(), **changes)


def test_the_exponents_of_prioritized_replay_are_checked():
    with pytest.raises(ConfigError) as error:
        Proportional(0.6, 1.4)
    assert str(error.value) == "priority alpha must be >= 0 and beta in [0, 1]; got beta=1.4"
    with pytest.raises(ConfigError, match="got alpha=-1"):
        Proportional(-1.0, 0.4)


@pytest.mark.parametrize("stack", [1, 3])
def test_a_replay_lost_and_refilled_never_reads_what_is_not_there(stack):
    table = make_table(Transitions(2, GAMMA), Sweep(), frame_stack=stack, streams=1, limiter=Limiter(1.0, 4), batch_size=1)
    state = table.state_dict()
    table.load_state_dict({**state, "ends": np.array([1000]), "ripe": np.array([999])})
    table.refill()
    rows, ring = table.inlet(0).rows, table.rows
    # What an actor does that goes on without the episodes it was in: the row under way ends, the next one is `first`.
    for row in range(1000, 1007):
        rows["action"][row % ring] = rows["reward"][row % ring] = rows["discount"][row % ring] = 1
        rows["last"][row % ring] |= row == 1000
        rows["obs"][(row + 1) % ring] = row + 1
        rows["first"][(row + 1) % ring] = row == 1000
        rows["last"][(row + 1) % ring] = False
        if row < 1003:
            assert not table.can_sample()
    table.commit(0, 1003)
    assert not table.can_sample()
    table.commit(0, 1006)
    keys = []
    for _ in range(len(table)):
        batch = table.sample()
        keys += batch.keys.tolist()
        for obs in (batch.data.obs, batch.data.next_obs):
            assert set(obs.flatten().tolist()) <= {0.0, *map(float, range(1001, 1007))}
    assert keys == [1001, 1002, 1003, 1004]
    assert not rows["obs"][1000 % ring].any(), "an unroll may read the void row's observation: it must be a number"


def test_a_table_without_poison_reads_the_same():
    tables = [
        Table(
            step_spec(OBSERVATIONS["large bytes"]), actors=1, streams=2, unroll_steps=3, capacity_steps=30, frame_stack=4,
            view=Transitions(3, GAMMA), selector=Uniform(), limiter=Limiter(None), batch_size=16, **extra,
        )
        for extra in ({}, {"place": Place(arena=Poisoned)})
    ]  # fmt: skip
    for turn in range(15):
        for table in tables:
            if turn == 0:
                table.writer = Writer(table, 0, seed=5)
            table.writer.insert(3)
        plain, poison = (table.sample().data for table in tables)
        for name in ("obs", "next_obs", "action", "reward", "discount"):
            assert torch.equal(getattr(plain, name), getattr(poison, name))
