"""The schedule of `veldt chaos`: what is done to whom and when, from a seed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from veldt.chaos.schedule import EACH_KIND, RUN, make_schedule

ACTORS, OTHERS = ("actor 0", "actor 1", "actor 2"), ("evaluation",)


def test_the_same_seed_gives_the_same_schedule_and_another_does_not():
    assert make_schedule(ACTORS, OTHERS, 30_000, 9, 3) == make_schedule(ACTORS, OTHERS, 30_000, 9, 3)
    assert make_schedule(ACTORS, OTHERS, 30_000, 9, 3) != make_schedule(ACTORS, OTHERS, 30_000, 9, 4)


@given(st.integers(1, 8), st.integers(0, 2), st.integers(1_000, 10**8), st.integers(1, 40), st.integers(0, 2**32))
def test_faults_are_in_order_spread_over_the_run_and_leave_its_end_alone(actors, others, steps, events, seed):
    labels = [f"actor {index}" for index in range(actors)]
    schedule = make_schedule(labels, OTHERS[:others], steps, events, seed)
    assert len(schedule) == events
    for index, fault in enumerate(schedule):
        assert int(steps * (0.1 + 0.6 * index / events)) <= fault.step <= steps * (0.1 + 0.6 * (index + 1) / events)
        assert fault.target in (*labels, *OTHERS, RUN)


@given(st.integers(0, 2**32))
def test_seven_events_are_of_all_kinds_and_the_evaluator_is_only_killed(seed):
    schedule = make_schedule(ACTORS, OTHERS, 30_000, 7, seed)
    assert Counter((fault.kind, fault.target.partition(" ")[0]) for fault in schedule) == {
        ("kill", "actor"): 1, ("freeze", "actor"): 1, ("starve", "actor"): 1, ("hang", "actor"): 1,
        ("kill", "evaluation"): 1, ("kill", RUN): 1, ("damage", RUN): 1,
    }  # fmt: skip
    assert len(EACH_KIND) == 7


def test_actors_take_turns_as_victims():
    schedule = make_schedule(ACTORS, OTHERS, 30_000, 40, 0)
    victims = Counter(fault.target for fault in schedule if fault.target.startswith("actor"))
    assert len(victims) == 3
    assert max(victims.values()) - min(victims.values()) <= 1


def test_without_actors_the_evaluator_and_the_run_are_what_is_left():
    assert {fault.target for fault in make_schedule((), OTHERS, 30_000, 20, 0)} == {"evaluation", RUN}
    assert {fault.target for fault in make_schedule((), (), 30_000, 20, 0)} == {RUN}
