"""The systems, by name: what the entry points need to know of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from veldt.data import EnvSpec
from veldt.errors import ConfigError, did_you_mean
from veldt.program import Program
from veldt.systems import a3c, apex, apex_dpg, dqn, gorila, impala, r2d2, r2d3
from veldt.systems.presets import PRESETS, Preset


@dataclass(frozen=True)
class System:
    """A system: its settings, its program, the agent whose policy it trains, and the runtime it is meant for."""

    name: str
    config: type[Any]
    program: Callable[[Any, EnvSpec], Program]
    agent: Callable[[Any, EnvSpec], Callable[[], Any]]
    presets: Mapping[str, Preset]
    runtime: str

    def preset(self, name: str, env: str) -> tuple[str, dict[str, Any]]:
        """The name and settings of preset `name`; `auto` takes the one made for environments like `env`, else `paper`.

        Raises:
            ConfigError: there is no such preset.
        """
        if name == "auto":
            fitting = (key for key, preset in self.presets.items() if preset.fits and re.match(preset.fits, env))
            name = next(fitting, "paper")
        if name not in self.presets:
            known = ", ".join(("auto", *self.presets))
            raise ConfigError(f"unknown preset {name!r}{did_you_mean(name, self.presets)} ({self.name} has {known})")
        return name, dict(self.presets[name].settings)


SYSTEMS: dict[str, System] = {
    "dqn": System("dqn", dqn.DQNConfig, dqn.program, dqn.agent, PRESETS["dqn"], "inline"),
    "gorila": System("gorila", gorila.GorilaConfig, gorila.program, gorila.agent, PRESETS["gorila"], "processes"),
    "a3c": System("a3c", a3c.A3CConfig, a3c.program, a3c.agent, PRESETS["a3c"], "processes"),
    "apex": System("apex", apex.ApexConfig, apex.program, apex.agent, PRESETS["apex"], "processes"),
    "apex-dpg": System("apex-dpg", apex_dpg.ApexDPGConfig, apex_dpg.program, apex_dpg.agent, PRESETS["apex-dpg"], "processes"),
    "impala": System("impala", impala.ImpalaConfig, impala.program, impala.agent, PRESETS["impala"], "processes"),
    "r2d2": System("r2d2", r2d2.R2D2Config, r2d2.program, r2d2.agent, PRESETS["r2d2"], "processes"),
    "r2d3": System("r2d3", r2d3.R2D3Config, r2d3.program, r2d3.agent, PRESETS["r2d3"], "processes"),
}


def find(name: str) -> System:
    """The system called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in SYSTEMS:
        raise ConfigError(f"unknown system {name!r}{did_you_mean(name, SYSTEMS)} (known: {', '.join(SYSTEMS)})")
    return SYSTEMS[name]
