"""Objectives: what to minimise. Frozen values without state, so that one learner serves all systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from veldt.core import Loss
from veldt.data import ArraySpec, Batch, Transition
from veldt.math.q_learning import bootstrap_value, huber, values_of

ACTING_VALUES = {"q_taken": ArraySpec((), "float32"), "q_value": ArraySpec((), "float32")}
"""What initial priorities are made of: Q(o, a) of the action that was executed, and the value of the greedy one."""


@dataclass(frozen=True)
class QLearning:
    """One- or n-step Q-learning on transitions (Mnih et al. 2015, equation 2, and its options).

    target y = R + G * Q-(o', argmax_a Q-(o', a)), or with `double` Q-(o', argmax_a Q(o', a)) (van Hasselt et al. 2016);
    loss = sum or mean over the batch of weight * l(y - Q(o, a)); l is Huber's, whose gradient in Q is clip(delta, -1, 1)
    (DQN), or delta^2 / 2 (Ape-X). priorities = |delta|, unclipped.

    double: choose the next action with the online network.
    sum_over_batch: sum the losses, as DQN does, instead of averaging them.
    error_loss: what l is.
    initial_priorities: actors record the values that `math.priorities.NStepPriorities` reads.
    """

    double: bool
    sum_over_batch: bool
    error_loss: Literal["huber", "squared"]
    initial_priorities: bool

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """Nothing for the loss: a transition is all it reads."""
        return ACTING_VALUES if self.initial_priorities else {}

    def __call__(self, online: torch.nn.Module, target: torch.nn.Module, batch: Batch[Transition]) -> Loss:
        """The loss of a batch of transitions; gradients flow into `online` only."""
        step = batch.data
        with torch.no_grad():
            next_online = online(step.next_obs) if self.double else None
            y = step.reward + step.discount * bootstrap_value(target(step.next_obs), next_online)
        taken = values_of(online(step.obs), step.action)
        error = y - taken
        losses = (huber(error) if self.error_loss == "huber" else error.square() / 2) * batch.weights
        value = losses.sum() if self.sum_over_batch else losses.mean()
        priorities = error.detach().abs()
        return Loss(value, priorities, {"q": taken.detach(), "td_error": priorities})


@dataclass(frozen=True)
class DPG:
    """A critic learned from n-step transitions, and a deterministic policy that climbs it (Horgan et al. 2018, appendix D).

    target y = R + G * q-(o', pi-(o')); critic loss = mean over the batch of weight * (y - q(o, a))^2 / 2.
    The policy's gradient is the mean over the batch of -dq/da dpi/dtheta at a = pi(o), each component of dq/da clipped; none of it
    reaches the critic. priorities = |delta|. Actions are in half ranges, as the agent has them.
    Source of the gradient: Silver et al. 2014; Lillicrap et al. 2016.

    action_gradient_clip: the largest component of dq/da; None leaves it.
    """

    action_gradient_clip: float | None

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """What initial priorities are made of; the loss reads a transition alone."""
        return ACTING_VALUES

    def __call__(self, online: Any, target: Any, batch: Batch[Transition]) -> Loss:
        """The loss of a batch of transitions; gradients flow into `online` only. Its value is the critic's loss."""
        step = batch.data
        with torch.no_grad():
            y = step.reward + step.discount * target.value(step.next_obs, target.policy(step.next_obs))
        taken = online.value(step.obs, online.half_ranges(step.action))
        error = y - taken
        critic_loss = (error.square() / 2 * batch.weights).mean()

        action = online.policy(step.obs)
        point = action.detach().requires_grad_()
        (slope,) = torch.autograd.grad(online.value(step.obs, point).sum(), point)
        if self.action_gradient_clip is not None:
            slope = slope.clamp(-self.action_gradient_clip, self.action_gradient_clip)
        climb = (slope * (action - point.detach())).sum(dim=-1).mean()  # 0, and its gradient is the policy's
        priorities = error.detach().abs()
        metrics = {"q": taken.detach(), "td_error": priorities, "action_gradient": slope.abs()}
        return Loss(critic_loss - climb, priorities, metrics)
