"""The manifest of a checkpoint: what it holds, and how to know that it is undamaged.

`manifest.json` is `{"crc32": ..., "content": {schema, step, files: {name: [bytes, crc32]}}}`, where `crc32` is that of
the content, so that a flipped bit in the manifest itself is noticed too. Refused: a schema newer than ours.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from veldt.errors import RunFolderError
from veldt.runs.files import Written, measure, why_not, write_stream

MANIFEST = "manifest.json"
SCHEMA = 1


class Damaged(Exception):
    """A checkpoint that cannot be used, in words that begin with its name. Never leaves `veldt.runs`."""


class Manifest(NamedTuple):
    """The step a checkpoint was taken at, and its files as they were written."""

    step: int
    files: dict[str, Written]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest of the checkpoint in `folder`, synced."""
    content = {"schema": SCHEMA, "step": manifest.step, "files": manifest.files}
    text = json.dumps({"crc32": _crc32(content), "content": content}, indent=1)
    write_stream(folder / MANIFEST, [text.encode()])


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`. Raises `Damaged` without a whole one, `RunFolderError` for a schema newer than ours."""
    name = f"{folder.name}/{MANIFEST}"
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        content = document["content"]
        if document["crc32"] != _crc32(content):
            raise Damaged(f"{name} checksum mismatch")
    except FileNotFoundError:
        raise Damaged(f"{folder.name} incomplete") from None
    except OSError as error:
        raise Damaged(f"{name}: {why_not(error, folder)}") from error
    except (ValueError, KeyError, TypeError):
        raise Damaged(f"{name} unreadable") from None
    check_schema("checkpoint", content["schema"], SCHEMA)
    return Manifest(content["step"], {file: Written(*written) for file, written in content["files"].items()})


def check_schema(what: str, found: int, known: int) -> None:
    """Refuses a file that a newer Veldt has written."""
    if found > known:
        raise RunFolderError(f"{what} schema {found} is newer than {known}: upgrade veldt")


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Raises `Damaged` unless the file is in `folder` with the size and checksum of the manifest."""
    expected = manifest.files[name]
    try:
        found = measure(folder / name)
    except FileNotFoundError:
        raise Damaged(f"{folder.name} incomplete") from None
    except OSError as error:
        raise Damaged(f"{folder.name}/{name}: {why_not(error, folder)}") from error
    if found.size_bytes != expected.size_bytes:
        raise Damaged(f"{folder.name}/{name} truncated ({found.size_bytes} of {expected.size_bytes} bytes)")
    if found.crc32 != expected.crc32:
        raise Damaged(f"{folder.name}/{name} checksum mismatch")


def check_all(folder: Path, called: str | None = None) -> Manifest:
    """The manifest of the checkpoint in `folder`. Raises `Damaged` unless all its files are as they were written.

    called: its name, if the folder has another one for now.
    """
    try:
        manifest = read_manifest(folder)
        for name in manifest.files:
            check_file(folder, manifest, name)
    except Damaged as damage:
        raise Damaged(str(damage).replace(folder.name, called or folder.name)) from damage
    return manifest


def _crc32(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
