"""Who plays when demonstrations are recorded: a scripted expert, BabyAI's bot. For a person see `keyboard.py`.

A scripted expert is any callable, named as `package.module:callable`:

    def expert(obs): ...            what one agent sees, without a batch axis -> an action
    def expert(obs, env): ...       the Gymnasium environment too, unwrapped: for scripts that read more than an agent may see

`obs` is what Veldt's environment shows (frames stacked, if any are); the action is as Veldt stores it, a discrete one counted from 0. An
expert that has to know where an episode starts asks the environment, or is an object that does (`env.step_count == 0` in MiniGrid).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from veldt.data import Seen, tree_map
from veldt.envs.families import Env
from veldt.errors import ConfigError, did_you_mean


class Expert:
    """A scripted expert: a callable of the observation, or of the observation and the environment."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        """Raises `ConfigError` if `function` cannot be called so."""
        self.name, self._function = name, function
        try:
            wanted = [
                parameter
                for parameter in inspect.signature(function).parameters.values()
                if parameter.default is parameter.empty
                and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            ]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"expert {name}: {error}") from error
        if len(wanted) not in (1, 2):
            raise ConfigError(
                f"expert {name} takes {len(wanted)} arguments; it must take the observation, or that and the environment"
            )
        self._wants_env = len(wanted) == 2

    def __call__(self, seen: Seen, env: Env | None) -> np.ndarray:
        """See `recording.Demonstrator`."""
        obs = tree_map(lambda leaf: leaf[0].copy(), seen.obs)
        if self._wants_env and env is None:
            raise ConfigError(
                f"expert {self.name} wants the environment, and there is none in Python; let it take the observation alone"
            )
        try:
            action = self._function(obs, env.unwrapped) if self._wants_env and env is not None else self._function(obs)
        except Exception as error:  # the script's own
            raise ConfigError(f"expert {self.name} raised {type(error).__name__}: {error}") from error
        return np.asarray(action)[None]


def expert(name: str) -> Expert:
    """The expert called `package.module:callable`.

    Raises:
        ConfigError: there is none, or it cannot be called as an expert.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"an expert is named package.module:callable, got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"expert {name!r}: cannot import {module_name}: {error}") from error
    if not callable(getattr(module, attribute, None)):
        raise ConfigError(f"expert {name!r}: {module_name} has no callable {attribute!r}{did_you_mean(attribute, dir(module))}")
    return Expert(getattr(module, attribute), name)


class BabyAIBot:
    """The bot that comes with BabyAI's levels: it plans with what it has seen of the grid so far, and reads the mission."""

    name = "BabyAI's bot"

    def __init__(self) -> None:
        self._bot: Any = None

    def __call__(self, seen: Seen, env: Env | None) -> np.ndarray:
        """See `recording.Demonstrator`."""
        level: Any = None if env is None else env.unwrapped
        if not hasattr(level, "instrs"):
            raise ConfigError("the bot plays BabyAI's levels (BabyAI-...) alone; for another environment write an --expert")
        if seen.first[0]:
            self._bot = importlib.import_module("minigrid.utils.baby_ai_bot").BabyAIBot(level)
        try:
            return np.array([int(self._bot.replan())])
        except Exception as error:  # it does not solve every level
            raise ConfigError(f"BabyAI's bot gave up: {type(error).__name__}: {error}; whole episodes are kept") from error
