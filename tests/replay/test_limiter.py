"""The limiter keeps samples and inserts together, and never blocks both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veldt.errors import ConfigError
from veldt.replay.limiter import Limiter

ratios = st.sampled_from([0.01, 0.25, 1 / 3, 1.0, 8.0, 100.0])


@given(
    ratio=ratios, start=st.integers(1, 30), unroll=st.integers(1, 20), batch=st.integers(1, 64),
    slack=st.floats(0, 50), walk=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=120),
    behind=st.integers(0, 400),
)  # fmt: skip
def test_inserts_and_samples_stay_within_the_error_buffer_and_one_side_can_always_go_on(
    ratio, start, unroll, batch, slack, walk, behind
):
    buffer = max(unroll * ratio, batch) + slack
    limiter = Limiter(ratio, start, buffer).build(unroll, batch)
    sampled = inserted = 0
    for insert, steps in walk:
        assert limiter.can_insert(1, behind) or limiter.can_sample()
        assert limiter.can_insert() or not limiter.can_insert(1, behind)
        if insert and limiter.can_insert():
            limiter.insert(min(steps, unroll))
            inserted += min(steps, unroll)
        elif not insert and limiter.can_sample():
            limiter.sample(batch)
            sampled += batch
        if inserted < start:
            assert limiter.can_insert()
            assert not limiter.can_sample()
        else:
            assert -buffer - 1e-9 <= (inserted - start) * ratio - sampled <= buffer + 1e-9
    assert (limiter.inserted_steps, limiter.sampled_items) == (inserted, sampled)


@given(ratio=ratios, unroll=st.integers(1, 20), batch=st.integers(1, 64))
def test_the_buffer_that_is_chosen_by_default_lets_both_sides_go_on_for_ever(ratio, unroll, batch):
    limiter = Limiter(ratio, 10).build(unroll, batch)
    for turn in range(300):
        if turn % 2 and limiter.can_sample():
            limiter.sample(batch)
        elif limiter.can_insert():
            limiter.insert(unroll)
        else:
            assert limiter.can_sample()
            limiter.sample(batch)
    assert limiter.drift_samples <= limiter.error_buffer


def test_who_is_ahead_leaves_room_for_those_behind_and_waits_no_longer_than_until_nothing_can_be_sampled():
    limiter = Limiter(1.0, 1, 40.0).build(10, 5)
    limiter.insert(11)
    assert [limiter.can_insert(1, behind) for behind in range(4)] == [True, True, True, False]  # 10 + 10 (1 + behind) <= 40
    assert not limiter.can_insert(1, 99)
    while limiter.can_sample():
        limiter.sample(5)
    assert limiter.can_insert(1, 99)


def test_without_a_ratio_nothing_is_limited_after_the_start():
    limiter = Limiter(None, 5).build(4, 32)
    limiter.insert(4)
    assert (limiter.can_insert(), limiter.can_sample()) == (True, False)
    limiter.insert(4)
    for _ in range(1000):
        assert limiter.can_insert()
        assert limiter.can_sample()
        limiter.sample(32)


def test_settings_that_must_deadlock_are_refused_with_the_way_out():
    text = "samples_per_insert 8 with error_buffer 4 could block both sides forever; use error_buffer >= 8"
    with pytest.raises(ConfigError) as error:
        Limiter(8.0, 1, 4.0).build(insert_steps=1, sample_items=1)
    assert str(error.value) == text
    with pytest.raises(ConfigError, match="use error_buffer >= 32"):
        Limiter(8.0, 1, 31.9).build(insert_steps=1, sample_items=32)
    Limiter(8.0, 1, 8.0).build(insert_steps=1, sample_items=1)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan")])
def test_a_ratio_that_is_not_positive_is_refused(ratio):
    with pytest.raises(ConfigError, match="samples_per_insert must be > 0"):
        Limiter(ratio).build(1, 1)


def test_a_start_before_the_first_step_is_refused():
    with pytest.raises(ConfigError, match="start_steps must be >= 1, got 0"):
        Limiter(1.0, 0).build(1, 1)


def test_after_a_refill_sampling_waits_for_as_many_steps_as_at_the_start():
    limiter = Limiter(1.0, 10).build(2, 4)
    while limiter.inserted_steps < 20:
        limiter.insert(2) if limiter.can_insert() else limiter.sample(4)
    limiter.refill()
    for _ in range(5):
        assert not limiter.can_sample()
        assert limiter.can_insert()
        limiter.insert(2)
    assert limiter.can_sample()
    assert limiter.drift_samples == 0


def test_inserts_do_not_wait_while_they_do_not_yet_make_a_batch():
    limiter = Limiter(8.0, 1).build(1, 32)
    for _ in range(50):
        assert limiter.can_insert()
        limiter.insert(1, sampleable=False)
    assert not limiter.can_sample()
    limiter.insert(1, sampleable=True)
    assert limiter.can_sample()
    assert limiter.drift_samples == 0


@given(walk=st.lists(st.booleans(), max_size=60))
def test_a_restored_limiter_decides_the_same(walk):
    limiter, restored = (Limiter(4.0, 6).build(3, 8) for _ in range(2))
    for insert in walk:
        if insert and limiter.can_insert():
            limiter.insert(3)
        elif limiter.can_sample():
            limiter.sample(8)
    restored.load_state_dict(limiter.state_dict())
    for _ in range(20):
        assert (restored.can_insert(), restored.can_sample()) == (limiter.can_insert(), limiter.can_sample())
        assert restored.waiting_for() == limiter.waiting_for()
        for one in (limiter, restored):
            one.insert(3) if one.can_insert() else one.sample(8)


def test_what_is_waited_for_names_the_counters():
    limiter = Limiter(2.0, 100).build(10, 20)
    limiter.insert(10)
    assert limiter.waiting_for() == "10 of 100 steps before sampling"
    limiter.insert(100)
    counters = "inserts 110, samples 0, 2 samples per insert, allowed error ±20"
    assert (
        limiter.waiting_for() == f"waits for 20 more samples: {counters}"
    )  # 20 are due, 20 more would be with the next insert
    limiter.sample(20)
    assert "waits for the inserts under way" in limiter.waiting_for()
    limiter.sample(20)
    assert "waits for 10 more inserts: inserts 110, samples 40" in limiter.waiting_for()
    limiter.insert(10)
    assert limiter.can_sample()


def test_both_sides_may_use_the_error_buffer_to_the_last_sample():
    limiter = Limiter(2.0, 10, 8.0).build(1, 4)
    inserts = samples = 0
    limiter.insert(10)
    while limiter.can_insert():
        limiter.insert(1)
        inserts += 1
    while limiter.can_sample():
        limiter.sample(4)
        samples += 1
    assert (inserts, samples) == (4, 4)
