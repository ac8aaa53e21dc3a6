"""Memory that processes share: whole versions of the weights, and words where there is no memory to be had."""

import os
import subprocess
import sys
from multiprocessing import get_context

import pytest
import torch

from veldt.data import Weights
from veldt.errors import ResourceError
from veldt.runtime.shared import Publication, SharedArena

SIZE = 100_000


def weights(version: int) -> Weights:
    return Weights((version,), {"a": torch.full((SIZE,), float(version)), "b": torch.full((3,), float(version))})


def publish_for_ever(publication: Publication) -> None:
    version = 1
    while True:
        publication.publish(weights(version))
        version += 1


def test_a_reader_gets_whole_versions_while_another_process_writes_and_after_it_was_killed_in_the_middle():
    publication = Publication(weights(0).tensors)
    publication.publish(weights(0))
    into, last, seen = publication.room(), 0, set()
    writer = get_context("spawn").Process(target=publish_for_ever, args=(publication,), daemon=True)
    writer.start()
    try:
        while len(seen) < 30:
            version = publication.read(into)
            assert all(bool((tensor == version).all()) for tensor in into.values())
            assert version >= last
            last = version
            seen.add(version)
    finally:
        writer.kill()  # most of its time it is copying
        writer.join()
    version = publication.read(into)
    assert version >= last
    assert all(bool((tensor == version).all()) for tensor in into.values())
    publication.publish(weights(version + 1))  # by whoever comes next
    assert publication.read(into) == version + 1


def test_a_reader_that_is_overtaken_twice_copies_again():
    publication = Publication(weights(0).tensors)
    publication.publish(weights(0))

    class Overtaken(dict):
        """Room to read into; two versions are published while it is first asked for a tensor."""

        asked = 0

        def __getitem__(self, name):
            self.asked += 1
            if self.asked == 2:
                publication.publish(weights(1))
                publication.publish(weights(2))
            return super().__getitem__(name)

    into = Overtaken(publication.room())
    assert publication.read(into) == 2
    assert into.asked == 4
    assert bool((dict(into)["a"] == 2).all())


def test_a_writer_that_dies_while_it_writes_leaves_the_version_before():
    publication = Publication(weights(0).tensors)
    publication.publish(weights(0))

    class Dies(dict):
        def __getitem__(self, name):
            if name == "b":
                raise KeyboardInterrupt
            return super().__getitem__(name)

    with pytest.raises(KeyboardInterrupt):
        publication.publish(Weights((1,), Dies(weights(1).tensors)))
    into = publication.room()
    assert publication.version == publication.read(into) == 0
    assert bool((into["a"] == 0).all())


NO_MEMORY = """
import resource
from veldt.errors import ResourceError
from veldt.runtime.shared import SharedArena
resource.setrlimit(resource.RLIMIT_{limit}, ({value}, {value}))
try:
    SharedArena().allocate(4 << 40)
except ResourceError as error:
    print(error)
"""


def refused(limit: str, value: str) -> str:
    program = NO_MEMORY.format(limit=limit, value=value)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return ran.stdout + ran.stderr


def test_memory_that_cannot_be_had_is_refused_in_words():
    said = refused("AS", "8 << 30")
    assert said.startswith(
        "cannot share 4,398,046.5 MB of memory between processes: Cannot allocate memory; a smaller --replay-steps"
    )
    said = refused("NOFILE", "3")
    assert "Too many open files; this process may open 3 files: ulimit -n raises that, or use --runtime inline" in said


def test_where_no_anonymous_memory_can_be_had_at_all_the_message_says_so(monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    with pytest.raises(
        ResourceError, match="Operation not permitted; this system gives no anonymous memory to share, or use --runtime inline"
    ):
        SharedArena().allocate(100)
