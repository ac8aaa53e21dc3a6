"""Copies of checkpoints at an fsspec path: whole or passed over, and enough to go on from without the run's folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations

import veldt
from tests.systems.toys import SECONDS, corridor
from veldt.errors import ConfigError, RunFolderError
from veldt.runs.checkpoint import Checkpoints
from veldt.runs.copies import Copies

from .crashing_saves import parts, replay

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def _empty_memory():
    yield
    MEMORY.store.clear()
    MEMORY.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "path", "file"])
def url(request, tmp_path) -> str:
    return {"memory": "memory://bucket/run", "path": str(tmp_path / "there"), "file": f"file://{tmp_path}/there"}[request.param]


def save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(step, parts(step), replay(step)).path


def there(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return sorted(name.rpartition("/")[2] for name in files.ls(root, detail=False) if "ckpt_" in name)


def test_the_last_k_are_kept_and_a_folder_elsewhere_gets_the_newest(url, tmp_path):
    here, copies = Checkpoints(tmp_path / "here", keep=2), Copies(url, keep=2)
    for step in (100, 110, 120):
        copies.put(save(here, step), {})
    assert there(url) == ["ckpt_000000110", "ckpt_000000120"]
    elsewhere = Checkpoints(tmp_path / "elsewhere", keep=2)
    assert Copies(url, keep=2).fetch(elsewhere.folder) == []
    loaded = elsewhere.load_latest()
    assert loaded.step == 120
    assert np.array_equal(loaded.replay["streams"][0]["reward"], replay(120)["streams"][0]["reward"])


def test_what_is_as_new_here_is_not_fetched_and_what_is_damaged_here_is(url, tmp_path):
    here, copies = Checkpoints(tmp_path / "here", keep=2), Copies(url, keep=2)
    path = save(here, 120)
    copies.put(path, {})
    before = (path / "replay.bin").stat().st_ino
    assert copies.fetch(here.folder) == []
    assert (path / "replay.bin").stat().st_ino == before
    (path / "replay.bin").write_bytes(b"?" * (path / "replay.bin").stat().st_size)
    assert copies.fetch(here.folder) == []
    assert here.load_latest().step == 120


class Torn(Exception):
    """The process is gone."""


@pytest.mark.parametrize("after", range(6))
def test_a_copy_that_was_torn_after_any_file_is_passed_over_and_named(url, tmp_path, after, monkeypatch):
    here, copies = Checkpoints(tmp_path / "here", keep=2), Copies(url, keep=2)
    copies.put(save(here, 110), {})
    files = type(copies._files)
    put, sent = files.put_file, []

    def put_some(self, *arguments, **more):
        if len(sent) == after:
            raise Torn
        sent.append(put(self, *arguments, **more))

    monkeypatch.setattr(files, "put_file", put_some)
    with pytest.raises(Torn):
        copies.put(save(here, 120), {})
    monkeypatch.undo()
    elsewhere = Checkpoints(tmp_path / "elsewhere", keep=2)
    passed = Copies(url, keep=2).fetch(elsewhere.folder)
    assert passed == [f"{url}: ckpt_000000120 incomplete; using ckpt_000000110 of {url}"]
    assert elsewhere.load_latest().step == 110


def test_a_second_copy_of_a_name_is_not_whole_before_it_is(url, tmp_path, monkeypatch):
    """A run resumed from an earlier checkpoint comes to the step of one that an abandoned future left there."""
    here, copies = Checkpoints(tmp_path / "here", keep=2), Copies(url, keep=2)
    copies.put(save(here, 110), {})
    copies.put(save(here, 120), {})
    monkeypatch.setattr(type(copies._files), "put_file", lambda *arguments: (_ for _ in ()).throw(Torn()))
    with pytest.raises(Torn):
        copies.put(here.folder / "ckpt_000000120", {})
    monkeypatch.undo()
    elsewhere = Checkpoints(tmp_path / "elsewhere", keep=2)
    copies.fetch(elsewhere.folder)
    assert elsewhere.load_latest().step == 110


def test_a_damaged_copy_is_named_and_the_one_before_it_used(url, tmp_path):
    here, copies = Checkpoints(tmp_path / "here", keep=2), Copies(url, keep=2)
    for step in (110, 120):
        copies.put(save(here, step), {})
    files, root = fsspec.core.url_to_fs(url)
    size = files.size(f"{root}/ckpt_000000120/replay.bin")
    files.pipe_file(f"{root}/ckpt_000000120/replay.bin", b"?" * size)
    elsewhere = Checkpoints(tmp_path / "elsewhere", keep=2)
    assert copies.fetch(elsewhere.folder) == [
        f"{url}: ckpt_000000120/replay.bin checksum mismatch; using ckpt_000000110 of {url}"
    ]
    assert os.listdir(elsewhere.folder) == ["ckpt_000000110"]


def test_without_any_whole_copy_the_refusal_says_what_there_is(url, tmp_path):
    copies = Copies(url, keep=2)
    with pytest.raises(RunFolderError, match=r"no usable checkpoint in .*: there is none"):
        copies.fetch(tmp_path / "here")


def test_a_store_that_fails_costs_the_copy_and_not_the_run(tmp_path, monkeypatch):
    here, copies = Checkpoints(tmp_path / "here", keep=2), Copies("memory://bucket/run", keep=2)

    def fail(*arguments, **more):
        raise OSError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(type(copies._files), "put_file", fail)
    copies.start(tmp_path, save(here, 110))
    assert copies.finish() == "checkpoint ckpt_000000110 not copied to memory://bucket/run: Connection reset by peer"


# ---- whole runs --------------------------------------------------------------------------------------------------------

RUN = {**SECONDS, "steps": 600, "quiet": True, "runtime": "inline"}


def test_a_run_whose_folder_is_lost_goes_on_from_its_copies_as_if_nothing_had_happened(url, tmp_path):
    veldt.train("dqn", corridor, out=tmp_path / "run", checkpoints=url, **RUN)
    first = veldt.resume(tmp_path / "run", steps=1_200, checkpoints=str(tmp_path / "not used"))
    second = veldt.resume(url if "://" in url else f"file://{url}", out=tmp_path / "elsewhere", steps=1_200)
    assert second.progress.steps == first.progress.steps
    assert second.progress.updates == first.progress.updates
    assert second.final_mean == first.final_mean
    assert (tmp_path / "elsewhere" / "metrics.csv").read_text().count("\n") == (
        tmp_path / "run" / "metrics.csv"
    ).read_text().count("\n")
    assert there(url)[-1] == f"ckpt_{second.progress.steps:09d}"


def test_a_place_that_holds_a_run_is_refused_before_there_is_a_folder(url, tmp_path):
    veldt.train("dqn", corridor, out=tmp_path / "run", checkpoints=url, **RUN)
    with pytest.raises(RunFolderError, match=r"holds a run \(newest: ckpt_.*add --overwrite .*veldt train --resume"):
        veldt.train("dqn", corridor, out=tmp_path / "other", checkpoints=url, **RUN)
    assert not (tmp_path / "other").exists()
    veldt.train("dqn", corridor, out=tmp_path / "other", checkpoints=url, overwrite=True, **RUN)
    assert len(there(url)) == 1


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s4://bucket/run", "checkpoints s4://bucket/run: unknown protocol 's4'; fsspec knows s3://, gs://"),
        ("nopackage://bucket/run", r"nopackage:// needs a package that is not installed \(Install nopackage"),
        ("file:///proc/nothing/run", r"checkpoints cannot be written to file:///proc/nothing/run \(No such file"),
    ],
)
def test_where_no_copy_can_be_kept_nothing_is_started(url, text, tmp_path, monkeypatch):
    monkeypatch.setitem(
        known_implementations, "nopackage", {"class": "nopackage_fs.FS", "err": "Install nopackage_fs to access it"}
    )
    with pytest.raises(ConfigError, match=text):
        veldt.train("dqn", corridor, out=tmp_path / "run", checkpoints=url, **RUN)
    assert not (tmp_path / "run").exists()


def test_resuming_from_a_place_without_a_run_is_a_users_mistake():
    code = "import sys, veldt.cli; sys.argv[1:] = ['train', '--resume', 'memory://nothing/here']; veldt.cli.main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "veldt: memory://nothing/here holds no run: expected config.yaml there\n"
