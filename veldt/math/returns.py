"""Returns over several steps of unrolls, as recursions. The folded windows of replay: `veldt.replay.kernels`.

Time-major. A row marked `last` holds the final observation of its episode and its action is void: every function here
lets a window stop there and bootstrap from its value, and nothing ever reads a reward of the next episode. Refuses
nothing: shapes are the caller's contract. A window that ends early is discounted by gamma^k for the k steps it
really has, never by gamma^n.
"""

from __future__ import annotations

import numpy as np
import torch


def fold_n_step(
    reward: np.ndarray, discount: np.ndarray, ends: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B windows of up to n steps, each folded into one transition: (R, G, k).

    reward, discount: float32 [n, B], rows t .. t+n-1 of each stream. ends: bool [n, B], True where the window must stop
    after that step: its discount is 0, or the next row is `last` (terminated or truncated). Rows behind a window's end
    may hold anything.

    R: float32 [B] = sum_{j<k} (prod_{i<j} gamma discount_i) r_j;  G: float32 [B] = gamma^k prod_{i<k} discount_i;
    k: int64 [B] = steps used, 1..n. Actors fold with this, readers of a replay with its compiled twin in `replay.kernels`.
    The target is R + G * value(obs k rows later).
    Source: Sutton 1988; Mnih et al. 2016, section 4; Horgan et al. 2018, section 3.1.
    """
    steps, streams = reward.shape
    if steps == 1:
        return reward[0].copy(), discount[0] * np.float32(gamma), np.ones(streams, np.int64)
    used = np.ones((steps, streams), bool)
    np.logical_not(np.logical_or.accumulate(ends[:-1], axis=0), out=used[1:])
    factor = np.ones((steps + 1, streams), np.float32)
    np.multiply(discount, np.float32(gamma), out=factor[1:], where=used)
    np.multiply.accumulate(factor, axis=0, out=factor)
    earned = np.zeros((steps, streams), np.float32)
    np.multiply(reward, factor[:-1], out=earned, where=used)
    return earned.sum(axis=0), factor[-1], used.sum(axis=0, dtype=np.int64)


def discounted_returns(
    reward: torch.Tensor, discount: torch.Tensor, last: torch.Tensor, values: torch.Tensor, *, gamma: float
) -> torch.Tensor:
    """Returns to the end of the episode or of the unroll, whichever comes first: [T, B].

    reward, discount: float [T, B]; last: bool [T, B]; values: float [T+1, B], row T bootstraps the unroll.
    R_T = V_T;  R_t = V_t where last[t] (a void row: its error is 0), else r_t + gamma discount_t R_{t+1}.
    Step t is thus a (T-t)-step return, and a truncated episode bootstraps from the value of its final observation.
    Gradients do not flow. Source: Mnih et al. 2016 (A3C), algorithm S3.
    """
    with torch.no_grad():
        # A void row is the affine map R -> V + 0 * R, so one multiply-add per row serves all rows.
        start = torch.where(last, values[:-1], reward)
        slope = torch.where(last, torch.zeros_like(discount), gamma * discount)
        running = values[-1]
        returns = []
        for now, onward in zip(reversed(start.unbind()), reversed(slope.unbind()), strict=True):
            running = torch.addcmul(now, onward, running)
            returns.append(running)
        return torch.stack(returns[::-1])


def n_step_targets(
    reward: torch.Tensor, discount: torch.Tensor, last: torch.Tensor, values: torch.Tensor, *, n: int, gamma: float
) -> torch.Tensor:
    """n-step targets inside an unroll, with n shrinking towards its end: [T, B].

    reward, discount: float [T, B]; last: bool [T, B]; values: float [T+1, B], what row t bootstraps with (for R2D2,
    h^-1 of the target network's value of the online network's action).
    y_t = sum_{j<k} gamma^j r_{t+j} + gamma^k prod(discount) values[t+k], k = min(n, steps to row T or to a `last`
    row); on a void row (last[t]) y_t = values[t].
    Gradients do not flow. Source: Kapturowski et al. 2019 (R2D2), section 2.3; the paper is silent on the
    window's end, where SEED and Acme shrink n.
    """
    with torch.no_grad():
        void_value = values[:-1]
        factor = gamma * discount
        target = values
        for _ in range(min(n, len(reward))):
            target = torch.cat([torch.where(last, void_value, reward + factor * target[1:]), values[-1:]])
        return target[:-1]
