"""Priorities of sequences, for learners and actors: what one is worth. Masses and weights: `veldt.replay.kernels`."""

from __future__ import annotations

import torch


def sequence_priorities(errors: torch.Tensor, mask: torch.Tensor, eta: float) -> torch.Tensor:
    """eta max_t |delta_t| + (1 - eta) mean_t |delta_t| over the real steps: float32 [B].

    errors, mask: float32 [T, B]; mask is 1 on steps that are learned from. A sequence without any has priority 0.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3, with eta = 0.9.
    """
    size = torch.where(mask > 0, errors.detach().abs(), 0.0)
    mean = size.sum(dim=0) / mask.sum(dim=0).clamp(min=1)
    return eta * size.amax(dim=0) + (1 - eta) * mean
