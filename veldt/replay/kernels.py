"""The inner loops of replay, compiled by numba: loops over a batch that in numpy are a dozen calls, or wait for memory.

numba is imported, and a kernel compiled, when it is first called: importing numba takes a quarter of a second, and
processes that hold no table never need it. Compiled code is kept beside this file or, where that cannot be written, in the
user's cache folder, or nowhere. No fast mathematics and no threads: the same input gives the same bits. Nothing is checked here.

A tree is an array `nodes` of 2 * leaves numbers, leaves being a power of two: node k is the sum of nodes 2k and 2k + 1,
node 1 of all, and the leaves are the upper half. Loops go down or up one level for all indices before the next: the
indices then wait for memory together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled when it is first called."""

    @cache
    def kernel() -> Callable[P, R]:
        from numba import njit

        try:
            return njit(cache=True, nogil=True)(function)
        except RuntimeError:  # numba found no folder that it may keep compiled code in: compile in every process
            return njit(nogil=True)(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return kernel()(*args, **kwargs)

    return call


@compiled
def put(nodes: np.ndarray, indices: np.ndarray, values: np.ndarray) -> None:
    """Writes `values` [K] into the leaves `indices` [K], in this order, and adds up the sums above them again."""
    leaves = len(nodes) // 2
    at = indices + leaves
    for k in range(len(at)):
        nodes[at[k]] = values[k]
    level = leaves
    while level > 1:
        for k in range(len(at)):
            at[k] //= 2
            nodes[at[k]] = nodes[2 * at[k]] + nodes[2 * at[k] + 1]
        level //= 2


@compiled
def draw(nodes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The leaf at each of `points` [K] in [0, 1] of the total, which is not 0, and the share it has of the total, [K]."""
    leaves = len(nodes) // 2
    # Unsigned: every access by a signed index asks first whether it counts from the end.
    at = np.ones(len(points), np.uint64)
    targets = points * nodes[1]
    level = 1
    while level < leaves:
        for k in range(len(at)):
            left = at[k] + at[k]
            mass = nodes[left]
            # Never to a sum of 0, even where roundings left the target at or beyond all there is.
            right = (targets[k] >= mass) & (nodes[left + np.uint64(1)] > 0.0)
            targets[k] -= mass * right  # a product: a branch would be guessed wrong half of the time
            at[k] = left + np.uint64(right)
        level *= 2
    shares = np.empty(len(points))
    for k in range(len(at)):
        shares[k] = nodes[at[k]] / nodes[1]
    return at.astype(np.int64) - leaves, shares


@compiled
def label(
    key_at: np.ndarray, slots: np.ndarray, probabilities: np.ndarray, items: int, beta: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The keys of `slots` [K], their importance weights, float32 [K], and what those were divided by: the largest of them.

    A weight is (N P)^-beta, divided by its maximum over this batch: all are in (0, 1], one of them exactly 1. probabilities: float64 [K], the chance of each drawn item among
    `items` = N stored ones (not the capacity).
    Source: Schaul et al. 2016, section 3.4, with the maximum over the batch instead of the whole replay.
    """
    keys = np.empty(len(slots), np.int64)
    for k in range(len(slots)):  # a loop of its own: powers between would let each wait for memory alone
        keys[k] = key_at[slots[k]]
    weights = (items * probabilities) ** -beta
    largest = weights.max()
    return keys, (weights / largest).astype(np.float32), largest


@compiled
def exponentiate(
    key_at: np.ndarray, keys: np.ndarray, priorities: np.ndarray, alpha: float, floor: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The slots of those of `keys` [K] that are still in them, their masses in a sum tree, and their largest priority.

    A mass is max(p, floor)^alpha, float64. This is the only place where alpha is applied, for inserts and updates alike;
    the floor keeps every item reachable. Source: Schaul et al. 2016, section 3.3, equation 1.
    """
    slots = np.empty(len(keys), np.int64)
    masses = np.empty(len(keys))
    alive, largest = 0, 0.0
    for k in range(len(keys)):
        slot = keys[k] % len(key_at)
        if key_at[slot] == keys[k]:
            slots[alive] = slot
            masses[alive] = max(float(priorities[k]), floor) ** alpha
            largest = max(largest, float(priorities[k]))
            alive += 1
    return slots[:alive], masses[:alive], largest


@compiled
def first_unfit(values: np.ndarray) -> int:
    """The place of the first of `values` [K] that is negative, NaN or infinite; -1 if there is none."""
    for k in range(len(values)):
        if not 0.0 <= values[k] < np.inf:
            return k
    return -1


@compiled
def fold_n_step(
    reward: np.ndarray, discount: np.ndarray, last: np.ndarray, gamma: float, clip: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B windows of up to n steps, each folded into one transition: (R, G, k).

    reward, discount: float32 [n, B], rows t .. t+n-1 of each stream; last: bool [n, B], of the rows t+1 .. t+n. A window
    stops after a step whose discount is 0, or whose next row is `last` (terminated or truncated), and is then
    discounted by gamma^k for the k steps it really has. Rows behind a window's end may hold anything.

    R: float32 [B] = sum_{j<k} (prod_{i<j} gamma discount_i) r_j, r clipped to [-clip, clip]; G: float32 [B] = gamma^k
    prod_{i<k} discount_i; k: int64 [B] = steps used, 1..n. The target is R + G * value(obs k rows later).
    Source: Sutton 1988; Mnih et al. 2016, section 4; Horgan et al. 2018, section 3.1.
    """
    steps, windows = reward.shape
    total = np.zeros(windows, np.float32)
    factor = np.ones(windows, np.float32)
    used = np.zeros(windows, np.int64)
    for b in range(windows):
        for t in range(steps):
            total[b] += min(max(reward[t, b], np.float32(-clip)), np.float32(clip)) * factor[b]
            factor[b] *= np.float32(gamma) * discount[t, b]
            used[b] += 1
            if last[t, b] or discount[t, b] == 0:
                break
    return total, factor, used
