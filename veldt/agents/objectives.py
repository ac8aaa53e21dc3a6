"""Objectives: what to minimise. Frozen values without state, so that one learner serves all systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from veldt.core import Loss
from veldt.data import ArraySpec, Batch, Transition
from veldt.math.q_learning import bootstrap_value, huber, values_of


@dataclass(frozen=True)
class QLearning:
    """One- or n-step Q-learning on transitions (Mnih et al. 2015, equation 2, and its options).

    target y = R + G * Q-(o', argmax_a Q-(o', a)), or with `double` Q-(o', argmax_a Q(o', a)) (van Hasselt et al. 2016);
    loss = sum or mean over the batch of weight * Huber(y - Q(o, a)), whose gradient in Q is weight * clip(delta, -1, 1).
    priorities = |delta|, unclipped.

    double: choose the next action with the online network.
    sum_over_batch: sum the losses, as DQN does, instead of averaging them.
    """

    double: bool
    sum_over_batch: bool

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """Nothing: a transition is all it reads."""
        return {}

    def __call__(self, online: torch.nn.Module, target: torch.nn.Module, batch: Batch[Transition]) -> Loss:
        """The loss of a batch of transitions; gradients flow into `online` only."""
        step = batch.data
        with torch.no_grad():
            next_online = online(step.next_obs) if self.double else None
            y = step.reward + step.discount * bootstrap_value(target(step.next_obs), next_online)
        taken = values_of(online(step.obs), step.action)
        error = y - taken
        losses = huber(error) * batch.weights
        value = losses.sum() if self.sum_over_batch else losses.mean()
        priorities = error.detach().abs()
        return Loss(value, priorities, {"q": taken.detach(), "td_error": priorities})
