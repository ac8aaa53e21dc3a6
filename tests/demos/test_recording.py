"""Recording as a user does it: policies, scripts, BabyAI's bot, a person; and what `veldt demos show` says of the result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import veldt
from tests.systems.toys import SECONDS, Corridor, corridor, walks_right
from veldt import cli
from veldt.demos.datasets import demonstrations, open_dataset
from veldt.demos.demonstrators import BabyAIBot, Expert, expert
from veldt.demos.keyboard import Keyboard, playable
from veldt.demos.recording import record
from veldt.envs import make_env_spec
from veldt.errors import ConfigError, EnvironmentRefused

pytest.importorskip("minari")
pytest.importorskip("h5py")

CORRIDOR = "tests.systems.toys:corridor"


def record_corridor(name: str, *flags: str) -> int:
    return cli.run(["demos", "record", CORRIDOR, "--out", name, "--episodes", "5", *flags])


def test_a_script_is_recorded_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert record_corridor("toys/corridor-v0", "--expert", "tests.systems.toys:walks_right") == 0
    told = capsys.readouterr().out
    assert "episode 5 of 5: return 1, " in told
    assert "veldt train r2d3 tests.systems.toys:corridor --demos toys/corridor-v0" in told
    assert cli.run(["demos", "show", "toys/corridor-v0", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["episodes"] == shown["terminated"] == 5
    assert shown["returns"] == [1.0] * 5
    assert shown["steps"] == sum(shown["lengths_steps"])
    assert set(shown["lengths_steps"]) <= {1, 2, 3}
    assert (shown["env"], shown["played_by"]) == (CORRIDOR, "tests.systems.toys:walks_right")
    assert shown["action_space"] == "Discrete(2)"
    assert cli.run(["demos", "show", "toys/corridor-v0"]) == 0
    assert "5 terminated, 0 were cut" in capsys.readouterr().out


def test_the_same_seed_records_the_same_episodes_and_another_seed_others() -> None:
    for name, seed in (("one-v0", "1"), ("one-v1", "1"), ("two-v0", "2")):
        assert record_corridor(name, "--expert", "tests.systems.toys:walks_right", "--seed", seed, "--quiet") == 0
    found = {
        name: b"".join(episode.obs.tobytes() for episode in demonstrations(open_dataset(name), make_env_spec(corridor)))
        for name in ("one-v0", "one-v1", "two-v0")
    }
    assert found["one-v0"] == found["one-v1"] != found["two-v0"]


@pytest.mark.parametrize("system", ["dqn", "r2d2"])
def test_a_policy_of_any_system_plays_in_the_environment_of_its_run(tmp_path: Path, system: str) -> None:
    settings = {**SECONDS, "hidden": (8,), "runtime": "inline", "steps": 600, "samples_per_insert": 4.0, "frame_stack": 2}
    if system == "dqn":
        del settings["samples_per_insert"]
    veldt.train(system, CORRIDOR, out=tmp_path / "run", **settings)
    assert record_corridor("toys/policy-v0", "--policy", str(tmp_path / "run"), "--quiet") == 0
    dataset = open_dataset("toys/policy-v0")
    assert dataset.metadata["algorithm_name"] == f"the {system} policy of step {veldt.load(tmp_path / 'run').about['step']:,}"
    for episode in demonstrations(dataset, make_env_spec(CORRIDOR)):  # frames are stored once, and stacked when they are read
        assert episode.obs.shape == (len(episode) + 1, 5)
        assert (episode.reward.sum() == 1) == (episode.obs[-1, 4] == 1)


def test_a_policy_of_another_environment_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    veldt.train("dqn", CORRIDOR, out=tmp_path / "run", **{**SECONDS, "hidden": (8,), "steps": 600})
    assert cli.run(["demos", "record", "CartPole-v1", "--policy", str(tmp_path / "run"), "--out", "x-v0"]) == 2
    assert "plays tests.systems.toys:corridor, not CartPole-v1" in capsys.readouterr().err


def needs_both(obs: np.ndarray, env: Corridor) -> int:
    assert isinstance(env, Corridor)
    assert obs[env.cell] == 1
    return 1


def test_a_script_may_look_at_the_environment_itself() -> None:
    record(make_env_spec(corridor), Expert(needs_both, "both"), episodes=3, seed=0, name="toys/both-v0")
    assert open_dataset("toys/both-v0").episode_count == 3


def fails(obs: np.ndarray) -> int:
    raise RuntimeError("no idea")


def three(one: int, two: int, more: int) -> int:
    return 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (2, r"answered .*2.*; actions are Discrete\(2\)"),
        (-1, r"answered .*-1.*; actions are Discrete\(2\)"),
        (0.5, r"answered .*0.5.*; actions are Discrete\(2\)"),
        ([0, 1], r"actions are Discrete\(2\)"),
        (None, r"answered None; actions are Discrete\(2\)"),
    ],
)
def test_an_action_that_there_is_none_of_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        record(make_env_spec(corridor), Expert(lambda obs: answer, "it"), episodes=1, seed=0, name="toys/wrong-v0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("walks_right", "an expert is named package.module:callable, got 'walks_right'"),
        ("nowhere.at_all:expert", "cannot import nowhere.at_all"),
        ("tests.systems.toys:walks_rihgt", "has no callable 'walks_rihgt'; did you mean 'walks_right'"),
        ("tests.systems.toys:SECONDS", "has no callable 'SECONDS'"),
        ("tests.demos.test_recording:three", "takes 3 arguments; it must take the observation, or that and the environment"),
    ],
)
def test_what_is_no_expert_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expert(name)


def test_a_script_that_raises_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert record_corridor("toys/fails-v0", "--expert", "tests.demos.test_recording:fails") == 2
    assert capsys.readouterr().err == "veldt: expert tests.demos.test_recording:fails raised RuntimeError: no idea\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "says who plays; got none of them"),
        (("--bot", "--expert", "a:b"), "says who plays; got --expert --bot"),
        (("--bot", "--episodes", "0"), "episodes must be >= 1, got 0"),
        (("--bot", "--seed", "-1"), "seed must be >= 0, got -1"),
        (("--bot",), "the bot plays BabyAI's levels"),
        (("--expert", "tests.systems.toys:walks_right", "--life-loss"), "demonstrations are whole games"),
        (("--keyboard",), "its render_mode is None, not 'rgb_array'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_dataset(
    flags: tuple[str, ...], message: str, datasets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record_corridor("toys/corridor-v0", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("veldt: ")
    assert message in error
    assert "Traceback" not in error
    assert not (datasets / "toys").exists()


def test_a_name_that_is_taken_is_refused_before_anything_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--expert", "tests.systems.toys:walks_right", "--quiet")
    assert record_corridor("toys/corridor-v0", *flags) == 0
    assert record_corridor("toys/corridor-v0", *flags) == 2
    assert "exists" in capsys.readouterr().err


class Interrupted:
    """Plays some steps; then the person has had enough."""

    name = "somebody"

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, seen: Any, env: Any) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return np.array([1])


def test_whole_episodes_are_kept_when_somebody_stops() -> None:
    with pytest.raises(KeyboardInterrupt):
        record(make_env_spec(corridor), Interrupted(20), episodes=100, seed=0, name="toys/stopped-v0")
    found = list(demonstrations(open_dataset("toys/stopped-v0"), make_env_spec(corridor)))
    assert 6 <= len(found) <= 20
    assert all(episode.terminated and episode.reward[-1] == 1 for episode in found)


class Breaking(Corridor):
    """Its second step of every other episode raises."""

    episodes = 0

    def reset(self, **kwargs: Any) -> Any:
        Breaking.episodes += 1
        self.taken = 0
        return super().reset(**kwargs)

    def step(self, action: int) -> Any:
        self.taken += 1
        if self.taken == 2 and Breaking.episodes % 2:
            raise ValueError("the toy broke")
        return super().step(action)


def test_an_episode_in_which_the_environment_failed_is_left_out() -> None:
    with pytest.warns(UserWarning, match="the toy broke"):
        record(make_env_spec(Breaking), Expert(walks_right, "walks right"), episodes=6, seed=0, name="toys/breaking-v0")
    found = list(demonstrations(open_dataset("toys/breaking-v0"), make_env_spec(Breaking)))
    assert len(found) == 6
    for episode in found:
        assert episode.terminated
        assert episode.reward.tolist() == [0.0] * (len(episode) - 1) + [1.0]
        assert episode.obs.argmax(axis=1).tolist() == list(range(4 - len(episode), 5))


def test_babyais_bot_unlocks_a_door() -> None:
    env = make_env_spec("BabyAI-UnlockPickup-v0")
    recorded = record(env, BabyAIBot(), episodes=3, seed=0, name="babyai/unlockpickup-v0")
    assert min(recorded.returns) > 0.5
    assert len(list(demonstrations(open_dataset("babyai/unlockpickup-v0"), env))) == 3


def test_the_expert_of_the_benchmark_solves_doorkey() -> None:
    recorded = record(
        make_env_spec("MiniGrid-DoorKey-8x8-v0"), expert("bench.experts:door_key"), episodes=10, seed=0, name="minigrid/doorkey-v0"
    )  # fmt: skip
    assert min(recorded.returns) > 0.95
    assert max(recorded.lengths_steps) < 40


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "SDL_VIDEODRIVER", "dummy")
    pytest.importorskip("pygame")


def press(*names: str) -> None:
    import pygame

    for name in names:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.key.key_code(name)))


@pytest.mark.usefixtures("no_screen")
def test_a_person_plays_with_keys_and_escape_keeps_whole_episodes() -> None:
    env = playable(make_env_spec("CartPole-v1"))
    person = Keyboard(env.action.sizes[0])
    press(*(["0", "x"] * 12), "escape")  # always to the left; x means nothing
    with pytest.raises(KeyboardInterrupt):
        record(env, person, episodes=5, seed=0, name="cartpole/person-v0")
    person.close()
    found = list(demonstrations(open_dataset("cartpole/person-v0"), env))
    assert len(found) == 1
    assert found[0].action.tolist() == [0] * len(found[0])
    assert found[0].terminated


@pytest.mark.usefixtures("no_screen")
def test_minigrid_is_played_with_its_usual_keys() -> None:
    env = playable(make_env_spec("MiniGrid-Empty-5x5-v0"))
    person = Keyboard(env.action.sizes[0])
    press("up", "up", "right", "up", "up")
    recorded = record(env, person, episodes=1, seed=0, name="minigrid/empty-v0")
    person.close()
    assert recorded.lengths_steps == [5]
    assert recorded.returns[0] > 0.9


def test_who_cannot_be_played_by_a_person_is_refused() -> None:
    with pytest.raises(ConfigError, match="the keyboard plays Discrete actions; Pendulum-v1 has Box"):
        playable(make_env_spec("Pendulum-v1"))
    with pytest.raises(EnvironmentRefused, match="does not render"):
        playable(make_env_spec("ALE/Pong-v5"))
