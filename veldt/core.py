"""The protocols, on one page: everything else in Veldt is an implementation of one of these.

Parts never wait: they answer `can_...()`, do one bounded unit of work per `step()`, and say in words what they are
`waiting_for()`. Only ports wait, and only runtimes make ports; a port has the protocol of the part behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from veldt.data import ArraySpec, Batch, Episode, Seen, TimeStep, Tree, Versions, Weights

State = dict[str, Any]
"""What a part saves: nested dicts (string keys) and lists of numbers, strings, booleans, None, numpy arrays and tensors."""


UNROLLS_AHEAD = 2
"""Unrolls that an actor may be writing, or have written, before the memory hears of the first of them."""


class Arena(Protocol):
    """Memory given out piece by piece, once. A copy in another process, asked for the same pieces in the same order, gives the same memory."""

    def allocate(self, nbytes: int) -> np.ndarray:
        """uint8 [nbytes], not initialised."""


class PrivateArena:
    """Memory of this process alone. Pages count only once they are written."""

    def allocate(self, nbytes: int) -> np.ndarray:
        """uint8 [nbytes], not initialised."""
        return np.empty(nbytes, np.uint8)


class Average(Protocol):
    """The mean over all replicas of a bundle, round by round: of one vector [N] that each of them gives. Nobody waits in it."""

    @property
    def pending(self) -> bool:
        """Whether this replica gave a vector and has not taken the mean yet."""

    def give(self, vector: torch.Tensor) -> None:
        """Takes part in the next round with `vector`, which stays as it is until the mean is taken."""

    def take(self) -> torch.Tensor | None:
        """The mean of the round, once, the caller's until it gives again; None while others have not given."""


@dataclass(frozen=True)
class Place:
    """Where a replica of a bundle stands in its program, the root of its random numbers, and where its memory comes from.

    Seeds form a tree, run -> role -> replica -> environment, so that no two random streams are ever the same and
    adding an actor does not change what the others do.

    life: how many processes have been this replica before, so that a successor does not repeat its predecessor's luck.
    past_steps: agent steps that those inserted into a memory that died with them: schedules go on behind them.
    arena: makes the arena of one part; memory that other processes are to see comes from there.
    average: makes what this replica and its siblings, wherever they are, average vectors with; None: it has nobody to do that with.
    """

    replica: int = 0
    replicas: int = 1
    seed: int = 0
    device: str = "cpu"
    life: int = 0
    past_steps: int = 0
    arena: Callable[[], Arena] = PrivateArena
    average: Callable[[], Average] | None = None

    def seeds(self, role: str) -> np.random.SeedSequence:
        """The root of the random numbers of one role of this replica, such as `actor` or `selector`."""
        later = (0, self.life) if self.life else ()  # no role begins with 0
        return np.random.SeedSequence(self.seed, spawn_key=(*later, *role.encode(), self.replica))


@runtime_checkable
class Environments(Protocol):
    """B environments that step together, in the time convention of `veldt.data` (next-step autoreset)."""

    streams: int

    def reset(self) -> TimeStep:
        """Starts B episodes: all rows are `first`."""

    def step(self, action: np.ndarray) -> TimeStep:
        """Acts with `action` [B, ...]. A stream whose row was `last` ignores it and starts its next episode."""

    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call."""

    def state_dict(self) -> State | None:
        """What `load_state_dict` needs to go on mid-episode; None if this family of environments cannot."""

    def load_state_dict(self, state: State | None) -> TimeStep:
        """Goes on where `state_dict` was taken, or starts new episodes from None; the row at which to act next."""

    def close(self) -> None:
        """Lets go of what the environments hold."""


class Acted(NamedTuple):
    """What an agent did at one row: action [B, ...], the next recurrent state, and all extras that it can give [B, ...].

    Those that an objective declared are recorded.
    """

    action: np.ndarray
    state: Tree
    extras: dict[str, np.ndarray]


class Agent(Protocol):
    """How to act, and the networks that objectives differentiate. An `nn.Module`."""

    def initial_state(self, batch_size: int) -> Tree:
        """The recurrent state at an episode's start, a tree of numpy arrays [B, ...]; None for a feed-forward agent."""

    def act(self, seen: Seen, state: Tree, exploration: np.ndarray, random: np.random.Generator) -> Acted:
        """Acts at what is seen with one exploration value per stream [B]. `state`, from before the row, is forgotten where `first`.

        No gradients. Whoever evaluates, explores by 0.
        """


class Loss(NamedTuple):
    """value: [] to minimise; priorities: float32 [B] for the memory, or None; metrics: detached, reported by their means."""

    value: torch.Tensor
    priorities: torch.Tensor | None
    metrics: dict[str, torch.Tensor]


class Objective(Protocol):
    """What to minimise: a frozen dataclass of hyperparameters without state."""

    @property
    def extras(self) -> Mapping[str, ArraySpec]:
        """What actors must record for this objective, and nothing else."""

    def __call__(self, online: Any, target: Any, batch: Batch[Any]) -> Loss:
        """The loss of `batch`, differentiable in `online` alone."""


class InitialPriorities(Protocol):
    """How an actor rates what it has just done, from what it recorded while acting: no second pass through a network."""

    @property
    def window_steps(self) -> int:
        """Rows that one priority is made of: row r is rated when row r + window_steps - 1 is whole."""

    def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """One priority for each window in N consecutive rows: fields [N, B] -> [max(0, N - window_steps + 1), B].

        Of a void row (`last`) the priority means nothing.
        """


@dataclass(frozen=True)
class StateSchedule:
    """Before which rows of a stream recurrent states are kept.

    A row's number counts from the stream's beginning, or with `of_episodes` from its episode's, whose row 0 is then left out: the
    state there is the initial one. A state is kept before rows whose number modulo `period_steps` is one of `offsets`.
    """

    period_steps: int
    offsets: tuple[int, ...] = (0,)
    of_episodes: bool = False

    @property
    def spacing_rows(self) -> int:
        """States of one offset stand at least so many rows apart, also where an episode ends between them."""
        if not self.of_episodes:
            return self.period_steps
        return min([self.period_steps, *(offset + 1 for offset in self.offsets if offset)])

    def slots(self, rows: int) -> int:
        """Room for the states of one offset of any `rows` rows in a row: that before row r stands at r // spacing_rows % slots."""
        return (rows - 1) // self.spacing_rows + (2 if self.of_episodes else 1)


class Room(NamedTuple):
    """Where one actor writes, B streams side by side.

    rows: each field is a tree of arrays [ring_rows, B, ...]; row r of the stream stands at r % ring_rows.
    states: recurrent states by offset of the schedule, a tree of arrays [offsets, slots, B, ...]. None where nobody reads them.
    schedule: which states are kept, and in which slot.
    """

    rows: Mapping[str, Tree]
    states: Tree
    schedule: StateSchedule


class Inlet(Protocol):
    """An actor's side of a memory: streams it writes in place, and a commit that makes rows readable."""

    rows: Mapping[str, Tree]
    states: Tree
    schedule: StateSchedule
    """Where to write: a `Room`."""

    ring_rows: int

    end: int
    """Rows committed when the inlet was made. More than 0: an actor that is gone wrote them, and this one follows it."""

    def can_insert(self) -> bool:
        """Whether one more unroll may be written now."""

    def commit(self, end: int, priorities: np.ndarray | None) -> None:
        """Rows before `end` are whole, and row `end` holds obs, first and last. Nothing before `end` changes again.

        priorities: [R, B], where the actor computes any: of the newest R rows whose windows are whole now.
        """

    def waiting_for(self) -> str:
        """What would make it possible, in words and numbers."""


class Ring(Protocol):
    """A way to an actor's rows in a memory, which can be sent to another process."""

    rows: int

    def open(self) -> Room:
        """The room, in the memory that the ring was made with."""

    def apart(self) -> Ring:
        """A ring in private memory of whoever opens it, for a writer on another machine. It holds the newest `rows` rows: what the
        writer has not handed over, and what it looks back at."""


class StepCount(Protocol):
    """Who knows how many steps were taken: a memory, or a port that stands for one."""

    @property
    def inserted_steps(self) -> int:
        """Agent steps inserted since the run began."""


class Memory(StepCount, Protocol):
    """Experience, to be written by actors and sampled by a learner. Never blocks."""

    def inlet(self, actor: int) -> Inlet:
        """Where actor number `actor` writes."""

    def can_sample(self) -> bool:
        """Whether a batch may be drawn now."""

    def sample(self) -> Batch[Any]:
        """The next batch. Its tensors are the caller's until the next call."""

    def update(self, keys: np.ndarray, priorities: np.ndarray) -> None:
        """New priorities for items sampled before; those evicted in between are passed over."""

    def waiting_for(self, actor: int | None = None) -> str:
        """What would make an insert of `actor`, or with None a sample, possible, in words and numbers."""


@runtime_checkable
class RunMemory(StepCount, Protocol):
    """A memory as its run sees it: it counts steps, takes no more than it is told, and shows how full it is."""

    @property
    def insert_steps(self) -> int:
        """Steps that one commit inserts, at most."""

    capacity_steps: int
    """Steps that it keeps."""

    @property
    def samples_per_insert_asked(self) -> float | None:
        """Samples that may be drawn for each step inserted; None: as many as one likes."""

    @property
    def samples_per_insert(self) -> float | None:
        """Samples drawn for each step inserted since sampling began; None: it has not begun."""

    abandoned: bool
    """Whether nobody will insert any more: its process died too often."""

    most_steps: int | None
    """Inserts that could make it more steps than so many are refused. Set by whoever knows how long the run is."""


@runtime_checkable
class Writable(StepCount, Protocol):
    """A memory whose actors may live in other processes: what their ports need of it."""

    def ring(self, actor: int) -> Ring:
        """The way to the rows of `actor`."""

    def end(self, actor: int) -> int:
        """Rows that `actor` has committed."""

    def can_insert(self, actor: int, own_ahead: int = 0, all_ahead: int = 0) -> bool:
        """Whether `actor` may write one more unroll, when it writes `own_ahead`, and all actors `all_ahead`, already."""

    def commit(self, actor: int, end: int, priorities: np.ndarray | None) -> None:
        """See `Inlet.commit`."""

    def waiting_for(self, actor: int | None = None) -> str:
        """See `Memory.waiting_for`."""


@runtime_checkable
class Parameters(Protocol):
    """The weights everybody works with, changed by gradients. Whole, or joined of shards that change each by itself."""

    @property
    def version(self) -> int:
        """The updates that all of the weights have seen: those of all learners."""

    def pull(self, held: Versions) -> Weights | None:
        """The weights as they are now; None if they are those that whoever asks has, of versions `held`."""

    def can_push(self) -> bool:
        """Whether gradients would be taken now."""

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Takes gradients computed at the versions `based_on`, to apply them; False if they are not all finite: nothing happens."""


@runtime_checkable
class Shareable(Protocol):
    """A part in memory that processes share: sent to one that is being started, it is the same part there."""

    def of(self, user: int) -> Any:
        """The part for replica number `user` of those that are linked to it."""


class Shard(Protocol):
    """One slice of the weights, which changes by itself. Whoever is linked to the shards is linked to what `join` makes of them."""

    @property
    def version(self) -> int:
        """Updates of this slice."""

    size: int
    device: str
    layout: Any
    max_gradient_norm: float | None
    """What whoever joins shards must know: how many numbers this one has, where, what they are, and how gradients are scaled."""

    def read(self, into: torch.Tensor) -> int:
        """Copies the slice `into` a vector [size]: one whole version; which one."""

    def can_push(self) -> bool:
        """Whether a gradient would be taken now."""

    def push(self, gradient: torch.Tensor, based_on: int) -> None:
        """Takes a gradient [size], which is the caller's again, computed at version `based_on`; dropped if that is too old or never was."""


class OwnedShard(Shard, Protocol):
    """A shard where it lives: it can be kept and restored by its version and its tensors."""

    version: int

    tensors: Mapping[str, torch.Tensor]
    """All that it is beside its version, in place: the `slice` [size], and what its optimiser keeps."""


@runtime_checkable
class Worker(Protocol):
    """A part that a scheduler drives: actor, learner, evaluator, parameter shard."""

    seconds: dict[str, float]
    """Time spent so far, by activity."""

    def step(self) -> bool:
        """One bounded unit of work; False if nothing is possible now."""

    def waiting_for(self) -> str:
        """What would make `step()` possible, in words and numbers."""

    def metrics(self) -> dict[str, float]:
        """What happened since the last call, by name."""


@runtime_checkable
class Saved(Protocol):
    """A part whose state belongs to a checkpoint."""

    def state_dict(self) -> State:
        """All that `load_state_dict` needs to go on as if nothing had happened."""

    def load_state_dict(self, state: State) -> None:
        """Goes on where `state_dict` was taken."""
