"""The metrics of a run: a tidy table, `step,update,wall_seconds,name,value`, and the same as TensorBoard events.

Steps are agent decisions, updates are optimiser steps. A row is written whole or cut off at the next opening; a run
that resumes from step s drops what came after s, so that the table has no gap and no row twice. A full disk delays
rows, it does not end the run. Refused: names that would break a line of the table.
"""

from __future__ import annotations

import contextlib
import csv
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from veldt.runs.files import Appender, replace_file

TRAIN_RETURN = "train/return"
EVAL_RETURN = "eval/return"

HEADER = "step,update,wall_seconds,name,value\n"


class Series(NamedTuple):
    """One metric over time: steps int64 [n], wall_seconds float64 [n] since the run began, values float64 [n]."""

    steps: np.ndarray
    wall_seconds: np.ndarray
    values: np.ndarray


class MetricsTable:
    """Appends to the metrics of one run: the table at `path`, and events in the folder `tensorboard` if given."""

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self.path = path
        self._events = _Events(tensorboard) if tensorboard else None
        if path.exists():
            _cut_torn_line(path)
        self._table = Appender(path)
        if path.stat().st_size == 0:
            self._table.write(HEADER.encode())

    @property
    def waiting_bytes(self) -> int:
        """What a full disk has not taken yet; it is kept and written as soon as there is room."""
        return self._table.waiting_bytes

    def write(self, step: int, update: int, wall_seconds: float, values: Mapping[str, float]) -> None:
        """Appends one row per value, and hands them to the operating system. `wall_seconds` since the run began."""
        rows = []
        for name, value in values.items():
            if any(character in name for character in ',"\r\n'):
                raise ValueError(f"a metric's name must do without commas, quotes and line breaks, got {name!r}")
            rows.append(f"{step},{update},{wall_seconds:.3f},{name},{float(value)!r}\n")
        self._table.write("".join(rows).encode())
        if self._events:
            self._events.write(step, values)

    def truncate_after(self, step: int) -> None:
        """Forgets what came after `step`, because the run resumes from there. TensorBoard is told to do the same."""
        self._table.close()
        replace_file(self.path, _rows_until(self.path, step))
        self._table = Appender(self.path)
        if self._events:
            self._events.purge_after(step)

    def sync(self) -> None:
        """Makes all rows durable. Call it before a checkpoint, which must not know more than the table."""
        self._table.sync()

    def close(self) -> None:
        """Writes what the disk takes and closes the files."""
        self._table.close()
        if self._events:
            self._events.close()


def read(path: Path) -> dict[str, Series]:
    """The metrics in the table at `path`, by name, in the order they were written. A torn last line is left out."""
    columns: dict[str, list[tuple[int, float, float]]] = {}
    for step, _, wall_seconds, name, value in csv.reader(line.decode() for line in _whole_rows(path)):
        columns.setdefault(name, []).append((int(step), float(wall_seconds), float(value)))
    return {name: _series(rows) for name, rows in columns.items()}


def _series(rows: list[tuple[int, float, float]]) -> Series:
    steps, wall_seconds, values = zip(*rows, strict=True)
    return Series(np.array(steps, np.int64), np.array(wall_seconds, np.float64), np.array(values, np.float64))


def _whole_rows(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        next(file, None)
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _rows_until(path: Path, step: int) -> Iterable[bytes]:
    yield HEADER.encode()
    lines: list[bytes] = []
    for line in _whole_rows(path):
        if int(line.split(b",", 1)[0]) <= step:
            lines.append(line)
        if len(lines) == 10_000:
            yield b"".join(lines)
            lines.clear()
    yield b"".join(lines)


def _cut_torn_line(path: Path) -> None:
    """Cuts off what a crash left of a last line."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept > 0:
            file.seek(kept - 1)
            if file.read(1) == b"\n":
                break
            kept -= 1
        if kept < end:
            file.truncate(kept)


class _Events:
    """TensorBoard's event file, written record by record without a thread; made at the first write.

    The package `tensorboard` is used directly, and imported lazily. A full disk delays events.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary=Summary(value=scalars))

    def purge_after(self, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def close(self) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _add(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"events.out.tfevents.{now:017.6f}.{os.getpid()}.veldt"
            self._writer = RecordWriter(Appender(path))
            self._writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        self._writer.write(Event(wall_time=now, **content).SerializeToString())
