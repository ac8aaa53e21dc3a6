"""A table with a fifo selector and unrolls is a queue: each unroll once, in order, and nothing is overwritten unread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.replay.writers import OBSERVATIONS, STATE, VOID, Sweep, Writer, carried, make_table, source
from veldt.errors import ConfigError
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo
from veldt.replay.views import Unrolls


def check_unroll(writers, batch, steps, stack):
    data = batch.data
    assert data.first.shape == data.last.shape == (steps + 1, len(batch))
    for item, key in enumerate(batch.keys):
        episodes, row = source(writers, key)
        assert row % steps == 0
        for t in range(steps + 1):
            episode, now = episodes.at(row + t)
            step = episode[now]
            assert np.array_equal(data.obs[t, item].numpy(), episodes.seen(row + t, stack))
            assert bool(data.first[t, item]) == step.first
            before = (0, 0.0) if step.first else (episode[now - 1].action, episode[now - 1].reward)
            assert (int(data.last_action[t, item]), float(data.last_reward[t, item])) == before
            if t < steps:  # row `steps` serves to bootstrap alone: what is done there may not be known yet
                assert bool(data.last[t, item]) == step.last
                assert (int(data.action[t, item]), float(data.discount[t, item])) == (step.action, step.discount)
                assert float(data.reward[t, item]) == np.float32(step.reward)
                assert float(data.mask[t, item]) == float(not step.last)
                assert data.mask[t, item] == 0 or data.reward[t, item] != VOID
    if data.state is not None:
        numbers = [carried(*divmod(int(key), sum(writer.streams for writer in writers))) for key in batch.keys]
        assert data.state["a"].tolist() == numbers
        assert data.state["b"].tolist() == [[[-number] * 2] * 3 for number in numbers]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), actors=st.integers(1, 3), streams=st.integers(1, 3), steps=st.integers(1, 5),
    batch=st.integers(1, 7), stack=st.integers(1, 3), kind=st.sampled_from(sorted(OBSERVATIONS)), spare=st.integers(0, 20),
    turns=st.lists(st.integers(0, 3), max_size=60), state=st.sampled_from([None, STATE]),
)  # fmt: skip
def test_every_unroll_comes_once_and_in_order(seed, actors, streams, steps, batch, stack, kind, spare, turns, state):
    rows = -(-(batch + streams - 1) // (actors * streams)) * steps
    table = make_table(
        Unrolls(steps), Fifo(), OBSERVATIONS[kind], actors=actors, streams=streams, unroll_steps=steps, frame_stack=stack,
        capacity_steps=max(rows * actors * streams + spare, batch), batch_size=batch, state=state,
    )  # fmt: skip
    writers = [Writer(table, actor, seed) for actor in range(actors)]
    put: list[int] = []
    taken: list[int] = []
    for turn in turns:
        if turn < actors and writers[turn].inlet.can_insert():
            writer = writers[turn]
            first = writer.row * actors * streams + turn * streams
            writer.insert(steps)
            put += range(first, first + streams)
        elif table.can_sample():
            got = table.sample()
            check_unroll(writers, got, steps, stack)
            taken += got.keys.tolist()
            assert got.weights.tolist() == [1.0] * batch
        assert table.can_sample() or any(writer.inlet.can_insert() for writer in writers)
        assert len(table) == len(put) - len(taken)
    assert taken == put[: len(taken)]


def test_a_full_queue_makes_its_actors_wait_until_it_is_sampled():
    table = make_table(Unrolls(4), Fifo(), streams=1, unroll_steps=4, capacity_steps=8, batch_size=1)
    writer = Writer(table, 0, seed=0)
    for _ in range(2):
        assert table.inlet(0).can_insert()
        writer.insert(4)
    for _ in range(3):
        assert not table.inlet(0).can_insert()
        assert table.inlet(0).waiting_for() == "replay: the queue is full: 2 items wait to be sampled, 1 at a time"
        table.sample()
        assert table.inlet(0).can_insert()
        writer.insert(4)
    table.sample()
    table.sample()
    assert not table.can_sample()
    assert table.waiting_for().startswith("replay: 0 items for a batch of 1; inserts ")


def test_the_last_row_of_an_unroll_is_the_first_of_the_next():
    table = make_table(Unrolls(3), Fifo(), unroll_steps=3, batch_size=2)
    writer = Writer(table, 0, seed=0)
    before = None
    for _ in range(30):
        writer.insert(3)
        batch = table.sample()
        if before is not None:
            assert np.array_equal(before[0], batch.data.obs[0].numpy())
            assert np.array_equal(before[1], batch.data.first[0].numpy())
        before = batch.data.obs[3].numpy().copy(), batch.data.first[3].numpy().copy()


def test_commits_that_do_not_fit_unrolls_make_unrolls_all_the_same():
    table = make_table(Unrolls(5), Fifo(), streams=1, unroll_steps=3, capacity_steps=30, batch_size=1)
    writer, keys = Writer(table, 0, seed=0), []
    for _ in range(20):
        assert table.inlet(0).can_insert()
        writer.insert(3)
        while table.can_sample():
            batch = table.sample()
            check_unroll([writer], batch, 5, 1)
            keys += batch.keys.tolist()
    assert keys == list(range(0, 60, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity_steps": 12, "batch_size": 5}, "a replay of 12 steps .* use a capacity >= 24"),
        ({"capacity_steps": 10, "unroll_steps": 3}, "a replay of 10 steps .* use a capacity >= 12"),
        ({"limiter": Limiter(1.0)}, r"use Limiter\(None\) with Fifo"),
        ({"limiter": Limiter(None, 2)}, r"use Limiter\(None\) with Fifo"),
    ],
)
def test_a_queue_that_must_stall_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_table(Unrolls(4), Fifo(), **({"unroll_steps": 4, "batch_size": 2} | changes))


def test_a_queue_of_the_least_capacity_that_is_not_refused_never_stalls():
    for steps, unroll, streams, batch in np.ndindex(4, 4, 2, 3):
        settings = {"unroll_steps": unroll + 1, "streams": streams + 1, "batch_size": batch + 1}
        for capacity in range(batch + 1, 10**6):
            try:
                table = make_table(Unrolls(steps + 1), Fifo(), capacity_steps=capacity, **settings)
                break
            except ConfigError:
                continue
        writer = Writer(table, 0, seed=0)
        for _ in range(12):
            while table.inlet(0).can_insert():
                writer.insert(unroll + 1)
            assert table.can_sample()
            table.sample()


def test_an_unroll_has_at_least_one_step():
    with pytest.raises(ConfigError, match="unroll steps must be >= 1, got 0"):
        Unrolls(0)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), actors=st.integers(1, 3), streams=st.integers(1, 3), steps=st.integers(1, 5),
    unroll=st.integers(1, 7), stack=st.integers(1, 3), kind=st.sampled_from(sorted(OBSERVATIONS)), spare=st.integers(0, 40),
    commits=st.integers(1, 30),
)  # fmt: skip
def test_unrolls_that_are_kept_can_be_read_again_and_again_with_the_state_before_them(
    seed, actors, streams, steps, unroll, stack, kind, spare, commits
):
    rows = 2 * steps + unroll
    table = make_table(
        Unrolls(steps), Sweep(), OBSERVATIONS[kind], actors=actors, streams=streams, unroll_steps=unroll, frame_stack=stack,
        capacity_steps=max(4, rows * actors * streams + spare), batch_size=4, state=STATE,
    )  # fmt: skip
    writers = [Writer(table, actor, seed) for actor in range(actors)]
    for _ in range(commits):
        for writer in writers:
            writer.insert(unroll)
        if table.can_sample():
            for _ in range(-(-len(table) // 4)):
                check_unroll(writers, table.sample(), steps, stack)


def test_a_share_of_each_batch_is_drawn_from_all_unrolls_kept_and_the_rest_come_once_and_in_order():
    table = make_table(
        Unrolls(3), Fifo(replay_share=0.5), streams=2, unroll_steps=3, capacity_steps=60, batch_size=8, state=STATE,
    )  # fmt: skip
    writer, fresh, old = Writer(table, 0, seed=0), [], []
    for _ in range(200):
        while not table.can_sample():
            assert table.inlet(0).can_insert()
            writer.insert(3)
        alive = table._items.at(np.arange(len(table._items))).tolist()
        batch = table.sample()
        check_unroll([writer], batch, 3, 1)
        fresh += batch.keys[:4].tolist()
        assert set(batch.keys[4:].tolist()) <= set(alive)
        old.append([alive.index(key) / len(alive) for key in batch.keys[4:]])
    assert fresh == [6 * row + stream for row in range(400) for stream in range(2)]
    ages = np.concatenate(old[10:])
    assert abs(ages.mean() - 0.45) < 0.05  # over 10 places from 0 to 0.9


def test_a_queue_with_a_share_of_old_unrolls_needs_fewer_new_ones():
    assert [Fifo(share).fresh(32) for share in (0.0, 0.5, 0.25, 0.99)] == [32, 16, 24, 1]
    with pytest.raises(ConfigError, match="replay_share must be >= 0 and < 1: a queue has to empty; got 1"):
        Fifo(1.0)
