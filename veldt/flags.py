"""Flags: the command lines of `veldt train` and `veldt chaos`, made from the dataclasses that hold the settings.

tyro parses and prints; names and types are checked first by `veldt.settings`, so that a mistake on the command line is refused in
the words of a mistake anywhere else. Only flags that were given override a preset.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

from veldt import settings
from veldt.envs.options import EnvOptions
from veldt.errors import ConfigError, did_you_mean, require_at_least
from veldt.request import classes
from veldt.runs.options import RunOptions
from veldt.systems import SYSTEMS, System

FIRST_PAGE = ("steps", "seed", "out", "until_return", "minutes", "device", "overwrite", "quiet")
"""The run options on the first help page, beside preset, config and resume."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run starts from."""

    preset: str = "auto"
    """Named settings to start from; auto looks at the environment, paper is the paper's."""

    config: Path | None = None
    """A YAML file of settings, by the names of the flags; flags win over it."""

    resume: str | None = None
    """Go on with the run in this folder, or with its copy at this fsspec path; system and environment are those of the run."""


@dataclasses.dataclass(frozen=True)
class Chaos:
    """What is done to a run, and what it should reach in spite of it."""

    preset: str = "auto"
    """Named settings to start from; auto looks at the environment, paper is the paper's."""

    config: Path | None = None
    """A YAML file of settings, by the names of the flags; flags win over it."""

    events: int = 7
    """How many parts are killed, frozen, starved or damaged; the first seven are each of another kind."""

    score: float | None = None
    """An evaluation after the last of them must reach this mean return."""

    json: bool = False
    """Print nothing but the result, as JSON."""

    def __post_init__(self) -> None:
        require_at_least("events", self.events, 1)


VERBS: dict[type[Any], str] = {Start: "train", Chaos: "chaos"}
DESCRIPTIONS: dict[type[Any], str] = {
    Start: "Train SYSTEM on ENV",
    Chaos: "Train SYSTEM on ENV while its processes are killed, frozen and starved",
}


def parse(system: System, arguments: Sequence[str], command: type[Any] = Start) -> tuple[Any, dict[str, Any]]:
    """The command's own flags, an instance of `command`, and the settings that were given as flags, by name.

    Raises:
        ConfigError: an unknown flag or a value of the wrong type.
    """
    homes = (command, *classes(system))
    hints = {name: hint for cls in homes for name, hint in typing.get_type_hints(cls).items()}
    tidy, given = _checked(arguments, hints)
    parsed = tyro.cli(_nested(system, command), args=tidy, prog=f"veldt {VERBS[command]}", config=(tyro.conf.OmitArgPrefixes,))
    values = {field.name: getattr(part, field.name) for part in _parts(parsed) for field in dataclasses.fields(part)}
    start = command(**{field.name: values[field.name] for field in dataclasses.fields(command)})
    return start, {name: values[name] for name in given if not hasattr(start, name)}


def print_help(system: System, everything: bool, command: type[Any] = Start) -> None:
    """The help page of a command that trains: the dozen flags one needs, or all of them."""
    verb = VERBS[command]
    description = (
        f"{DESCRIPTIONS[command]}: veldt {verb} SYSTEM ENV [flags]. SYSTEM is one of "
        f"{', '.join(SYSTEMS)}; ENV a Gymnasium id or package.module:callable. "
        + (f"The defaults shown are {system.name}'s." if everything else f"All flags: veldt {verb} --help-all")
    )
    shape = _nested(system, command) if everything else _first_page(command)
    tyro.cli(shape, args=["--help"], prog=f"veldt {verb} SYSTEM ENV", description=description,
             config=(tyro.conf.OmitArgPrefixes,))  # fmt: skip


def _nested(system: System, command: type[Any]) -> type[Any]:
    """All flags, in the groups of their dataclasses."""
    parts = {"start": command, "run": RunOptions, "hyperparameters": system.config, "environment": EnvOptions}
    groups = []
    for name, cls in parts.items():
        group = dataclasses.make_dataclass(cls.__name__, _described(cls))
        group.__doc__ = cls.__doc__
        groups.append((name, group, dataclasses.field(default_factory=group)))
    return dataclasses.make_dataclass("Train", groups)


def _first_page(command: type[Any]) -> type[Any]:
    return dataclasses.make_dataclass("Train", _described(command) + _described(RunOptions, FIRST_PAGE))


def _described(cls: type[Any], names: Sequence[str] | None = None) -> list[Any]:
    """The fields of `cls` (or those of `names`) as a command line can give them, with the help that stands under each."""
    hints, texts = typing.get_type_hints(cls), settings.descriptions(cls)
    described: list[Any] = []
    for field in dataclasses.fields(cls):
        if names is None or field.name in names:
            hint: Any = str if nn.Module in typing.get_args(hints[field.name]) else hints[field.name]
            flag = Annotated[hint, tyro.conf.arg(help=texts[field.name])]
            described.append((field.name, flag, dataclasses.field(default=field.default)))
    return described


def _parts(parsed: Any) -> list[Any]:
    return [getattr(parsed, field.name) for field in dataclasses.fields(parsed)]


def _checked(arguments: Sequence[str], hints: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The arguments with tidied numbers, and the names of the settings they give."""
    tidy: list[str] = []
    given: list[str] = []
    name = ""
    for argument in arguments:
        if not argument.startswith("--"):
            tidy.append(_checked_value(name, argument, hints.get(name)))
            continue
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in hints and name.startswith("no_") and hints.get(name[3:]) is bool:
            name = name[3:]
        if name not in hints:
            raise ConfigError(f"unknown option {name!r}{did_you_mean(name, hints)}")
        given.append(name)
        tidy.append(flag if not equals else f"{flag}={_checked_value(name, value, hints[name])}")
    return tidy, given


def _checked_value(name: str, text: str, hint: Any) -> str:
    kinds = set(typing.get_args(hint)) | {hint}
    if text.lower() == "none" and type(None) in kinds:
        return "None"
    number: type[Any] | None = int if int in kinds else float if float in kinds else None
    if number is None:
        return text
    try:
        return str(settings.convert(name, float(text) if number is float else _whole(text), number))
    except ValueError:
        raise ConfigError(f"{name} must be {'an integer' if number is int else 'a number'}, got str {text!r}") from None


def _whole(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
