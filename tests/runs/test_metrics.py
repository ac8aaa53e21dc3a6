"""The metrics table has no gap and no row twice, whatever happened to the process that wrote it."""

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from veldt.runs import metrics
from veldt.runs.metrics import MetricsTable

HEADER = "step,update,wall_seconds,name,value\n"


def filled(path, steps, tensorboard=None) -> MetricsTable:
    table = MetricsTable(path, tensorboard)
    for step in steps:
        table.write(step, step // 2, step / 10, {"loss": 1 / step, "train/return": float(step)})
    return table


def test_what_is_written_is_read_at_once_and_exactly(tmp_path):
    table = filled(tmp_path / "m.csv", [3, 7])
    table.write(9, 4, 0.9, {"loss": math.nan, "only": -math.inf})
    series = metrics.read(tmp_path / "m.csv")
    assert series["loss"].steps.tolist() == [3, 7, 9]
    assert series["loss"].values[:2].tolist() == [1 / 3, 1 / 7]
    assert math.isnan(series["loss"].values[2])
    assert series["only"].values.tolist() == [-math.inf]
    assert series["train/return"].wall_seconds.tolist() == [0.3, 0.7]
    assert (tmp_path / "m.csv").read_text().splitlines()[1] == f"3,1,0.300,loss,{1 / 3!r}"
    table.close()


def test_opening_an_existing_table_appends_to_it(tmp_path):
    filled(tmp_path / "m.csv", [1]).close()
    filled(tmp_path / "m.csv", [2]).close()
    assert (tmp_path / "m.csv").read_text().count("step,update") == 1
    assert metrics.read(tmp_path / "m.csv")["loss"].steps.tolist() == [1, 2]


def test_a_table_without_rows_reads_as_no_series(tmp_path):
    MetricsTable(tmp_path / "m.csv").close()
    assert metrics.read(tmp_path / "m.csv") == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8).map(sorted), st.integers(0, 31), st.integers(0, 400))
def test_resuming_at_a_step_leaves_what_an_uninterrupted_run_would_have(tmp_path_factory, steps, resume_step, torn):
    """Cut anywhere after the rows of the checkpoint, truncated, and continued: the same bytes."""
    folder = tmp_path_factory.mktemp("m")
    filled(folder / "whole.csv", steps).close()
    filled(folder / "until.csv", [step for step in steps if step <= resume_step]).close()
    whole = (folder / "whole.csv").read_bytes()
    shortest = (folder / "until.csv").stat().st_size
    (folder / "m.csv").write_bytes(whole[: max(shortest, len(whole) - torn)])
    table = MetricsTable(folder / "m.csv")
    table.truncate_after(resume_step)
    table.close()
    filled(folder / "m.csv", [step for step in steps if step > resume_step]).close()
    assert (folder / "m.csv").read_bytes() == whole


def test_a_torn_last_line_is_not_read_and_is_cut_off_before_appending(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(HEADER + "1,0,0.1,loss,0.5\n2,1,0.2,loss,0.2")
    assert metrics.read(path)["loss"].values.tolist() == [0.5]
    MetricsTable(path).close()
    assert path.read_text() == HEADER + "1,0,0.1,loss,0.5\n"


def test_a_torn_header_is_written_again(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("step,upd")
    MetricsTable(path).close()
    assert path.read_text() == HEADER


def test_a_killed_process_leaves_all_rows_it_has_written(tmp_path):
    code = """if True:
        import os, sys
        from pathlib import Path
        from veldt.runs.metrics import MetricsTable
        table = MetricsTable(Path(sys.argv[1]))
        for step in range(100):
            table.write(step, step, 0.0, {"loss": 1.0})
        os.kill(os.getpid(), 9)
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "m.csv"], timeout=60)
    assert run.returncode == -9
    assert metrics.read(tmp_path / "m.csv")["loss"].steps.tolist() == list(range(100))


def test_a_full_disk_delays_rows_and_loses_none(tmp_path, monkeypatch):
    table = filled(tmp_path / "m.csv", [1])
    real_write, room = os.write, 10

    def write(descriptor, data):
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        count = real_write(descriptor, bytes(data[:room]))
        room -= count
        return count

    monkeypatch.setattr(os, "write", write)
    table.write(2, 1, 0.2, {"loss": 0.5, "train/return": 2.0})
    table.write(3, 1, 0.3, {"loss": 1 / 3, "train/return": 3.0})
    assert table.waiting_bytes > 0
    monkeypatch.setattr(os, "write", real_write)
    table.write(4, 2, 0.4, {"loss": 0.25, "train/return": 4.0})
    assert table.waiting_bytes == 0
    filled(tmp_path / "whole.csv", [1, 2, 3, 4]).close()
    assert (tmp_path / "m.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_process_that_dies_while_it_truncates_leaves_the_whole_table(tmp_path):
    filled(tmp_path / "m.csv", [1, 2, 3]).close()
    before = (tmp_path / "m.csv").read_bytes()
    code = """if True:
        import os, sys
        from pathlib import Path
        from veldt.runs.metrics import MetricsTable
        os.replace = lambda *paths: os._exit(9)
        MetricsTable(Path(sys.argv[1])).truncate_after(1)
    """
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "m.csv"], timeout=60).returncode == 9
    assert (tmp_path / "m.csv").read_bytes() == before
    table = MetricsTable(tmp_path / "m.csv")
    table.truncate_after(1)
    table.close()
    assert metrics.read(tmp_path / "m.csv")["loss"].steps.tolist() == [1]
    assert os.listdir(tmp_path) == ["m.csv"]


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb"])
def test_a_name_that_would_break_a_line_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must do without commas"):
        MetricsTable(tmp_path / "m.csv").write(1, 1, 0.0, {name: 1.0})


def test_tensorboard_shows_the_same_and_forgets_what_came_after_the_resume(tmp_path):
    filled(tmp_path / "m.csv", [1, 2, 3], tmp_path / "tb").close()
    resumed = MetricsTable(tmp_path / "m.csv", tmp_path / "tb")
    resumed.truncate_after(1)
    resumed.write(2, 1, 0.2, {"loss": 7.0})
    resumed.close()
    assert len(os.listdir(tmp_path / "tb")) == 2
    accumulator = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(event.step, event.value) for event in accumulator.Scalars("loss")] == [(1, 1.0), (2, 7.0)]
    assert [event.step for event in accumulator.Scalars("train/return")] == [1]
