"""What the home process tells the user of its workers: what each does or waits for, that nothing moves, that one is slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from veldt.core import Worker, Writable
from veldt.runtime.supervision import Supervised, slower_than_peers

MOST_NAMES = 4
"""More workers than so many are counted and not named."""


def doings(crew: Sequence[Supervised], memories: Mapping[str, Writable], now: float) -> str:
    """Who writes, and why the others may not; `now` as `time.monotonic()` counts."""
    texts = []
    for worker in crew:
        if worker.quarantined:
            texts.append(f"{worker.label} {worker.budget.why} and is not started again")
        elif not worker.alive:
            texts.append(f"{worker.label} is being started again")
        elif not worker.ready:
            texts.append(f"{worker.label} {worker.body.starting}")
        for (node, actor), credit in worker.inlets.items():
            if credit:
                texts.append(f"{worker.label} writes, for {worker.pace.writing_for(now):.0f} s now")
            else:
                texts.append(f"{worker.label} may not write: {memories[node].waiting_for(actor)}")
    return ", ".join(texts)


class Replaced(NamedTuple):
    """A worker that is to be started again: how it died, and how many of its kind live."""

    worker: Supervised
    how: str
    healthy: str


def replacements(those: Sequence[Replaced]) -> Iterator[str]:
    """A line for each, but one for all that were lost with the same machine."""
    nodes: dict[str, list[Replaced]] = {}
    for one in those:
        if one.worker.body.lost_node is None:
            yield f"{one.how}; replaced, {one.healthy}"
        else:
            nodes.setdefault(one.worker.body.lost_node, []).append(one)
    for node, lost in nodes.items():
        last = {one.worker.bundle: one.healthy for one in lost}
        names = ", ".join(one.worker.label for one in lost)
        kinds = ", ".join(f"{bundle} {healthy}" for bundle, healthy in last.items())
        yield f"node {node} lost: {names if len(lost) <= MOST_NAMES else f'{len(lost)} workers'} rescheduled; {kinds}"


def slow_ones(crew: Sequence[Supervised], now: float) -> Iterator[str]:
    """A line for each worker that has turned out to be much slower than its peers; one line in its life, whoever plays its part."""
    for worker in crew:
        if worker.alive and worker.writes and not worker.said_slow:
            peers = [
                other.pace
                for other in crew
                if other is not worker and other.bundle == worker.bundle and other.writes and other.alive
            ]
            times = slower_than_peers(worker.pace, peers, now)
            if times is not None:
                worker.said_slow = True
                yield f"{worker.label} {times:.0f}× slower than median; the others do not wait for it"


class Stall:
    """Notices that neither steps nor updates have been made for long, and says so, again and again until they are."""

    def __init__(self, counts: Callable[[], tuple[int, ...]], seconds: float) -> None:
        """`counts`: the steps of all memories and the versions of all parameters, wherever they are."""
        self._counts, self._seconds = counts, seconds
        self._seen: tuple[int, ...] = ()
        self._since = self._told = 0.0

    def look(self, workers: Mapping[str, Worker], stuck_seconds: float, say: Callable[[str], None], now: float) -> None:
        """Says who waits for what, with the counters, and what would end it, if nothing has moved for long."""
        seen = self._counts()
        if seen != self._seen:
            self._seen, self._since, self._told = seen, now, now
        if now - self._told > self._seconds:
            self._told = now
            waits = "".join(f"\n  {name}: {part.waiting_for()}" for name, part in workers.items())
            say(
                f"no step and no update for {now - self._since:.0f} s:{waits}\n  who may write and does not move is "
                f"replaced after {stuck_seconds:g} s; the others go on when there is what they wait for"
            )
