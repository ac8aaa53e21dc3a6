"""Settings: from a mapping of names and values to the frozen dataclasses that hold them.

Keyword arguments, YAML files, presets and command-line flags all come through here, so that a wrong name or a wrong type is
refused in the same words wherever it was given.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from veldt.errors import ConfigError, did_you_mean

T = TypeVar("T")

_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def names(classes: Iterable[type[Any]]) -> dict[str, type[Any]]:
    """Which of the dataclasses each setting belongs to."""
    return {field.name: cls for cls in classes for field in fields(cls)}


def split(values: Mapping[str, Any], classes: Iterable[type[Any]]) -> dict[type[Any], dict[str, Any]]:
    """`values` by the dataclass that each belongs to.

    Raises:
        ConfigError: a name that none of them has, with the nearest one that is known.
    """
    homes = names(classes)
    parts: dict[type[Any], dict[str, Any]] = {cls: {} for cls in homes.values()}
    for name, value in values.items():
        if name not in homes:
            raise ConfigError(f"unknown option {name!r}{did_you_mean(name, homes)}")
        parts[homes[name]][name] = value
    return parts


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of the dataclass `cls`, defaults for what `values` does not name.

    Raises:
        ConfigError: an unknown name, a value of the wrong type, or one that `cls` itself refuses.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"unknown option {name!r}{did_you_mean(name, known)}")
    return cls(**{name: convert(name, value, hints[name]) for name, value in values.items()})


def convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint` asks for: whole floats become ints, ints floats, lists tuples; nothing else changes.

    Raises:
        ConfigError: the value is of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _first_that_fits(name, value, [part for part in arguments if part is not type(None)])
    if origin is typing.Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ConfigError(f"{name} must be one of {choices}, got {value!r}{did_you_mean(str(value), arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} must be a list, got {type(value).__name__} {value!r}")
        return tuple(convert(name, item, arguments[0]) for item in value)
    return _plain(name, value, hint)


def _first_that_fits(name: str, value: Any, kinds: list[Any]) -> Any:
    for kind in kinds[1:]:
        if isinstance(kind, type) and isinstance(value, kind):
            return value
    return convert(name, value, kinds[0])


def _plain(name: str, value: Any, kind: type[Any]) -> Any:
    fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    if fits:
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ConfigError(f"{name} must be {_KINDS.get(kind, kind.__name__)}, got {type(value).__name__} {value!r}")


def as_dict(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain values for YAML and JSON. An object is written as `<Class>`: it has to be given again."""
    return {field.name: _as_plain(getattr(settings, field.name)) for field in fields(settings)}


def _as_plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"


def descriptions(cls: type[Any]) -> dict[str, str]:
    """What each field of the dataclass `cls` is for: the text under it in the source, as one line."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__[:-1]):
        found |= _own_descriptions(owner)
    return found


def _own_descriptions(cls: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
