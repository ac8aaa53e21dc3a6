"""Spaces of every supported kind, and the families of environments that need care."""

from __future__ import annotations

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.envs.toy_envs import WithSpaces, loop
from veldt.data import ActionSpec, ArraySpec, tree_map
from veldt.envs import EnvOptions, make_env_spec
from veldt.envs.create import FromRegistry
from veldt.envs.spaces import action_spec, observation_spec

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (spaces.Box(0, 255, (3, 2), np.uint8), ArraySpec((3, 2), "uint8", 0, 255)),
        (spaces.Box(-1, 1, (3,), np.float64), ArraySpec((3,), "float32", -1, 1)),
        (spaces.Box(-np.inf, 1, (3,), np.float32), ArraySpec((3,), "float32", None, 1)),
        (spaces.Box(0, 1, (2,), bool), ArraySpec((2,), "bool", 0, 1)),
        (spaces.Box(0, 1, (), np.float32), ArraySpec((), "float32", 0, 1)),
        (spaces.Discrete(5, start=3), ArraySpec((), "int64", 0, 4, 5)),
        (
            spaces.Dict(b=spaces.Discrete(2), a=spaces.Dict(c=spaces.Box(0, 9, (1,), np.int16))),
            {"a": {"c": ArraySpec((1,), "int16", 0, 9)}, "b": ArraySpec((), "int64", 0, 1, 2)},
        ),
    ],
)
def test_observations_are_stored_as(space, spec):
    assert observation_spec(space) == spec
    row = loop(partial(WithSpaces, space, spaces.Discrete(2)), 2)
    first = tree_map(np.copy, row.reset().obs)
    env = row._envs[0]
    after = row.step(np.array([0, 1])).obs
    tree_map(lambda leaf, array: None if array.dtype == leaf.dtype else pytest.fail("dtype"), spec, after)
    tree_map(lambda leaf, array: None if array.shape == (2, *leaf.shape) else pytest.fail("shape"), spec, after)
    if isinstance(space, spaces.Discrete):
        assert ((first >= 0) & (first < space.n)).all()
    assert env.seen_actions == [0]


@pytest.mark.parametrize(
    ("space", "spec", "given", "seen"),
    [
        (spaces.Discrete(3), ActionSpec("discrete", (), "int64", (3,)), [2, 0], [2, 0]),
        (spaces.Discrete(3, start=-1), ActionSpec("discrete", (), "int64", (3,)), [2, 0], [1, -1]),
        (
            spaces.MultiDiscrete([2, 4], start=[0, 5]),
            ActionSpec("multi_discrete", (2,), "int64", (2, 4)),
            [[1, 3], [0, 0]],
            [[1, 8], [0, 5]],
        ),
        (
            spaces.Box(-1, 2, (2,), np.float32),
            ActionSpec("box", (2,), "float32", low=(-1, -1), high=(2, 2)),
            [[-5, 0.5], [1, 7]],
            [[-1, 0.5], [1, 2]],
        ),
        (
            spaces.Box(-1, 1, (1, 2), np.float64),
            ActionSpec("box", (1, 2), "float32", low=(-1, -1), high=(1, 1)),
            [[[0, 9]], [[0.5, 0]]],
            [[[0, 1]], [[0.5, 0]]],
        ),
    ],
)
def test_actions_reach_the_environment_as_its_space_says(space, spec, given, seen):
    assert action_spec(space) == spec
    environments = loop(partial(WithSpaces, spaces.Discrete(2), space), 2)
    environments.reset()
    environments.step(np.array(given, spec.dtype))
    got = [env.seen_actions[0] for env in environments._envs]
    np.testing.assert_array_equal(got, seen)
    assert all(space.contains(action) for action in got) or isinstance(space, spaces.MultiDiscrete)


def test_frames_of_any_box_can_be_stacked_by_the_reader():
    spec = make_env_spec("Pendulum-v1", options=EnvOptions(frame_stack=3))
    assert spec.frame_stack == 3
    assert spec.observation.shape == (3,)
    assert spec.seen.shape == (3, 3)


@pytest.mark.parametrize("game", GAMES)
def test_minatar_episodes_depend_on_their_seed_alone(game):
    """An episode is the same whatever the environment played before; MinAtar itself carries its last action over."""
    spec = make_env_spec(f"MinAtar/{game}-v1")
    assert spec.observation.dtype == "bool"
    assert spec.observation.shape[:2] == (10, 10)
    actions = np.random.default_rng(0).integers(0, spec.action.sizes[0], 40)

    def episode(warm_up):
        environments = spec.make(1, np.random.SeedSequence(3))
        if warm_up:
            environments.reset()
            for _ in range(warm_up):
                environments.step(np.array([spec.action.sizes[0] - 1]))
            environments._episode = [-1]
        frames = [environments.reset().obs.copy()]
        frames += [environments.step(np.array([action])).obs.copy() for action in actions]
        return np.stack(frames)

    np.testing.assert_array_equal(episode(0), episode(7))


def test_minigrid_keeps_picture_and_direction_and_drops_the_mission():
    spec = make_env_spec("MiniGrid-Empty-5x5-v0")
    assert spec.observation == {
        "direction": ArraySpec((), "int64", 0, 3, 4),
        "image": ArraySpec((7, 7, 3), "uint8", 0, 255),
    }
    environments = spec.make(2, np.random.SeedSequence(0))
    row = environments.reset()
    direction = row.obs["direction"].copy()
    row = environments.step(np.array([1, 0]))
    assert (row.obs["direction"] - direction).tolist() == [1, -1] or set(row.obs["direction"]) <= {0, 1, 2, 3}
    assert row.obs["image"].shape == (2, 7, 7, 3)


def test_mujoco_stores_float32_of_what_it_computes_in_float64():
    spec = make_env_spec("HalfCheetah-v5")
    assert (spec.observation.dtype, spec.observation.shape) == ("float32", (17,))
    assert (spec.action.kind, spec.action.shape) == ("box", (6,))
    environments = spec.make(1, np.random.SeedSequence(0))
    row = environments.reset()
    inner = environments._envs[0].unwrapped
    np.testing.assert_array_equal(row.obs[0], inner._get_obs().astype(np.float32))
    row = environments.step(np.full((1, 6), 9, np.float32))
    np.testing.assert_array_equal(row.obs[0], inner._get_obs().astype(np.float32))
    environments.close()


def test_a_registered_environment_is_made_without_gymnasiums_checker():
    env = FromRegistry("CartPole-v1")()
    assert isinstance(env, gymnasium.Env)
    assert "PassiveEnvChecker" not in str(env)
