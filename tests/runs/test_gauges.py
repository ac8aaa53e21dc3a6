"""What the monitor measures of a run of several processes: the speeds of actors, what everybody's time goes to, maxima."""

import time

from rich.console import Console

from tests.runtime.programs import actors_and_learner
from tests.systems.toys import corridor
from veldt.runs.display import LivePanel, Quiet
from veldt.runs.gauges import since
from veldt.runs.metrics import MetricsTable, read
from veldt.runs.monitor import Monitor
from veldt.runs.options import RunOptions
from veldt.runtime.processes import ProcessRuntime
from veldt.runtime.remote import RemotePart
from veldt.runtime.supervision import RESTARTS, Supervised
from veldt.runtime.worker import Report

PATIENCE_SECONDS = 90.0


def test_a_maximum_is_the_largest_of_all_reports_since_it_was_read():
    part = RemotePart(Supervised("actor 0", "actor", RESTARTS, "some"), "actor 0")
    for lag in (1.0, 5.0, 2.0):
        values = {"policy_lag_updates": lag, "policy_lag_updates_max": lag}
        part.take(Report({"actor 0": {}}, {"actor 0": values}, memories={}, resident_bytes=0))
    assert part.metrics() == {"policy_lag_updates": 2.0, "policy_lag_updates_max": 5.0}
    assert part.metrics() == {"policy_lag_updates": 2.0, "policy_lag_updates_max": 2.0}


def test_seconds_of_a_process_that_was_replaced_do_not_run_backwards():
    assert since({"environment": 5.0}, {"environment": 7.0}) == {"environment": 2.0}
    assert since({"environment": 5.0}, {"environment": 1.0}) == {"environment": 1.0}


def test_a_run_of_several_processes_is_measured(tmp_path):
    program = actors_and_learner(2, corridor, samples_per_insert=1.0, evaluator=True)
    runtime = ProcessRuntime(program, seed=1, device="cpu", lockstep=False, stuck_seconds=60.0)
    replay, began = runtime.parts["replay"], time.monotonic()
    monitor = Monitor(
        runtime.parts, [replay], runtime.parts["parameters"], RunOptions(steps=10_000_000, log_every_steps=100),
        MetricsTable(tmp_path / "metrics.csv"), Quiet(),
        frames_per_step=1, on_best=lambda evaluation: None, on_checkpoint=lambda: None,
    )  # fmt: skip
    monitor.read_gauges()

    def more() -> bool:
        assert time.monotonic() - began < PATIENCE_SECONDS
        progress = monitor.progress()
        measured = progress.learning.actors and all(actor.lag_updates is not None for actor in progress.actors)
        return monitor.after_round() and not measured

    try:
        runtime.run(more)
        monitor.read_gauges()
        progress = monitor.progress()
        acted = [runtime.parts[name].steps for name in ("actor 0", "actor 1")]
    finally:
        runtime.close()
    assert sum(acted) == progress.steps
    assert [actor.restarts for actor in progress.actors] == [0, 0]
    assert all(actor.steps_per_second > 0 for actor in progress.actors)
    assert {"learning", "sampling replay", "updating parameters", "waiting for actors", "other"} == set(progress.learning.home)
    assert {"environment", "inference", "writing streams", "waiting"} == set(progress.learning.actors)
    for shares in (progress.learning.home, progress.learning.actors):
        assert 0.99 < sum(shares.values()) < 1.01
    table = read(tmp_path / "metrics.csv")
    assert table["restarts"].values[-1] == 0
    assert (table["policy_lag_updates_max"].values >= table["policy_lag_updates"].values).all()
    panel = LivePanel("a run")
    try:
        console = Console(width=118)
        with console.capture() as captured:
            console.print(panel._draw(progress))
    finally:
        panel.close()
    assert "0 restarts" in captured.get()
