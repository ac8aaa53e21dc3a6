"""The table of `veldt chaos`, and when it says that a run survived."""

from __future__ import annotations

import dataclasses
import json

import pytest

from veldt.chaos.outcome import ChaosReport, Outcome
from veldt.chaos.schedule import RUN, Fault

KILLED = Outcome(Fault(3_000, "kill", "actor 1"), 3_012, 4.25, "at most 20 steps")
RESUMED = Outcome(Fault(9_000, "kill", RUN), 9_100, 11.0, "400 steps repeated")
GOOD = ChaosReport(
    "apex", "CartPole-v1", "runs/a", 1, 475.0, [KILLED, RESUMED], steps=29_990, seconds=90.0, restarts=1, ended="steps",
    evaluation_means=[300.0, 480.0, 470.0], descriptors_before=40, descriptors_after=40,
)  # fmt: skip


def changed(**values) -> ChaosReport:
    return dataclasses.replace(GOOD, **values)


def test_a_run_that_finished_recovered_reached_its_score_and_left_nothing_has_survived():
    assert GOOD.problems() == []
    assert GOOD.exit_status == 0
    assert str(GOOD).endswith("survived")


PROBLEMS = [
    ({"ended": None, "error": "0/2 actors"}, "the run did not finish: 0/2 actors"),
    ({"ended": "SIGINT"}, "the run did not finish: SIGINT"),
    (
        {"outcomes": [Outcome(Fault(3_000, "kill", "actor 1"), 3_012)]},
        "actor 1 killed (SIGKILL) at step 3,012: had not recovered",
    ),
    ({"outcomes": [dataclasses.replace(KILLED, problem="it was not started again")]}, "step 3,012: it was not started again"),
    (
        {"not_done": [Fault(8_000, "hang", "actor 0")]},
        "the run ended first: actor 0 frozen for good from step 8,000 on; use more",
    ),
    ({"evaluation_means": [300.0, 474.9]}, "the score 475 was not reached after the last fault: 474.9"),
    ({"evaluation_means": []}, "the score 475 was not reached after the last fault: no evaluation"),
    ({"processes_left": [812, 813]}, "processes left: 812, 813"),
    ({"shared_memory_left": ["sem.a"]}, "left in /dev/shm: sem.a"),
    ({"descriptors_after": 43}, "descriptors of the main process grew from 40 to 43"),
]


@pytest.mark.parametrize(("values", "problem"), PROBLEMS)
def test_anything_less_is_a_problem_that_is_named(values, problem):
    report = changed(**values)
    assert [found for found in report.problems() if problem in found]
    assert len(report.problems()) == 1
    assert report.exit_status == 1
    assert str(report).endswith("NOT SURVIVED")


def test_the_table_says_what_was_done_to_whom_how_long_recovery_took_and_what_it_cost():
    lines = str(GOOD).splitlines()
    assert lines[0].split() == ["step", "part", "what", "was", "done", "recovered", "what", "it", "cost"]
    assert lines[2] == "3,012  actor 1  killed (SIGKILL)  4.2 s      at most 20 steps"
    assert lines[3] == "9,100  run      killed (SIGKILL)  11.0 s     400 steps repeated"
    assert "29,990 steps in 90 s, 1 restarts of workers, evaluation at the end 470, best after the last fault 480; " in lines[5]


def test_json_holds_the_same():
    found = json.loads(changed(processes_left=[7]).json())
    assert found["outcomes"][0] == {
        "fault": {"step": 3_000, "kind": "kill", "target": "actor 1"}, "step": 3_012, "recovered_seconds": 4.25,
        "lost": "at most 20 steps", "problem": None,
    }  # fmt: skip
    assert (found["problems"], found["reached_score"]) == (["processes left: 7"], True)
