"""Minari datasets, opened and checked: every episode is whole, and of the environment that it is wanted for.

Nothing in a dataset can execute code: spaces come from their description, never from an environment that the dataset names, and what
it says about one is read as text. Nothing is downloaded unless the name asks for it (`hf://farama-minari/D4RL/door/human-v2`).

Refuses, with `DatasetRefused`: a dataset that is not there, empty, damaged, of another environment, or with other spaces.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from veldt.data import ActionSpec, ArraySpec, EnvSpec, Tree, tree_from_items, tree_items, tree_map
from veldt.envs.spaces import action_spec, observation_spec
from veldt.errors import ConfigError, DatasetRefused, EnvironmentRefused

NAME = re.compile(r"(?:[-\w]{2,}(?:/[-\w]+)*/)?[-\w]+-v\d+")
"""A dataset's name, with namespaces before it and its version behind it: `minigrid/doorkey-v0`."""

RECORDED_IN = "veldt_env"
"""Where the name of the environment stands in the metadata of what Veldt recorded."""


@dataclass(frozen=True)
class Demonstration:
    """One episode of T steps: obs, a tree of [T + 1, ...]; action [T, ...]; reward float32 [T]; whether it terminated."""

    obs: Tree
    action: np.ndarray
    reward: np.ndarray
    terminated: bool

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True)
class Dataset:
    """A dataset that is there and can be opened.

    env: the environment it was recorded in, as far as it says. episode_count, step_count: as it says.
    """

    name: str
    env: str | None
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    episode_count: int
    step_count: int
    metadata: Mapping[str, Any]
    storage: Any = field(repr=False)

    def episodes(self) -> Iterator[Mapping[str, Any]]:
        """Its episodes as Minari gives them.

        Raises:
            DatasetRefused: one cannot be read.
        """
        found = iter(self.storage.get_episodes(range(self.episode_count)))
        for number in range(self.episode_count):
            try:
                yield next(found)
            except Exception as error:  # of h5py and of Minari, which promise no kind
                raise damaged(self.name, f"episode {number} cannot be read ({_in_words(error)})") from error


def damaged(name: str, what: str) -> DatasetRefused:
    """The error for a dataset that is not whole."""
    return DatasetRefused(f"the dataset {name!r} is damaged: {what}; record or download it again")


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def require_minari() -> None:
    """Raises `ConfigError` unless Minari and h5py are installed."""
    if not all(importlib.util.find_spec(name) for name in ("minari", "h5py")):
        raise ConfigError("demonstrations are Minari datasets: pip install 'veldt[minari]'")


def require_name(name: str) -> None:
    """Raises `ConfigError` unless `name` can be that of a local dataset."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"a dataset is called name-vN, with namespaces before it if you like: minigrid/doorkey-v0; got {name!r}"
        )


def open_dataset(name: str) -> Dataset:
    """The dataset called `name`; one behind `hf://...` or `gs://...` is downloaded unless it is here already.

    Raises:
        ConfigError: Minari is not installed, or no dataset can be called so.
        DatasetRefused: it is not there, or damaged.
    """
    require_minari()
    remote, _, path = name.rpartition("://")
    local = path.partition("/")[2] if remote else name
    require_name(local)
    from minari.storage.datasets_root_dir import get_dataset_path

    folder = Path(get_dataset_path(local)) / "data"
    if not folder.is_dir() and remote:
        _download(name)
    if not folder.is_dir():
        raise DatasetRefused(
            f"no dataset {name!r} in {get_dataset_path()}; record one with: veldt demos record ENV ... --out {name}, "
            f"or have it downloaded: hf://farama-minari/{name}"
        )
    return _opened(local, folder)


def _download(name: str) -> None:
    import minari

    try:
        minari.download_dataset(name)
    except Exception as error:  # of the network and of its libraries
        raise DatasetRefused(f"the dataset {name!r} cannot be downloaded ({_in_words(error)})") from error


def _opened(name: str, folder: Path) -> Dataset:
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import deserialize_space

    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        # Without these Minari would make the environment that the dataset names: code of somebody else's choice.
        observation_space, action_space = (deserialize_space(metadata[name]) for name in ("observation_space", "action_space"))
        counts = int(metadata["total_episodes"]), int(metadata["total_steps"])
        storage = MinariStorage.read(folder)
    except Exception as error:
        raise damaged(name, f"its description cannot be read ({_in_words(error)})") from error
    if counts[0] < 1 or counts[1] < 1:
        raise DatasetRefused(f"the dataset {name!r} is empty: {counts[0]} episodes, {counts[1]} steps")
    return Dataset(name, _environment(metadata), observation_space, action_space, *counts, metadata, storage)


def _environment(metadata: Mapping[str, Any]) -> str | None:
    """The name of the environment, read as text."""
    if RECORDED_IN in metadata:
        return str(metadata[RECORDED_IN])
    try:
        return str(json.loads(metadata["env_spec"])["id"])
    except (KeyError, TypeError, ValueError):
        return None


def demonstrations(dataset: Dataset, env: EnvSpec) -> Iterator[Demonstration]:
    """The episodes of `dataset` as `env` shows them, one by one, each checked.

    Raises:
        DatasetRefused: it is of another environment, has other spaces, or an episode is not whole.
    """
    observation = _refuse_another_environment(dataset, env)
    steps = 0
    for number, raw in enumerate(dataset.episodes()):
        try:
            episode = _demonstration(raw, dataset, observation, env.action)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(dataset.name, f"episode {number}: {_in_words(error)}") from error
        steps += len(episode)
        yield episode
    if steps != dataset.step_count:
        raise damaged(dataset.name, f"it says {dataset.step_count:,} steps and has {steps:,}")


def _refuse_another_environment(dataset: Dataset, env: EnvSpec) -> Tree:
    """The specs of the dataset's observations, which are those of `env`."""
    who = f"the dataset {dataset.name!r}"
    if dataset.env is not None and _bare(dataset.env) != _bare(env.id):
        raise DatasetRefused(f"{who} was recorded in {dataset.env}, not in {env.id}")
    try:
        observation = observation_spec(dataset.observation_space, _texts(dataset.observation_space))
        action = action_spec(dataset.action_space)
    except EnvironmentRefused as error:
        raise DatasetRefused(f"{who}: {error}") from error
    theirs, ours = dict(tree_items(observation, "obs")), dict(tree_items(env.observation, "obs"))
    for path in sorted(theirs.keys() | ours.keys()):
        if path not in theirs or path not in ours:
            has, lacks = (who, env.id) if path in theirs else (env.id, who)
            raise DatasetRefused(f"{has} shows {path}, which {lacks} does not have")
        if not _alike(theirs[path], ours[path]):
            raise DatasetRefused(f"{who}: {path} is {_written(theirs[path])}, in {env.id} it is {_written(ours[path])}")
    if not _same_actions(action, env.action):
        bounds = f" in [{action.low}, {action.high}]" if action.kind == "box" else ""
        own = f" in [{env.action.low}, {env.action.high}]" if env.action.kind == "box" else ""
        raise DatasetRefused(f"{who}: actions are {action}{bounds}, in {env.id} they are {env.action}{own}")
    return observation


def _bare(name: str) -> str:
    """An environment's name without the module that registers or makes it: a callable and its written name are the same."""
    return name.rpartition(":")[2]


def _texts(space: Any) -> frozenset[str]:
    """The keys of texts, such as MiniGrid's mission: Veldt does not store them."""
    if not isinstance(space, spaces.Dict):
        return frozenset()
    inside = (_texts(child) for child in space.spaces.values())
    return frozenset(key for key, child in space.spaces.items() if isinstance(child, spaces.Text)).union(*inside)


def _alike(one: ArraySpec, other: ArraySpec) -> bool:
    kinds = ((spec.shape, spec.dtype, spec.categories) for spec in (one, other))
    return len(set(kinds)) == 1 and all(map(_same_bound, (one.low, one.high), (other.low, other.high)))


def _same_bound(one: float | None, other: float | None) -> bool:
    return one == other or (one is not None and other is not None and bool(np.isclose(one, other)))


def _same_actions(one: ActionSpec, other: ActionSpec) -> bool:
    if (one.kind, one.shape, one.sizes) != (other.kind, other.shape, other.sizes):
        return False
    return np.allclose(one.low, other.low) and np.allclose(one.high, other.high)


def _written(spec: ArraySpec) -> str:
    if spec.categories is not None:
        return f"Discrete({spec.categories})"
    low, high = ("-inf" if spec.low is None else f"{spec.low:g}"), ("inf" if spec.high is None else f"{spec.high:g}")
    return f"{spec.dtype} {spec.shape} in [{low}, {high}]"


def _demonstration(raw: Mapping[str, Any], dataset: Dataset, observation: Tree, action: ActionSpec) -> Demonstration:
    """One episode, converted. Raises `ValueError` or whatever numpy raises where it is not whole."""
    reward = np.asarray(raw["rewards"]).astype(np.float32)
    ends = {name: np.asarray(raw[name], bool) for name in ("terminations", "truncations")}
    steps = len(reward)
    for name, array in (("rewards", reward), *ends.items()):
        _require(array.shape == (steps,) and steps > 0, f"{name} have shape {array.shape}")
    _require(bool(np.isfinite(reward).all()), "a reward is not finite")
    for name, flags in ends.items():
        _require(not flags[:-1].any(), f"{name} before its last step")
    leaves = {
        path: _leaf(_at(raw["observations"], path), _space_at(dataset.observation_space, path), leaf, steps + 1, path or "obs")
        for path, leaf in tree_items(observation)
    }
    actions = _leaf(raw["actions"], dataset.action_space, action.array, steps, "actions")
    if action.sizes:
        _require(bool(((actions >= 0) & (actions < action.sizes)).all() if action.shape else (actions < action.sizes[0]).all()
                      and (actions >= 0).all()), f"an action is not in {action}")  # fmt: skip
    return Demonstration(tree_from_items(observation, leaves), actions, reward, bool(ends["terminations"][-1]))


def _at(tree: Any, path: str) -> Any:
    for key in path.split("/") if path else ():
        tree = tree[key]
    return tree


def _space_at(space: Any, path: str) -> Any:
    for key in path.split("/") if path else ():
        space = space.spaces[key]
    return space


def _leaf(values: Any, space: Any, spec: ArraySpec, rows: int, name: str) -> np.ndarray:
    """`values` as Veldt stores them: [rows, ...], discrete ones counted from 0."""
    array = np.asarray(values)
    _require(array.shape == (rows, *spec.shape), f"{name} have shape {array.shape}, not {(rows, *spec.shape)}")
    start = getattr(space, "start", None)
    array = (array if start is None else array - start).astype(spec.dtype)
    if array.dtype.kind == "f":
        _require(bool(np.isfinite(array).all()), f"{name} are not finite")
    if spec.categories is not None:
        _require(bool(((array >= 0) & (array < spec.categories)).all()), f"{name} are not in Discrete({spec.categories})")
    return array


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)


def spaces_of(env: EnvSpec) -> tuple[spaces.Space[Any], spaces.Space[Any]]:
    """The spaces of what `env` shows and of what may be done in it, as Gymnasium writes them: what a recorded dataset has."""
    seen = tree_map(_space, env.observation)
    action = env.action
    if action.kind == "box":
        low, high = (np.array(bound, action.dtype).reshape(action.shape) for bound in (action.low, action.high))
        return _nested(seen), spaces.Box(low, high, action.shape, np.dtype(action.dtype).type)
    if action.kind == "multi_discrete":
        return _nested(seen), spaces.MultiDiscrete(list(action.sizes))
    return _nested(seen), spaces.Discrete(action.sizes[0])


def _nested(tree: Any) -> spaces.Space[Any]:
    return spaces.Dict({key: _nested(child) for key, child in tree.items()}) if isinstance(tree, dict) else tree


def _space(spec: ArraySpec) -> spaces.Space[Any]:
    if spec.categories is not None:
        return spaces.Discrete(spec.categories)
    dtype: Any = np.dtype(spec.dtype)
    least, most = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = least if spec.low is None else spec.low, most if spec.high is None else spec.high
    return spaces.Box(low, high, spec.shape, dtype.type)
