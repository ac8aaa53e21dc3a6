"""Priorities, for learners and actors: what an item is worth. Masses and weights: `veldt.replay.kernels`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from veldt.math.returns import fold_n_step
from veldt.math.sequences import temporal_errors


@dataclass(frozen=True)
class NStepPriorities:
    """Initial priorities of n-step transitions, from the Q-values that an actor has anyway (`core.InitialPriorities`).

        p_t = |R + G max_a Q(o_{t+k}, a) - Q(o_t, a_t)|

    with R, G and k of `fold_n_step`: k is shorter where the episode ends, and the final observation's value counts only
    if the end was a truncation. A priority is finished when row t + n was acted at, one row later than the transition
    itself is whole; it is never raised to alpha here.

    reward_clip: rewards are clipped to plus or minus this, as the learner reads them; None leaves them.
    Source: Horgan et al. 2018 (Ape-X), section 3 and algorithm 1.
    """

    n_steps: int
    discount: float
    reward_clip: float | None

    @property
    def window_steps(self) -> int:
        """The n rows that are folded and the one they bootstrap from."""
        return self.n_steps + 1

    def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Float32 [max(0, N - n), B] from float32 reward, discount, q_taken, q_value and bool last, each [N, B].

        q_taken: Q(o, a) of the action that was executed; q_value: the value of the greedy one.
        """
        count, streams = max(len(rows["reward"]) - self.n_steps, 0), rows["reward"].shape[1]
        start = np.arange(count)
        now = np.arange(self.n_steps)[:, None] + start  # [n, R]
        reward, discount = rows["reward"][now], rows["discount"][now]  # [n, R, B]
        if self.reward_clip is not None:
            reward = reward.clip(-self.reward_clip, self.reward_clip)
        ends = rows["last"][now + 1] | (discount == 0)
        flat = (self.n_steps, count * streams)
        folded = fold_n_step(reward.reshape(flat), discount.reshape(flat), ends.reshape(flat), self.discount)
        total, factor, length = (part.reshape(count, streams) for part in folded)
        bootstrap = rows["q_value"][start[:, None] + length, np.arange(streams)]
        priorities: np.ndarray = np.abs(total + factor * bootstrap - rows["q_taken"][:count])
        return priorities


@dataclass(frozen=True)
class SequencePriorities:
    """Initial priorities of sequences, from the Q-values that an actor has anyway (`core.InitialPriorities`).

    The formulas are the learner's (`math.sequences.temporal_errors`, `sequence_priorities`), with the acting network in the place of
    both of its networks: max_a Q(o, a) where it would bootstrap. The prefix does not count. Only rows that may start a sequence,
    every `period_steps`-th of an episode, are rated; the others get 0.

    length_steps, period_steps: of `replay.sequences.Sequences`. The others: of the objective.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3; SEED's actors compute the same.
    """

    length_steps: int
    period_steps: int
    n_steps: int
    discount: float
    reward_clip: float | None
    rescaling_epsilon: float | None
    eta: float

    @property
    def window_steps(self) -> int:
        """The steps of a sequence and the row they bootstrap from."""
        return self.length_steps + 1

    def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Float32 [max(0, N - length), B] from reward, discount, q_taken, q_value, last and episode_step, each [N, B]."""
        count, streams = max(len(rows["reward"]) - self.length_steps, 0), rows["reward"].shape[1]
        rated = np.zeros((count, streams), np.float32)
        start, stream = np.nonzero((rows["episode_step"][:count] % self.period_steps == 0) & ~rows["last"][:count])
        at = np.arange(self.length_steps + 1)[:, None] + start  # [length + 1, K]
        part = {name: torch.from_numpy(rows[name][at, stream]) for name in ("reward", "discount", "last", "q_taken", "q_value")}
        reward = part["reward"] if self.reward_clip is None else part["reward"].clamp(-self.reward_clip, self.reward_clip)
        errors = temporal_errors(
            part["q_taken"][:-1],
            part["q_value"],
            reward[:-1],
            part["discount"][:-1],
            part["last"][:-1],
            n=self.n_steps,
            gamma=self.discount,
            epsilon=self.rescaling_epsilon,
        )
        mask = (torch.cumsum(part["last"][:-1], dim=0) == 0).float()  # behind the episode's end are other episodes
        rated[start, stream] = sequence_priorities(errors, mask, self.eta).numpy()
        return rated


def sequence_priorities(errors: torch.Tensor, mask: torch.Tensor, eta: float) -> torch.Tensor:
    """eta max_t |delta_t| + (1 - eta) mean_t |delta_t| over the real steps: float32 [B].

    errors, mask: float32 [T, B]; mask is 1 on steps that are learned from. A sequence without any has priority 0.
    Source: Kapturowski et al. 2019 (R2D2), section 2.3, with eta = 0.9.
    """
    size = torch.where(mask > 0, errors.detach().abs(), 0.0)
    mean = size.sum(dim=0) / mask.sum(dim=0).clamp(min=1)
    return eta * size.amax(dim=0) + (1 - eta) * mean
