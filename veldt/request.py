"""A request: which system on which environment with which settings, checked before anything starts.

Settings are layered: the dataclasses' defaults (the paper's), then the preset, then what the user gave.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from veldt import settings
from veldt.data import EnvSpec
from veldt.envs.make import make_env_spec
from veldt.envs.options import EnvOptions
from veldt.errors import ConfigError
from veldt.runs.options import RunOptions
from veldt.systems import System, find

FIXED = ("system", "env", "environment", "hyperparameters")
"""What a resumed run may not change: its weights, replay and schedules belong to it."""

ACTORS_PER_CORE = 2
"""More than so many actors wait for each other most of the time."""

Env = str | Callable[[], Any]


@dataclass(frozen=True)
class Request:
    """One run as it was asked for, with every setting resolved."""

    system: System
    env: Env
    preset: str
    config: Any
    run: RunOptions
    environment: EnvOptions

    @cached_property
    def env_spec(self) -> EnvSpec:
        """The environment, looked at once."""
        return make_env_spec(self.env, options=self.environment)

    @property
    def runtime(self) -> str:
        """Where the parts run."""
        return self.run.runtime or self.system.runtime

    @property
    def env_name(self) -> str:
        """The environment as a text that names it again, where there is one."""
        if isinstance(self.env, str):
            return self.env
        return f"{self.env.__module__}:{getattr(self.env, '__qualname__', type(self.env).__qualname__)}"

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        if self.run.out is not None:
            return self.run.out
        name = f"{self.system.name}-{self.env_name}-{self.run.seed}"
        return Path("runs") / "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)

    def as_dict(self) -> dict[str, Any]:
        """All settings, as `config.yaml` holds them."""
        return {
            "system": self.system.name,
            "env": self.env_name,
            "preset": self.preset,
            "run": settings.as_dict(self.run),
            "hyperparameters": settings.as_dict(self.config),
            "environment": settings.as_dict(self.environment),
        }

    def differs(self) -> dict[str, Any]:
        """The settings that are not the defaults: `{name: {default, here}}`."""
        found = {}
        for here in (self.config, self.run, self.environment):
            defaults = settings.as_dict(type(here)())
            for name, value in settings.as_dict(here).items():
                if value != defaults[name]:
                    found[name] = {"default": defaults[name], "here": value}
        return found


def classes(system: System) -> tuple[type[Any], ...]:
    """The dataclasses whose fields are the settings of `system`."""
    return system.config, RunOptions, EnvOptions


def make_request(system: str, env: Env, preset: str, values: Mapping[str, Any]) -> Request:
    """The request for `system` on `env`, with `values` laid over the preset.

    Raises:
        ConfigError: an unknown name, a wrong type, a value out of range.
        EnvironmentRefused: the environment cannot be made.
    """
    found = find(system)
    name = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
    preset, preset_values = found.preset(preset, name)
    parts = settings.split({**preset_values, **values}, classes(found))
    config, run, environment = (settings.build(cls, part) for cls, part in parts.items())
    check_device(run.device, elsewhere=run.runtime == "ray" and bool(os.environ.get("RAY_ADDRESS")))
    _check_sizes(config, run)
    return Request(found, env, preset, config, run, environment)


def from_dict(saved: Mapping[str, Any], changes: Mapping[str, Any]) -> Request:
    """The request that `Request.as_dict` saved, with `changes` of its settings."""
    values = {**saved["hyperparameters"], **saved["run"], **saved["environment"], **changes}
    for name, value in values.items():
        if isinstance(value, str) and value.startswith("<"):
            raise ConfigError(f"{name} was given as an object ({value}); give it again: {name}=")
    return make_request(saved["system"], saved["env"], saved["preset"], values)


def check_device(device: str, elsewhere: bool = False) -> None:
    """Raises `ConfigError` unless this machine, or with `elsewhere` any, could have the device."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}") from error
    if wanted.type == "cpu":
        return
    if wanted.type != "cuda":
        raise ConfigError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if elsewhere:
        return
    if torch.version.cuda is None:
        raise ConfigError("this torch build has no CUDA; use --device cpu or install a CUDA build")
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if not found or (wanted.index or 0) >= len(found):
        raise ConfigError(f"{device} not available; found {', '.join([*found, 'cpu'])}")


def _check_sizes(config: Any, run: RunOptions) -> None:
    start_steps = getattr(config, "start_steps", 0)
    if start_steps >= run.steps:
        raise ConfigError(
            f"start_steps {start_steps:,} leaves no step to learn in: the run has {run.steps:,} steps; "
            f"use a smaller start_steps, more --steps, or a preset for small problems"
        )
    cores = os.cpu_count() or 1
    counts = (getattr(config, name, None) for name in ("actors", "bundles", "workers"))
    actors: Any = next((count for count in counts if count), 1)
    elsewhere = run.runtime == "ray" and os.environ.get("RAY_ADDRESS")
    if actors > ACTORS_PER_CORE * cores and not elsewhere:
        warnings.warn(f"{actors} actors on {cores} cores: expect slowdown", stacklevel=2)
    if run.threads is not None and run.threads > cores:
        warnings.warn(f"{run.threads} threads on {cores} cores: expect slowdown", stacklevel=2)


def versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("veldt", "torch", "numpy", "gymnasium", "ale-py", "minari", "minatar", "minigrid", "mujoco", "ray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
