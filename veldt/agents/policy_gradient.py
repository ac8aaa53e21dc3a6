"""Objectives of policies with a value, on unrolls: V-trace (IMPALA) and the advantage actor-critic of A3C.

Both sum over batch and time, as the papers do; a void row weighs nothing. They differ in what the values and the policy are pulled
towards, and that stands in `veldt.math`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from veldt.agents.actor_critic import LOG_PROB
from veldt.core import Loss
from veldt.data import WEIGHTS_VERSION, ArraySpec, Batch, Unroll
from veldt.math import vtrace
from veldt.math.returns import discounted_returns


def clipped_reward(unroll: Unroll, reward_clip: float | None) -> torch.Tensor:
    """What followed the T actions, clipped to plus or minus `reward_clip`: float32 [T, B]."""
    reward = unroll.reward[:-1]
    return reward if reward_clip is None else reward.clamp(-reward_clip, reward_clip)


@dataclass(frozen=True)
class _Spoken:
    """What the network says of an unroll: log pi(a_t|x_t) and entropy [T, B] and values V(x_t) [T+1, B], all with gradients."""

    log_prob: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, online: Any, unroll: Unroll) -> _Spoken:
        answers = online(unroll)
        policy = answers.policy[:-1]  # at row T nothing is learned
        return cls(online.policy.log_prob(policy, unroll.action[:-1]), online.policy.entropy(policy), answers.value)

    def loss(
        self,
        batch: Batch[Unroll],
        targets: torch.Tensor,
        advantages: torch.Tensor,
        value_factor: float,
        entropy_factor: float,
    ) -> Loss:
        """Sum over batch and time of -log pi A + value_factor (v - V)^2 / 2 - entropy_factor H, for constant v and A [T, B]."""
        mask, values = batch.data.mask, self.values[:-1]
        error = targets - values
        each = value_factor / 2 * error.square() - self.log_prob * advantages - entropy_factor * self.entropy
        value = ((mask * each).sum(dim=0) * batch.weights).sum()
        with torch.no_grad():
            real = mask.sum().clamp(min=1)
            read = {"entropy": self.entropy, "value": values, "value_error": error.abs()}
            return Loss(value, None, {name: (mask * part).sum() / real for name, part in read.items()})


@dataclass(frozen=True)
class VTrace:
    """Actor-critic with off-policy correction (Espeholt et al. 2018, section 4).

    loss = sum over batch and time of -log pi(a_t|x_t) A_t + value_factor (v_t - V(x_t))^2 / 2 - entropy_factor H(pi(.|x_t)),
    v and A by `veldt.math.vtrace` from the log-probabilities that actors recorded.

    reward_clip: rewards are clipped to plus or minus this; None leaves them.
    rho_bar, c_bar, pg_rho_bar: where pi/mu is cut off in the value's target, in its trace, and before the policy's gradient.
    trace_lambda: makes every trace shorter.
    correction: vtrace; or the paper's weaker variants (section 5.2.2): one_step, where n-step returns are the targets and the policy's
        gradient is weighted by min(pg_rho_bar, pi/mu); none, where it is not.
    """

    discount: float
    reward_clip: float | None
    rho_bar: float
    c_bar: float
    pg_rho_bar: float
    trace_lambda: float
    correction: Literal["vtrace", "one_step", "none"]
    value_factor: float
    entropy_factor: float

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """The log-probability of what was done, and how old the weights were that did it."""
        return {LOG_PROB: ArraySpec((), "float32"), WEIGHTS_VERSION: ArraySpec((), "int64")}

    def __call__(self, online: Any, target: Any, batch: Batch[Unroll]) -> Loss:
        """The loss of a batch of unrolls; gradients flow into `online`, and not through targets and advantages."""
        unroll = batch.data
        spoken = _Spoken.of(online, unroll)
        log_ratio = spoken.log_prob.detach() - unroll.extras[LOG_PROB][:-1]
        targets, advantages = self._corrected(log_ratio, unroll, spoken.values.detach())
        loss = spoken.loss(batch, targets, advantages, self.value_factor, self.entropy_factor)
        cut = unroll.mask * (log_ratio.exp() > self.rho_bar)
        return loss._replace(metrics={**loss.metrics, "cut_ratios": cut.sum() / unroll.mask.sum().clamp(min=1)})

    def _corrected(self, log_ratio: torch.Tensor, unroll: Unroll, values: torch.Tensor) -> vtrace.VTrace:
        reward, discount, last = clipped_reward(unroll, self.reward_clip), unroll.discount[:-1], unroll.last[:-1]
        if self.correction == "vtrace":
            return vtrace.vtrace(
                log_ratio, reward, discount, last, values, gamma=self.discount, rho_bar=self.rho_bar, c_bar=self.c_bar,
                pg_rho_bar=self.pg_rho_bar, trace_lambda=self.trace_lambda,
            )  # fmt: skip
        returns = discounted_returns(reward, discount, last, values, gamma=self.discount)
        advantages = returns - values[:-1]
        if self.correction == "one_step":
            advantages = advantages * torch.where(last, 0.0, log_ratio.exp()).clamp(max=self.pg_rho_bar)
        return vtrace.VTrace(returns, advantages)


@dataclass(frozen=True)
class ActorCritic:
    """Advantage actor-critic on what the policy itself did just now (Mnih et al. 2016, algorithm S3).

    loss = sum over batch and time of -log pi(a_t|x_t) (R_t - V(x_t)) + value_factor (R_t - V(x_t))^2 / 2 - entropy_factor H(pi(.|x_t)),
    R_t the return to the end of the unroll or of the episode, bootstrapped with V; constant in both terms that pull, as is the
    advantage.

    reward_clip: rewards are clipped to plus or minus this; None leaves them.
    """

    discount: float
    reward_clip: float | None
    value_factor: float
    entropy_factor: float

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """How old the weights were that acted; the loss does not read it."""
        return {WEIGHTS_VERSION: ArraySpec((), "int64")}

    def __call__(self, online: Any, target: Any, batch: Batch[Unroll]) -> Loss:
        """The loss of a batch of unrolls; gradients flow into `online`, and not through returns and advantages."""
        unroll = batch.data
        spoken = _Spoken.of(online, unroll)
        values = spoken.values.detach()
        reward = clipped_reward(unroll, self.reward_clip)
        returns = discounted_returns(reward, unroll.discount[:-1], unroll.last[:-1], values, gamma=self.discount)
        return spoken.loss(batch, returns, returns - values[:-1], self.value_factor, self.entropy_factor)
