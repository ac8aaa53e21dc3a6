"""CartPole of which the velocities are hidden."""

import gymnasium
import numpy as np

import veldt
from veldt.envs import make_env_spec
from veldt.envs.masked import masked_cartpole
from veldt.systems import find


def test_masked_cartpole_shows_position_and_angle_of_the_same_game():
    whole, masked = gymnasium.make("CartPole-v1"), masked_cartpole()
    one, other = whole.reset(seed=3)[0], masked.reset(seed=3)[0]
    over, steps = False, 0
    while not over:
        assert other.tolist() == one[[0, 2]].tolist()
        assert masked.observation_space.contains(other)
        action = steps % 3 % 2
        one, reward, *ends, _ = whole.step(action)
        other, same_reward, *same_ends, _ = masked.step(action)
        assert (reward, ends) == (same_reward, same_ends)
        over, steps = any(ends), steps + 1
    assert steps > 5


def test_it_is_named_like_any_environment_and_has_the_preset_of_cartpole():
    spec = make_env_spec("veldt.envs.masked:masked_cartpole")
    assert (spec.observation.shape, spec.observation.dtype) == ((2,), "float32")
    assert np.isclose(spec.observation.high, 4.8)
    for system in ("r2d2", "r2d3"):
        assert find(system).preset("auto", "veldt.envs.masked:masked_cartpole")[0] == "cartpole"
    assert veldt.check_env("veldt.envs.masked:masked_cartpole", steps=100).ok
