"""A table: a way to read streams of experience. Queue, uniform and prioritized replay are settings of it.

A *view* says what an item is, a *selector* which comes next, a *limiter* when. Actors write rows into their inlet in place
and commit them; the learner samples. Nothing here waits: a table answers.

    table = Table(spec, actors=1, streams=8, unroll_steps=4, capacity_steps=100_000, view=Transitions(3, 0.99),
                  selector=Proportional(0.6, 0.4), limiter=Limiter(8.0, start_steps=1_000), batch_size=32)
    inlet = table.inlet(0)              # inlet.rows["reward"][row % table.rows] = ...;  inlet.commit(end)
    if table.can_sample():
        batch = table.sample()          # batch.data: Transition, batch.weights, batch.keys
        table.update(batch.keys, priorities)
"""

from __future__ import annotations

from functools import partial
from math import gcd
from typing import Any

import numpy as np
import torch

from veldt.core import UNROLLS_AHEAD, InitialPriorities, Place, State
from veldt.data import EPISODE_STEP, ArraySpec, Batch, Tree, tree_leaves
from veldt.errors import ConfigError
from veldt.replay.items import Items
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Fifo, Selected, Selector
from veldt.replay.streams import Carried, Streams, StreamsOf, require_memory
from veldt.replay.views import Reader, View


class Table:
    """A `core.Memory` over the streams of `actors` actors with `streams` environments each."""

    def __init__(
        self,
        spec: dict[str, Tree],
        *,
        actors: int,
        streams: int,
        unroll_steps: int,
        capacity_steps: int,
        view: View,
        selector: Selector,
        limiter: Limiter,
        batch_size: int,
        frame_stack: int = 1,
        state: Tree = None,
        initial_priorities: InitialPriorities | None = None,
        role: str = "selector",
        place: Place | None = None,
    ) -> None:
        """Args:
        spec: what one step holds (`EnvSpec.step_spec`).
        actors, streams: how many actors write, and how many environments each has.
        unroll_steps: rows that an actor writes between two commits, at most.
        capacity_steps: steps kept, over all streams.
        frame_stack: frames an agent sees at once; 1 where observations are stored as they are seen.
        state: what actors carry from row to row, a tree of `ArraySpec`, if items begin with it; else None.
        initial_priorities: what actors rate new items with; an item then waits for all rows that its priority needs.
        role, place: whose random numbers the selector draws; the place gives the memory too.

        Raises:
            ConfigError: settings that contradict each other or must deadlock.
            ResourceError: the machine has less memory than `capacity_steps` need.
        """
        _refuse_contradictions(capacity_steps, batch_size, selector, limiter)
        spec = {**spec, EPISODE_STEP: ArraySpec((), "int32")} if view.states.of_episodes else spec
        self._queue = isinstance(selector, Fifo)
        self._streams_per_actor, self._unroll_steps = streams, unroll_steps
        self._window = max(view.window_steps, initial_priorities.window_steps if initial_priorities else 0)
        rows_needed = _rows_needed(self._window, view.spread_steps, unroll_steps, actors, streams, batch_size, selector)
        self._kept_rows = -(-capacity_steps // (actors * streams))
        if self._kept_rows < rows_needed:
            written = f"items of {self._window} steps in batches of {batch_size}, written {unroll_steps} rows at a time"
            raise _too_few_rows(capacity_steps, actors * streams, self._kept_rows, rows_needed, written)
        # Beside the rows that items may start at: what is read before the oldest, and what an actor writes ahead of its commits.
        self._history = view.history_steps(frame_stack)
        self.rows = self._kept_rows + self._history + UNROLLS_AHEAD * unroll_steps + 1
        carried, place = Carried(state, view.states), place or Place()
        require_memory(spec, self.rows * actors * streams, carried)
        self._first_actor, self._arena = place.replica * actors, place.arena()
        self.streams = Streams(spec, self.rows, actors * streams, self._arena, carried)
        fields = self.streams.columns_of(0, actors * streams)
        self._flags = {name: fields[name] for name in ("first", "last", EPISODE_STEP) if name in fields}
        self.limiter = limiter.build(unroll_steps * streams, batch_size)
        self._items = Items(actors, self._kept_rows * streams)
        self._selector = selector.build(self._items, self.streams.slots, place.seeds(role))
        self._view, self._reader_of = view, partial(view.reader, frame_stack=frame_stack, batch_size=batch_size)
        self._reader = self._reader_of((self.streams,))
        self.batch_size, self.capacity_steps = batch_size, capacity_steps
        self._ends, self._ripe = np.zeros(actors, np.int64), np.zeros(actors, np.int64)
        self.abandoned = False
        self.most_steps: int | None = None

    def __len__(self) -> int:
        return self._selector.available()

    @property
    def inserted_steps(self) -> int:
        """Steps inserted since the run began: rows at which an agent decided something."""
        return self.limiter.inserted_steps

    @property
    def insert_steps(self) -> int:
        """Steps that one commit inserts, at most."""
        return self.limiter.insert_steps

    @property
    def samples_per_insert(self) -> float | None:
        """Samples drawn for each step inserted since sampling began; None before."""
        return self.limiter.measured_samples_per_insert

    @property
    def samples_per_insert_asked(self) -> float | None:
        """Samples that may be drawn for each step inserted; None: as many as one likes."""
        return self.limiter.samples_per_insert

    def metrics(self) -> dict[str, float]:
        """How full it is, and how much was drawn from it."""
        values = {"replay_fill": min(1.0, self.inserted_steps / self.capacity_steps)}
        drawn = self.samples_per_insert
        return values if drawn is None else {**values, "samples_per_insert": drawn}

    @property
    def nbytes(self) -> int:
        """Bytes of the streams."""
        return self.streams.nbytes

    def inlet(self, actor: int) -> TableInlet:
        """Where actor number `actor` writes. Each replica of a table serves actors of its own, numbered through over all replicas."""
        return TableInlet(self, actor - self._first_actor)

    def ring(self, actor: int) -> StreamsOf:
        """The way to the rows of `actor` for another process."""
        first, of = actor * self._streams_per_actor, self.streams
        recent = self._window + self._history + UNROLLS_AHEAD * self._unroll_steps + 1
        return StreamsOf(
            of.spec, self.rows, of.columns, first, first + self._streams_per_actor, self._arena, recent, of.carried
        )

    def end(self, actor: int) -> int:
        """Rows that `actor` has committed."""
        return int(self._ends[actor])

    def can_insert(self, actor: int, own_ahead: int = 0, all_ahead: int = 0) -> bool:
        """Whether `actor` may write `unroll_steps` more rows, when it writes `own_ahead` unrolls, and all actors `all_ahead`, already."""
        if own_ahead >= UNROLLS_AHEAD or self._is_full(actor, own_ahead):
            return False
        after = self.inserted_steps + (1 + all_ahead) * self.insert_steps
        if self.most_steps is not None and after > self.most_steps:
            return False
        others = np.delete(self._ends, actor)
        behind = int(np.count_nonzero(others < self._ends[actor] + own_ahead * self._unroll_steps))
        return self.limiter.can_insert(1 + all_ahead, max(0, behind - (all_ahead - own_ahead)))  # others write already

    def _is_full(self, actor: int, ahead: int = 0) -> bool:
        """Whether one more unroll of `actor`, beside `ahead` under way, would overwrite an item that waits in a queue."""
        held = self._selector.holds(actor)
        end = self._ends[actor] + (1 + ahead) * self._unroll_steps
        return held is not None and held // self.streams.columns < end - self._kept_rows

    def commit(self, actor: int, end: int, priorities: np.ndarray | None = None) -> None:
        """Rows of `actor` before `end` are whole, and row `end` holds obs, first and last.

        priorities: [R, B], of the newest R rows whose windows are whole now, at least of those that became so with this
            commit; None if the actor computes none.
        """
        start, ripe = int(self._ends[actor]), int(self._ripe[actor])
        self._ends[actor] = end
        self._ripe[actor] = max(end - self._window + 1, ripe)
        self._evict(actor, end)
        first = actor * self._streams_per_actor
        columns = np.arange(first, first + self._streams_per_actor)
        flags = {name: field[:, first : first + self._streams_per_actor] for name, field in self._flags.items()}
        rows = np.arange(ripe, self._ripe[actor])
        if len(rows):
            starts = self._view.starts(rows, flags)
            if priorities is not None:
                if len(priorities) < len(rows):
                    raise ValueError(f"{len(rows)} rows became whole, but only {len(priorities)} have priorities")
                priorities = priorities[len(priorities) - len(rows) :][starts]
            keys = (rows[:, None] * self.streams.columns + columns)[starts]
            if len(keys):
                self._items.append(actor, keys)
                self._selector.insert(actor, keys, priorities)
        steps = int(np.count_nonzero(~flags["last"][np.arange(start, end) % self.rows]))
        self.limiter.insert(steps, self._selector.can_select(self.batch_size))

    def _evict(self, actor: int, end: int) -> None:
        oldest = end - self._kept_rows
        if oldest > 0:
            evicted = self._items.pop_below(actor, oldest * self.streams.columns)
            if len(evicted):
                self._selector.remove(evicted)

    def can_sample(self) -> bool:
        """Whether a batch may be drawn now."""
        return self._selector.can_select(self.batch_size) and (self._queue or self.limiter.can_sample())

    def sample(self) -> Batch[Any]:
        """The next `batch_size` items."""
        selected = self._selector.select(self.batch_size)
        self.limiter.sample(self.batch_size)
        return Batch(self._reader.read(selected.keys), torch.from_numpy(selected.weights), selected.keys)

    def example(self) -> Batch[Any]:
        """A batch in shape and types, whose contents mean nothing: for whoever makes room for batches. Before any other."""
        keys = np.zeros(self.batch_size, np.int64)
        return Batch(self._reader.read(keys), torch.ones(self.batch_size), keys)

    def select(self, count: int) -> Selected:
        """`count` items as the selector chooses them, neither read nor counted: for whoever makes batches of several tables."""
        return self._selector.select(count) if count else Selected(np.empty(0, np.int64), np.empty(0, np.float32), 0.0)

    def reader_with(self, others: Streams) -> Reader:
        """A reader of batches of which some items live in this table and the rest in `others`, streams of the same spec."""
        return self._reader_of((self.streams, others))

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities [K] for the items of `keys` [K] that are still there.

        Raises:
            ValueError: a priority is NaN, infinite or negative.
        """
        self._selector.update(keys, priorities)

    def waiting_for(self, actor: int | None = None) -> str:
        """Why an insert of `actor`, or with None a sample, is refused now."""
        items, batch = self._selector.available(), self.batch_size
        if actor is not None and self.most_steps is not None and self.inserted_steps + self.insert_steps > self.most_steps:
            return f"replay: {self.inserted_steps:,} of {self.most_steps:,} steps are done: another unroll could be too much"
        if actor is not None and self._is_full(actor):
            return f"replay: the queue is full: {items:,} items wait to be sampled, {batch:,} at a time"
        if actor is None and (self._queue or self.limiter.can_sample()) and not self._selector.can_select(batch):
            return f"replay: {items:,} items for a batch of {batch:,}; inserts {self.inserted_steps:,}"
        return f"replay: {self.limiter.waiting_for()}"

    def state_dict(self) -> State:
        """Everything but the streams' bytes: small enough for every checkpoint."""
        return {
            "limiter": self.limiter.state_dict(),
            "ends": self._ends,
            "ripe": self._ripe,
        }

    def load_state_dict(self, state: State) -> None:
        """The counters of `state_dict`."""
        self.limiter.load_state_dict(state["limiter"])
        self._ends[:] = state["ends"]
        self._ripe[:] = state["ripe"]

    def refill(self) -> None:
        """The streams are empty although the run has begun: sampling waits until they are filled again."""
        self.limiter.refill()
        self._ripe[:] = self._ends
        for actor, end in enumerate(self._ends):  # the observation to act at is lost too: a void row, which its actor ends
            lost = np.arange(end - max(self._window - 1, self._history), end + 1) % self.rows
            for field in tree_leaves(dict(TableInlet(self, actor).rows)):
                field[lost] = 0

    def replay_state_dict(self) -> State:
        """The experience itself: the streams' bytes, the live items and the selector."""
        return {"streams": self.streams.state_dict(int(self._ends.max()) + 1), **self.selection_state_dict()}

    def load_replay_state_dict(self, state: State) -> None:
        """The experience of `replay_state_dict`."""
        self.streams.load_state_dict(state["streams"])
        self.load_selection_state_dict(state)

    def selection_state_dict(self) -> State:
        """Which items there are and which comes next, without what they hold."""
        return {"items": self._items.state_dict(), "selector": self._selector.state_dict()}

    def load_selection_state_dict(self, state: State) -> None:
        """The items and the selector of `selection_state_dict`."""
        self._items.load_state_dict(state["items"])
        self._selector.load_state_dict(state["selector"])


def _refuse_contradictions(capacity_steps: int, batch_size: int, selector: Selector, limiter: Limiter) -> None:
    if batch_size > capacity_steps:
        raise ConfigError(f"batch_size {batch_size} exceeds replay.capacity {capacity_steps}")
    if limiter.start_steps > capacity_steps:
        raise ConfigError(f"start_steps {limiter.start_steps} exceeds replay.capacity {capacity_steps}")
    if isinstance(selector, Fifo) and (limiter.samples_per_insert is not None or limiter.start_steps > 1):
        raise ConfigError("a queue hands out each item once and paces both sides by itself: use Limiter(None) with Fifo")


def _too_few_rows(capacity_steps: int, streams: int, rows: int, needed: int, written: str) -> ConfigError:
    return ConfigError(
        f"a replay of {capacity_steps} steps gives each of {streams} streams {rows} rows; "
        f"{written}, need {needed}: use a capacity >= {needed * streams}"
    )


def _rows_needed(window: int, spread: int, unroll: int, actors: int, streams: int, batch_size: int, selector: Selector) -> int:
    """Rows a stream must keep so that both sides can always go on.

    A random selector needs `spread` rows that are whole, of which one starts an item, beside an unroll under way. A queue
    whose actors all wait must hold the new items of a batch, of which one row of streams may be sampled in part.
    """
    if not isinstance(selector, Fifo):
        return window + unroll + spread - 2
    batch_size = selector.fresh(batch_size)
    sampled_in_part = streams - gcd(streams, batch_size)
    items = -(-(batch_size + sampled_in_part) // (actors * streams))
    return items * window + unroll - gcd(window, unroll)


class TableInlet:
    """An actor's side of a table in the same process: a `core.Inlet`."""

    def __init__(self, table: Table, actor: int) -> None:
        first = actor * table._streams_per_actor
        self.rows, self.states, self.schedule = table.streams.room_of(first, first + table._streams_per_actor)
        self.ring_rows, self.end = table.rows, table.end(actor)
        self._table, self._actor = table, actor

    def can_insert(self) -> bool:
        """Whether one more unroll may be written."""
        return self._table.can_insert(self._actor)

    def commit(self, end: int, priorities: np.ndarray | None = None) -> None:
        """See `Table.commit`."""
        self._table.commit(self._actor, end, priorities)

    def waiting_for(self) -> str:
        """Why no unroll may be written now."""
        return self._table.waiting_for(self._actor)
