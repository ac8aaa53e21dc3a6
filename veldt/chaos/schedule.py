"""What is done to a run, to which part and when. Made from a seed before anything is done; nothing here touches a process."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["kill", "freeze", "starve", "hang", "damage"]

RUN = "run"
"""The target of what is done to the run as a whole: its main process, and with it all others."""

WORDS: dict[Kind, str] = {
    "kill": "killed (SIGKILL)",
    "freeze": "frozen (SIGSTOP), then continued",
    "starve": "starved: ran a tenth of the time",
    "hang": "frozen for good",
    "damage": "killed, newest checkpoint damaged",
}

Pool = Literal["actors", "others", "run"]

EACH_KIND: tuple[tuple[Kind, Pool], ...] = (
    ("kill", "actors"), ("kill", "run"), ("freeze", "actors"), ("kill", "others"), ("starve", "actors"), ("hang", "actors"),
    ("damage", "run"),
)  # fmt: skip
"""The first events: each another kind."""

LATER: tuple[tuple[Kind, Pool], ...] = (
    ("kill", "actors"), ("kill", "actors"), ("freeze", "actors"), ("kill", "actors"), ("kill", "others"), ("starve", "actors"),
)  # fmt: skip
"""The events after them, again and again."""

FIRST, LAST = 0.1, 0.7
"""Between which fractions of the run's steps it happens. The rest is left to recover and to reach the score."""


@dataclass(frozen=True)
class Fault:
    """`kind` is done to `target` once the run has taken `step` agent steps."""

    step: int
    kind: Kind
    target: str

    @property
    def words(self) -> str:
        """What is done, as a reader wants to see it."""
        return WORDS[self.kind]


def make_schedule(actors: Sequence[str], others: Sequence[str], steps: int, events: int, seed: int) -> tuple[Fault, ...]:
    """`events` faults, spread over a run of `steps` agent steps; the same arguments give the same ones.

    Args:
        actors: labels of the processes that write experience.
        others: labels of those that do not, such as the evaluator; they are only killed.
        steps: agent steps of the run.
        events: how many. Which kinds is fixed, so that few events are of many kinds; victims take turns; the order is random.
        seed: of victims, order and steps.
    """
    random = np.random.default_rng(seed)
    victims = {
        pool: itertools.cycle([labels[index] for index in random.permutation(len(labels))])
        for pool, labels in (("actors", actors), ("others", others), ("run", (RUN,)))
        if labels
    }
    later = [(kind, pool) for kind, pool in LATER if pool in victims] or [("kill", "run")]
    rotation = itertools.chain(((kind, pool) for kind, pool in EACH_KIND if pool in victims), itertools.cycle(later))
    chosen = [(kind, next(victims[pool])) for kind, pool in itertools.islice(rotation, events)]
    edges = np.linspace(FIRST, LAST, events + 1)
    when = random.uniform(edges[:-1], edges[1:]) * steps
    return tuple(Fault(int(step), *chosen[index]) for step, index in zip(when, random.permutation(events), strict=True))
