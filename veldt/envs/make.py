"""`make_env_spec`: from what a user names to an `EnvSpec`, with a short look at the environment's first steps.

Refuses, before anything starts: what `create.py`, `spaces.py`, `options.py` and `ale.py` refuse; an environment that
fails in its first steps or breaks Gymnasium's contract there; frame stacking of Dict observations.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from veldt.data import ArraySpec, EnvSpec, Tree
from veldt.envs import ale, classic, envpool
from veldt.envs.contract import check_reset, check_step
from veldt.envs.create import Create, FromRegistry, check_id, creator
from veldt.envs.families import Env, Family, family_of
from veldt.envs.loop import LoopEnvironments
from veldt.envs.options import EnvOptions
from veldt.envs.spaces import BrokenContract, Observations, action_spec, native_actions, observation_spec
from veldt.errors import ConfigError, EnvironmentRefused

PROBE_STEPS = 20
PROBE_SECONDS = 0.1
"""The look at an environment's first steps ends at whichever comes first."""

ATARI_STACK = 4


def make_env_spec(env: str | Callable[[], Any], *, options: EnvOptions | None = None) -> EnvSpec:
    """The spec of `env`: a Gymnasium id, `"package.module:callable"`, or a picklable callable that returns an env.

    Makes one environment, takes a few random steps, and closes it. Raises `EnvironmentRefused` or `ConfigError`.
    """
    options = options or EnvOptions()
    if isinstance(env, str) and env.startswith("ALE/"):
        return _atari(env, options)
    name, create = creator(env)
    _refuse_raw_atari(create)
    options.refuse_atari_fields(name)
    try:
        made = create()
    except EnvironmentRefused:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvironmentRefused(f"{name!r} cannot be made: {error}") from error
    except Exception as error:
        raise EnvironmentRefused(f"{name!r} cannot be made: {type(error).__name__}: {error}") from error
    with contextlib.closing(made):
        family = family_of(made)
        observation, action = _spaces(name, made, family)
        probe(name, made, family, observation)
    spec = EnvSpec(name, _maker(create, family, observation, options), observation, action)
    return _stacked(spec, options.frame_stack or 1)


def _atari(env_id: str, options: EnvOptions) -> EnvSpec:
    rom = ale.rom_of(env_id)
    if options.backend == "envpool":
        envpool.require_envpool()
    make = partial(envpool.EnvpoolAtari if options.backend == "envpool" else ale.AtariEnvironments, rom, options)
    spec = EnvSpec(env_id, make, ale.OBSERVATION, ale.atari_actions(rom, options), frames_per_step=ale.FRAMES_PER_STEP)
    return _stacked(spec, options.frame_stack or ATARI_STACK)


def _maker(create: Create, family: Family, observation: Tree, options: EnvOptions) -> Callable[..., Any]:
    if options.backend == "envpool":
        raise ConfigError("backend 'envpool' is for Atari (ALE/...) alone; use backend 'gymnasium'")
    if isinstance(create, FromRegistry) and ":" not in create.id and classic.has_numpy_vector(create.id):
        return partial(classic.make_classic, create, create.id, family, observation)
    return partial(LoopEnvironments, create, family, observation)


def _spaces(name: str, env: Env, family: Family) -> tuple[Tree, Any]:
    for attribute in ("observation_space", "action_space"):
        if getattr(env, attribute, None) is None:
            raise EnvironmentRefused(f"{name!r} has no {attribute}; set it in its __init__")
    try:
        return observation_spec(env.observation_space, family.ignored), action_spec(env.action_space)
    except EnvironmentRefused as error:
        raise EnvironmentRefused(f"{name!r}: {error}") from error


def _stacked(spec: EnvSpec, frame_stack: int) -> EnvSpec:
    if frame_stack > 1 and (not isinstance(spec.observation, ArraySpec) or spec.observation.categories):
        raise ConfigError(f"frame_stack {frame_stack} needs a Box observation; {spec.id!r} has another; use frame_stack 1")
    return replace(spec, frame_stack=frame_stack)


def _refuse_raw_atari(create: Create) -> None:
    """Old Atari ids give raw pictures; Veldt's preprocessing belongs to `ALE/...-v5`."""
    if isinstance(create, FromRegistry):
        check_id(create.id)
        found = gymnasium.registry.get(create.id)
        if found is not None and str(found.entry_point).startswith("ale_py."):
            game = ale.game_name(found.kwargs["game"])
            raise EnvironmentRefused(
                f"{create.id!r} is an old Atari id without preprocessing; use 'ALE/{game}-v5', "
                "whose settings (sticky_actions, ...) are Veldt's options"
            )


def probe(name: str, env: Env, family: Family, observation: Tree) -> None:
    """Resets `env` and takes a few random steps. Raises `EnvironmentRefused` at the first thing that is wrong."""
    observations = Observations(env.observation_space, observation, 1)
    native = native_actions(env.action_space)
    random = np.random.default_rng(0)
    where, deadline = "reset", time.perf_counter() + PROBE_SECONDS
    try:
        family.before_reset(env)
        answer: Any = env.reset(seed=0)
        check_reset(answer, observations)
        for step in range(PROBE_STEPS):
            observations.write(0, answer[0])
            if not observations.all_finite():
                raise BrokenContract(observations.not_finite()[1])
            if time.perf_counter() > deadline or (step and (answer[2] or answer[3])):
                break
            where = f"step {step + 1}"
            answer = env.step(native(random_actions(action_spec(env.action_space), 1, random))[0])
            check_step(answer, observations)
    except BrokenContract as error:
        raise EnvironmentRefused(f"{name!r} {where}: {error}") from error
    except Exception as error:
        raise EnvironmentRefused(f"{name!r} raised {type(error).__name__} in its {where}: {error}") from error


def random_actions(spec: Any, streams: int, random: np.random.Generator) -> np.ndarray:
    """Uniformly random actions [B, ...]; unbounded boxes are sampled between -1 and 1."""
    if spec.kind != "box":
        sizes = spec.sizes[0] if spec.kind == "discrete" else spec.sizes
        return random.integers(0, sizes, (streams, *spec.shape))
    low, high = np.array(spec.low), np.array(spec.high)
    low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
    return random.uniform(low, high, (streams, len(low))).astype(np.float32).reshape(streams, *spec.shape)
