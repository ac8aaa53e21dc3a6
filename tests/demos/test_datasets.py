"""Datasets: what was recorded is read back exactly, and what does not fit is refused with the difference named."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tests.systems.toys import Corridor, corridor, endless, lock, walks_right
from veldt.core import Place
from veldt.data import EPISODE_STEP, ArraySpec, tree_items
from veldt.demos.datasets import Demonstration, demonstrations, open_dataset
from veldt.demos.demonstrators import Expert, expert
from veldt.demos.recording import record
from veldt.demos.table import Demonstrations
from veldt.envs import EnvOptions, make_env_spec
from veldt.errors import ConfigError, DatasetRefused
from veldt.replay.selectors import Proportional
from veldt.replay.sequences import Sequences

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")


class Showing(gymnasium.Env[Any, int]):
    """Every kind of observation and action value that is stored in another form than it is shown in; ends by a cut or terminates."""

    observation_space = spaces.Dict({
        "camera": spaces.Box(0, 255, (40, 40), np.uint8),  # Minari would keep it as a JPEG
        "speed": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "gear": spaces.Discrete(4, start=-1),
    })  # fmt: skip
    action_space = spaces.Discrete(3, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action: int) -> Any:
        assert action in self.action_space
        self.time += 1
        return self._see(), float(self.np_random.normal()), self.time == 4 and action == 5, self.time == 4 and action != 5, {}

    def _see(self) -> Any:
        return {
            "camera": self.np_random.integers(0, 256, (40, 40), np.uint8), "speed": self.np_random.normal(size=3) * 1e6,
            "gear": self.np_random.integers(-1, 3),
        }  # fmt: skip


def showing() -> Showing:
    return Showing()


def turns(obs: Any) -> int:
    return int(obs["gear"]) % 3


def read(name: str, env: Any) -> list[Demonstration]:
    return list(demonstrations(open_dataset(name), make_env_spec(env)))


def test_a_recorded_dataset_is_read_back_bit_for_bit() -> None:
    """Against the environment itself, played again with the recorded actions."""
    env, kept = make_env_spec(showing), []
    record(
        env, Expert(turns, "turns"), episodes=6, seed=3, name="toys/showing-v0", on_episode=lambda _, each: kept.append(each)
    )
    found = list(demonstrations(open_dataset("toys/showing-v0"), env))
    assert len(found) == len(kept) == 6
    assert {each.terminated for each in found} == {True, False}
    for one, other in zip(found, kept, strict=True):
        assert len(one) == 4
        assert one.terminated == other.terminated == (one.action[-1] == 0)
        for name in ("action", "reward"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
            assert getattr(one, name).dtype == getattr(other, name).dtype
        for (path, ours), (_, theirs) in zip(tree_items(one.obs), tree_items(other.obs), strict=True):
            assert ours.dtype == theirs.dtype == dict(tree_items(env.observation))[path].dtype
            assert ours.tobytes() == theirs.tobytes()
    environments = env.make(1, np.random.SeedSequence(3, spawn_key=tuple(b"demonstrations")))
    step = environments.reset()
    for episode in found:
        for row in range(len(episode)):
            for (_, ours), (_, theirs) in zip(tree_items(episode.obs), tree_items(step.obs), strict=True):
                assert np.array_equal(ours[row], theirs[0])
            step = environments.step(episode.action[row : row + 1])
            assert step.reward[0] == episode.reward[row]
        assert step.last[0]
        assert (step.discount[0] == 0) == episode.terminated
        step = environments.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("stack", [1, 2])
def test_every_step_of_every_demonstration_is_learned_from_once(burn_in: int, stack: int) -> None:
    """R2D3's sequences, short: each step of an episode is in exactly one, the opening too; the final observation bootstraps."""
    env = make_env_spec(endless, options=EnvOptions(frame_stack=stack))
    record(env, expert("tests.systems.toys:walks_right"), episodes=3, seed=1, name="toys/endless-v0")
    view = Sequences(5, 0, burn_in, "zero")
    part = Demonstrations(
        "toys/endless-v0", env, {"q_taken": ArraySpec((), "float32")}, view=view, selector=Proportional(0.9, 0.6), batch_size=4,
        place=Place(),
    )  # fmt: skip
    assert len(part) == 3 * 3  # 12 steps: 5, 5, 2
    rows = part.streams.columns_of(0, 1)
    reader = view.reader((part.streams,), stack, 1)
    counted = 0
    for key in part._table.selection_state_dict()["items"]["keys"]:
        data = reader.read(np.array([key]))
        start = int(rows[EPISODE_STEP][key, 0])
        assert start in (0, 5, 10)
        assert int(data.prefix.sum()) == min(start, burn_in)
        before, length = len(data.prefix), int(data.mask.sum())
        assert length == (2 if start == 10 else 5)
        assert data.reward[before : before + length, 0].tolist() == [1.0] * length
        assert data.discount[before : before + length, 0].tolist() == [1.0] * length  # they were cut, not terminated
        assert data.last[before + length, 0] == (start == 10)
        assert data.extras["q_taken"].abs().sum() == 0
        counted += length
    assert counted == 36


def test_demonstrations_that_terminate_do_not_bootstrap() -> None:
    record(make_env_spec(corridor), expert("tests.systems.toys:walks_right"), episodes=2, seed=1, name="toys/corridor-v0")
    view = Sequences(5, 0, 0, "zero")
    part = Demonstrations("toys/corridor-v0", make_env_spec(corridor), {}, view=view, selector=Proportional(0.9, 0.6),
                          batch_size=64, place=Place())  # fmt: skip
    data = view.reader((part.streams,), 1, 2).read(part._table.selection_state_dict()["items"]["keys"])
    for item in range(2):
        length = int(data.mask[:, item].sum())
        assert data.reward[:length, item].tolist() == [0.0] * (length - 1) + [1.0]
        assert data.discount[:length, item].tolist() == [1.0] * (length - 1) + [0.0]


def stored(name: str, observation_space: Any, action_space: Any, **fields: Any) -> None:
    """A dataset of one episode of five steps that somebody else wrote."""
    whole = {
        "observations": np.zeros((6, 5), np.float32), "actions": np.ones(5, np.int64), "rewards": np.ones(5),
        "terminations": np.eye(5, dtype=bool)[4], "truncations": np.zeros(5, bool),
    } | fields  # fmt: skip
    with warnings.catch_warnings():  # about what a dataset might say of its author
        warnings.simplefilter("ignore", UserWarning)
        minari.create_dataset_from_buffers(
            name, [minari.data_collector.EpisodeBuffer(**whole)], observation_space=observation_space, action_space=action_space
        )


BOX, TWO = Corridor.observation_space, Corridor.action_space


@pytest.mark.parametrize(
    ("observation_space", "action_space", "difference"),
    [
        (spaces.Box(0, 1, (4,)), TWO, r"obs is float32 \(4,\) in \[0, 1\], in corridor it is float32 \(5,\) in \[0, 1\]"),
        (spaces.Box(-1, 1, (5,)), TWO, r"obs is float32 \(5,\) in \[-1, 1\], in corridor it is float32 \(5,\) in \[0, 1\]"),
        (spaces.Box(0, 1, (5,), np.uint8), TWO, r"obs is uint8 \(5,\)"),
        (spaces.Discrete(5), TWO, r"obs is Discrete\(5\), in corridor it is float32 \(5,\)"),
        (spaces.Dict({"cell": BOX}), TWO, "corridor shows obs, which the dataset 'toys/other-v0' does not have"),
        (BOX, spaces.Discrete(18), r"actions are Discrete\(18\), in corridor they are Discrete\(2\)"),
        (BOX, spaces.MultiDiscrete([2, 2]), r"actions are MultiDiscrete\(\[2, 2\]\), in corridor they are Discrete\(2\)"),
        (BOX, spaces.Box(-1, 1, (1,)), r"actions are Box\(1,\) in .*, in corridor they are Discrete\(2\)"),
        (BOX, spaces.MultiBinary(3), "action_space: Veldt handles Discrete, MultiDiscrete"),
    ],
)
def test_other_spaces_are_refused_with_the_difference(observation_space: Any, action_space: Any, difference: str) -> None:
    stored("toys/other-v0", observation_space, action_space)
    with pytest.raises(DatasetRefused, match=difference):
        read("toys/other-v0", corridor)


def test_another_environment_is_refused_although_its_spaces_are_the_same() -> None:
    record(make_env_spec("CartPole-v0"), Expert(lambda obs: 1, "right"), episodes=1, seed=0, name="cartpole-v0")
    with pytest.raises(DatasetRefused, match="'cartpole-v0' was recorded in CartPole-v0, not in CartPole-v1"):
        read("cartpole-v0", "CartPole-v1")
    assert len(read("cartpole-v0", "CartPole-v0")) == 1


def test_a_callable_and_its_written_name_are_the_same_environment() -> None:
    record(make_env_spec(lock), expert("tests.systems.toys:opens_the_lock"), episodes=1, seed=0, name="lock-v0")
    assert len(read("lock-v0", "tests.systems.toys:lock")) == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"observations": np.zeros((5, 5), np.float32)}, r"obs have shape \(5, 5\), not \(6, 5\)"),
        ({"observations": np.full((6, 5), np.nan, np.float32)}, "obs are not finite"),
        ({"actions": np.ones(4, np.int64)}, r"actions have shape \(4,\), not \(5,\)"),
        ({"actions": np.array([0, 1, 2, 0, 1])}, r"an action is not in Discrete\(2\)"),
        ({"rewards": np.array([1, 1, np.inf, 1, 1])}, "a reward is not finite"),
        ({"rewards": np.ones((5, 2))}, r"rewards have shape \(5, 2\)"),
        ({"terminations": np.ones(5, bool)}, "terminations before its last step"),
        ({"truncations": np.zeros(3, bool)}, r"truncations have shape \(3,\)"),
    ],
)
def test_an_episode_that_is_not_whole_is_named(fields: dict[str, Any], problem: str) -> None:
    stored("toys/broken-v0", BOX, TWO, **fields)
    with pytest.raises(DatasetRefused, match=f"'toys/broken-v0' is damaged: episode 0: .*{problem}"):
        read("toys/broken-v0", corridor)


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "toys" / "corridor-v0" / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del metadata[name]
        else:
            metadata[name] = value
    path.write_text(json.dumps(metadata))


def cut_short(folder: Path) -> None:
    path = folder / "toys" / "corridor-v0" / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:3_000])


def without_rewards(folder: Path) -> None:
    with h5py.File(folder / "toys" / "corridor-v0" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (cut_short, "is damaged: episode 0 cannot be read"),
        (without_rewards, "is damaged: episode 1 cannot be read"),
        (lambda folder: (folder / "toys" / "corridor-v0" / "data" / "main_data.hdf5").unlink(), "is damaged"),
        (lambda folder: (folder / "toys" / "corridor-v0" / "data" / "metadata.json").write_text("{"), "description cannot be read"),
        (lambda folder: edited(folder, total_episodes=4), "is damaged: episode 3 cannot be read"),
        (lambda folder: edited(folder, total_steps=1_000), "is damaged: it says 1,000 steps and has"),
        (lambda folder: edited(folder, total_episodes=0), "is empty: 0 episodes"),
        (lambda folder: edited(folder, observation_space=None), "is damaged: its description cannot be read"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_empty_is_refused(datasets: Path, damage: Any, problem: str) -> None:
    record(make_env_spec(corridor), Expert(walks_right, "walks right"), episodes=3, seed=0, name="toys/corridor-v0")
    damage(datasets)
    with pytest.raises(DatasetRefused, match=problem):
        read("toys/corridor-v0", corridor)


def test_a_dataset_never_makes_the_environment_that_it_names(datasets: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Minari makes it where the dataset has no spaces; the entry point is code of the dataset's choice."""
    (tmp_path / "intruder.py").write_text("import pathlib; pathlib.Path('executed').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    record(make_env_spec(corridor), Expert(walks_right, "walks right"), episodes=1, seed=0, name="toys/corridor-v0")
    spec = copy.deepcopy(gymnasium.spec("CartPole-v1"))
    spec.id, spec.entry_point, spec.vector_entry_point = "Intruder-v0", "intruder:Env", None
    edited(datasets, env_spec=spec.to_json(), observation_space=None)
    with pytest.raises(DatasetRefused, match="description cannot be read"):
        read("toys/corridor-v0", corridor)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["", "doorkey", "doorkey-v", "../../secrets-v0", "a//b-v0", "/etc/x-v0", "a b-v0"])
def test_what_is_no_name_is_refused(name: str) -> None:
    for use in (
        open_dataset,
        lambda name: record(make_env_spec(corridor), Expert(walks_right, ""), episodes=1, seed=0, name=name),
    ):
        with pytest.raises(ConfigError, match="a dataset is called name-vN"):
            use(name)


def test_nothing_is_downloaded_unless_the_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unreachable(name: str) -> None:
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr(minari, "download_dataset", unreachable)
    with pytest.raises(DatasetRefused, match=r"no dataset 'D4RL/door/human-v2'.*hf://farama-minari/D4RL/door/human-v2"):
        open_dataset("D4RL/door/human-v2")
    assert asked == []
    with pytest.raises(DatasetRefused, match=r"cannot be downloaded \(OSError: no network\)"):
        open_dataset("hf://farama-minari/D4RL/door/human-v2")
    assert asked == ["hf://farama-minari/D4RL/door/human-v2"]


def test_one_that_is_here_is_not_downloaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    record(make_env_spec(corridor), Expert(walks_right, "walks right"), episodes=1, seed=0, name="toys/corridor-v0")
    monkeypatch.setattr(minari, "download_dataset", lambda name: pytest.fail("downloaded"))
    assert open_dataset("hf://somebody/toys/corridor-v0").episode_count == 1
