"""Copies of a run's checkpoints at any fsspec path (s3://bucket/run, gs://..., another disk), from which the run can be resumed elsewhere.

    URL/config.yaml, metrics.csv, policy/...   the small files of the run folder, as of the last copy
    URL/ckpt_000812000/                        the checkpoint; its manifest.json is written last and removed first

Object stores cannot rename, so it is the manifest that makes a copy whole: one without it was torn and is passed over, and what
is fetched is checked against it before it counts. A checkpoint is copied by a thread, while the run goes on; one that cannot be
copied is said to be missing, and the next is tried. Refused before anything starts: unknown protocols, protocols whose
package is missing, places that cannot be written, places that hold a run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec.core
import yaml

from veldt.errors import ConfigError, RunFolderError
from veldt.runs.checkpoint import PARTIAL, name_of, newest_whole
from veldt.runs.files import why_not
from veldt.runs.folder import RunFolder, as_yaml
from veldt.runs.manifest import MANIFEST, Damaged, check_all

SMALL_FILES = ("config.yaml", "differs.yaml", "versions.json", "metrics.csv", "status.json",
               "policy/policy.safetensors", "policy/policy.json")  # fmt: skip
"""Of the run folder, beside checkpoints: what a run that is resumed elsewhere goes on from."""


def is_remote(path: str | Path) -> bool:
    """Whether `path` names something by a protocol, as in s3://bucket/run."""
    return "://" in str(path)


class Copies:
    """The copies of one run's checkpoints at `url`, the last `keep` of them."""

    def __init__(self, url: str, keep: int) -> None:
        """Raises `ConfigError` if nothing is known of such paths."""
        self.url, self._keep = url.rstrip("/"), keep
        self._files, root = _file_system(url)
        self._root = root.rstrip("/")
        self._thread = ThreadPoolExecutor(1, "copies")
        self._under_way: Future[str] | None = None

    def claim(self, config: Mapping[str, Any], overwrite: bool) -> None:
        """Makes the place that of a new run, whose settings are `config`. With `overwrite`, the run that was there is removed.

        Raises:
            ConfigError: nothing can be written there.
            RunFolderError: it holds a run.
        """
        try:
            found = self._names()
            if found and not overwrite:
                raise RunFolderError(
                    f"{self.url} holds a run (newest: {found[0]}); add --overwrite or choose other --checkpoints; "
                    f"to go on: veldt train --resume {self.url}"
                )
            for name in found:
                self._remove(name)
            for small in SMALL_FILES:
                if self._files.exists(f"{self._root}/{small}"):
                    self._files.rm_file(f"{self._root}/{small}")
            self._put("config.yaml", as_yaml(config))
        except RunFolderError:
            raise
        except Exception as error:
            raise ConfigError(
                f"checkpoints cannot be written to {self.url} ({_words(error)}); choose other --checkpoints"
            ) from error

    def start(self, folder: Path, checkpoint: Path) -> None:
        """Begins to copy `checkpoint`, and the small files of the run in `folder`. Nothing may be under way (see `finish`)."""
        assert self._under_way is None
        small = {name: (folder / name).read_bytes() for name in SMALL_FILES if (folder / name).is_file()}
        self._under_way = self._thread.submit(self._copy, checkpoint, small)

    def finish(self) -> str | None:
        """Waits for the copy that is under way; what became of it, if there was one."""
        done, self._under_way = self._under_way, None
        return done.result() if done is not None else None

    def said(self) -> str | None:
        """What became of the copy that was under way, once it is."""
        return self.finish() if self._under_way is not None and self._under_way.done() else None

    def _copy(self, checkpoint: Path, small: Mapping[str, bytes]) -> str:
        started = time.perf_counter()
        try:
            copied = self.put(checkpoint, small)
        except Exception as error:  # whatever a file system may raise: a run does not end of it
            return f"checkpoint {checkpoint.name} not copied to {self.url}: {_words(error)}"
        return f"{checkpoint.name} copied to {self.url}: {copied / 1e6:,.1f} MB in {time.perf_counter() - started:.1f} s"

    def put(self, checkpoint: Path, small: Mapping[str, bytes]) -> int:
        """Copies a checkpoint; how many bytes. Older ones go when it is whole, and so do later ones, of a future that was abandoned."""
        name, copied = checkpoint.name, 0
        self._remove(name)  # one of this name is of an abandoned future: a torn copy must not find its manifest
        files = sorted(checkpoint.iterdir(), key=lambda path: path.name == MANIFEST)
        self._files.makedirs(f"{self._root}/{name}", exist_ok=True)
        for small_name, content in small.items():
            self._put(small_name, content)
        for path in files:
            self._files.put_file(str(path), f"{self._root}/{name}/{path.name}")
            copied += path.stat().st_size
        order = sorted(self._names(), key=name_of)
        place = order.index(name)
        for other in [*order[place + 1 :], *order[: max(0, place + 1 - self._keep)]]:
            self._remove(other)
        return copied

    def fetch(self, checkpoints: Path) -> list[str]:
        """Brings the newest whole copy into the folder `checkpoints`, unless what is whole there is as new; what was passed over.

        Raises:
            RunFolderError: the place cannot be read, and the folder has no checkpoint of its own.
        """
        here = newest_whole(checkpoints)
        passed: list[str] = []
        try:
            for name in self._names():
                if here is not None and name_of(name)[0] <= name_of(here)[0]:
                    break
                try:
                    self._get(name, checkpoints)
                    return [*(f"{text}; using {name} of {self.url}" for text in passed)]
                except Damaged as damage:
                    passed.append(f"{self.url}: {damage}")
        except Exception as error:
            if here is None:
                raise RunFolderError(f"{self.url} cannot be read: {_words(error)}") from error
            passed.append(f"{self.url} cannot be read: {_words(error)}")
        if here is None:
            raise RunFolderError(f"no usable checkpoint in {self.url}: {'; '.join(passed) or 'there is none'}")
        return [f"{text}; using {here} of {checkpoints}" for text in passed]

    def newest(self) -> str | None:
        """The name of the newest copy, whole or not; None if there is none, or nothing can be read."""
        with contextlib.suppress(Exception):
            return next(iter(self._names()), None)
        return None

    def config(self) -> dict[str, Any]:
        """The settings of the run that is kept here. Raises `RunFolderError` if there is none."""
        try:
            found = yaml.safe_load(self._files.cat_file(f"{self._root}/config.yaml"))
        except FileNotFoundError:
            raise RunFolderError(f"{self.url} holds no run: expected config.yaml there") from None
        except Exception as error:
            raise RunFolderError(f"{self.url} cannot be read: {_words(error)}") from error
        return dict(found)

    def make_folder(self, path: Path) -> None:
        """Makes a run folder of what is kept here, but for the checkpoints: those are for `fetch`.

        Raises:
            RunFolderError: there is something at `path` already, it cannot be written, or there is no run here.
        """
        config = self.config()
        if path.exists() and any(path.iterdir()):
            raise RunFolderError(
                f"{path} is not empty; to go on with {self.url}, choose another --out, or resume {path} itself"
            )
        try:
            for name in SMALL_FILES:
                if self._files.exists(f"{self._root}/{name}"):
                    (path / name).parent.mkdir(parents=True, exist_ok=True)
                    (path / name).write_bytes(self._files.cat_file(f"{self._root}/{name}"))
            (path / "config.yaml").write_bytes(as_yaml(config))
        except Exception as error:
            raise RunFolderError(f"{self.url} cannot be brought to {path}: {_words(error)}") from error

    def _names(self) -> list[str]:
        """The checkpoints of which anything is there, newest first."""
        with contextlib.suppress(AttributeError):
            self._files.invalidate_cache()
        try:
            found = [str(entry).rstrip("/").rpartition("/")[2] for entry in self._files.ls(self._root, detail=False)]
        except FileNotFoundError:
            return []
        return sorted((name for name in found if name.startswith("ckpt_")), key=name_of, reverse=True)

    def _put(self, name: str, content: bytes) -> None:
        path = f"{self._root}/{name}"
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(path, content)

    def _get(self, name: str, checkpoints: Path) -> None:
        """Raises `Damaged` if the copy is not whole."""
        partial = checkpoints / f"{PARTIAL}{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            if not self._files.exists(f"{self._root}/{name}/{MANIFEST}"):
                raise Damaged(f"{name} incomplete")
            for file in self._files.ls(f"{self._root}/{name}", detail=False):
                self._files.get_file(file, str(partial / str(file).rpartition("/")[2]))
            check_all(partial, called=name)
            shutil.rmtree(checkpoints / name, ignore_errors=True)  # a damaged one
            os.rename(partial, checkpoints / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _remove(self, name: str) -> None:
        """Removes a copy; at no moment could what is left of it be taken for whole."""
        manifest = f"{self._root}/{name}/{MANIFEST}"
        if self._files.exists(manifest):
            self._files.rm_file(manifest)
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(f"{self._root}/{name}", recursive=True)

    def close(self) -> None:
        """Waits for what is under way."""
        self._thread.shutdown()


def saved_config(where: str | Path) -> dict[str, Any]:
    """The settings of the run in a folder, or at a path of `Copies`."""
    return Copies(str(where), 1).config() if is_remote(where) else RunFolder.open(Path(where)).config()


def _file_system(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        files, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(
            f"checkpoints {url}: {protocol}:// needs a package that is not installed ({error}): install it with pip"
        ) from error
    except ValueError as error:
        known = ", ".join(f"{name}://" for name in ("s3", "gs", "abfs", "hdfs", "sftp"))
        raise ConfigError(f"checkpoints {url}: unknown protocol {protocol!r}; fsspec knows {known}, ..., and paths") from error
    except Exception as error:  # credentials, addresses
        raise ConfigError(f"checkpoints {url}: {_words(error)}") from error
    return files, str(root)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return why_not(error, Path("."))
    return str(error) or type(error).__name__
