"""A user's mistakes: one line that says what was wrong, the value seen and what would be right; status 2; nothing is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from veldt import cli

CARTPOLE = ["train", "dqn", "CartPole-v1"]

REFUSALS: list[tuple[str, list[str], str]] = [
    ("unknown key", [*CARTPOLE, "--learing-rate", "1"], "unknown option 'learing_rate'; did you mean 'learning_rate'?"),
    ("wrong type", [*CARTPOLE, "--learning-rate", "fast"], "learning_rate must be a number, got str 'fast'"),
    ("fraction of a step", [*CARTPOLE, "--steps", "10.5"], "steps must be an integer, got float 10.5"),
    ("discount", [*CARTPOLE, "--discount", "1.2"], "discount must lie in [0, 1], got 1.2"),
    ("batch > capacity", [*CARTPOLE, "--batch-size", "512", "--replay-steps", "256", "--start-steps", "100"],
     "batch_size 512 exceeds replay.capacity 256"),
    ("start > capacity", [*CARTPOLE, "--replay-steps", "500"], "start_steps 1000 exceeds replay.capacity 500"),
    ("alpha", [*CARTPOLE, "--prioritized", "--priority-exponent", "-1"],
     "priority alpha must be >= 0 and beta in [0, 1]; got alpha=-1"),
    ("beta", [*CARTPOLE, "--prioritized", "--importance-exponent", "1.4"],
     "priority alpha must be >= 0 and beta in [0, 1]; got beta=1.4"),
    ("target period", [*CARTPOLE, "--target-period-updates", "0"], "target_period_updates must be >= 1 update, got 0"),
    ("n-step", [*CARTPOLE, "--n-steps", "0"], "n_steps must be >= 1, got 0"),
    ("epsilon", [*CARTPOLE, "--epsilon-end", "2"], "epsilon_end must lie in [0, 1], got 2"),
    ("seed", [*CARTPOLE, "--seed", "-1"], "seed must be an integer >= 0, got -1"),
    ("device that is not there", [*CARTPOLE, "--device", "cuda:1"],
     "this torch build has no CUDA; use --device cpu or install a CUDA build"),
    ("device that is none", [*CARTPOLE, "--device", "abacus"], "device must be cpu, cuda or cuda:N, got 'abacus'"),
    ("nothing to learn in", [*CARTPOLE, "--preset", "paper", "--steps", "1000"],
     "start_steps 50,000 leaves no step to learn in: the run has 1,000 steps"),
    ("unknown preset", [*CARTPOLE, "--preset", "cartpol"], "unknown preset 'cartpol'; did you mean 'cartpole'?"),
    ("unknown encoder", [*CARTPOLE, "--encoder", "nature"], "network 'nature' needs an image"),
    ("unknown choice", [*CARTPOLE, "--config", "{tmp}/optimizer.yaml"], "optimizer must be one of 'rmsprop', 'adam', 'adagrad', got 'sgd'"),
    ("no such config", [*CARTPOLE, "--config", "{tmp}/none.yaml"], "none.yaml cannot be read: No such file or directory"),
    ("config of another kind", [*CARTPOLE, "--config", "{tmp}/list.yaml"], "must be a mapping of settings, got list"),
    ("too much memory", [*CARTPOLE, "--replay-steps", "1e13"], "replay of 10,000,000,0"),
    ("unknown game", ["train", "dqn", "ALE/Pogn-v5"], "'ALE/Pogn-v5' unknown; nearest 'ALE/Pong-v5'"),
    ("unknown environment", ["train", "dqn", "CartPoel-v1"], "nearest 'CartPole-v1'"),
    ("continuous actions", ["train", "dqn", "Pendulum-v1"],
     "dqn needs Discrete actions, got Box(1,); wrap with Discretize or choose a continuous algorithm"),
    ("unknown system", ["train", "dqm", "CartPole-v1"], "unknown system 'dqm'; did you mean 'dqn'?"),
    ("no environment", ["train", "dqn"], "veldt train needs a system and an environment"),
    ("unknown command", ["trian"], "unknown command 'trian'; did you mean 'train'?"),
    ("resume nothing", ["train", "--resume", "{tmp}/nowhere"], "holds no run"),
    ("resume with an environment", [*CARTPOLE, "--resume", "{tmp}/nowhere"], "leave out 'dqn CartPole-v1'"),
    ("evaluate nothing", ["eval", "{tmp}/nowhere"], "nowhere"),
    ("resources", [*CARTPOLE, "--runtime", "ray", "--actor-resources", "sim"],
     "actor_resources must be written as name=amount,name=amount with amounts > 0, got 'sim'"),
    ("no actors to begin with", [*CARTPOLE, "--runtime", "ray", "--min-actors", "0"], "min_actors must be >= 1, got 0"),
    ("chaos elsewhere", ["chaos", "apex", "CartPole-v1", "--steps", "5000", "--runtime", "ray"],
     "veldt chaos does things to processes of this machine: use --runtime processes"),
    ("no episodes", ["eval", "{tmp}/nowhere", "--episodes", "0"], "episodes must be >= 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_a_mistake_is_refused_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "optimizer.yaml").write_text("optimizer: sgd\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    status = cli.run([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    said = capsys.readouterr().err
    assert message in said
    assert status == 2
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*CARTPOLE, "--steps", "600", "--start-steps", "100", "--quiet", "--out", str(tmp_path / "a")]
    assert cli.run(command) == 0
    assert cli.run(command) == 2
    assert "holds a finished run; add --overwrite or choose another --out" in capsys.readouterr().err
    assert cli.run([*command, "--overwrite"]) == 0


def test_a_resumed_run_may_not_change_what_its_weights_belong_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "a")
    assert cli.run([*CARTPOLE, "--steps", "600", "--start-steps", "100", "--quiet", "--out", folder]) == 0
    resume = ["train", "--resume", folder, "--steps", "1200"]
    assert cli.run([*resume, "--hidden", "64", "64"]) == 2
    said = capsys.readouterr().err
    assert "cannot resume: hyperparameters.hidden [128, 128]→[64, 64] differs; start a new run" in said
    assert cli.run(["train", "--resume", folder]) == 2
    assert "is finished at step" in capsys.readouterr().err
    assert cli.run([*resume, "--quiet"]) == 0


def test_a_mistake_in_a_real_process_prints_no_traceback_and_ends_with_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "veldt.cli", *CARTPOLE, "--discount", "1.2"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "veldt: discount must lie in [0, 1], got 1.2\n"


def test_the_first_help_page_has_at_most_a_dozen_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["train", "--help"])
    first = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(["train", "--help-all"])
    everything = capsys.readouterr().out

    def flags(page: str) -> set[str]:
        return {word.strip("│ ,").split("=")[0] for word in page.split() if word.startswith("--") and "no-" not in word}

    assert 8 <= len(flags(first) - {"--help", "--help-all"}) <= 12
    assert {"--learning-rate", "--target-period-updates", "--life-loss", "--eval-episodes"} <= flags(everything)
