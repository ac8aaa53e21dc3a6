"""The corridor whose beginning alone shows which way to turn at its end."""

import numpy as np
import pytest

from veldt.envs import make_env_spec
from veldt.envs.t_maze import TMaze, t_maze_50


@pytest.mark.parametrize("turn", [0, 1])
def test_only_the_turn_at_the_fork_counts(turn: int) -> None:
    maze, rewards = TMaze(4), []
    for seed in range(20):
        seen, _ = maze.reset(seed=seed)
        right = seen[0] == 1
        assert seen.tolist() == [1 if right else -1, 1, 0]
        for step in range(1, 4):
            seen, reward, over, truncated, _ = maze.step(1 - turn)
            assert (seen.tolist(), reward, over, truncated) == ([0, 0, step == 3], 0, False, False)
        _, reward, over, truncated, _ = maze.step(turn)
        assert (reward, over, truncated) == (float(right == bool(turn)), True, False)
        rewards.append(reward)
    assert 0 < np.mean(rewards) < 1


def test_the_long_one_takes_fifty_steps_and_is_named_like_any_environment() -> None:
    maze = t_maze_50()
    maze.reset(seed=1)
    assert [maze.step(0)[2] for _ in range(50)] == [False] * 49 + [True]
    assert make_env_spec("veldt.envs.t_maze:t_maze_50").observation.shape == (3,)
