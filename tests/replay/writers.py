"""Actors without environments: they write random episodes into a table, and the same into slow oracles."""

from __future__ import annotations

import numpy as np

from tests.oracles.replay import Episodes, Row
from veldt.core import Place, State
from veldt.data import EPISODE_STEP, ArraySpec, tree_items
from veldt.replay.limiter import Limiter
from veldt.replay.selectors import Selected
from veldt.replay.table import Table

OBSERVATIONS = {
    "small floats": ArraySpec((2,), "float32"),
    "small bytes": ArraySpec((3, 2), "uint8"),
    "large bytes": ArraySpec((20, 15), "uint8"),
    "a number": ArraySpec((), "int64"),
    "large floats": ArraySpec((70,), "float32"),
}
VOID = 1e9  # the reward of rows at which nobody acts: no sum may contain it


def step_spec(observation, **extras) -> dict:
    flag, number = ArraySpec((), "bool"), ArraySpec((), "float32")
    return {
        "obs": observation, "first": flag, "last": flag, "action": ArraySpec((), "int64"),
        "reward": number, "discount": number, **extras,
    }  # fmt: skip


class Poisoned:
    """An arena whose memory holds NaN, -1, 255 and booleans that are neither."""

    def allocate(self, nbytes: int) -> np.ndarray:
        return np.full(nbytes, 0xFF, np.uint8)


class Sweep:
    """A selector that goes through all live items, again and again."""

    def build(self, items, slots, seeds):
        return _Sweep(items)


class _Sweep:
    def __init__(self, items) -> None:
        self._items, self._next = items, 0

    def available(self) -> int:
        return len(self._items)

    def can_select(self, count: int) -> bool:
        return len(self._items) > 0

    def holds(self, actor: int) -> int | None:
        return None

    def insert(self, actor, keys, priorities) -> None: ...

    def remove(self, keys) -> None: ...

    def update(self, keys, priorities) -> None: ...

    def select(self, count: int) -> Selected:
        positions = (self._next + np.arange(count)) % len(self._items)
        self._next += count
        return Selected(self._items.at(positions), np.ones(count, np.float32))

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


def make_table(view, selector, observation=OBSERVATIONS["small floats"], **changes) -> Table:
    settings = {
        "actors": 1, "streams": 2, "unroll_steps": 3, "capacity_steps": 40, "limiter": Limiter(None),
        "batch_size": 8, "frame_stack": 1, "place": Place(arena=Poisoned),
    } | changes  # fmt: skip
    return Table(step_spec(observation), view=view, selector=selector, **settings)


STATE = {"a": ArraySpec((), "float32"), "b": ArraySpec((3, 2), "float64")}
"""A recurrent state for `Writer`."""


def carried(row: int, column: int) -> int:
    """The number that stands in the recurrent state before a row of a column."""
    return 100 * row + column


class Writer:
    """Actor number `actor` of a table, as `parts.Actor` writes: an observation, then what was done at it.

    Episodes end by termination or truncation; lives are lost (discount 0 without an end); now and then an environment is
    started again out of turn: the row before its first is marked `last` when that is known, after a commit at times.
    """

    def __init__(self, table: Table, actor: int, seed: int, fates=(0.6, 0.1, 0.1, 0.1, 0.1)) -> None:
        self.table, self.actor, self.random, self.fates = table, actor, np.random.default_rng((seed, actor)), fates
        self.inlet = table.inlet(actor)
        self.streams = self.inlet.rows["last"].shape[1]
        self.episodes = [Episodes() for _ in range(self.streams)]
        self.row = 0
        for stream in range(self.streams):
            self._observe(stream, first=True, last=False)

    def _observe(self, stream: int, first: bool, last: bool) -> None:
        at = self.row % self.inlet.ring_rows, stream
        obs = {}
        for path, room in tree_items(self.inlet.rows["obs"]):
            value = self.random.integers(0, 200, room.shape[2:])
            room[at] = value
            obs[path] = np.asarray(value, room.dtype)
        self.inlet.rows["first"][at], self.inlet.rows["last"][at] = first, last
        seen = obs[""] if set(obs) == {""} else obs
        if EPISODE_STEP in self.inlet.rows:
            self.inlet.rows[EPISODE_STEP][at] = 0 if first else self.row - self.episodes[stream].starts[-1]
        self.episodes[stream].append(self.row, Row(seen, first, last, 0, 0.0, 1.0))

    def _act(self, stream: int) -> tuple[bool, bool]:
        """What is done at the current row; whether the next one is `first`, and whether it is `last`."""
        at = self.row % self.inlet.ring_rows, stream
        row = self.episodes[stream].episodes[-1][-1]
        fate = self.random.choice(["on", "terminates", "truncates", "loses a life", "restarts"], p=self.fates)
        void = row.last or fate == "restarts"
        action = int(self.random.integers(0, 5))
        reward = VOID if void else float(self.random.integers(-3, 4))
        discount = 0.0 if not void and fate in ("terminates", "loses a life") else 1.0
        for name, value in {"action": action, "reward": reward, "discount": discount, "last": void}.items():
            self.inlet.rows[name][at] = value
        self.episodes[stream].episodes[-1][-1] = row._replace(last=void, action=action, reward=reward, discount=discount)
        return void, not void and fate in ("terminates", "truncates")

    def _carry(self) -> None:
        """The recurrent state before the current row, where one is kept: a number that no other row of any stream has."""
        if self.inlet.states is None:
            return
        schedule, states = self.inlet.schedule, self.inlet.states
        for ring, offset in enumerate(schedule.offsets):
            place = self.row // schedule.spacing_rows % states["a"].shape[1]
            for stream in range(self.streams):
                step = self.row - self.episodes[stream].starts[-1] if schedule.of_episodes else self.row
                if step % schedule.period_steps == offset and (step > 0 or not schedule.of_episodes):
                    number = carried(self.row, self.actor * self.streams + stream)
                    states["a"][ring, place, stream], states["b"][ring, place, stream] = number, -number

    def write(self, steps: int) -> int:
        """`steps` rows of all streams, not committed; the row to commit up to."""
        for _ in range(steps):
            self._carry()
            onward = [self._act(stream) for stream in range(self.streams)]
            self.row += 1
            for stream, (first, last) in enumerate(onward):
                self._observe(stream, first, last)
        return self.row

    def insert(self, steps: int) -> None:
        self.inlet.commit(self.write(steps))


def expected_keys(table: Table, writers: list[Writer], window: int, capacity_steps: int) -> set[int]:
    """Every row that starts a whole item and is still kept: not an episode's last."""
    columns = sum(writer.streams for writer in writers)
    kept = -(-capacity_steps // columns)
    keys = set()
    for writer in writers:
        for stream, episodes in enumerate(writer.episodes):
            for row in range(max(0, writer.row - kept), writer.row - window + 1):
                episode, now = episodes.at(row)
                if not episode[now].last:
                    keys.add(row * columns + writer.actor * writer.streams + stream)
    return keys


def source(writers: list[Writer], key: int) -> tuple[Episodes, int]:
    """The stream of a key and its row there."""
    streams = writers[0].streams
    row, column = divmod(int(key), streams * len(writers))
    return writers[column // streams].episodes[column % streams], row
