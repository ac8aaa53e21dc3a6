"""Parts in other processes, as the home process sees them: what they reported, what the board counts, what is known of their worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from veldt.core import Shard, State
from veldt.data import Episode
from veldt.runtime.ports import most_of, steps_of
from veldt.runtime.supervision import Supervised
from veldt.runtime.transport import Counters
from veldt.runtime.worker import Events, Report


class RemotePart:
    """What the monitor reads of a part that lives in the process of `worker`."""

    def __init__(self, worker: Supervised, name: str) -> None:
        self.worker, self.name = worker, name
        self.seconds: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._maxima: dict[str, float] = {}

    def take(self, message: Events | Report) -> None:
        """Notes what the part reported."""
        if isinstance(message, Report):
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
    def restarts(self) -> int:
        """How often its process was replaced."""
        return self.worker.budget.deaths


class RemoteActor(RemotePart):
    """An actor."""

    def __init__(self, worker: Supervised, name: str, steps: Callable[[], int]) -> None:
        super().__init__(worker, name)
        self._episodes: list[Episode] = []
        self._steps = steps

    def take(self, message: Events | Report) -> None:
        """Notes what the actor reported."""
        super().take(message)
        if isinstance(message, Events):
            self._episodes += message.episodes

    @property
    def steps(self) -> int:
        """Agent steps that its process, and those before it, inserted since this one began."""
        return self._steps()

    @property
    def lag_updates(self) -> float | None:
        """How many updates old the weights behind the last report were."""
        return self._metrics.get("policy_lag_updates")

    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call."""
        episodes, self._episodes = self._episodes, []
        return episodes


class RemoteEvaluator(RemotePart):
    """An evaluator."""

    def __init__(self, worker: Supervised, name: str) -> None:
        super().__init__(worker, name)
        self._evaluations: list[Any] = []
        self.conclude: Callable[[Callable[[], bool]], None] = lambda stopping: None
        """Lets the part finish what it has begun, and waits for it unless the run is `stopping`. Set by the switchboard."""

    def take(self, message: Events | Report) -> None:
        """Notes what the evaluator reported."""
        super().take(message)
        if isinstance(message, Events):
            self._evaluations += message.evaluations

    def pop_evaluations(self) -> list[Any]:
        """The evaluations that were finished since the last call."""
        evaluations, self._evaluations = self._evaluations, []
        return evaluations


class RemoteMemory(RemotePart):
    """A memory whose actors and learner live with it: a `core.RunMemory`."""

    def __init__(self, worker: Supervised, name: str, board: Counters) -> None:
        super().__init__(worker, name)
        self._board = board
        self.insert_steps = self.capacity_steps = 0
        self.samples_per_insert: float | None = None
        self.samples_per_insert_asked: float | None = None
        self.replay: State | None = None
        """What its first process begins with."""
        self.refills = False
        """Whether its first process begins with empty streams, although the run has begun."""
        self.fetch: Callable[[RemotePart], State] = lambda part: {}
        """Asks the process for the replay. Set by the switchboard."""

    def take(self, message: Events | Report) -> None:
        """Notes what the memory reported."""
        super().take(message)
        if isinstance(message, Report) and self.name in message.memories:
            self.insert_steps, self.capacity_steps, self.samples_per_insert, self.samples_per_insert_asked = message.memories[
                self.name
            ]

    @property
    def inserted_steps(self) -> int:
        """Agent steps inserted since the run began, also into those that died."""
        return self._board[steps_of(self.name)]

    @property
    def unrolls(self) -> int:
        """Commits that so many steps take, at least."""
        return self.inserted_steps // self.insert_steps if self.insert_steps else 0

    @property
    def abandoned(self) -> bool:
        """Whether nobody will insert any more."""
        return self.worker.quarantined

    @property
    def most_steps(self) -> int:
        """See `core.RunMemory`."""
        return self._board[most_of(self.name)]

    @most_steps.setter
    def most_steps(self, steps: int) -> None:
        self._board[most_of(self.name)] = steps

    def replay_state_dict(self) -> State:
        """The experience itself. While the processes pause."""
        return self.fetch(self)

    def load_replay_state_dict(self, state: State) -> None:
        """The experience that its process will begin with."""
        self.replay = state

    def refill(self) -> None:
        """Its process will begin with empty streams."""
        self.refills = True


class RemoteShard(RemotePart):
    """A shard of the parameters in another process, seen through `port`: a `core.Shard`."""

    def __init__(self, worker: Supervised, name: str, port: Shard) -> None:
        super().__init__(worker, name)
        self._port, self.join = port, port.join  # type: ignore[attr-defined]
        self.size, self.device, self.layout = port.size, port.device, port.layout
        self.max_gradient_norm = port.max_gradient_norm

    @property
    def version(self) -> int:
        """The version known here."""
        return self._port.version

    def read(self, into: torch.Tensor) -> int:
        """See `core.Shard`."""
        return self._port.read(into)

    def can_push(self) -> bool:
        """See `core.Shard`."""
        return self._port.can_push()

    def push(self, gradient: torch.Tensor, based_on: int) -> None:
        """See `core.Shard`."""
        self._port.push(gradient, based_on)
