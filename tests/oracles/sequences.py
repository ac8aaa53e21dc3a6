"""A slow definition of sequences: whole episodes as lists, cut one after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tests.oracles.replay import Episodes


class Cut(NamedTuple):
    """Steps of an episode, counted from its first: the prefix is [prefix, start), what is learned from [start, stop)."""

    prefix: int
    start: int
    stop: int


def cuts(steps: int, length: int, overlap: int, burn_in: int) -> list[Cut]:
    """The sequences of an episode of `steps` steps."""
    found: list[Cut] = []
    start = 0
    while steps and (not found or found[-1].stop < steps):
        found.append(Cut(max(0, start - burn_in), start, min(start + length, steps)))
        start += length - overlap
    return found


class Expected(NamedTuple):
    """One sequence as it should be read: its cut, what stands in its rows [prefix, stop], and the row of the stream that is its step 0."""

    cut: Cut
    seen: np.ndarray
    rows: list[Any]
    last_action: list[int]
    last_reward: list[float]
    origin: int


def sequences(stream: Episodes, end: int, length: int, overlap: int, burn_in: int, stack: int) -> dict[int, Expected]:
    """All sequences of a stream of which every row before `end` was acted at, by the row of their first step.

    What an unfinished episode will become does not matter: only sequences whose `length` rows were all acted at are given.
    """
    found: dict[int, Expected] = {}
    for origin, rows in zip(stream.starts, stream.episodes, strict=True):
        steps = sum(not row.last for row in rows[: end - origin])
        for cut in cuts(steps, length, overlap, burn_in):
            if origin + cut.start + length > end:
                continue
            inside = range(cut.prefix, cut.stop + 1)
            found[origin + cut.start] = Expected(
                cut,
                np.stack([stream.seen(origin + step, stack) for step in inside]),
                [rows[step] for step in inside],
                [rows[step - 1].action if step else 0 for step in inside],
                [rows[step - 1].reward if step else 0.0 for step in inside],
                origin,
            )
    return found
