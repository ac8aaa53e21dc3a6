"""The one scheduler loop, which runs inside every process.

It drives parts in a fixed order, one bounded step each, until told to stop. A round without progress is handed to `idle`:
where something outside may still change (ports), that waits; where nothing can, it raises `Stalled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from veldt.core import Worker
from veldt.errors import Stalled


def run(
    workers: Mapping[str, Worker],
    after_round: Callable[[], bool],
    idle: Callable[[Mapping[str, Worker]], object],
) -> None:
    """Rounds of all `workers`, until `after_round` returns False."""
    parts = list(workers.values())
    while True:
        progress = False
        for part in parts:
            progress |= part.step()
        if not after_round():
            return
        if not progress:
            idle(workers)


def stalled(workers: Mapping[str, Worker]) -> NoReturn:
    """The `idle` of a process in which nothing can change from outside.

    Raises:
        Stalled: always; it quotes what every part waits for.
    """
    waits = "\n".join(f"  {name}: {worker.waiting_for()}" for name, worker in workers.items())
    raise Stalled(f"no part can make progress:\n{waits}")
