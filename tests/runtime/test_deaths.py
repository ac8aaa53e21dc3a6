"""Faults in real processes: whoever dies, hangs, is frozen or slow is named and replaced, and the run goes on."""

import gc
import os
import random
import re
import resource
import signal
import time
from functools import partial

import pytest

from tests.runtime.programs import actors_and_learner, apex_corridor, goes_right, processes, run_while
from tests.systems.toys import corridor, faulty, noisy, slow
from veldt.errors import RunError, WorkersLost
from veldt.program import Bundle, Node, Program
from veldt.runtime.supervision import RestartLimits

KILLS = 20
"""Actors killed in one run."""


@pytest.fixture
def faults(monkeypatch, tmp_path):
    """Says what the toy `faulty` is to do."""
    monkeypatch.setenv("VELDT_TEST_FOLDER", str(tmp_path))
    return partial(monkeypatch.setenv, "VELDT_TEST_FAULTS")


def descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue
    return found


def test_every_kind_of_end_is_named_and_the_run_reaches_its_score_all_the_same(faults):
    """FAULTS 1 to 4, and 8."""
    faults(
        "actor 0: raise@60, actor 0: reset@120, actor 0: SIGKILL@180, actor 1: exit@100, actor 2: hang@100, evaluation: exit@20"
    )
    runtime = processes(apex_corridor(faulty, 3, evaluator=True), stuck_seconds=3.0)
    crew, since = runtime.switchboard.crew, {}
    wanted = ("actor 0 killed", "actor 1 ended", "actor 2 stuck", "evaluation ended")

    def more(said) -> bool:
        for worker, start in zip(crew, wanted, strict=True):
            if worker.label not in since and any(line.startswith(start) for line in said):
                since[worker.label] = worker.commits
        again = all(worker.commits >= since.get(worker.label, 10**9) + 5 for worker in crew[:3])
        return not (again and len(since) == 4 and crew[3].ready and goes_right(runtime))

    said = run_while(runtime, more)
    told = {start: next(line for line in said if line.startswith(start)) for start in wanted}
    assert any(line.startswith("warning: actor 0/env ") and ": ValueError in step " in line for line in said)
    assert any("(restart 1/10): the toy broke" in line for line in said)
    assert any("OSError in reset (restart 2/10): the toy cannot be reset" in line for line in said)
    assert told["actor 0 killed"].startswith("actor 0 killed by signal 9 (likely out of memory")
    assert told["actor 1 ended"].startswith(
        "actor 1 ended with exit code 3; its last lines: these are my last words; replaced, "
    )
    stuck = told["actor 2 stuck"]
    assert stuck.startswith("actor 2 stuck for 3 s; stack, innermost call first:\n")
    assert stuck.splitlines()[1].endswith("in _do")
    assert "toys.py" in stuck
    assert stuck.splitlines()[-1].startswith("actor 2 killed; replaced, ")
    assert told["evaluation ended"].startswith(
        "evaluation ended with exit code 3; its last lines: these are my last words; replaced"
    )


def kill_again_and_again(kills: int) -> list[int]:
    """A run of three actors of which one is killed so many times, until it has its score and all write again; who was killed."""
    limits = RestartLimits(rate_cap=kills + 1, lifetime_cap=kills + 1, backoff_seconds=0.01, max_backoff_seconds=0.01)
    runtime = processes(apex_corridor(corridor, 3, samples_per_insert=None), restarts=limits)
    crew, choice, pids, commits = runtime.switchboard.crew, random.Random(7), [], {}

    def more(said) -> bool:
        ready = [worker for worker in crew if worker.ready and worker.alive and worker.pid not in pids]
        if len(pids) < kills and len(ready) >= 2 and all(worker.commits for worker in ready):
            victim = choice.choice(ready)
            pids.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)
            commits.update({worker.label: worker.commits for worker in crew})
        again = all(worker.commits > commits.get(worker.label, 0) + 5 for worker in crew)
        return not (len(pids) == kills and again and goes_right(runtime))

    said = run_while(runtime, more)
    assert sum("killed by signal 9" in line for line in said) == kills
    assert sum(worker.budget.deaths for worker in crew) == kills
    return pids


@pytest.mark.parametrize("kills", [KILLS])
def test_kill_9_of_random_actors_again_and_again_neither_keeps_the_score_from_being_reached_nor_leaks(kills):
    shared, open_before = set(os.listdir("/dev/shm")), descriptors()
    pids = kill_again_and_again(kills)
    gc.collect()  # memory stays mapped while an array of it is there
    assert set(os.listdir("/dev/shm")) <= shared
    assert not [left for left in descriptors() - open_before if "memfd" in left or "socket" in left or "pidfd" in left]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_actor_that_is_frozen_for_less_than_the_deadline_goes_on_and_nobody_is_killed():
    runtime = processes(actors_and_learner(2, corridor, samples_per_insert=4.0))
    victim, other = runtime.switchboard.crew
    frozen, thawed = [], []

    def more(said) -> bool:
        if not frozen and victim.commits and other.commits:
            os.kill(victim.pid, signal.SIGSTOP)
            frozen.append((victim.pid, victim.commits, other.commits))
        if frozen and not thawed and other.commits > frozen[0][2] + 50:  # neither the other one nor the learner waits
            assert victim.commits <= frozen[0][1] + 3
            os.kill(victim.pid, signal.SIGCONT)
            thawed.append(victim.commits)
        return not thawed or victim.commits < thawed[0] + 5

    assert run_while(runtime, more) == []
    assert [worker.budget.deaths for worker in runtime.switchboard.crew] == [0, 0]


def test_an_actor_that_crashes_again_and_again_is_quarantined_and_the_others_go_on(faults):
    """FAULT 6; it dies at its first step, which gives no commit."""
    faults("actor 0: exit@1x99")
    limits = RestartLimits(rate_cap=3, backoff_seconds=0.01)
    runtime = processes(actors_and_learner(2, faulty, samples_per_insert=None), restarts=limits)
    bad, good = runtime.switchboard.crew
    after = []

    def more(said) -> bool:
        if bad.quarantined and not after:
            after.append(good.commits)
        return not after or good.commits < after[0] + 5

    said = run_while(runtime, more)
    assert [line.rpartition("; ")[2] for line in said] == ["replaced, 1/2 healthy"] * 2 + ["not restarting, 1/2 healthy"]
    assert "; actor 0 failed 3× in 60 s; not restarting" in said[-1]
    assert bad.commits == 0


def test_when_no_actor_is_left_the_run_ends_even_if_none_ever_wrote(faults):
    """FAULT 5."""
    faults("actor 0: exit@1x99, actor 1: SIGSEGV@1x99")
    limits = RestartLimits(rate_cap=2, backoff_seconds=0.01)
    runtime = processes(actors_and_learner(2, faulty), restarts=limits)
    with pytest.raises(
        WorkersLost,
        match=r"0/2 actors; giving up after 2 restarts\. Last: actor \d (ended with exit code 3|killed by signal 11)",
    ):
        run_while(runtime, lambda said: True)


def test_an_actor_that_cannot_be_built_ends_the_run_with_its_last_words(faults):
    faults("actor: exit@0")
    with pytest.raises(
        RunError, match="actor could not be started: actor ended with exit code 3; its last lines: these are my last"
    ):
        run_while(processes(actors_and_learner(1, faulty)), lambda said: True)


def test_an_actor_that_hangs_while_it_is_built_is_replaced(faults):
    faults("actor: hang@0")
    runtime = processes(actors_and_learner(1, faulty), stuck_seconds=3.0)
    said = run_while(runtime, lambda said: runtime.switchboard.crew[0].commits < 3)
    assert said[0].startswith("actor stuck for 3 s; stack, innermost call first:")
    assert "toys.py" in said[0]


def test_a_slow_actor_is_named_once(monkeypatch):
    """FAULT 7."""
    monkeypatch.setenv("VELDT_TEST_SLOW", "actor 2")
    runtime = processes(actors_and_learner(3, slow, samples_per_insert=None))
    crew = runtime.switchboard.crew
    told = []

    def more(said) -> bool:
        if said and not told:
            told.append([worker.commits for worker in crew])
        return not told or crew[2].commits < told[0][2] + 10

    said = run_while(runtime, more)
    assert len(said) == 1
    who, times, rest = said[0].partition(" slower")[0].rpartition(" ")[0], said[0].split()[2], said[0].partition("slower ")[2]
    assert (who, rest) == ("actor 2", "than median; the others do not wait for it")
    assert float(times.rstrip("×")) >= 4
    assert min(worker.commits for worker in crew[:2]) > 3 * crew[2].commits


def test_a_successor_for_whom_there_are_no_descriptors_is_started_when_there_are():
    """FAULT 22, in the middle of a run."""
    runtime = processes(actors_and_learner(2, corridor, samples_per_insert=None))
    victim, limits, killed = runtime.switchboard.crew[1], resource.getrlimit(resource.RLIMIT_NOFILE), []

    def more(said) -> bool:
        if not killed and victim.commits:
            resource.setrlimit(resource.RLIMIT_NOFILE, (10, limits[1]))
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.commits)
        if any("could not be started" in line for line in said):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return not killed or victim.commits < killed[0] + 5

    try:
        said = run_while(runtime, more)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    wanted = (
        "actor 1 could not be started: Too many open files (this process may open 10 files; ulimit -n raises that); replaced, "
    )
    assert any(line.startswith(wanted) for line in said)


class Absent:
    """A learner that does not sample."""

    seconds: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, *, memory, parameters, place) -> None:
        self.memory = memory

    def step(self) -> bool:
        return False

    def waiting_for(self) -> str:
        return "the device, which is away"

    def metrics(self) -> dict[str, float]:
        return {}


def test_a_stall_says_who_waits_for_what_with_the_counters_and_again_until_it_ends():
    """FAULT 13: inserts are blocked because the learner does not sample."""
    program = actors_and_learner(2, corridor, samples_per_insert=4.0)
    actor, learning = program.bundles
    absent = Node("learner", partial(Absent), {"memory": "replay", "parameters": "parameters"})
    runtime = processes(Program((actor, Bundle("learning", (*learning.nodes[:2], absent)))), stall_seconds=1.0)
    said = run_while(runtime, lambda said: sum("inserts" in line for line in said) < 2)
    first, second = (line for line in said if "inserts" in line)
    inserts = runtime.parts["replay"].inserted_steps
    lines = first.splitlines()
    assert lines[0] in ("no step and no update for 1 s:", "no step and no update for 2 s:")
    counters = f"more samples: inserts {inserts:,}, samples 0, 4 samples per insert, allowed error ±512"
    for number in range(2):
        assert re.search(rf"actor {number} may not write: replay: waits for \d+ {re.escape(counters)}", lines[1])
    assert lines[2] == "  learner: the device, which is away"
    assert "replaced after 60 s" in lines[3]
    assert second.splitlines()[0] > lines[0]


def test_a_stall_for_want_of_inserts_names_the_actor_that_owes_them():
    runtime = processes(actors_and_learner(1, corridor), stall_seconds=1.0)
    victim, frozen = runtime.switchboard.crew[0], []

    def more(said) -> bool:
        if not frozen and runtime.parts["learner"].updates > 10:
            os.kill(victim.pid, signal.SIGSTOP)
            frozen.append(len(said))
        if frozen and len(said) > frozen[0]:
            os.kill(victim.pid, signal.SIGCONT)
            return False
        return True

    said = run_while(runtime, more)[-1]
    assert "ports: actor writes, for " in said
    assert "learner: replay: waits for" in said
    assert "more inserts: inserts " in said


def test_an_actor_that_never_stops_printing_and_a_home_that_is_busy_for_long_do_not_block_each_other():
    runtime = processes(actors_and_learner(2, noisy, samples_per_insert=None))
    crew, busy = runtime.switchboard.crew, []

    def more(said) -> bool:
        if len(busy) < 3 and all(worker.commits > 5 * (len(busy) + 1) for worker in crew):
            busy.append(None)
            until = time.monotonic() + 0.5  # every pipe is full long before that
            while time.monotonic() < until:
                pass
        return len(busy) < 3 or any(worker.commits < 40 for worker in crew)

    assert run_while(runtime, more) == []
    assert all(len(worker.lines) <= 40 for worker in crew)


def test_an_actor_that_does_not_read_its_channel_keeps_nobody_from_going_on_and_ends_with_the_run():
    runtime = processes(actors_and_learner(2, corridor, samples_per_insert=None))
    deaf, other = runtime.switchboard.crew
    sent, pids = [], []

    def more(said) -> bool:
        if not sent and deaf.commits and other.commits:
            os.kill(deaf.pid, signal.SIGSTOP)
            for _ in range(40):
                deaf.channel.send(b"?" * 100_000)  # more than the socket takes
            assert not deaf.channel.flush()
            sent.append(other.commits)
            pids.append(deaf.pid)
        return not sent or other.commits < sent[0] + 50

    run_while(runtime, more)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
