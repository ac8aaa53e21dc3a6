"""A table with a fifo selector and unrolls is a queue: each unroll once, in order, and nothing is overwritten unread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.replay.writers import OBSERVATIONS, VOID, Writer, make_table, source
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
            if t < steps:  # row `steps` serves to bootstrap alone: what is done there may not be known yet
                assert bool(data.last[t, item]) == step.last
                assert (int(data.action[t, item]), float(data.discount[t, item])) == (step.action, step.discount)
                assert float(data.reward[t, item]) == np.float32(step.reward)
                assert float(data.mask[t, item]) == float(not step.last)
                assert data.mask[t, item] == 0 or data.reward[t, item] != VOID


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6), actors=st.integers(1, 3), streams=st.integers(1, 3), steps=st.integers(1, 5),
    batch=st.integers(1, 7), stack=st.integers(1, 3), kind=st.sampled_from(sorted(OBSERVATIONS)), spare=st.integers(0, 20),
    turns=st.lists(st.integers(0, 3), max_size=60),
)  # fmt: skip
def test_every_unroll_comes_once_and_in_order(seed, actors, streams, steps, batch, stack, kind, spare, turns):
    rows = -(-(batch + streams - 1) // (actors * streams)) * steps
    table = make_table(
        Unrolls(steps), Fifo(), OBSERVATIONS[kind], actors=actors, streams=streams, unroll_steps=steps, frame_stack=stack,
        capacity_steps=max(rows * actors * streams + spare, batch), batch_size=batch,
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
