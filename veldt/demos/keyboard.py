"""A person plays: the environment's picture in a window, one key for one action.

The keys are those that the environment names (`get_keys_to_action`, as in Gymnasium), in MiniGrid the usual ones (arrows, page up and down,
space), and always the digits: 0 is the first action. Escape, or closing the window, ends the recording; whole episodes are kept.

Needs pygame. Refuses actions that are not Discrete, and environments that do not render `rgb_array`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from veldt.data import EnvSpec, Seen
from veldt.envs.families import Env
from veldt.envs.loop import LoopEnvironments
from veldt.envs.rendering import picture, rendering
from veldt.errors import ConfigError

MINIGRID_KEYS = {"left": 0, "right": 1, "up": 2, "page up": 3, "page down": 4, "space": 5, "return": 6}


def playable(env: EnvSpec) -> EnvSpec:
    """`env`, made so that a person can see it.

    Raises:
        ConfigError: pygame is not installed, or actions are not Discrete.
        EnvironmentRefused: it does not render.
    """
    if importlib.util.find_spec("pygame") is None:
        raise ConfigError("a window needs pygame: pip install pygame-ce")
    if env.action.kind != "discrete":
        raise ConfigError(f"the keyboard plays Discrete actions; {env.id} has {env.action}")
    create, family = rendering(env)
    return replace(env, make=partial(LoopEnvironments, create, family, env.observation))


class Keyboard:
    """A person at the keyboard."""

    name = "a person"

    def __init__(self, actions: int) -> None:
        """`actions`: how many there are."""
        import pygame

        pygame.init()
        self._pygame, self._actions = pygame, actions
        self._window: Any = None
        self._keys: dict[int, int] = {}

    def __call__(self, seen: Seen, env: Env | None) -> np.ndarray:
        """Shows the picture and waits for a key that means something.

        Raises:
            KeyboardInterrupt: the person has had enough.
        """
        assert env is not None
        if self._window is None:
            self._keys = self._learn_keys(env)
        self._show(picture(env.render()))
        while True:
            event = self._pygame.event.wait()
            if event.type == self._pygame.QUIT or (event.type == self._pygame.KEYDOWN and event.key == self._pygame.K_ESCAPE):
                raise KeyboardInterrupt
            if event.type == self._pygame.KEYDOWN and event.key in self._keys:
                return np.array([self._keys[event.key]])

    def close(self) -> None:
        """Closes the window."""
        self._pygame.quit()

    def _learn_keys(self, env: Env) -> dict[int, int]:
        code = self._pygame.key.key_code
        keys = {code(str(digit)): digit for digit in range(min(10, self._actions))}
        if type(env.unwrapped).__module__.startswith("minigrid."):
            keys |= {code(name): action for name, action in MINIGRID_KEYS.items() if action < self._actions}
        named = env.get_wrapper_attr("get_keys_to_action")() if env.has_wrapper_attr("get_keys_to_action") else {}
        for pressed, action in named.items():
            if len(pressed) == 1:  # one key at a time
                keys[pressed[0] if isinstance(pressed[0], int) else ord(pressed[0])] = int(action)
        return keys

    def _show(self, frame: np.ndarray) -> None:
        size = frame.shape[1], frame.shape[0]
        if self._window is None or self._window.get_size() != size:
            self._window = self._pygame.display.set_mode(size)
            self._pygame.display.set_caption("veldt demos record: digits act, escape ends")
        self._pygame.surfarray.blit_array(self._window, frame.swapaxes(0, 1))
        self._pygame.display.flip()
