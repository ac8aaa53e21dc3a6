"""What a run survives and what ends it, injected into real runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import veldt
from tests.systems.toys import SMALL, corridor, crashing, nan_reward
from veldt import cli
from veldt.core import Loss, Place
from veldt.data import Batch, Transition
from veldt.errors import Diverged, EnvironmentFailed, Stalled
from veldt.parts.learner import MAX_BAD_UPDATES, Learner
from veldt.parts.optimizers import AdamConfig
from veldt.parts.parameters import LocalParameters
from veldt.runs.checkpoint import Checkpoints
from veldt.runtime.scheduler import stalled


def train(out: Path, env: Any = corridor, **changes: Any) -> veldt.Result:
    return veldt.train("dqn", env, **{**SMALL, "out": out, **changes})


def test_an_environment_that_raises_now_and_then_is_started_again_and_the_run_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VELDT_TEST_CRASH_EVERY", "97")
    result = train(tmp_path / "run", crashing, quiet=False)
    assert result.final_mean == 1.0
    said = capsys.readouterr().out
    assert "ValueError in step" in said
    assert "(restart 1/10): the toy broke" in said


def test_an_environment_that_always_raises_ends_the_run_with_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELDT_TEST_CRASH_EVERY", "1000000")
    train(tmp_path / "run", crashing, steps=1_000)
    monkeypatch.setenv("VELDT_TEST_CRASH_EVERY", "1")
    command = [sys.executable, "-m", "veldt.cli", "train", "--resume", str(tmp_path / "run"), "--steps", "2000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode in (1, 2)
    assert "the toy broke" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_reward_that_is_no_number_ends_the_run_and_names_where(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match=r"env \d step \d+: reward is nan"):
        train(tmp_path / "run", nan_reward)
    assert '"failed"' in (tmp_path / "run" / "status.json").read_text()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", steps=1_000)
    veldt.resume(tmp_path / "run", steps=1_500)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    content = bytearray((newest / "replay.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "replay.bin").write_bytes(content)
    with pytest.warns(UserWarning, match=rf"{newest.name}/replay.bin checksum mismatch; using ckpt_\d+"):
        result = veldt.resume(tmp_path / "run", steps=2_000)
    assert 1_992 < result.progress.steps <= 2_000


def test_a_full_disk_skips_the_checkpoint_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    try:
        result = train(disk / "run", replay_steps=100_000, steps=12_000, eval_every_steps=6_000, quiet=False)
        assert 11_992 < result.progress.steps <= 12_000
        assert "checkpoint skipped: " in capsys.readouterr().out
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Scripted:
    """A memory that always has the same batch."""

    def can_sample(self) -> bool:
        return True

    def sample(self) -> Batch[Transition]:
        ones = torch.ones(4)
        data = Transition(torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), ones, ones, torch.ones(4, 2))
        return Batch(data, ones, np.arange(4))

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        assert np.isfinite(priorities).all()

    def waiting_for(self) -> str:
        return "scripted"


class NotFinite:
    """An objective whose loss is NaN in the updates listed."""

    extras: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, bad: set[int]) -> None:
        self.bad, self.calls = bad, 0

    def __call__(self, online: Any, target: Any, batch: Batch[Transition]) -> Loss:
        self.calls += 1
        value = online(batch.data.obs).square().mean()
        return Loss(value * float("nan") if self.calls in self.bad else value, torch.ones(4), {})


def learner(objective: Any) -> tuple[Learner, torch.nn.Module]:
    made = torch.nn.Linear(2, 2)
    parameters = LocalParameters(
        lambda: made, AdamConfig(1e-2, 0.9, 0.999, 1e-8), max_gradient_norm=None, learning_rate=None, place=Place()
    )
    part = Learner(
        lambda: torch.nn.Linear(2, 2), objective, target_period_updates=None, memory=Scripted(), parameters=parameters,
        place=Place(),
    )  # type: ignore[arg-type]  # fmt: skip
    return part, made


def test_an_update_that_is_not_finite_is_skipped_and_changes_nothing() -> None:
    part, network = learner(NotFinite({2}))
    part.step()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    part.step()
    assert all(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))
    assert (part.updates, part.skipped_updates) == (1, 1)
    part.step()
    assert part.updates == 2
    assert not any(torch.equal(one, two) for one, two in zip(before, network.parameters(), strict=True))


def test_ten_such_updates_in_a_row_end_the_run() -> None:
    part, _ = learner(NotFinite(set(range(3, 100))))
    with pytest.raises(Diverged, match=f"not finite {MAX_BAD_UPDATES} updates in a row"):
        for _ in range(50):
            part.step()
    assert part.updates == 2


def test_nine_such_updates_do_not() -> None:
    part, _ = learner(NotFinite(set(range(3, 3 + MAX_BAD_UPDATES - 1)) | {20}))
    for _ in range(30):
        part.step()
    assert part.skipped_updates == MAX_BAD_UPDATES


def test_a_stall_quotes_what_every_part_waits_for() -> None:
    class Waiting:
        def __init__(self, what: str) -> None:
            self.what = what

        def waiting_for(self) -> str:
            return self.what

    with pytest.raises(Stalled, match=r"no part can make progress:\n  actor: room in the replay\n  learner: 3 of 8 steps"):
        stalled({"actor": Waiting("room in the replay"), "learner": Waiting("3 of 8 steps")})  # type: ignore[dict-item]


def test_a_checkpoint_can_be_left_out_of_nothing(tmp_path: Path) -> None:
    """Every part of the program that has a state is in the checkpoint."""
    train(tmp_path / "run", steps=600)
    loaded = Checkpoints(tmp_path / "run" / "checkpoints", 1).load_latest()
    parts = {"actor", "replay", "learner", "parameters", "evaluator"}
    assert set(loaded.parts["runtime"]) == parts | {"averages", "inserted_steps", "torch_random"}
    assert loaded.replay is not None
    assert cli.run(["eval", str(tmp_path / "run"), "--episodes", "1"]) == 0
