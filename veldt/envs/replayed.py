"""What `loop.py` saves of its streams: plain arrays from which the same steps can be taken again.

Refuses (`RunFolderError`) a state of another number of streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from veldt.core import State
from veldt.data import Episode, Tree, tree_leaves, tree_map
from veldt.errors import RunFolderError

REPLAYABLE_STEPS = 100_000
"""Longer episodes are not restored: recording and repeating them would cost more than the episode is worth."""


@dataclass(frozen=True)
class Recording:
    """Per stream: the episode's number, the actions since its reset ([n, ...], None if too many), and where it led."""

    episode: list[int]
    actions: list[np.ndarray | None]
    over: list[bool]
    returns: list[float]
    obs: Tree
    finished: list[Episode]

    def matches(self, stream: int, obs: Tree) -> bool:
        """Whether `obs` [B, ...] has the recorded observation of `stream`, bit for bit."""
        pairs = zip(tree_leaves(self.obs), tree_leaves(obs), strict=True)
        return all(np.array_equal(mine[stream], other[stream]) for mine, other in pairs)


def pack(
    episode: list[int],
    actions: Sequence[np.ndarray | None],
    over: list[bool],
    returns: list[float],
    obs: Tree,
    finished: list[Episode],
) -> State:
    """The arguments as a state of lists, numbers and copied arrays."""
    return {
        "episode": list(episode),
        "actions": list(actions),
        "over": list(over),
        "returns": list(returns),
        "obs": tree_map(np.copy, obs),
        "finished": pack_episodes(finished),
    }


def unpack(state: State, streams: int) -> Recording:
    """The inverse of `pack`."""
    check_streams(len(state["episode"]), streams)
    finished = unpack_episodes(state["finished"])
    names = ("episode", "actions", "over", "returns", "obs")
    return Recording(**{name: state[name] for name in names}, finished=finished)


def check_streams(saved: int, streams: int) -> None:
    """Raises `RunFolderError` unless both are the same."""
    if saved != streams:
        raise RunFolderError(
            f"cannot resume: the checkpoint holds {saved} environment streams, this run has {streams}; "
            "use the same number of environments per actor"
        )


def pack_episodes(episodes: list[Episode]) -> list[list[float]]:
    """Episodes as lists of numbers."""
    return [list(episode) for episode in episodes]


def unpack_episodes(episodes: list[list[float]]) -> list[Episode]:
    """The inverse of `pack_episodes`."""
    return [Episode(int(stream), float(total), int(length)) for stream, total, length in episodes]
