"""Slow definitions of returns and V-trace, one stream at a time, transcribed from the papers. For tests alone."""

from __future__ import annotations

import numpy as np


def n_step_window(reward, discount, ends, gamma, n):
    """The n-step accumulator, step by step, for the window that starts at row 0: (R, G, k)."""
    total, factor, k = 0.0, 1.0, 0
    while True:
        total += factor * reward[k]
        factor *= gamma * discount[k]
        stop = ends[k]
        k += 1
        if k == n or stop:
            return total, factor, k


def n_step_target(t, reward, discount, last, values, gamma, n):
    """The target of row t inside an unroll of T steps, with n shrinking at row T and at a `last` row."""
    if last[t]:
        return values[t]
    total, factor, row = 0.0, 1.0, t
    while row < len(reward) and row - t < n and not (row > t and last[row]):
        total += factor * reward[row]
        factor *= gamma * discount[row]
        row += 1
    return total + factor * values[row]


def vtrace_sum(ratio, reward, discount, last, values, gamma, rho_bar, c_bar, pg_rho_bar, trace_lambda):
    """Equation 1 of Espeholt et al. 2018, the O(T^2) sum of products, episode by episode: (v, advantages)."""
    steps = len(reward)
    gammas = gamma * np.asarray(discount)
    targets = np.array(values, float)
    for s in range(steps):
        if last[s]:
            continue
        for t in range(s, steps):
            if last[t]:
                break
            trace = np.prod([gammas[i] * trace_lambda * min(c_bar, ratio[i]) for i in range(s, t)])
            delta = min(rho_bar, ratio[t]) * (reward[t] + gammas[t] * values[t + 1] - values[t])
            targets[s] += trace * delta
    advantages = [
        0.0 if last[s] else min(pg_rho_bar, ratio[s]) * (reward[s] + gammas[s] * targets[s + 1] - values[s])
        for s in range(steps)
    ]
    return targets[:steps], np.array(advantages)


def initial_priority(t, reward, discount, last, taken, value, gamma, n, clip):
    """|R + G max_a Q(o_{t+k}) - Q(o_t, a_t)| of the transition that starts at row t of one stream."""
    total, factor, row = 0.0, 1.0, t
    while row - t < n and not (row > t and last[row]):
        total += factor * (reward[row] if clip is None else min(max(reward[row], -clip), clip))
        factor *= gamma * discount[row]
        row += 1
        if factor == 0:
            return abs(total - taken[t])
    return abs(total + factor * value[row] - taken[t])
