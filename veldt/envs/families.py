"""The small differences between families of Python environments that `loop.py` steps.

MiniGrid's mission is a sentence (a Text space); it is the same for a whole task and is left out. MinAtar keeps the
last action, which its sticky actions repeat, from one episode to the next; an episode would then depend on more
than its seed. Environments of no known family pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium

Env = gymnasium.Env[Any, Any]


def _unchanged(env: Env) -> None:
    del env


def _forget_last_action(env: Env) -> None:
    env.unwrapped.game.last_action = 0  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Family:
    """ignored: keys of Dict observations that are not stored; before_reset: what to do to an env before each reset."""

    ignored: frozenset[str] = frozenset()
    before_reset: Callable[[Env], None] = _unchanged


FAMILIES = {
    "minigrid": Family(ignored=frozenset({"mission"})),
    "minatar": Family(before_reset=_forget_last_action),
}
"""By the top-level package that defines the innermost environment class."""


def family_of(env: Env) -> Family:
    """The family of `env`, told by the package that defines it, so that wrapped environments are recognised too."""
    return FAMILIES.get(type(env.unwrapped).__module__.partition(".")[0], Family())
