"""Restart budgets, slow actors and what is said of the dead: without processes, with a clock that the tests set."""

import gc
import resource
import signal
from contextlib import contextmanager

import pytest

from veldt.errors import ResourceError
from veldt.runtime.process import WorkerProcess
from veldt.runtime.supervision import (
    RESTARTS,
    Pace,
    RestartBudget,
    RestartLimits,
    Supervised,
    open_descriptors,
    require_descriptors,
    slower_than_peers,
)
from veldt.runtime.worker import Failed, Report


def test_the_back_off_doubles_with_each_death_of_the_last_minute():
    budget = RestartBudget(RestartLimits(rate_cap=20, backoff_seconds=0.1, max_backoff_seconds=10.0))
    waits = [budget.next_start(100.0 + death) - (100.0 + death) for death in range(9)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_after_a_quiet_minute_the_back_off_begins_anew():
    budget = RestartBudget(RESTARTS)
    assert [budget.next_start(now) for now in (0.0, 1.0, 61.5)] == pytest.approx([0.1, 1.2, 61.6])


def test_the_fifth_death_in_60_seconds_is_the_last():
    budget = RestartBudget(RESTARTS)
    assert None not in [budget.next_start(now) for now in (0.0, 15.0, 30.0, 45.0)]
    assert budget.next_start(59.0) is None
    assert budget.why == "failed 5× in 60 s"


def test_four_deaths_a_minute_go_on_up_to_100_in_all():
    budget = RestartBudget(RESTARTS)
    starts = [budget.next_start(16.0 * death) for death in range(99)]
    assert None not in starts
    assert budget.next_start(16.0 * 99) is None
    assert budget.why == "failed 100× in all"


def pace(unrolls: int, seconds_each: float, start: float = 0.0) -> Pace:
    """One that had leave to write from `start` on, and wrote `unrolls` unrolls."""
    made = Pace()
    made.may_write(start, True)
    for unroll in range(1, unrolls + 1):
        made.commits += 1
        made.may_write(start + unroll * seconds_each, True)
    return made


def test_slow_is_who_takes_four_times_as_long_as_the_median():
    peers = [pace(100, 0.1), pace(100, 0.1), pace(50, 0.2)]
    assert slower_than_peers(pace(12, 0.8), peers, 10.0) == pytest.approx(10.0 / 12 / 0.1)
    assert slower_than_peers(pace(28, 0.35), peers, 10.0) is None


def test_who_has_not_committed_for_long_is_slow_too():
    assert slower_than_peers(pace(1, 0.1), [pace(100, 0.1)] * 2, 10.0) == pytest.approx(10.0 / 0.1)


def test_waiting_for_leave_to_write_is_not_slowness():
    waited = Pace()
    for unroll in range(12):
        waited.may_write(unroll * 5.0, True)
        waited.commits += 1
        waited.may_write(unroll * 5.0 + 0.1, False)
    assert waited.seconds(60.0) == pytest.approx(1.2)
    assert waited.writing_for(60.0) == 0.0
    assert slower_than_peers(waited, [pace(600, 0.1)] * 2, 60.0) is None


@pytest.mark.parametrize(
    ("one", "peers", "now"),
    [
        (pace(2, 1.0), [pace(100, 0.02)] * 3, 2.0),  # 2 s of work
        (pace(2, 2.0), [pace(9, 0.1)] * 3, 4.0),  # 9 unrolls of its peers
        (pace(2, 2.0), [pace(100, 0.1)], 4.0),  # one peer: who of the two is the slow one?
    ],
)
def test_nobody_is_called_slow_too_early(one, peers, now):
    assert slower_than_peers(one, peers, now) is None


def spoke(*lines: str) -> WorkerProcess:
    body = WorkerProcess()
    body.lines.extend(lines)
    return body


def died(code: int, **noted) -> str:
    worker = Supervised("actor 3", "actor", RESTARTS, "some")
    for name, value in noted.items():
        setattr(worker, name, value)
    return worker.describe_death(code)


def test_a_death_is_described_by_its_cause():
    assert died(-signal.SIGSEGV) == "actor 3 killed by signal 11"
    report = Report({}, {}, {}, 9_100_000_000)
    assert died(-signal.SIGKILL, report=report) == "actor 3 killed by signal 9 (likely out of memory: RSS 9.1 GB)"
    assert died(3) == "actor 3 ended with exit code 3"
    assert died(3, body=spoke("a", "b", "", "c")) == "actor 3 ended with exit code 3; its last lines: b | c"
    assert died(1, failed=Failed(None, "KeyError: 'x'", "...")) == "actor 3: KeyError: 'x'"


@contextmanager
def open_files_limited_to(count: int):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_workers_than_descriptors_allow_are_refused_with_the_numbers_and_the_way_out():
    gc.collect()  # nothing of earlier tests may be closed in between
    here = open_descriptors()
    if here is None:
        pytest.skip("this system does not say what is open")
    limit = here + 64 + 50
    with open_files_limited_to(limit):
        require_descriptors(10)
        wanted = rf"11 processes beside this one take {limit + 5} open files \(5 each\), but the limit is {limit}: needs ulimit -n {limit + 5}, or at most 10 processes"
        with pytest.raises(ResourceError, match=wanted):
            require_descriptors(11)
