"""Faults in whole runs of Ape-X in processes, as a user starts them: what is said, how they end, how they go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import veldt
from tests.systems.toys import SECONDS, corridor, huge_reward
from veldt.errors import Diverged
from veldt.runs.checkpoint import load_weights
from veldt.runs.metrics import read

SMALL: dict[str, Any] = {
    **SECONDS, "actors": 2, "samples_per_insert": 8.0, "unroll_steps": 5, "pull_period_steps": 15, "quiet": False,
}  # fmt: skip
PATIENCE_SECONDS = 300.0
LINUX = Path("/proc/self/stat").exists()


def command(out: Path, env: str = "corridor", **changes: Any) -> list[str]:
    settings = {**SMALL, "hidden": None, "quiet": None, "out": out, **changes}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
    return [sys.executable, "-m", "veldt.cli", "train", "apex", f"tests.systems.toys:{env}", *flags]


class Running:
    """A run in a process of its own; its output goes to a file."""

    def __init__(self, arguments: list[str], out: Path, **variables: str) -> None:
        self.output = out.with_name(f"{out.name}.txt")
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(arguments, stdout=file, stderr=file, env={**os.environ, **variables})
        self.children: list[int] = []

    @property
    def said(self) -> str:
        return self.output.read_text()

    def until(self, condition: Callable[[], Any]) -> None:
        """Waits for `condition`; the run must go on meanwhile."""
        began = time.monotonic()
        while not condition():
            assert self.process.poll() is None, self.said
            assert time.monotonic() - began < PATIENCE_SECONDS, self.said
            self.children = children(self.process.pid) or self.children
            time.sleep(0.005)  # between two looks

    def send(self, number: int) -> None:
        self.children = children(self.process.pid) or self.children
        self.process.send_signal(number)

    def ends(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit status; nothing of the run is left."""
        status = self.process.wait(seconds)
        until = time.monotonic() + 5.0
        while any(map(lives, self.children)) and time.monotonic() < until:
            time.sleep(0.01)
        assert not [pid for pid in self.children if lives(pid)]
        return status


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def lives(pid: int) -> bool:
    """Whether there is such a process, and it is not only waiting for its parent to notice that it ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    runs: list[Running] = []

    def started(*arguments: Any, **variables: str) -> Running:
        runs.append(Running(*arguments, **variables))
        return runs[-1]

    yield started
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def resume(out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "veldt.cli", "train", "--resume", str(out), *flags]


def steps_of(out: Path) -> list[int]:
    return [int(step) for step in read(out / "metrics.csv")["episodes"].steps]


def steps_saved(checkpoints: Path) -> list[int]:
    """The steps of all checkpoints but those of step 0, when nobody was there yet."""
    return [step for step in (int(path.name.split("_")[1]) for path in checkpoints.glob("ckpt_*")) if step]


pytestmark = pytest.mark.skipif(not LINUX, reason="looks into /proc")


def test_a_run_told_to_end_saves_and_one_that_goes_on_ends_with_the_same_counts_and_no_gap_in_its_table(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    """FAULT 19."""
    out = tmp_path / "run"
    run = start(command(out, steps=20_000, log_every_steps=500), out)
    run.until(
        lambda: (
            (out / "metrics.csv").exists() and len(read(out / "metrics.csv").get("episodes", "")) and steps_of(out)[-1] > 1_500
        )
    )
    run.send(signal.SIGTERM)
    assert run.ends(10.0 + 10.0) == 143
    saved = re.search(r"saved step ([\d,]+); resume with: veldt train --resume (.*)", run.said)
    assert saved is not None, run.said
    assert saved[2] == str(out)
    stopped_at = int(saved[1].replace(",", ""))
    again = start(resume(out, "--steps", str(stopped_at + 2_000)), out)
    assert again.ends() == 0, again.said
    assert f"resumed at step {stopped_at:,}" in again.said
    table = read(out / "metrics.csv")
    steps = steps_of(out)
    assert steps == sorted(set(steps))
    periods = [step // 500 for step in steps[:-1]]
    assert periods == list(range(1, periods[-1] + 1))
    assert stopped_at + 1_980 < steps[-1] <= stopped_at + 2_000
    updates = int(read_last_update(out))
    assert abs((steps[-1] - 200) * 8 - updates * 32) <= 8 * 2 * 5 * 2 * 2 + 32  # what the limiter allows, over both stretches
    assert set(table["eval/return"].steps) >= {500, 1_000} or table["eval/return"].values[-1] == 1.0


def read_last_update(out: Path) -> str:
    return (out / "metrics.csv").read_text().splitlines()[-1].split(",")[1]


def test_kill_9_of_the_main_process_in_a_checkpoint_leaves_no_worker_and_a_run_that_goes_on(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    """FAULTS 17 and 18: the half checkpoint, and later a damaged one, are named, and the one before is used."""
    out, shared = tmp_path / "run", set(os.listdir("/dev/shm"))
    run = start(command(out, steps=50_000, checkpoint_minutes=0), out)
    checkpoints = out / "checkpoints"
    run.until(lambda: steps_saved(checkpoints) and list(checkpoints.glob(".partial_*")))
    run.process.kill()
    assert run.ends() == -signal.SIGKILL
    assert len(run.children) >= 3
    assert set(os.listdir("/dev/shm")) <= shared
    left = [path.name.removeprefix(".partial_") for path in checkpoints.glob(".partial_*")]
    saved = int(sorted(checkpoints.glob("ckpt_*"))[-1].name.split("_")[1])
    goes_on = start(resume(out, "--steps", str(saved + 500), "--checkpoint-minutes", "60"), out)
    assert goes_on.ends() == 0, goes_on.said
    for name in left:  # one, unless the process got to its end between the look and the kill
        assert f"{name} incomplete; using ckpt_" in goes_on.said
    newest = sorted(checkpoints.glob("ckpt_*"))[-1]
    content = bytearray((newest / "replay.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "replay.bin").write_bytes(content)
    again = start(resume(out, "--steps", str(saved + 1_000)), out)
    assert again.ends() == 0, again.said
    assert f"{newest.name}/replay.bin checksum mismatch; using ckpt_{saved:09d}" in again.said


def test_ctrl_c_while_the_workers_are_being_started_ends_the_run_at_once(tmp_path: Path, start: Callable[..., Running]) -> None:
    out = tmp_path / "run"
    run = start(command(out), out)
    run.until(lambda: len(children(run.process.pid)) >= 2)
    began = time.monotonic()
    run.send(signal.SIGINT)
    assert run.ends() == 130
    assert time.monotonic() - began < 10.0
    assert "Traceback" not in run.said
    assert "saved step 0; resume with" in run.said


def test_ctrl_c_before_there_is_a_run_is_no_traceback(tmp_path: Path, start: Callable[..., Running]) -> None:
    out = tmp_path / "run"
    run = start(command(out, env="slow_to_make"), out, VELDT_TEST_FOLDER=str(tmp_path))
    run.until((tmp_path / "being-made").exists)
    run.send(signal.SIGINT)
    assert run.ends() == 130
    assert run.said == "veldt: interrupted\n"
    assert not out.exists()


def test_ctrl_c_in_a_checkpoint_finishes_it_and_a_second_one_ends_the_run_at_once(
    tmp_path: Path, start: Callable[..., Running]
) -> None:
    """FAULT 20."""
    out = tmp_path / "run"
    checkpoints = out / "checkpoints"
    run = start(command(out, steps=50_000, checkpoint_minutes=0), out)
    run.until(lambda: list(checkpoints.glob("ckpt_*")) and list(checkpoints.glob(".partial_*")))
    run.send(signal.SIGINT)
    assert run.ends(20.0) == 130
    assert "saved step" in run.said
    assert not list(checkpoints.glob(".partial_*"))
    again = start(resume(out, "--checkpoint-minutes", "0"), out)
    again.until(lambda: "resumed at step" in again.said and len(children(again.process.pid)) >= 4)
    again.until(lambda: list(checkpoints.glob(".partial_*")))
    again.send(signal.SIGSTOP)  # so that both arrive before it can end
    again.send(signal.SIGINT)
    again.send(signal.SIGTERM)
    again.send(signal.SIGCONT)
    assert again.ends(5.0) in (130, 143)
    stopped = re.search(r"stopped at once: killed (\d) processes; last checkpoint step ([\d,]+)", again.said)
    assert stopped is not None, again.said
    assert int(stopped[1]) == 4


def test_a_signal_does_not_wait_for_the_evaluation_that_ends_a_run(tmp_path: Path, start: Callable[..., Running]) -> None:
    out, slow = tmp_path / "run", {"steps": 1_000, "eval_every_steps": 100_000}
    run = start(command(out, env="endless_evaluation", **slow), out, VELDT_TEST_FOLDER=str(tmp_path))
    run.until((tmp_path / "evaluating").exists)
    began = time.monotonic()
    run.send(signal.SIGINT)
    assert run.ends() == 130
    assert time.monotonic() - began < 10.0
    assert "saved step" in run.said


def test_no_actor_left_ends_the_run_with_the_way_to_resume(tmp_path: Path, start: Callable[..., Running]) -> None:
    """FAULTS 5 and 6."""
    out = tmp_path / "run"
    faults = "actor 0: exit@150x99, actor 1: SIGKILL@150x99"
    run = start(command(out, env="faulty", steps=50_000), out, VELDT_TEST_FAULTS=faults, VELDT_TEST_FOLDER=str(tmp_path))
    assert run.ends() == 1
    assert "actor 0 failed 5× in 60 s; not restarting" in run.said
    assert "actor 1 failed 5× in 60 s; not restarting" in run.said
    assert re.search(
        r"veldt: 0/2 actors; giving up after 8 restarts\. Last: actor \d (killed by signal 9|ended with exit code 3)", run.said
    )
    saved = re.search(r"last checkpoint at step ([\d,]+); to go on from there: veldt train --resume (.*)", run.said)
    assert saved is not None, run.said
    again = start(
        resume(out, "--steps", str(int(saved[1].replace(",", "")) + 300)),
        out,
        VELDT_TEST_FAULTS="",
        VELDT_TEST_FOLDER=str(tmp_path),
    )
    assert again.ends() == 0, again.said


def test_a_full_disk_skips_the_checkpoint_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FAULT 16; on the way, FAULT 12: no unroll is made with the weights of the update before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    try:
        result = veldt.train(
            "apex", corridor, **{**SMALL, "out": disk / "run", "replay_steps": 100_000, "steps": 2_000, "max_lag_updates": 3}
        )
        assert 1_980 < result.progress.steps <= 2_000
        said = capsys.readouterr().out
        assert "checkpoint skipped: " in said
        assert re.search(r"warning: actor \d/unroll \d+ updates old; dropped", said)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_losses_that_are_not_finite_end_the_run_and_keep_the_good_checkpoint(tmp_path: Path) -> None:
    """FAULT 14."""
    settings = {**SMALL, "out": tmp_path / "run", "reward_clip": None, "steps": 50_000, "checkpoint_minutes": 0}
    with pytest.raises(Diverged, match="not finite 10 updates in a row") as caught:
        veldt.train("apex", huge_reward, **settings)
    assert "to go on from there: veldt train --resume" in caught.value.__notes__[0]
    saved = load_weights(tmp_path / "run" / "checkpoints").parts["weights"]
    assert all(bool(tensor.isfinite().all()) for tensor in saved.values())


def test_too_few_descriptors_are_refused_before_anything_starts(tmp_path: Path) -> None:
    """FAULT 22."""
    out = tmp_path / "run"
    limited = ["sh", "-c", 'ulimit -n 150; exec "$@"', "sh", *command(out, actors=40)]
    ran = subprocess.run(limited, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ran.returncode == 2, ran.stderr
    assert re.search(r"41 processes beside this one take \d+ open files \(5 each\), but the limit is 150: needs ", ran.stderr)
    assert "at most " in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not out.exists()
