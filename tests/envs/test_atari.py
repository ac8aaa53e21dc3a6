"""Atari: ALE's vector environment keeps the convention; envpool too, where it is installed."""

from __future__ import annotations

import importlib.util
import os

import numpy as np
import pytest

from veldt.data import ArraySpec, tree_map
from veldt.envs import EnvOptions, make_env_spec
from veldt.envs.ale import games, rom_of
from veldt.errors import EnvironmentRefused

envpool_missing = importlib.util.find_spec("envpool") is None
BACKENDS = ["gymnasium", pytest.param("envpool", marks=pytest.mark.skipif(envpool_missing, reason="not installed"))]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def play(steps, backend, streams=2, seed=0, game="Breakout", action=1, **options):
    """The rows of `steps` steps: every field [steps + 1, B, ...], reward and discount with the row they led to."""
    spec = make_env_spec(f"ALE/{game}-v5", options=EnvOptions(backend=backend, **options))
    environments = spec.make(streams, np.random.SeedSequence(seed))
    rows = [[tree_map(np.copy, part) for part in environments.reset()]]
    for _ in range(steps):
        rows.append([np.copy(part) for part in environments.step(np.full(streams, action))])
    episodes = environments.pop_episodes()
    environments.close()
    return [np.stack(field) for field in zip(*rows, strict=True)], episodes


def test_a_row_stores_the_newest_frame_and_agents_see_four():
    spec = make_env_spec("ALE/Pong-v5")
    assert spec.observation == ArraySpec((84, 84), "uint8", 0, 255)
    assert spec.seen.shape == (4, 84, 84)
    assert (spec.frame_stack, spec.frames_per_step) == (4, 4)
    assert spec.action.sizes == (6,)
    full = make_env_spec("ALE/Pong-v5", options=EnvOptions(full_action_set=True, frame_stack=1))
    assert (full.action.sizes, full.frame_stack) == ((18,), 1)


@pytest.mark.parametrize(
    ("name", "rom"),
    [("ALE/MsPacman-v5", "ms_pacman"), ("ALE/UpNDown-v5", "up_n_down"), ("ALE/pong", "pong"), ("ALE/Pong", "pong")],
)
def test_names_of_games_lead_to_their_roms(name, rom):
    assert rom_of(name) == rom


def test_all_the_games_of_the_papers_are_there():
    assert len(games()) > 57
    assert {"Pong", "Breakout", "MontezumaRevenge", "Pitfall", "Seaquest"} <= set(games())
    with pytest.raises(EnvironmentRefused, match="'ALE/Combat-v5' unknown"):
        make_env_spec("ALE/Combat-v5")


def test_the_frame_cap_truncates_and_does_not_terminate(backend):
    (obs, first, last, _, discount), episodes = play(75, backend, episode_cap_frames=120, action=0)
    assert obs.shape == (76, 2, 84, 84)
    assert obs.dtype == np.uint8
    assert np.flatnonzero(last[:, 0]).tolist() == [30, 61]
    assert np.flatnonzero(first[:, 0]).tolist() == [0, 31, 62]
    assert (discount == 1.0).all()
    assert [episode.length_steps for episode in episodes] == [30] * 4


def test_a_lost_game_terminates_and_the_next_step_is_the_reset(backend):
    (_, first, last, reward, discount), episodes = play(300, backend)
    ends = np.flatnonzero(last[:, 0])
    assert len(ends) >= 2
    np.testing.assert_array_equal(np.flatnonzero(first[:, 0])[1:], ends + 1)
    np.testing.assert_array_equal(np.flatnonzero(discount[:, 0] == 0.0), ends)
    assert not reward[ends + 1].any()
    lengths = [episode.length_steps for episode in episodes if episode.stream == 0]
    assert lengths[:2] == [ends[0], ends[1] - ends[0] - 1]
    totals = [episode.episode_return for episode in episodes if episode.stream == 0]
    assert totals[0] == reward[: ends[0] + 1, 0].sum()


def test_the_step_after_the_end_ignores_its_action(backend):
    def after_the_end(action):
        spec = make_env_spec("ALE/Breakout-v5", options=EnvOptions(backend=backend, episode_cap_frames=40))
        environments = spec.make(1, np.random.SeedSequence(0))
        environments.reset()
        for _ in range(10):
            row = environments.step(np.array([3]))
        assert row.last[0]
        frames = [environments.step(np.array([action])).obs.copy()]
        frames += [environments.step(np.array([0])).obs.copy() for _ in range(3)]
        environments.close()
        return np.stack(frames)

    np.testing.assert_array_equal(after_the_end(2), after_the_end(3))


def test_a_lost_life_zeroes_the_discount_without_ending_the_game(backend):
    plain, episodes = play(300, backend)
    lives, same_episodes = play(300, backend, life_loss=True)
    for without, with_lives in zip(plain[:4], lives[:4], strict=True):
        np.testing.assert_array_equal(without, with_lives)
    assert episodes == same_episodes
    ends = np.flatnonzero(plain[2][:, 0])
    zeros = np.flatnonzero(lives[4][:, 0] == 0.0)
    assert (zeros <= ends[0]).sum() == 5
    assert set(ends) <= set(zeros)
    assert not lives[1][zeros, 0].any()


def test_the_same_seed_gives_the_same_rollout_and_another_seed_another(backend):
    one, two, other = (play(60, backend, seed=seed, game="Pong", action=2, sticky_actions=0.25)[0] for seed in (1, 1, 2))
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[0][:, 0], one[0][:, 1])


def test_threads_change_nothing_and_end_when_closed():
    def run(num_threads):
        environments = make_env_spec("ALE/Pong-v5").make(3, np.random.SeedSequence(0), num_threads=num_threads)
        frames = [environments.reset().obs.copy()]
        frames += [environments.step(np.array([2, 3, 0])).obs.copy() for _ in range(20)]
        environments.close()
        return np.stack(frames)

    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None
    np.testing.assert_array_equal(run(1), run(3))
    if before is not None:
        assert len(os.listdir("/proc/self/task")) <= before


def test_emulators_cannot_be_saved():
    environments = make_env_spec("ALE/Pong-v5").make(1, np.random.SeedSequence(0))
    environments.reset()
    assert environments.state_dict() is None
    environments.close()
    environments.close()
