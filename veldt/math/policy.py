"""Log-probabilities and entropies of policies: categorical, several categoricals, and diagonal Gaussian.

The last axis holds logits, components or dimensions; all other axes are free. Refuses nothing.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch.nn.functional import softplus


def categorical_log_prob(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[action]: float [..., A], int64 [...] -> float [...]."""
    return logits.log_softmax(dim=-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


def categorical_entropy(logits: torch.Tensor) -> torch.Tensor:
    """-sum_a pi_a log pi_a in nats: float [..., A] -> float [...]. Its gradient is -pi (log pi + H)."""
    log_probability = logits.log_softmax(dim=-1)
    return -(log_probability.exp() * log_probability).sum(dim=-1)


def multi_categorical_log_prob(logits: torch.Tensor, action: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Sum of the log-probabilities of n independent categoricals.

    logits: float [..., sum(sizes)], one categorical after the other; action: int64 [..., n] -> float [...].
    """
    parts = zip(torch.split(logits, list(sizes), dim=-1), action.unbind(dim=-1), strict=True)
    return torch.stack([categorical_log_prob(one, chosen) for one, chosen in parts]).sum(dim=0)


def multi_categorical_entropy(logits: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Sum of the entropies of n independent categoricals: float [..., sum(sizes)] -> float [...]."""
    return torch.stack([categorical_entropy(one) for one in torch.split(logits, list(sizes), dim=-1)]).sum(dim=0)


def softplus_variance(raw: torch.Tensor, floor: float) -> torch.Tensor:
    """softplus(raw) + floor, elementwise: a variance that is never 0. Source: Mnih et al. 2016 (A3C), section 9."""
    return softplus(raw) + floor


def gaussian_log_prob(mean: torch.Tensor, variance: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log-density of a diagonal Gaussian, summed over dimensions: float [..., D] three times -> float [...]."""
    return -0.5 * ((action - mean).square() / variance + variance.log() + log(2 * pi)).sum(dim=-1)


def gaussian_entropy(variance: torch.Tensor) -> torch.Tensor:
    """sum_d (log(2 pi variance_d) + 1) / 2 in nats: float [..., D] -> float [...].

    Source: Mnih et al. 2016 (A3C), section 9 (the paper's "cost" is the negative of it).
    """
    return 0.5 * (variance.log() + (log(2 * pi) + 1)).sum(dim=-1)
