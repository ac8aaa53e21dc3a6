"""V-trace: value targets and policy-gradient advantages from a behaviour policy's unrolls.

Time-major. Refuses nothing. Rows marked `last` are void: their action was never carried out, so their target is their
value, their advantage is 0, and no trace crosses them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class VTrace(NamedTuple):
    """values: float [T, B], the targets v_s; advantages: float [T, B], already times the clipped ratio. Detached."""

    values: torch.Tensor
    advantages: torch.Tensor


def vtrace(
    log_ratio: torch.Tensor,
    reward: torch.Tensor,
    discount: torch.Tensor,
    last: torch.Tensor,
    values: torch.Tensor,
    *,
    gamma: float,
    rho_bar: float,
    c_bar: float,
    pg_rho_bar: float,
    trace_lambda: float,
) -> VTrace:
    """V-trace targets of T steps of B streams.

    log_ratio: float [T, B], log pi(a_t|x_t) - log mu(a_t|x_t); reward, discount: float [T, B]; last: bool [T, B];
    values: float [T+1, B], V(x_t) of the learner's network, row T bootstraps.

    With rho_t = min(rho_bar, pi/mu), c_t = lambda min(c_bar, pi/mu), gamma_t = gamma discount_t:
        delta_t     = rho_t (r_t + gamma_t V_{t+1} - V_t)
        v_t - V_t   = delta_t + gamma_t c_t (v_{t+1} - V_{t+1}),  v_T = V_T
        advantage_t = min(pg_rho_bar, pi/mu) (r_t + gamma_t v_{t+1} - V_t)
    Where last[t], pi/mu counts as 0 (whatever log_ratio says, even NaN), so delta, c and the advantage are 0 and
    v_t = V_t. A step that truncates its episode (discount 1) is followed by such a row: it bootstraps from the final
    observation's value, and its trace ends there by itself.
    Source: Espeholt et al. 2018 (IMPALA), section 4.1, equation 1 and remark 1; q_s uses v_{s+1} (appendix E.3).
    """
    with torch.no_grad():
        ratio = torch.where(last, 0.0, log_ratio.exp())
        factor = gamma * discount
        now, after = values[:-1], values[1:]
        delta = ratio.clamp(max=rho_bar) * (reward + factor * after - now)
        carry = factor * (trace_lambda * ratio.clamp(max=c_bar))
        running = torch.zeros_like(values[-1])
        excess = []
        for delta_t, carry_t in zip(reversed(delta.unbind()), reversed(carry.unbind()), strict=True):
            running = torch.addcmul(delta_t, carry_t, running)
            excess.append(running)
        targets = now + torch.stack(excess[::-1])
        targets_after = torch.cat([targets[1:], values[-1:]])
        advantages = ratio.clamp(max=pg_rho_bar) * (reward + factor * targets_after - now)
        return VTrace(targets, advantages)
