"""Files that survive a crash: streams with a checksum, whole-or-not-at-all replacement, appending to a full disk.

The only place in `veldt.runs` that writes. It does not decide what a full disk means: callers turn the `OSError`
into words with `why_not` and go on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CHUNK_BYTES = 4 << 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

Piece = memoryview | bytes
"""Bytes to write; a memoryview is of single bytes."""


class Skipped(NamedTuple):
    """Something was not saved, and what was there before still is. `reason` completes `checkpoint skipped: ...`."""

    reason: str


class Written(NamedTuple):
    """A file as it was written: its size, and the CRC-32 of its bytes."""

    size_bytes: int
    crc32: int


def write_stream(path: Path, pieces: Iterable[Piece]) -> Written:
    """Writes `pieces` one after the other into the new file `path`, and syncs it.

    Each chunk is copied once before it is summed and written, so that memory which somebody else is writing (a replay
    ring, Hogwild weights) cannot make the file disagree with its checksum.
    """
    size_bytes, crc32 = 0, 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for piece in pieces:
            for start in range(0, len(piece), CHUNK_BYTES):
                chunk = bytes(piece[start : start + CHUNK_BYTES])
                crc32 = zlib.crc32(chunk, crc32)
                size_bytes += len(chunk)
                _write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Written(size_bytes, crc32)


def measure(path: Path) -> Written:
    """The size and CRC-32 of a file as it is now."""
    size_bytes, crc32 = 0, 0
    chunk = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(chunk):
            crc32 = zlib.crc32(memoryview(chunk)[:count], crc32)
            size_bytes += count
    return Written(size_bytes, crc32)


def replace_file(path: Path, pieces: Iterable[Piece]) -> None:
    """Makes `path` hold `pieces`: whoever reads it, also after a crash, sees all of the old or all of the new bytes.

    Not for two writers of the same file at once.
    """
    beside = path.with_name(f".{path.name}.partial")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    try:
        write_stream(beside, pieces)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable: files created, renamed or removed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """What this user may still write into the file system of `folder`."""
    return shutil.disk_usage(folder).free


def why_not(error: OSError, folder: Path) -> str:
    """Why something could not be written, in a few words: `0 B free` for a full disk."""
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            return f"{in_units(free_bytes(folder))} free"
    return (error.strerror or str(error)) + (f": {error.filename}" if error.filename else "")


def in_units(size_bytes: int) -> str:
    """A size for people: `0 B`, `64.0 kB`, `7.1 GB` (powers of 1000)."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class Appender:
    """Appends to a file and outlives a full disk: what does not fit waits in memory, in order, for the next write."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._waiting = bytearray()

    @property
    def waiting_bytes(self) -> int:
        """What the disk has not taken yet."""
        return len(self._waiting)

    def write(self, data: bytes) -> None:
        """Appends `data`, after whatever was waiting. Any error but a full disk is raised."""
        self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Hands what is waiting to the operating system."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._descriptor, self._waiting)]
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise

    def sync(self) -> None:
        """Makes what was written durable."""
        self.flush()
        with contextlib.suppress(OSError):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Writes what the disk takes, and closes the file. The appender cannot be used afterwards."""
        self.flush()
        os.close(self._descriptor)


def _write_all(descriptor: int, chunk: bytes) -> None:
    written = os.write(descriptor, chunk)
    while written < len(chunk):
        written += os.write(descriptor, memoryview(chunk)[written:])
