"""What a run says about itself: which side bound its speed, and the lines of its panel."""

from dataclasses import replace

import pytest

from veldt.runs.display import MOST_ACTORS, describe
from veldt.runs.monitor import combined
from veldt.runs.progress import ActorNow, MemoryNow, Progress, Times, bottleneck

ACTING = {"environment": 0.5, "inference": 0.3}

CASES = [
    ("nothing known", {}, {}, "too short to tell", ""),
    ("one process, learning", {"learning": 0.7, "environment": 0.2}, {}, "learning (learning 70%, environment 20%)", "fewer updates"),
    ("one process, acting", {"learning": 0.3, "environment": 0.6}, {}, "environment (", "a faster environment"),
    ("one process, evaluating", {"learning": 0.3, "evaluation": 0.6}, {}, "evaluation (", "fewer --eval-episodes"),
    ("one process, an activity without advice", {"writing streams": 0.6}, {}, "writing streams (writing streams 60%)", ""),
    ("the learner never waits", {"learning": 0.8, "waiting for actors": 0.02}, {**ACTING, "waiting": 0.2},
     "the learner: learning (learning 80%, waiting for actors 2%; actors wait 20%)", "fewer updates"),
    ("the learner never waits, and samples", {"sampling replay": 0.8, "learning": 0.1}, {**ACTING, "waiting": 0.2},
     "the learner: sampling replay (", "smaller batches"),
    ("the learner waits most of its time, actors never", {"learning": 0.2, "waiting for actors": 0.75}, {**ACTING, "waiting": 0.0},
     "actors: environment (environment 50%, inference 30%; the learner waits 75%)", "more --actors, where cores are free"),
    ("actors infer most of their time", {"learning": 0.2, "waiting for actors": 0.75}, {"environment": 0.2, "inference": 0.7},
     "actors: inference (", "share one forward pass"),
    ("the learner waits more than it works", {"learning": 0.3, "waiting for actors": 0.6}, {**ACTING, "waiting": 0.1},
     "actors: environment (", "more --actors"),
    ("nobody waits", {"learning": 0.9, "waiting for actors": 0.05}, {**ACTING, "waiting": 0.05},
     "cores (the learner waits 5% of its time, actors 5%)", "more cores"),
    ("every process acts and learns", {"waiting for actors": 1.0}, {"learning": 0.5, "updating parameters": 0.1, "inference": 0.2},
     "learning (learning 50%, inference 20%, updating parameters 10%)", "fewer updates"),
    ("every process waits for its server", {"waiting for actors": 1.0}, {"learning": 0.2, "updating parameters": 0.3, "waiting": 0.4},
     "updating parameters (waiting 40%,", "more steps for each update"),
    ("both wait", {"learning": 0.3, "waiting for actors": 0.6}, {**ACTING, "waiting": 0.5},
     "handing over (the learner waits 60% of its time, actors 50%)", "wider error buffer"),
]  # fmt: skip


@pytest.mark.parametrize(("home", "actors", "finding", "advice"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_side_that_waits_less_is_the_bottleneck_and_has_its_advice(home, actors, finding, advice):
    found = bottleneck(Times(home, actors))
    assert str(found).startswith(finding)
    assert advice in found.advice
    assert bool(advice) == bool(found.advice)


PROGRESS = Progress(
    steps=5_000, total_steps=10_000, updates=100, episodes=3, seconds=60.0, steps_per_second=90.0, updates_per_second=40.0,
    return_mean=1.0, evaluation_mean=None, best_mean=None, several_processes=True,
    recent=Times({"learning": 0.25, "waiting for actors": 0.7}, {**ACTING, "waiting": 0.15}),
    actors=(ActorNow("actor 0", 40.0, 0, 12.0), ActorNow("actor 1", 50.0, 2)),
    memories=(MemoryNow(4_000, 4_000, 7.96, 8.0),),
)  # fmt: skip


def test_the_panel_says_how_actors_table_and_learner_do():
    assert describe(PROGRESS) == [
        "actor 0         40 steps/s   0 restarts   weights 12 updates old",
        "actor 1         50 steps/s   2 restarts   weights - updates old",
        "actors    environment 50%, inference 30%, waiting 15%",
        "table     4,000 of 4,000 steps   samples per insert 7.96 of 8   the learner waits for steps 70%",
        "learner   waiting for actors 70%, learning 25%",
        "bound by  actors: environment; more --actors, where cores are free, or more --environments stepped together, or a "
        "faster environment, would be faster",
    ]


def test_many_actors_are_one_line():
    actors = tuple(ActorNow(f"actor {index}", 10.0 + index, index % 2, float(index)) for index in range(MOST_ACTORS + 1))
    assert describe(replace(PROGRESS, actors=actors))[0] == (
        "7 actors  10 to 16 steps/s each   3 restarts   weights 3 updates old, at most 6"
    )


@pytest.mark.parametrize("several", [False, True])
def test_the_panel_is_as_high_at_the_start_as_later(several):
    later = replace(PROGRESS, several_processes=several)
    start = replace(later, updates=0, recent=Times(), memories=(MemoryNow(0, 4_000, None, None),))
    assert len(describe(start)) == len(describe(later))


@pytest.mark.parametrize(
    ("name", "values", "value"),
    [("policy_lag_updates", (1.0, 3.0), 2.0), ("policy_lag_updates_max", (1.0, 3.0), 3.0), ("restarts", (1.0, 3.0), 4.0)],
)
def test_what_several_parts_report_is_averaged_or_the_largest_or_added(name, values, value):
    assert combined(name, values) == value
