"""Saves a second checkpoint and dies at the k-th operation on the file system, for every k, each in its own process.

Run as `crashing_saves.py FOLDER`: makes FOLDER/k/ for k = 1, 2, ... until a save finishes, and prints the number of
crashes. Besides dying, a child loses what a power cut would lose: files it wrote and did not sync are emptied.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from veldt.runs.checkpoint import Checkpoints, SaveReport

OPERATIONS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
CRASHED = 9


def parts(step: int) -> dict:
    return {"weights": {"w": torch.full((64,), float(step))}, "learner": {"updates": step, "m": np.full(64, step)}}


def replay(step: int) -> dict:
    return {"streams": [{"reward": np.full(256, step)}]}


def die_at(k: int) -> None:
    """After k - 1 more operations, the next one ends this process; a write still writes half of its bytes."""
    real = {name: getattr(os, name) for name in OPERATIONS}
    done = 0
    unsynced: dict[int, str] = {}
    lost: set[str] = set()

    def wrap(name):
        def operation(*args, **kwargs):
            nonlocal done
            done += 1
            if done == k:
                if name == "write":
                    real["write"](args[0], args[1][: len(args[1]) // 2])
                for path in lost | set(unsynced.values()):
                    if os.path.isfile(path):
                        os.truncate(path, 0)
                os._exit(CRASHED)
            result = real[name](*args, **kwargs)
            if name == "open" and args[1] & os.O_CREAT:
                unsynced[result] = str(args[0])
            if name == "fsync":
                unsynced.pop(args[0], None)
            if name == "close" and args[0] in unsynced:
                lost.add(unsynced.pop(args[0]))
            if name == "rename":
                moved = {path for path in lost if Path(args[0]) in Path(path).parents}
                lost.difference_update(moved)
                lost.update(str(Path(args[1], Path(path).name)) for path in moved)
            return result

        return operation

    for name in OPERATIONS:
        setattr(os, name, wrap(name))


def main(root: Path) -> None:
    k = 0
    status = CRASHED
    while status == CRASHED:
        k += 1
        folder = root / str(k)
        Checkpoints(folder, keep=1).save(110, parts(110), replay(110))
        child = os.fork()
        if child == 0:
            checkpoints = Checkpoints(folder, keep=1)
            die_at(k)
            report = checkpoints.save(120, parts(120), replay(120))
            os._exit(0 if isinstance(report, SaveReport) else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status
    print(k - 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
