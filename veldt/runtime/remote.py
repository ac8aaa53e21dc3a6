"""A part in another process, as the home process sees it: what it reported, and what is known of its worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from veldt.data import Episode
from veldt.runtime.supervision import Supervised
from veldt.runtime.worker import Events, Report


class RemotePart:
    """What the monitor reads of a part that lives in the process of `worker`."""

    def __init__(self, worker: Supervised, name: str) -> None:
        self.worker, self.name = worker, name
        self.seconds: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._maxima: dict[str, float] = {}
        self._episodes: list[Episode] = []
        self._evaluations: list[Any] = []
        self.conclude: Callable[[Callable[[], bool]], None] = lambda stopping: None
        """Lets the part finish what it has begun, and waits for it unless the run is `stopping`. Set by the switchboard."""

    def take(self, message: Events | Report) -> None:
        """Notes what the part reported."""
        if isinstance(message, Events):
            self._episodes += message.episodes
            self._evaluations += message.evaluations
        else:
            self.seconds = message.seconds.get(self.name, {})
            values = message.metrics.get(self.name, {})
            self._metrics |= values
            for name in values:
                if name.endswith("_max"):
                    self._maxima[name] = max(values[name], self._maxima.get(name, values[name]))

    def metrics(self) -> dict[str, float]:
        """Those of the last report, and the largest of all `_max` reported since the last call."""
        maxima, self._maxima = self._maxima, {}
        return {**self._metrics, **maxima}

    @property
    def process(self) -> str:
        """The process it lives in."""
        return self.worker.label

    @property
    def steps(self) -> int:
        """Agent steps that its process, and those before it, inserted since this one began."""
        return self.worker.inserted_steps

    @property
    def restarts(self) -> int:
        """How often its process was replaced."""
        return self.worker.budget.deaths

    @property
    def lag_updates(self) -> float | None:
        """How many updates old the weights behind the last report were."""
        return self._metrics.get("policy_lag_updates")

    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call."""
        episodes, self._episodes = self._episodes, []
        return episodes

    def pop_evaluations(self) -> list[Any]:
        """The evaluations that were finished since the last call."""
        evaluations, self._evaluations = self._evaluations, []
        return evaluations
