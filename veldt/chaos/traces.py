"""What a run has on this machine: processes, shared memory, descriptors. Read from /proc, so Linux only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PROC, SHARED_MEMORY = Path("/proc"), Path("/dev/shm")

MARK = "VELDT_CHAOS_RUN"
"""An environment variable by whose value a run's processes are known, also those that lost their parent."""


def marked(value: str) -> list[int]:
    """The living processes that were started with `MARK` set to `value`, and all that they started."""
    wanted = f"{MARK}={value}".encode()
    found = []
    for pid in _processes():
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def shared_memory() -> set[str]:
    """The names in /dev/shm."""
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def abandoned(before: set[str]) -> list[str]:
    """The names in /dev/shm that are not of `before` and that no process has mapped."""
    new = shared_memory() - before
    if not new:
        return []
    maps = ""
    for pid in _processes():
        with contextlib.suppress(OSError):
            maps += (PROC / str(pid) / "maps").read_text()
    return sorted(name for name in new if f"{SHARED_MEMORY}/{name}" not in maps)


def descriptors(process: int | str = "self") -> int:
    """How many files, pipes and sockets a process has open; 0 if it is gone."""
    try:
        return len(os.listdir(PROC / str(process) / "fd"))
    except OSError:
        return 0


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir(PROC) if name.isdigit())
