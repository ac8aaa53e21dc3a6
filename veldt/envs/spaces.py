"""Gymnasium spaces as Veldt's specs, and the conversion of observations and actions between the two.

Observations: Box of any number type (float64 is stored as float32), Discrete (int64, counted from 0), and Dict of
these, nested or not. Actions: Discrete, MultiDiscrete and float Box. Everything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from veldt.data import ActionSpec, ArraySpec, Tree, tree_map
from veldt.errors import EnvironmentRefused

NOTHING: frozenset[str] = frozenset()


class BrokenContract(Exception):
    """What an environment returned is not what it promised; the message says what."""


class Leaf(NamedTuple):
    """One array of an observation: the keys that lead to it, its space, and how it is stored."""

    keys: tuple[str, ...]
    space: spaces.Space[Any]
    spec: ArraySpec

    @property
    def name(self) -> str:
        """As the user would write it: `obs['cam']`."""
        return "obs" + "".join(f"[{key!r}]" for key in self.keys)


def observation_spec(space: Any, ignored: frozenset[str] = NOTHING, name: str = "observation_space") -> Tree:
    """The tree of `ArraySpec` that stores one observation of `space`; keys in `ignored` are left out."""
    if isinstance(space, dict):
        raise EnvironmentRefused(f"{name} is a Python dict; use gymnasium.spaces.Dict")
    if isinstance(space, spaces.Dict):
        kept = {key: child for key, child in space.spaces.items() if key not in ignored}
        if not kept:
            raise EnvironmentRefused(f"{name} is a Dict without entries; an agent needs at least one")
        return {key: observation_spec(child, ignored, f"{name}[{key!r}]") for key, child in sorted(kept.items())}
    if isinstance(space, spaces.Discrete):
        return ArraySpec((), "int64", 0, int(space.n) - 1, int(space.n))
    if isinstance(space, spaces.Box):
        dtype = "float32" if space.dtype == np.float64 else str(space.dtype)
        low, high = float(np.min(space.low)), float(np.max(space.high))
        bounds = (low if math.isfinite(low) else None, high if math.isfinite(high) else None)
        return ArraySpec(tuple(space.shape), dtype, *bounds)
    raise EnvironmentRefused(f"{name}: Veldt handles Box, Discrete and Dict of these; got {_kind(space)}")


def action_spec(space: Any) -> ActionSpec:
    """What an agent may do in `space`; discrete values are counted from 0, whatever the space's `start`."""
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", (), "int64", sizes=(int(space.n),))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return ActionSpec("multi_discrete", tuple(space.shape), "int64", sizes=tuple(space.nvec.tolist()))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = (tuple(bound.astype(np.float64).ravel().tolist()) for bound in (space.low, space.high))
        return ActionSpec("box", tuple(space.shape), "float32", low=low, high=high)
    raise EnvironmentRefused(f"action_space: Veldt handles Discrete, MultiDiscrete [n] and float Box; got {_kind(space)}")


def _kind(space: Any) -> str:
    if isinstance(space, spaces.Box | spaces.MultiDiscrete):
        return f"{type(space).__name__} of {space.dtype} {_shape(space.shape)}"
    if isinstance(space, spaces.Space):
        return type(space).__name__
    return f"a Python {type(space).__name__}, which is not a gymnasium.spaces.Space"


def _shape(shape: tuple[int, ...]) -> str:
    return str(tuple(shape)).replace(" ", "")


def _leaves(space: spaces.Space[Any], spec: Tree, keys: tuple[str, ...] = ()) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict):
        for key in sorted(spec):
            yield from _leaves(space.spaces[key], spec[key], (*keys, key))
    else:
        yield Leaf(keys, space, spec)


class Observations:
    """Observations of B environments, written one by one into arrays that are allocated once.

    rows: tree of [B, ...], in the dtypes of `observation_spec`.
    """

    def __init__(self, space: spaces.Space[Any], spec: Tree, streams: int):
        self.rows: Tree = tree_map(lambda leaf: leaf.zeros(streams), spec)
        self.leaves = list(_leaves(space, spec))
        self._writers = [
            (leaf.keys, _follow(self.rows, leaf.keys), leaf.spec.shape, getattr(leaf.space, "start", None))
            for leaf in self.leaves
        ]
        if len(self.leaves) == 1 and self._writers[0][0] == () and self._writers[0][3] is None:
            self.write = self._write_array  # type: ignore[method-assign]
            self._shape = self.leaves[0].spec.shape
        floats = [row.reshape(-1) for _, row, _, _ in self._writers if row.dtype.kind == "f"]
        self._finite_checks = [(row, np.zeros(row.shape, bool)) for row in floats]

    def write(self, stream: int, obs: Any) -> None:
        """Copies `obs` into row `stream`. Raises whatever numpy or a lookup raises where it does not fit."""
        for keys, row, shape, start in self._writers:
            value = obs
            for key in keys:
                value = value[key]
            if start is not None:
                row[stream] = value - start
            elif value.shape == shape:
                row[stream] = value
            else:
                raise ValueError("shape")  # an assignment would broadcast; `complaint` finds the words

    def _write_array(self, stream: int, obs: Any) -> None:
        """`write` where the observation is one array, the most frequent case."""
        if obs.shape != self._shape:
            raise ValueError("shape")
        self.rows[stream] = obs

    def all_finite(self) -> bool:
        """Whether no float in `rows` is NaN or infinite. About 1 µs for each array of a small observation."""
        return all(np.count_nonzero(np.isfinite(row, finite)) == row.size for row, finite in self._finite_checks)

    def not_finite(self) -> tuple[int, str]:
        """The first stream with a NaN or infinite observation, and which; called when `all_finite` said no."""
        for leaf, (_, row, _, _) in zip(self.leaves, self._writers, strict=True):
            if row.dtype.kind == "f" and not np.isfinite(row).all():
                place = tuple(int(index) for index in np.argwhere(~np.isfinite(row))[0])
                return place[0], f"{leaf.name} is {row[place]} at {list(place[1:])}"
        raise AssertionError("all rows are finite")

    def complaint(self, obs: Any) -> str | None:
        """What is wrong with the structure, shape or dtype of `obs`; None if it can be stored."""
        for leaf in self.leaves:
            try:
                value = _follow(obs, leaf.keys)
            except (KeyError, TypeError, IndexError):
                return f"{leaf.name} is missing; the observation is {_found(obs)}"
            expected = f"expected {leaf.space.dtype} {_shape(leaf.spec.shape)}"
            if isinstance(leaf.space, spaces.Discrete):
                if np.shape(value) != () or not np.issubdtype(np.asarray(value).dtype, np.integer):
                    return f"{leaf.name}: expected an integer, got {_found(value)}; cast in your env"
            elif not isinstance(value, np.ndarray | np.generic):
                return f"{leaf.name}: {expected}, got {_found(value)}; return a numpy array"
            elif value.shape != leaf.spec.shape or not np.can_cast(value.dtype, leaf.spec.dtype, "same_kind"):
                return f"{leaf.name}: {expected}, got {_found(value)}; cast in your env"
        return None

    def cast(self, obs: Any) -> str | None:
        """Which part of `obs` (that `complaint` passed) has another dtype than its space; None if none has."""
        for leaf in self.leaves:
            value = _follow(obs, leaf.keys)
            if isinstance(leaf.space, spaces.Box) and value.dtype != leaf.space.dtype:
                return f"{leaf.name} is {value.dtype}; its space says {leaf.space.dtype}"
        return None

    def outside(self, obs: Any) -> str | None:
        """Which part of `obs` (that `complaint` passed) lies outside its space, with the values; None if none does."""
        for leaf in self.leaves:
            value = np.asarray(_follow(obs, leaf.keys))
            if isinstance(leaf.space, spaces.Discrete):
                low: Any = leaf.space.start
                high: Any = leaf.space.start + leaf.space.n - 1
            else:
                assert isinstance(leaf.space, spaces.Box)
                low, high = leaf.space.low, leaf.space.high
            if np.any(value < low) or np.any(value > high):
                seen, bounds = f"[{value.min()}, {value.max()}]", f"[{np.min(low)}, {np.max(high)}]"
                return f"{leaf.name} has values in {seen}; its space allows {bounds}"
        return None


def _follow(tree: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _found(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {_shape(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with keys {sorted(map(str, value))}"
    return f"a Python {type(value).__name__}"


def native_actions(space: spaces.Space[Any]) -> Callable[[np.ndarray], list[Any]]:
    """A function from an agent's actions [B, ...] to the B actions that environments with `space` understand.

    Discrete values are moved to the space's `start`; boxes are clipped to their bounds. Nothing in the list is shared
    with the argument, so environments may keep what they are given.
    """
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return (lambda action: (action + first).tolist()) if first else (lambda action: action.tolist())
    if isinstance(space, spaces.MultiDiscrete):
        firsts = space.start
        return lambda action: list(action + firsts)
    assert isinstance(space, spaces.Box)
    low, high, dtype = space.low, space.high, space.dtype
    return lambda action: list(np.clip(action, low, high).astype(dtype))
