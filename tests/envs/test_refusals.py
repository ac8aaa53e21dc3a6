"""What cannot be used is refused before anything starts, in words that say what would be right."""

from __future__ import annotations

import importlib.util
import pickle
import re
import threading
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs.toy_envs import Counting, Faulty, Holds, WithSpaces, counting, not_an_env
from veldt.envs import EnvOptions, make_env_spec
from veldt.errors import ConfigError, EnvironmentRefused, UserError

BOX = spaces.Box(0, 1, (2,), np.float32)


def with_spaces(observation=BOX, action=None):
    return partial(WithSpaces, observation, action if action is not None else spaces.Discrete(2))


lock = threading.Lock()
CASES = {
    "misspelt Atari game": ("ALE/Pogn-v5", "'ALE/Pogn-v5' unknown; nearest 'ALE/Pong-v5'; ALE needs ale-py installed"),
    "misspelt id": ("CartPol-v1", "'CartPol-v1' unknown; nearest 'CartPole-v1'"),
    "misspelt MinAtar": ("MinAtar/Brekout-v1", "nearest 'MinAtar/Breakout-v1'; MinAtar needs minatar installed"),
    "old version": ("CartPole-v9", "'CartPole-v9' unknown; nearest 'CartPole-v1'"),
    "old Atari id": ("PongNoFrameskip-v4", "is an old Atari id without preprocessing; use 'ALE/Pong-v5'"),
    "missing module": ("no_such_package.envs:make", "cannot import no_such_package.envs: No module named"),
    "missing function": ("tests.envs.toy_envs:countin", "has no 'countin'; did you mean 'counting'?"),
    "not callable": ("tests.envs.toy_envs:annotations", "not something that can be called"),
    "not an env": (not_an_env, "env factory not_an_env returned list; it must return a gymnasium.Env"),
    "an env already made": (Counting(), "an environment already made; pass the function that makes it"),
    "a number": (3, "an environment is a Gymnasium id, 'package.module:callable' or a callable; got int"),
    "a lambda": (lambda: Counting(), "env factory <lambda> is a lambda, which cannot be pickled; pass a module-level"),
    "a captured lock": (
        (lambda held: lambda: held and Counting())(lock),
        "env factory <lambda> captures a thread lock; pass a module-level function or 'pkg:make'",
    ),
    "a held lock": (Holds(), "env factory Holds captures a thread lock; pass a module-level function or 'pkg:make'"),
    "a partial of a lock": (partial(Faulty, lock), "env factory partial of Faulty captures a thread lock"),
    "a Python dict": (with_spaces({"a": BOX}), "observation_space is a Python dict; use gymnasium.spaces.Dict"),
    "a Text space": (with_spaces(spaces.Text(5)), "Veldt handles Box, Discrete and Dict of these; got Text"),
    "a nested Text space": (
        with_spaces(spaces.Dict(say=spaces.Text(5), see=BOX)),
        "observation_space['say']: Veldt handles Box, Discrete and Dict of these; got Text",
    ),
    "a Tuple space": (with_spaces(spaces.Tuple([BOX])), "got Tuple"),
    "a Text action": (
        with_spaces(action=spaces.Text(3)),
        "action_space: Veldt handles Discrete, MultiDiscrete [n] and float Box; got Text",
    ),
    "an int Box action": (
        with_spaces(action=spaces.Box(0, 5, (2,), np.int64)),
        "got Box of int64 (2,)",
    ),
    "four values": (partial(Faulty, "four values", 1), "step 1: step() returned 4 values; Gymnasium expects 5"),
    "a NaN reward": (partial(Faulty, "nan reward", 2), "step 2: reward is nan"),
    "a NaN observation": (partial(Faulty, "nan observation", 2), "step 2: obs is nan"),
    "a wrong shape": (
        partial(Faulty, "wrong shape", 1),
        "obs: expected float32 (2,), got float32 (1,); cast in your env",
    ),
    "an error in reset": (partial(Faulty, "raise in reset"), "raised OSError in its reset: no licence"),
    "an error in step": (partial(Faulty, "raise", 1), "raised ValueError in its step 1: boom"),
}


@pytest.mark.parametrize("case", CASES)
def test_is_refused(case):
    env, message = CASES[case]
    with pytest.raises(EnvironmentRefused, match=re.escape(message)) as caught:
        make_env_spec(env)
    assert isinstance(caught.value, UserError)


def test_a_wrong_camera_is_named_by_its_key():
    class Cameras(WithSpaces):
        def step(self, action):
            return {"cam": np.zeros((84, 84))}, 0.0, False, False, {}

    from veldt.envs.families import Family
    from veldt.envs.make import probe
    from veldt.envs.spaces import observation_spec

    space = spaces.Dict(cam=spaces.Box(0, 255, (84, 84, 3), np.uint8))
    message = "obs['cam']: expected uint8 (84,84,3), got float64 (84,84); cast in your env"
    with pytest.raises(EnvironmentRefused, match=re.escape(message)):
        probe("cameras", Cameras(space, spaces.Discrete(2)), Family(), observation_spec(space))


OPTIONS = {
    "sticky too large": ({"sticky_actions": 1.5}, "sticky_actions must lie in [0, 1), got 1.5"),
    "unknown backend": ({"backend": "jax"}, "backend must be 'gymnasium' or 'envpool', got 'jax'"),
    "no frames": ({"frame_stack": 0}, "frame_stack must be >= 1, got 0"),
    "negative no-ops": ({"max_no_ops": -1}, "max_no_ops must be >= 0, got -1"),
    "no episode": ({"episode_cap_frames": 0}, "episode_cap_frames must be >= 4 (one step), got 0"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_option_is_refused(case):
    settings, message = OPTIONS[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        EnvOptions(**settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EnvOptions(life_loss=True), "life_loss applies to Atari (ALE/...) alone; got True for 'CartPole-v1'"),
        (EnvOptions(sticky_actions=0.25), "sticky_actions applies to Atari (ALE/...) alone; got 0.25"),
        (EnvOptions(backend="envpool"), "backend 'envpool' is for Atari (ALE/...) alone; use backend 'gymnasium'"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_env_spec("CartPole-v1", options=options)


def test_stacking_dict_observations_is_refused():
    with pytest.raises(ConfigError, match="frame_stack 4 needs a Box observation"):
        make_env_spec("MiniGrid-Empty-5x5-v0", options=EnvOptions(frame_stack=4))


@pytest.mark.skipif(importlib.util.find_spec("envpool") is not None, reason="envpool is installed")
def test_a_missing_envpool_is_refused_with_the_command_that_installs_it():
    with pytest.raises(EnvironmentRefused, match=re.escape("pip install 'veldt[envpool]'")):
        make_env_spec("ALE/Pong-v5", options=EnvOptions(backend="envpool"))


@pytest.mark.parametrize(
    "env", [counting, "tests.envs.toy_envs:counting", Counting, partial(Counting, 3), "CartPole-v1", "ALE/Pong-v5"]
)
def test_what_is_accepted_survives_pickling(env):
    spec = pickle.loads(pickle.dumps(make_env_spec(env)))
    environments = spec.make(2, np.random.SeedSequence(0))
    assert environments.reset().first.all()
    environments.close()


def test_the_environment_made_for_the_look_is_closed():
    before = Faulty.closed
    make_env_spec(partial(Faulty, "nothing", 99))
    assert Faulty.closed == before + 1
    with pytest.raises(EnvironmentRefused):
        make_env_spec(partial(Faulty, "raise", 1))
    assert Faulty.closed == before + 2


def test_an_id_may_name_the_module_that_registers_it():
    gymnasium.register("Veldt/Counting-v0", entry_point=Counting, max_episode_steps=5)
    assert make_env_spec("tests.envs.toy_envs:Veldt/Counting-v0").observation.shape == (2,)
