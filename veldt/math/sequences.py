"""What learning from sequences computes: errors under value rescaling, and how far a recurrent state has drifted.

Time-major; learners and actors use the same functions. Refuses nothing: shapes are the caller's contract.
"""

from __future__ import annotations

import torch

from veldt.math.rescaling import h, h_inverse
from veldt.math.returns import n_step_targets


def temporal_errors(
    taken: torch.Tensor,
    bootstrap: torch.Tensor,
    reward: torch.Tensor,
    discount: torch.Tensor,
    last: torch.Tensor,
    *,
    n: int,
    gamma: float,
    epsilon: float | None,
) -> torch.Tensor:
    """h(R_t + G_t h^-1(bootstrap_{t+k})) - taken_t, differentiable in `taken` alone: float32 [T, B].

    taken, reward, discount: float32 [T, B]; last: bool [T, B]; bootstrap: float32 [T+1, B], values as networks say them, squashed by
    h. R, G and k of `returns.n_step_targets`. epsilon: of h; None: values are not squashed.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3.
    """
    if epsilon is None:
        return n_step_targets(reward, discount, last, bootstrap, n=n, gamma=gamma) - taken
    values = h_inverse(bootstrap.detach(), epsilon)
    return h(n_step_targets(reward, discount, last, values, n=n, gamma=gamma), epsilon) - taken


def state_drift(values: torch.Tensor, kept: torch.Tensor, mask: torch.Tensor, row: int) -> torch.Tensor:
    """Delta-Q at row `row`: |q - q'|_2 / |max_{a, t} q_t| of each sequence, float32 [B].

    values: float32 [T, B, A], Q-values after the states that the network unrolled; kept: [B, A], what it says at `row` after the state
    that the actor had there; mask: float32 [T, B], the steps among which the maximum is taken.
    Source: Kapturowski et al. 2019 (R2D2), section 3, equation for Delta Q.
    """
    largest = values.amax(dim=-1).masked_fill(mask == 0, -torch.inf).amax(dim=0)
    drift: torch.Tensor = torch.linalg.vector_norm(values[row] - kept, dim=-1) / (largest.abs() + 1e-8)
    return drift
