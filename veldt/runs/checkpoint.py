"""Checkpoints: everything a run needs to go on, whole or not at all.

    checkpoints/ckpt_000812000/
        weights.safetensors             the policy's tensors
        state.json, state.safetensors   every other part: optimiser, counters, limiter, selector, random states
        replay.json, replay.bin         the experience, if it was to be saved: the raw bytes of its arrays
        manifest.json                   schema, step, sizes and checksums of the files above; written last

A checkpoint is written into a hidden folder beside, each file synced, and renamed when it is whole; only then do older
ones go. So a crash at any moment leaves the previous or the new one. A damaged one is named and the previous used.
Refused: a checkpoint of a newer schema, a folder without any usable one. A full disk is not an error but a `Skipped`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from veldt.core import State
from veldt.errors import RunFolderError
from veldt.runs.arrays import Entry, Into, check_weights, pieces_of, read_arrays, safetensors_header, table_of
from veldt.runs.files import Piece, Skipped, free_bytes, in_units, sync_folder, why_not, write_stream
from veldt.runs.manifest import Damaged, Manifest, check_all, check_file, read_manifest, write_manifest
from veldt.runs.state import Array, join, split

SPARE_BYTES = 1 << 16
"""Free space asked for beyond the files themselves: folders, the manifest, rounding to blocks."""

_NAME = re.compile(r"ckpt_(\d+)(?:_(\d+))?")
PARTIAL, _DOOMED = ".partial_", ".doomed_"


class SaveReport(NamedTuple):
    """What was saved, how big it is and how long it took; the replay's share of both is named apart."""

    path: Path
    bytes: int
    seconds: float
    replay_bytes: int
    replay_seconds: float


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as it was saved. `parts["weights"]` are the policy's tensors; `warnings` name damaged ones."""

    step: int
    parts: dict[str, State]
    replay: State | None
    path: Path
    warnings: list[str] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run, the last `keep` of them. For the one process that writes them.

    Construction clears away what a crash left half-done; `load_latest` then mentions it.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be >= 1 checkpoint, got {keep}")
        self.folder = folder
        self.keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self._partial = sorted(path.name.removeprefix(PARTIAL) for path in folder.glob(f"{PARTIAL}*"))
        for left_over in [*folder.glob(f"{PARTIAL}*"), *folder.glob(f"{_DOOMED}*")]:
            shutil.rmtree(left_over, ignore_errors=True)

    def save(self, step: int, parts: dict[str, State], replay: State | None) -> SaveReport | Skipped:
        """Saves `parts` (with the policy's tensors as `parts["weights"]`) and the replay as of `step`.

        A full disk, or any other error of the file system, gives `Skipped(reason)`: nothing changed, the previous
        checkpoint is still there, and the run can go on. Checkpoints of later steps, left by a future that was
        abandoned when the run resumed from an earlier one, are removed. Raises `TypeError` for what is not data.
        """
        started = time.perf_counter()
        files = [_weights_file(parts["weights"]), *_state_files({k: v for k, v in parts.items() if k != "weights"})]
        replay_files = _replay_files(replay) if replay is not None else []
        partial: Path | None = None
        try:
            needed, free = sum(file.size_bytes for file in files + replay_files), free_bytes(self.folder)
            if free < needed + SPARE_BYTES:
                return Skipped(f"{in_units(free)} free, {in_units(needed)} needed")
            path = self._new_path(step)
            partial = self.folder / f"{PARTIAL}{path.name}"
            os.mkdir(partial)
            written = {file.name: write_stream(partial / file.name, file.pieces) for file in files}
            replay_started = time.perf_counter()
            written |= {file.name: write_stream(partial / file.name, file.pieces) for file in replay_files}
            replay_seconds = time.perf_counter() - replay_started
            sync_folder(partial)
            write_manifest(partial, Manifest(step, written))
            sync_folder(partial)
            os.rename(partial, path)
            sync_folder(self.folder)
        except OSError as error:
            return Skipped(why_not(error, self.folder))
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)
        self._prune(path)
        sizes = {name: file.size_bytes for name, file in written.items()}
        replay_bytes = sum(sizes[file.name] for file in replay_files)
        seconds = time.perf_counter() - started
        return SaveReport(path, sum(sizes.values()), seconds, replay_bytes, replay_seconds if replay_files else 0.0)

    def load_latest(self, into: Into | None = None) -> Loaded:
        """The newest checkpoint that is whole. `into` gives the replay's arrays their memory; see `arrays.Into`.

        Checksums are verified before anything is read into `into`. Raises `RunFolderError` if no checkpoint is
        usable, or the newest was written by a newer Veldt.
        """
        return _newest(self.folder, self._partial, lambda path, manifest: _read(path, manifest, into))

    def _new_path(self, step: int) -> Path:
        """A name for a checkpoint of `step`: a second one of the same step is its own folder until the first goes."""
        again = [number for _, found, number in _finished(self.folder) if found == step]
        return self.folder / (f"ckpt_{step:09d}_{max(again) + 1}" if again else f"ckpt_{step:09d}")

    def _prune(self, newest: Path) -> None:
        """Removes all but the last `keep`. An error here costs space, not the run: the next save tries again."""
        finished = list(_finished(self.folder))
        order = [path for path, _, _ in finished]
        step_of = {path: step for path, step, _ in finished}
        later = order[: order.index(newest)]
        same = [path for path in order if step_of[path] == step_of[newest] and path != newest]
        earlier = [path for path in order if step_of[path] < step_of[newest]]
        with contextlib.suppress(OSError):
            for path in [*later, *same, *earlier[self.keep - 1 :]]:
                doomed = path.with_name(f"{_DOOMED}{path.name}")
                os.rename(path, doomed)
                shutil.rmtree(doomed)


def load_weights(folder: Path) -> Loaded:
    """The newest policy weights below `folder` (a `checkpoints/` folder), on the CPU, and nothing else.

    Changes nothing, so that it can be used on a run that is going on. Raises like `Checkpoints.load_latest`.
    """
    return _newest(folder, [], _read_weights)


class _File(NamedTuple):
    name: str
    size_bytes: int
    pieces: Iterable[Piece]


def _weights_file(weights: State) -> _File:
    check_weights(weights)
    return _array_file("weights.safetensors", weights, safetensors=True)


def _state_files(parts: dict[str, State]) -> list[_File]:
    skeleton, arrays = split(parts)
    return [_skeleton_file("state.json", skeleton, arrays), _array_file("state.safetensors", arrays, safetensors=True)]


def _replay_files(replay: State) -> list[_File]:
    skeleton, arrays = split(replay)
    return [_skeleton_file("replay.json", skeleton, arrays), _array_file("replay.bin", arrays, safetensors=False)]


def _skeleton_file(name: str, skeleton: Any, arrays: dict[str, Array]) -> _File:
    text = json.dumps({"state": skeleton, "arrays": table_of(arrays)}, allow_nan=False).encode()
    return _File(name, len(text), [text])


def _array_file(name: str, arrays: dict[str, Array], safetensors: bool) -> _File:
    table = table_of(arrays)
    header = safetensors_header(table) if safetensors else b""
    size_bytes = len(header) + sum(entry.size_bytes for entry in table.values())

    def pieces() -> Iterator[Piece]:
        yield header
        yield from pieces_of(arrays, table)

    return _File(name, size_bytes, pieces())


def name_of(name: str) -> tuple[int, int]:
    """The step of the checkpoint called `name`, and its number among those of the step; (-1, 0) if it is no such name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 1)) if match else (-1, 0)


def newest_whole(folder: Path) -> str | None:
    """The name of the newest checkpoint in `folder` that is not damaged. Raises `RunFolderError` for one of a newer Veldt."""
    for path, _, _ in _finished(folder):
        with contextlib.suppress(Damaged):
            check_all(path)
            return path.name
    return None


def _finished(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """The checkpoints in `folder` with their steps and numbers among those of one step, newest first."""
    found = [(path, *name_of(path.name)) for path in folder.glob("ckpt_*") if _NAME.fullmatch(path.name)]
    yield from sorted(found, key=lambda item: item[1:], reverse=True)


def _newest(folder: Path, partial: list[str], read: Callable[[Path, Manifest], Loaded]) -> Loaded:
    """What `read` makes of the newest checkpoint that is not damaged, with a warning for each one passed over."""
    problems = [f"{name} incomplete" for name in partial]
    for path, _, _ in _finished(folder):
        try:
            loaded = read(path, read_manifest(path))
        except Damaged as damage:
            problems.append(str(damage))
        else:
            loaded.warnings.extend(f"{problem}; using {path.name}" for problem in problems)
            return loaded
    found = "; ".join(problems) or "there is none"
    raise RunFolderError(f"no usable checkpoint in {folder}: {found}; start a new run with another --out")


def _read(path: Path, manifest: Manifest, into: Into | None) -> Loaded:
    check_all(path)
    try:
        parts = {"weights": _tensors(path), **_read_state(path, "state.json", "state.safetensors", None)}
        replay = _read_state(path, "replay.json", "replay.bin", into) if "replay.bin" in manifest.files else None
    except OSError as error:
        raise Damaged(f"{path.name}: {why_not(error, path)}") from error
    return Loaded(manifest.step, parts, replay, path)


def _read_weights(path: Path, manifest: Manifest) -> Loaded:
    check_file(path, manifest, "weights.safetensors")
    return Loaded(manifest.step, {"weights": _tensors(path)}, None, path)


def _tensors(path: Path) -> State:
    from safetensors.torch import load_file

    return dict(load_file(path / "weights.safetensors", device="cpu"))


def _read_state(path: Path, skeleton_file: str, array_file: str, into: Into | None) -> State:
    content = json.loads((path / skeleton_file).read_text())
    table = {
        name: Entry(dtype, tuple(shape), offset, size_bytes)
        for name, (dtype, shape, offset, size_bytes) in content["arrays"].items()
    }
    state: State = join(content["state"], read_arrays(path / array_file, table, into))
    return state
