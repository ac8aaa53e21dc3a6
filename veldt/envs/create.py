"""From what a user names (an id, 'package.module:callable', a callable) to something picklable that makes one env.

Refuses unknown ids with the nearest known one, packages that are not installed with the command that installs them,
callables that cannot be pickled with what in them cannot, and callables that return something else than an env.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium

from veldt.envs.families import Env
from veldt.errors import EnvironmentRefused

PACKAGES = {"ALE": "ale-py", "MinAtar": "minatar", "MiniGrid": "minigrid", "BabyAI": "minigrid"}
"""Which package registers the ids that begin so."""


@dataclass(frozen=True)
class FromRegistry:
    """Makes the environment that Gymnasium knows by `id`. Veldt's own checks replace Gymnasium's."""

    id: str

    def __call__(self) -> Env:
        """A new environment."""
        import_package(self.id)
        return gymnasium.make(self.id, disable_env_checker=True)


@dataclass(frozen=True)
class FromName:
    """Makes an environment by calling `module:function`, imported where it is made."""

    name: str

    def __call__(self) -> Env:
        """A new environment."""
        return _only_env(_imported(self.name)(), self.name)


@dataclass(frozen=True)
class FromCallable:
    """Makes an environment by calling what the user passed."""

    function: Callable[[], Any]

    def __call__(self) -> Env:
        """A new environment."""
        return _only_env(self.function(), _name(self.function))


Create = FromRegistry | FromName | FromCallable


def creator(env: str | Callable[[], Any]) -> tuple[str, Create]:
    """The name of `env` for people, and what makes one; nothing is made yet."""
    if callable(env):
        if culprit := _unpicklable(env):
            raise EnvironmentRefused(f"env factory {_name(env)} {culprit}; pass a module-level function or 'pkg:make'")
        return _name(env), FromCallable(env)
    if not isinstance(env, str):
        raise EnvironmentRefused(
            f"an environment is a Gymnasium id, 'package.module:callable' or a callable; got {type(env).__name__}"
            + (" (an environment already made; pass the function that makes it)" if _is_env(env) else "")
        )
    _, colon, attribute = env.partition(":")
    if colon and all(part.isidentifier() for part in attribute.split(".")):
        _imported(env)
        return env, FromName(env)
    check_id(env)
    return env, FromRegistry(env)


def import_package(env_id: str) -> None:
    """Imports the package that registers `env_id`, if it is one we know and it is installed."""
    package = PACKAGES.get(env_id.partition("/")[0].partition("-")[0])
    if package is not None:
        try:
            importlib.import_module(package.replace("-", "_"))
        except ImportError:
            return  # `check_id` says what to install
        if package == "minatar" and "MinAtar/Breakout-v1" not in gymnasium.registry:
            # it registers through a plugin entry point, which Gymnasium 1.0 stopped loading
            importlib.import_module("minatar.gym").register_envs()


def check_id(env_id: str) -> None:
    """Raises `EnvironmentRefused` unless Gymnasium knows `env_id` (which may be `module:id`)."""
    import_package(env_id)
    try:
        gymnasium.envs.registration._find_spec(env_id)
    except ModuleNotFoundError as error:
        raise EnvironmentRefused(f"{env_id!r}: {error.name} is not installed") from error
    except gymnasium.error.Error as error:
        nearest = difflib.get_close_matches(env_id, gymnasium.registry, n=1, cutoff=0.6)
        parts = [f"{env_id!r} unknown", *(f"nearest {found!r}" for found in nearest)]
        raise EnvironmentRefused("; ".join(parts + _package_hint(env_id))) from error


def _package_hint(env_id: str) -> list[str]:
    prefix = env_id.partition("/")[0].partition("-")[0]
    package = PACKAGES.get(prefix)
    if package is None:
        return []
    try:
        return [f"{prefix} needs {package} installed (it is: {importlib.metadata.version(package)})"]
    except importlib.metadata.PackageNotFoundError:
        return [f"{prefix} needs {package} installed: pip install {package}"]


def _imported(name: str) -> Callable[[], Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise EnvironmentRefused(f"{name!r}: cannot import {module_name}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), n=1)
            raise EnvironmentRefused(
                f"{name!r}: {module_name} has no {part!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        found = getattr(found, part)
    if not callable(found):
        raise EnvironmentRefused(f"{name!r} is a {type(found).__name__}, not something that can be called")
    return found  # type: ignore[no-any-return]


def _is_env(value: Any) -> bool:
    return isinstance(value, gymnasium.Env)


def _only_env(value: Any, name: str) -> Env:
    if not isinstance(value, gymnasium.Env):
        raise EnvironmentRefused(f"env factory {name} returned {type(value).__name__}; it must return a gymnasium.Env")
    return value


def _name(function: Any) -> str:
    if isinstance(function, partial):
        return f"partial of {_name(function.func)}"
    return str(getattr(function, "__name__", type(function).__name__))


def _unpicklable(function: Any) -> str | None:
    """What in `function` cannot be pickled, as a phrase; None if all of it can."""
    if _pickles(function):
        return None
    captured: list[Any] = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    captured += getattr(function, "__defaults__", None) or ()
    if isinstance(function, partial):
        captured += [function.func, *function.args, *function.keywords.values()]
    captured += list(getattr(function, "__dict__", {}).values())
    culprits = [value for value in captured if not _pickles(value)]
    if culprits and not callable(culprits[0]):
        return f"captures a {_thing(culprits[0])}"
    if culprits:
        return f"holds {_name(culprits[0])}, which cannot be pickled"
    if getattr(function, "__name__", "") == "<lambda>":
        return "is a lambda, which cannot be pickled"
    return "is defined inside another function, and cannot be pickled"


def _pickles(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # pickling runs the objects' own code, which may raise anything
        return False
    return True


def _thing(value: Any) -> str:
    kind = type(value)
    if kind.__module__ == "_thread":
        return "thread lock"
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
