"""R2D2's objective: n-step double Q-learning on sequences, under value rescaling, behind a warmed-up recurrent state.

Of a sequence, the prefix only warms the state up: the online network's with its own weights, the target network's with its own,
without gradients. So gradients end at the first step that is learned from.
Source: Kapturowski et al. 2019 (R2D2), sections 2.3 and 3. The paper is silent on the end of a sequence, where n shrinks here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from veldt.agents.objectives import ACTING_VALUES
from veldt.core import Loss
from veldt.data import ArraySpec, Batch, Tree, Unroll, tree_map
from veldt.math.priorities import sequence_priorities
from veldt.math.q_learning import bootstrap_value, values_of
from veldt.math.sequences import state_drift, temporal_errors


def _rows(unroll: Unroll, begin: int, end: int | None = None) -> dict[str, Tree]:
    """What the agent saw at rows [begin, end)."""
    names = "obs", "first", "last_action", "last_reward"
    return {name: tree_map(lambda leaf: leaf[begin:end], getattr(unroll, name)) for name in names}


@dataclass(frozen=True)
class RecurrentQLearning:
    """The errors delta_t = y_t - Q(o_t, a_t) of each sequence, with targets from the target network at the online one's action.

        y_t = h(sum_{j<k} gamma^j r_{t+j} + G_t h^-1(Q-(o_{t+k}, argmax_a Q(o_{t+k}, a))))

    k = n_steps, or fewer at the end of the episode or the sequence; G_t = gamma^k, or 0 after termination.
    loss = mean over sequences of weight * sum_t delta_t^2 / 2; priorities = eta max_t |delta_t| + (1 - eta) mean_t |delta_t|.

    rescaling_epsilon: of h; None: h is the identity.
    reward_clip: rewards are clipped to plus or minus this; None leaves them.
    """

    n_steps: int
    discount: float
    reward_clip: float | None
    rescaling_epsilon: float | None
    priority_eta: float

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """What `math.priorities.SequencePriorities` reads; the loss reads nothing of it."""
        return ACTING_VALUES

    def __call__(self, online: Any, target: Any, batch: Batch[Unroll]) -> Loss:
        """The loss of a batch of sequences; gradients flow into `online` only, and not through the prefix."""
        unroll = batch.data
        assert unroll.prefix is not None
        before = len(unroll.prefix)
        online_state, target_state = (self._warmed_up(network, unroll, before) for network in (online, target))
        values, _ = online(**_rows(unroll, before), state=online_state)
        with torch.no_grad():
            target_values, _ = target(**_rows(unroll, before), state=target_state)
            bootstrap = bootstrap_value(target_values, values)
        taken = values_of(values[:-1], unroll.action[before:-1])
        reward, discount = unroll.reward[before:-1], unroll.discount[before:-1]
        error = temporal_errors(
            taken,
            bootstrap,
            reward if self.reward_clip is None else reward.clamp(-self.reward_clip, self.reward_clip),
            discount,
            unroll.last[before:-1],
            n=self.n_steps,
            gamma=self.discount,
            epsilon=self.rescaling_epsilon,
        )
        mask = unroll.mask[before:]
        error = torch.where(mask > 0, error, 0.0)
        value = (batch.weights * error.square().sum(dim=0) / 2).mean()
        metrics = self._metrics(online, unroll, values.detach(), taken.detach(), error.detach())
        return Loss(value, sequence_priorities(error, mask, self.priority_eta), metrics)

    @torch.no_grad()
    def _warmed_up(self, network: Any, unroll: Unroll, before: int) -> Tree:
        """The state of `network` behind the prefix."""
        return network.run(**_rows(unroll, 0, before), state=unroll.state)[1] if before else unroll.state

    @torch.no_grad()
    def _metrics(
        self, online: Any, unroll: Unroll, values: torch.Tensor, taken: torch.Tensor, error: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Means over the real steps; and where the actor's states are kept, Delta-Q at the first and the last step."""
        before = len(unroll.mask) - len(error)
        mask = unroll.mask[before:]
        real = mask.sum().clamp(min=1)
        metrics = {"q": (mask * taken).sum() / real, "td_error": error.abs().sum() / real}
        marks = unroll.marks or {}
        for name, row in (("first", 0), ("last", len(error) - 1)):
            if name in marks and bool(marks[name]["known"].any()):
                kept, _ = online(**_rows(unroll, before + row, before + row + 1), state=marks[name]["state"])
                drift = state_drift(values[:-1], kept[0], mask, row)
                metrics[f"delta_q_{name}"] = drift[marks[name]["known"]].mean()
        return metrics
