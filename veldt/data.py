"""All that flows: specs of arrays, rows of experience, unrolls, transitions, batches.

The time convention, which every file of Veldt keeps. Experience is *time-major*,
`[T, B, ...]`: T rows of B environment streams. Row t holds

    obs[t]       what the agent saw
    first[t]     obs[t] starts an episode: recurrent state, last action and last reward are reset before it is used
    last[t]      obs[t] ends an episode: the action is ignored by the environment and carries no learning weight
    action[t]    what the agent did at obs[t]
    reward[t]    what followed the action, unclipped
    discount[t]  0 if the environment *terminated* after action[t], else 1; truncation leaves it 1

so the final observation of every episode is in the stream, and nothing that crosses an episode is ever a target:

    row       0      1      2      3      4
    obs       o0     o1     o2     p0     p1        o2 is the final observation of the first episode
    first     True   False  False  True   False
    last      False  False  True   False  False
    discount  1      0      -      1      1         0 at row 1: action 1 terminated the episode

This module knows numpy and torch, and nothing else of Veldt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch

Tree = Any
"""An array (numpy or torch), a dict of trees, or None: nothing. Everything that walks a tree takes keys in sorted order."""

STEP_FIELDS = ("obs", "first", "last", "action", "reward", "discount")
"""The fields every row has. Whatever else a row carries are extras, under names that an objective declared."""

WEIGHTS_VERSION = "weights_version"
"""An extra that actors know themselves, int64 []: the version of the weights that they acted with."""

EPISODE_STEP = "episode_step"
"""An extra that actors know themselves, int32 []: rows since the episode's first one, which is 0."""


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """`function` applied to each leaf of `tree` (and to the matching leaves of `others`), in a tree of the same shape."""
    if isinstance(tree, dict):
        return {key: tree_map(function, tree[key], *(other[key] for other in others)) for key in sorted(tree)}
    return None if tree is None else function(tree, *others)


def tree_items(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of `tree` with their paths, as `obs/image`; a bare leaf has the path it was called with."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from tree_items(tree[key], f"{path}/{key}" if path else key)
    elif tree is not None:
        yield path, tree


def tree_from_items(tree: Tree, values: Mapping[str, Any], path: str = "") -> Tree:
    """A tree of the shape of `tree` whose leaf at each path is `values[path]`: the inverse of `tree_items`."""
    if isinstance(tree, dict):
        return {key: tree_from_items(tree[key], values, f"{path}/{key}" if path else key) for key in sorted(tree)}
    return None if tree is None else values[path]


def tree_leaves(tree: Tree) -> list[Any]:
    """The leaves of `tree`, in sorted order of their paths."""
    return [leaf for _, leaf in tree_items(tree)]


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of one array of one row of one stream.

    `low` and `high` bound the values where the environment says so; `categories` is the number of values of a
    `Discrete` observation, which networks read as one-hot.
    """

    shape: tuple[int, ...]
    dtype: str
    low: float | None = None
    high: float | None = None
    categories: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one such array."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def empty(self, *leading: int) -> np.ndarray:
        """An uninitialised array `[*leading, *shape]`."""
        return np.empty((*leading, *self.shape), self.dtype)

    def zeros(self, *leading: int) -> np.ndarray:
        """An array of zeros `[*leading, *shape]`."""
        return np.zeros((*leading, *self.shape), self.dtype)


@dataclass(frozen=True)
class ActionSpec:
    """What an agent may do: `discrete` (int64 []), `multi_discrete` (int64 [n]) or `box` (float32 [*shape]).

    `sizes` are the numbers of values of the discrete components; `low` and `high`, flattened, bound a box.
    """

    kind: Literal["discrete", "multi_discrete", "box"]
    shape: tuple[int, ...]
    dtype: str
    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.kind == "discrete":
            return f"Discrete({self.sizes[0]})"
        if self.kind == "multi_discrete":
            return f"MultiDiscrete({list(self.sizes)})"
        return f"Box{self.shape}"

    @property
    def array(self) -> ArraySpec:
        """The spec of one action as an array."""
        return ArraySpec(self.shape, self.dtype)


@dataclass(frozen=True)
class EnvSpec:
    """An environment before it is made: what the agent sees and does, and how to make B streams of it.

    `observation` is a tree of `ArraySpec` of what *one row stores*. With `frame_stack` k > 1 that is the newest frame
    alone, and agents see the last k frames, oldest first, zeros before an episode's first frame.

    `make(streams, seeds)` returns B = `streams` running environments (`core.Environments`). It is picklable.
    """

    id: str
    make: Callable[..., Any] = field(repr=False)
    observation: Tree
    action: ActionSpec
    frame_stack: int = 1
    frames_per_step: int = 1

    @property
    def seen(self) -> Tree:
        """The specs of what an agent sees: `observation` with frames stacked along a new leading axis."""
        if self.frame_stack == 1:
            return self.observation
        leaf = self.observation
        return ArraySpec((self.frame_stack, *leaf.shape), leaf.dtype, leaf.low, leaf.high)

    def step_spec(self, extras: Mapping[str, ArraySpec] | None = None) -> dict[str, Tree]:
        """What one row of a stream of this environment stores, with the extras an objective asks for."""
        return {
            "obs": self.observation,
            "first": ArraySpec((), "bool"),
            "last": ArraySpec((), "bool"),
            "action": self.action.array,
            "reward": ArraySpec((), "float32"),
            "discount": ArraySpec((), "float32"),
            **(extras or {}),
        }


class TimeStep(NamedTuple):
    """What B environments answer: the reward and discount of the row just acted on, and the row that follows it.

    obs: tree of [B, ...]; first, last: bool [B]; reward, discount: float32 [B]. After a reset, reward is 0 and
    discount is 1. The arrays belong to the environments and are overwritten by their next step.
    """

    obs: Tree
    first: np.ndarray
    last: np.ndarray
    reward: np.ndarray
    discount: np.ndarray


class Seen(NamedTuple):
    """What an agent is shown of B streams at one row.

    obs: tree of [B, ...], frames stacked (`EnvSpec.seen`); first: bool [B]. last_action: [B, ...] and last_reward: float32 [B],
    what was done at the row before and what followed it; 0 where `first`.
    """

    obs: Tree
    first: np.ndarray
    last_action: np.ndarray
    last_reward: np.ndarray


class Episode(NamedTuple):
    """One finished episode, as the environment counts it: true rewards, real ends (a lost life is not one)."""

    stream: int
    episode_return: float
    length_steps: int


@dataclass
class Transition:
    """B items of n steps each, folded at reading: what one-step and n-step value learning needs.

    obs, next_obs: tree of [B, ...], n rows apart (fewer where the episode ended earlier);
    action: [B, ...]; reward: float32 [B], R = sum_j gamma^j r_{t+j};
    discount: float32 [B], G = gamma^k, or 0 after termination. A target is `reward + discount * value(next_obs)`.
    """

    obs: Tree
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    next_obs: Tree


@dataclass
class Unroll:
    """T steps of B streams, `[T+1, B, ...]`: row T is row 0 of the next unroll and serves only to bootstrap.

    last_action: [T+1, B, ...] and last_reward: float32 [T+1, B], what was done at the row before and what followed it; 0 where
    `first`. `mask` is float32 [T, B]: 1 where the step is real and may be learned from. `state` is the recurrent state before
    row 0, a tree of [B, ...], or None for a feed-forward agent. What was done at row T may not be known yet: its action, reward,
    discount and extras mean nothing.

    Of sequences with a prefix, `prefix` is float32 [P, B]: 1 where one of the first P rows is real. They only warm the recurrent
    state up; their `mask` is 0. Real rows without a row before them are `first`, so that what stands in rows that are not real
    changes nothing. `marks` are states that the actor had within the sequence, where they are kept to be compared.
    """

    obs: Tree
    first: torch.Tensor
    last: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    discount: torch.Tensor
    last_action: torch.Tensor
    last_reward: torch.Tensor
    mask: torch.Tensor
    extras: dict[str, torch.Tensor] = field(default_factory=dict)
    state: Tree = None
    prefix: torch.Tensor | None = None
    marks: Tree = None


Data = TypeVar("Data", Transition, Unroll)


@dataclass
class Batch(Generic[Data]):
    """What a memory hands a learner.

    weights: float32 [B], importance weights, 1 under uniform sampling. keys: int64 [B] (numpy), which item each is,
    for `Memory.update`; a key never names two items, so an item that was evicted in between is recognised.
    """

    data: Data
    weights: torch.Tensor
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


Versions = tuple[int, ...]
"""How many updates weights have seen: one number, or one for each shard where they are owned in shards. () is older than all."""


@dataclass(frozen=True)
class Weights:
    """An agent's parameters and buffers, by name, and which versions of them these are."""

    versions: Versions
    tensors: dict[str, torch.Tensor]

    @property
    def version(self) -> int:
        """The updates that all of the weights have seen."""
        return min(self.versions)
