"""Checkpoints survive crashes, full disks and damage, and say what they passed over."""

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import veldt.runs
from veldt.errors import RunFolderError
from veldt.runs import checkpoint, files, manifest
from veldt.runs.checkpoint import Checkpoints, SaveReport, load_weights
from veldt.runs.files import Skipped

from .crashing_saves import parts, replay

FILES = ["weights.safetensors", "state.json", "state.safetensors", "replay.json", "replay.bin", "manifest.json"]


def holds(loaded, step: int) -> bool:
    """Whether `loaded` is exactly what `parts(step)` and `replay(step)` saved."""
    expected = parts(step)
    return (
        loaded.step == step
        and torch.equal(loaded.parts["weights"]["w"], expected["weights"]["w"])
        and loaded.parts["learner"]["updates"] == step
        and np.array_equal(loaded.parts["learner"]["m"], expected["learner"]["m"])
        and (loaded.replay is None or np.array_equal(loaded.replay["streams"][0]["reward"], np.full(256, step)))
    )


@pytest.fixture
def two(tmp_path) -> Checkpoints:
    """Checkpoints of steps 110 and 120."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (110, 120):
        assert isinstance(checkpoints.save(step, parts(step), replay(step)), SaveReport)
    return checkpoints


def test_a_checkpoint_comes_back_with_its_replay_and_the_report_counts_its_bytes(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    report = checkpoints.save(120, parts(120), replay(120))
    assert isinstance(report, SaveReport)
    sizes = {path.name: path.stat().st_size for path in report.path.iterdir()}
    assert sorted(sizes) == sorted(FILES)
    assert report.bytes == sum(sizes.values()) - sizes["manifest.json"]
    assert report.replay_bytes == sizes["replay.bin"] + sizes["replay.json"]
    assert 0 < report.replay_seconds <= report.seconds
    loaded = checkpoints.load_latest()
    assert holds(loaded, 120)
    assert loaded.replay is not None
    assert loaded.warnings == []


def test_without_a_replay_none_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    report = checkpoints.save(5, parts(5), None)
    assert isinstance(report, SaveReport)
    assert report.replay_bytes == 0
    assert checkpoints.load_latest().replay is None


def test_other_tools_read_the_tensors(two):
    path = two.load_latest().path
    assert load_file(path / "weights.safetensors")["w"].tolist() == [120.0] * 64
    assert load_file(path / "state.safetensors")["learner/m"].tolist() == [120] * 64


def test_the_replay_is_read_into_the_memory_that_is_offered(two):
    ring = np.zeros(1000, np.int64)
    asked = []

    def into(path, shape, dtype):
        asked.append((path, shape, dtype))
        return ring[: shape[0]]

    loaded = two.load_latest(into)
    assert asked == [("streams/0/reward", (256,), np.dtype(np.int64))]
    assert ring[:256].tolist() == [120] * 256
    assert np.shares_memory(loaded.replay["streams"][0]["reward"], ring)


def test_memory_of_the_wrong_shape_is_refused(two):
    with pytest.raises(ValueError, match=r"streams/0/reward is int64 \(256,\), but is to be read into float64 \(3,\)"):
        two.load_latest(lambda path, shape, dtype: np.zeros(3))


def test_the_last_k_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in range(1, 7):
        checkpoints.save(step, parts(step), None)
    assert sorted(os.listdir(tmp_path)) == ["ckpt_000000004", "ckpt_000000005", "ckpt_000000006"]


def test_the_same_step_can_be_saved_again_and_the_later_save_counts(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for value in (1, 2, 3):
        checkpoints.save(7, {"weights": {"w": torch.tensor(value)}}, None)
    assert checkpoints.load_latest().parts["weights"]["w"].item() == 3
    assert len(os.listdir(tmp_path)) == 1


def test_a_run_that_resumed_from_an_earlier_step_keeps_what_it_saves(two):
    (two.folder / "ckpt_000000120" / "replay.bin").write_bytes(b"")
    assert two.load_latest().step == 110
    two.save(115, parts(115), None)
    loaded = Checkpoints(two.folder, keep=1).load_latest()
    assert holds(loaded, 115)
    assert loaded.warnings == []


def test_a_crash_at_any_operation_leaves_the_old_or_the_new_checkpoint_whole(tmp_path):
    script = Path(__file__).with_name("crashing_saves.py")
    run = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    crashes = int(run.stdout)
    assert crashes > 30
    steps, named = [], 0
    for k in range(1, crashes + 2):
        left = Checkpoints(tmp_path / str(k), keep=1)
        loaded = left.load_latest()
        assert holds(loaded, loaded.step), k
        assert loaded.replay is not None
        named += loaded.warnings == ["ckpt_000000120 incomplete; using ckpt_000000110"]
        steps.append(loaded.step)
        assert not [path for path in left.folder.iterdir() if path.name.startswith(".")], k
        assert isinstance(left.save(130, parts(130), None), SaveReport)
        assert [path.name for path in left.folder.iterdir()] == ["ckpt_000000130"], k
    assert steps == sorted(steps)
    assert {110, 120} == set(steps)
    assert named > 20


def test_files_are_synced_before_the_manifest_and_all_before_the_rename(two, monkeypatch):
    log, names = [], {}

    def spy(name, function):
        def spied(*args, **kwargs):
            result = function(*args, **kwargs)
            if name == "open":
                names[result] = Path(args[0]).name
            elif name == "fsync":
                log.append(f"sync {names[args[0]]}")
            else:
                log.append(f"rename {Path(args[0]).name}")
            return result

        return spied

    for name in ("open", "fsync", "rename"):
        monkeypatch.setattr(os, name, spy(name, getattr(os, name)))
    two.save(130, parts(130), replay(130))
    partial = ".partial_ckpt_000000130"
    assert log[:5] == [f"sync {name}" for name in FILES[:5]]
    assert log[5:10] == [
        f"sync {partial}",
        "sync manifest.json",
        f"sync {partial}",
        f"rename {partial}",
        f"sync {two.folder.name}",
    ]
    assert log[10:] == ["rename ckpt_000000110"]


def test_a_disk_that_fills_at_any_write_skips_the_checkpoint_and_keeps_the_previous(two, monkeypatch):
    real_write = os.write
    for k in range(1, 100):
        count = 0

        def write(descriptor, data, k=k):
            nonlocal count
            count += 1
            if count == k:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_write(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        result = two.save(130, parts(130), replay(130))
        monkeypatch.setattr(os, "write", real_write)
        if isinstance(result, SaveReport):
            break
        assert result.reason.endswith(" free")
        assert sorted(os.listdir(two.folder)) == ["ckpt_000000110", "ckpt_000000120"]
    assert k - 1 == len(FILES) + 2  # a safetensors file is written in two pieces
    assert holds(two.load_latest(), 130)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_seen_beforehand(small_disk):
    checkpoints = Checkpoints(small_disk, keep=2)
    checkpoints.save(110, parts(110), None)
    result = checkpoints.save(120, parts(120), {"ring": np.ones(1 << 18)})
    assert isinstance(result, Skipped)
    assert result.reason.endswith(" free, 2.1 MB needed")
    assert holds(checkpoints.load_latest(), 110)


def test_a_disk_that_others_fill_meanwhile_skips_the_checkpoint_and_the_next_one_is_saved(small_disk, monkeypatch):
    checkpoints = Checkpoints(small_disk, keep=2)
    checkpoints.save(110, parts(110), None)
    real_free = files.free_bytes
    monkeypatch.setattr(checkpoint, "free_bytes", lambda folder: 1 << 40)
    result = checkpoints.save(120, parts(120), {"ring": np.ones(1 << 18)})
    assert result == Skipped("0 B free")
    assert f"checkpoint skipped: {result.reason}" == "checkpoint skipped: 0 B free"
    assert os.listdir(small_disk) == ["ckpt_000000110"]
    assert holds(checkpoints.load_latest(), 110)
    assert real_free(small_disk) > 900_000
    assert isinstance(checkpoints.save(130, parts(130), None), SaveReport)


def test_a_file_size_limit_skips_the_checkpoint_in_a_real_process(tmp_path):
    code = """if True:
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from veldt.runs.checkpoint import Checkpoints
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        print(Checkpoints(Path(sys.argv[1]), 1).save(1, {"weights": {}}, {"ring": np.ones(1 << 16)}))
    """
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60, check=True)
    assert "Skipped(reason='File too large')" in run.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_file_is_named_and_the_previous_checkpoint_used(two, name):
    path = two.folder / "ckpt_000000120" / name
    content = path.read_bytes()
    for position in (0, len(content) // 2, len(content) - 2):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        loaded = two.load_latest()
        assert holds(loaded, 110)
        (warning,) = loaded.warnings
        assert warning.startswith(f"ckpt_000000120/{name} ")
        assert warning.endswith("; using ckpt_000000110")
        if name != "manifest.json":
            assert "checksum mismatch" in warning


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_and_the_previous_checkpoint_used(two, name):
    path = two.folder / "ckpt_000000120" / name
    size = path.stat().st_size
    os.truncate(path, size // 2)
    loaded = two.load_latest()
    assert holds(loaded, 110)
    wrong = "unreadable" if name == "manifest.json" else f"truncated ({size // 2} of {size} bytes)"
    assert loaded.warnings == [f"ckpt_000000120/{name} {wrong}; using ckpt_000000110"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_makes_a_checkpoint_incomplete(two, name):
    (two.folder / "ckpt_000000120" / name).unlink()
    loaded = two.load_latest()
    assert holds(loaded, 110)
    assert loaded.warnings == ["ckpt_000000120 incomplete; using ckpt_000000110"]


def test_memory_that_changes_while_it_is_saved_does_not_make_a_damaged_checkpoint(tmp_path, monkeypatch):
    ring = np.zeros(100, np.int64)
    real = zlib.crc32

    def crc32_while_an_actor_writes(data, start=0):
        result = real(data, start)
        ring[:] += 1
        return result

    monkeypatch.setattr(files.zlib, "crc32", crc32_while_an_actor_writes)
    Checkpoints(tmp_path, keep=1).save(1, {"weights": {}}, {"ring": ring})
    monkeypatch.undo()
    loaded = Checkpoints(tmp_path, keep=1).load_latest()
    assert len(set(loaded.replay["ring"].tolist())) == 1


def test_with_no_usable_checkpoint_the_error_names_each_one(two):
    (two.folder / "ckpt_000000120" / "manifest.json").unlink()
    os.truncate(two.folder / "ckpt_000000110" / "state.json", 1)
    with pytest.raises(RunFolderError, match=r"ckpt_000000120 incomplete; ckpt_000000110/state.json truncated \(1 of"):
        two.load_latest()


def test_an_empty_folder_has_no_usable_checkpoint(tmp_path):
    with pytest.raises(RunFolderError, match=r"no usable checkpoint in .*: there is none; start a new run"):
        Checkpoints(tmp_path, keep=1).load_latest()


def test_a_checkpoint_of_a_newer_schema_is_refused(two, monkeypatch):
    monkeypatch.setattr(manifest, "SCHEMA", 2)
    two.save(130, parts(130), None)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match=r"^checkpoint schema 2 is newer than 1: upgrade veldt$"):
        two.load_latest()


def test_weights_load_alone_and_change_nothing(two):
    partial = two.folder / ".partial_ckpt_000000130"
    partial.mkdir()
    (two.folder / "ckpt_000000120" / "replay.bin").unlink()
    loaded = load_weights(two.folder)
    assert loaded.step == 120
    assert loaded.parts["weights"]["w"].device.type == "cpu"
    assert list(loaded.parts) == ["weights"]
    assert partial.is_dir()


@pytest.mark.parametrize("weights", [{"w": 3}, {"w": torch.zeros(2, dtype=torch.complex128)}])
def test_weights_that_are_not_plain_tensors_are_refused(tmp_path, weights):
    with pytest.raises(TypeError, match=r"w"):
        Checkpoints(tmp_path, keep=1).save(1, {"weights": weights}, None)
    assert os.listdir(tmp_path) == []


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"keep must be >= 1 checkpoint, got 0"):
        Checkpoints(tmp_path, keep=0)


def test_nothing_in_the_package_can_execute_what_it_reads():
    for path in Path(veldt.runs.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"} & set(imported), path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"np.load", "torch.load", "eval", "exec", "yaml.load", "yaml.unsafe_load"}, path
                assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}, path


def test_the_manifest_is_readable_by_people(two):
    content = json.loads((two.folder / "ckpt_000000120" / "manifest.json").read_text())["content"]
    assert content["schema"] == 1
    assert content["step"] == 120
    assert set(content["files"]) == set(FILES) - {"manifest.json"}
