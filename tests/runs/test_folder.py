"""A run folder is made once, written by one process, and says what it holds."""

import json
import os
import subprocess
import sys

import pytest

from veldt.errors import RunFolderError
from veldt.runs import files
from veldt.runs.changes import Difference, differences, refuse_changes
from veldt.runs.folder import RunFolder

CONFIG = {"system": "dqn", "learning_rate": 1e-05, "network": {"hidden": (256, 128), "dueling": True}, "note": "é"}


def make(path, **options) -> RunFolder:
    return RunFolder.create(path, CONFIG, {"learning_rate": 1e-05}, {"veldt": "0.1.0"}, **options)


def test_what_is_created_can_be_opened(tmp_path):
    make(tmp_path / "a").close()
    folder = RunFolder.open(tmp_path / "a")
    assert folder.config() == {**CONFIG, "network": {"hidden": [256, 128], "dueling": True}}
    assert folder.differs() == {"learning_rate": 1e-05}
    assert folder.versions() == {"veldt": "0.1.0"}
    assert folder.status() == {"state": "running", "step": 0, "pid": os.getpid()}


@pytest.mark.parametrize(
    ("state", "called"),
    [
        ("finished", "a finished run"),
        ("interrupted", "an interrupted run"),
        ("failed", "a failed run"),
        ("running", "an unfinished run"),
    ],
)
def test_a_folder_that_holds_a_run_is_refused_with_the_ways_out(tmp_path, monkeypatch, state, called):
    monkeypatch.chdir(tmp_path)
    path = (tmp_path / "runs/a").relative_to(tmp_path)
    folder = make(path)
    folder.set_status(state, 500, best_return=21.0)
    folder.close()
    message = f"runs/a holds {called}; add --overwrite or choose another --out; to go on: veldt train --resume runs/a"
    with pytest.raises(RunFolderError) as refused:
        make(path)
    assert str(refused.value) == message
    assert RunFolder.open(path).status()["best_return"] == 21.0


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    folder = make(tmp_path)
    for made in (folder.checkpoints_path, folder.policy_path, folder.tensorboard_path):
        made.mkdir()
        (made / "old").touch()
    folder.metrics_path.touch()
    (tmp_path / "notes.txt").write_text("mine")
    folder.close()
    make(tmp_path, overwrite=True).close()
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "differs.yaml", "notes.txt", "status.json", "versions.json"]


def test_files_of_somebody_else_are_never_overwritten(tmp_path):
    (tmp_path / "config.yaml").write_text("theirs")
    with pytest.raises(RunFolderError, match=r"holds config.yaml, but not of a run; choose another --out"):
        make(tmp_path, overwrite=True)
    assert (tmp_path / "config.yaml").read_text() == "theirs"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(RunFolderError, match=r"a cannot be written \(File exists\); choose another --out"):
        make(tmp_path / "a")


def test_a_run_in_progress_can_be_neither_resumed_nor_overwritten_until_its_process_dies(tmp_path):
    code = """if True:
        import sys
        from pathlib import Path
        from veldt.runs.folder import RunFolder
        folder = RunFolder.create(Path(sys.argv[1]), {}, {}, {})
        print("ready", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        for attempt in (lambda: RunFolder.resume(tmp_path), lambda: make(tmp_path, overwrite=True)):
            with pytest.raises(RunFolderError, match=rf"holds a run in progress \(pid {child.pid}\)"):
                attempt()
        assert RunFolder.open(tmp_path).status()["state"] == "running"
        child.kill()
    RunFolder.resume(tmp_path).close()


@pytest.mark.parametrize("attempt", [RunFolder.open, RunFolder.resume])
def test_a_folder_without_a_run_cannot_be_opened(tmp_path, attempt):
    with pytest.raises(RunFolderError, match=r"holds no run: expected config.yaml and status.json"):
        attempt(tmp_path / "nothing")


def test_a_damaged_config_is_named(tmp_path):
    make(tmp_path).close()
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(RunFolderError, match=r"config.yaml cannot be read"):
        RunFolder.open(tmp_path).config()


def test_a_full_disk_leaves_the_last_status(tmp_path, monkeypatch):
    folder = make(tmp_path)
    folder.set_status("running", 100)

    def full(path, pieces):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_stream", full)
    assert folder.set_status("finished", 200) is False
    assert folder.status()["step"] == 100
    folder.close()


def test_a_status_is_replaced_whole(tmp_path):
    folder = make(tmp_path)
    before = (tmp_path / "status.json").open()
    assert folder.set_status("finished", 9)
    assert json.load(before)["step"] == 0
    assert folder.status()["step"] == 9
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    folder.close()


def test_differences_name_dotted_keys_with_both_values():
    old = {"network": {"hidden": [256], "act": "relu"}, "gone": 1, "same": (1, 2)}
    new = {"network": {"hidden": [512], "act": "relu"}, "same": [1, 2], "made": None}
    assert differences(old, new) == [
        Difference("network.hidden", [256], [512]),
        Difference("gone", 1, "unset"),
        Difference("made", "unset", None),
    ]


def test_a_resume_with_another_network_is_refused():
    old = {"network": {"hidden": 256}, "env": "CartPole-v1", "learning_rate": 1e-3}
    with pytest.raises(RunFolderError) as refused:
        refuse_changes(old, {**old, "network": {"hidden": 512}, "learning_rate": 1e-4}, ["network", "env"])
    assert str(refused.value) == "cannot resume: network.hidden 256→512 differs; start a new run or --init-from"
    with pytest.raises(RunFolderError, match=r"network.hidden 256→64, env CartPole-v1→Acrobot-v1 differ;"):
        refuse_changes(old, {**old, "network": {"hidden": 64}, "env": "Acrobot-v1"}, ["network", "env"])


def test_a_resume_may_change_what_is_not_fixed():
    refuse_changes({"steps": 10, "environment_steps": 1}, {"steps": 20, "environment_steps": 2}, ["env", "network"])
