"""The folder of a run: where everything is, what state the run is in, and who may write there.

    config.yaml     the resolved config         metrics.csv    see `runs.metrics`
    differs.yaml    what differs from defaults  tensorboard/   the same as events
    versions.json   of Veldt and what it uses   checkpoints/   see `runs.checkpoint`
    status.json     state, step, return, pid    policy/        the best policy, see `runs.policy`
                                                curve.png      see `runs.report`

One process at a time writes, and holds a lock that ends with it, however it ends. Refused: a new run where there is
one, resuming or overwriting a run in progress, overwriting what is not a run, folders that cannot be written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from veldt.errors import RunFolderError
from veldt.runs.files import DISK_FULL, replace_file

RunState = Literal["running", "finished", "interrupted", "failed"]

_FILES = ("config.yaml", "differs.yaml", "versions.json", "metrics.csv", "status.json", "curve.png")
_FOLDERS = ("tensorboard", "checkpoints", "policy")
_CALLED = {"finished": "a finished run", "interrupted": "an interrupted run", "failed": "a failed run"}


class RunFolder:
    """A run's folder. Use `create` for a new run, `resume` to go on with one, `open` to read. Close the first two."""

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.metrics_path = path / "metrics.csv"
        self.tensorboard_path = path / "tensorboard"
        self.checkpoints_path = path / "checkpoints"
        self.policy_path = path / "policy"
        self.curve_path = path / "curve.png"
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        differs: Mapping[str, Any],
        versions: Mapping[str, str],
        overwrite: bool = False,
    ) -> RunFolder:
        """Makes the folder of a new run, locked. With `overwrite`, a run that was there is removed, its files only.

        Raises `RunFolderError` if the folder holds a run (unless `overwrite`), a run in progress, files of these names
        that are not of a run, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path, _lock(path))
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
        try:
            folder._make_room(overwrite)
            folder.set_status("running", 0)
            replace_file(folder.config_path, [as_yaml(config)])
            replace_file(path / "differs.yaml", [as_yaml(differs)])
            replace_file(path / "versions.json", [json.dumps(dict(versions), indent=1).encode()])
        except OSError as error:
            folder.close()
            raise RunFolderError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run, to read. Raises `RunFolderError` if there is none."""
        if not (path / "status.json").is_file() or not (path / "config.yaml").is_file():
            raise RunFolderError(f"{path} holds no run: expected config.yaml and status.json there")
        return cls(path)

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """The folder of a run, locked, to go on with it. Raises `RunFolderError` if it is in progress already."""
        cls.open(path)
        try:
            return cls(path, _lock(path))
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written ({error.strerror})") from error

    def config(self) -> dict[str, Any]:
        """The resolved config, as saved: tuples have become lists."""
        return self._yaml("config.yaml")

    def differs(self) -> dict[str, Any]:
        """The values of the config that are not the defaults."""
        return self._yaml("differs.yaml")

    def versions(self) -> dict[str, str]:
        """The versions of what wrote the run, by package."""
        versions: dict[str, str] = json.loads((self.path / "versions.json").read_text())
        return versions

    def status(self) -> dict[str, Any]:
        """The last status set: `state`, `step`, `pid` and whatever else was given."""
        try:
            status: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        except ValueError as error:
            raise RunFolderError(f"{self.path}/status.json is damaged: {error}") from error
        return status

    def set_status(self, state: RunState, step: int, **more: Any) -> bool:
        """Replaces the status; `more` is JSON, such as `best_return`. False if the disk is full: the old one stays."""
        status = {"state": state, "step": step, "pid": os.getpid(), **more}
        try:
            replace_file(self.path / "status.json", [json.dumps(status, indent=1).encode()])
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            return False
        return True

    def close(self) -> None:
        """Lets others write. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_room(self, overwrite: bool) -> None:
        """Refuses a folder that is not free; with `overwrite`, removes the run in it, status last."""
        present = [name for name in (*_FILES, *_FOLDERS) if (self.path / name).exists()]
        if "status.json" in present:
            if not overwrite:
                kind = _CALLED.get(self.status().get("state", ""), "an unfinished run")
                raise RunFolderError(
                    f"{self.path} holds {kind}; add --overwrite or choose another --out; "
                    f"to go on: veldt train --resume {self.path}"
                )
        elif present:
            raise RunFolderError(f"{self.path} holds {present[0]}, but not of a run; choose another --out")
        for name in _FOLDERS:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        for name in _FILES:
            if name != "status.json":
                (self.path / name).unlink(missing_ok=True)

    def _yaml(self, name: str) -> dict[str, Any]:
        try:
            return yaml.safe_load((self.path / name).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RunFolderError(f"{self.path}/{name} cannot be read: {error}") from error


def as_yaml(config: Mapping[str, Any]) -> bytes:
    """Settings as they stand in a file."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode()


def _lock(path: Path) -> int:
    """Locks the folder for this process, until the descriptor is closed or the process ends.

    Raises `RunFolderError` if another process holds it. On a file system without locks, the folder is not locked.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        pid = ""
        with contextlib.suppress(OSError, ValueError, KeyError):
            pid = f" (pid {json.loads((path / 'status.json').read_text())['pid']})"
        raise RunFolderError(f"{path} holds a run in progress{pid}; end it first or choose another --out") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF):
            os.close(descriptor)
            raise
    return descriptor
