"""Memory that processes share: anonymous, so that nothing of it is left wherever and however they end.

On Linux it is a `memfd`, which no file system names and which the size of /dev/shm does not limit; elsewhere a file that is
unlinked at once. It goes to a new process by its descriptor, while that process is being started.

`Board` is a row of counters that one process writes and others read; `Publication` is the weights, copied and then flipped:
a reader gets one whole version, or the one before, and never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch

from veldt.data import Weights
from veldt.errors import ResourceError

ALIGNMENT = 64
"""Bytes: tensors in a buffer start at cache lines."""

_TRIES = 1000


def _anonymous_file(nbytes: int) -> int:
    """The descriptor of `nbytes` of zeros that have no name."""
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("veldt", os.MFD_CLOEXEC)
        else:
            descriptor, path = tempfile.mkstemp(prefix="veldt-")
            os.unlink(path)
        os.ftruncate(descriptor, nbytes)
    except OSError as error:
        raise _refused(nbytes, error) from error
    return descriptor


def _map(descriptor: int, nbytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor, max(nbytes, 1))
    except OSError as error:
        raise _refused(nbytes, error) from error


def _refused(nbytes: int, error: OSError) -> ResourceError:
    """What to tell the user who cannot have `nbytes` of shared memory."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    ways = {
        errno.EMFILE: f"this process may open {limit} files: ulimit -n raises that",
        errno.ENOMEM: "a smaller --replay-steps needs less (see also ulimit -v)",
        errno.ENOSPC: "a smaller --replay-steps needs less",
    }
    way = ways.get(error.errno or 0, "this system gives no anonymous memory to share")
    return ResourceError(
        f"cannot share {nbytes / 1e6:,.1f} MB of memory between processes: {error.strerror}; {way}, or use --runtime inline"
    )


class SharedArena:
    """A `core.Arena` whose pieces other processes see: those that it was sent to while they were being started."""

    def __init__(self) -> None:
        self._files: list[tuple[int, int]] = []
        self._given = 0

    def allocate(self, nbytes: int) -> np.ndarray:
        """uint8 [nbytes]; in a process that the arena was sent to, the next of the pieces it had then."""
        if self._given == len(self._files):
            self._files.append((_anonymous_file(nbytes), nbytes))
        descriptor, size = self._files[self._given]
        assert size == nbytes, "a copy of an arena must be asked for the same pieces in the same order"
        self._given += 1
        return np.frombuffer(_map(descriptor, nbytes), np.uint8, nbytes)

    def close(self) -> None:
        """Gives the descriptors back; arrays that were allocated stay."""
        for descriptor, _ in self._files:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._files = []

    def __getstate__(self) -> dict[str, Any]:
        return {"files": [(reduction.DupFd(descriptor), nbytes) for descriptor, nbytes in self._files]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._files = [(duplicate.detach(), nbytes) for duplicate, nbytes in state["files"]]
        self._given = 0

    def __del__(self) -> None:
        self.close()


class Board:
    """Named int64 counters, [len(names)], and as many more as workers have heartbeats. One writer for each counter."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._arena = SharedArena()
        self._open()

    def _open(self) -> None:
        self.values = self._arena.allocate(8 * len(self.names)).view(np.int64)
        self._places = {name: place for place, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> int:
        return int(self.values[self._places[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self.values[self._places[name]] = value

    def close(self) -> None:
        """Gives the memory's descriptor back."""
        self._arena.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"names": self.names, "arena": self._arena}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.names, self._arena = state["names"], state["arena"]
        self._open()


class Bell:
    """Wakes a process that waits. Whoever it was sent to may ring it; who is rung hears it until it is silenced."""

    def __init__(self) -> None:
        self._ears, self._hand = os.pipe()
        for end in (self._ears, self._hand):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """Never waits: a bell that is full rings already."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._hand, b"!")

    def silence(self) -> None:
        """Until the next ring."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._ears, 4096):
                pass

    def fileno(self) -> int:
        """What to wait on."""
        return self._ears

    def close(self) -> None:
        """Gives the descriptors back."""
        for end in (self._ears, self._hand):
            with contextlib.suppress(OSError):
                os.close(end)
        self._ears = self._hand = -1

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"ears": reduction.DupFd(self._ears), "hand": reduction.DupFd(self._hand)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._ears, self._hand = state["ears"].detach(), state["hand"].detach()


class Layout:
    """How named tensors lie in one buffer of bytes."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.nbytes = 0
        self._places: dict[str, tuple[int, int, tuple[int, ...], torch.dtype]] = {}
        for name, tensor in tensors.items():
            size = tensor.numel() * tensor.element_size()
            self._places[name] = self.nbytes, self.nbytes + size, tuple(tensor.shape), tensor.dtype
            self.nbytes += -(-size // ALIGNMENT) * ALIGNMENT

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors in a buffer, uint8 [nbytes]."""
        return {
            name: buffer[start:stop].view(dtype).reshape(shape) for name, (start, stop, shape, dtype) in self._places.items()
        }

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
        """A new buffer with a copy of `tensors`, which may be on another device."""
        buffer = torch.zeros(self.nbytes, dtype=torch.uint8)
        with torch.no_grad():
            for name, view in self.views(buffer).items():
                view.copy_(tensors[name])
        return buffer.numpy()


class Publication:
    """One version of the weights at a time, in two buffers: written beside the one that is read, then flipped.

    The stamp of a buffer is its version, and -1 while it is being written. A reader copies, and looks at the stamp again:
    it was overtaken by two whole publications if that changed, and copies anew. A writer that died while it wrote left the
    other buffer whole.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._layout = Layout(tensors)
        self._arena = SharedArena()
        self._open()
        self._header[:] = (0, -1, -1)

    def _open(self) -> None:
        self._header = self._arena.allocate(24).view(np.int64)  # which buffer is newest, and the stamps of both
        memories = (torch.from_numpy(self._arena.allocate(self._layout.nbytes)) for _ in range(2))
        self._buffers = [self._layout.views(memory) for memory in memories]
        self._fence = threading.Lock()

    @property
    def version(self) -> int:
        """The version published last; -1 before the first."""
        return int(self._header[1 + self._header[0]])

    def publish(self, weights: Weights) -> None:
        """Makes `weights` the version that readers get. For one writer."""
        other = 1 - int(self._header[0])
        self._stamp(other, -1)
        with torch.no_grad():
            torch._foreach_copy_(list(self._buffers[other].values()), [weights.tensors[name] for name in self._buffers[other]])
        self._stamp(other, weights.version)
        self._header[0] = other

    def read(self, into: dict[str, torch.Tensor]) -> int:
        """Copies the newest version `into` tensors of the same names and shapes; its number."""
        for _ in range(_TRIES):
            newest = int(self._header[0])
            version = self._stamped(newest)
            with torch.no_grad():
                torch._foreach_copy_([into[name] for name in self._buffers[newest]], list(self._buffers[newest].values()))
            if version >= 0 and self._stamped(newest) == version:
                return version
        raise RuntimeError("the weights change faster than they can be copied")

    def room(self) -> dict[str, torch.Tensor]:
        """Private tensors to read into."""
        return self._layout.views(torch.empty(self._layout.nbytes, dtype=torch.uint8))

    def _stamp(self, buffer: int, version: int) -> None:
        with self._fence:  # a lock orders memory: no write passes the stamp on any processor
            self._header[1 + buffer] = version
        with self._fence:
            pass

    def _stamped(self, buffer: int) -> int:
        with self._fence:
            found = int(self._header[1 + buffer])
        with self._fence:
            return found

    def close(self) -> None:
        """Gives the memory's descriptors back."""
        self._arena.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"layout": self._layout, "arena": self._arena}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._layout, self._arena = state["layout"], state["arena"]
        self._open()
