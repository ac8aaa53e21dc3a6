"""The commands as a user types them: what they print, and their machine-readable forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import veldt
from veldt import cli


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    command = ["train", "dqn", "CartPole-v1", "--steps", "1500", "--start-steps", "200", "--seed", "3", "--out", str(folder)]
    assert cli.run([*command, "--quiet"]) == 0
    return folder


def test_training_says_what_it_reached_what_bound_it_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    config = tmp_path / "settings.yaml"
    config.write_text("start-steps: 100\nhidden: [16]\nsteps: 800\n")
    arguments = ["train", "dqn", "CartPole-v1", "--config", str(config), "--steps", "600", "--out", str(folder)]
    assert cli.run(arguments) == 0
    said = capsys.readouterr().out
    assert "return, evaluation:" in said
    assert "steps/s" in said
    assert "bound by: " in said
    assert f"run folder: {folder}" in said
    for following in ("veldt eval", "veldt train --resume", "tensorboard --logdir"):
        assert f"{following} {folder}" in said
    assert veldt.load(folder).about["hyperparameters"]["hidden"] == [16]
    assert veldt.load(folder).about["run"]["steps"] == 600  # flags win over the file, the file over the preset


def test_a_run_folder_holds_all_it_should(run_folder: Path) -> None:
    names = {path.name for path in run_folder.iterdir()}
    assert names == {
        "config.yaml", "differs.yaml", "versions.json", "status.json", "metrics.csv", "tensorboard", "checkpoints", "policy",
        "curve.png",
    }  # fmt: skip
    assert (run_folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run_folder / "status.json").read_text())["state"] == "finished"
    differs = (run_folder / "differs.yaml").read_text()
    assert "learning_rate" in differs
    assert "discount" not in differs


def test_evaluation_repeats_itself_and_speaks_json(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for seed in ("1", "1", "2"):
        assert cli.run(["eval", str(run_folder), "--episodes", "5", "--seed", seed, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["returns"] != found[2]["returns"]
    assert found[0]["episodes"] == len(found[0]["returns"]) == 5
    assert cli.run(["eval", str(run_folder), "--episodes", "2"]) == 0
    assert "CartPole-v1, policy of step" in capsys.readouterr().out


def test_evaluation_films_an_episode(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    video = tmp_path / "film.mp4"
    assert cli.run(["eval", str(run_folder), "--episodes", "1", "--video", str(video)]) == 0
    assert video.read_bytes()[4:8] == b"ftyp"


def test_a_video_that_is_no_mp4_is_refused(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("imageio_ffmpeg")
    assert cli.run(["eval", str(run_folder), "--episodes", "1", "--video", "film.gif"]) == 2
    assert "video must be an .mp4 file, got 'film.gif'" in capsys.readouterr().err


def test_the_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cores"] >= 1
    assert found["versions"]["torch"]
    assert set(found["extras"]) == {"minari", "minatar", "minigrid", "mujoco", "envpool", "video", "ray"}
    assert cli.run(["doctor"]) == 0
    assert "atari_games" in capsys.readouterr().out


def test_checking_an_environment_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check-env", "CartPole-v1", "--steps", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert cli.run(["check-env", "NoSuchThing-v0"]) == 1
    assert "'NoSuchThing-v0' unknown" in capsys.readouterr().out


def test_a_policy_acts_on_observations(run_folder: Path) -> None:
    import numpy as np

    policy = veldt.load(run_folder)
    actions = policy.act(np.zeros((7, 4), np.float32), epsilon=0.0)
    assert actions.shape == (7,)
    assert set(actions) <= {0, 1}


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "veldt train SYSTEM ENV" in capsys.readouterr().out
