"""`veldt doctor`: what this machine has, and what that means for training here."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from dataclasses import dataclass
from typing import Any

import torch

from veldt.replay.streams import available_bytes
from veldt.request import versions

EXTRAS = {
    "minari": "minari",
    "minatar": "minatar",
    "minigrid": "minigrid",
    "mujoco": "mujoco",
    "envpool": "envpool",
    "ray": "ray",
    "video": "imageio_ffmpeg",
}
"""The module that each extra brings."""


@dataclass(frozen=True)
class Examination:
    """What was found, by name, and what deserves a remark."""

    found: dict[str, Any]
    remarks: list[str]

    def json(self) -> str:
        """All of it as JSON."""
        return json.dumps({**self.found, "remarks": self.remarks}, indent=1)

    def __str__(self) -> str:
        lines = [f"{name:<12} {_text(value)}" for name, value in self.found.items()]
        return "\n".join([*lines, *(f"! {remark}" for remark in self.remarks)])


def examine() -> Examination:
    """Looks at this machine."""
    memory = available_bytes()
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found: dict[str, Any] = {
        "system": platform.platform(),
        "versions": versions(),
        "cores": os.cpu_count(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "shm_gb": None if shared is None else round(shared / 1e9, 1),
        "disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "gpus": gpus,
        "atari_games": _atari_games(),
        "extras": {name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()},
    }
    remarks = []
    if memory is not None and memory < 8e9:
        steps = int(0.9 * memory / 7_100)
        remarks.append(f"{memory / 1e9:.1f} GB are free: an Atari replay holds at most {steps:,} steps (replay_steps)")
    if not gpus:
        remarks.append("no GPU that this torch can use: image networks learn on the CPU")
    missing = [name for name, there in found["extras"].items() if not there]
    if missing:
        remarks.append(f"not installed: {', '.join(missing)} (pip install 'veldt[{','.join(missing)}]')")
    return Examination(found, remarks)


def _atari_games() -> int:
    from veldt.envs import ale

    return len(ale.games())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return (
        {True: "yes", False: "no", None: "unknown"}.get(value, str(value))
        if not isinstance(value, int) or isinstance(value, bool)
        else str(value)
    )
