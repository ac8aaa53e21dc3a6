"""A mixture: the memory of a learner whose batches come from two tables, what its actors write and what stays as it is.

Each element of a batch is one of the demonstrations with probability `demo_ratio`, independently of the others, and else one of the
agent's own items; how many demonstrations a batch has is therefore binomial, and at 1/256 mostly none. Each side has its own
priorities. Source: Paine et al. 2019 (R2D3), section 3.

The weight of an item is (N P)^-beta with the N and the P of its own side, divided by the largest of the whole batch. The ratio itself
is not corrected for: it is meant. The paper does not say.

Keys tell the sides apart: an item of the agent's has its own key, >= 0, a demonstration the complement of its own, < 0.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from veldt.core import Inlet, Place, State
from veldt.data import Batch
from veldt.errors import ConfigError
from veldt.replay.selectors import Selected
from veldt.replay.streams import Streams
from veldt.replay.table import Table


class Source(Protocol):
    """What a mixture asks of the demonstrations. A `Table` gives it."""

    streams: Streams

    def __len__(self) -> int:
        """How many items there are."""

    def select(self, count: int) -> Selected:
        """See `Table.select`."""

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """See `Table.update`."""


class Mixture:
    """A `core.Memory` of the agent's own table, which paces it and which actors write to, and of demonstrations, which nobody evicts."""

    def __init__(self, *, demo_ratio: float, own: Table, demonstrations: Source, place: Place) -> None:
        """Args:
        demo_ratio: the chance of each element of a batch to be a demonstration, in (0, 1).
        own: what actors write to. Its batch size, its limiter and its view are the mixture's.
        demonstrations: streams of the same spec, with items of the same view.
        place: seeds the choice between the two.

        Raises:
            ConfigError: the ratio is out of range, or there are no demonstrations.
        """
        if not 0 < demo_ratio < 1:
            raise ConfigError(f"demo_ratio must be in (0, 1), got {demo_ratio:g}")
        if not len(demonstrations):
            raise ConfigError("a mixture needs demonstrations: there is not one item of them")
        self._ratio, self._own, self._demonstrations = demo_ratio, own, demonstrations
        self._reader = own.reader_with(demonstrations.streams)
        self._random = np.random.Generator(np.random.PCG64(place.seeds("mixture")))
        self._drawn = self._drawn_demonstrations = 0

    @property
    def inserted_steps(self) -> int:
        """Steps that actors inserted; demonstrations do not count."""
        return self._own.inserted_steps

    def inlet(self, actor: int) -> Inlet:
        """Where actor number `actor` writes: the agent's own table."""
        return self._own.inlet(actor)

    def can_sample(self) -> bool:
        """Whether a batch may be drawn now: as if all of it were the agent's own."""
        return self._own.can_sample()

    def sample(self) -> Batch[Any]:
        """The next batch: the agent's own items first, then the demonstrations."""
        size = self._own.batch_size
        count = int(np.count_nonzero(self._random.random(size) < self._ratio))
        own, demonstrations = self._own.select(size - count), self._demonstrations.select(count)
        self._own.limiter.sample(size)
        self._drawn += size
        self._drawn_demonstrations += count
        largest = max(own.largest, demonstrations.largest)
        weights = np.concatenate([side.weights * np.float32(side.largest / largest) for side in (own, demonstrations)])
        keys = np.concatenate([own.keys, ~demonstrations.keys])
        return Batch(self._reader.read(own.keys, demonstrations.keys), torch.from_numpy(weights), keys)

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities [K] for the items of `keys` [K], each on its own side; own items that are gone are passed over.

        Raises:
            ValueError: a priority is NaN, infinite or negative.
        """
        demonstrated = keys < 0
        self._own.update(keys[~demonstrated], priorities[~demonstrated])
        self._demonstrations.update(~keys[demonstrated], priorities[demonstrated])

    def waiting_for(self, actor: int | None = None) -> str:
        """Why an insert of `actor`, or with None a sample, is refused now."""
        return self._own.waiting_for(actor)

    def metrics(self) -> dict[str, float]:
        """The share of demonstrations in what was drawn since the last call."""
        drawn, demonstrations = self._drawn, self._drawn_demonstrations
        self._drawn = self._drawn_demonstrations = 0
        return {"demo_share": demonstrations / drawn} if drawn else {}

    def state_dict(self) -> State:
        """What decides which side comes next, and the counts of the metrics under way."""
        return {
            "random": self._random.bit_generator.state,
            "drawn": self._drawn,
            "drawn_demonstrations": self._drawn_demonstrations,
        }

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
        self._random.bit_generator.state = state["random"]
        self._drawn, self._drawn_demonstrations = int(state["drawn"]), int(state["drawn_demonstrations"])
