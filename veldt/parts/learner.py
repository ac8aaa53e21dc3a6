"""The learner: one class for all systems. Samples a batch, minimises the objective, pushes the gradients.

It knows neither the memory's kind nor the parameters': a queue or a replay, its own optimiser or a server across the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar

import torch

from veldt.core import Memory, Objective, Parameters, Place, State
from veldt.data import WEIGHTS_VERSION, Batch
from veldt.errors import Diverged
from veldt.parts.outliers import Outliers
from veldt.parts.parameters import Follower
from veldt.parts.staging import Staging

MAX_BAD_UPDATES = 10
"""So many updates in a row whose loss or gradients are not finite end the run."""

METRICS_PERIOD_UPDATES = 10
"""Losses and what objectives report are read at every so many updates: reading them costs as much as a small layer."""


class Learner:
    """One update per `step()`, and a target network that is copied when the updates of all learners reach a multiple of a period.

    On a GPU the next batch is sampled and copied while the device computes, so it does not see the priorities of the update
    under way, and a checkpoint forgets it: it counts as sampled and is not learned from.
    """

    uses: ClassVar[Mapping[str, str]] = {"memory": "samples"}
    """What the runtime must know: batches are drawn from a memory in the same process."""

    def __init__(
        self,
        make_agent: Callable[[], Any],
        objective: Objective,
        *,
        target_period_updates: int | None,
        outliers: Outliers | None = None,
        memory: Memory,
        parameters: Parameters,
        place: Place,
    ) -> None:
        """Args:
        make_agent: builds the networks; their weights come from `parameters`.
        objective: what to minimise.
        target_period_updates: updates of the parameters, whosever gradients they are, between two copies into the target
            network; None: there is none.
        outliers: batches whose loss is one are not learned from; None learns from all.
        memory: where batches come from, and where new priorities go.
        parameters: where gradients go.
        place: which learner this is.
        """
        self._staging = None if place.device == "cpu" else Staging(place.device)
        self._online = make_agent()
        self._online.to(place.device)
        self._follower = Follower(self._online, parameters, copies=False)
        self._target = None
        if target_period_updates is not None:
            self._target = make_agent()
            self._target.to(place.device).requires_grad_(False)
            self._copy_target()
        self._copied_at = self._follower.version
        self._objective, self._target_period = objective, target_period_updates
        self._memory, self._parameters = memory, parameters
        self._leaves = list(self._online.parameters())
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._largest_lag = 0
        self.updates = 0
        self.skipped_updates = 0
        self.outlying_updates = 0
        self._outliers = None if outliers is None else outliers.build()
        self._bad = 0
        self.seconds = {"sampling replay": 0.0, "learning": 0.0, "updating parameters": 0.0}

    def _copy_target(self) -> None:
        assert self._target is not None
        with torch.no_grad():
            torch._foreach_copy_(list(self._target.parameters()), list(self._online.parameters()))
            buffers = list(self._target.buffers())
            if buffers:
                torch._foreach_copy_(buffers, list(self._online.buffers()))

    def step(self) -> bool:
        """One update; False if the memory has no batch to give, or the parameters take no gradients yet.

        Raises:
            Diverged: loss or gradients were not finite `MAX_BAD_UPDATES` times in a row.
        """
        batch = self._next_batch() if self._parameters.can_push() else None
        if batch is None:
            return False
        started, before = time.perf_counter(), sum(self.seconds.values())
        self._update(batch)
        elsewhere = sum(self.seconds.values()) - before
        self.seconds["learning"] += time.perf_counter() - started - elsewhere
        return True

    def _next_batch(self) -> Batch[Any] | None:
        """The batch to learn from now, on the device; None if there is none."""
        if self._staging is None:
            return self._sample()
        if not self._staging.full:
            self._stage()
        return self._staging.take() if self._staging.full else None

    def _stage(self) -> None:
        """Sends the next batch, if there is one, on its way to the device."""
        batch = self._sample()
        if batch is not None and self._staging is not None:
            self._staging.put(batch)

    def _sample(self) -> Batch[Any] | None:
        if not self._memory.can_sample():
            return None
        started = time.perf_counter()
        batch = self._memory.sample()
        self.seconds["sampling replay"] += time.perf_counter() - started
        return batch

    def _update(self, batch: Batch[Any]) -> None:
        self._follow()
        loss = self._objective(self._online, self._target, batch)
        gradients = torch.autograd.grad(loss.value, self._leaves, allow_unused=True)
        if self._staging is not None:
            self._stage()  # while the device computes: the next line waits for it
        value, learned_at = float(loss.value.detach()), self._follower.version
        if isfinite(value) and self._outliers is not None and self._outliers.is_outlier(value):
            self.outlying_updates += 1
            return
        if not isfinite(value) or not self._push(gradients):
            self._skip(value)
            return
        self._bad = 0
        self.updates += 1
        if loss.priorities is not None:
            self._memory.update(batch.keys, loss.priorities.cpu().numpy())
        if self._target_is_due(self._parameters.version):
            self._follow()
        if self.updates % METRICS_PERIOD_UPDATES == 0:
            self._note("loss", value)
            for name, values in loss.metrics.items():
                self._note(name, float(values.mean()))
            self._note_lag(batch, learned_at)

    def _push(self, gradients: Sequence[torch.Tensor | None]) -> bool:
        started = time.perf_counter()
        taken = self._parameters.push(gradients, self._follower.versions)
        self.seconds["updating parameters"] += time.perf_counter() - started
        return taken

    def _note(self, name: str, value: float) -> None:
        """Counts `value` in the mean of metric `name`; not every update has every metric."""
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def _note_lag(self, batch: Batch[Any], version: int) -> None:
        """How many updates old the weights are that the batch was acted with, where actors recorded it."""
        acted_with = getattr(batch.data, "extras", {}).get(WEIGHTS_VERSION)
        if acted_with is not None:
            lags = version - acted_with[0]
            self._note("batch_lag_updates", float(lags.float().mean()))
            self._largest_lag = max(self._largest_lag, int(lags.max()))

    def _follow(self) -> None:
        """Takes the newest weights, and copies them into the target network when that is due."""
        started = time.perf_counter()
        self._follower.pull()
        self.seconds["updating parameters"] += time.perf_counter() - started
        if self._target_is_due(self._follower.version):
            self._copied_at = self._follower.version
            self._copy_target()

    def _target_is_due(self, version: int) -> bool:
        period = self._target_period
        return period is not None and version // period > self._copied_at // period

    def _skip(self, loss: float) -> None:
        self.skipped_updates += 1
        self._bad += 1
        if self._bad >= MAX_BAD_UPDATES:
            raise Diverged(
                f"the loss or its gradients were not finite {self._bad} updates in a row (last loss {loss}); "
                f"stopped after update {self.updates}. A smaller learning_rate or max_gradient_norm usually helps"
            )

    def waiting_for(self) -> str:
        """What the memory lacks, or that the last gradients have not been taken yet."""
        if not self._parameters.can_push():
            return "parameters: the last gradients to be taken"
        return self._memory.waiting_for()

    def metrics(self) -> dict[str, float]:
        """Means over the updates read since the last call, the largest lag of a batch among them, and the updates skipped so far."""
        values = {name: total / self._counts[name] for name, total in self._sums.items()}
        if "batch_lag_updates" in values:
            values["batch_lag_updates_max"] = float(self._largest_lag)
        values["skipped_updates"] = float(self.skipped_updates)
        self._sums, self._counts, self._largest_lag = {}, {}, 0
        if self._outliers is not None:
            values |= {"outlying_updates": float(self.outlying_updates), "outlier_limit": self._outliers.limit}
        return values

    def state_dict(self) -> State:
        """Target network, counters, and the sums behind the metrics under way."""
        target = None if self._target is None else dict(self._target.state_dict())
        return {
            "target": target,
            "updates": self.updates,
            "skipped_updates": self.skipped_updates,
            "outlying_updates": self.outlying_updates,
            "outliers": None if self._outliers is None else self._outliers.state_dict(),
            "copied_at": self._copied_at,
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "largest_lag": self._largest_lag,
        }

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        if self._target is not None:
            self._target.load_state_dict(state["target"])
        self.updates, self.skipped_updates = int(state["updates"]), int(state["skipped_updates"])
        self.outlying_updates, self._copied_at = int(state["outlying_updates"]), int(state["copied_at"])
        if self._outliers is not None:
            self._outliers.load_state_dict(state["outliers"])
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
        self._largest_lag = int(state["largest_lag"])
