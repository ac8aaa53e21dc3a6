"""Ports: what stands behind a link that crosses into another process. Each has the protocol of the part behind it.

Experience is written in place, into streams that both sides see; weights are copied out of a publication; only small
messages travel. Nothing here waits: an inlet may write while it has credit, and its process waits for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from veldt.core import Ring, Shareable
from veldt.data import Versions, Weights
from veldt.runtime.shared import Publication
from veldt.runtime.transport import Counters, Dock, Send


class OpenInlet(NamedTuple):
    """To the home process: `actor` is ready to write into memory `node`, and wants credit."""

    node: str
    actor: int


class Commit(NamedTuple):
    """To the home process: see `core.Inlet.commit`. It spends one credit."""

    node: str
    actor: int
    end: int
    priorities: np.ndarray | None


class Credit(NamedTuple):
    """From the home process: `actor` may write one more unroll into memory `node`."""

    node: str
    actor: int


@dataclass(frozen=True)
class MemoryLink:
    """What a new process needs to know of a memory in the home process."""

    node: str
    ring: Ring
    end: int

    def open(self, board: Counters, send: Send) -> MemoryPort:
        """The port."""
        return MemoryPort(self, board, send)


class MemoryPort:
    """A memory in the home process, as its actors and evaluators see it."""

    def __init__(self, link: MemoryLink, board: Counters, send: Send) -> None:
        self._link, self._board, self._send = link, board, send
        self.inlets: dict[int, InletPort] = {}

    @property
    def inserted_steps(self) -> int:
        """Agent steps inserted since the run began."""
        return self._board[steps_of(self._link.node)]

    def inlet(self, actor: int) -> InletPort:
        """Where `actor` writes. A memory has one for each of its process's replicas."""
        self.inlets[actor] = InletPort(self._link, actor, self._send)
        return self.inlets[actor]


class InletPort:
    """An actor's side of a memory in the home process: a `core.Inlet` with as much credit as it was given."""

    def __init__(self, link: MemoryLink, actor: int, send: Send) -> None:
        self.rows, self.states, self.schedule = link.ring.open()
        self.ring_rows, self.end = link.ring.rows, link.end
        self._node, self._actor, self._send = link.node, actor, send
        self.credit = 0
        send(OpenInlet(link.node, actor))

    def can_insert(self) -> bool:
        """Whether there is credit."""
        return self.credit > 0

    def commit(self, end: int, priorities: np.ndarray | None) -> None:
        """Spends one credit."""
        self.credit -= 1
        self._send(Commit(self._node, self._actor, end, priorities))

    def waiting_for(self) -> str:
        """Whose turn it is."""
        return f"{self._node}: credit to write another unroll"


@dataclass(frozen=True)
class ParametersLink:
    """What a new process needs to know of parameters in the home process."""

    node: str
    publication: Publication

    def open(self, board: Counters, send: Send) -> ParametersPort:
        """The port."""
        return ParametersPort(self, board)


class FollowedParameters:
    """Parameters in the home process, for those who only follow them; how they `pull` is a matter of how weights travel."""

    def __init__(self, node: str, board: Counters) -> None:
        self._node, self._board = node, board

    @property
    def version(self) -> int:
        """The version that the learner has, as far as this worker was told; what is published may be older."""
        return self._board[version_of(self._node)]

    def can_push(self) -> bool:
        """Never: gradients do not travel to the home process."""
        return False

    def push(self, gradients: Sequence[torch.Tensor | None], based_on: Versions) -> bool:
        """Refused: gradients do not travel to the home process."""
        raise NotImplementedError("only parts in the home process push gradients to these parameters")


class ParametersPort(FollowedParameters):
    """Parameters in the home process, in memory that both see."""

    def __init__(self, link: ParametersLink, board: Counters) -> None:
        super().__init__(link.node, board)
        self._publication, self._tensors = link.publication, link.publication.room()

    def pull(self, held: Versions) -> Weights | None:
        """The version published last, in tensors that stay the same."""
        if held == (self._publication.version,):
            return None
        return Weights((self._publication.read(self._tensors),), self._tensors)


@dataclass(frozen=True)
class SharedLink:
    """A part whose memory is shared, for replica number `user` of those linked to it."""

    part: Shareable
    user: int

    def open(self, board: Counters, send: Send) -> Any:
        """The part."""
        return self.part.of(self.user)


@dataclass(frozen=True)
class ShardsLink:
    """The docks of all shards, for user number `user` of each."""

    docks: tuple[Dock, ...]
    user: int

    def open(self, board: Counters, send: Send) -> Any:
        """What the shards' class joins their ports into."""
        return self.docks[0].join([dock.port(self.user, board) for dock in self.docks])


@dataclass(frozen=True)
class CountLink:
    """Memories in other worker processes, by label, for those who only count their steps."""

    labels: tuple[str, ...]

    def open(self, board: Counters, send: Send) -> Any:
        """Their counters."""
        return [StepCounter(label, board) for label in self.labels]


class StepCounter:
    """The steps of a memory in another process: a `core.StepCount`."""

    def __init__(self, label: str, board: Counters) -> None:
        self._label, self._board = label, board

    @property
    def inserted_steps(self) -> int:
        """Agent steps inserted since the run began."""
        return self._board[steps_of(self._label)]


def most_of(node: str) -> str:
    """The bound of a memory's steps on the board."""
    return f"{node} most steps"


def steps_of(node: str) -> str:
    """The counter of a memory's steps on the board."""
    return f"{node} inserted steps"


def version_of(node: str) -> str:
    """The counter of parameters' version on the board."""
    return f"{node} version"
