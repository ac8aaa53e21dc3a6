"""`veldt chaos` as a user runs it: a real run in real processes, and what it refuses."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from veldt import cli

TOY = "tests.systems.toys:corridor"
FLAGS = shlex.split(
    "--preset cartpole --hidden 32 --batch-size 32 --start-steps 200 --replay-steps 2000 --environments 2 --samples-per-insert 8 "
    "--target-period-updates 50 --eval-episodes 5 --eval-every-steps 500 --log-every-steps 250 --checkpoint-minutes 0.02"
)


def test_a_run_whose_actor_is_killed_and_frozen_and_whose_main_process_is_killed_finishes_and_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    folder = tmp_path / "run"
    asked = ["--steps", "12000", "--events", "3", "--score", "1", "--seed", "6", "--out", str(folder), "--json"]
    status = cli.run(["chaos", "apex", TOY, *FLAGS, *asked])
    report = json.loads(capsys.readouterr().out)
    assert (status, report["problems"]) == (0, [])
    assert sorted((each["fault"]["kind"], each["fault"]["target"].partition(" ")[0]) for each in report["outcomes"]) == [
        ("freeze", "actor"), ("kill", "actor"), ("kill", "run"),
    ]  # fmt: skip
    assert all(each["recovered_seconds"] is not None for each in report["outcomes"])
    assert report["restarts"] == 1
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # multiprocessing's resource tracker stays


REFUSALS = [
    (
        ["dqn", TOY, *FLAGS[:2], "--steps", "2000"],
        "dqn runs inline here, in one process: it has no parts to kill; use --runtime",
    ),
    (["apx", TOY], "did you mean 'apex'?"),
    (["apex"], "veldt chaos needs a system and an environment"),
    (["apex", TOY, "--events", "0"], "events must be >= 1, got 0"),
    (["apex", TOY, "--evnts", "3"], "unknown option 'evnts'; did you mean 'events'?"),
    (["apex", TOY, *FLAGS, "--steps", "2000", "--stuck-seconds", "1"], "stuck_seconds must be above the 2 s"),
    (["apex", TOY, *FLAGS, "--steps", "2000", "--keep-checkpoints", "1"], "keep_checkpoints must be >= 2"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_a_mistake_is_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["chaos", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_a_run_is_refused_in_the_words_of_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--steps", "600", "--quiet", "--out", str(tmp_path / "run")]
    assert cli.run(["train", "apex", TOY, *FLAGS, *small, "--runtime", "inline"]) == 0
    assert cli.run(["chaos", "apex", TOY, *FLAGS, *small]) == 2
    assert "holds a finished run; add --overwrite or choose another --out" in capsys.readouterr().err


def test_help_names_what_is_chaos_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["chaos", "--help"])
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--events", "--score", "--json", "--steps", "--help-all"))
