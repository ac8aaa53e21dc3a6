"""How a run is stopped from outside: the first signal ends it in good order, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def signals_caught(stop_at_once: Callable[[], str]) -> Iterator[list[str]]:
    """SIGINT and SIGTERM end the loop after its round; a second one ends the process at once, after `stop_at_once`."""
    caught: list[str] = []

    def note(number: int, frame: object) -> None:
        if caught:
            os.write(2, f"stopped at once: {stop_at_once()}\n".encode())
            os._exit(128 + number)
        caught.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before: Mapping[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
