"""Priorities of replayed items: what is stored, what is corrected for, and what a sequence is worth.

Numpy where the table works (float64), torch where a learner or an actor has its errors. Refuses nothing; the table
refuses priorities that are not numbers.
"""

from __future__ import annotations

import numpy as np
import torch


def exponentiate(priorities: np.ndarray, alpha: float, floor: float) -> np.ndarray:
    """The mass of each item in a sum tree: max(p, floor)^alpha, float64, same shape. NaN stays NaN.

    The only place where alpha is applied, for inserts and updates alike; the floor keeps every item reachable.
    Source: Schaul et al. 2016, section 3.3, equation 1.
    """
    mass: np.ndarray = np.maximum(np.asarray(priorities, np.float64), floor) ** alpha
    return mass


def importance_weights(probabilities: np.ndarray, items: int, beta: float) -> np.ndarray:
    """(N P)^-beta divided by its maximum over this batch: float32 [B], all in (0, 1], one of them exactly 1.

    probabilities: float64 [B], the chance of each drawn item among `items` = N stored ones (not the capacity).
    Source: Schaul et al. 2016, section 3.4, with the maximum over the batch instead of the whole replay.
    """
    weights = (items * probabilities) ** -beta
    scaled: np.ndarray = (weights / weights.max()).astype(np.float32)
    return scaled


def sequence_priorities(errors: torch.Tensor, mask: torch.Tensor, eta: float) -> torch.Tensor:
    """eta max_t |delta_t| + (1 - eta) mean_t |delta_t| over the real steps: float32 [B].

    errors, mask: float32 [T, B]; mask is 1 on steps that are learned from. A sequence without any has priority 0.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3, with eta = 0.9.
    """
    size = torch.where(mask > 0, errors.detach().abs(), 0.0)
    mean = size.sum(dim=0) / mask.sum(dim=0).clamp(min=1)
    return eta * size.amax(dim=0) + (1 - eta) * mean
