"""Gymnasium's contract for `reset` and `step`, checked on what an environment returned.

Raises `BrokenContract` for what no learner could use: the wrong number of values, rewards and flags that are not
scalars, observations of another structure, shape or kind of number. Bounds are looked at by `Observations.outside`.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from veldt.envs.spaces import BrokenContract, Observations

CAREFUL_STEPS = 100
"""For so many steps of each stream everything is checked; later only what costs nothing."""


def check_reset(answer: Any, observations: Observations) -> None:
    """Checks what `reset()` returned: (obs, info)."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
        raise BrokenContract(f"reset() returned {_count(answer)}; Gymnasium expects 2 (obs, info)")
    if complaint := observations.complaint(answer[0]):
        raise BrokenContract(complaint)


def check_step(answer: Any, observations: Observations) -> None:
    """Checks what `step()` returned: (obs, reward, terminated, truncated, info)."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        expected = "Gymnasium expects 5 (obs, reward, terminated, truncated, info)"
        raise BrokenContract(f"step() returned {_count(answer)}; {expected}")
    obs, reward, terminated, truncated, _ = answer
    if complaint := observations.complaint(obs):
        raise BrokenContract(complaint)
    if np.shape(reward) != () or not isinstance(np.asarray(reward)[()], numbers.Real | np.bool_):
        raise BrokenContract(f"reward must be a number, got {type(reward).__name__} {reward!r}")
    if not math.isfinite(reward):
        raise BrokenContract(f"reward is {reward}")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, bool | np.bool_):
            raise BrokenContract(f"{name} must be a bool, got {type(flag).__name__} {flag!r}")


def _count(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple) else f"one {type(answer).__name__}"
