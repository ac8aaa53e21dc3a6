"""Environments that render: the same environment as a spec's, made so that `render()` gives a picture.

Refuses environments that do not render `rgb_array`, and Atari, whose vector environment does not render at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np

from veldt.data import EnvSpec
from veldt.envs.create import FromRegistry, creator, import_package
from veldt.envs.families import Env, Family, family_of
from veldt.errors import EnvironmentRefused

SMALLEST_SIDE = 240
"""Smaller pictures are enlarged to this many pixels."""


def rendering(env: EnvSpec) -> tuple[Callable[[], Env], Family]:
    """What makes the environment of `env` with pictures of it, and its family.

    Raises:
        EnvironmentRefused: it does not render `rgb_array`.
    """
    if env.id.startswith("ALE/"):
        raise EnvironmentRefused(f"{env.id} does not render: Veldt steps it in ALE's vector environment")
    _, create = creator(env.id)
    if isinstance(create, FromRegistry):
        import_package(create.id)
        made: Callable[[], Env] = partial(gymnasium.make, create.id, render_mode="rgb_array", disable_env_checker=True)
    else:
        made = create
    probe = made()
    try:
        if probe.render_mode != "rgb_array":
            raise EnvironmentRefused(f"{env.id} gives no pictures: its render_mode is {probe.render_mode!r}, not 'rgb_array'")
        return made, family_of(probe)
    finally:
        probe.close()


def picture(frame: object) -> np.ndarray:
    """What an environment renders as uint8 [H, W, 3], enlarged if it is tiny."""
    found = np.asarray(frame)
    if found.dtype != np.uint8:  # MinAtar draws in [0, 1]
        found = (found * 255).astype(np.uint8)
    scale = -(-SMALLEST_SIDE // min(found.shape[:2]))
    return found.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else found
