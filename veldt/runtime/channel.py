"""A channel: messages between two processes over a socket, such that neither end can be stopped by the other.

Receiving takes what is there and never waits for the rest of a message whose sender was frozen or killed in its middle.
Sending keeps what the other end has no room for yet.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

_LENGTH = struct.Struct("<Q")
_CHUNK = 1 << 18


class Channel:
    """One end. Messages are any picklable values; both ends run the same program."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.closed = False
        """The other end is gone; what it had sent before can still be received."""

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Sends, or keeps for the next `flush` what the other end has no room for."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._outgoing += _LENGTH.pack(len(data)) + data
        self.flush()

    def flush(self) -> bool:
        """Sends what was kept; True if nothing is left."""
        while self._outgoing and not self.closed:
            try:
                sent = self._socket.send(memoryview(self._outgoing)[:_CHUNK])
            except BlockingIOError:
                return False
            except OSError:
                self.closed = True
                break
            del self._outgoing[:sent]
        return True

    def send_all(self) -> None:
        """Waits until all is sent or the other end is gone."""
        while not self.flush():
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            poll.poll(1000)

    def receive(self) -> Iterator[Any]:
        """The messages that have arrived as a whole."""
        while not self.closed:
            try:
                data = self._socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
            self._incoming += data
            if len(data) < _CHUNK:
                break
        start = 0
        messages = []
        while len(self._incoming) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, start)
            end = start + _LENGTH.size + length
            if len(self._incoming) < end:
                break
            messages.append(pickle.loads(memoryview(self._incoming)[start + _LENGTH.size : end]))
            start = end
        if start:
            del self._incoming[:start]
        yield from messages

    def wait(self, seconds: float, *others: Any) -> bool:
        """Waits until something has arrived here or at one of `others`, or the other end is gone; False if the time ran out before.

        What was kept is sent meanwhile, as fast as the other end takes it.
        """
        until = time.monotonic() + seconds
        while not self.closed:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
            for readable in others:
                poll.register(readable, select.POLLIN)
            events = poll.poll(1000 * max(0.0, until - time.monotonic()))
            if any(event != select.POLLOUT for _, event in events):
                return True
            if not events:
                return False
            self.flush()
        return True

    def close(self) -> None:
        """Closes this end."""
        self.closed = True
        self._socket.close()
